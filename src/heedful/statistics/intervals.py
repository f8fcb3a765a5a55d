"""Estimates with their uncertainty: Wilson's interval for independent outcomes, a bootstrap over clusters for all others.

A cluster is what was drawn at random, here a prompt. Comparisons of one prompt resemble each other, and treating them as
independent makes intervals too narrow. Every bootstrap has a fixed seed, so the same data give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError, DataError

Numbers = Sequence[float] | npt.NDArray[np.floating] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Labels = Sequence[str] | Sequence[int] | npt.NDArray[np.str_] | npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BLOCK = 2**22
"""Indices drawn at a time. It limits the bootstrap's memory to about 100 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its uncertainty. If ``count`` is 0, all other fields are NaN."""

    value: float
    low: float
    """Lower end of the interval (95 % by default)."""
    high: float
    count: int
    """Number of observations behind ``value`` (comparisons, not prompts)."""
    standard_error: float
    """In the unit of ``value``; NaN if unknown (one cluster)."""

    @property
    def plus_minus(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def check_confidence(confidence: float) -> None:
    """Raise ConfigError unless a confidence level is between 0 and 1."""
    if not 0 < confidence < 1:
        raise ConfigError("no such confidence", expected="a number between 0 and 1, such as 0.95", got=str(confidence))


def percent(estimate: Estimate) -> str:
    """A share as the paper prints it, "72.6 ± 1.5 %", with half the interval's width after the ±, or without ± if unknown.

    The paper does not say whether its ± is half a 95 % interval or one standard error. Returns "n/a" without observations.
    """
    if math.isnan(estimate.value):
        return "n/a"
    spread = "" if math.isnan(estimate.plus_minus) else f" ± {100 * estimate.plus_minus:.1f}"
    return f"{100 * estimate.value:.1f}{spread} %"


def wilson(successes: float, count: int, *, confidence: float = 0.95) -> Estimate:
    """Share ``successes / count`` with Wilson's score interval (Wilson 1927), for independent outcomes.

    ``successes`` may include halves (ties). The interval is then a little too wide, never too narrow. Raises DataError unless
    0 <= successes <= count.
    """
    if not 0 <= successes <= count:
        raise DataError("not a share", expected=f"successes from 0 to {count}", got=str(successes))
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, math.nan)
    share, z = successes / count, NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half_width = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    low = 0.0 if successes == 0 else centre - half_width
    high = 1.0 if successes == count else centre + half_width
    return Estimate(share, low, high, count, math.sqrt(share * (1 - share) / count))


def bootstrap_ratio(
    numerators: Numbers,
    denominators: Numbers,
    clusters: Labels | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``sum(numerators) / sum(denominators)`` with a percentile bootstrap interval over clusters.

    ``clusters[i]`` is the cluster of row i; without it each row is its own. ``denominators`` are the numbers of observations
    behind each row; clusters without any are left out. With a single cluster the interval and the standard error are NaN. With
    few clusters (under about 20) percentile intervals are somewhat too narrow.
    """
    tops, bottoms = _cluster_sums(numerators, denominators, clusters)
    count = round(float(bottoms.sum()))
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, math.nan)
    value = float(tops.sum() / bottoms.sum())
    if len(tops) == 1:
        return Estimate(value, math.nan, math.nan, count, math.nan)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    block = max(1, _BLOCK // len(tops))
    for start in range(0, resamples, block):
        drawn = generator.integers(len(tops), size=(min(block, resamples - start), len(tops)))
        ratios[start : start + len(drawn)] = tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high), count, float(ratios.std(ddof=1)))


def bootstrap_mean(
    values: Numbers,
    clusters: Labels | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of ``values`` with a percentile bootstrap interval over clusters; see ``bootstrap_ratio``."""
    return bootstrap_ratio(values, np.ones(len(values)), clusters, confidence=confidence, resamples=resamples, seed=seed)


def proportion(
    successes: Numbers,
    clusters: Labels | None = None,
    *,
    trials: Numbers | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Share of successes, with Wilson's interval if outcomes are independent, else with a bootstrap over clusters.

    ``successes[i]`` of ``trials[i]`` (default 1) are successes; halves are allowed. Without ``clusters``, or with one trial per
    cluster, outcomes are treated as independent. If all clusters have the same share (all won, or a single cluster), the
    bootstrap's interval would have width 0, so Wilson's interval with one trial per cluster replaces it.
    """
    trials = np.ones(len(successes)) if trials is None else trials
    wins, counts = _cluster_sums(successes, trials, clusters)
    if clusters is None or bool((counts == 1).all()):
        return wilson(float(wins.sum()), round(float(counts.sum())), confidence=confidence)
    estimate = bootstrap_ratio(successes, trials, clusters, confidence=confidence, resamples=resamples, seed=seed)
    if estimate.count and bool(np.ptp(wins / counts) < 1e-12):
        by_cluster = wilson(estimate.value * len(wins), len(wins), confidence=confidence)
        return Estimate(estimate.value, by_cluster.low, by_cluster.high, estimate.count, estimate.standard_error)
    return estimate


def proportions(
    successes: FloatArray, trials: FloatArray, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[Estimate]:
    """``proportion`` for many series at once. Both arrays are (clusters, series); trials are 0 if a series lacks a cluster.

    It is fast because all series share the drawn clusters. Single trials and equal clusters are handled as in ``proportion``.
    """
    estimates = bootstrap(
        np.stack([successes, trials], axis=2),
        ratio,
        counts=np.rint(trials.sum(axis=0)).astype(np.int64),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    for series, estimate in enumerate(estimates):
        own = trials[:, series] > 0
        wins, counts = successes[own, series], trials[own, series]
        if not estimate.count:
            continue
        if bool((counts == 1).all()):
            estimates[series] = wilson(float(wins.sum()), len(wins), confidence=confidence)
        elif bool(np.ptp(wins / counts) < 1e-12):
            by_cluster = wilson(estimate.value * len(wins), len(wins), confidence=confidence)
            estimates[series] = Estimate(
                estimate.value, by_cluster.low, by_cluster.high, estimate.count, estimate.standard_error
            )
    return estimates


def bootstrap(
    rows: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    counts: Sequence[int] | IntArray,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Estimate]:
    """Any statistic of sums over clusters, with percentile intervals; one estimate per series.

    ``rows`` is (clusters, series, columns). ``statistic`` maps sums (draws, series, columns) to values (draws, series), NaN if
    undefined; such draws are left out. ``counts``: number of observations behind each series. Clusters that are all 0 are
    left out. A series that is 0 in all clusters but one has no interval.
    """
    rows = rows[(rows != 0).any(axis=(1, 2))]
    num_clusters, num_series, num_columns = rows.shape
    values = statistic(rows.sum(axis=0)[None])[0]
    informative = np.count_nonzero((rows != 0).any(axis=2), axis=0)
    flat = rows.reshape(num_clusters, num_series * num_columns)
    generator = np.random.default_rng(seed)
    drawn_values = np.full((resamples, num_series), math.nan)
    block = max(1, _BLOCK // max(num_clusters, 1))
    for start in range(0, resamples if bool((informative > 1).any()) else 0, block):
        draws = min(block, resamples - start)
        drawn = generator.integers(num_clusters, size=(draws, num_clusters)) + num_clusters * np.arange(draws)[:, None]
        times = np.bincount(drawn.ravel(), minlength=draws * num_clusters).reshape(draws, num_clusters).astype(np.float64)
        drawn_values[start : start + draws] = statistic((times @ flat).reshape(draws, num_series, num_columns))
    estimates: list[Estimate] = []
    for series in range(num_series):
        value, own = float(values[series]), drawn_values[:, series]
        own = own[~np.isnan(own)]
        if not counts[series]:
            estimates.append(Estimate(math.nan, math.nan, math.nan, 0, math.nan))
        elif informative[series] < 2 or len(own) < 2 or math.isnan(value):
            estimates.append(Estimate(value, math.nan, math.nan, int(counts[series]), math.nan))
        else:
            low, high = np.quantile(own, [0.5 - confidence / 2, 0.5 + confidence / 2])
            estimates.append(Estimate(value, float(low), float(high), int(counts[series]), float(own.std(ddof=1))))
    return estimates


def ratio(sums: FloatArray) -> FloatArray:
    """First column divided by second, NaN if the second is 0: a ``statistic`` for ``bootstrap``."""
    tops, bottoms = sums[..., 0], sums[..., 1]
    return np.divide(tops, bottoms, out=np.full(tops.shape, math.nan), where=bottoms > 0)


def _cluster_sums(
    numerators: Numbers, denominators: Numbers, clusters: Labels | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both columns summed within each cluster; clusters without observations are left out."""
    tops, bottoms = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    lengths = [len(tops), len(bottoms), *([] if clusters is None else [len(clusters)])]
    if len(set(lengths)) > 1:
        raise DataError("columns do not match", expected="the same length for all", got=" and ".join(map(str, lengths)))
    if clusters is not None and len(tops):
        _, index = np.unique(np.asarray(clusters), return_inverse=True)
        tops = np.bincount(index, weights=tops).astype(np.float64)
        bottoms = np.bincount(index, weights=bottoms).astype(np.float64)
    return tops[bottoms > 0], bottoms[bottoms > 0]
