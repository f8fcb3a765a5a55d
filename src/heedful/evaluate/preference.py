"""Turns labelers' judgements into the ``preference`` and ``ratings`` sections of the results (SPEC 4.1). No torch.

Judgements of the same prompt are not independent (its difficulty is shared), so every interval is over prompts as clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from heedful.errors import DataError
from heedful.evaluate.results import (
    ClosedDomainHallucination,
    Group,
    HeadToHead,
    Preference,
    Ratings,
    UseCaseWinRate,
    WinRate,
    as_estimate,
)
from heedful.records import RATING_FLAGS, Prompt, Ranking, Rating, Response, UseCase
from heedful.statistics import bootstrap_mean, proportion, win_rate

Row = TypeVar("Row")
Key = TypeVar("Key", bound=tuple[Any, ...])
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One labeler's comparison of two models on one prompt: ``outcome`` is 1 if ``model`` wins, 0.5 for a tie, else 0."""

    model: str
    against: str
    prompt_id: str
    use_case: str | None
    labeler: str
    group: Group
    outcome: float

    def __post_init__(self) -> None:
        if self.outcome not in (0.0, 0.5, 1.0):
            raise DataError(
                f"the judgement of {self.model!r} against {self.against!r} on prompt {self.prompt_id!r} is not valid",
                expected="outcome 0, 0.5 (a tie) or 1",
                got=str(self.outcome),
            )


def judgements_from_rankings(
    rankings: Iterable[Ranking],
    responses: Mapping[str, Response],
    prompts: Mapping[str, Prompt],
    groups: Mapping[str, Group],
    pairs: Sequence[tuple[str, str]],
) -> list[Judgement]:
    """Return every comparison of the given (model, against) pairs in the rankings, ties included.

    ``responses`` and ``prompts`` by id, ``groups`` by labeler. Responses that no pair names are left out. DataError if a
    ranking names an unknown response, prompt or labeler, or a response to another prompt.
    """
    judgements: list[Judgement] = []
    for ranking in rankings:
        prompt = _found(prompts, ranking.prompt_id, "prompt", ranking.id)
        group = _found(groups, ranking.labeler, "labeler", ranking.id)
        ranks: dict[str | None, list[int]] = {}
        for response_id, rank in zip(ranking.response_ids, ranking.ranks, strict=True):
            response = _found(responses, response_id, "response", ranking.id)
            if response.prompt_id != ranking.prompt_id:
                raise DataError(
                    f"the ranking {ranking.id!r} ranks a response to another prompt",
                    expected=f"responses to prompt {ranking.prompt_id!r}",
                    got=f"response {response_id!r}, which answers {response.prompt_id!r}",
                )
            ranks.setdefault(response.model, []).append(rank)
        judgements += [
            Judgement(
                model=model,
                against=against,
                prompt_id=prompt.id,
                use_case=prompt.use_case,
                labeler=ranking.labeler,
                group=group,
                outcome=_outcome(rank, other),
            )
            for model, against in pairs
            for rank in ranks.get(model, ())
            for other in ranks.get(against, ())
        ]
    return judgements


def preference_section(judgements: Iterable[Judgement], baseline: str, temperature: float) -> Preference:
    """Compute win rates against the baseline by group and by use case, and all other pairs as head to head.

    By use case, only held-out labelers' judgements count; if there are none, training labelers' count.
    """
    rows = list(judgements)
    against_baseline = [row for row in rows if row.against == baseline]
    others = [row for row in rows if row.against != baseline]
    group = "held_out" if any(row.group == "held_out" for row in against_baseline) else "training"
    by_case = [row for row in against_baseline if row.group == group and row.use_case is not None]
    return {
        "baseline": baseline,
        "num_prompts": len({row.prompt_id for row in rows}),
        "temperature": temperature,
        "win_rates": [
            WinRate(model=model, group=one, **_wins(found))
            for (model, one), found in _grouped(against_baseline, lambda row: (row.model, row.group))
        ],
        "head_to_head": [
            HeadToHead(model=model, against=against, group=one, **_wins(found))
            for (model, against, one), found in _grouped(others, lambda row: (row.model, row.against, row.group))
        ],
        "by_use_case": [
            UseCaseWinRate(model=model, use_case=case, **_wins(found))
            for (model, case), found in _grouped(by_case, lambda row: (row.model, str(row.use_case)))
        ],
    }


def ratings_section(ratings: Iterable[Rating], responses: Mapping[str, Response], groups: Mapping[str, Group]) -> list[Ratings]:
    """Compute mean overall quality (1-7) with its interval, and the rate of each flag, per model and group of labelers.

    A flag's rate is over the ratings that answer it; a flag without an answer is absent. Ratings of responses that no model
    wrote are left out. With ratings of a single prompt, the interval is unknown (None). DataError if a rating names an
    unknown response or labeler.
    """
    rows: list[tuple[str, Group, Rating]] = []
    for rating in ratings:
        response = _found(responses, rating.response_id, "response", rating.id)
        group = _found(groups, rating.labeler, "labeler", rating.id)
        if response.model is not None:
            rows.append((response.model, group, rating))
    return [_rated(model, group, [row[2] for row in found]) for (model, group), found in _grouped(rows, lambda row: row[:2])]


CLOSED_DOMAIN_USE_CASES: tuple[UseCase, ...] = ("summarization", "closed_qa", "extract")
"""Use cases whose answers may say nothing that is not in the prompt (SPEC 4.5)."""


def is_closed_domain(prompt: Prompt) -> bool:
    """Return whether the prompt is closed-domain: by labelers' answer to Table 7's field, else by its use case."""
    said = prompt.metadata.get("closed_domain")
    return said if isinstance(said, bool) else prompt.use_case in CLOSED_DOMAIN_USE_CASES


def closed_domain_section(
    ratings: Iterable[Rating], responses: Mapping[str, Response], prompts: Mapping[str, Prompt], groups: Mapping[str, Group]
) -> list[ClosedDomainHallucination]:
    """Compute how often each model hallucinates on closed-domain prompts, by group; empty if no rating answers that.

    DataError if a rating names an unknown response, prompt or labeler.
    """
    rows: list[tuple[str, Group, str, bool]] = []
    for rating in ratings:
        response = _found(responses, rating.response_id, "response", rating.id)
        prompt = _found(prompts, rating.prompt_id, "prompt", rating.id)
        group = _found(groups, rating.labeler, "labeler", rating.id)
        if response.model is not None and "hallucination" in rating.flags and is_closed_domain(prompt):
            rows.append((response.model, group, prompt.id, rating.flags["hallucination"]))
    return [
        {"model": model, "group": group, "rate": as_estimate(proportion([row[3] for row in found], [row[2] for row in found]))}
        for (model, group), found in _grouped(rows, lambda row: row[:2])
    ]


class _Wins(TypedDict):
    win_rate: float
    low: float
    high: float
    num_comparisons: int


def _wins(rows: Sequence[Judgement]) -> _Wins:
    estimate = win_rate([row.outcome for row in rows], [row.prompt_id for row in rows])
    return {"win_rate": estimate.value, "low": estimate.low, "high": estimate.high, "num_comparisons": estimate.count}


def _rated(model: str, group: Group, ratings: Sequence[Rating]) -> Ratings:
    overall = bootstrap_mean([float(rating.overall) for rating in ratings], [rating.prompt_id for rating in ratings])
    answers = {flag: [rating.flags[flag] for rating in ratings if flag in rating.flags] for flag in RATING_FLAGS}
    return {
        "model": model,
        "group": group,
        "overall": overall.value,
        "low": None if math.isnan(overall.low) else overall.low,
        "high": None if math.isnan(overall.high) else overall.high,
        "flags": {flag: sum(said) / len(said) for flag, said in answers.items() if said},
    }


def _grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> list[tuple[Key, list[Row]]]:
    """Group rows by key, with sorted keys, so that the order of the judgements does not change the section."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return sorted(groups.items(), key=lambda item: item[0])


def _outcome(rank: int, other: int) -> float:
    """Return 1, 0.5 or 0 for a win, tie or loss; rank 1 is the best."""
    return 0.5 if rank == other else float(rank < other)


def _found(records: Mapping[str, Found], name: str, kind: str, where: str) -> Found:
    if name not in records:
        raise DataError(
            f"{where!r} names a {kind} that is not there",
            expected=f"one of the {len(records)} known {kind}s",
            got=repr(name),
            next_step="import it, or correct the name",
        )
    return records[name]
