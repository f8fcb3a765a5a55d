"""Erase an owner's prompts from the labeling database, with all that was written and said about them (SPEC 1.1, 1.2)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, or_, select

from heedful.labeling.database import events
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    demonstration,
    problem,
    prompt,
    ranking,
    rating,
    response,
    task,
    task_response,
)


def forget_owner(database: Database, owner: str) -> dict[str, int]:
    """Delete an owner's prompts, their outputs, tasks and answers; how many rows of each kind there were (none: empty).

    The audit keeps the prompts' ids and that they were erased; no event ever held their text. Who works on one of them at this
    moment is told that the task is not there any more. SQLite overwrites what is deleted. Raises StorageError.
    """
    prompts = select(prompt.c.id).where(prompt.c.owner == owner)
    tasks = select(task.c.id).where(task.c.prompt_id.in_(prompts))
    assignments = select(assignment.c.id).where(assignment.c.task_id.in_(tasks))
    of_answer = {
        table: or_(table.c.prompt_id.in_(prompts), table.c.assignment_id.in_(assignments))
        for table in (annotation, rating, ranking, demonstration)
    }
    # What names others before what is named.
    doomed: list[tuple[str, ColumnElement[bool]]] = [
        *((table.name, condition) for table, condition in of_answer.items()),
        (problem.name, problem.c.task_id.in_(tasks)),
        (task_response.name, task_response.c.task_id.in_(tasks)),
        (assignment.name, assignment.c.task_id.in_(tasks)),
        (task.name, task.c.prompt_id.in_(prompts)),
        (response.name, response.c.prompt_id.in_(prompts)),
        (prompt.name, prompt.c.owner == owner),
    ]
    erased: dict[str, int] = {}
    with database.write() as connection:
        for prompt_id in connection.execute(prompts).scalars().all():
            events.record(connection, person_id=None, action="forget", subject="prompt", subject_id=prompt_id)
        for name, condition in doomed:
            if count := connection.execute(delete(prompt.metadata.tables[name]).where(condition)).rowcount:
                erased[name] = count
    if erased and database.is_sqlite:
        database.empty_log()
    return erased
