"""Accuracy of scores, the length rules and calibration, counted by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics import (
    calibration,
    labeler_agreement,
    length_rules,
    proportion,
    reward_accuracy,
    reward_accuracy_by_k,
    reward_accuracy_by_labeler,
    reward_agreement,
)


def ranking(prompt: str, labeler: str, **ranks: int) -> Ranking:
    return Ranking(
        id=f"{prompt}-{labeler}", prompt_id=prompt, response_ids=tuple(ranks), ranks=tuple(ranks.values()), labeler=labeler
    )


SCORES = {"a": 3.0, "b": 1.0, "c": 1.0, "d": 2.0, "e": 0.0}
# p: a>b right, a>c right, b>c equal scores: 2.5 of 3. q: d>e right, tie out: 1 of 1. r: e>d wrong: 0 of 1.
RANKINGS = [
    ranking("p", "ann", a=1, b=2, c=3),
    ranking("q", "ann", d=1, e=2),
    ranking("r", "bob", d=2, e=1),
    ranking("s", "bob", d=1, e=1),
    ranking("t", "cem", a=1),
]


def test_accuracy_by_hand() -> None:
    estimate = reward_accuracy(RANKINGS, SCORES)
    assert (estimate.value, estimate.count) == (3.5 / 5, 5)
    assert estimate == proportion([2.5, 1, 0], ["p", "q", "r"], trials=[3, 1, 1])


def test_ties_of_the_labeler_are_out_and_ties_of_the_score_count_half() -> None:
    estimate = reward_accuracy([ranking("p", "ann", b=1, c=2), ranking("q", "ann", a=1, b=1)], SCORES)
    assert (estimate.value, estimate.count) == (0.5, 1)


def test_by_k_and_by_labeler() -> None:
    by_k = {k: (e.value, e.count) for k, e in reward_accuracy_by_k(RANKINGS, SCORES).items()}
    assert by_k == {2: (0.5, 2), 3: (2.5 / 3, 3)}
    # K is how many were ranked, not how many ranks were given
    assert list(reward_accuracy_by_k([ranking("p", "ann", a=1, b=2, c=2)], SCORES)) == [3]
    by_labeler = {labeler: (e.value, e.count) for labeler, e in reward_accuracy_by_labeler(RANKINGS, SCORES).items()}
    assert by_labeler == {"ann": (3.5 / 4, 4), "bob": (0.0, 1)}


def test_agreement_with_the_scores_counts_what_two_labelers_both_ordered() -> None:
    # a>b: both ordered it, the scores agree with ann and not with bob. a>c: bob has no opinion, out. b>c: both, equal scores.
    two = [ranking("p", "ann", a=1, b=2, c=3), ranking("p", "bob", a=2, b=1, c=2)]
    estimate = reward_agreement(two, SCORES)
    assert (estimate.value, estimate.count) == ((0.5 + 0.5) / 2, 2)
    assert estimate.count == labeler_agreement(two).count
    assert reward_agreement(RANKINGS, SCORES).count == 0  # one labeler for each prompt
    with pytest.raises(DataError, match="a ranked response has no score"):
        reward_agreement(two, {"a": 1.0, "b": 2.0})


def test_agreement_with_the_scores_is_counted_for_each_two_labelers_with_an_opinion() -> None:
    rng = np.random.default_rng(3)
    rankings: list[Ranking] = []
    scores: dict[str, float] = {}
    right = compared = 0
    for p in range(40):
        names = [f"p{p}-{i}" for i in range(5)]
        scores |= dict(zip(names, rng.integers(0, 4, 5).astype(float).tolist(), strict=True))
        ranks = {
            who: [int(np.searchsorted(np.unique(r), x)) + 1 for x in r]
            for who in ("ann", "bob", "cem")
            for r in [rng.integers(0, 3, 5)]
        }
        rankings += [
            Ranking(id=f"{p}{who}", prompt_id=f"p{p}", response_ids=tuple(names), ranks=tuple(r), labeler=who)
            for who, r in ranks.items()
        ]
        for i, j in combinations(range(5), 2):
            gap = np.sign(scores[names[i]] - scores[names[j]])
            for one, other in combinations(ranks.values(), 2):
                signs = [np.sign(r[j] - r[i]) for r in (one, other)]
                if 0 not in signs:
                    compared += 1
                    right += sum(0.5 if gap == 0 else float(gap == sign) for sign in signs) / 2
    estimate = reward_agreement(rankings, scores)
    assert estimate.count == compared == labeler_agreement(rankings).count
    assert estimate.value == pytest.approx(right / compared)


def test_length_rules_by_hand_sum_to_one() -> None:
    rules = length_rules(RANKINGS, {"a": 5, "b": 9, "c": 9, "d": 4, "e": 1})
    # a>b shorter, a>c shorter, b>c equal, d>e longer, e>d shorter
    assert rules.longer.value == pytest.approx(1.5 / 5)
    assert rules.shorter.value == pytest.approx(3.5 / 5)
    assert rules.longer.count == rules.shorter.count == 5


def test_a_constant_for_all_responses_of_a_prompt_changes_nothing() -> None:
    shifted = {response: score + (100.0 if response in "abc" else -7.0) for response, score in SCORES.items()}
    assert reward_accuracy(RANKINGS, shifted) == reward_accuracy(RANKINGS, SCORES)
    before, after = calibration(RANKINGS, SCORES), calibration(RANKINGS, shifted)
    assert before.expected_calibration_error == pytest.approx(after.expected_calibration_error)


@pytest.mark.parametrize(
    ("scores", "got"), [({"a": 1.0}, "nothing"), ({"a": 1.0, "b": math.nan}, "nan"), ({"a": 1.0, "b": math.inf}, "inf")]
)
def test_a_response_without_a_score(scores: dict[str, float], got: str) -> None:
    with pytest.raises(DataError, match="no score") as caught:
        reward_accuracy([ranking("p", "ann", a=1, b=2)], scores)
    assert caught.value.got == got
    assert caught.value.where == "ranking 'p-ann' of prompt 'p'"


def test_no_rankings() -> None:
    assert reward_accuracy([], {}).count == 0
    assert reward_accuracy_by_k([], {}) == {}
    assert math.isnan(calibration([], {}).expected_calibration_error)


def test_calibration_by_hand() -> None:
    """Three pairs at sigmoid(ln 3) = 0.75, two of them right; one at sigmoid(0) = 0.5; one at sigmoid(50) = 1, wrong."""
    scores = {"low": 0.0, "high": math.log(3), "same": 0.0, "far": 50.0}
    rankings = [
        ranking("p", "ann", high=1, low=2),
        ranking("q", "ann", high=1, low=2),
        ranking("r", "ann", high=2, low=1),
        ranking("s", "ann", same=1, low=2),
        ranking("t", "ann", low=1, far=2),
    ]
    result = calibration(rankings, scores, num_bins=5)
    assert [(b.low, b.high) for b in result.bins] == [pytest.approx(edges) for edges in ((0.5, 0.6), (0.7, 0.8), (0.9, 1.0))]
    assert [b.count for b in result.bins] == [1, 3, 1]
    assert [b.confidence for b in result.bins] == pytest.approx([0.5, 0.75, 1.0])
    assert [b.accuracy for b in result.bins] == pytest.approx([0.5, 2 / 3, 0.0])
    assert result.expected_calibration_error == pytest.approx((0 + 3 * (0.75 - 2 / 3) + 1) / 5)


def test_scores_that_generate_the_preferences_are_calibrated_and_doubled_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    scores: dict[str, float] = {}
    rankings: list[Ranking] = []
    for i in range(4000):
        better, worse = f"{i}x", f"{i}y"
        scores[better], scores[worse] = rng.normal(size=2)
        won = rng.random() < 1 / (1 + math.exp(scores[worse] - scores[better]))
        rankings.append(ranking(f"p{i}", "ann", **{better: 1 if won else 2, worse: 2 if won else 1}))
    assert calibration(rankings, scores).expected_calibration_error < 0.03
    doubled = {response: 2 * score for response, score in scores.items()}
    assert calibration(rankings, doubled).expected_calibration_error > 0.08
