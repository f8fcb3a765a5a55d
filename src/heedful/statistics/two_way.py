"""Intervals for win rates and means if both prompts and labelers are samples.

Two comparisons resemble each other if they share a prompt, and also if they share a labeler, because labelers have different
tastes. An interval over prompts alone holds only for these labelers. The two-way interval holds for other prompts *and* other
labelers.

With residuals e_i = y_i - mean over n comparisons, clusters g that hold a share w_g of them, and E_g the sum of e_i / n in g::

    V(prompts)  = sum over prompts  of E_g^2 / (1 - w_g)         V(labelers) and V(cells) likewise
    V           = V(prompts) + V(labelers) - V(cells)             a cell is one labeler's comparisons of one prompt

(Cameron, Gelbach and Miller 2011; the factor 1 / (1 - w_g) is the CR2 correction of Bell and McCaffrey 2002 for a mean). V is
set to at least V(cells), because the difference can be negative by chance. The quantile is Student's t with Satterthwaite's
degrees of freedom; each of the three parts has 1 / sum(w_g^2) - 1. ``tests/statistics/test_coverage.py`` shows the coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from heedful.errors import DataError
from heedful.statistics.answers import coded, sums_within
from heedful.statistics.intervals import Estimate, FloatArray, IntArray, Labels, Numbers
from heedful.statistics.student import t_quantile

_ROUNDING = 1e-24
"""A variance below this is only rounding: all clusters have the same mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredEstimate:
    """One number with four intervals. Report ``two_way``; the other three answer narrower questions."""

    two_way: Estimate
    """For other prompts and other labelers. Its ends are NaN with a single prompt or a single labeler."""
    by_prompt: Estimate
    """For other prompts, judged by the same labelers."""
    by_labeler: Estimate
    """For other labelers, on the same prompts."""
    naive: Estimate
    """As if all comparisons were independent."""
    num_prompts: int
    num_labelers: int
    degrees_of_freedom: float
    """Degrees of freedom of the two-way interval's t quantile."""

    @property
    def value(self) -> float:
        """The mean or win rate itself, the same for all four."""
        return self.two_way.value


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredVariance:
    """Variances of one or more estimates, each array (estimates,), with degrees of freedom for t; NaN if unknown."""

    two_way: FloatArray
    two_way_degrees: FloatArray
    by_prompt: FloatArray
    by_prompt_degrees: float
    by_labeler: FloatArray
    by_labeler_degrees: float
    naive: FloatArray
    num_prompts: int
    num_labelers: int


def two_way_mean(values: Numbers, prompts: Labels, labelers: Labels, *, confidence: float = 0.95) -> ClusteredEstimate:
    """Mean of ``values`` (n,), each one labeler's judgement of one prompt. Intervals are ``mean +- t * standard error``."""
    return _clustered_mean(values, prompts, labelers, confidence, is_share=False)


def two_way_win_rate(outcomes: Numbers, prompts: Labels, labelers: Labels, *, confidence: float = 0.95) -> ClusteredEstimate:
    """Win rate from ``outcomes`` (n,). 1: the model is preferred, 0.5: tie, 0: the other is preferred.

    The intervals are Wilson's, with the effective number of comparisons p (1 - p) / V in place of n and t in place of z, so
    they stay between 0 and 1. If V is 0, as when all outcomes are the same, the number of clusters replaces the effective
    number.
    """
    given = np.asarray(outcomes, dtype=np.float64)
    wrong = given[~np.isin(given, (0.0, 0.5, 1.0))]
    if len(wrong):
        raise DataError("not an outcome of a comparison", expected="1, 0.5 (tie) or 0", got=str(wrong[0]))
    return _clustered_mean(given, prompts, labelers, confidence, is_share=True)


def two_way_difference(
    first: Numbers, second: Numbers, prompts: Labels, labelers: Labels, *, confidence: float = 0.95
) -> ClusteredEstimate:
    """Mean of ``first - second``, entry by entry, for two models on the same prompts, judged by the same labelers.

    Effects of a prompt or a labeler on both models cancel, so the difference is more certain than two intervals suggest.
    """
    if len(first) != len(second):
        raise DataError("not pairs", expected="the same number of entries in both", got=f"{len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return two_way_mean(differences, prompts, labelers, confidence=confidence)


def clustered_variance(influence: FloatArray, prompts: Labels, labelers: Labels) -> ClusteredVariance:
    """Variances of estimates whose error is the sum of ``influence`` over comparisons, (comparisons, estimates).

    For a mean, ``influence`` is (value - mean) / n. For a model fitted by maximum likelihood it is the inverse information
    times each comparison's score: the sandwich estimator.
    """
    prompt_names, prompt = coded(prompts)
    labeler_names, labeler = coded(labelers)
    _, cell = np.unique(prompt * max(len(labeler_names), 1) + labeler, return_inverse=True)
    by_prompt, prompt_degrees = _one_way(influence, prompt)
    by_labeler, labeler_degrees = _one_way(influence, labeler)
    by_cell, cell_degrees = _one_way(influence, cell.astype(np.int64))
    naive, _ = _one_way(influence, np.arange(len(influence)))
    two_way = np.maximum(by_prompt + by_labeler - by_cell, by_cell)
    parts = by_prompt**2 / prompt_degrees + by_labeler**2 / labeler_degrees + by_cell**2 / cell_degrees
    degrees = np.divide(two_way**2, parts, out=np.full(len(two_way), math.inf), where=~(parts <= 0))
    return ClusteredVariance(
        two_way=two_way,
        two_way_degrees=np.maximum(degrees, 1),
        by_prompt=by_prompt,
        by_prompt_degrees=prompt_degrees,
        by_labeler=by_labeler,
        by_labeler_degrees=labeler_degrees,
        naive=naive,
        num_prompts=len(prompt_names),
        num_labelers=len(labeler_names),
    )


def _clustered_mean(
    values: Numbers, prompts: Labels, labelers: Labels, confidence: float, *, is_share: bool
) -> ClusteredEstimate:
    given = np.asarray(values, dtype=np.float64)
    lengths = [len(given), len(prompts), len(labelers)]
    if len(set(lengths)) > 1:
        raise DataError("columns do not match", expected="the same length for all", got=" and ".join(map(str, lengths)))
    if not bool(np.isfinite(given).all()):
        raise DataError("a value is not a number", expected="finite numbers", got=str(given[~np.isfinite(given)][0]))
    if not len(given):
        nothing = Estimate(math.nan, math.nan, math.nan, 0, math.nan)
        return ClusteredEstimate(
            two_way=nothing,
            by_prompt=nothing,
            by_labeler=nothing,
            naive=nothing,
            num_prompts=0,
            num_labelers=0,
            degrees_of_freedom=math.nan,
        )
    mean = float(given.mean())
    found = clustered_variance(((given - mean) / len(given))[:, None], prompts, labelers)

    def estimate(variance: FloatArray, degrees: float, num_clusters: int) -> Estimate:
        spread = float(variance[0])
        if math.isnan(spread):
            return Estimate(mean, math.nan, math.nan, len(given), math.nan)
        t = t_quantile(0.5 + confidence / 2, degrees)
        if is_share:
            low, high = _share_interval(mean, spread, t, num_clusters)
        else:
            low, high = mean - t * math.sqrt(spread), mean + t * math.sqrt(spread)
        return Estimate(mean, low, high, len(given), math.sqrt(spread))

    degrees = float(found.two_way_degrees[0])
    return ClusteredEstimate(
        two_way=estimate(found.two_way, degrees, min(found.num_prompts, found.num_labelers)),
        by_prompt=estimate(found.by_prompt, found.by_prompt_degrees, found.num_prompts),
        by_labeler=estimate(found.by_labeler, found.by_labeler_degrees, found.num_labelers),
        naive=estimate(found.naive, math.inf, len(given)),
        num_prompts=found.num_prompts,
        num_labelers=found.num_labelers,
        degrees_of_freedom=degrees,
    )


def _share_interval(share: float, variance: float, t: float, num_clusters: int) -> tuple[float, float]:
    effective = share * (1 - share) / variance if variance > _ROUNDING and 0 < share < 1 else float(num_clusters)
    centre = (share + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half_width = t * math.sqrt(share * (1 - share) / effective + t**2 / (4 * effective**2)) / (1 + t**2 / effective)
    return (0.0 if share == 0 else centre - half_width), (1.0 if share == 1 else centre + half_width)


def _one_way(influence: FloatArray, cluster: IntArray) -> tuple[FloatArray, float]:
    """Variance clustered one way, (estimates,), and its degrees of freedom, at least 1. With one cluster both are NaN."""
    shares: FloatArray = np.bincount(cluster) / len(cluster)
    if len(shares) < 2:
        return influence.sum(axis=0) * math.nan, math.nan
    sums = sums_within(cluster, influence, len(shares))
    variance: FloatArray = (sums**2 / (1 - shares)[:, None]).sum(axis=0)
    return variance, max(float(1 / (shares**2).sum() - 1), 1.0)
