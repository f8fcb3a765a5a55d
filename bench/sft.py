"""SFT tokens per second against TRL's SFTTrainer: ``python bench/sft.py --help``.

With ``--model FOLDER --data FILES``: a model of yours on demonstrations of people, instead of the random sizes.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import _real_data
from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _workload import SIZES, Size, examples, save_models, sft_flop, write

BATCH, CHECK = 32, 8
STEPS = {"XS": 3, "S": 12, "M": 5}
"""Optimiser steps of a run."""
REAL_STEPS = 3
COMMON = {"bf16": True, "gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
BEST = {
    "bf16, grouped, batch 32": COMMON | {"per_device_train_batch_size": 32},
    "bf16, grouped, batch 8": COMMON | {"per_device_train_batch_size": 8},
    "fp32, grouped, batch 32": COMMON | {"per_device_train_batch_size": 32, "bf16": False},
    "bf16, padding-free, batch 32": COMMON | {"per_device_train_batch_size": 32, "padding_free": True, "max_length": None},
}
REAL_BEST = {
    "bf16, grouped, batch 8": BEST["bf16, grouped, batch 8"],
    "bf16, padding-free, batch 8": BEST["bf16, padding-free, batch 32"] | {"per_device_train_batch_size": 8},
    "bf16, grouped, batch 8, checkpointing": BEST["bf16, grouped, batch 8"] | {"gradient_checkpointing": True},
}
"""A real vocabulary makes logits large: 32 of people's demonstrations at once do not fit into 24 GiB."""


def main() -> None:
    chosen = options("sft", more=_real_data.flags)
    result = measure(
        "sft",
        "SFT against TRL's SFTTrainer",
        real_cases(chosen) if chosen.model else cases(chosen),
        chosen,
        alone=chosen.model is not None,
    )
    show(result, chosen.out)


def cases(chosen: Namespace, best: dict[str, dict[str, Any]] = BEST) -> Iterator[Case]:
    for name in chosen.sizes:
        steps = 2 if chosen.quick else STEPS[name]
        rows = examples(BATCH * steps + CHECK)
        yield case(name, SIZES[name], rows, chosen, best, partial(save_models, SIZES[name]))


def real_cases(chosen: Namespace) -> Iterator[Case]:
    data = _real_data.read(chosen)
    rows = _real_data.enough("demonstrations", data.examples, BATCH * (1 if chosen.quick else REAL_STEPS) + CHECK)
    yield case(
        chosen.model.resolve().name, data.size, rows, chosen, REAL_BEST, partial(_real_data.prepare_models, chosen.model)
    )


def case(
    name: str,
    size: Size,
    rows: list[dict[str, list[int]]],
    chosen: Namespace,
    best: dict[str, dict[str, Any]],
    models: Callable[[Path], None],
) -> Case:
    rows, check = rows[:-CHECK], rows[-CHECK:]  # the loss is compared on rows that no step has seen
    steps = len(rows) // BATCH
    request = {"do": "sft", "steps": steps, "batch_size": BATCH}
    tokens = sum(len(r["prompt"]) + len(r["response"]) for r in rows)
    flop = sft_flop(size, rows)
    requests = {"default": request | {"settings": {}, "allocator": False}} | {
        label: request | {"settings": settings, "allocator": True} for label, settings in best.items()
    }
    contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", request, warm_up=ONE_STEP)]
    contenders += trl("TRL", requests, script="_worker_trl.py", environment="trl", chosen=chosen)
    return Case(
        size=name,
        label=f"batch {BATCH}",
        unit="tokens/s",
        contenders=contenders,
        prepare=partial(_prepare, models, rows, check),
        work=lambda _: tokens,
        flop=lambda _: flop,
        agree={"loss_before": 0.02, "loss_after_one_step": 0.005},
    )


def _prepare(models: Callable[[Path], None], rows: list[dict[str, Any]], check: list[dict[str, Any]], folder: Path) -> None:
    models(folder)
    write(folder, examples=rows, check=check)


if __name__ == "__main__":
    main()
