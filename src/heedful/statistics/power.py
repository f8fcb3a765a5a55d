"""How many comparisons it takes to find a difference: the power of the two-way interval, for planning before anyone is paid.

An outcome (1, 0.5, 0) varies between prompts, between labelers, and from one comparison to the next. With P prompts, k of L
labelers drawn for each prompt, n = P k comparisons, and shares s(prompt) and s(labeler) of the variance::

    Var(outcome)   = w - t / 4 - w^2                               for win rate w and tie rate t
    load           = 1 / L + (1 - k / L) / n                       expected sum of squared shares of the work
    Var(win rate)  = Var(outcome) * (s(prompt) / P + s(labeler) * load + (1 - s(prompt) - s(labeler)) / n)

More prompts never reduce s(labeler) / L: with few labelers who differ, no number of prompts finds a small difference. A
difference counts as found if the two-way interval (``two_way``) excludes 50 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import DataError
from heedful.statistics.answers import coded, sums_within
from heedful.statistics.intervals import Labels, Numbers
from heedful.statistics.student import t_quantile

_MOST_PROMPTS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceShares:
    """How much of an outcome's variance is due to the prompt and to the labeler: each from 0 to 1, together at most 1."""

    prompt: float
    labeler: float

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.labeler >= 0 and self.prompt + self.labeler <= 1):
            raise DataError("not shares of a variance", expected="two shares of at least 0, together at most 1", got=str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStudy:
    """Numbers of prompts, comparisons and labelers, and the resulting power."""

    num_prompts: int
    num_labelers: int
    labelers_per_prompt: int
    power: float
    """Probability that the two-way interval excludes 50 %."""

    @property
    def num_comparisons(self) -> int:
        """The number of comparisons that labelers are paid for."""
        return self.num_prompts * self.labelers_per_prompt


def variance_shares(outcomes: Numbers, prompts: Labels, labelers: Labels) -> VarianceShares:
    """Estimate the shares from an earlier study, by squared differences of comparisons with and without a common cluster.

    The variance components are unbiased before negative ones are set to 0. Raises DataError if no prompt has two labelers, if
    no labeler has two prompts, or if all outcomes are the same.
    """
    given = np.asarray(outcomes, dtype=np.float64)
    _, prompt = coded(prompts)
    _, labeler = coded(labelers)
    if not len(given) == len(prompt) == len(labeler):
        raise DataError(
            "columns do not match", expected="the same length for all", got=f"{len(given)}, {len(prompt)}, {len(labeler)}"
        )

    def half_squares(cluster: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, int]:
        """Sum over ordered pairs within clusters of half the squared difference, and the number of these pairs."""
        columns = np.stack([np.ones(len(given)), given, given**2], axis=1)
        count, total, square = sums_within(cluster, columns, int(cluster.max(initial=-1)) + 1).T
        return float((count * square - total**2).sum()), round(float((count * (count - 1)).sum()))

    cell = prompt * (int(labeler.max(initial=0)) + 1) + labeler
    (everything, all_pairs), (same_prompt, prompt_pairs), (same_labeler, labeler_pairs), (same_cell, cell_pairs) = map(
        half_squares, (np.zeros(len(given), dtype=np.int64), prompt, labeler, np.unique(cell, return_inverse=True)[1])
    )
    apart_pairs = all_pairs - prompt_pairs - labeler_pairs + cell_pairs
    if min(prompt_pairs - cell_pairs, labeler_pairs - cell_pairs, apart_pairs) <= 0:
        raise DataError(
            "the shares of prompts and labelers cannot be told apart",
            expected="prompts with two labelers, and labelers with two prompts",
            got=f"{len(given)} comparisons that lack one or both",
        )
    apart = (everything - same_prompt - same_labeler + same_cell) / apart_pairs
    if apart <= 0:
        raise DataError("all outcomes are the same", expected="outcomes that differ", got=str(given[0]))
    of_prompt = max(apart - (same_prompt - same_cell) / (prompt_pairs - cell_pairs), 0) / apart
    of_labeler = max(apart - (same_labeler - same_cell) / (labeler_pairs - cell_pairs), 0) / apart
    scale = max(of_prompt + of_labeler, 1.0)
    return VarianceShares(prompt=of_prompt / scale, labeler=of_labeler / scale)


def study_power(
    win_rate: float,
    shares: VarianceShares,
    *,
    num_prompts: int,
    num_labelers: int,
    labelers_per_prompt: int,
    tie_rate: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Probability that the two-way interval excludes 50 % if the true win rate is ``win_rate``.

    Raises DataError if the rates are impossible, or for fewer than two prompts or labelers.
    """
    if not 0 <= tie_rate <= 1 or not tie_rate / 2 <= win_rate <= 1 - tie_rate / 2:
        raise DataError(
            "no such study",
            expected="a tie rate from 0 to 1, and a win rate from half of it to 1 minus half of it",
            got=f"win rate {win_rate}, tie rate {tie_rate}",
        )
    if num_labelers < 2 or num_prompts < 2 or not 1 <= labelers_per_prompt <= num_labelers:
        raise DataError(
            "no such study",
            expected="at least two prompts and two labelers, and from one to all labelers per prompt",
            got=f"{num_prompts} prompts, {num_labelers} labelers, {labelers_per_prompt} of them per prompt",
        )
    total = win_rate - tie_rate / 4 - win_rate**2
    if total <= 0:
        return float(win_rate != 0.5)
    num = num_prompts * labelers_per_prompt
    own = 1 - shares.prompt - shares.labeler
    load = 1 / num_labelers + (1 - labelers_per_prompt / num_labelers) / num
    variance = total * (shares.prompt / num_prompts + shares.labeler * load + own / num)
    by_prompt = total * (shares.prompt / num_prompts + (1 - shares.prompt) / num)
    by_labeler = total * (shares.labeler * load + (1 - shares.labeler) / num)
    parts = (by_prompt, num_prompts - 1), (by_labeler, max(1 / load - 1, 1.0)), (total / num, max(num - 1, 1))
    # The interval is Wilson's. Whether it excludes 50 % depends on the variance at a win rate of 50 %.
    wilson = math.sqrt(0.25 / max(win_rate * (1 - win_rate), 1e-12))
    return _power(abs(win_rate - 0.5), variance, parts, confidence, wilson)


def prompts_needed(
    win_rate: float,
    shares: VarianceShares,
    *,
    num_labelers: int,
    labelers_per_prompt: int,
    tie_rate: float = 0.0,
    power: float = 0.8,
    confidence: float = 0.95,
) -> PlannedStudy:
    """The fewest prompts that find a true ``win_rate`` with this power. Raises DataError if no number of prompts suffices."""

    def power_of(num_prompts: int) -> float:
        return study_power(
            win_rate,
            shares,
            num_prompts=num_prompts,
            num_labelers=num_labelers,
            labelers_per_prompt=labelers_per_prompt,
            tie_rate=tie_rate,
            confidence=confidence,
        )

    high = 2
    while power_of(high) < power:
        high *= 2
        if high > _MOST_PROMPTS:
            raise DataError(
                "no number of prompts finds this difference",
                expected=f"a power of {power:.0%}",
                got=f"at most {power_of(_MOST_PROMPTS):.1%} with {num_labelers} labelers",
                next_step="ask more labelers: more prompts do not reduce the variance between labelers",
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return PlannedStudy(
        num_prompts=high, num_labelers=num_labelers, labelers_per_prompt=labelers_per_prompt, power=power_of(high)
    )


def _power(distance: float, variance: float, parts: Sequence[tuple[float, float]], confidence: float, wilson: float) -> float:
    """Power, averaged over the estimates that a study may get for the prompts' and the labelers' part of the variance.

    Each estimate is a scaled chi-square. ``parts``: expected value and degrees of freedom of the prompts', labelers' and cells'
    part. Each pair of estimates gives a variance and degrees of freedom as in ``two_way``, and from these the half width of the
    interval. The estimated win rate must differ from 50 % by more than this half width.
    """
    (prompt, prompt_degrees), (labeler, labeler_degrees), (cell, cell_degrees) = parts
    power = 0.0
    for prompt_scale, prompt_weight in _chi_square_nodes(prompt_degrees):
        for labeler_scale, labeler_weight in _chi_square_nodes(labeler_degrees):
            a, b = prompt * prompt_scale, labeler * labeler_scale
            estimated = max(a + b - cell, cell)
            degrees = estimated**2 / (a**2 / prompt_degrees + b**2 / labeler_degrees + cell**2 / cell_degrees)
            half = t_quantile(0.5 + confidence / 2, round(max(degrees, 1.0), 1)) * wilson * math.sqrt(estimated)
            beyond = sum(_normal_tail((half + side * distance) / math.sqrt(variance)) for side in (-1, 1))
            power += prompt_weight * labeler_weight * beyond
    return power


def _chi_square_nodes(degrees: float) -> list[tuple[float, float]]:
    """Values of C / degrees for a chi-square C, and their probabilities, by the trapezoid rule over the logarithm."""
    spread = math.sqrt(2 / degrees)
    logs = np.linspace(-5 * spread - 8 / degrees, 4 * spread, 31)
    log_density = degrees / 2 * (logs - np.exp(logs))
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    kept = weights > 1e-6
    return list(zip(np.exp(logs[kept]).tolist(), weights[kept].tolist(), strict=True))


def _normal_tail(value: float) -> float:
    return math.erfc(value / math.sqrt(2)) / 2
