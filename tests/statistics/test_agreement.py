"""Agreement of labelers on comparisons, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics import group_agreement, labeler_agreement, leave_one_out_agreement


def ranking(prompt: str, labeler: str, **ranks: int) -> Ranking:
    return Ranking(
        id=f"{prompt}-{labeler}",
        prompt_id=prompt,
        response_ids=tuple(f"{prompt}-{response}" for response in ranks),
        ranks=tuple(ranks.values()),
        labeler=labeler,
    )


# ann-bob: ab and ac agree, bc does not. ann-cem: cem ties ab, agrees on ac and bc. bob-cem: ac agrees, bc does not.
PROMPT = [
    ranking("p", "ann", a=1, b=2, c=3),
    ranking("p", "bob", a=1, b=3, c=2),
    ranking("p", "cem", a=1, b=1, c=2),
]


def test_by_hand() -> None:
    estimate = labeler_agreement(PROMPT)
    assert estimate.value == pytest.approx((2 + 2 + 1) / (3 + 2 + 2))
    assert estimate.count == 7


def test_leave_one_out_by_hand() -> None:
    values = {labeler: (e.value, e.count) for labeler, e in leave_one_out_agreement(PROMPT).items()}
    assert values == {"ann": (4 / 5, 5), "bob": (3 / 5, 5), "cem": (3 / 4, 4)}


def test_groups_by_hand() -> None:
    estimates = group_agreement(PROMPT, {"ann": "training", "bob": "held-out", "cem": "training"})
    values = {groups: (e.value, e.count) for groups, e in estimates.items()}
    # ann-cem within training; ann-bob and bob-cem between; no two held-out labelers met
    assert values == {("training", "training"): (1.0, 2), ("held-out", "training"): (3 / 5, 5)}
    with pytest.raises(DataError, match="'bob' has no group"):
        group_agreement(PROMPT, {"ann": "x", "cem": "x"})


def test_the_order_of_responses_in_a_record_does_not_matter() -> None:
    first, second = ranking("p", "ann", a=1, b=2, c=3), ranking("p", "bob", c=3, a=1, b=2)
    estimate = labeler_agreement([first, second])
    assert (estimate.value, estimate.count) == (1.0, 3)


def test_only_responses_that_both_ranked_are_compared() -> None:
    estimate = labeler_agreement([ranking("p", "ann", a=1, b=2, c=3), ranking("p", "bob", b=2, c=1, d=3)])
    assert (estimate.value, estimate.count) == (0.0, 1)


def test_a_labeler_does_not_meet_themselves_and_their_later_ranking_holds() -> None:
    again = [ranking("p", "ann", a=1, b=2), ranking("p", "ann", a=2, b=1)]
    assert labeler_agreement(again).count == 0
    estimate = labeler_agreement([*again, ranking("p", "bob", a=2, b=1)])
    assert (estimate.value, estimate.count) == (1.0, 1)
    # also where the later judgement is a tie
    assert labeler_agreement([*again, ranking("p", "ann", a=1, b=1), ranking("p", "bob", a=2, b=1)]).count == 0


@pytest.mark.parametrize(
    "rankings",
    [
        [],
        PROMPT[:1],
        [ranking("p", "ann", a=1), ranking("p", "bob", a=1)],
        [ranking("p", "ann", a=1, b=2), ranking("q", "bob", a=1, b=2)],
    ],
    ids=["none", "one labeler", "K = 1", "other prompts"],
)
def test_nothing_to_compare(rankings: list[Ranking]) -> None:
    estimate = labeler_agreement(rankings)
    assert estimate.count == 0
    assert math.isnan(estimate.value)
    assert leave_one_out_agreement(rankings) == {}


def test_uncertainty_is_over_prompts() -> None:
    """100 prompts with K = 9, on each of which two labelers agree on all 36 pairs or on none: as sure as of 100 coins."""
    rng = np.random.default_rng(1)
    rankings: list[Ranking] = []
    for prompt in range(100):
        ranks = dict(zip("abcdefghi", range(1, 10), strict=True))
        reverse = rng.random() < 0.3
        rankings.append(ranking(f"p{prompt}", "ann", **ranks))
        rankings.append(ranking(f"p{prompt}", "bob", **{r: 10 - k if reverse else k for r, k in ranks.items()}))
    estimate = labeler_agreement(rankings)
    assert estimate.count == 3600
    assert estimate.standard_error == pytest.approx(math.sqrt(estimate.value * (1 - estimate.value) / 100), rel=0.06)
    assert estimate.low < estimate.value < estimate.high


@given(st.lists(st.tuples(*[st.integers(1, 3)] * 4), min_size=2, max_size=4))
def test_agreement_is_symmetric_and_only_the_order_counts(ranks: list[tuple[int, int, int, int]]) -> None:
    def value(rows: list[tuple[int, ...]], names: list[str]) -> float:
        rankings = [ranking("p", name, **dict(zip("abcd", row, strict=True))) for name, row in zip(names, rows, strict=True)]
        return labeler_agreement(rankings).value

    names = [f"labeler {i}" for i in range(len(ranks))]
    before = value(list(ranks), names)
    after = value([tuple(10 * r * r for r in row) for row in ranks[::-1]], names)
    assert before == pytest.approx(after, nan_ok=True)
