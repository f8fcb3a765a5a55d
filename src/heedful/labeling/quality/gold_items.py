"""Gold answers come from researchers' screening tasks; other batches reuse them for tasks about the same prompts (SPEC 2.4).

Labelers must not be able to tell which tasks are gold. So a prompt that any labeler was given in screening is never gold: that
labeler may have joined the team since, and would recognise it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, select

from heedful.labeling.database.tables import assignment, batch, person, task
from heedful.labeling.people.accounts import RESEARCH_ROLES
from heedful.labeling.queue.kinds import TaskKind

GOLD_KINDS: tuple[TaskKind, ...] = ("rank", "rate", "review_prompt", "review_personal_data", "toxicity", "flag_sensitive")
"""Kinds whose answers can be compared. Free texts cannot: no text is the only right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A researcher's answer about a prompt."""

    prompt_id: str
    response_ids: tuple[str, ...]
    """The outputs that it is about; empty if the kind shows none."""
    answer: Mapping[str, Any]


def known_answers(connection: Connection, kind: TaskKind, *, batch_id: int | None = None) -> list[Known]:
    """Researchers' answers to screening tasks, oldest first, of one batch or of all.

    Answers to withdrawn tasks are left out, and so are answers about prompts that a labeler was given in screening.
    """
    other, given, labeler = task.alias(), assignment.alias(), person.alias()
    seen_by_a_labeler = exists().where(
        other.c.prompt_id == task.c.prompt_id,
        other.c.phase == "screening",
        given.c.task_id == other.c.id,
        labeler.c.id == given.c.person_id,
        labeler.c.role.not_in(RESEARCH_ROLES),
    )
    query = (
        select(task.c.prompt_id, assignment.c.shown_order, assignment.c.answer)
        .join(assignment, assignment.c.task_id == task.c.id)
        .where(
            task.c.kind == kind,
            task.c.phase == "screening",
            task.c.state != "withdrawn",
            task.c.prompt_id.is_not(None),
            assignment.c.state == "answered",
            # The next condition implies this one, but starting from the few researchers lets the database find answers quickly.
            assignment.c.person_id.in_(select(person.c.id).where(person.c.role.in_(RESEARCH_ROLES))),
            ~seen_by_a_labeler,
        )
        .order_by(assignment.c.answered, assignment.c.id)
    )
    if batch_id is not None:
        query = query.where(task.c.batch_id == batch_id)
    return [
        Known(prompt_id=prompt_id, response_ids=tuple(shown), answer=answer)
        for prompt_id, shown, answer in connection.execute(query)
    ]


def batches_of_answers(connection: Connection, kind: TaskKind) -> list[tuple[int, str]]:
    """The number and name of each batch in which researchers may have answered, newest first."""
    found = connection.execute(
        select(batch.c.id, batch.c.name).where(batch.c.kind == kind, batch.c.phase == "screening").order_by(batch.c.id.desc())
    )
    return [(row.id, row.name) for row in found]
