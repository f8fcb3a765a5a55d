"""Tau-b against Kendall's own example, scipy, and by hand where labelers ranked different responses."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.statistics.test_agreement import ranking
from tests.statistics.test_alpha import _noisy

from heedful.records import Ranking
from heedful.statistics import kendall_tau_b, labeler_tau_b
from heedful.statistics import rank_correlation as module


def two(first: list[int], second: list[int]) -> list[Ranking]:
    return [ranking("p", name, **{f"r{i}": r for i, r in enumerate(ranks)}) for name, ranks in (("a", first), ("b", second))]


def scipys(first: list[int], second: list[int]) -> float:
    result: Any = stats.kendalltau(first, second)
    return float(result.statistic)


def test_kendalls_example_with_ties() -> None:
    """Ranks 1, 2½ 2½, 4½ 4½, 6½ 6½, 8, 9½ 9½ and 1, 2, 4½ x4, 8 x3, 10 (Kendall 1970, chapter 3), doubled to whole numbers.

    45 pairs; 4 tied in the first, 9 in the second, none reversed; C = 45 - 4 - 9 + 1 tied in both = 33.
    """
    first = [2, 5, 5, 9, 9, 13, 13, 16, 19, 19]
    second = [2, 4, 9, 9, 9, 9, 16, 16, 16, 20]
    estimate = kendall_tau_b(two(first, second))
    assert estimate.value == pytest.approx(33 / math.sqrt(41 * 36))
    assert estimate.count == 1


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 9).flatmap(lambda k: st.tuples(*[st.lists(st.integers(1, 5), min_size=k, max_size=k)] * 2)))
def test_tau_b_is_scipys(ranks: tuple[list[int], list[int]]) -> None:
    ours = kendall_tau_b(two(*ranks))
    theirs = scipys(*ranks)
    if math.isnan(theirs):
        assert ours.count == 0
    else:
        assert ours.value == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("block", [1, 2**22])
def test_means_over_meetings_are_the_plain_loops(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Different K, labelers missing here and there, all ties now and then; one prompt at a time or all at once."""
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(1)
    rankings = [r for p in range(40) for r in _noisy(rng, f"p{p}", int(rng.integers(1, 6)), ties=True)]
    rankings += [ranking("p0", "l9", r0=1, r1=1, r2=1)]
    rankings = [rankings[i] for i in rng.permutation(len(rankings))]
    taus: dict[str, list[float]] = {}
    for a, b in combinations(rankings, 2):
        if a.prompt_id == b.prompt_id:
            shared = sorted(set(a.response_ids) & set(b.response_ids))
            x, y = ([r.ranks[r.response_ids.index(s)] for s in shared] for r in (a, b))
            tau = scipys(x, y) if len(shared) > 1 else math.nan
            if not math.isnan(tau):
                taus.setdefault(a.labeler, []).append(tau)
                taus.setdefault(b.labeler, []).append(tau)
    ours = labeler_tau_b(rankings)
    assert {name: e.count for name, e in ours.items()} == {name: len(own) for name, own in taus.items()}
    for name, own in taus.items():
        assert ours[name].value == pytest.approx(np.mean(own))
    overall = kendall_tau_b(rankings)
    assert overall.count == sum(map(len, taus.values())) / 2
    assert overall.value == pytest.approx(np.mean([t for own in taus.values() for t in own]))
    assert overall.low < overall.value < overall.high


def test_only_responses_that_both_ranked() -> None:
    """On b, c, d: ann b<c<d, bob c<b=d. bc reversed, cd alike, bd tied by bob: 0 / sqrt(3 * 2)."""
    rankings = [ranking("p", "ann", a=1, b=2, c=3, d=4), ranking("p", "bob", b=2, c=1, d=2, e=3)]
    assert kendall_tau_b(rankings).value == pytest.approx(0)
    assert kendall_tau_b([rankings[0], ranking("p", "bob", b=1, c=2, d=2, e=3)]).value == pytest.approx(2 / math.sqrt(6))


def test_against_references() -> None:
    rankings = [
        ranking("p", "ann", a=1, b=2, c=3),
        ranking("p", "bob", a=3, b=2, c=1),
        ranking("p", "researcher", a=1, b=2, c=3),
    ]
    assert {name: e.value for name, e in labeler_tau_b(rankings).items()} == pytest.approx(
        {"ann": 0.0, "bob": -1.0, "researcher": 0.0}
    )
    with_researcher = labeler_tau_b(rankings, {"researcher"})
    assert {name: (e.value, e.count) for name, e in with_researcher.items()} == {
        "ann": (pytest.approx(1), 1),
        "bob": (pytest.approx(-1), 1),
    }


@pytest.mark.parametrize("rankings", [[], [ranking("p", "a", x=1, y=2)], [ranking("p", "a", x=1), ranking("p", "b", x=1)]])
def test_no_meeting(rankings: list[Ranking]) -> None:
    assert kendall_tau_b(rankings).count == 0
    assert labeler_tau_b(rankings) == {}
