"""Where a reward model is right: accuracy by use case, by margin, and where the longer response loses (SPEC 3.3, 4.6).

Pairs that a labeler did not tie count, as in ``reward_accuracy``. Intervals are over prompts; those of ``two_way_accuracy``
are over prompts and labelers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics.intervals import Estimate, proportion
from heedful.statistics.reward_accuracy import reward_accuracy
from heedful.statistics.two_way import ClusteredEstimate, two_way_difference, two_way_win_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginAccuracy:
    """Pairs whose scores differ by ``low`` to ``high``, and how often the preferred response has the higher score."""

    low: float
    high: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPair:
    """One pair that a labeler ordered."""

    prompt_id: str
    labeler: str
    preferred: str
    """Id of the better response."""
    rejected: str
    """Id of the other response."""


def ranked_pairs(rankings: Sequence[Ranking]) -> list[RankedPair]:
    """All untied pairs of all rankings, in the order of the rankings."""
    return [
        RankedPair(
            prompt_id=ranking.prompt_id,
            labeler=ranking.labeler,
            preferred=ranking.response_ids[i if ranking.ranks[i] < ranking.ranks[j] else j],
            rejected=ranking.response_ids[j if ranking.ranks[i] < ranking.ranks[j] else i],
        )
        for ranking in rankings
        for i, j in combinations(range(len(ranking.ranks)), 2)
        if ranking.ranks[i] != ranking.ranks[j]
    ]


def pair_accuracy(
    pairs: Sequence[RankedPair], scores: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Share of the pairs whose preferred response has the higher score; equal scores count half."""
    return proportion(
        [_right(pair, scores) for pair in pairs],
        [pair.prompt_id for pair in pairs],
        confidence=confidence,
        seed=seed,
    )


def two_way_accuracy(
    pairs: Sequence[RankedPair], scores: Mapping[str, float], *, confidence: float = 0.95
) -> ClusteredEstimate:
    """``pair_accuracy`` with intervals for other prompts and other labelers."""
    return two_way_win_rate(
        [_right(pair, scores) for pair in pairs],
        [pair.prompt_id for pair in pairs],
        [pair.labeler for pair in pairs],
        confidence=confidence,
    )


def two_way_lead(
    pairs: Sequence[RankedPair], scores: Mapping[str, float], others: Mapping[str, float], *, confidence: float = 0.95
) -> ClusteredEstimate:
    """``pair_accuracy`` of ``scores`` minus that of ``others`` on the same pairs; above 0, ``scores`` is right more often.

    Pair by pair, so what makes a pair easy or hard for both cancels: the interval is narrower than those of the two accuracies
    suggest.
    """
    return two_way_difference(
        [_right(pair, scores) for pair in pairs],
        [_right(pair, others) for pair in pairs],
        [pair.prompt_id for pair in pairs],
        [pair.labeler for pair in pairs],
        confidence=confidence,
    )


def win_shares(rankings: Sequence[Ranking]) -> dict[str, float]:
    """Each response's share of wins over all its comparisons; a tie is half a win.

    Responses without comparisons are left out.
    """
    won: defaultdict[str, float] = defaultdict(float)
    met: defaultdict[str, int] = defaultdict(int)
    for ranking in rankings:
        for i, j in permutations(range(len(ranking.ranks)), 2):
            won[ranking.response_ids[i]] += 0.5 + 0.5 * float(np.sign(ranking.ranks[j] - ranking.ranks[i]))
            met[ranking.response_ids[i]] += 1
    return {name: won[name] / met[name] for name in met}


def reward_accuracy_by_use_case(
    rankings: Sequence[Ranking],
    scores: Mapping[str, float],
    use_cases: Mapping[str, str | None],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """``reward_accuracy`` by use case. ``use_cases`` maps prompt id to use case; prompts without one count as ``unknown``."""
    groups: defaultdict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        groups[use_cases.get(ranking.prompt_id) or "unknown"].append(ranking)
    found = {case: reward_accuracy(groups[case], scores, confidence=confidence, seed=seed) for case in sorted(groups)}
    return {case: estimate for case, estimate in found.items() if estimate.count}


def reward_accuracy_by_margin(
    rankings: Sequence[Ranking],
    scores: Mapping[str, float],
    *,
    num_bins: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[MarginAccuracy]:
    """Accuracy by margin (the absolute difference of scores), in bins of about equally many pairs, smallest margins first.

    A calibrated model is right with probability sigmoid(margin). A model that is no more accurate at large margins has learned
    little.
    """
    return [
        MarginAccuracy(low=low, high=high, accuracy=pair_accuracy(own, scores, confidence=confidence, seed=seed))
        for low, high, own in pairs_by_margin(ranked_pairs(rankings), scores, num_bins=num_bins)
    ]


def pairs_by_margin(
    pairs: Sequence[RankedPair], scores: Mapping[str, float], *, num_bins: int = 5
) -> list[tuple[float, float, list[RankedPair]]]:
    """Bins of about equally many pairs by margin: each bin's smallest margin, largest margin and pairs."""
    if not pairs:
        return []
    margins = np.array([abs(_score(pair.preferred, scores) - _score(pair.rejected, scores)) for pair in pairs])
    edges = np.unique(np.quantile(margins, np.linspace(0, 1, num_bins + 1)))
    index = np.clip(np.searchsorted(edges, margins, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        (
            float(margins[index == b].min()),
            float(margins[index == b].max()),
            [pairs[i] for i in np.flatnonzero(index == b).tolist()],
        )
        for b in np.unique(index).tolist()
    ]


def accuracy_where_longer_loses(
    rankings: Sequence[Ranking],
    scores: Mapping[str, float],
    lengths: Mapping[str, int],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Accuracy on pairs whose preferred response is the shorter one. A model that prefers length is right on none of them."""
    pairs = [pair for pair in ranked_pairs(rankings) if _score(pair.preferred, lengths) < _score(pair.rejected, lengths)]
    return pair_accuracy(pairs, scores, confidence=confidence, seed=seed)


def _right(pair: RankedPair, scores: Mapping[str, float]) -> float:
    preferred, rejected = _score(pair.preferred, scores), _score(pair.rejected, scores)
    return 0.5 if preferred == rejected else float(preferred > rejected)


def _score(response_id: str, scores: Mapping[str, float] | Mapping[str, int]) -> float:
    score = scores.get(response_id)
    if score is None or not np.isfinite(score):
        raise DataError(
            "a ranked response has no score", expected=f"a finite number for response {response_id!r}", got=repr(score)
        )
    return float(score)
