"""Tasks that ``heedful align`` adds to the labeling database for people, and their answers.

Labelers work at the same time. So tasks are added in short transactions with pauses between them, and answers are read from a
snapshot, which holds no lock. An existing task is not added again, so a killed ``align`` leaves no duplicates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import batch, prompt, response, task, task_response
from heedful.labeling.exchange.label_records import record_of
from heedful.labeling.exchange.labels import stored_demonstrations, stored_rankings, stored_ratings
from heedful.labeling.queue import items
from heedful.labeling.queue.items import batched
from heedful.project.data_folder import Record, record_from_json
from heedful.records import Demonstration, Phase, Prompt, Ranking, Rating, Response

Group = Literal["training", "held_out"]
Kind = Literal["demonstrate", "rank"]

TASKS_AT_ONCE = 15
"""Tasks added in one transaction, so that no labeler's answer waits long for it."""
_IDS_AT_ONCE = 500
_PAUSE = 2.0
"""Pause after each transaction, in units of its duration."""
_CLOSED = ("done", "set_aside", "withdrawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to ask labelers for: a demonstration of a prompt, or a ranking of responses to it."""

    kind: Kind
    phase: Phase
    prompt: Prompt
    responses: tuple[Response, ...] = ()
    labelers: Mapping[Group, int]
    """How many simulated labelers of each group do it."""
    people: int = 1
    """How many people should do it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far people are with some tasks."""

    tasks: int
    answered: int
    """Tasks with at least one answer."""
    open: int
    """Tasks that want more answers (neither set aside nor withdrawn), or that are not in the database."""


def add_tasks(database: Database, tasks: Iterable[Task], *, name: str, pause: Callable[[float], None] = time.sleep) -> int:
    """Add the tasks that do not exist yet to a batch of this name; return how many. Raises DataError, StorageError.

    The held-out group gets tasks of the phase evaluation, the training group gets the others.
    """
    added = 0
    for some in batched(tasks, TASKS_AT_ONCE):
        with database.read() as connection:
            there = _tasks_about(connection, [_about(one) for one in some], some[0].kind, some[0].phase)
        new = [one for one in some if _about(one) not in there]
        if not new:
            continue
        started = time.monotonic()
        with database.write() as connection:
            _add(connection, new, name)
        added += len(new)
        # Another process that waits for SQLite's lock only polls now and then: leave it time to get in.
        pause(_PAUSE * (time.monotonic() - started))
    return added


def progress(connection: Connection, about: Sequence[str], kind: Kind, phase: Phase) -> Progress:
    """How far tasks are. ``about``: a ranking task's first response id, a demonstration task's prompt id."""
    rows = [row for some in batched(about, _IDS_AT_ONCE) for row in _tasks_about(connection, some, kind, phase).values()]
    closed = sum(row.state in _CLOSED for row in rows)
    return Progress(tasks=len(about), answered=sum(row.answered > 0 for row in rows), open=len(about) - closed)


def demonstrations(connection: Connection) -> Iterator[Demonstration]:
    """All demonstrations by people that may train a model, oldest first."""
    return (one for one in stored_demonstrations(connection) if one.phase == "training" and not one.metadata["simulated"])


def rankings(connection: Connection, phase: Phase) -> Iterator[Ranking]:
    """All rankings of a phase by people, oldest first."""
    return (one for one in stored_rankings(connection) if one.phase == phase and not one.metadata["simulated"])


def ratings(connection: Connection, phase: Phase) -> Iterator[Rating]:
    """All ratings of a phase by people, oldest first."""
    return (one for one in stored_ratings(connection) if one.phase == phase and not one.metadata["simulated"])


def stored_prompts(connection: Connection, ids: Collection[str]) -> Iterator[Record]:
    """Prompts of the database by their ids."""
    return _stored(connection, "prompt", ids)


def stored_responses(connection: Connection, ids: Collection[str]) -> Iterator[Record]:
    """Responses of the database by their ids."""
    return _stored(connection, "response", ids)


def _add(connection: Connection, tasks: Sequence[Task], name: str) -> None:
    items.add_prompts(connection, {one.prompt.id: one.prompt for one in tasks}.values())
    items.add_responses(connection, (response for one in tasks for response in one.responses))
    first = tasks[0]
    batch_id = connection.execute(
        select(func.max(batch.c.id)).where(batch.c.name == name, batch.c.kind == first.kind, batch.c.phase == first.phase)
    ).scalar_one()
    if batch_id is None:
        batch_id = items.make_batch(connection, name=name, kind=first.kind, phase=first.phase)
    new = (
        items.NewTask(prompt_id=one.prompt.id, response_ids=tuple(r.id for r in one.responses), wanted=one.people)
        for one in tasks
    )
    items.add_tasks(connection, batch_id, new)


def _about(one: Task) -> str:
    """What identifies a task among others of its kind and phase: its first response, or its prompt."""
    return one.responses[0].id if one.responses else one.prompt.id


def _tasks_about(connection: Connection, about: Collection[str], kind: Kind, phase: Phase) -> dict[str, Any]:
    """The stored tasks about these responses or prompts, by their ids."""
    column = task_response.c.response_id if kind == "rank" else task.c.prompt_id
    query = (
        select(column.label("about"), task.c.state, task.c.answered)
        .select_from(task_response.join(task) if kind == "rank" else task)
        .where(column.in_(about), task.c.kind == kind, task.c.phase == phase)
        .order_by(task.c.id)
    )
    return {row.about: row for row in connection.execute(query)}


def _stored(connection: Connection, kind: Literal["prompt", "response"], ids: Collection[str]) -> Iterator[Record]:
    table = prompt if kind == "prompt" else response
    for some in batched(sorted(ids), _IDS_AT_ONCE):
        for row in connection.execute(select(table).where(table.c.id.in_(some)).order_by(table.c.id)).mappings():
            yield record_from_json(kind, record_of(kind, row))
