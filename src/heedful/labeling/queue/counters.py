"""A task's counters and state. Only this module changes ``wanted``, ``held``, ``answered``, ``skipped`` and ``state``.

``held`` counts answers and running leases, ``answered`` answers; surplus answers count in neither. Whoever changes a task that
they have looked at locks it first.
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
"""A task is set aside if this many people skipped it, and more than answered it."""
_TASKS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a task counts, and its state: open, done, set_aside (skipped too often) or withdrawn."""

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
    """Lock a task until the transaction ends; what it counts. Raises MissingError."""
    columns = (task.c.state, task.c.wanted, task.c.held, task.c.answered, task.c.skipped)
    found = select(task.c.id.label("task_id"), *columns).where(task.c.id == task_id).with_for_update(key_share=True)
    row = connection.execute(found).mappings().one_or_none()
    if row is None:
        raise MissingError("there is no such task", expected="a task's id", got=str(task_id))
    return Counters(**row)


def add_lease(connection: Connection, task_id: int) -> None:
    """A lease begins."""
    _set(connection, task_id, held=task.c.held + 1)


def end_lease(connection: Connection, task_id: int) -> None:
    """A lease ends without an answer."""
    _set(connection, task_id, held=task.c.held - 1)


def add_answer(connection: Connection, before: Counters, *, leased: bool, surplus: bool) -> str:
    """An answer arrives, from a running lease or not; the task's state after it."""
    answered, held = before.answered + (not surplus), before.held - leased + (not surplus)
    state = "done" if before.state in ("open", "set_aside") and answered >= before.wanted else before.state
    _set(connection, before.task_id, held=held, answered=answered, state=state)
    return state


def take_back_answer(connection: Connection, before: Counters) -> str:
    """An answer that counted becomes a running lease again; the task's state after it."""
    state = "open" if before.state == "done" and before.answered - 1 < before.wanted else before.state
    _set(connection, before.task_id, answered=before.answered - 1, state=state)
    return state


def set_aside(connection: Connection, before: Counters) -> None:
    """The task is not served until a researcher serves it again."""
    _set(connection, before.task_id, state="set_aside")


def set_wanted(connection: Connection, batch_id: int, before: int, wanted: int) -> None:
    """A batch's tasks want another number of answers, except those with a number of their own.

    A task that has more answers and leases than that wants as many as it has. Tasks with enough answers are done, others open.
    """
    of_batch = task.c.batch_id == batch_id
    no_less = case((task.c.held > wanted, task.c.held), else_=wanted)
    connection.execute(update(task).where(of_batch, task.c.wanted.in_((before, wanted))).values(wanted=no_less))
    enough = task.c.answered >= task.c.wanted
    for state, changes, becomes in (("open", enough, "done"), ("done", ~enough, "open")):
        connection.execute(update(task).where(of_batch, task.c.state == state, changes).values(state=becomes))


def add_skip(connection: Connection, before: Counters, *, leased: bool, set_aside: bool) -> str:
    """A labeler skips the task; returns the task's state afterwards. ``set_aside``: whether it may be set aside."""
    skipped = before.skipped + 1
    often = skipped >= SKIPS_BEFORE_ASIDE and skipped > before.answered
    state = "set_aside" if set_aside and often and before.state == "open" else before.state
    _set(connection, before.task_id, held=before.held - leased, skipped=skipped, state=state)
    return state


def add_recorded(connection: Connection, task_ids: Iterable[int]) -> None:
    """Count answers that came without a lease, one for each id: each task wants as many answers as it has."""
    tasks_of: dict[int, list[int]] = {}
    for task_id, count in Counter(task_ids).items():
        tasks_of.setdefault(count, []).append(task_id)
    for count, ids in tasks_of.items():
        more = {"wanted": task.c.answered + count, "held": task.c.held + count, "answered": task.c.answered + count}
        for start in range(0, len(ids), _TASKS_AT_ONCE):
            some = ids[start : start + _TASKS_AT_ONCE]
            connection.execute(update(task).where(task.c.id.in_(some)).values(**more, state="done"))


def withdraw(connection: Connection, before: Counters) -> None:
    """The task is no longer served."""
    _set(connection, before.task_id, state="withdrawn")


def reopen(connection: Connection, before: Counters) -> str:
    """The task is served again if it wants answers, and its skips are forgotten; its state after it."""
    state = "done" if before.answered >= before.wanted else "open"
    _set(connection, before.task_id, state=state, skipped=0)
    return state


def _set(connection: Connection, task_id: int, **values: Any) -> None:
    connection.execute(update(task).where(task.c.id == task_id).values(**values))
