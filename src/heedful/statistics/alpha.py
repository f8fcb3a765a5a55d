"""Krippendorff's alpha: agreement beyond chance, for any number of labelers and with missing answers (Krippendorff 2011).

1 is perfect, 0 is chance, below 0 is worse than chance. Over items with at least two answers, o(c, k) counts the pairs of
answers c and k to one item, each with weight 1 / (the item's answers - 1); n(c) = sum over k of o(c, k), and n is their sum::

    alpha = 1 - (n - 1) * sum o(c, k) d(c, k)^2 / sum n(c) n(k) d(c, k)^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from heedful.records import Ranking, Rating
from heedful.statistics.answers import answers, sums_within
from heedful.statistics.comparisons import comparisons
from heedful.statistics.intervals import Estimate, FloatArray, IntArray, Labels, Numbers, bootstrap

Metric = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(
    items: Labels,
    labelers: Labels,
    values: Numbers,
    *,
    metric: Metric,
    clusters: Labels | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Alpha of answers in columns (see ``answers``), with a bootstrap interval over clusters.

    ``metric`` is the distance d between two values. nominal: 0 or 1; interval: c - k; ordinal: the number of answers that lie
    between them in the data, plus half of those at both ends. NaN if all answers are the same, because then there was nothing
    to disagree about. ``count`` is the number of answers that can be compared with another labeler's.
    """
    given = answers(items, labelers, values, clusters)
    if not given.values:
        return Estimate(math.nan, math.nan, math.nan, 0, math.nan)
    coincidences = _coincidences(given.counts())
    rows = given.cluster_sums(coincidences.reshape(given.num_items, -1))
    return _alpha(rows, np.array(given.values), metric, 1, confidence, seed)


def rating_alpha(ratings: Sequence[Rating], *, metric: Metric = "ordinal", confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Alpha of overall quality (1-7). Items are responses; the interval is over prompts."""
    return krippendorff_alpha(
        [rating.response_id for rating in ratings],
        [rating.labeler for rating in ratings],
        [rating.overall for rating in ratings],
        metric=metric,
        clusters=[rating.prompt_id for rating in ratings],
        confidence=confidence,
        seed=seed,
    )


def ranking_alpha(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Alpha of weak orders, where a tie is an answer too; the interval is over prompts.

    Items are pairs of responses to one prompt, and values are Kendall's scores of a pair (Kendall 1945): 1 better, 0 tied, -1
    worse, with the interval metric (a reversal counts four times as much as a tie against a preference). The order within a
    pair has no meaning, so each pair is entered both ways round; then the ordinal metric gives the same number. Without ties,
    with many comparisons and the same number of labelers for each prompt, alpha = 2 * agreement - 1. This use of alpha is ours;
    the paper does not use it.
    """
    judged = comparisons(rankings)
    counts = judged.sign_counts()
    met = counts.sum(axis=1) > 1
    coincidences = _coincidences(counts[met])
    both_ways = coincidences + coincidences[:, ::-1, ::-1]
    rows = sums_within(judged.pair_prompt[met], both_ways.reshape(-1, 9), len(judged.prompts))
    return _alpha(rows, np.array([-1.0, 0.0, 1.0]), "interval", 2, confidence, seed)


def _coincidences(counts: IntArray) -> FloatArray:
    """Counts of values (items, values) -> pairs of answers (items, values, values), weighted by 1 / (answers - 1)."""
    num_answers = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1], dtype=np.int64)
    return pairs / np.maximum(num_answers - 1, 1)[:, None, None]


def _alpha(rows: FloatArray, values: FloatArray, metric: Metric, entries: int, confidence: float, seed: int) -> Estimate:
    """Alpha from coincidences summed within clusters; each answer was entered ``entries`` times."""
    size = len(values)

    def statistic(sums: FloatArray) -> FloatArray:
        observed = sums.reshape(-1, size, size)
        totals = observed.sum(axis=2)
        total = totals.sum(axis=1)
        apart = _squared_distances(values, totals, metric)
        disagreed = (observed * apart).sum(axis=(1, 2)) * (total - 1)
        expected = (totals[:, :, None] * totals[:, None, :] * apart).sum(axis=(1, 2))
        by_chance = np.divide(disagreed, expected, out=np.full(len(expected), math.nan), where=expected > 0)
        return (1 - by_chance)[:, None]

    count = round(float(rows.sum())) // entries
    return bootstrap(rows[:, None, :], statistic, counts=[count], confidence=confidence, seed=seed)[0]


def _squared_distances(values: FloatArray, totals: FloatArray, metric: Metric) -> FloatArray:
    """Squared distances between values, (sums or 1, values, values)."""
    if metric == "nominal":
        return (1 - np.eye(len(values)))[None]
    places = values[None] if metric == "interval" else np.cumsum(totals, axis=1) - totals / 2
    return (places[:, :, None] - places[:, None, :]) ** 2
