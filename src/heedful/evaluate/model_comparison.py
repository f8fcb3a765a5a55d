"""Compares models by votes: win rates of pairs with four intervals, and Bradley-Terry scores, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from heedful.errors import ConfigError, DataError
from heedful.evaluate.plain_table import plain_table
from heedful.evaluate.votes import Vote, Votes
from heedful.statistics import (
    BradleyTerry,
    ClusteredEstimate,
    Estimate,
    bradley_terry,
    check_confidence,
    relative_difference,
    style_difference,
    two_way_difference,
    two_way_win_rate,
)
from heedful.statistics.text_style import STYLE_FEATURES

Control = Literal["length", "style"]
"""Scores are also computed at equal length, or at equal length and markup."""
_FEW_LABELERS, _FEW_PROMPTS = 5, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models that were compared; ``win_rate`` is the first one's, ties half a win."""

    model: str
    other: str
    num_votes: int
    num_ties: int
    win_rate: ClusteredEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more often one model beats the baseline than the other does, on the same prompts by the same labelers."""

    model: str
    other: str
    value: ClusteredEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """The results of comparing models by votes."""

    models: tuple[str, ...]
    """Best first: by score or, without scores, by share of wins."""
    baseline: str | None
    confidence: float
    pairs: tuple[Pair, ...]
    """Every pair that was compared, or only those with the baseline."""
    differences: tuple[Difference, ...]
    """Each model against the next worse one; only with a baseline."""
    scores: BradleyTerry | None
    at_equal_length: BradleyTerry | None
    """Scores with the relative difference of lengths as a covariate, if requested."""
    at_equal_style: BradleyTerry | None
    """Scores with the differences of lengths and markup as covariates, each divided by its standard deviation, if requested."""
    notes: tuple[str, ...]


def compare_models(
    votes: Votes, *, baseline: str | None, confidence: float, controls: Collection[Control] = ()
) -> ModelComparison:
    """Compute all numbers. Scores that cannot be fitted are absent, and a note says why.

    Raises DataError if there are no votes; ConfigError for a baseline without votes, for lengths or markup that no vote has,
    and for a confidence that is not between 0 and 1.
    """
    if not votes.votes:
        raise DataError("there are no votes", expected="comparisons of two models", got=votes.summary())
    check_confidence(confidence)
    names = sorted({name for vote in votes.votes for name in (vote.model_a, vote.model_b)})
    if baseline is not None and baseline not in names:
        raise ConfigError("the baseline has no votes", expected=f"one of {', '.join(names)}", got=repr(baseline))
    notes: list[str] = []
    scores = _fitted(votes, {}, confidence, notes)
    models = tuple(scores.scores) if scores is not None else _by_wins(names, votes.votes)
    pairs = _pairs(votes.votes, models, baseline, confidence)
    if any(math.isnan(pair.win_rate.two_way.low) for pair in pairs):
        notes.append("n/a: with one labeler or one prompt, nothing is known about others")
    num_labelers = min(pair.win_rate.num_labelers for pair in pairs)
    num_prompts = min(pair.win_rate.num_prompts for pair in pairs)
    if num_labelers < _FEW_LABELERS or num_prompts < _FEW_PROMPTS:
        notes.append(
            f"some pairs have only {num_labelers} labelers or {num_prompts} prompts: trust two-way intervals from about "
            f"{_FEW_LABELERS} labelers and {_FEW_PROMPTS} prompts"
        )
    return ModelComparison(
        models=models,
        baseline=baseline,
        confidence=confidence,
        pairs=pairs,
        differences=() if baseline is None else _differences(votes, models, baseline, confidence),
        scores=scores,
        at_equal_length=_at_equal_length(votes, confidence, notes) if "length" in controls else None,
        at_equal_style=_at_equal_style(votes, confidence, notes) if "style" in controls else None,
        notes=tuple(notes),
    )


def _fitted(
    votes: Votes, covariates: Mapping[str, Any], confidence: float, notes: list[str], controlled: str = ""
) -> BradleyTerry | None:
    try:
        return bradley_terry(*votes.columns(), covariates=covariates, confidence=confidence)
    except DataError as error:
        notes.append(f"no scores{controlled}: {error.message} ({error.got})")
        return None


def _at_equal_length(votes: Votes, confidence: float, notes: list[str]) -> BradleyTerry | None:
    known = [(vote, vote.lengths) for vote in votes.votes if vote.lengths is not None]
    if not known:
        raise _nothing_to_control("lengths", "their lengths", "--length-control")
    if len(known) < len(votes.votes):
        notes.append(f"at equal length: without {len(votes.votes) - len(known):,} votes whose lengths are unknown")
    length = relative_difference([one for _, (one, _) in known], [other for _, (_, other) in known])
    comparable = Votes(votes=tuple(vote for vote, _ in known), bad=())
    return _fitted(comparable, {"length": length}, confidence, notes, " at equal length")


def _at_equal_style(votes: Votes, confidence: float, notes: list[str]) -> BradleyTerry | None:
    known = [(vote, vote.lengths, vote.styles) for vote in votes.votes if vote.lengths is not None and vote.styles is not None]
    if not known:
        raise _nothing_to_control("markup", "their lengths and counts (lists_a, headers_a, bold_a, ...)", "--style-control")
    if len(known) < len(votes.votes):
        notes.append(f"at equal style: without {len(votes.votes) - len(known):,} votes whose responses are unknown")
    pairs = {"length": [lengths for _, lengths, _ in known]}
    for feature in STYLE_FEATURES:
        pairs[feature] = [(getattr(one, feature), getattr(other, feature)) for _, _, (one, other) in known]
    covariates = {name: style_difference([a for a, _ in of], [b for _, b in of]) for name, of in pairs.items()}
    alike = [name for name, values in covariates.items() if not values.any()]
    if alike:
        words = ", ".join(name.replace("_", " ") for name in alike)
        notes.append(f"at equal style: without {words}, of which both responses of every vote have as many")
    different = {name: values for name, values in covariates.items() if name not in alike}
    comparable = Votes(votes=tuple(vote for vote, _, _ in known), bad=())
    return _fitted(comparable, different, confidence, notes, " at equal style")


def _nothing_to_control(what: str, columns: str, option: str) -> ConfigError:
    return ConfigError(
        f"no vote has the {what} of both responses",
        expected=f"columns with both responses, or with {columns}",
        got="neither",
        next_step=f"name them: --column response_a=NAME --column response_b=NAME, or leave out {option}",
    )


def _by_wins(names: Sequence[str], votes: Sequence[Vote]) -> tuple[str, ...]:
    won, met = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for vote in votes:
        won[vote.model_a] += vote.outcome
        won[vote.model_b] += 1 - vote.outcome
        met[vote.model_a] += 1
        met[vote.model_b] += 1
    return tuple(sorted(names, key=lambda name: (-won[name] / met[name], name)))


def _pairs(votes: Sequence[Vote], models: Sequence[str], baseline: str | None, confidence: float) -> tuple[Pair, ...]:
    place = {name: number for number, name in enumerate(models)}
    found: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        first, second = sorted((vote.model_a, vote.model_b), key=place.__getitem__)
        if baseline is None or second == baseline:
            found.setdefault((first, second), []).append(vote)
        elif first == baseline:
            found.setdefault((second, first), []).append(vote)
    pairs: list[Pair] = []
    for (model, other), own in sorted(found.items(), key=lambda pair: (place[pair[0][0]], place[pair[0][1]])):
        outcomes = [vote.outcome if vote.model_a == model else 1 - vote.outcome for vote in own]
        prompts, labelers = [vote.prompt for vote in own], [vote.labeler for vote in own]
        pairs.append(
            Pair(
                model=model,
                other=other,
                num_votes=len(own),
                num_ties=outcomes.count(0.5),
                win_rate=two_way_win_rate(outcomes, prompts, labelers, confidence=confidence),
            )
        )
    return tuple(pairs)


def _differences(votes: Votes, models: Sequence[str], baseline: str, confidence: float) -> tuple[Difference, ...]:
    others = [model for model in models if model != baseline]
    found: list[Difference] = []
    for model, other in pairwise(others):
        first, second, prompts, labelers = votes.paired(model, other, baseline)
        if first:
            value = two_way_difference(first, second, prompts, labelers, confidence=confidence)
            found.append(Difference(model=model, other=other, value=value))
    return tuple(found)


# ---------------------------------------------------------------------------------------------------- in words


def in_words(comparison: ModelComparison) -> str:
    """Render the tables of win rates and scores, and the notes."""
    sure = f"{100 * comparison.confidence:.4g} %"
    rows = [["model", "against", "votes", "ties", "win rate", "two-way", "by prompt", "by labeler", "naive"]]
    for pair in comparison.pairs:
        rate = pair.win_rate
        ends = [_percents(one) for one in (rate.two_way, rate.by_prompt, rate.by_labeler, rate.naive)]
        rows.append([pair.model, pair.other, f"{pair.num_votes:,}", f"{pair.num_ties:,}", f"{100 * rate.value:.1f} %", *ends])
    lines = [f"win rates, ties as half a win, with {sure} intervals (report two-way):", *plain_table(rows, left=2)]
    if comparison.differences:
        rows = [["model", "minus", "both judged", "difference", "two-way"]]
        for one in comparison.differences:
            value = one.value.two_way
            rows.append([one.model, one.other, f"{value.count:,}", f"{100 * value.value:+.1f} %", _percents(value)])
        lines += [f"win rates against {comparison.baseline}, model by model:", *plain_table(rows, left=2)]
    if comparison.scores is not None:
        lines += [f"Bradley-Terry scores, log-odds against the average model, with {sure} two-way intervals:"]
        lines += plain_table(score_rows(comparison.scores, comparison.baseline))
    if comparison.at_equal_length is not None:
        lines += ["the same at equal length of the responses:"]
        lines += plain_table(score_rows(comparison.at_equal_length, comparison.baseline, comparison.scores))
        effect = comparison.at_equal_length.effects["length"]
        lines += [f"  a response twice as long as the other: {effect.value / 3:+.3f} log-odds{_ends(effect, 1 / 3)}"]
    if comparison.at_equal_style is not None:
        lines += ["the same at equal length and style of the responses:"]
        lines += plain_table(score_rows(comparison.at_equal_style, comparison.baseline, comparison.scores))
        lines += [f"{EFFECTS_TITLE}:", *plain_table(effect_rows(comparison.at_equal_style))]
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


EFFECTS_TITLE = "what a difference of one standard deviation adds, in log-odds"


def score_rows(fitted: BradleyTerry, baseline: str | None, uncontrolled: BradleyTerry | None = None) -> list[list[str]]:
    """Make a header and a row for each model, best first. ``uncontrolled`` scores are shown beside controlled ones."""
    against = baseline if baseline in fitted.models else None
    more = [*(["uncontrolled"] if uncontrolled else []), *([f"wins against {against}"] if against else [])]
    rows = [["model", "votes", "score", "two-way", *more]]
    for model, score in fitted.scores.items():
        row = [model, f"{score.count:,}", f"{score.value:+.3f}", _ends(score).strip(" ()") or "n/a"]
        if uncontrolled is not None:
            row.append(f"{uncontrolled.scores[model].value:+.3f}")
        if against is not None:
            rate = None if model == against else fitted.win_rate(model, against)
            row.append("" if rate is None else f"{100 * rate.value:.1f} % ({_percents(rate)})")
        rows.append(row)
    return rows


def effect_rows(fitted: BradleyTerry) -> list[list[str]]:
    """Make a header and a row for each covariate."""
    rows = [["feature", "effect", "two-way"]]
    for name, effect in fitted.effects.items():
        rows.append([name.replace("_", " "), f"{effect.value:+.3f}", _ends(effect).strip(" ()") or "n/a"])
    return rows


def _percents(estimate: Estimate) -> str:
    return "n/a" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _ends(estimate: Estimate, scale: float = 1.0) -> str:
    return "" if math.isnan(estimate.low) else f" ({scale * estimate.low:+.3f} to {scale * estimate.high:+.3f})"


# ---------------------------------------------------------------------------------------------------- as numbers


def as_numbers(comparison: ModelComparison, votes: Votes) -> dict[str, Any]:
    """Return the same numbers for JSON."""
    return {
        "votes": len(votes.votes),
        "bad": [asdict(bad) for bad in votes.bad],
        "notes": [*votes.notes, *comparison.notes],
        "models": list(comparison.models),
        "baseline": comparison.baseline,
        "confidence": comparison.confidence,
        "pairs": [
            {"model": p.model, "other": p.other, "votes": p.num_votes, "ties": p.num_ties, "win_rate": asdict(p.win_rate)}
            for p in comparison.pairs
        ],
        "differences": [{"model": d.model, "other": d.other, **asdict(d.value)} for d in comparison.differences],
        "scores": _scores_as_numbers(comparison.scores),
        "at_equal_length": _scores_as_numbers(comparison.at_equal_length),
        "at_equal_style": _scores_as_numbers(comparison.at_equal_style),
    }


def _scores_as_numbers(fitted: BradleyTerry | None) -> dict[str, Any] | None:
    if fitted is None:
        return None
    return {
        "scores": {model: asdict(score) for model, score in fitted.scores.items()},
        "effects": {name: asdict(effect) for name, effect in fitted.effects.items()},
    }
