"""SFT tokens per second against TRL's SFTTrainer: ``python bench/sft.py --help``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _workload import SIZES, Size, examples, save_models, sft_flop, write

BATCH, CHECK = 32, 8
STEPS = {"XS": 3, "S": 12, "M": 5}
"""Optimiser steps of a run."""
COMMON = {"bf16": True, "gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
BEST = {
    "bf16, grouped, batch 32": COMMON | {"per_device_train_batch_size": 32},
    "bf16, grouped, batch 8": COMMON | {"per_device_train_batch_size": 8},
    "fp32, grouped, batch 32": COMMON | {"per_device_train_batch_size": 32, "bf16": False},
    "bf16, padding-free, batch 32": COMMON | {"per_device_train_batch_size": 32, "padding_free": True, "max_length": None},
}


def main() -> None:
    chosen = options("sft")
    result = measure("sft", "SFT against TRL's SFTTrainer", cases(chosen), chosen)
    show(result, chosen.out)


def cases(chosen: Namespace, best: dict[str, dict[str, Any]] = BEST) -> Iterator[Case]:
    for name in chosen.sizes:
        steps = 2 if chosen.quick else STEPS[name]
        request = {"do": "sft", "steps": steps, "batch_size": BATCH}
        rows = examples(BATCH * steps + CHECK)
        rows, check = rows[:-CHECK], rows[-CHECK:]  # the loss is compared on rows that no step has seen
        tokens = sum(len(r["prompt"]) + len(r["response"]) for r in rows)
        flop = sft_flop(SIZES[name], rows)
        requests = {"default": request | {"settings": {}, "allocator": False}} | {
            label: request | {"settings": settings, "allocator": True} for label, settings in best.items()
        }
        contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", request, warm_up=ONE_STEP)]
        contenders += trl("TRL", requests, script="_worker_trl.py", environment="trl", chosen=chosen)
        yield Case(
            size=name,
            label=f"batch {BATCH}",
            unit="tokens/s",
            contenders=contenders,
            prepare=partial(_prepare, SIZES[name], rows, check),
            work=lambda _, tokens=tokens: tokens,
            flop=lambda _, flop=flop: flop,
            agree={"loss_before": 0.02, "loss_after_one_step": 0.005},
        )


def _prepare(size: Size, rows: list[dict[str, Any]], check: list[dict[str, Any]], folder: Path) -> None:
    save_models(size, folder)
    write(folder, examples=rows, check=check)


if __name__ == "__main__":
    main()
