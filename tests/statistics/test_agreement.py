"""Agreement of labelers on comparisons, counted by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics import agreement_with, group_agreement, labeler_agreement, leave_one_out_agreement


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


def test_against_researchers_by_hand() -> None:
    """Without ann and bob's own meeting: cem tied ab, so ann and bob meet him on ac and bc."""
    values = {labeler: (e.value, e.count) for labeler, e in agreement_with(PROMPT, {"cem"}).items()}
    assert values == {"ann": (1.0, 2), "bob": (1 / 2, 2)}
    both = {labeler: (e.value, e.count) for labeler, e in agreement_with(PROMPT, {"cem", "bob"}).items()}
    assert both == {"ann": (4 / 5, 5)}
    assert agreement_with(PROMPT, {"nobody"}) == {}


def test_shares_are_the_plain_loops() -> None:
    """Counting how many said what gives what going through all pairs of labelers gives, rankings made twice included."""
    rng = np.random.default_rng(2)
    rankings: list[Ranking] = []
    for p in range(40):
        for name in ("ann", "bob", "cem", "dora", "ann"):
            own = rng.permutation(6)[: rng.integers(1, 6)]
            rankings.append(ranking(f"p{p}", name, **{f"r{i}": int(rng.integers(1, 4)) for i in own}))
    held: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for r in rankings:
        own_pairs = held.setdefault((r.prompt_id, r.labeler), {})
        for (a, rank_a), (b, rank_b) in combinations(sorted(zip(r.response_ids, r.ranks, strict=True)), 2):
            own_pairs[a, b] = rank_a - rank_b
    groups = {"ann": "x", "bob": "y", "cem": "x", "dora": "y"}
    total, by_labeler, by_group = [0, 0], {}, {}
    for ((p, first), ours), ((q, second), theirs) in combinations(held.items(), 2):
        if p == q:
            signs = [ours[pair] * theirs[pair] for pair in ours.keys() & theirs.keys()]
            agreed, compared = sum(s > 0 for s in signs), sum(s != 0 for s in signs)
            low, high = sorted((groups[first], groups[second]))
            for row in (
                total,
                by_labeler.setdefault(first, [0, 0]),
                by_labeler.setdefault(second, [0, 0]),
                by_group.setdefault((low, high), [0, 0]),
            ):
                row[0] += agreed
                row[1] += compared
    for estimate, (agreed, compared) in [
        (labeler_agreement(rankings), total),
        *((leave_one_out_agreement(rankings)[name], row) for name, row in by_labeler.items()),
        *((group_agreement(rankings, groups)[pair], row) for pair, row in by_group.items()),
    ]:
        assert (estimate.value, estimate.count) == (pytest.approx(agreed / compared), compared)


def test_labelers_share_the_prompts_that_are_drawn_and_keep_their_own_uncertainty() -> None:
    """bob meets ann on each of 400 prompts, cem on 100 of them: cem's standard error is twice bob's."""
    rng = np.random.default_rng(3)
    rankings: list[Ranking] = []
    for p in range(400):
        rankings.append(ranking(f"p{p}", "ann", a=1, b=2, c=3))
        for name in ("bob", "cem") if p < 100 else ("bob",):
            order = (1, 2, 3) if rng.random() < 0.7 else (3, 2, 1)
            rankings.append(ranking(f"p{p}", name, **dict(zip("abc", order, strict=True))))
    found = agreement_with(rankings, {"ann"})
    for name, prompts in (("bob", 400), ("cem", 100)):
        share = found[name].value
        assert found[name].standard_error == pytest.approx(math.sqrt(share * (1 - share) / prompts), rel=0.06)
