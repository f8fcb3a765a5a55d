"""A reward model's accuracy during training, by K and by labeler, without intervals (`heedful.statistics` has those)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations


def accuracy_by(rankings: Iterable[tuple[str, Sequence[int], Sequence[float]]]) -> tuple[dict[str, float], dict[str, float]]:
    """Share of untied pairs that the rewards order as the labeler did, by K and by labeler. Equal rewards count half.

    rankings: labeler, ranks and rewards of the same responses. Rank 1 is best, equal ranks are ties, 0 is a missing rank.
    K is the number of responses that the labeler ranked. A K or labeler without an untied pair is left out.
    """
    by_k: defaultdict[int, list[float]] = defaultdict(list)
    by_labeler: defaultdict[str, list[float]] = defaultdict(list)
    for labeler, ranks, rewards in rankings:
        given = [(rank, reward) for rank, reward in zip(ranks, rewards, strict=True) if rank]
        right = [
            0.5 if left[1] == right[1] else float((left[1] > right[1]) == (left[0] < right[0]))
            for left, right in combinations(given, 2)
            if left[0] != right[0]
        ]
        if right:
            by_k[len(given)] += right
            by_labeler[labeler] += right
    return (
        {str(k): sum(by_k[k]) / len(by_k[k]) for k in sorted(by_k)},
        {name: sum(by_labeler[name]) / len(by_labeler[name]) for name in sorted(by_labeler)},
    )
