"""The four loops on tiny models, each in a process of its own that kills itself (SIGKILL) at a chosen moment."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.tiny import END, tiny_gpt2, tiny_tokenizer
from tests.training.interrupting import quiet
from tests.training.test_reward import likes_sevens

from heedful.model import saving, scalar_model_from_causal
from heedful.model.encoding import Example
from heedful.training import ppo, pretrain, reward, sft
from heedful.training.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from heedful.training.pretraining_text import PretrainingText
from heedful.training.run import Run

# A checkpoint after every step; the same bits are asked for in float32 only.
COMMON: dict[str, Any] = {"precision": "float32", "checkpoint_seconds": 1e-9, "learning_rate": 3e-3, "validate_every": 2}
EXAMPLES = [Example([40, i, 41], [i, i + 1, END]) for i in range(1, 25)]


def text() -> PretrainingText:
    rows = [[50 + i % 10, 1 + i % 49, 5, END] for i in range(60)]
    return PretrainingText(np.array([*chain(*rows)], dtype=np.int32), np.arange(0, 241, 4))


def scalar_model(seed: int) -> Any:
    torch.manual_seed(seed)
    return scalar_model_from_causal(tiny_gpt2(seed, scale=0.2), pad_token_id=None, eos_token_id=END)


def run_pretrain(folder: Path) -> None:
    config = PretrainConfig(**COMMON, num_tokens=600, batch_tokens=100, context_length=24, shortest_context=8)
    pretrain.train_pretrain(tiny_gpt2(), tiny_tokenizer(), text(), config, folder, validation=text(), console=quiet())


def run_sft(folder: Path) -> None:
    config = SFTConfig(**COMMON, epochs=2, batch_size=8, candidates=2, residual_dropout=0.2, pretraining_share=0.2)
    more: dict[str, Any] = {"pretraining": text(), "pretraining_validation": text(), "context_length": 8}
    sft.train_sft(tiny_gpt2(), tiny_tokenizer(), sft.SFTData(EXAMPLES, EXAMPLES, **more), config, folder, console=quiet())


def run_reward(folder: Path) -> None:
    config = RewardConfig(**COMMON, batch_size=4)
    more: dict[str, Any] = {"validation": likes_sevens(4, seed=1), "demonstrations": EXAMPLES}
    reward.train_reward(scalar_model(1), tiny_tokenizer(), likes_sevens(24), config, folder, console=quiet(), **more)


def run_ppo(folder: Path, **more_settings: Any) -> None:
    config = PPOConfig(
        **COMMON,
        **more_settings,
        episodes=32,
        batch_size=8,
        minibatches=2,
        inner_epochs=2,
        max_response_tokens=5,
        ptx_coefficient=2.0,
        ptx_examples_per_episode=1,
        ptx_context_length=8,
        average_decay=0.5,
        keep_best=True,
        samples_every=1,
    )
    prompts = [[8 + i, 9] for i in range(11)]
    data = ppo.PPOData(prompts, text(), validation=prompts[:6])
    ppo.train_ppo(tiny_gpt2(2, scale=0.1), scalar_model(5), tiny_tokenizer(), data, config, folder, console=quiet())


LOOPS: dict[str, Callable[[Path], None]] = {
    "pretrain": run_pretrain,
    "sft": run_sft,
    "reward": run_reward,
    "ppo": run_ppo,
    "ppo with adapters": partial(run_ppo, lora_rank=3),
}


class Moments:
    """Counts the moments at which a run can be killed: before and after each step, line and call that changes the disk."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.count = kill_at, 0

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.pass_one()
            result = function(*args, **kwargs)
            self.pass_one()
            return result

        setattr(owner, name, wrapper)

    def watch_saving(self) -> None:
        """A kill in the middle of a checkpoint leaves the first part of its file."""
        save = torch.save

        def in_two_parts(state: Any, file: Any) -> None:
            whole = io.BytesIO()
            save(state, whole)
            for part in (whole.getvalue()[:1_000], whole.getvalue()[1_000:]):
                file.write(part)
                file.flush()
                self.pass_one()

        torch.save = in_two_parts


def run(loop: str, folder: str, kill_at: int | None) -> None:
    """Train to the end, or be killed at the ``kill_at``-th moment. The number of moments is left beside the folder."""
    torch.set_num_threads(1)
    moments = Moments(kill_at)
    for module in (pretrain, sft, reward, ppo):
        moments.watch(module, "apply_gradients")
    moments.watch(Run, "log")
    moments.watch(saving, "_exchange")
    for name in ("fsync", "rename", "replace", "truncate", "unlink", "rmdir"):
        moments.watch(os, name)
    moments.watch(shutil, "rmtree")
    moments.watch_saving()
    LOOPS[loop](Path(folder))
    Path(f"{folder}.moments").write_text(str(moments.count))
