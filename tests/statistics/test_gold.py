"""Gold scores by hand."""

from __future__ import annotations

import pytest
from tests.statistics.test_agreement import ranking

from heedful.errors import DataError
from heedful.records import Rating
from heedful.statistics import gold_flag_scores, gold_overall_scores, gold_ranking_scores, wilson

GOLD = {"p": {"p-a": 1, "p-b": 2, "p-c": 2}, "q": {"q-a": 2, "q-b": 1}}


def rating(labeler: str, response: str, overall: int = 4, again: str = "", **flags: bool) -> Rating:
    return Rating(
        id=labeler + response + again,
        prompt_id=response[0],
        response_id=response,
        labeler=labeler,
        overall=overall,
        flags=flags,
    )


def test_rankings_by_hand() -> None:
    """Known: a over b and a over c in p (bc is tied in gold), b over a in q."""
    found = gold_ranking_scores(
        [
            ranking("p", "ann", a=1, b=3, c=2),
            ranking("q", "ann", a=2, b=1),
            ranking("p", "bob", a=2, b=2, c=1),  # ab tied: half; ac wrong
            ranking("q", "bob", a=1, b=2),
            ranking("p", "cem", b=1, c=2),  # ranked no known pair
            ranking("r", "dora", a=1, b=2),  # not gold
            ranking("p", "eve", c=2, d=1, a=1),  # gold does not know d
        ],
        GOLD,
    )
    assert {name: (e.value, e.count) for name, e in found.items()} == {
        "ann": (1.0, 3),
        "bob": (pytest.approx(0.5 / 3), 3),
        "eve": (1.0, 1),
    }
    # three of three known pairs on two prompts is as sure as two of two
    assert found["ann"].low == pytest.approx(wilson(2, 2).low)


def test_the_later_answer_holds() -> None:
    twice = [ranking("q", "ann", a=1, b=2), ranking("q", "ann", a=2, b=1)]
    assert gold_ranking_scores(twice, GOLD)["ann"].value == 1
    assert gold_ranking_scores(twice[::-1], GOLD)["ann"].value == 0
    ratings = [rating("ann", "p1", 2), rating("ann", "p1", 6, again="2")]
    assert gold_overall_scores(ratings, {"p1": (6, 7)})["ann"].value == 1


def test_who_ties_everything_scores_a_half() -> None:
    tied = [ranking("p", "ann", a=1, b=1, c=1), ranking("q", "ann", a=1, b=1)]
    assert gold_ranking_scores(tied, GOLD)["ann"].value == 0.5


def test_flags_by_hand() -> None:
    gold = {"p1": {"hallucination": True, "fails_task": False}, "q1": {"hallucination": False}}
    found = gold_flag_scores(
        [
            rating("ann", "p1", hallucination=True, fails_task=True),
            rating("ann", "q1", hallucination=False),
            rating("bob", "p1", hallucination=True),  # one left open
            rating("bob", "p2", hallucination=True),  # not gold
            rating("cem", "p2"),
        ],
        gold,
    )
    assert {name: (e.value, e.count) for name, e in found.items()} == {"ann": (pytest.approx(2 / 3), 3), "bob": (0.5, 2)}


def test_overall_by_hand() -> None:
    ratings = [rating("ann", "p1", 6), rating("ann", "q1", 3), rating("bob", "p1", 5), rating("bob", "p2", 7)]
    found = gold_overall_scores(ratings, {"p1": (6, 7), "q1": (1, 2)})
    assert {name: (e.value, e.count) for name, e in found.items()} == {"ann": (0.5, 2), "bob": (0.0, 1)}
    assert (found["ann"].low, found["ann"].high) == (wilson(1, 2).low, wilson(1, 2).high)
    with pytest.raises(DataError, match="not a range of ratings"):
        gold_overall_scores(ratings, {"p1": (7, 6)})


def test_the_interval_in_the_modules_docstring() -> None:
    assert (wilson(18, 20).low, wilson(18, 20).high) == pytest.approx((0.70, 0.97), abs=0.005)
