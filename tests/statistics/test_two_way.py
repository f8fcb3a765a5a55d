"""Two-way intervals: by hand, against statsmodels, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from tests.statistics.studies import DESIGNS, crossing, outcomes

from heedful.errors import DataError
from heedful.statistics import bootstrap_mean, two_way_difference, two_way_mean, two_way_win_rate, wilson

DESIGN = DESIGNS[0]


def test_by_hand() -> None:
    """Two prompts by two labelers, values 0 0 / 0 4: mean 1, residuals -1 -1 / -1 3, each cluster half, each cell a quarter."""
    found = two_way_mean([0, 0, 0, 4], ["p", "p", "q", "q"], ["a", "b", "a", "b"])
    over_prompts = ((-2 / 4) ** 2 + (2 / 4) ** 2) / (1 - 1 / 2)
    over_cells = (3 * (1 / 4) ** 2 + (3 / 4) ** 2) / (1 - 1 / 4)
    assert found.value == 1
    assert found.by_prompt.standard_error**2 == pytest.approx(over_prompts)
    assert found.by_labeler.standard_error**2 == pytest.approx(over_prompts)
    variance = 2 * over_prompts - over_cells
    assert found.two_way.standard_error**2 == pytest.approx(variance)
    degrees = max(variance**2 / (2 * over_prompts**2 / 1 + over_cells**2 / 3), 1)
    assert found.degrees_of_freedom == pytest.approx(degrees)
    assert found.two_way.high - found.value == pytest.approx(stats.t.ppf(0.975, degrees) * math.sqrt(variance))
    assert (found.num_prompts, found.num_labelers, found.two_way.count) == (2, 2, 4)


def test_a_crossing_with_equal_clusters_is_statsmodels() -> None:
    """With equal clusters 1 / (1 - w) is G / (G - 1), which statsmodels applies to each part when asked for one by one."""
    generator = np.random.default_rng(0)
    prompts, labelers = np.repeat(np.arange(30), 8), np.tile(np.arange(8), 30)
    values = generator.normal(size=30)[prompts] + generator.normal(size=8)[labelers] + generator.normal(size=240)
    found = two_way_mean(values, prompts, labelers)
    fit = sm.OLS(values, np.ones(240))
    for groups, ours in ((prompts, found.by_prompt), (labelers, found.by_labeler)):
        theirs = fit.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}).bse[0]
        count = len(np.unique(groups))
        assert ours.standard_error**2 == pytest.approx(theirs**2 * count / (count - 1))
    groups = np.stack([prompts, labelers], axis=1)
    both = fit.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}).bse[0] ** 2
    prompt, labeler = found.by_prompt.standard_error**2, found.by_labeler.standard_error**2
    cell = found.naive.standard_error**2
    expected = prompt * 29 / 30 + labeler * 7 / 8 - cell * 239 / 240
    assert both == pytest.approx(expected)
    assert found.two_way.standard_error**2 == pytest.approx(prompt + labeler - cell)


def test_one_way_by_prompt_is_about_the_bootstrap() -> None:
    prompts, labelers = crossing(DESIGN, np.random.default_rng(1))
    values = outcomes(DESIGN, prompts, labelers, 1, np.random.default_rng(2))[0]
    drawn = bootstrap_mean(values, prompts)
    assert two_way_mean(values, prompts, labelers).by_prompt.standard_error == pytest.approx(drawn.standard_error, rel=0.05)


def test_labelers_who_differ_widen_the_interval() -> None:
    prompts, labelers = np.repeat(np.arange(50), 4), np.tile(np.arange(4), 50)
    found = two_way_mean(np.isin(labelers, (0, 1)).astype(float), prompts, labelers)
    assert found.by_prompt.plus_minus < 0.02
    assert found.two_way.plus_minus > 0.25


def test_without_any_effect_the_floor_holds() -> None:
    """Each prompt and each labeler has exactly the same mean: the sum of the parts is negative."""
    labelers = np.repeat(np.arange(6), 6)
    prompts = np.tile(np.arange(6), 6)
    values = ((labelers + prompts) % 2).astype(float)
    found = two_way_mean(values, prompts, labelers)
    assert found.by_prompt.standard_error == pytest.approx(0)
    assert found.two_way.standard_error == pytest.approx(found.naive.standard_error)


def test_a_win_rate_stays_within_bounds_and_swaps() -> None:
    generator = np.random.default_rng(3)
    prompts, labelers = crossing(DESIGN, generator)
    values = (generator.random(len(prompts)) < 0.995).astype(float)
    ours, theirs = two_way_win_rate(values, prompts, labelers), two_way_win_rate(1 - values, prompts, labelers)
    assert 0 < ours.two_way.low < ours.value < ours.two_way.high < 1
    assert (theirs.two_way.low, theirs.two_way.high) == pytest.approx((1 - ours.two_way.high, 1 - ours.two_way.low))


def test_independent_comparisons_give_about_wilson() -> None:
    values = (np.arange(400) % 5 != 0).astype(float)
    found = two_way_win_rate(values, np.arange(400), np.arange(400))
    assert found.two_way.low == pytest.approx(wilson(320, 400).low, abs=0.001)
    assert found.naive.high == pytest.approx(wilson(320, 400).high, abs=0.001)


def test_all_won() -> None:
    found = two_way_win_rate([1.0] * 6, [0, 0, 1, 1, 2, 2], ["a", "b"] * 3)
    assert (found.value, found.two_way.high) == (1, 1)
    assert found.two_way.low == pytest.approx(wilson(2, 2).low), "no surer than two labelers allow"


def test_one_labeler_says_nothing_of_others() -> None:
    found = two_way_win_rate([1, 0, 1], ["p", "q", "r"], ["a", "a", "a"])
    assert math.isnan(found.two_way.low)
    assert math.isnan(found.by_labeler.standard_error)
    assert found.by_prompt.low < found.value < found.by_prompt.high


def test_nothing() -> None:
    found = two_way_win_rate([], [], [])
    assert found.two_way.count == 0
    assert math.isnan(found.value)


def test_a_difference_knows_more_than_two_intervals() -> None:
    generator = np.random.default_rng(4)
    prompts, labelers = crossing(DESIGN, generator)
    shared = generator.normal(size=200)[prompts] + generator.normal(size=12)[labelers]
    first, second = (shared + shift + generator.normal(scale=0.1, size=len(shared)) for shift in (0.3, 0.0))
    difference = two_way_difference(first, second, prompts, labelers)
    assert difference.value == pytest.approx(0.3, abs=0.03)
    assert difference.two_way.plus_minus < two_way_mean(first, prompts, labelers).two_way.plus_minus / 10


def test_order_and_names_mean_nothing() -> None:
    prompts, labelers = crossing(DESIGN, np.random.default_rng(5))
    values = outcomes(DESIGN, prompts, labelers, 1, np.random.default_rng(6))[0]
    order = np.random.default_rng(7).permutation(len(values))
    one = two_way_win_rate(values, prompts, labelers)
    other = two_way_win_rate(values[order], [f"p{p}" for p in prompts[order]], [f"l{x}" for x in labelers[order]])
    assert (one.two_way.low, one.two_way.high) == pytest.approx((other.two_way.low, other.two_way.high), rel=1e-12)


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="not an outcome"):
        two_way_win_rate([0.7], ["p"], ["a"])
    with pytest.raises(DataError, match="columns do not match"):
        two_way_mean([1.0, 2.0], ["p"], ["a"])
    with pytest.raises(DataError, match="not a number"):
        two_way_mean([math.nan], ["p"], ["a"])
    with pytest.raises(DataError, match="not pairs"):
        two_way_difference([1.0], [], ["p"], ["a"])
