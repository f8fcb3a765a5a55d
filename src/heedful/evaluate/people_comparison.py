"""Labelers' judgements of models that answered the same prompts: win rates, ratings and Table 3, by group of labelers.

Groups are never pooled: only training labelers' rankings taught the reward model what to like (SPEC 2.4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from heedful.errors import DataError
from heedful.evaluate.model_comparison import Control, ModelComparison, Pair, as_numbers, compare_models
from heedful.evaluate.results import Group
from heedful.evaluate.votes import Votes, votes_from_rankings
from heedful.records import RATING_FLAGS, Prompt, Ranking, Rating, Response
from heedful.statistics import ClusteredEstimate, two_way_mean, two_way_win_rate

UNKNOWN = "unknown"
GROUPS: tuple[Group, ...] = ("held_out", "training")
GROUP_WORDS: Mapping[Group, str] = {"held_out": "held-out labelers", "training": "training labelers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """The forms that labelers filled in for one model's responses (Table 3)."""

    model: str
    num_ratings: int
    overall: ClusteredEstimate
    """Mean of the overall quality, 1 to 7."""
    flags: Mapping[str, ClusteredEstimate]
    """How often each question was answered yes, among the forms that answer it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCaseRate:
    """A model against the baseline on the prompts of one use case."""

    use_case: str
    model: str
    num_votes: int
    win_rate: ClusteredEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenForRate:
    """A model against the baseline on the prompts that were written for one kind of model (figure 3)."""

    written_for: str
    """instruct, base, or unknown."""
    model: str
    num_votes: int
    win_rate: ClusteredEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """The results of one group of labelers."""

    group: Group
    votes: Votes
    against_baseline: ModelComparison
    pairs: tuple[Pair, ...]
    """Every pair of models, including those with the baseline."""
    rated: tuple[Rated, ...]
    use_cases: tuple[UseCaseRate, ...]
    written_for: tuple[WrittenForRate, ...]
    """Empty if no prompt says which kind of model it was written for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleComparison:
    """An evaluation by labelers."""

    baseline: str
    confidence: float
    groups: tuple[GroupComparison, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The records of one evaluation: what labelers judged, and their answers."""

    prompts: Mapping[str, Prompt]
    responses: Mapping[str, Response]
    rankings: Sequence[Ranking]
    ratings: Sequence[Rating]
    groups: Mapping[str, Group]
    """The group of each labeler by name."""


def compare_by_people(
    judged: Judged, *, baseline: str, confidence: float = 0.95, controls: Collection[Control] = ()
) -> PeopleComparison:
    """Compute all numbers for each group that ranked something. ``controls`` adds scores at equal length or style.

    Raises DataError without any ranking, or if a labeler is in no group; ConfigError for a baseline without votes and for a
    confidence that is not between 0 and 1.
    """
    for answer in (*judged.rankings, *judged.ratings):
        if answer.labeler not in judged.groups:
            raise DataError(
                "a labeler is in no group", expected=f"one of {', '.join(judged.groups)}", got=answer.labeler, where=answer.id
            )
    notes: list[str] = []
    found: list[GroupComparison] = []
    for group in GROUPS:
        rankings = [one for one in judged.rankings if judged.groups[one.labeler] == group]
        ratings = [one for one in judged.ratings if judged.groups[one.labeler] == group]
        if not rankings:
            notes.append(f"{GROUP_WORDS[group]} have ranked nothing")
            continue
        if not ratings:
            notes.append(f"{GROUP_WORDS[group]} have rated nothing, so they have no means and no Table 3 rates")
        own = replace(judged, rankings=rankings, ratings=ratings)
        found.append(_group_comparison(group, own, baseline, confidence, controls))
    if not found:
        raise DataError("no labeler has ranked the models' responses", expected="at least one ranking", got="none")
    return PeopleComparison(baseline=baseline, confidence=confidence, groups=tuple(found), notes=tuple(notes))


def _group_comparison(
    group: Group, own: Judged, baseline: str, confidence: float, controls: Collection[Control]
) -> GroupComparison:
    votes = votes_from_rankings(own.rankings, own.responses)
    against = compare_models(votes, baseline=baseline, confidence=confidence, controls=controls)
    everything = compare_models(votes, baseline=None, confidence=confidence)
    return GroupComparison(
        group=group,
        votes=votes,
        against_baseline=against,
        pairs=everything.pairs,
        rated=_rated(own, against.models, confidence),
        use_cases=_by_use_case(votes, own.prompts, against.models, baseline, confidence),
        written_for=_by_written_for(votes, own.prompts, against.models, baseline, confidence),
    )


def _rated(own: Judged, models: Sequence[str], confidence: float) -> tuple[Rated, ...]:
    """Make one row for each model, in the given order."""
    of_model: dict[str, list[Rating]] = {model: [] for model in models}
    for rating in own.ratings:
        model = own.responses[rating.response_id].model
        if model in of_model:
            of_model[model].append(rating)
    return tuple(_rated_model(model, ratings, confidence) for model, ratings in of_model.items() if ratings)


def _rated_model(model: str, ratings: Sequence[Rating], confidence: float) -> Rated:
    prompts, labelers = [one.prompt_id for one in ratings], [one.labeler for one in ratings]
    flags: dict[str, ClusteredEstimate] = {}
    for flag in RATING_FLAGS:
        said = [one for one in ratings if flag in one.flags]
        if said:
            flags[flag] = two_way_win_rate(
                [float(one.flags[flag]) for one in said],
                [one.prompt_id for one in said],
                [one.labeler for one in said],
                confidence=confidence,
            )
    overall = two_way_mean([float(one.overall) for one in ratings], prompts, labelers, confidence=confidence)
    return Rated(model=model, num_ratings=len(ratings), overall=overall, flags=flags)


def _by_use_case(
    votes: Votes, prompts: Mapping[str, Prompt], models: Sequence[str], baseline: str, confidence: float
) -> tuple[UseCaseRate, ...]:
    """Compute win rates by use case, in alphabetical order. Prompts without a use case are left out."""
    of_part = {name: prompt.use_case for name, prompt in prompts.items() if prompt.use_case}
    return tuple(
        UseCaseRate(use_case=part, model=model, num_votes=number, win_rate=rate)
        for part, model, number, rate in _by_part(votes, of_part, models, baseline, confidence)
    )


def _by_written_for(
    votes: Votes, prompts: Mapping[str, Prompt], models: Sequence[str], baseline: str, confidence: float
) -> tuple[WrittenForRate, ...]:
    """Compute win rates by the kind of model that prompts were written for; empty if no prompt names a kind."""
    of_part = {name: written_for(prompt) for name, prompt in prompts.items()}
    if all(part == UNKNOWN for part in of_part.values()):
        return ()
    return tuple(
        WrittenForRate(written_for=part, model=model, num_votes=number, win_rate=rate)
        for part, model, number, rate in _by_part(votes, of_part, models, baseline, confidence)
    )


def written_for(prompt: Prompt) -> str:
    """Return the kind of model that a prompt was written for, from its metadata: instruct, base or unknown."""
    said = prompt.metadata.get("written_for")
    return said if said in ("instruct", "base") else UNKNOWN


def _by_part(
    votes: Votes, of_part: Mapping[str, str], models: Sequence[str], baseline: str, confidence: float
) -> Iterator[tuple[str, str, int, ClusteredEstimate]]:
    """Yield (part, model, votes, win rate against the baseline) for the prompts of each part, in alphabetical order."""
    for part in sorted({of_part[vote.prompt] for vote in votes.votes if vote.prompt in of_part}):
        own = tuple(vote for vote in votes.votes if of_part.get(vote.prompt) == part)
        for model in models:
            outcomes, on, by = Votes(votes=own, bad=()).against(model, baseline)
            if model != baseline and outcomes:
                yield part, model, len(outcomes), two_way_win_rate(outcomes, on, by, confidence=confidence)


def people_numbers(found: PeopleComparison) -> dict[str, Any]:
    """Return the same numbers for JSON: every estimate with its two-way, one-way and naive intervals."""
    return {
        "baseline": found.baseline,
        "confidence": found.confidence,
        "notes": list(found.notes),
        "groups": {one.group: _group_numbers(one) for one in found.groups},
    }


def _group_numbers(one: GroupComparison) -> dict[str, Any]:
    every = [
        {"model": p.model, "other": p.other, "votes": p.num_votes, "ties": p.num_ties, "win_rate": asdict(p.win_rate)}
        for p in one.pairs
    ]
    return {
        "against_baseline": as_numbers(one.against_baseline, one.votes),
        "pairs": every,
        "ratings": [asdict(rated) for rated in one.rated],
        "use_cases": [asdict(rate) for rate in one.use_cases],
        "written_for": [asdict(rate) for rate in one.written_for],
    }
