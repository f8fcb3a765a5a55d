"""Reward model comparisons per second at K = 4 and K = 9 against TRL's RewardTrainer: ``python bench/reward.py --help``.

With ``--model FOLDER --data FILES``: a model of yours on people's rankings: pairs (K = 2), four to nine responses, and always
nine. Few prompts have nine, so they get some of the next prompt's: what is timed depends on lengths only.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import _real_data
from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _driver import write as write_result
from _workload import SIZES, Size, pairs, rankings, reward_flop, save_models, write

PROMPTS = {"XS": 2, "S": 8, "M": 2}
"""Prompts of one optimiser step; all their comparisons are in it, on both sides."""
RESPONSES = {"XS": 144, "S": 576, "M": 72}
"""Responses of a run, at every K; the optimiser steps follow."""
REAL = {"2": (32, 3), "4..9": (4, 3), "9": (2, 1)}
"""On people's rankings, by the number of responses: prompts of an optimiser step, and steps of a run."""
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
REAL_BEST = {
    "bf16, grouped, batch 8": COMMON,
    "bf16, grouped, batch 8, checkpointing": COMMON | {"gradient_checkpointing": True},
}
"""Fewer than for the random sizes, because a step takes TRL a minute; batches of 24 and fp32 would need more memory."""


def main() -> None:
    chosen = options("reward", more=flags)
    found = real_cases(chosen) if chosen.model else cases(chosen, (4, 9))
    result = measure("reward", "Reward model against TRL's RewardTrainer", found, chosen, alone=chosen.model is not None)
    result["extra"] = {}
    for size in () if chosen.model else chosen.sizes:
        costs = {c["label"]: cost_of_prompt(c, c["contenders"]["Heedful"]) for c in result["cases"] if c["size"] == size}
        ratio = costs["K = 9"] / costs["K = 4"]
        result["extra"][f"{size}: Heedful's cost of a prompt at K = 9 over that at K = 4"] = ratio
    write_result(result, chosen.out)
    show(result, chosen.out)


def flags(parser: ArgumentParser) -> None:
    _real_data.flags(parser)
    parser.add_argument(
        "--k", nargs="+", choices=REAL, default=list(REAL), help="with --model: only these numbers of responses"
    )


def cost_of_prompt(case: dict[str, Any], row: dict[str, Any]) -> float:
    """Seconds of training on one ranked prompt."""
    return median(row["seconds"]) / (row["details"]["steps"] * PROMPTS[case["size"]])


def cases(chosen: Namespace, ks: tuple[int, ...], best: dict[str, dict[str, Any]] = BEST) -> Iterator[Case]:
    for name in chosen.sizes:
        for k in ks:
            steps = 1 if chosen.quick else RESPONSES[name] // (PROMPTS[name] * k)
            rows = rankings(PROMPTS[name] * steps + 1, k)
            yield case(name, f"K = {k}", SIZES[name], rows, PROMPTS[name], chosen, best, partial(save_models, SIZES[name]))


def real_cases(chosen: Namespace) -> Iterator[Case]:
    data = _real_data.read(chosen)
    many = [row for k, rows in sorted(data.rankings.items()) if 4 <= k <= 9 for row in rows]
    many = [many[i] for i in np.random.default_rng(0).permutation(len(many))]
    ranked = {"2": data.rankings.get(2, []), "4..9": many, "9": with_nine(many)}
    for k in chosen.k:
        prompts, steps = REAL[k]
        needed = _real_data.enough(f"rankings with K = {k}", ranked[k], prompts * (1 if chosen.quick else steps) + 1)
        models = partial(_real_data.prepare_models, chosen.model)
        yield case(chosen.model.resolve().name, f"K = {k}", data.size, needed, prompts, chosen, REAL_BEST, models)


def with_nine(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each prompt with its own responses and, up to nine, those of the prompts after it."""
    following = [row["responses"] for row in (*rows, *rows)]
    nine = [list(chain.from_iterable(following[i : i + 9]))[:9] for i in range(len(rows))]
    return [row | {"responses": responses, "ranks": list(range(1, 10))} for row, responses in zip(rows, nine, strict=True)]


def case(
    name: str,
    label: str,
    size: Size,
    rows: list[dict[str, Any]],
    prompts: int,
    chosen: Namespace,
    best: dict[str, dict[str, Any]],
    models: Callable[[Path], None],
) -> Case:
    """prompts: those of one optimiser step."""
    *rows, check = rows  # the last one is not trained on
    steps = len(rows) // prompts
    comparisons = len(pairs(rows))
    request = {"do": "reward", "steps": steps}
    flop = reward_flop(size, rows)
    # Where prompts have different numbers of responses, TRL's steps have as many pairs on average.
    pair_request = request | {"batch_size": comparisons // steps}
    requests = {"default": pair_request | {"settings": {}, "allocator": False}} | {
        label: pair_request | {"settings": settings, "allocator": True} for label, settings in best.items()
    }
    # The check is one ranking: all its comparisons weigh the same on both sides.
    ours = request | {"batch_size": prompts}
    contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", ours, warm_up=ONE_STEP)]
    contenders += trl("TRL", requests, script="_worker_trl.py", environment="trl", chosen=chosen)
    same_steps = len({len(row["responses"]) for row in rows}) == 1
    return Case(
        size=name,
        label=label,
        unit="comparisons/s",
        contenders=contenders,
        prepare=partial(_prepare, models, rows, check),
        work=lambda _: comparisons,
        flop=lambda _: flop,
        # bf16 rounds the few scores that the loss is made of; in fp32 the sides agree to 1e-4.
        agree={"loss_before": 0.02} | ({"loss_after_one_step": 0.01} if same_steps else {}),
    )


def _prepare(models: Callable[[Path], None], rows: list[dict[str, Any]], check: dict[str, Any], folder: Path) -> None:
    models(folder)
    write(folder, rankings=rows, pairs=pairs(rows), check=[check], check_pairs=pairs([check]))


if __name__ == "__main__":
    main()
