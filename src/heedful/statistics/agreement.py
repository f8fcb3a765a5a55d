"""How often labelers agree on which of two responses is better (SPEC 2.4; the paper: 72.6 +- 1.5 %, held-out 77.3 +- 1.3 %).

Of each two labelers who ranked the same prompt, every pair of responses counts that both ranked and neither tied. The share is
over all such comparisons; its uncertainty is over prompts. The paper does not say what it does with ties.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics.intervals import Estimate, proportion


class _Meeting(NamedTuple):
    """Two labelers at one prompt."""

    prompt_id: str
    first: str
    second: str
    agreed: int
    compared: int


def labeler_agreement(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Share of comparisons on which two labelers agree, over all pairs of labelers."""
    return _share(_meetings(rankings), confidence, seed)


def group_agreement(
    rankings: Sequence[Ranking], groups: Mapping[str, str], *, confidence: float = 0.95, seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """Agreement within and between groups of labelers; ``groups`` maps each labeler to a group.

    Key ``(a, a)`` is among members of group a, ``(a, b)`` with a < b between a member of each. Pairs of groups that never met
    at a prompt are left out. Raises ``DataError`` for a labeler without a group.
    """
    sorted_meetings: defaultdict[tuple[str, str], list[_Meeting]] = defaultdict(list)
    for meeting in _meetings(rankings):
        low, high = sorted((_group(groups, meeting.first), _group(groups, meeting.second)))
        sorted_meetings[low, high].append(meeting)
    return {key: _share(sorted_meetings[key], confidence, seed) for key in sorted(sorted_meetings)}


def leave_one_out_agreement(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """For each labeler, the share of comparisons with any other labeler on which the two agree.

    A labeler who never met another is left out.
    """
    own_meetings: defaultdict[str, list[_Meeting]] = defaultdict(list)
    for meeting in _meetings(rankings):
        own_meetings[meeting.first].append(meeting)
        own_meetings[meeting.second].append(meeting)
    return {labeler: _share(own_meetings[labeler], confidence, seed) for labeler in sorted(own_meetings)}


def _meetings(rankings: Sequence[Ranking]) -> list[_Meeting]:
    """Pairs of labelers by prompt; where a labeler judged a pair of responses twice, the later ranking holds."""
    # judgements[prompt][labeler][a, b] is rank(a) - rank(b) for response ids a < b
    judgements: defaultdict[str, defaultdict[str, dict[tuple[str, str], int]]] = defaultdict(lambda: defaultdict(dict))
    for ranking in rankings:
        own = judgements[ranking.prompt_id][ranking.labeler]
        for (a, rank_a), (b, rank_b) in combinations(sorted(zip(ranking.response_ids, ranking.ranks, strict=True)), 2):
            own[a, b] = rank_a - rank_b
    meetings: list[_Meeting] = []
    for prompt_id, by_labeler in judgements.items():
        for first, second in combinations(sorted(by_labeler), 2):
            ours, theirs = by_labeler[first], by_labeler[second]
            signs = [ours[pair] * theirs[pair] for pair in ours.keys() & theirs.keys()]
            agreed, compared = sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)
            if compared:
                meetings.append(_Meeting(prompt_id, first, second, agreed, compared))
    return meetings


def _share(meetings: Iterable[_Meeting], confidence: float, seed: int) -> Estimate:
    rows = list(meetings)
    return proportion(
        [row.agreed for row in rows],
        [row.prompt_id for row in rows],
        trials=[row.compared for row in rows],
        confidence=confidence,
        seed=seed,
    )


def _group(groups: Mapping[str, str], labeler: str) -> str:
    if labeler not in groups:
        raise DataError(f"labeler {labeler!r} has no group", expected="a group for each labeler", got=f"{len(groups)} labelers")
    return groups[labeler]
