"""Win rates of a model against a fixed baseline (SPEC 4.1)."""

from __future__ import annotations

import numpy as np

from heedful.errors import DataError
from heedful.statistics.intervals import Estimate, Labels, Numbers, bootstrap_mean, proportion


def win_rate(outcomes: Numbers, clusters: Labels | None = None, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of ``outcomes`` (1: the model is preferred, 0.5: tie, 0: the baseline is preferred) with its interval.

    ``clusters``: the prompt id of each comparison, if prompts have several comparisons (by several labelers or of several
    samples). The interval is then a bootstrap over prompts. Without it, or with one comparison per prompt, it is Wilson's.
    Every comparison has the same weight. The paper does not say how it computed its intervals. Raises DataError for other
    outcomes.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    wrong = values[~np.isin(values, (0.0, 0.5, 1.0))]
    if len(wrong):
        raise DataError("not an outcome of a comparison", expected="1, 0.5 (tie) or 0", got=str(wrong[0]))
    return proportion(values, clusters, confidence=confidence, seed=seed)


def paired_difference(
    first: Numbers, second: Numbers, clusters: Labels | None = None, *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of ``first - second``, entry by entry, with a bootstrap interval over clusters (by default each entry is its own).

    Use it for two models measured on the same prompts: their difference is more certain than the two separate intervals
    suggest. Raises DataError if the lengths differ.
    """
    if len(first) != len(second):
        raise DataError("not pairs", expected="the same number of entries in both", got=f"{len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_mean(differences, clusters, confidence=confidence, seed=seed)
