"""What labelers say of models that answered the same prompts: win rates, ratings and Table 3, for each group of labelers.

Groups are never pooled: training labelers' rankings taught the reward model what to like, the others' did not (SPEC 2.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from heedful.errors import DataError
from heedful.evaluate.model_comparison import ModelComparison, Pair, as_numbers, compare_models
from heedful.evaluate.results import Group
from heedful.evaluate.votes import Votes, votes_from_rankings
from heedful.records import RATING_FLAGS, Prompt, Ranking, Rating, Response
from heedful.statistics import ClusteredEstimate, two_way_mean, two_way_win_rate

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
    """How often each question was answered with yes, among the forms that answer it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCaseRate:
    """A model against the baseline on the prompts of one use case."""

    use_case: str
    model: str
    num_votes: int
    win_rate: ClusteredEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """What one group of labelers says."""

    group: Group
    votes: Votes
    against_baseline: ModelComparison
    pairs: tuple[Pair, ...]
    """Every pair of models, those with the baseline among them."""
    rated: tuple[Rated, ...]
    use_cases: tuple[UseCaseRate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleComparison:
    """An evaluation by labelers."""

    baseline: str
    confidence: float
    groups: tuple[GroupComparison, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What labelers judged and said: the records of one evaluation."""

    prompts: Mapping[str, Prompt]
    responses: Mapping[str, Response]
    rankings: Sequence[Ranking]
    ratings: Sequence[Rating]
    groups: Mapping[str, Group]
    """The group of each labeler by name."""


def compare_by_people(judged: Judged, *, baseline: str, confidence: float = 0.95) -> PeopleComparison:
    """All numbers, for each group of labelers that ranked something.

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
            notes.append(f"{GROUP_WORDS[group]} have rated nothing, so there are no means and no Table 3 rates of theirs")
        own = replace(judged, rankings=rankings, ratings=ratings)
        found.append(_group_comparison(group, own, baseline, confidence))
    if not found:
        raise DataError("no labeler has ranked the models' responses", expected="at least one ranking", got="none")
    return PeopleComparison(baseline=baseline, confidence=confidence, groups=tuple(found), notes=tuple(notes))


def _group_comparison(group: Group, own: Judged, baseline: str, confidence: float) -> GroupComparison:
    votes = votes_from_rankings(own.rankings, own.responses)
    against = compare_models(votes, baseline=baseline, length_control=False, confidence=confidence)
    everything = compare_models(votes, baseline=None, length_control=False, confidence=confidence)
    return GroupComparison(
        group=group,
        votes=votes,
        against_baseline=against,
        pairs=everything.pairs,
        rated=_rated(own, against.models, confidence),
        use_cases=_by_use_case(votes, own.prompts, against.models, baseline, confidence),
    )


def _rated(own: Judged, models: Sequence[str], confidence: float) -> tuple[Rated, ...]:
    """One row for each model, in the given order."""
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
    """Use cases in alphabetical order; prompts without one are in none."""
    found: list[UseCaseRate] = []
    for use_case in sorted({prompts[vote.prompt].use_case or "" for vote in votes.votes} - {""}):
        of_case = tuple(vote for vote in votes.votes if prompts[vote.prompt].use_case == use_case)
        for model in models:
            outcomes, on, by = Votes(votes=of_case, bad=()).against(model, baseline)
            if model != baseline and outcomes:
                rate = two_way_win_rate(outcomes, on, by, confidence=confidence)
                found.append(UseCaseRate(use_case=use_case, model=model, num_votes=len(outcomes), win_rate=rate))
    return tuple(found)


def people_numbers(found: PeopleComparison) -> dict[str, Any]:
    """The same for a program: every estimate with its two-way, one-way and naive intervals."""
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
    }
