"""Intervals against published numbers, scipy, analytic standard errors and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from heedful.errors import DataError
from heedful.statistics import Estimate, bootstrap_mean, bootstrap_ratio, percent, proportion, wilson
from heedful.statistics.intervals import bootstrap, proportions, ratio


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_table(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3."""
    estimate = wilson(successes, count)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    assert estimate.value == successes / count
    assert estimate.count == count


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (7, 10), (50, 50)])
def test_wilson_is_scipys(successes: int, count: int, confidence: float) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(confidence_level=confidence, method="wilson")
    estimate = wilson(successes, count, confidence=confidence)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_takes_halves_and_refuses_what_is_no_share() -> None:
    assert wilson(7, 10).low < wilson(7.5, 10).low < wilson(8, 10).low
    for successes in (-1, 11):
        with pytest.raises(DataError, match="not a share"):
            wilson(successes, 10)


@pytest.mark.parametrize(
    "estimate", [wilson(0, 0), bootstrap_mean([]), proportion([]), proportion([], []), proportion([0], ["a"], trials=[0])]
)
def test_no_data_is_nan(estimate: Estimate) -> None:
    assert estimate.count == 0
    assert all(math.isnan(x) for x in (estimate.value, estimate.low, estimate.high, estimate.standard_error))


def test_bootstrap_mean_has_the_analytic_standard_error() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=200)
    estimate = bootstrap_mean(values)
    analytic = values.std() / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(analytic, rel=0.05)
    assert (estimate.low, estimate.high) == pytest.approx(
        (values.mean() - 1.96 * analytic, values.mean() + 1.96 * analytic), abs=0.15 * analytic
    )
    narrower = bootstrap_mean(values, confidence=0.8)
    assert narrower.high - narrower.low == pytest.approx(2 * 1.2816 * analytic, rel=0.08)


def test_bootstrap_ratio_has_the_linearised_standard_error() -> None:
    """Delta method for a ratio of cluster totals (Cochran 1977, 6.4): sqrt(sum (y - R x)^2) / sum x."""
    rng = np.random.default_rng(2)
    tops, bottoms = rng.integers(0, 5, 150), rng.integers(5, 9, 150)
    ratio = tops.sum() / bottoms.sum()
    estimate = bootstrap_ratio(tops, bottoms)
    assert estimate.value == pytest.approx(ratio)
    assert estimate.count == bottoms.sum()
    assert estimate.standard_error == pytest.approx(math.sqrt(((tops - ratio * bottoms) ** 2).sum()) / bottoms.sum(), rel=0.05)


def test_rows_of_one_cluster_are_not_new_evidence() -> None:
    """Each value four times in its cluster: exactly as uncertain as once, where rows alone would look twice as sure."""
    values = np.random.default_rng(3).normal(size=100)
    clusters = [f"prompt {i}" for i in range(100)]
    once = bootstrap_mean(values, clusters)
    repeated = bootstrap_mean(np.tile(values, 4), clusters * 4)
    independent = bootstrap_mean(np.tile(values, 4))
    assert repeated.standard_error == pytest.approx(once.standard_error, rel=1e-9)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert repeated.count == 400
    assert independent.standard_error == pytest.approx(once.standard_error / 2, rel=0.06)


def test_the_interval_over_clusters_covers_and_wilsons_does_not() -> None:
    """60 prompts of 5 comparisons which mostly agree: how often does a 95 % interval hold the true 0.6?"""
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(60), 5)
    covered = naive = 0
    for seed in range(200):
        share = np.repeat(rng.beta(0.6, 0.4, 60), 5)  # mean 0.6, correlation 1/2 within a prompt
        outcomes = rng.random(300) < share
        estimate, independent = proportion(outcomes, clusters, resamples=400, seed=seed), proportion(outcomes)
        covered += estimate.low <= 0.6 <= estimate.high
        naive += independent.low <= 0.6 <= independent.high
    assert 0.90 <= covered / 200 <= 0.99
    assert naive / 200 < 0.82


def test_proportion_without_clusters_or_with_one_trial_in_each_is_wilsons() -> None:
    outcomes = [1.0, 0.5, 0.0, 1.0]
    assert proportion(outcomes) == proportion(outcomes, ["a", "b", "c", "d"]) == wilson(2.5, 4)
    assert proportion([3, 1], trials=[4, 2]) == wilson(4, 6)
    # two comparisons of one prompt: no longer independent
    assert proportion(outcomes, ["a", "b", "c", "c"]) != wilson(2.5, 4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_clusters_that_all_say_the_same_do_not_make_certainty(share: float) -> None:
    """A bootstrap over ten prompts that were all won is [1, 1]; the interval must be that of ten won, not of twenty."""
    outcomes = {0.0: [0, 0], 0.5: [0, 1], 1.0: [1, 1]}[share] * 10
    estimate = proportion(outcomes, np.repeat(np.arange(10), 2))
    expected = wilson(10 * share, 10)
    assert (estimate.value, estimate.low, estimate.high, estimate.count) == (share, expected.low, expected.high, 20)


def test_one_cluster() -> None:
    assert math.isnan(bootstrap_mean([1.0, 2.0], ["a", "a"]).low)
    estimate = proportion([1, 0, 1], ["a", "a", "a"])
    assert (estimate.low, estimate.high) == pytest.approx((wilson(2 / 3, 1).low, wilson(2 / 3, 1).high))


def test_clusters_without_observations_are_left_out() -> None:
    assert bootstrap_ratio([1, 2, 0, 0], [2, 2, 0, 0], ["a", "b", "c", "c"]) == bootstrap_ratio([1, 2], [2, 2], ["a", "b"])


def test_same_seed_same_numbers() -> None:
    values = np.random.default_rng(5).normal(size=50)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_the_order_of_rows_does_not_matter() -> None:
    values, clusters = np.arange(12.0), np.array(list("abcabcabdabd"))
    order = np.random.default_rng(6).permutation(12)
    assert bootstrap_mean(values[order], clusters[order]) == bootstrap_mean(values, clusters)


def test_columns_must_match() -> None:
    with pytest.raises(DataError, match="columns do not match"):
        bootstrap_mean([1.0, 2.0], ["a"])


def test_percent_is_the_papers_form() -> None:
    assert percent(Estimate(0.726, 0.711, 0.741, 1000, 0.0077)) == "72.6 ± 1.5 %"
    assert percent(Estimate(0.5, math.nan, math.nan, 3, math.nan)) == "50.0 %"
    assert percent(wilson(0, 0)) == "n/a"


def test_series_have_the_intervals_that_each_has_alone() -> None:
    """Up to which prompts are drawn; Wilson's rules for one trial each, equal clusters and a single one are the same."""
    rng = np.random.default_rng(7)
    many, few, one_prompt = rng.integers(1, 5, 300), rng.integers(0, 3, 300), np.eye(300)[5] * 9
    trials = np.column_stack([many, few, np.ones(300), np.full(300, 2), one_prompt]).astype(np.float64)
    wins = rng.binomial(trials.astype(int), 0.6).astype(float)
    wins[:, 3] = 2
    together = proportions(wins, trials)
    for series, estimate in enumerate(together):
        alone = proportion(wins[:, series], np.arange(300), trials=trials[:, series])
        assert (estimate.value, estimate.count) == (pytest.approx(alone.value), alone.count)
        if series < 2:
            assert estimate.standard_error == pytest.approx(alone.standard_error, rel=0.08)
            assert (estimate.low, estimate.high) == pytest.approx((alone.low, alone.high), abs=0.15 * alone.standard_error * 4)
        else:
            assert (estimate.low, estimate.high) == (alone.low, alone.high)
    assert proportions(np.zeros((4, 1)), np.zeros((4, 1)))[0].count == 0


def test_a_series_in_one_cluster_has_no_interval_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    rows = np.stack([rng.integers(0, 5, (60, 2)), np.full((60, 2), 5)], axis=2).astype(float)
    rows[1:, 1] = 0
    whole = bootstrap(rows, ratio, counts=[300, 5])
    assert math.isnan(whole[1].low)
    assert not math.isnan(whole[1].value)
    monkeypatch.setattr("heedful.statistics.intervals._BLOCK", 7 * 60)
    assert bootstrap(rows, ratio, counts=[300, 5])[0] == whole[0]
