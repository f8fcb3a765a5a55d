"""How well scores predict what labelers prefer: accuracy, length rules to compare it with, calibration (SPEC 3.3, 4.6).

All pairs that a labeler did not tie count, with equal weight; intervals are over prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics.comparisons import comparisons
from heedful.statistics.intervals import Estimate, proportion

Key = TypeVar("Key", str, int)

_SCORES = "\0scores"  # no labeler has this name


class LengthRules(NamedTuple):
    """Accuracy of "the longer response wins" and of "the shorter wins". They sum to 1 (equal lengths count half in both)."""

    longer: Estimate
    shorter: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Pairs whose predicted probability falls in one bin."""

    low: float
    high: float
    confidence: float
    """Mean predicted probability that the higher-scored response is preferred."""
    accuracy: float
    """Share of pairs in which it is preferred."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Expected calibration error (0 is perfect, NaN without pairs), and the bins that contain pairs."""

    expected_calibration_error: float
    bins: tuple[CalibrationBin, ...]


def reward_accuracy(
    rankings: Sequence[Ranking], scores: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Share of untied pairs whose preferred response has the higher score; equal scores count half.

    ``scores`` maps response id to score. Raises ``DataError`` if a response has no finite score.
    """
    prompts = [ranking.prompt_id for ranking in rankings]
    differences = [_differences(ranking, scores) for ranking in rankings]
    return proportion(
        [float(np.where(d == 0, 0.5, d > 0).sum()) for d in differences],
        prompts,
        trials=[len(d) for d in differences],
        confidence=confidence,
        seed=seed,
    )


def reward_accuracy_by_k(
    rankings: Sequence[Ranking], scores: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> dict[int, Estimate]:
    """``reward_accuracy`` for each number K of responses in a ranking; a K without an untied pair is left out."""
    return _by(lambda ranking: len(ranking.response_ids), rankings, scores, confidence, seed)


def reward_accuracy_by_labeler(
    rankings: Sequence[Ranking], scores: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """``reward_accuracy`` for each labeler's rankings; a labeler without an untied pair is left out."""
    return _by(lambda ranking: ranking.labeler, rankings, scores, confidence, seed)


def reward_agreement(
    rankings: Sequence[Ranking], scores: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """How often scores agree with a labeler, on the same comparisons on which ``labeler_agreement`` measures labelers.

    ``reward_accuracy`` also counts pairs that only one labeler could tell apart, which are harder to predict. Here, for every
    two labelers who both ordered a pair, the scores replace first one of them, then the other. Equal scores count half. To
    measure one group of labelers, pass only its rankings. Raises ``DataError`` if a response has no finite score.
    """
    responses: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for ranking in rankings:
        responses[ranking.prompt_id].update((i, _score(ranking, i, scores)) for i in ranking.response_ids)
    judged = comparisons([*rankings, *(_by_score(prompt_id, own) for prompt_id, own in responses.items())])
    by_score = (np.array(judged.labelers, dtype=np.str_) == _SCORES)[judged.labeler]
    counts = judged.sign_counts(~by_score)
    sign = np.zeros(len(counts), dtype=np.int8)
    sign[judged.pair[by_score]] = judged.sign[by_score]
    ordered = counts[:, 0] + counts[:, 2]
    agreeing = np.select([sign < 0, sign > 0], [counts[:, 0], counts[:, 2]], ordered / 2)
    others = (ordered - 1) / 2  # so that every two labelers count once, as in their own agreement
    right, compared = agreeing * others, ordered * others
    return proportion(
        judged.prompt_sums(right),
        np.arange(len(judged.prompts)),
        trials=judged.prompt_sums(compared),
        confidence=confidence,
        seed=seed,
    )


def length_rules(
    rankings: Sequence[Ranking], lengths: Mapping[str, int], *, confidence: float = 0.95, seed: int = 0
) -> LengthRules:
    """Accuracy of rules that only look at length, on the same pairs. ``lengths`` maps response id to length in any unit."""
    return LengthRules(
        longer=reward_accuracy(rankings, lengths, confidence=confidence, seed=seed),
        shorter=reward_accuracy(rankings, {key: -value for key, value in lengths.items()}, confidence=confidence, seed=seed),
    )


def calibration(rankings: Sequence[Ranking], scores: Mapping[str, float], *, num_bins: int = 10) -> Calibration:
    """Whether labelers prefer w with probability sigmoid(r_w - r_l), as the ranking loss assumes (SPEC 3.3).

    For each untied pair, the predicted probability that the higher-scored response is preferred is ``sigmoid(|difference|)``,
    from 0.5 to 1. The prediction is right or wrong (half right if scores are equal). There are ``num_bins`` bins of equal
    width. Expected calibration error = ``sum(count / total * |accuracy - confidence|)`` (Naeini et al. 2015).
    """
    differences = np.concatenate([np.empty(0), *(_differences(ranking, scores) for ranking in rankings)])
    predicted: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.abs(differences)))
    correct = np.where(differences == 0, 0.5, differences > 0)
    index = np.minimum(((predicted - 0.5) * 2 * num_bins).astype(np.int64), num_bins - 1)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    bins = tuple(
        CalibrationBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            confidence=float(predicted[index == b].mean()),
            accuracy=float(correct[index == b].mean()),
            count=int((index == b).sum()),
        )
        for b in np.unique(index).tolist()
    )
    error = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(predicted) if len(predicted) else math.nan
    return Calibration(expected_calibration_error=error, bins=bins)


def _by_score(prompt_id: str, scores: Mapping[str, float]) -> Ranking:
    """The weak order of a prompt's responses by their scores."""
    places = {score: place for place, score in enumerate(sorted(set(scores.values()), reverse=True), start=1)}
    ranks = tuple([places[score] for score in scores.values()])
    return Ranking(id=f"{_SCORES}-{prompt_id}", prompt_id=prompt_id, response_ids=tuple(scores), ranks=ranks, labeler=_SCORES)


def _differences(ranking: Ranking, scores: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Score of the preferred response minus that of the other, for each untied pair of one ranking."""
    own = [_score(ranking, response_id, scores) for response_id in ranking.response_ids]
    pairs = [
        (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
        for i, j in combinations(range(len(own)), 2)
        if ranking.ranks[i] != ranking.ranks[j]
    ]
    return np.array([own[winner] - own[loser] for winner, loser in pairs], dtype=np.float64)


def _score(ranking: Ranking, response_id: str, scores: Mapping[str, float]) -> float:
    score = scores.get(response_id, math.nan)
    if not math.isfinite(score):
        raise DataError(
            "a ranked response has no score",
            expected=f"a finite number for response {response_id!r}",
            got=str(score) if response_id in scores else "nothing",
            where=f"ranking {ranking.id!r} of prompt {ranking.prompt_id!r}",
        )
    return score


def _by(
    key_of: Callable[[Ranking], Key], rankings: Sequence[Ranking], scores: Mapping[str, float], confidence: float, seed: int
) -> dict[Key, Estimate]:
    groups: defaultdict[Key, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        groups[key_of(ranking)].append(ranking)
    estimates = {key: reward_accuracy(groups[key], scores, confidence=confidence, seed=seed) for key in sorted(groups)}
    return {key: estimate for key, estimate in estimates.items() if estimate.count}
