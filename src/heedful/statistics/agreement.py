"""How often labelers agree on which of two responses is better (SPEC 2.4; the paper: 72.6 +- 1.5 %, held-out 77.3 +- 1.3 %).

For every two labelers who ranked the same prompt, a pair of responses counts if both labelers ranked it and neither tied it.
The share is over all such comparisons; its interval is over prompts. The paper does not say how it treats ties.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics.answers import sums_within
from heedful.statistics.comparisons import Comparisons, comparisons
from heedful.statistics.intervals import Estimate, FloatArray, IntArray, proportion, proportions


def labeler_agreement(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Share of comparisons on which two labelers agree, over all pairs of labelers."""
    judged = comparisons(rankings)
    counts = judged.sign_counts()
    return _share(judged, *_within(counts), confidence, seed)


def group_agreement(
    rankings: Sequence[Ranking], groups: Mapping[str, str], *, confidence: float = 0.95, seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """Agreement within and between groups of labelers; ``groups`` maps each labeler to a group.

    Key ``(a, a)`` is agreement between members of group a; ``(a, b)`` with a < b is between a member of a and one of b. Keys
    without any comparison are left out. Raises ``DataError`` if a labeler has no group.
    """
    judged = comparisons(rankings)
    group_of = np.array([_group(groups, labeler) for labeler in judged.labelers], dtype=np.str_)
    names = sorted(set(group_of.tolist()))
    counts = {name: judged.sign_counts((group_of == name)[judged.labeler]) for name in names}
    estimates: dict[tuple[str, str], Estimate] = {}
    for a, b in combinations_with_replacement(names, 2):
        agreed, compared = _within(counts[a]) if a == b else _between(counts[a], counts[b])
        estimates[a, b] = _share(judged, agreed, compared, confidence, seed)
    return {key: estimate for key, estimate in estimates.items() if estimate.count}


def leave_one_out_agreement(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """For each labeler, the share of comparisons with any other labeler on which the two agree.

    Labelers without such a comparison are left out.
    """
    judged = comparisons(rankings)
    return _by_labeler(judged, judged.sign_counts(), 1, confidence, seed)


def agreement_with(
    rankings: Sequence[Ranking], references: Collection[str], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """For each labeler outside ``references`` (the researchers), the share of comparisons that agree with the references.

    It is the second screening criterion (SPEC 2.1). Labelers without such a comparison are left out.
    """
    judged = comparisons(rankings)
    of_references = np.isin(judged.labelers, list(references))[judged.labeler]
    estimates = _by_labeler(judged, judged.sign_counts(of_references), 0, confidence, seed)
    return {labeler: estimate for labeler, estimate in estimates.items() if labeler not in references}


def _by_labeler(judged: Comparisons, counts: IntArray, own: int, confidence: float, seed: int) -> dict[str, Estimate]:
    """Each labeler against the judgements in ``counts``; ``own``: how many of these, per pair, are the labeler's own."""
    untied = judged.sign != 0
    pair, labeler, sign = judged.pair[untied], judged.labeler[untied], judged.sign[untied]
    agreed = counts[pair, sign + 1] - own
    compared = counts[pair, 0] + counts[pair, 2] - own
    shape = (len(judged.prompts), len(judged.labelers))
    place = judged.pair_prompt[pair] * shape[1] + labeler
    table = sums_within(place, np.stack([agreed, compared], axis=1).astype(np.float64), shape[0] * shape[1])
    wins, trials = table[:, 0].reshape(shape), table[:, 1].reshape(shape)
    estimates = proportions(wins, trials, confidence=confidence, seed=seed)
    return {name: estimate for name, estimate in zip(judged.labelers, estimates, strict=True) if estimate.count}


def _within(counts: IntArray) -> tuple[IntArray, IntArray]:
    """For each pair of responses: how many pairs of labelers agree, and in how many pairs neither labeler tied it."""
    untied = counts[:, 0] + counts[:, 2]
    return _pairs_of(counts[:, 0]) + _pairs_of(counts[:, 2]), _pairs_of(untied)


def _between(first: IntArray, second: IntArray) -> tuple[IntArray, IntArray]:
    agreed = first[:, 0] * second[:, 0] + first[:, 2] * second[:, 2]
    return agreed, (first[:, 0] + first[:, 2]) * (second[:, 0] + second[:, 2])


def _pairs_of(count: IntArray) -> IntArray:
    return count * (count - 1) // 2


def _share(judged: Comparisons, agreed: IntArray, compared: IntArray, confidence: float, seed: int) -> Estimate:
    tops: FloatArray = judged.prompt_sums(agreed)
    return proportion(tops, np.arange(len(tops)), trials=judged.prompt_sums(compared), confidence=confidence, seed=seed)


def _group(groups: Mapping[str, str], labeler: str) -> str:
    if labeler not in groups:
        raise DataError(f"labeler {labeler!r} has no group", expected="a group for each labeler", got=f"{len(groups)} labelers")
    return groups[labeler]
