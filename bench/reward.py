"""Reward model comparisons per second at K = 4 and K = 9 against TRL's RewardTrainer: ``python bench/reward.py --help``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _driver import write as write_result
from _workload import SIZES, Size, pairs, rankings, reward_flop, save_models, write

PROMPTS = {"XS": 2, "S": 8, "M": 2}
"""Prompts of one optimiser step; all their comparisons are in it, on both sides."""
RESPONSES = {"XS": 144, "S": 576, "M": 72}
"""Responses of a run, at every K; the optimiser steps follow."""
# Grouping reads the column `length`, which would else be removed before.
COMMON = {
    "bf16": True,
    "gradient_checkpointing": False,
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,
}
BEST = {
    "bf16, grouped, batch 8": COMMON,
    "bf16, grouped, batch 24": COMMON | {"per_device_train_batch_size": 24},
    "fp32, grouped, batch 8": COMMON | {"bf16": False},
}


def main() -> None:
    chosen = options("reward")
    result = measure("reward", "Reward model against TRL's RewardTrainer", cases(chosen, (4, 9)), chosen)
    result["extra"] = {}
    for size in chosen.sizes:
        costs = {c["label"]: cost_of_prompt(c, c["contenders"]["Heedful"]) for c in result["cases"] if c["size"] == size}
        ratio = costs["K = 9"] / costs["K = 4"]
        result["extra"][f"{size}: Heedful's cost of a prompt at K = 9 over that at K = 4"] = ratio
    write_result(result, chosen.out)
    show(result, chosen.out)


def cost_of_prompt(case: dict[str, Any], row: dict[str, Any]) -> float:
    """Seconds of training on one ranked prompt."""
    return median(row["seconds"]) / (row["details"]["steps"] * PROMPTS[case["size"]])


def cases(chosen: Namespace, ks: tuple[int, ...], best: dict[str, dict[str, Any]] = BEST) -> Iterator[Case]:
    for name in chosen.sizes:
        for k in ks:
            prompts, comparisons = PROMPTS[name], k * (k - 1) // 2
            steps = 1 if chosen.quick else RESPONSES[name] // (prompts * k)
            request = {"do": "reward", "steps": steps}
            *rows, check = rankings(prompts * steps + 1, k)  # the last one is not trained on
            flop = reward_flop(SIZES[name], rows)
            pair_request = request | {"batch_size": prompts * comparisons}
            requests = {"default": pair_request | {"settings": {}, "allocator": False}} | {
                label: pair_request | {"settings": settings, "allocator": True} for label, settings in best.items()
            }
            # The check is one ranking: all its comparisons weigh the same on both sides.
            ours = request | {"batch_size": prompts}
            contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", ours, warm_up=ONE_STEP)]
            contenders += trl("TRL", requests, script="_worker_trl.py", environment="trl", chosen=chosen)
            yield Case(
                size=name,
                label=f"K = {k}",
                unit="comparisons/s",
                contenders=contenders,
                prepare=partial(_prepare, SIZES[name], rows, check),
                work=lambda _, work=prompts * comparisons * steps: work,
                flop=lambda _, flop=flop: flop,
                # bf16 rounds the few scores that the loss is made of; in fp32 the sides agree to 1e-4.
                agree={"loss_before": 0.02, "loss_after_one_step": 0.01},
            )


def _prepare(size: Size, rows: list[dict[str, Any]], check: dict[str, Any], folder: Path) -> None:
    save_models(size, folder)
    write(folder, rankings=rows, pairs=pairs(rows), check=[check], check_pairs=pairs([check]))


if __name__ == "__main__":
    main()
