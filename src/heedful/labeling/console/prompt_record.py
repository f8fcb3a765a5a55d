"""One prompt with everything about it: its outputs and the models that wrote them, every answer, every event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, and_, false, null, or_, select

from heedful.errors import MissingError
from heedful.labeling.console.explorer import Found, of_prompt
from heedful.labeling.database.tables import assignment, event, instruction, person, prompt, response, superseded_answer, task

MOST = 200
"""Outputs, tasks, answers and events that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One answer to a task about a prompt, as it was given."""

    assignment_id: int
    task_id: int
    batch_id: int
    kind: str
    phase: str
    labeler: str
    answered: float
    seconds_spent: float | None
    late: bool
    surplus: bool
    answer: Mapping[str, Any]
    shown_order: Sequence[str]
    instruction_version: int | None
    gold: Mapping[str, Any] | None
    superseded: float | None
    """When it was corrected or sent back; such an answer no longer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """A prompt with everything about it; only the newest ``MOST`` answers and events."""

    prompt: Mapping[str, Any]
    outputs: tuple[Mapping[str, Any], ...]
    tasks: tuple[Mapping[str, Any], ...]
    answers: tuple[Given, ...]
    imported: tuple[Found, ...]
    """Demonstrations and rankings that were imported, not given as answers to a task."""
    events: tuple[Mapping[str, Any], ...]


def prompt_record(connection: Connection, prompt_id: str) -> PromptRecord:
    """One prompt, without answers (and their events) by candidates or from screening. Raises MissingError."""
    found = connection.execute(select(prompt).where(prompt.c.id == prompt_id)).mappings().one_or_none()
    if found is None:
        raise MissingError("there is no such prompt", expected="the id of a stored prompt", got=prompt_id[:80])
    outputs = connection.execute(
        select(response).where(response.c.prompt_id == prompt_id).order_by(response.c.created, response.c.id).limit(MOST)
    )
    tasks = connection.execute(
        select(task).where(task.c.prompt_id == prompt_id, task.c.phase != "screening").order_by(task.c.id).limit(MOST)
    )
    of_tasks = tasks.mappings().all()
    task_ids = [row["id"] for row in of_tasks]
    answers = _answers(connection, task_ids)
    return PromptRecord(
        prompt=dict(found),
        outputs=tuple(dict(row) for row in outputs.mappings()),
        tasks=tuple(dict(row) for row in of_tasks),
        answers=answers,
        imported=(*of_prompt(connection, "demonstration", prompt_id, MOST), *of_prompt(connection, "ranking", prompt_id, MOST)),
        events=_events(connection, prompt_id, task_ids, [answer.assignment_id for answer in answers]),
    )


def _answers(connection: Connection, task_ids: Sequence[int]) -> tuple[Given, ...]:
    """The newest answers to some tasks, including superseded ones."""
    surplus, superseded = false().label("surplus"), superseded_answer.c.superseded
    found = [
        *_given(connection, assignment, task_ids, (assignment.c.surplus, null().label("superseded"))),
        *_given(connection, superseded_answer, task_ids, (surplus, superseded)),
    ]
    return tuple(sorted(found, key=lambda given: given.answered, reverse=True)[:MOST])


def _given(connection: Connection, table: Table, task_ids: Sequence[int], marks: Sequence[Any]) -> Iterator[Given]:
    joined = assignment if table is assignment else assignment.join(table, table.c.assignment_id == assignment.c.id)
    query = (
        select(
            assignment.c.id.label("assignment_id"),
            assignment.c.task_id,
            task.c.batch_id,
            task.c.kind,
            task.c.phase,
            person.c.pseudonym.label("labeler"),
            *(table.c[name] for name in ("answered", "seconds_spent", "late", "answer", "shown_order")),
            instruction.c.version.label("instruction_version"),
            task.c.gold,
            *marks,
        )
        .select_from(
            joined.join(task, task.c.id == assignment.c.task_id)
            .join(person, person.c.id == assignment.c.person_id)
            .outerjoin(instruction, instruction.c.id == table.c.instruction_id)
        )
        .where(assignment.c.task_id.in_(task_ids), person.c.group_name != "candidate")
    )
    if table is assignment:
        query = query.where(assignment.c.state == "answered")
    for row in connection.execute(query.order_by(table.c.answered.desc()).limit(MOST)).mappings():
        yield Given(**dict(row))


def _events(
    connection: Connection, prompt_id: str, task_ids: Sequence[int], assignment_ids: Sequence[int]
) -> tuple[Mapping[str, Any], ...]:
    subjects = (("prompt", [prompt_id]), ("task", map(str, task_ids)), ("assignment", map(str, assignment_ids)))
    found = connection.execute(
        select(event.c.id, event.c.at, event.c.action, event.c.subject, event.c.subject_id, person.c.pseudonym)
        .select_from(event.outerjoin(person, person.c.id == event.c.person_id))
        .where(or_(*(and_(event.c.subject_id.in_(list(ids)), event.c.subject == subject) for subject, ids in subjects)))
        .order_by(event.c.id.desc())
        .limit(MOST)
    )
    return tuple(dict(row) for row in found.mappings())
