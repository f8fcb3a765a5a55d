"""Krippendorff's alpha against his own published examples, the krippendorff package and hand-made weak orders."""

from __future__ import annotations

import math
from typing import Any, Literal

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.statistics.test_agreement import ranking

from heedful.errors import DataError
from heedful.records import Ranking, Rating
from heedful.statistics import Estimate, krippendorff_alpha, labeler_agreement, ranking_alpha, rating_alpha

METRICS: tuple[Literal["nominal", "ordinal", "interval"], ...] = ("nominal", "ordinal", "interval")
NAN = math.nan

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", C: four observers, twelve units, answers missing.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


def alpha(table: Any, metric: Any, **kwargs: Any) -> Estimate:
    """From a table (labelers, items), NaN where missing."""
    data = np.asarray(table, dtype=float)
    labelers, items = np.indices(data.shape)
    return krippendorff_alpha(items.ravel(), labelers.ravel(), data.ravel(), metric=metric, **kwargs)


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_example_with_missing_answers(metric: str, published: float) -> None:
    estimate = alpha(FOUR_OBSERVERS, metric)
    assert estimate.value == pytest.approx(published, abs=5e-4)
    assert estimate.count == 40  # the 41st answer stands alone in its unit
    assert estimate.low < estimate.value < estimate.high


def test_krippendorffs_binary_example() -> None:
    """The same, A: two observers, ten units, alpha = 1 - 19 * 4*2 / (14 * 6 * 2) = 0.095."""
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha([meg, owen], "nominal").value == pytest.approx(1 - 19 * 8 / (2 * 14 * 6))
    assert alpha([meg, owen], "nominal").value == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_alpha_is_the_packages(metric: Any, data: st.DataObject) -> None:
    labelers, items = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 8))
    answer = st.one_of(st.just(NAN), st.integers(1, 7).map(float))
    table = np.array(
        data.draw(st.lists(st.lists(answer, min_size=items, max_size=items), min_size=labelers, max_size=labelers))
    )
    ours = alpha(table, metric)
    paired = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    assert ours.count == (~np.isnan(paired)).sum()
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        assert math.isnan(ours.value)  # nothing could have disagreed; the package refuses or says 1
        return
    theirs = krippendorff.alpha(reliability_data=paired, level_of_measurement=metric)
    assert ours.value == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_alpha_does_not_depend_on_names_order_or_a_constant(metric: Any) -> None:
    rng = np.random.default_rng(1)
    table = np.where(rng.random((4, 30)) < 0.2, NAN, rng.integers(1, 8, (4, 30)) + 0.0)
    before = alpha(table, metric).value
    assert alpha(rng.permutation(rng.permutation(table), axis=1), metric).value == pytest.approx(before)
    assert alpha(table + 3, metric).value == pytest.approx(before)
    assert alpha(8 - table, metric).value == pytest.approx(before)
    stretched = alpha(table**3, metric).value
    assert (stretched == pytest.approx(before)) is (metric != "interval")


def test_perfect_chance_and_opposite() -> None:
    rng = np.random.default_rng(2)
    same = rng.integers(1, 8, 400)
    assert alpha([same, same], "ordinal").value == 1
    assert abs(alpha(rng.integers(1, 8, (2, 4000)), "ordinal").value) < 0.05
    assert alpha([same, 8 - same], "interval").value < -0.9


def test_an_interval_is_over_clusters() -> None:
    """Each prompt's items four times over: as uncertain as once."""
    rng = np.random.default_rng(3)
    truth = rng.integers(1, 8, 150)
    table = np.clip(truth + rng.integers(-2, 3, (3, 150)), 1, 7)
    once = alpha(table, "interval")
    data = np.tile(table, 4)
    labelers, items = np.indices(data.shape)
    repeated = krippendorff_alpha(
        items.ravel(), labelers.ravel(), data.ravel(), metric="interval", clusters=(items % 150).ravel()
    )
    assert repeated.standard_error == pytest.approx(once.standard_error, rel=0.02)
    assert alpha(data, "interval").standard_error == pytest.approx(once.standard_error / 2, rel=0.1)


def test_the_interval_covers() -> None:
    """Of 100 samples of 80 items the 95 % interval should hold the value of all 20,000 items about 95 times."""
    rng = np.random.default_rng(4)

    def draw(size: int) -> Any:
        return np.clip(np.rint(rng.normal(4, 1.2, size) + rng.normal(0, 1, (3, size))), 1, 7)

    truth = alpha(draw(20000), "ordinal").value
    covered = sum(e.low <= truth <= e.high for e in (alpha(draw(80), "ordinal", seed=s) for s in range(100)))
    assert 88 <= covered <= 99


def test_a_later_answer_replaces_an_earlier_and_what_cannot_be_is_refused() -> None:
    items, labelers = ["x", "x", "y", "y", "x"], ["ann", "bob", "ann", "bob", "ann"]
    assert krippendorff_alpha(items, labelers, [1, 2, 3, 3, 2], metric="nominal").value == 1
    with pytest.raises(DataError, match="columns do not match"):
        krippendorff_alpha(items, labelers, [1], metric="nominal")
    with pytest.raises(DataError, match="'x' in two"):
        krippendorff_alpha(items, labelers, [1, 2, 3, 3, 2], metric="nominal", clusters=["p", "p", "p", "p", "q"])
    with pytest.raises(DataError, match="too many different values"):
        alpha([np.arange(33), np.arange(33)], "interval")


@pytest.mark.parametrize("table", [np.zeros((0, 0)), [[1, 2, 3]], [[1, NAN], [NAN, 2]], [[NAN, NAN]] * 2])
def test_nobody_answered_the_same_item(table: Any) -> None:
    estimate = alpha(table, "ordinal")
    assert estimate.count == 0
    assert math.isnan(estimate.value)


def test_ratings() -> None:
    table = np.array([[1, 4, 7, 5], [2, 4, 6, 5]])
    ratings = [
        Rating(id=f"{lab}{i}", prompt_id=f"p{i // 2}", response_id=f"r{i}", labeler=f"l{lab}", overall=int(table[lab, i]))
        for lab in range(2)
        for i in range(4)
    ]
    for metric in METRICS:
        assert rating_alpha(ratings, metric=metric).value == pytest.approx(alpha(table, metric).value)
    assert rating_alpha(ratings).value == pytest.approx(alpha(table, "ordinal").value)


# ---------------------------------------------------------------------------------------------------- weak orders


def test_weak_orders_by_hand() -> None:
    """ann a<b<c, bob a<b=c. Pairs ab, ac agree, bc is a preference against a tie.

    Both ways round: n = 12, coincidences 4 + 4 on +-1 with themselves, (1, 0) and its mirrors 1 each. Observed sum of
    o d^2 = 4 * 1. Totals n(1) = n(-1) = 5, n(0) = 2: sum n n d^2 = 2 * 5 * 5 * 4 + 4 * 5 * 2 * 1 = 240.
    """
    estimate = ranking_alpha([ranking("p", "ann", a=1, b=2, c=3), ranking("p", "bob", a=1, b=2, c=2)])
    assert estimate.value == pytest.approx(1 - 11 * 4 / 240)
    assert estimate.count == 6
    assert math.isnan(estimate.low)  # one prompt


def test_without_ties_alpha_is_twice_the_agreement_less_one() -> None:
    rng = np.random.default_rng(5)
    rankings = [r for p in range(300) for r in _noisy(rng, f"p{p}", 5, ties=False, present=1.0)]
    assert ranking_alpha(rankings).value == pytest.approx(2 * labeler_agreement(rankings).value - 1, abs=1e-3)


def test_weak_orders_are_the_packages_alpha_of_pairs_both_ways_round_interval_or_ordinal() -> None:
    rng = np.random.default_rng(6)
    rankings = [r for p in range(40) for r in _noisy(rng, f"p{p}", int(rng.integers(2, 6)), ties=True)]
    units: dict[tuple[str, str, str], list[float]] = {}
    for r in rankings:
        for i, a in enumerate(r.response_ids):
            for j, b in enumerate(r.response_ids):
                if i != j:
                    row = units.setdefault((r.prompt_id, a, b), [NAN] * 3)
                    row[int(r.labeler[-1])] = float(np.sign(r.ranks[j] - r.ranks[i]))
    table = np.array(list(units.values())).T
    for level in ("interval", "ordinal"):
        theirs = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
        assert ranking_alpha(rankings).value == pytest.approx(theirs, abs=1e-9)


def test_weak_orders_do_not_depend_on_names_or_order() -> None:
    rng = np.random.default_rng(7)
    rankings = [r for p in range(30) for r in _noisy(rng, f"p{p}", 4, ties=True)]
    before = ranking_alpha(rankings).value
    renamed = []
    for i in rng.permutation(len(rankings)):
        r, order = rankings[i], rng.permutation(4)
        # names turned round: every pair's "first" response becomes its second
        ids = tuple(f"{9 - int(r.response_ids[k][-1])}-{r.response_ids[k]}" for k in order)
        ranks = tuple(10 * r.ranks[k] + 1 for k in order)
        renamed.append(Ranking(id=r.id, prompt_id=f"x{r.prompt_id}", response_ids=ids, ranks=ranks, labeler=r.labeler[::-1]))
    assert ranking_alpha(renamed).value == pytest.approx(before)


def _noisy(rng: np.random.Generator, prompt: str, k: int, *, ties: bool, present: float = 0.8) -> list[Ranking]:
    quality = rng.normal(size=k)
    found = []
    for labeler in range(3):
        ranks = np.argsort(np.argsort(quality + rng.normal(size=k))) + 1
        ranks = (ranks + 1) // 2 if ties else ranks
        if rng.random() < present:
            found.append(ranking(prompt, f"l{labeler}", **{f"r{i}": int(rank) for i, rank in enumerate(ranks)}))
    return found
