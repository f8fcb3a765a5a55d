"""Heedful's side of training, through its public functions. Also measures the machine's own bf16 matmul rate.

``python bench/_worker_heedful.py FOLDER``: FOLDER holds the models and the data (see ``_workload``).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoTokenizer

from _worker import Timing, serve
from heedful.model import load_causal_model, load_scalar_model
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import first_device
from heedful.training import ppo, reward, sft
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig
from heedful.training.pretraining_text import PretrainingText

FOLDER = Path(sys.argv[1])
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER / "policy")
QUIET = Console(quiet=True)
# Constant, and the same as the other side's: after the same steps the losses should be close.
SFT_RATE: dict[str, Any] = {"learning_rate": 1e-4, "final_learning_rate_share": 1.0}
REWARD_RATE: dict[str, Any] = {"learning_rate": 1e-5, "final_learning_rate_share": 1.0}
NEVER = 1e9  # seconds: neither side writes a checkpoint during the timed part


def run_sft(steps: int, batch_size: int) -> dict[str, Any]:
    rows, check = ([Example(**row) for row in read(name)] for name in ("examples", "check"))
    rows = rows[: steps * batch_size]
    model = on_device(load_causal_model(FOLDER / "policy"))
    config = SFTConfig(
        epochs=1, batch_size=batch_size, residual_dropout=0.0, candidates=1, checkpoint_seconds=NEVER, **SFT_RATE
    )
    before = sft.demonstration_loss(model, check)
    with tempfile.TemporaryDirectory() as folder, timed(sft) as timing:
        sft.train_sft(model, TOKENIZER, sft.SFTData(rows, rows[:2]), config, Path(folder), console=QUIET)
    result = timing.result(steps)
    return result | {"loss_before": before, "loss_after": sft.demonstration_loss(model, check)}


def _names(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple([str(k) for k in range(len(row["responses"]))])


def _rankings(name: str) -> list[RankedPrompt]:
    return [
        RankedPrompt(str(i), _names(row), row["prompt"], row["responses"], ("labeler",), (tuple(row["ranks"]),))
        for i, row in enumerate(read(name))
    ]


def run_reward(steps: int, batch_size: int) -> dict[str, Any]:
    rows, check = _rankings("rankings")[: steps * batch_size], _rankings("check")
    model = on_device(load_scalar_model(FOLDER / "reward"))
    config = RewardConfig(batch_size=batch_size, checkpoint_seconds=NEVER, **REWARD_RATE)
    before, _ = reward.ranking_quality(model, check, config.tokens_per_microbatch)
    with tempfile.TemporaryDirectory() as folder, timed(reward) as timing:
        reward.train_reward(model, TOKENIZER, rows, config, Path(folder), validation=[], demonstrations=[], console=QUIET)
    result = timing.result(steps)
    after, _ = reward.ranking_quality(model, check, config.tokens_per_microbatch)
    return result | {"loss_before": before, "loss_after": after}


def run_ppo(steps: int, batch_size: int, minibatches: int, max_tokens: int, ptx: int, ptx_tokens: int) -> dict[str, Any]:
    policy, judge = (on_device(model) for model in (load_causal_model(FOLDER / "policy"), load_scalar_model(FOLDER / "reward")))
    check = [Example(**row) for row in read("examples")][:8]
    result: dict[str, Any] = {
        "loss_before": sft.demonstration_loss(policy, check),
        "score_before": float(reward.score(judge, [c.prompt for c in check], [c.response for c in check]).mean()),
    }
    config = PPOConfig(
        episodes=batch_size * steps,
        batch_size=batch_size,
        minibatches=minibatches,
        ptx_coefficient=27.8 if ptx else 0.0,
        ptx_examples_per_episode=max(1, ptx),
        ptx_context_length=ptx_tokens,
        max_response_tokens=max_tokens,
        samples_every=10**9,
        checkpoint_seconds=NEVER,
    )
    text = pretraining_text(ptx_tokens) if ptx else None
    parts = Parts(generation="respond", scoring="judge", optimiser="apply_gradients")
    updates: list[int] = []
    with tempfile.TemporaryDirectory() as folder, parts.measured(ppo), timed(ppo, after=parts.next) as timing:
        counter = register_optimizer_step_post_hook(lambda *_: updates.append(1))
        ppo.train_ppo(policy, judge, TOKENIZER, ppo.PPOData(read("prompts"), text), config, Path(folder), console=QUIET)
        counter.remove()
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    result |= timing.result(steps)
    result["parts"] = parts.total(range(steps), result["seconds"])
    result["optimiser_steps"] = len(updates) // 2  # one each for the policy and the value function
    result["response_tokens"] = sum(row["length"] for row in rows) / steps
    return result


def run_ptx_sft(steps: int, batch_size: int, tokens: int) -> dict[str, Any]:
    """The sequences of :func:`pretraining_text` as training text for ``sft``."""
    text = pretraining_text(tokens)
    rng = np.random.default_rng(0)
    rows: list[Example] = []
    while len(rows) < steps * batch_size:
        rows += [Example(s[:1].tolist(), s[1:].tolist()) for s in text.sequences(context_length=tokens, rng=rng)]
    rows = rows[: steps * batch_size]
    model = on_device(load_causal_model(FOLDER / "policy"))
    config = SFTConfig(epochs=1, batch_size=batch_size, residual_dropout=0.0, candidates=1, checkpoint_seconds=NEVER)
    with tempfile.TemporaryDirectory() as folder, timed(sft) as timing:
        sft.train_sft(model, TOKENIZER, sft.SFTData(rows, rows[:2]), config, Path(folder), console=QUIET)
    return timing.result(steps)


def run_matmul() -> dict[str, Any]:
    """The best rate of a square bf16 matrix product over several sizes, FLOP/s."""
    best: dict[str, float] = {}
    device = first_device()
    for n in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
        rates: list[float] = []
        begin = time.perf_counter()
        while len(rates) < 5 or time.perf_counter() - begin < 0.5:
            wait_for_gpu()
            start = time.perf_counter()
            torch.mm(a, b)
            wait_for_gpu()
            rates.append(2 * n**3 / (time.perf_counter() - start))
        best[str(n)] = float(np.median(rates))
    return {"flop_per_second": max(best.values()), "by_size": best}


def pretraining_text(length: int) -> PretrainingText:
    """Documents of ``length`` random tokens."""
    tokens = np.random.default_rng(7).integers(2, 8_192, (2_048, length)).astype(np.int32)
    return PretrainingText(tokens.reshape(-1), np.arange(0, 2_048 * length + 1, length))


def on_device(model: Any) -> Any:
    """The model on the first GPU, if there is one."""
    return model.to(first_device())


def wait_for_gpu() -> None:
    """A GPU works behind the program: what it still has to do is part of the time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@contextmanager
def timed(module: Any, after: Callable[[], None] | None = None):
    """A Timing that begins with a loop's progress bar and ends a step (PPO: an iteration) when the loop logs it."""
    timing = Timing()
    log, progress = module.Run.log, module.Run.progress

    def begun(run: Any, *args: Any, **kwargs: Any) -> Any:
        timing.begin()
        return progress(run, *args, **kwargs)

    def stamped(run: Any, step: int, metrics: Any) -> None:
        log(run, step, metrics)
        if "loss" in metrics or "reward" in metrics:
            wait_for_gpu()
            timing.end(step)
            if after is not None:
                after()

    module.Run.log, module.Run.progress = stamped, begun
    try:
        yield timing
    finally:
        module.Run.log, module.Run.progress = log, progress


class Parts:
    """Seconds spent in some functions of a module, for each iteration; functions that the module lacks are left out."""

    def __init__(self, **functions: str) -> None:
        self.functions = functions
        self.rows: list[dict[str, float]] = [{}]

    def next(self) -> None:
        self.rows.append({})

    @contextmanager
    def measured(self, module: Any):
        found = {part: getattr(module, name) for part, name in self.functions.items() if hasattr(module, name)}
        for part, function in found.items():
            setattr(module, self.functions[part], self._wrapped(part, function))
        try:
            yield
        finally:
            for part, function in found.items():
                setattr(module, self.functions[part], function)

    def total(self, iterations: range, seconds: float) -> dict[str, float]:
        """Seconds by part over some iterations; ``rest`` is all other time (the updates' forward and backward)."""
        sums: dict[str, float] = {}
        for i in iterations:
            for part, value in self.rows[i].items():
                sums[part] = sums.get(part, 0.0) + value
        return sums | {"rest": seconds - sum(sums.values())}

    def _wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            wait_for_gpu()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait_for_gpu()
                self.rows[-1][part] = self.rows[-1].get(part, 0.0) + time.perf_counter() - start

        return call


if __name__ == "__main__":
    keep_large_temporaries()  # as `heedful align` does
    serve(
        {
            "sft": run_sft,
            "reward": run_reward,
            "ppo": run_ppo,
            "ptx_sft": run_ptx_sft,
            "matmul": run_matmul,
        }
    )
