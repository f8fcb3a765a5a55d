"""Learning rates and batch sizes for a model of any size, each with its source.

The paper gives them for three sizes (SPEC 3.2-3.5). Between two of these sizes they are interpolated on logarithmic scales. For
smaller models the rates are ours: the paper's rate at 1.3B times the ratio of GPT-3's pretraining rates at the two sizes (Brown
et al. 2020, Table 2.1). Adapters (LoRA) learn best at about ten times the rate of full fine-tuning (Schulman et al. 2025, "LoRA
Without Regret"). The paper's residual dropout is not used, because models that were pretrained without dropout predict badly
with it. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

LORA_FACTOR = 10.0
"""Learning rates of adapters, as a multiple of those of full fine-tuning."""
_NO_DROPOUT = "ours: open models are pretrained without dropout; the paper's is 0.2 (SPEC 3.2)"
LORA_RANK = 16
"""Rank of the adapters (ours)."""
_GPT3_RATES = ((0.125e9, 6e-4), (0.35e9, 3e-4), (0.76e9, 2.5e-4), (1.3e9, 2e-4))
"""Parameters and peak learning rate of GPT-3's smaller models in pretraining (Brown et al. 2020, Table 2.1)."""
_SAME_SIZE = 0.02
"""If a model's size differs from one of the paper's by at most this share, it counts as that size."""


class Point(NamedTuple):
    """A value that the paper gives for a model with this many parameters; ``label`` names the size."""

    parameters: float
    value: float
    label: str


def _points(small: float, middle: float, large: float) -> tuple[Point, ...]:
    return Point(1.3e9, small, "1.3B"), Point(6e9, middle, "6B"), Point(175e9, large, "175B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A value for one size, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the paper says about one field."""

    points: Sequence[Point]
    section: str
    """The section of SPEC."""
    note: str = ""


_RATES: Mapping[tuple[str, str], _Row] = {
    ("sft", "learning_rate"): _Row(points=_points(9.65e-6, 9.65e-6, 5.03e-6), section="SPEC 3.2"),
    # The paper's own values rise from 1.3B to 6B.
    ("initial_policy", "learning_rate"): _Row(points=_points(5e-6, 1.04e-5, 2.45e-6), section="SPEC 3.4"),
    ("reward", "learning_rate"): _Row(
        points=_points(9e-6, 9e-6, 5e-6),
        section="SPEC 3.3",
        note="the paper's one reward model has 6B; as the value function's",
    ),
    ("ppo", "learning_rate"): _Row(
        points=_points(8.05e-6, 8.05e-6, 2.55e-6),
        section="SPEC 3.5",
        note="the largest rate that was stable without ptx; at 175B the smaller of two that were tried",
    ),
    ("ppo", "value_learning_rate"): _Row(points=_points(9e-6, 9e-6, 5e-6), section="SPEC 3.5"),
}
_BATCHES: Mapping[tuple[str, str], _Row] = {
    ("sft", "batch_size"): _Row(points=_points(32, 32, 8), section="SPEC 3.2"),
    ("initial_policy", "batch_size"): _Row(points=_points(32, 32, 8), section="SPEC 3.4"),
}


def values_by_size(parameters: float, *, lora: bool = False) -> dict[tuple[str, str], Sized]:
    """(table of heedful.toml, key) -> the value for a model with this many parameters.

    lora: whether adapters are trained instead of the weights.
    """
    found = {name: _rate(row, parameters, lora) for name, row in _RATES.items()}
    found |= {name: _batch(row, parameters) for name, row in _BATCHES.items()}
    found |= {(table, "residual_dropout"): Sized(value=0.0, source=_NO_DROPOUT) for table in ("sft", "initial_policy")}
    if lora:
        rank = Sized(value=LORA_RANK, source="ours")
        found |= {(table, "lora_rank"): rank for table in ("sft", "initial_policy", "reward", "ppo")}
    return found


def _rate(row: _Row, parameters: float, lora: bool) -> Sized:
    smallest = row.points[0]
    if parameters < smallest.parameters * (1 - _SAME_SIZE):
        own, at_smallest = (_interpolated(_GPT3_RATES, size) for size in (parameters, smallest.parameters))
        value = smallest.value * own / at_smallest
        source = f"ours: the paper's at {smallest.label} times GPT-3's ratio of pretraining rates"
    else:
        value = _interpolated([(point.parameters, point.value) for point in row.points], parameters)
        source = _source(row, parameters)
    if lora:
        value, source = value * LORA_FACTOR, f"{LORA_FACTOR:g} times full fine-tuning's, which is {source}"
    return Sized(value=float(f"{value:.3g}"), source=source + (f" ({row.note})" if row.note else ""))


def _batch(row: _Row, parameters: float) -> Sized:
    """The batch size, rounded to a power of two."""
    value = _interpolated([(point.parameters, point.value) for point in row.points], parameters)
    below = parameters < row.points[0].parameters * (1 - _SAME_SIZE)
    source = f"ours: the paper's at {row.points[0].label}" if below else _source(row, parameters)
    return Sized(value=2 ** round(math.log2(value)), source=source)


def _source(row: _Row, parameters: float) -> str:
    for point in row.points:
        if abs(parameters / point.parameters - 1) <= _SAME_SIZE:
            return f"the paper's at {point.label} ({row.section})"
    above = [point for point in row.points if point.parameters > parameters]
    if not above:
        return f"ours: the paper's at {row.points[-1].label} ({row.section})"
    below = row.points[row.points.index(above[0]) - 1]
    return f"between the paper's at {below.label} and {above[0].label} ({row.section})"


def _interpolated(points: Sequence[tuple[float, float]], parameters: float) -> float:
    """Interpolate on logarithmic scales. Outside the points, the value of the nearest one."""
    for size, value in points:
        if abs(parameters / size - 1) <= _SAME_SIZE:
            return value
    if parameters < points[0][0]:
        return points[0][1]
    for (low, first), (high, second) in pairwise(points):
        if parameters <= high:
            share = math.log(parameters / low) / math.log(high / low)
            return math.exp((1 - share) * math.log(first) + share * math.log(second))
    return points[-1][1]
