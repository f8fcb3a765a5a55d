"""PPO episodes per second against TRL's last PPOTrainer, and what pretraining gradients add: ``python bench/ppo.py --help``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from _driver import Case, Contender, measure, options, trl, write as write_result
from _workload import SIZES, Size, examples, prompts, save_models, write

BATCH, MINIBATCHES, MAX_TOKENS = 64, 4, 64
PTX_EXAMPLES = 8  # pretraining sequences for each episode (the paper's)
STEPS = {"XS": (1, 1), "S": (1, 3), "M": (1, 2)}
"""Warm-up iterations and counted iterations of a run."""
COMMON = {"gradient_checkpointing": False}
BEST = {
    "bf16": COMMON | {"bf16": True},
    "fp32": COMMON | {"bf16": False},
    "bf16 weights": COMMON | {"bf16": False, "weights": "bfloat16"},
    "bf16, static cache": COMMON | {"bf16": True, "cache": "static"},
}


def main() -> None:
    chosen = options("ppo")
    result = measure("ppo", "PPO against TRL's last PPOTrainer", cases(chosen), chosen)
    result["extra"] = {}
    for size in chosen.sizes:
        seconds = {
            c["label"]: median(c["contenders"]["Heedful"]["seconds"]) / c["contenders"]["Heedful"]["details"]["steps"]
            for c in result["cases"]
            if c["size"] == size
        }
        if "with ptx" in seconds:
            added = seconds["with ptx"] - seconds["plain"]
            same = seconds["the same text in sft"] * MINIBATCHES
            result["extra"][f"{size}: time that ptx adds over the time of the same tokens in sft"] = added / same
    write_result(result, chosen.out)


def cases(chosen: Namespace) -> Iterator[Case]:
    for name in chosen.sizes:
        warmup, steps = STEPS[name] if not chosen.quick else (1, 1)
        max_tokens = 16 if chosen.quick else MAX_TOKENS
        shared = {"do": "ppo", "warmup": warmup, "steps": steps, "batch_size": BATCH, "minibatches": MINIBATCHES}
        shared |= {"max_tokens": max_tokens}
        requests = {"default": shared | {"settings": {}, "allocator": False}} | {
            label: shared | {"settings": settings, "allocator": True} for label, settings in BEST.items()
        }
        contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", shared | {"ptx": False})]
        contenders += trl("TRL", requests, script="_worker_trl_ppo.py", environment="trl-ppo", chosen=chosen)
        prepare = partial(_prepare, SIZES[name])
        yield Case(
            size=name,
            label="plain",
            unit="episodes/s",
            contenders=contenders,
            prepare=prepare,
            work=lambda _, work=BATCH * steps: work,
            agree={"loss_before": 0.05, "score_before": 0.05},
        )
        if name != "M":
            yield Case(
                size=name,
                label="with ptx",
                unit="episodes/s",
                contenders=[Contender("Heedful", "heedful", "_worker_heedful.py", shared | {"ptx": True})],
                prepare=prepare,
                work=lambda _, work=BATCH * steps: work,
            )
            sequences = PTX_EXAMPLES * BATCH // MINIBATCHES
            request = {"do": "ptx_sft", "warmup": MINIBATCHES, "steps": MINIBATCHES * steps, "batch_size": sequences}
            yield Case(
                size=name,
                label="the same text in sft",
                unit="sequences/s",
                contenders=[Contender("Heedful", "heedful", "_worker_heedful.py", request)],
                prepare=prepare,
                work=lambda _, work=sequences * MINIBATCHES * steps: work,
            )


def _prepare(size: Size, folder: Path) -> None:
    save_models(size, folder)
    write(folder, prompts=prompts(1_024), examples=examples(8))


if __name__ == "__main__":
    main()
