"""Kappa against the literature's examples and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import inter_rater

from heedful.records import Rating
from heedful.statistics import Estimate, flag_agreement, fleiss_kappa, krippendorff_alpha, labeler_kappas


def from_table(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The two columns of answers that a table of counts (first's answer, second's answer) was made from."""
    pairs = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def cohen_kappas(first: Sequence[float], second: Sequence[float]) -> dict[str, Estimate]:
    """Two labelers' answers to the same items: each one's kappa against the other, which is Cohen's (1960)."""
    size = len(first)
    labelers = ["first"] * size + ["second"] * size
    return labeler_kappas([*range(size), *range(size)], labelers, [*first, *second])


def cohen(first: Sequence[float], second: Sequence[float]) -> Estimate:
    kappas = cohen_kappas(first, second)
    assert kappas["first"].value == pytest.approx(kappas["second"].value, nan_ok=True)
    return kappas["first"]


def long(table: Any) -> tuple[list[int], list[int], list[float]]:
    """Items, labelers, values of a table (items, labelers)."""
    data = np.asarray(table, dtype=float)
    items, labelers = np.indices(data.shape)
    return items.ravel().tolist(), labelers.ravel().tolist(), data.ravel().tolist()


def from_counts(counts: Any) -> tuple[list[int], list[int], list[float]]:
    """Answers of an aggregated table (items, values)."""
    rows = [(i, v) for i, row in enumerate(counts) for v, n in enumerate(row) for _ in range(n)]
    number: dict[int, int] = {}
    labelers = []
    for i, _ in rows:
        number[i] = number.get(i, -1) + 1
        labelers.append(number[i])
    return [i for i, _ in rows], labelers, [float(v) for _, v in rows]


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        # Cohen 1960, table 1 (200 cases): observed 0.70, expected 0.41
        ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], 0.29 / 0.59),
        # Fleiss, Cohen and Everitt 1969 (here 100 cases): observed 0.70, expected 0.475
        ([[53, 5, 2], [11, 14, 5], [1, 6, 3]], 0.225 / 0.525),
        # yes/no: observed 0.7, expected 0.5
        ([[20, 5], [10, 15]], 0.4),
        ([[0, 5], [5, 0]], -1.0),
    ],
)
def test_cohens_kappa_of_published_tables(table: list[list[int]], kappa: float) -> None:
    estimate = cohen(*from_table(table))
    assert estimate.value == pytest.approx(kappa)
    assert estimate.count == sum(map(sum, table))
    theirs: Any = inter_rater.cohens_kappa(np.array(table))
    assert estimate.value == pytest.approx(theirs.kappa)
    if 0 < kappa < 1:
        # two ways to an interval: ours draws items again, theirs is the large-sample one
        assert estimate.standard_error == pytest.approx(theirs.std_kappa, rel=0.1)
        assert (estimate.low, estimate.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.05)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_cohens_kappa_is_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    table = np.zeros((2, 2))
    np.add.at(table, (np.array(first, int), np.array(second, int)), 1)
    ours = cohen(first, second).value
    if np.diag(table).max() == table.sum():
        assert math.isnan(ours)
        return
    assert ours == pytest.approx(inter_rater.cohens_kappa(table, return_results=False), abs=1e-9)
    assert cohen(second, first).value == pytest.approx(ours)
    assert cohen([not a for a in first], [not b for b in second]).value == pytest.approx(ours)


def test_an_entry_that_one_left_open_is_left_out() -> None:
    nan = math.nan
    assert cohen([1, 0, nan, 1, 1], [1, 0, 1, nan, 0]) == cohen([1, 0, 1], [1, 0, 0])
    for nothing in (cohen_kappas([nan], [1.0]), cohen_kappas([], [])):
        assert nothing == {}


# The worked example of Wikipedia's article on Fleiss' kappa: 14 raters, 10 subjects, 5 categories, kappa = 0.210.
TEN_SUBJECTS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_fleiss_kappa_of_the_worked_example() -> None:
    """P = 0.378, Pe = 0.213."""
    estimate = fleiss_kappa(*from_counts(TEN_SUBJECTS))
    assert estimate.value == pytest.approx(0.210, abs=5e-4)
    assert estimate.count == 10
    assert estimate.low < estimate.value < estimate.high


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5).flatmap(lambda n: st.lists(st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=12))
)
def test_fleiss_kappa_is_statsmodels(table: list[list[int]]) -> None:
    ours = fleiss_kappa(*long(table)).value
    if len({v for row in table for v in row}) == 1:
        assert math.isnan(ours)
        return
    counts, _ = inter_rater.aggregate_raters(np.array(table), n_cat=3)
    assert ours == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-9)


def test_fleiss_kappa_with_different_numbers_of_labelers() -> None:
    """Items yy, ynn, nn and a lone y that does not count: P = (1 + 1/3 + 1) / 3, share of yes (1 + 1/3 + 0) / 3."""
    estimate = fleiss_kappa(list("aabbbccd"), list("uvuvwuvu"), [1, 1, 1, 0, 0, 0, 0, 1])
    expected = (4 / 9) ** 2 + (5 / 9) ** 2
    assert estimate.value == pytest.approx((7 / 9 - expected) / (1 - expected))
    assert estimate.count == 3


def test_fleiss_kappa_and_nominal_alpha_meet_with_many_items() -> None:
    rng = np.random.default_rng(1)
    table = (rng.random((3000, 1)) < 0.3) ^ (rng.random((3000, 4)) < 0.15)
    kappa, alpha = fleiss_kappa(*long(table)), krippendorff_alpha(*long(table), metric="nominal")
    assert kappa.value == pytest.approx(alpha.value, abs=1e-3)
    assert (kappa.low, kappa.high) == pytest.approx((alpha.low, alpha.high), abs=2e-3)


def test_each_labeler_against_the_others_and_against_references() -> None:
    """Item answers ann, bob, cem: 111 100 000 011. ann against the two others: table 2 2 / 2 2 -> kappa 0."""
    items, labelers, values = long([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]])
    kappas = labeler_kappas(items, [("ann", "bob", "cem")[i] for i in labelers], values)
    assert kappas["ann"].value == pytest.approx((4 / 8) / 1 * 2 - 1)
    # bob: against ann 1 1 / 1 1, against cem 2 0 / 0 2: 3 1 / 1 3
    assert kappas["bob"].value == kappas["cem"].value == pytest.approx((6 / 8 - 1 / 2) / (1 / 2))
    assert kappas["bob"].count == 8
    with_cem = labeler_kappas(items, [("ann", "bob", "cem")[i] for i in labelers], values, references={"cem"})
    assert {name: (e.value, e.count) for name, e in with_cem.items()} == {"ann": (0.0, 4), "bob": (1.0, 4)}
    assert with_cem["ann"].value == cohen([1, 1, 0, 0], [1, 0, 0, 1]).value


def test_kappas_do_not_depend_on_names_or_order() -> None:
    rng = np.random.default_rng(2)
    items, labelers, values = (np.array(c) for c in long((rng.random((60, 1)) < 0.5) ^ (rng.random((60, 4)) < 0.2)))
    names = np.array(["dora", "ann", "cem", "bob"])
    before = labeler_kappas(items, names[labelers], values)
    order = rng.permutation(len(items))
    after = labeler_kappas(items[order] * 7 + 1, names[::-1][labelers][order], values[order])
    for old, new in zip(names, names[::-1], strict=True):
        assert after[new].value == pytest.approx(before[old].value)
    assert fleiss_kappa(items[order], labelers[order], values[order]) == fleiss_kappa(items, names[labelers], values)


def test_flags_of_the_rating_form() -> None:
    def rating(labeler: str, response: str, **flags: bool) -> Rating:
        return Rating(
            id=labeler + response, prompt_id=response[0], response_id=response, labeler=labeler, overall=4, flags=flags
        )

    ratings = [
        rating("ann", "p1", hallucination=True, fails_task=False),
        rating("bob", "p1", hallucination=True, fails_task=False),
        rating("ann", "p2", hallucination=False),
        rating("bob", "p2", hallucination=True),
        rating("ann", "q1", hallucination=False, fails_task=False),
        rating("bob", "q1", hallucination=False, fails_task=False),
    ]
    found = flag_agreement(ratings)
    assert list(found) == ["fails_task", "hallucination"]
    own = found["hallucination"]
    assert (own.yes.value, own.yes.count) == (0.5, 6)
    assert (own.agreement.value, own.agreement.count) == (pytest.approx(2 / 3), 3)
    assert own.kappa.value == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    # nobody ever said yes: full agreement, and no kappa
    assert found["fails_task"].agreement.value == 1
    assert math.isnan(found["fails_task"].kappa.value)
    assert found["fails_task"].yes.value == 0
