"""Who works carefully: scores on gold tasks, and signs of carelessness in stored answers (SPEC 2.4).

People appear under their pseudonyms. Answers from screening are left out. A sign is not proof: talk to the labeler first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from heedful.labeling.database.tables import assignment, person, prompt, response, task, task_response
from heedful.labeling.quality.labeler_agreement import Scope
from heedful.labeling.queue.kinds import FORMER_PROMPT_FLAGS
from heedful.records import Ranking, Rating
from heedful.statistics import (
    CarelessnessRow,
    CarelessnessThresholds,
    Estimate,
    Submission,
    carelessness,
    gold_flag_scores,
    gold_overall_scores,
    gold_ranking_scores,
    proportion,
)

MAX_GOLD = 2_000
"""Newest gold tasks that scores are computed from."""
MAX_SUBMISSIONS = 200
"""How many of each labeler's newest answers are checked for signs of carelessness."""
WITH_OUTPUTS = frozenset({"rank", "rate", "toxicity"})
FREE_TEXT = frozenset({"write_prompt", "demonstrate"})
"""Kinds of task for which equal answers are not compared."""


# ---------------------------------------------------------------------------------------------------- gold


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedGold:
    """A gold ranking on which ``wrong`` of ``labelers`` (3 or more) got less than half of the known preferences right."""

    task_id: int
    wrong: int
    labelers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldReport:
    """Each labeler's scores on tasks whose answer is known; shares from 0 to 1."""

    tasks: int
    """Gold tasks that someone answered."""
    answers: int
    rankings: Mapping[str, Estimate]
    flags: Mapping[str, Estimate]
    overall: Mapping[str, Estimate]
    """Share of overall ratings within one point of the researchers'."""
    other: Mapping[str, Estimate]
    """Share of the known fields of all other kinds (use case, yes or no) on which they agree with the researchers."""
    missed: Sequence[MissedGold]
    """Gold rankings that most labelers got wrong: perhaps the gold itself is wrong."""

    @property
    def labelers(self) -> list[str]:
        """Everyone who answered a gold task."""
        return sorted({*self.rankings, *self.flags, *self.overall, *self.other})


def gold(connection: Connection, scope: Scope | None = None, *, limit: int = MAX_GOLD) -> GoldReport:
    """Scores on the newest ``limit`` gold tasks of training and evaluation. Gold in screening is part of screening."""
    scope = scope or Scope()
    newest = select(task.c.id).where(task.c.gold.isnot(None), task.c.phase != "screening").order_by(task.c.id.desc())
    if scope.batch_id is not None:
        newest = newest.where(task.c.batch_id == scope.batch_id)
    if scope.phase is not None:
        newest = newest.where(task.c.phase == scope.phase)
    chosen = (
        select(task.c.id, task.c.kind, task.c.gold, assignment.c.answer, person.c.pseudonym)
        .join(assignment, assignment.c.task_id == task.c.id)
        .join(person, person.c.id == assignment.c.person_id)
        .where(task.c.id.in_(newest.limit(limit)), assignment.c.state == "answered", person.c.role == "labeler")
        .order_by(task.c.id, assignment.c.answered)
    )
    if scope.since is not None:
        chosen = chosen.where(assignment.c.answered >= scope.since)
    if scope.simulated is not None:
        chosen = chosen.where(person.c.simulated == scope.simulated)
    answers = [
        GoldAnswer(task_id=id, kind=kind, gold=known, answer=answer, labeler=labeler)
        for id, kind, known, answer, labeler in connection.execute(chosen)
    ]
    return gold_report(answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """One labeler's answer to a gold task. Both answers have the form of ``queue.kinds``; gold may have fewer fields."""

    task_id: int
    kind: str
    gold: Mapping[str, Any]
    answer: Mapping[str, Any]
    labeler: str


def gold_report(answers: Sequence[GoldAnswer]) -> GoldReport:
    """Score rankings, flags and overall ratings by ``statistics.gold``; in other kinds each known field is right or wrong."""
    rankings: list[Ranking] = []
    ratings: list[Rating] = []
    ranks: dict[str, dict[str, int]] = {}
    flags: dict[str, dict[str, bool]] = {}
    overall: dict[str, tuple[int, int]] = {}
    fields: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for number, given in enumerate(answers):
        task_id = str(given.task_id)
        if "groups" in given.gold and "groups" in given.answer:
            ranks[task_id] = _ranks(given.gold["groups"])
            own = _ranks(given.answer["groups"])
            rankings.append(
                Ranking(
                    id=str(number), prompt_id=task_id, response_ids=tuple(own), ranks=tuple(own.values()), labeler=given.labeler
                )
            )
        for response_id, known in given.gold.get("ratings", {}).items():
            # A response may be in two tasks, each with its own gold.
            item = f"{task_id} {response_id}"
            flags[item] = dict(known.get("flags", {}))
            if "overall" in known:
                overall[item] = max(1, known["overall"] - 1), min(7, known["overall"] + 1)
            form = given.answer.get("ratings", {}).get(response_id)
            if form is not None:
                ratings.append(
                    Rating(
                        id=f"{number} {response_id}",
                        prompt_id=task_id,
                        response_id=item,
                        labeler=given.labeler,
                        overall=form["overall"],
                        flags=form["flags"],
                    )
                )
        known_fields = {
            key: value for key, value in _flat(given.gold).items() if given.kind not in ("rank", "rate", "toxicity")
        }
        own_fields = _flat(given.answer)
        # Newer answers lack fields that the form no longer has.
        former = {f"flags.{name}" for name in FORMER_PROMPT_FLAGS} - set(own_fields)
        known_fields = {key: value for key, value in known_fields.items() if key not in former}
        if known_fields:
            right = sum(own_fields.get(key) == value for key, value in known_fields.items())
            fields[given.labeler].append((given.task_id, right, len(known_fields)))
    flags = {item: known for item, known in flags.items() if known}
    return GoldReport(
        tasks=len({given.task_id for given in answers}),
        answers=len(answers),
        rankings=gold_ranking_scores(rankings, ranks),
        flags=gold_flag_scores(ratings, flags),
        overall=gold_overall_scores(ratings, overall),
        other={
            labeler: proportion([r for _, r, _ in rows], [t for t, _, _ in rows], trials=[n for _, _, n in rows])
            for labeler, rows in sorted(fields.items())
        },
        missed=_missed(rankings, ranks),
    )


def _ranks(groups: Sequence[Sequence[str]]) -> dict[str, int]:
    return {response_id: rank for rank, group in enumerate(groups, start=1) for response_id in group}


def _flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer that hold a single value, without the note: every note is different."""
    flat = {key: value for key, value in answer.items() if isinstance(value, str | bool | int) and key != "note"}
    return flat | {f"flags.{key}": value for key, value in answer.get("flags", {}).items()}


def _missed(rankings: Sequence[Ranking], gold_ranks: Mapping[str, Mapping[str, int]]) -> list[MissedGold]:
    by_task: defaultdict[str, list[Ranking]] = defaultdict(list)
    for record in rankings:
        by_task[record.prompt_id].append(record)
    found: list[MissedGold] = []
    for task_id, own in by_task.items():
        scores = gold_ranking_scores(own, {task_id: gold_ranks[task_id]})
        wrong = sum(estimate.value < 0.5 for estimate in scores.values())
        if len(scores) >= 3 and 2 * wrong > len(scores):
            found.append(MissedGold(task_id=int(task_id), wrong=wrong, labelers=len(scores)))
    return sorted(found, key=lambda missed: (-missed.wrong / missed.labelers, missed.task_id))


# ---------------------------------------------------------------------------------------------------- carelessness


def careless(
    connection: Connection, *, each: int = MAX_SUBMISSIONS, thresholds: CarelessnessThresholds | None = None
) -> list[CarelessnessRow]:
    """Signs of carelessness in each labeler's newest answers outside screening; labelers without any are listed too."""
    return carelessness(submissions(connection, each=each), thresholds)


def submissions(connection: Connection, *, each: int = MAX_SUBMISSIONS) -> list[Submission]:
    """Each labeler's newest ``each`` answers whose time is known, oldest first."""
    labelers = connection.execute(
        select(person.c.id, person.c.pseudonym).where(person.c.role == "labeler", person.c.group_name != "candidate")
    )
    rows = [(name, row) for id, name in labelers.all() for row in connection.execute(_newest_answers(id, each)).all()]
    lengths = _characters(connection, sorted({row.task_id for _, row in rows}))
    return [
        submission_of(
            id=str(row.id),
            labeler=name,
            kind=row.kind,
            seconds=row.seconds_spent,
            characters=lengths.get(row.task_id, 0),
            answer=row.answer,
            shown_order=row.shown_order,
        )
        for name, row in rows
    ]


def _newest_answers(person_id: int, each: int) -> Select[*tuple[Any, ...]]:
    newest = (
        select(
            assignment.c.id,
            assignment.c.task_id,
            assignment.c.seconds_spent,
            assignment.c.answer,
            assignment.c.shown_order,
            assignment.c.answered,
            task.c.kind,
        )
        .join(task, task.c.id == assignment.c.task_id)
        .where(
            assignment.c.person_id == person_id,
            assignment.c.state == "answered",
            assignment.c.seconds_spent.isnot(None),
            task.c.phase != "screening",
        )
        .order_by(assignment.c.answered.desc())
        .limit(each)
        .subquery()
    )
    return select(newest).order_by(newest.c.answered)


def submission_of(
    *,
    id: str,
    labeler: str,
    kind: str,
    seconds: float,
    characters: int,
    answer: Mapping[str, Any],
    shown_order: Sequence[str],
) -> Submission:
    """One answer in the form for ``statistics.carelessness``: outputs by their place on the screen, not by id."""
    place = {response_id: number for number, response_id in enumerate(shown_order, start=1)}
    groups: list[list[int]] = [sorted(place[response_id] for response_id in group) for group in answer.get("groups", [])]
    per_output = answer.get("ratings") or answer.get("labels") or {}
    forms = [json.dumps(per_output[response_id], sort_keys=True) for response_id in shown_order if response_id in per_output]
    if kind in FREE_TEXT:
        text = None
    elif place:
        text = json.dumps([groups, forms])
    else:
        text = json.dumps({key: value for key, value in answer.items() if key != "note"}, sort_keys=True)
    return Submission(
        id=id,
        labeler=labeler,
        kind=kind,
        seconds=max(seconds, 0.0),
        characters=characters,
        answer=text,
        first_shown_best=groups[0] == [1] if groups and len(groups[0]) == 1 else None,
        num_outputs=max(len(place), 1),
        identical_forms=len(set(forms)) == 1 if len(forms) > 1 else None,
    )


def _characters(connection: Connection, task_ids: Sequence[int]) -> dict[int, int]:
    """Number of characters of each task's prompt and outputs together."""
    found: defaultdict[int, int] = defaultdict(int)
    prompts = select(task.c.id, func.length(prompt.c.text)).join(prompt, prompt.c.id == task.c.prompt_id)
    outputs = (
        select(task_response.c.task_id, func.sum(func.length(response.c.text)))
        .join(response, response.c.id == task_response.c.response_id)
        .group_by(task_response.c.task_id)
    )
    for start in range(0, len(task_ids), 5_000):
        some = task_ids[start : start + 5_000]
        for query, key in ((prompts, task.c.id), (outputs, task_response.c.task_id)):
            for task_id, length in connection.execute(query.where(key.in_(some))):
                found[task_id] += length
    return found
