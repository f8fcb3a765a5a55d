"""Bradley-Terry scores of many models from pairwise comparisons, with intervals over prompts and labelers.

    P(a is preferred to b)  =  1 / (1 + exp(-(score_a - score_b + effects . covariates)))

Maximum likelihood by Newton's method (Bradley and Terry 1952). A tie (an outcome of 0.5) adds half a win to both. Scores are
log-odds and sum to 0. Covariates are differences between the two responses (length, style). Their effects are fitted along with
the scores, which then compare models at equal length and style. Intervals use the two-way clustered variance of ``two_way``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError
from heedful.statistics.answers import coded
from heedful.statistics.intervals import Estimate, FloatArray, IntArray, Labels, Numbers
from heedful.statistics.student import t_quantile
from heedful.statistics.two_way import clustered_variance

_MAX_STEPS = 50
_LARGEST_SCORE = 30.0
"""A fit with log-odds beyond this (1 in 10^13) is considered to diverge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BradleyTerry:
    """Fitted scores; ``count`` of an estimate is the number of comparisons behind it."""

    scores: Mapping[str, Estimate]
    """Model -> its log-odds against the average model, best first."""
    effects: Mapping[str, Estimate]
    """Covariate -> its log-odds per unit of the difference a - b."""
    models: tuple[str, ...]
    confidence: float
    prompts: Labels = field(repr=False)
    labelers: Labels = field(repr=False)
    influence: FloatArray = field(repr=False)
    """How much each comparison adds to the error of each score, (comparisons, models)."""

    def difference(self, model: str, other: str) -> Estimate:
        """Score of ``model`` minus that of ``other``. Its interval is narrower than the two separate intervals suggest."""
        column = self.influence[:, self._place(model)] - self.influence[:, self._place(other)]
        value = self.scores[model].value - self.scores[other].value
        return _estimates([value], column[:, None], self.prompts, self.labelers, self.confidence, [len(column)])[0]

    def win_rate(self, model: str, other: str) -> Estimate:
        """Expected win rate of ``model`` against ``other`` at equal covariates; its interval comes from the difference's."""
        apart = self.difference(model, other)
        share, low, high = (1 / (1 + math.exp(-end)) for end in (apart.value, apart.low, apart.high))
        return Estimate(share, low, high, apart.count, share * (1 - share) * apart.standard_error)

    def _place(self, model: str) -> int:
        if model not in self.models:
            raise DataError("no such model", expected=f"one of {', '.join(self.models)}", got=repr(model))
        return self.models.index(model)


def bradley_terry(
    models: Labels,
    others: Labels,
    outcomes: Numbers,
    prompts: Labels,
    labelers: Labels,
    *,
    covariates: Mapping[str, Numbers] | None = None,
    confidence: float = 0.95,
) -> BradleyTerry:
    """Scores from comparisons in columns: ``outcomes[i]`` is 1 if ``models[i]`` beats ``others[i]``, 0.5 if they tie, else 0.

    Memory: 8 bytes for each comparison and model. Nothing is regularised. Raises DataError if groups of models were never
    compared, if some models never lost to or tied with the rest (their scores would be infinite), or if the columns do not fit.
    """
    given = np.asarray(outcomes, dtype=np.float64)
    extra = dict(covariates or {})
    lengths = [len(models), len(others), len(given), len(prompts), len(labelers), *map(len, extra.values())]
    if len(set(lengths)) > 1:
        raise DataError("columns do not match", expected="the same length for all", got=" and ".join(map(str, lengths)))
    wrong = given[~np.isin(given, (0.0, 0.5, 1.0))]
    if len(wrong):
        raise DataError("not an outcome of a comparison", expected="1, 0.5 (tie) or 0", got=str(wrong[0]))
    names, both = coded([str(name) for name in (*models, *others)])
    first, second = both[: len(given)], both[len(given) :]
    if len(names) < 2 or bool((first == second).any()):
        raise DataError(
            "not a comparison", expected="two different models in each row", got="a model against itself, or no rows"
        )
    _check_connected(names, first, second, given)
    design = _design(len(names), first, second, extra)
    weights = _fit(design, given)
    expected = 1 / (1 + np.exp(-design @ weights))
    information = design.T @ (design * (expected * (1 - expected))[:, None])
    influence: FloatArray = (design * (given - expected)[:, None]) @ np.linalg.inv(information)
    num_free = len(names) - 1
    raw = np.append(weights[:num_free], 0.0)
    raw_influence = np.concatenate([influence[:, :num_free], np.zeros((len(given), 1))], axis=1)
    centred = raw - raw.mean()
    centred_influence = raw_influence - raw_influence.mean(axis=1, keepdims=True)
    met = np.bincount(both, minlength=len(names)).tolist()
    found = _estimates(centred.tolist(), centred_influence, prompts, labelers, confidence, met)
    effects = _estimates(
        weights[num_free:].tolist(), influence[:, num_free:], prompts, labelers, confidence, [len(given)] * len(extra)
    )
    by_score = sorted(zip(names, found, strict=True), key=lambda pair: (-pair[1].value, pair[0]))
    return BradleyTerry(
        scores=dict(by_score),
        effects=dict(zip(extra, effects, strict=True)),
        models=tuple(names),
        confidence=confidence,
        prompts=prompts,
        labelers=labelers,
        influence=centred_influence,
    )


def relative_difference(first: Numbers, second: Numbers) -> FloatArray:
    """(a - b) / (a + b), from -1 to 1, 0 if the sum is 0: a covariate for lengths or counts of headings, lists, bold words."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total != 0)


def style_difference(first: Numbers, second: Numbers) -> FloatArray:
    """(a - b) / (a + b + 1) divided by its root mean square: a covariate for lengths and counts.

    Its effect is that of one standard deviation. Chatbot Arena's style control does the same (Li et al. 2024), but also
    subtracts the mean. We do not, so it does not matter which of two models is called a. If all differences are 0, so are
    the results.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    share = (a - b) / (a + b + 1)
    spread = math.sqrt(float(np.mean(share**2))) if len(share) else 0.0
    return share / spread if spread else share


def _design(num_models: int, first: IntArray, second: IntArray, extra: Mapping[str, Numbers]) -> FloatArray:
    """(comparisons, models - 1 + covariates): 1 for the first model, -1 for the second. The last model's score is 0."""
    rows = np.arange(len(first))
    design = np.zeros((len(first), num_models))
    design[rows, first] += 1
    design[rows, second] -= 1
    columns = [np.asarray(values, dtype=np.float64)[:, None] for values in extra.values()]
    for name, column in zip(extra, columns, strict=True):
        if not bool(np.isfinite(column).all()):
            raise DataError(
                f"the covariate {name!r} has values that are not numbers", expected="finite numbers", got="NaN or infinity"
            )
    return np.concatenate([design[:, :-1], *columns], axis=1)


def _fit(design: FloatArray, outcomes: FloatArray) -> FloatArray:
    weights = np.zeros(design.shape[1], dtype=np.float64)
    if int(np.linalg.matrix_rank(design)) < design.shape[1]:
        raise DataError(
            "the covariates cannot be told apart from the models or from each other",
            expected="covariates that vary within pairs of models",
            got="columns that are linear combinations of others",
        )
    for _ in range(_MAX_STEPS):
        expected = 1 / (1 + np.exp(-design @ weights))
        information = design.T @ (design * (expected * (1 - expected))[:, None])
        step = np.asarray(np.linalg.solve(information, design.T @ (outcomes - expected)), dtype=np.float64)
        # Far from the solution Newton's method overshoots, so steps are at most 2 log-odds.
        weights += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if float(np.abs(design @ step).max()) < 1e-13:
            return weights
        if float(np.abs(design @ weights).max()) > _LARGEST_SCORE:
            break
    raise DataError(
        "no finite scores fit these comparisons",
        expected="outcomes that models and covariates do not predict with certainty",
        got=f"a fit that has not converged after {_MAX_STEPS} steps, or that predicts outcomes with certainty",
        next_step="leave out a covariate, or collect more comparisons",
    )


def _estimates(
    values: Sequence[float],
    influence: FloatArray,
    prompts: Labels,
    labelers: Labels,
    confidence: float,
    counts: Sequence[int],
) -> list[Estimate]:
    found = clustered_variance(influence, prompts, labelers)
    estimates: list[Estimate] = []
    for value, variance, degrees, count in zip(values, found.two_way, found.two_way_degrees, counts, strict=True):
        if math.isnan(variance):
            estimates.append(Estimate(value, math.nan, math.nan, count, math.nan))
            continue
        half = t_quantile(0.5 + confidence / 2, float(degrees)) * math.sqrt(variance)
        estimates.append(Estimate(value, value - half, value + half, count, math.sqrt(variance)))
    return estimates


def _check_connected(names: Sequence[str], first: IntArray, second: IntArray, outcomes: FloatArray) -> None:
    """Raise DataError unless, however the models are split in two, each part has won or tied against the other (Ford 1957)."""
    won = np.eye(len(names), dtype=np.bool_)
    won[first[outcomes > 0], second[outcomes > 0]] = True
    won[second[outcomes < 1], first[outcomes < 1]] = True
    met = _reachable(won | won.T)
    if not bool(met[0].all()):
        groups = sorted({tuple(np.flatnonzero(row).tolist()) for row in met})
        raise DataError(
            "some models were never compared, not even through others",
            expected="models that comparisons connect",
            got=" | ".join(", ".join(names[i] for i in group) for group in groups),
            next_step="score each group separately, or compare models across groups",
        )
    beats = _reachable(won)
    if bool(beats.all()):
        return
    # No other model beat the one that reaches most models, or those that reach that one.
    leader = int(beats.sum(axis=1).argmax())
    unbeaten = [name for name, reaches in zip(names, beats[:, leader].tolist(), strict=True) if reaches]
    raise DataError(
        "some scores would be infinite",
        expected="no model, and no group of models, that never lost to or tied with the rest",
        got=f"{', '.join(unbeaten)} always won against the other {len(names) - len(unbeaten)}",
        next_step="collect more comparisons, or score these models separately and say so",
    )


def _reachable(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    reach = edges
    while True:
        further = (reach.astype(np.float64) @ reach.astype(np.float64)) > 0
        if bool((further == reach).all()):
            return reach
        reach = further
