"""Labelers' questions and reports to the researchers, and the researchers' answers (SPEC 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from heedful.errors import DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, person, problem, response, task
from heedful.labeling.queue.kinds import refuse_unstorable

LONGEST = 20_000
"""Characters of a question or an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A labeler's question or report, with the answer if there is one."""

    id: int
    person_id: int
    pseudonym: str
    task_id: int | None
    prompt_id: str | None
    """The task's."""
    text: str
    created: float
    answer: str | None
    answered_by: int | None
    answered: float | None
    seen: float | None
    """When the labeler had seen the answer."""


def ask(connection: Connection, person_id: int, text: str, *, task_id: int | None = None, now: float | None = None) -> int:
    """Store a question about one of the person's tasks or in general; return its number. Raises DataError, MissingError."""
    now = moment(now)
    text = _checked(text, "the question")
    if task_id is not None:
        own = select(assignment.c.id).where(assignment.c.task_id == task_id, assignment.c.person_id == person_id)
        if connection.execute(own).one_or_none() is None:
            raise MissingError("there is no such task for you", expected="a task that was given to you", got=f"task {task_id}")
    values = {"person_id": person_id, "task_id": task_id, "text": text, "created": now}
    new_id = connection.execute(insert(problem).values(values).returning(problem.c.id)).scalar_one()
    events.record(
        connection,
        person_id=person_id,
        action="ask",
        subject="problem",
        subject_id=new_id,
        after={"task_id": task_id},  # no text: events are never erased
        now=now,
    )
    return new_id


def answer(connection: Connection, problem_id: int, text: str, *, answered_by: int, now: float | None = None) -> None:
    """Answer a question. A later answer replaces it, and the labeler is notified again."""
    now = moment(now)
    text = _checked(text, "the answer")
    before = get(connection, problem_id)
    changed = {"answer": text, "answered_by": answered_by, "answered": now, "seen": None}
    connection.execute(update(problem).where(problem.c.id == problem_id).values(changed))
    events.record(
        connection,
        person_id=answered_by,
        action="answer_problem",
        subject="problem",
        subject_id=problem_id,
        before={"answered": before.answered},
        after={"answered": now},
        now=now,
    )


def get(connection: Connection, problem_id: int) -> Problem:
    """One question by any labeler, for researchers. Raises MissingError."""
    row = connection.execute(_problems().where(problem.c.id == problem_id)).one_or_none()
    if row is None:
        raise MissingError("there is no such question", expected="a question's number", got=str(problem_id))
    return Problem(**row._mapping)


def own(connection: Connection, person_id: int, *, limit: int = 100) -> list[Problem]:
    """A labeler's questions, newest first."""
    query = _problems().where(problem.c.person_id == person_id).order_by(problem.c.id.desc()).limit(limit)
    return [Problem(**row._mapping) for row in connection.execute(query)]


def count_unseen(connection: Connection, person_id: int) -> int:
    """How many of a labeler's questions have an answer that the labeler has not seen."""
    query = select(func.count()).where(
        problem.c.person_id == person_id, problem.c.answered.is_not(None), problem.c.seen.is_(None)
    )
    return connection.execute(query).scalar_one()


def mark_seen(connection: Connection, problem_id: int, person_id: int, *, now: float | None = None) -> None:
    """Record that the labeler has seen the answer. Raises MissingError unless it is a question of that person's."""
    now = moment(now)
    mine = (problem.c.id == problem_id) & (problem.c.person_id == person_id)
    row = connection.execute(select(problem.c.answered, problem.c.seen).where(mine)).one_or_none()
    if row is None:
        raise MissingError("you have no such question", expected="the number of a question of yours", got=str(problem_id))
    if row.answered is None or row.seen is not None:
        return
    connection.execute(update(problem).where(mine).values(seen=now))
    events.record(connection, person_id=person_id, action="see_answer", subject="problem", subject_id=problem_id, now=now)


def list_problems(
    connection: Connection, *, answered: bool | None = None, before_id: int | None = None, limit: int = 50
) -> list[Problem]:
    """All questions, newest first, for researchers. ``answered`` None: answered or not; ``before_id``: for the next page."""
    query = _problems()
    if answered is not None:
        query = query.where(problem.c.answered.is_not(None) if answered else problem.c.answered.is_(None))
    if before_id is not None:
        query = query.where(problem.c.id < before_id)
    return [Problem(**row._mapping) for row in connection.execute(query.order_by(problem.c.id.desc()).limit(limit))]


def outputs_asked_about(connection: Connection, questions: Sequence[Problem]) -> dict[int, list[str]]:
    """By question: the texts of its task's outputs in the order that the labeler saw, output A first."""
    asked = problem.join(
        assignment, (assignment.c.task_id == problem.c.task_id) & (assignment.c.person_id == problem.c.person_id)
    )
    of_these = problem.c.id.in_([one.id for one in questions])
    rows = connection.execute(select(problem.c.id, assignment.c.shown_order).select_from(asked).where(of_these)).all()
    shown = {row.id: row.shown_order for row in rows if row.shown_order}
    ids = {id for order in shown.values() for id in order}
    found = connection.execute(select(response.c.id, response.c.text).where(response.c.id.in_(ids)))
    texts = {row.id: row.text for row in found}
    return {number: [texts[id] for id in order] for number, order in shown.items()}


def count_unanswered(connection: Connection) -> int:
    """How many questions are waiting for researchers."""
    return connection.execute(select(func.count()).where(problem.c.answered.is_(None))).scalar_one()


def _problems() -> Select[Any]:
    joined = problem.join(person, problem.c.person_id == person.c.id).outerjoin(task, problem.c.task_id == task.c.id)
    return select(problem, person.c.pseudonym, task.c.prompt_id).select_from(joined)


def _checked(text: str, what: str) -> str:
    refuse_unstorable(text, what)
    text = text.replace("\r\n", "\n").strip()
    if not text or len(text) > LONGEST:
        raise DataError(f"{what} cannot be kept", expected=f"1 to {LONGEST:,} characters of text", got=f"{len(text):,}")
    return text
