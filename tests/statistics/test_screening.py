"""The four criteria on candidates who stand under random codes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import ConfigError, DataError
from heedful.statistics import (
    ScreeningCutoffs,
    ScreeningRecord,
    demonstration_score,
    screening_table,
    sensitive_counts,
    topic_coverage,
)


def record(candidate: str, **changed: Any) -> ScreeningRecord:
    """Well above every cut-off."""
    fields = {
        "sensitive_agreed": 95,
        "sensitive_answered": 100,
        "comparisons_agreed": 90,
        "comparisons_made": 100,
        "demonstration_scores": (7, 7, 7, 6),
    }
    return ScreeningRecord(candidate=candidate, **{**fields, **changed})


def test_the_papers_cutoffs() -> None:
    cutoffs = ScreeningCutoffs()
    assert (cutoffs.sensitive_agreement, cutoffs.comparison_agreement, cutoffs.demonstration_score) == (0.75, 0.75, 6)


@pytest.mark.parametrize(
    ("changed", "criterion", "standing"),
    [
        ({}, "sensitive", "met"),
        # 75 of 100 with one standard error of 4.3 %
        ({"sensitive_agreed": 75}, "sensitive", "borderline"),
        ({"sensitive_agreed": 79}, "sensitive", "borderline"),
        ({"sensitive_agreed": 80}, "sensitive", "met"),
        ({"sensitive_agreed": 71}, "sensitive", "borderline"),
        ({"sensitive_agreed": 70}, "sensitive", "not met"),
        ({"sensitive_agreed": 0, "sensitive_answered": 0}, "sensitive", "missing"),
        ({"comparisons_agreed": 60}, "comparison", "not met"),
        ({"comparisons_agreed": 3, "comparisons_made": 4}, "comparison", "borderline"),
        ({"comparisons_agreed": 74}, "comparison", "borderline"),
        # half a point of spread at least: 0.25 from four, 0.5 from one
        ({"demonstration_scores": (6, 6, 6, 6)}, "demonstration", "borderline"),
        ({"demonstration_scores": (7, 7)}, "demonstration", "met"),
        ({"demonstration_scores": (7,)}, "demonstration", "met"),
        ({"demonstration_scores": (5, 5, 6, 5)}, "demonstration", "not met"),
        ({"demonstration_scores": (3, 7, 7, 5)}, "demonstration", "borderline"),
        ({"demonstration_scores": ()}, "demonstration", "missing"),
    ],
)
def test_standing(changed: dict[str, Any], criterion: str, standing: str) -> None:
    (row,) = screening_table([record("BCDFGHJK", **changed)])
    for name in ("sensitive", "comparison", "demonstration"):
        assert getattr(row, f"{name}_standing") == (standing if name == criterion else "met")
    assert row.standing == standing


def test_the_least_standing_is_the_candidates_and_the_order_is_by_it_then_by_code() -> None:
    table = screening_table(
        [
            record("ZZZZZZZZ", comparisons_agreed=10),
            record("WWWWWWWW", sensitive_agreed=75, comparisons_agreed=10),
            record("XXXXXXXX", sensitive_agreed=75, demonstration_scores=()),
            record("VVVVVVVV"),
            record("TTTTTTTT", sensitive_agreed=75),
            record("BBBBBBBB"),
        ]
    )
    assert [(row.candidate[0], row.standing) for row in table] == [
        ("B", "met"),
        ("V", "met"),
        ("T", "borderline"),
        ("W", "not met"),
        ("Z", "not met"),
        ("X", "missing"),
    ]


@given(st.permutations(range(6)))
def test_the_order_of_records_says_nothing(order: list[int]) -> None:
    records = [record(letter * 8, sensitive_agreed=60 + 8 * i) for i, letter in enumerate("ZXVTRP")]
    assert screening_table([records[i] for i in order]) == screening_table(records)


def test_softer_and_harder() -> None:
    one = [record("BCDFGHJK", sensitive_agreed=80)]
    assert screening_table(one, ScreeningCutoffs(confidence=0.95))[0].standing == "borderline"
    assert screening_table(one, ScreeningCutoffs(sensitive_agreement=0.9))[0].standing == "not met"
    assert screening_table(one, ScreeningCutoffs(demonstration_score=7.0))[0].standing == "not met"
    assert screening_table(one, ScreeningCutoffs(comparison_agreement=0.9))[0].standing == "borderline"
    for changed in ({"sensitive_agreement": 75}, {"demonstration_score": 0}, {"confidence": 1.0}, {"comparison_agreement": -1}):
        with pytest.raises(ConfigError, match=next(iter(changed))):
            ScreeningCutoffs(**changed)


@pytest.mark.parametrize(
    "name", ["Ann Baker", "ann@example.org", "ANNBAKER", "BCDFGHJ", "BCDFGHJKL", "bcdfghjk", "BCDFGHJ1", ""]
)
def test_a_name_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(DataError, match="random code") as raised:
        record(name)
    assert not name or raised.value.got is None or name not in raised.value.got


def test_nothing_but_the_code_says_who_a_candidate_is() -> None:
    assert {f.name for f in dataclasses.fields(ScreeningRecord)} == {
        "candidate",
        "sensitive_agreed",
        "sensitive_answered",
        "comparisons_agreed",
        "comparisons_made",
        "demonstration_scores",
        "topics",
    }


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="occurs twice"):
        screening_table([record("BCDFGHJK"), record("BCDFGHJK")])
    for changed in ({"sensitive_agreed": 101}, {"comparisons_agreed": -1}, {"demonstration_scores": (8,)}):
        with pytest.raises(DataError, match="not valid"):
            record("BCDFGHJK", **changed)
    assert screening_table([]) == []


def test_topics_are_the_teams() -> None:
    records = [record("B" * 8, topics=frozenset({"x", "y"})), record("C" * 8, topics=frozenset({"x"})), record("D" * 8)]
    assert screening_table(records)[0].topics == ("x", "y")
    assert topic_coverage(records, {"B" * 8, "C" * 8}, {"x", "y", "z"}) == {"z": 0, "y": 1, "x": 2}
    assert list(topic_coverage(records, {"B" * 8, "C" * 8}, {"x", "y", "z"})) == ["z", "y", "x"]
    with pytest.raises(DataError, match="no record"):
        topic_coverage(records, {"F" * 8}, {"x"})


def test_demonstration_score_by_hand_and_its_coverage() -> None:
    estimate = demonstration_score([4, 6, 7, 7])
    assert (estimate.value, estimate.count) == (6, 4)
    assert estimate.standard_error == pytest.approx(math.sqrt((4 + 0 + 1 + 1) / 3 / 4))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * estimate.standard_error, rel=1e-3)
    assert demonstration_score([]).count == 0
    # three equal whole numbers are not certainty
    assert demonstration_score([7, 7, 7]).standard_error == pytest.approx(0.5 / math.sqrt(3))
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        one = demonstration_score(np.clip(np.rint(rng.normal(4, 1, 12)), 1, 7).astype(int).tolist(), confidence=0.68)
        covered += one.low <= 4 <= one.high
    assert 0.6 <= covered / 400 <= 0.76


def test_sensitive_counts_are_against_the_majority() -> None:
    researchers = [{"a": True, "b": True, "c": True, "d": False}, {"a": True, "b": False, "d": False}, {"a": False, "d": True}]
    # a: yes by 2 to 1; b: split; c: yes; d: no by 2 to 1; e: nobody
    assert sensitive_counts({"a": True, "b": True, "c": False, "d": False, "e": True}, researchers) == (2, 3)
    assert sensitive_counts({}, researchers) == (0, 0)
