"""Answers and rankings in columns: what everything else is counted from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.quick import takes_less_than
from tests.statistics.test_agreement import ranking

from heedful.statistics import krippendorff_alpha, labeler_kappas
from heedful.statistics.answers import answers, coded, last_of_each, sums_within
from heedful.statistics.comparisons import comparisons


def test_coded_sorts_names_and_numbers() -> None:
    names, place = coded(["b", "a", "c", "a"])
    assert (names, place.tolist()) == (["a", "b", "c"], [1, 0, 2, 0])
    names, place = coded(np.array([10, 9, 10]))
    assert (names, place.tolist()) == (["9", "10"], [1, 0, 1])
    assert coded([])[0] == []


def test_last_of_each() -> None:
    assert last_of_each(np.array([5, 3, 5, 4, 3])).tolist() == [2, 3, 4]
    assert last_of_each(np.array([], dtype=np.int64)).tolist() == []


def test_sums_within() -> None:
    rows = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    assert sums_within(np.array([2, 0, 2]), rows, 3).tolist() == [[2, 20], [0, 0], [5, 50]]


def test_answers_by_hand() -> None:
    """bob's first answer to x is replaced, his missing one to y is no answer."""
    given = answers(["x", "x", "y", "y", "x"], ["ann", "bob", "ann", "bob", "bob"], [3, 1, 1, math.nan, 7], list("ppqqp"))
    assert given.labelers == ["ann", "bob"]
    assert given.values == [1, 3, 7]
    assert given.counts().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert given.item_cluster.tolist() == [0, 1]
    assert (given.num_items, given.num_clusters) == (2, 2)


def test_a_missing_answer_does_not_replace_one() -> None:
    given = answers(["x", "x"], ["ann", "ann"], [3, math.nan])
    assert given.counts().tolist() == [[1]]


def test_comparisons_say_which_response_is_better() -> None:
    """1 where the pair's second response is better; the first ranking fixes which response is which."""
    ann, bob = ranking("p", "ann", a=2, b=1, c=1), ranking("p", "bob", c=1, a=2)
    judged = comparisons([ann, bob, ranking("q", "bob", a=1, b=2), ranking("q", "ann", a=1)])
    assert (judged.prompts, judged.labelers) == (["p", "q"], ["ann", "bob"])
    assert judged.num_responses.tolist() == [3, 2]
    assert judged.pair_prompt.tolist() == [0, 0, 0, 1]
    rows = zip(judged.pair.tolist(), judged.labeler.tolist(), judged.sign.tolist(), strict=True)
    # pairs 0 to 2 are ab, ac, bc of p, 3 is ab of q
    assert sorted(rows) == [(0, 0, 1), (1, 0, 1), (1, 1, 1), (2, 0, 0), (3, 1, -1)]
    assert judged.sign_counts().tolist() == [[0, 0, 1], [0, 0, 2], [0, 1, 0], [1, 0, 0]]
    assert judged.sign_counts(judged.labeler == 0).tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert judged.prompt_sums(np.array([1, 2, 4, 8])).tolist() == [7, 8]


def test_each_two_responses_are_one_pair() -> None:
    judged = comparisons([ranking("p", "ann", a=1, b=2, c=3, d=4, e=5), ranking("p", "bob", e=5, d=4, c=3, b=2, a=1)])
    assert sorted(judged.pair.tolist()) == sorted([*range(10), *range(10)])
    assert judged.sign_counts().tolist() == [[2, 0, 0]] * 10


@pytest.mark.parametrize("count", [400_000])
def test_forty_labelers_and_ten_thousand_items_take_a_moment(count: int) -> None:
    """0.4 s each on one core of a server; a loop over pairs of labelers would take minutes."""
    rng = np.random.default_rng(1)
    items, labelers = np.divmod(np.arange(count), 40)
    values = np.clip(np.rint(rng.normal(4, 1, 10_000)[items] + rng.normal(0, 1, count)), 1, 7)
    alpha = takes_less_than(10, lambda: krippendorff_alpha(items, labelers, values, metric="ordinal"))
    kappas = takes_less_than(10, lambda: labeler_kappas(items, labelers, values > 4))
    assert alpha.count == count
    assert len(kappas) == 40
    assert all(kappa.low < kappa.value < kappa.high for kappa in kappas.values())
