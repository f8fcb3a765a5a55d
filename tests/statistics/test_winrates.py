"""Win rates and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heedful.errors import DataError
from heedful.statistics import paired_difference, wilson, win_rate


def test_win_rate_by_hand() -> None:
    estimate = win_rate([1, 0.5, 0, 1])
    assert estimate.value == 0.625
    assert estimate == wilson(2.5, 4)


def test_the_papers_interval() -> None:
    """85 +- 3 % (SPEC, headline results) is what about 500 independent comparisons give."""
    estimate = win_rate(np.repeat([1, 0], [425, 75]))
    assert estimate.value == 0.85
    assert (estimate.high - estimate.low) / 2 == pytest.approx(0.03, abs=0.002)


def test_several_labelers_of_one_prompt_widen_the_interval() -> None:
    outcomes = np.repeat(np.random.default_rng(1).integers(0, 2, 80), 3)
    prompts = np.repeat(np.arange(80), 3)
    clustered, independent = win_rate(outcomes, prompts), win_rate(outcomes)
    assert clustered.value == independent.value
    ratio = (clustered.high - clustered.low) / (independent.high - independent.low)
    assert ratio == pytest.approx(math.sqrt(3), rel=0.1)


def test_swapping_the_models_mirrors_the_win_rate() -> None:
    outcomes = np.array([1, 0.5, 0, 1, 1, 0, 1, 0.5])
    ours, theirs = win_rate(outcomes), win_rate(1 - outcomes)
    assert (ours.value, ours.low, ours.high) == pytest.approx((1 - theirs.value, 1 - theirs.high, 1 - theirs.low))


@pytest.mark.parametrize("wrong", [2, -1, 0.7, math.nan])
def test_not_an_outcome(wrong: float) -> None:
    with pytest.raises(DataError, match="not an outcome"):
        win_rate([1, wrong])


def test_paired_difference_by_hand() -> None:
    first, second = np.random.default_rng(2).normal([[5.0], [4.0]], 1.0, size=(2, 100))
    estimate = paired_difference(first, second)
    assert estimate.value == pytest.approx((first - second).mean())
    assert estimate.standard_error == pytest.approx((first - second).std() / 10, rel=0.06)


def test_a_paired_difference_knows_more_than_two_intervals() -> None:
    """Prompts differ much, the two models by exactly 1 on each: no uncertainty is left."""
    prompts = np.random.default_rng(3).normal(scale=10, size=50)
    estimate = paired_difference(prompts + 1, prompts)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.0, 1.0, 1.0))


def test_paired_difference_over_clusters_and_unequal_lengths() -> None:
    first = np.repeat([1.0, 2.0, 4.0], 2)
    clustered = paired_difference(first, np.zeros(6), ["a", "a", "b", "b", "c", "c"])
    assert clustered.standard_error == pytest.approx(paired_difference([1, 2, 4], [0, 0, 0]).standard_error)
    with pytest.raises(DataError, match="not pairs"):
        paired_difference([1.0], [1.0, 2.0])
