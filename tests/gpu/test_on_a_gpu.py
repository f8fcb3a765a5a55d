"""What must hold on a GPU as on a CPU: the same numbers, and loops that run to the end. `make gpu` runs these.

HEEDFUL_GPU_TESTS=cpu runs them without a GPU, which shows only that they are written right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import END, FAMILIES, VOCABULARY, largest_difference, plain, snapshot, tiny_gpt2, tiny_llama, tiny_tokenizer
from tests.training.interrupting import quiet
from transformers import PreTrainedModel

from heedful.model import Sampling, generate, pack, packed_hidden, scalar_model_from_causal
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.inference import first_device
from heedful.model.readout import scalars, target_logprobs
from heedful.training import ppo, reward, sft
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig

ON_CPU = os.environ.get("HEEDFUL_GPU_TESTS") == "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() or ON_CPU), reason="no GPU (HEEDFUL_GPU_TESTS=cpu runs them on a CPU)"),
]
DEVICE = first_device()
TOKENIZER = tiny_tokenizer()
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(1, VOCABULARY, RNG.integers(2, 12)).tolist() for _ in range(12)]
RESPONSES = [[*RNG.integers(1, VOCABULARY, RNG.integers(1, 9)).tolist(), END] for _ in range(12)]
EXAMPLES = [Example(prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
QUICK: dict[str, Any] = {"precision": "float32", "learning_rate": 1e-3}


def here(model: PreTrainedModel) -> PreTrainedModel:
    return model.to(DEVICE)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def exact_products() -> None:
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_are_those_of_plain_transformers_on_the_cpu(family: Callable[[], PreTrainedModel]) -> None:
    model = family()
    batch = pack(PROMPTS[:5], RESPONSES[:5])
    found = target_logprobs(here(model), batch.to(DEVICE)).cpu()
    twin, expected = plain(model).cpu(), []
    for prompt, response in zip(PROMPTS[:5], RESPONSES[:5], strict=True):
        logits = twin(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        expected += logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0].tolist()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_engine_writes_what_plain_transformers_writes(make: Callable[[], PreTrainedModel]) -> None:
    model = here(make())
    found = generate(model, PROMPTS, Sampling(max_tokens=8, temperature=0.0), [0] * len(PROMPTS))
    twin = plain(model).cpu()
    for prompt, generation in zip(PROMPTS, found, strict=True):
        tokens = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                tokens.append(int(twin(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert generation.tokens == tokens[len(prompt) :]
    alone = generate(model, PROMPTS[:1], Sampling(max_tokens=8), [7])
    together = generate(model, PROMPTS[:3], Sampling(max_tokens=8), [7, 8, 9])
    assert together[0].tokens == alone[0].tokens


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sft_learns(precision: Any, tmp_path: Path) -> None:
    model = here(tiny_llama(scale=0.1))
    before = sft.demonstration_loss(model, EXAMPLES)
    config = SFTConfig(epochs=12, batch_size=4, candidates=1, residual_dropout=0.0, precision=precision, learning_rate=3e-3)
    sft.train_sft(model, TOKENIZER, sft.SFTData(EXAMPLES, EXAMPLES[:2]), config, tmp_path, console=quiet())
    assert sft.demonstration_loss(model, EXAMPLES) < before - 0.3


def test_a_step_on_a_gpu_is_that_on_the_cpu(tmp_path: Path) -> None:
    trained = {}
    for device in ("cpu", DEVICE):
        model = tiny_llama().to(device)  # pyright: ignore[reportArgumentType]
        config = SFTConfig(**QUICK, epochs=1, batch_size=4, candidates=1, residual_dropout=0.0)
        folder = tmp_path / str(device).replace(":", "-")
        sft.train_sft(model, TOKENIZER, sft.SFTData(EXAMPLES, EXAMPLES[:2]), config, folder, console=quiet())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        trained[str(device)] = [row["loss"] for row in rows if "loss" in row]
    first, *others = trained.values()
    for losses in others:
        np.testing.assert_allclose(losses, first, rtol=0, atol=1e-4)


def test_the_reward_model_learns(tmp_path: Path) -> None:
    model = here(scalar_model_from_causal(tiny_gpt2(1, scale=0.1), pad_token_id=None, eos_token_id=END))
    rankings = [
        RankedPrompt(str(i), ("0", "1", "2"), prompt, [[7, END], [8, END], [9, END]], ("labeler",), ((1, 2, 3),))
        for i, prompt in enumerate(PROMPTS)
    ]
    config = RewardConfig(**{**QUICK, "learning_rate": 3e-3}, batch_size=4)
    before, _ = reward.ranking_quality(model, rankings, config.tokens_per_microbatch)
    reward.train_reward(model, TOKENIZER, rankings, config, tmp_path, validation=[], demonstrations=[], console=quiet())
    after, _ = reward.ranking_quality(model, rankings, config.tokens_per_microbatch)
    assert after < before - 0.1


def test_ppo_runs(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"ptx_coefficient": 0.0, "max_response_tokens": 5, "average_decay": 0.5}
    config = PPOConfig(**QUICK, **limits, episodes=16, batch_size=8, minibatches=2)
    judge = here(scalar_model_from_causal(tiny_gpt2(5), pad_token_id=None, eos_token_id=END))
    policy = here(tiny_gpt2(scale=0.1))
    before = {name: tensor.cpu() for name, tensor in snapshot(policy).items()}
    trained = ppo.train_ppo(policy, judge, TOKENIZER, ppo.PPOData(PROMPTS), config, tmp_path, console=quiet())
    after = {name: tensor.cpu() for name, tensor in snapshot(trained).items()}
    assert largest_difference(after, before) > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(np.isfinite(row["reward"]) for row in rows)
    assert abs(rows[0]["kl"]) < 1e-3


@torch.no_grad()
def test_scores_are_those_on_the_cpu() -> None:
    model = scalar_model_from_causal(tiny_llama(5), pad_token_id=None, eos_token_id=END)
    batch = pack(PROMPTS, RESPONSES)
    expected = scalars(model, batch, batch.last)
    moved = batch.to(DEVICE)
    np.testing.assert_allclose(scalars(here(model), moved, moved.last).cpu(), expected, rtol=0, atol=1e-4)


def test_hidden_states_of_a_long_row_do_not_depend_on_their_neighbours() -> None:
    model = here(tiny_llama())
    with torch.no_grad():
        together = packed_hidden(model, pack(PROMPTS, RESPONSES).to(DEVICE))
        alone = packed_hidden(model, pack(PROMPTS[:1], RESPONSES[:1]).to(DEVICE))
    np.testing.assert_allclose(together[: len(alone)].cpu(), alone.cpu(), rtol=0, atol=1e-4)
