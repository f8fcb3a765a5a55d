"""All training loops on tiny models, as one rank of several: each rank is a process of its own, joined as by ``torchrun``.

``python -m tests.training.ranks FOLDER`` is the program that the test of torchrun's own restarts starts.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import FAMILIES, largest_difference, parameter_gradients, snapshot, tiny_gpt2, tiny_llama, tiny_tokenizer
from tests.training.interrupting import interrupted_at, quiet
from tests.training.killed import EXAMPLES, scalar_model, text
from tests.training.test_reward import likes_sevens
from transformers import PreTrainedModel

from heedful.functional import chunked_token_logprobs
from heedful.model import pack, packed_hidden
from heedful.model.dropout import set_residual_dropout
from heedful.model.encoding import Example
from heedful.model.loading import unembedding
from heedful.model.precision import frozen
from heedful.model.saving import save_model
from heedful.ranks.rank_zero import on_rank_zero
from heedful.training import dpo, expert_iteration, ppo, pretrain, reward, sft
from heedful.training.alternatives_config import DPOConfig, ExpertIterationConfig
from heedful.training.cloning import preferred_examples
from heedful.training.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from heedful.training.sharding import for_generation, master_weights, whole, whole_tensor

STEPS = 10
COMMON: dict[str, Any] = {
    "precision": "float32",
    "checkpoint_seconds": 1e-9,
    "learning_rate": 1e-3,
    "validate_every": 3,
    "tokens_per_microbatch": 40,
}


def run_pretrain(folder: Path, **changed: Any) -> None:
    settings = {**COMMON, "num_tokens": 60 * STEPS, "batch_tokens": 60, "context_length": 24, "shortest_context": 8, **changed}
    # Llama: a head of its own, which is not the embedding.
    model = tiny_llama()
    pretrain.train_pretrain(
        model, tiny_tokenizer(), text(), PretrainConfig(**settings), folder, validation=text(), console=quiet()
    )


def run_sft(folder: Path, **changed: Any) -> None:
    settings = {**COMMON, "epochs": 2, "batch_size": 5, "candidates": 1, "residual_dropout": 0.0, "pretraining_share": 0.2}
    more: dict[str, Any] = {"pretraining": text(), "pretraining_validation": text(), "context_length": 8}
    config = SFTConfig(**{**settings, **changed})
    sft.train_sft(tiny_gpt2(), tiny_tokenizer(), sft.SFTData(EXAMPLES, EXAMPLES, **more), config, folder, console=quiet())


def run_reward(folder: Path, **changed: Any) -> None:
    config = RewardConfig(**{**COMMON, "batch_size": 3, **changed})
    rankings = likes_sevens(28)  # the last batch has one prompt: a rank without any
    more: dict[str, Any] = {"validation": likes_sevens(5, seed=1), "demonstrations": EXAMPLES}
    reward.train_reward(scalar_model(1), tiny_tokenizer(), rankings, config, folder, console=quiet(), **more)


def run_fitted_reward(folder: Path, **changed: Any) -> None:
    run_reward(folder, fit_head=True, trained_layers=1, **changed)


def run_ppo(folder: Path, **changed: Any) -> None:
    settings: dict[str, Any] = {
        **COMMON,
        "episodes": 6 * STEPS,
        "batch_size": 6,
        "minibatches": 2,
        "max_response_tokens": 5,
        "ptx_coefficient": 2.0,
        "ptx_examples_per_episode": 1,
        "ptx_context_length": 8,
        "average_decay": 0.5,
        "keep_best": True,
        "samples_every": 1,
        "warmup_iterations": 0,
    }
    prompts = [[8 + i, 9, 3][: 1 + i % 3] for i in range(11)]
    data = ppo.PPOData(prompts, text(), validation=prompts[:5])
    config = PPOConfig(**{**settings, **changed})
    ppo.train_ppo(tiny_gpt2(2, scale=0.1), scalar_model(5), tiny_tokenizer(), data, config, folder, console=quiet())


def run_dpo(folder: Path, **changed: Any) -> None:
    settings: dict[str, Any] = {**COMMON, "batch_size": 3, "beta": 0.5, "tie_threshold": 0.7, **changed}
    rankings = likes_sevens(28)  # the last batch has one prompt: a rank without any
    validation = likes_sevens(5, seed=1)
    dpo.train_dpo(
        tiny_gpt2(), tiny_tokenizer(), rankings, DPOConfig(**settings), folder, validation=validation, console=quiet()
    )


def run_cloning(folder: Path, **changed: Any) -> None:
    """As the stage of that name does it: SFT on the answers that people preferred."""
    settings: dict[str, Any] = {**COMMON, "epochs": 2, "batch_size": 5, "candidates": 1, "residual_dropout": 0.0, **changed}
    data = sft.SFTData(preferred_examples(likes_sevens(24)), preferred_examples(likes_sevens(5, seed=1)))
    sft.train_sft(tiny_gpt2(), tiny_tokenizer(), data, SFTConfig(**settings), folder, console=quiet())


def run_expert_iteration(folder: Path, **changed: Any) -> None:
    settings: dict[str, Any] = {**COMMON, "rounds": 3, "prompts": 7, "samples": 8, "batch_size": 3, "max_response_tokens": 40}
    start = folder.with_name(f"{folder.name}.start")
    on_rank_zero(lambda: save_model(tiny_gpt2(scale=0.1), tiny_tokenizer(), start))
    prompts = [[8 + i, 9, 3][: 1 + i % 3] for i in range(11)]
    expert_iteration.train_expert_iteration(
        start,
        frozen(scalar_model(5), "float32"),
        tiny_tokenizer(),
        prompts,
        ExpertIterationConfig(**{**settings, **changed}),
        folder,
        console=quiet(),
    )


def compare_families(folder: Path) -> None:
    """Every family's gradients on two ranks, and its weights gathered again, against the model in one process."""
    batch, config = EXAMPLES[:7], SFTConfig(**COMMON, activation_checkpointing=True)
    for family in FAMILIES:
        model = family()
        set_residual_dropout(model, 0.0)
        model.train()
        before = snapshot(model)
        total = sum(len(e.response) for e in batch)
        loss = -token_logprobs(model, batch).sum() / total
        loss.backward()
        expected = parameter_gradients(model)
        model.zero_grad()
        weights = master_weights(model, config)
        weights.train()
        assert sft.accumulate_gradients(weights, batch, config) == pytest.approx(float(loss.detach()), abs=1e-5), (
            family.__name__
        )
        gradients = {name: whole_tensor(gradient) for name, gradient in parameter_gradients(model).items()}
        assert largest_difference(gradients, expected) < 1e-4, family.__name__
        for gathered in (whole(model), for_generation(weights, "float32")):
            if gathered is not None:
                assert largest_difference(snapshot(gathered), before) == 0.0, family.__name__
                assert float(-token_logprobs(gathered, batch).sum() / total) == pytest.approx(float(loss.detach()), abs=1e-5)


def train_and_leave(folder: Path) -> None:
    """No thread of the ranks' connections is there when Python ends."""
    run_sft(folder)
    assert any("gloo" in name for name in thread_names())
    atexit._run_exitfuncs()
    assert not any("gloo" in name for name in thread_names()), thread_names()


def thread_names() -> list[str]:
    return [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]


def token_logprobs(model: PreTrainedModel, batch: Sequence[Example]) -> torch.Tensor:
    packed = pack([e.prompt for e in batch], [e.response for e in batch])
    hidden = packed_hidden(model, packed).index_select(0, packed.predict_from)
    return chunked_token_logprobs(hidden, unembedding(model), packed.targets)


LOOPS: dict[str, Callable[..., None]] = {
    "pretrain": run_pretrain,
    "sft": run_sft,
    "reward": run_reward,
    "fitted_reward": run_fitted_reward,
    "ppo": run_ppo,
    "dpo": run_dpo,
    "cloning": run_cloning,
    "expert_iteration": run_expert_iteration,
}
OTHERS: dict[str, Callable[..., None]] = {"families": compare_families, "leaving": train_and_leave}
MODULES: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "reward": reward, "fitted_reward": reward, "ppo": ppo, "dpo": dpo}
"""Where a loop takes its optimiser steps: cloning and expert iteration take SFT's."""


def work(loop: str, folder: str, rank: int, size: int, port: int, stop_at: int | None, lose: bool, changed: Any) -> None:
    """One rank: train to the end, or stop at the ``stop_at``-th optimiser step: all together, or (lose) the last is killed.

    What it ended with is left in ``FOLDER.rank-N``.
    """
    torch.set_num_threads(1)
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if stop_at is not None:
        module = MODULES.get(loop, sft)
        if not lose:
            module.apply_gradients = interrupted_at(stop_at, module.apply_gradients)
        elif rank == size - 1:
            module.apply_gradients = killed_at(stop_at, module.apply_gradients)
    end = "done"
    try:
        (LOOPS | OTHERS)[loop](Path(folder), **changed)
    except KeyboardInterrupt:
        end = "interrupted"
    except BaseException as error:
        end = "".join(traceback.format_exception(error)) + f"\n{type(error).__name__}: {error}"
    Path(f"{folder}.rank-{rank}").write_text(end)
    if end != "done":
        os._exit(1)  # at once, as a process that is lost: no farewell to the other ranks


def killed_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its ``call``-th call (from 1) kills the process instead."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapper


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        sft.apply_gradients = killed_at(5, sft.apply_gradients)
    run_sft(Path(sys.argv[1]))
