"""Expected reward of the best of n samples, from stored scores, without new sampling and without bias.

With N scores of one prompt in order, s(1) <= ... <= s(N), the mean over all subsets of size n of their largest score is::

    sum over i of   s(i) * C(i - 1, n - 1) / C(N, n)

Nakano et al. 2021 use this estimator for best-of-n. It is unbiased for the expected maximum of n samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from heedful.errors import DataError
from heedful.statistics.intervals import Estimate, FloatArray, bootstrap_mean


def best_of_n(
    scores: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
    *,
    values: Mapping[str, Sequence[float]] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[int, Estimate]:
    """For each n in ``sizes``: the mean over prompts of the expected score of the best of n, with an interval over prompts.

    ``scores`` maps prompt id to the scores of its samples. If ``values`` (same shape) are given, ``scores`` choose the sample
    and ``values`` are averaged: the scores of a held-out reward model show over-optimisation. Samples with equal scores are
    equally likely to be chosen. Raises DataError if a prompt has fewer samples than the largest n, or ``values`` do not match.
    """
    if not scores or not sizes:
        raise DataError("nothing to choose from", expected="scores of at least one prompt, and sizes", got="none")
    held = scores if values is None else values
    weights: dict[tuple[int, int], FloatArray] = {}
    means: dict[int, list[float]] = {n: [] for n in sizes}
    for prompt, own in scores.items():
        other = held.get(prompt, ())
        if len(other) != len(own) or not np.isfinite([*own, *other]).all():
            raise DataError(
                "scores do not match",
                expected=f"finite numbers, and as many values as scores for prompt {prompt!r}",
                got=f"{len(own)} scores and {len(other)} values, or numbers that are not finite",
            )
        ordered = _in_order(np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64))
        for n in sizes:
            if not 1 <= n <= len(own):
                raise DataError(
                    f"best of {n} needs {n} samples", expected=f"n from 1 to {len(own)} for prompt {prompt!r}", got=str(n)
                )
            if (len(own), n) not in weights:
                weights[len(own), n] = order_weights(len(own), n)
            means[n].append(float(ordered @ weights[len(own), n]))
    return {n: bootstrap_mean(means[n], confidence=confidence, seed=seed) for n in sizes}


def order_weights(num_samples: int, n: int) -> FloatArray:
    """For each i, the probability that the i-th smallest of ``num_samples`` is the largest of n drawn without replacement."""
    total = math.comb(num_samples, n)
    return np.array([math.comb(i, n - 1) / total for i in range(num_samples)])


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from the policy in nats, log n - (n - 1) / n. Exact if no two scores are equal, else an upper bound."""
    return math.log(n) - (n - 1) / n


def _in_order(scores: FloatArray, values: FloatArray) -> FloatArray:
    """Values by ascending score. Samples with equal scores get the mean of their values, so their order does not matter."""
    _, group = np.unique(scores, return_inverse=True)
    means = np.bincount(group, weights=values) / np.bincount(group)
    return means[np.sort(group)]
