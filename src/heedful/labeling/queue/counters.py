"""A task's counters and state. Only this module changes ``wanted``, ``held``, ``answered``, ``skipped`` and ``state``.

``held`` counts answers and running leases, ``answered`` counts answers; surplus answers count in neither. Lock a task before
you read it in order to change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, select, update

from heedful.errors import MissingError
from heedful.labeling.database.tables import task

SKIPS_BEFORE_ASIDE = 3
"""A task is set aside once this many people, and more than have answered it, have skipped it."""
_TASKS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A task's counters, and its state: open, done, set_aside (skipped too often) or withdrawn."""

    task_id: int
    state: str
    wanted: int
    held: int
    answered: int
    skipped: int

    @property
    def has_room(self) -> bool:
        """Whether one more person may work on the task."""
        return self.state == "open" and self.held < self.wanted


def lock(connection: Connection, task_id: int) -> Counters:
    """Lock a task until the transaction ends; return its counters. Raises MissingError."""
    columns = (task.c.state, task.c.wanted, task.c.held, task.c.answered, task.c.skipped)
    found = select(task.c.id.label("task_id"), *columns).where(task.c.id == task_id).with_for_update(key_share=True)
    row = connection.execute(found).mappings().one_or_none()
    if row is None:
        raise MissingError("there is no such task", expected="a task's id", got=str(task_id))
    return Counters(**row)


def add_lease(connection: Connection, task_id: int) -> None:
    """Count a lease that begins."""
    _set(connection, task_id, held=task.c.held + 1)


def end_lease(connection: Connection, task_id: int) -> None:
    """Count a lease that ends without an answer."""
    _set(connection, task_id, held=task.c.held - 1)


def add_answer(connection: Connection, before: Counters, *, leased: bool, surplus: bool) -> str:
    """Count an answer, from a running lease or not; return the task's state afterwards."""
    answered, held = before.answered + (not surplus), before.held - leased + (not surplus)
    state = "done" if before.state in ("open", "set_aside") and answered >= before.wanted else before.state
    _set(connection, before.task_id, held=held, answered=answered, state=state)
    return state


def take_back_answer(connection: Connection, before: Counters) -> str:
    """Turn an answer that counted into a running lease again; return the task's state afterwards."""
    state = "open" if before.state == "done" and before.answered - 1 < before.wanted else before.state
    _set(connection, before.task_id, answered=before.answered - 1, state=state)
    return state


def set_aside(connection: Connection, before: Counters) -> None:
    """Stop serving the task until a researcher reopens it."""
    _set(connection, before.task_id, state="set_aside")


def set_wanted(connection: Connection, batch_id: int, before: int, wanted: int) -> None:
    """Change how many answers a batch's tasks want, except tasks with a number of their own.

    A task that already has more answers and leases wants as many as it has. Tasks with enough answers are done, others open.
    """
    of_batch = task.c.batch_id == batch_id
    no_less = case((task.c.held > wanted, task.c.held), else_=wanted)
    connection.execute(update(task).where(of_batch, task.c.wanted.in_((before, wanted))).values(wanted=no_less))
    enough = task.c.answered >= task.c.wanted
    for state, changes, becomes in (("open", enough, "done"), ("done", ~enough, "open")):
        connection.execute(update(task).where(of_batch, task.c.state == state, changes).values(state=becomes))


def add_skip(connection: Connection, before: Counters, *, leased: bool, set_aside: bool) -> str:
    """Count a skip; return the task's state afterwards. ``set_aside``: whether the task may be set aside."""
    skipped = before.skipped + 1
    often = skipped >= SKIPS_BEFORE_ASIDE and skipped > before.answered
    state = "set_aside" if set_aside and often and before.state == "open" else before.state
    _set(connection, before.task_id, held=before.held - leased, skipped=skipped, state=state)
    return state


def add_recorded(connection: Connection, task_ids: Iterable[int]) -> None:
    """Count answers that came without a lease, one for each id; each task then wants as many answers as it has."""
    tasks_of: dict[int, list[int]] = {}
    for task_id, count in Counter(task_ids).items():
        tasks_of.setdefault(count, []).append(task_id)
    for count, ids in tasks_of.items():
        more = {"wanted": task.c.answered + count, "held": task.c.held + count, "answered": task.c.answered + count}
        for start in range(0, len(ids), _TASKS_AT_ONCE):
            some = ids[start : start + _TASKS_AT_ONCE]
            connection.execute(update(task).where(task.c.id.in_(some)).values(**more, state="done"))


def withdraw(connection: Connection, before: Counters) -> None:
    """Stop serving the task for good."""
    _set(connection, before.task_id, state="withdrawn")


def reopen(connection: Connection, before: Counters) -> str:
    """Serve the task again if it wants answers, and forget its skips; return its state afterwards."""
    state = "done" if before.answered >= before.wanted else "open"
    _set(connection, before.task_id, state=state, skipped=0)
    return state


def _set(connection: Connection, task_id: int, **values: Any) -> None:
    connection.execute(update(task).where(task.c.id == task_id).values(**values))
