"""Change what is queued: a batch's rules, and which tasks are served. The event log records each change."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from heedful.errors import ConflictError, DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import batch, task
from heedful.labeling.queue import counters
from heedful.labeling.queue.kinds import refuse_unstorable
from heedful.project.storable import LARGEST_WHOLE


def close_batch(
    connection: Connection, batch_id: int, *, person_id: int | None, closed: bool, now: float | None = None
) -> None:
    """Serve nothing more of a batch, or serve it again. Running leases may still be answered. Raises MissingError."""
    before = connection.execute(select(batch.c.closed).where(batch.c.id == batch_id)).one_or_none()
    if before is None:
        raise MissingError("there is no such batch", expected="a batch's id", got=str(batch_id))
    after = (before.closed or moment(now)) if closed else None
    connection.execute(update(batch).where(batch.c.id == batch_id).values(closed=after))
    events.record(
        connection,
        person_id=person_id,
        action="close_batch" if closed else "open_batch",
        subject="batch",
        subject_id=batch_id,
        before={"closed": before.closed},
        after={"closed": after},
        now=now,
    )


def set_priority(
    connection: Connection, batch_id: int, priority: int, *, person_id: int | None, now: float | None = None
) -> None:
    """Give a batch and all its tasks another priority; higher is served first. Raises MissingError."""
    _require(-LARGEST_WHOLE <= priority <= LARGEST_WHOLE, f"priority up to {LARGEST_WHOLE}", str(priority))
    before = connection.execute(select(batch.c.priority).where(batch.c.id == batch_id)).scalar_one_or_none()
    if before is None:
        raise MissingError("there is no such batch", expected="a batch's id", got=str(batch_id))
    connection.execute(update(batch).where(batch.c.id == batch_id).values(priority=priority))
    connection.execute(update(task).where(task.c.batch_id == batch_id).values(priority=priority))
    events.record(
        connection,
        person_id=person_id,
        action="set_priority",
        subject="batch",
        subject_id=batch_id,
        before={"priority": before},
        after={"priority": priority},
        now=now,
    )


def withdraw_task(connection: Connection, task_id: int, *, person_id: int | None, now: float | None = None) -> None:
    """Stop serving a task. Answers to it are kept; one that arrives later is kept as surplus. Raises MissingError."""
    before = counters.lock(connection, task_id)
    counters.withdraw(connection, before)
    _record_state(connection, "withdraw_task", before, "withdrawn", person_id, now)


def set_task_aside(connection: Connection, task_id: int, *, person_id: int | None, now: float | None = None) -> None:
    """Stop serving a task until a researcher has looked at it. Raises MissingError, ConflictError."""
    before = counters.lock(connection, task_id)
    if before.state != "open":
        raise ConflictError("the task is not being served", expected="open", got=before.state)
    counters.set_aside(connection, before)
    _record_state(connection, "set_aside_task", before, "set_aside", person_id, now)


def edit_batch(
    connection: Connection,
    batch_id: int,
    *,
    name: str,
    overlap: int,
    per_labeler_limit: int | None,
    lease_seconds: float,
    person_id: int | None,
    now: float | None = None,
) -> None:
    """Change a batch's rules; running leases keep their time. Raises MissingError, DataError."""
    before = connection.execute(select(batch).where(batch.c.id == batch_id)).mappings().one_or_none()
    if before is None:
        raise MissingError("there is no such batch", expected="a batch's id", got=str(batch_id))
    refuse_unstorable(name, "the batch's name")
    _require(1 <= len(name.strip()) <= 200, "a name of 1 to 200 characters", repr(name[:40]))
    _require(1 <= overlap <= 1_000, "1 to 1000 labelers for each task", str(overlap))
    _require(60 <= lease_seconds <= 7 * 86_400, "a minute to a week to finish one", f"{lease_seconds:.0f} s")
    limit = per_labeler_limit
    _require(limit is None or 1 <= limit <= 100_000, "1 to 100000 answers of one labeler, or no limit", str(limit))
    values = {"name": name.strip(), "overlap": overlap, "per_labeler_limit": limit, "lease_seconds": lease_seconds}
    changed = {key: value for key, value in values.items() if before[key] != value}
    if not changed:
        return
    connection.execute(update(batch).where(batch.c.id == batch_id).values(changed))
    if "overlap" in changed:
        counters.set_wanted(connection, batch_id, before["overlap"], overlap)
    events.record(
        connection,
        person_id=person_id,
        action="edit_batch",
        subject="batch",
        subject_id=batch_id,
        before={key: before[key] for key in changed},
        after=changed,
        now=now,
    )


def reopen_task(connection: Connection, task_id: int, *, person_id: int | None, now: float | None = None) -> None:
    """Serve a task again that was set aside (too many skipped it) or withdrawn. Raises MissingError, ConflictError."""
    before = counters.lock(connection, task_id)
    if before.state not in ("set_aside", "withdrawn"):
        raise ConflictError("the task cannot be reopened", expected="a task set_aside or withdrawn", got=before.state)
    _record_state(connection, "reopen_task", before, counters.reopen(connection, before), person_id, now)


def _record_state(
    connection: Connection, action: str, before: counters.Counters, state: str, person_id: int | None, now: float | None
) -> None:
    events.record(
        connection,
        person_id=person_id,
        action=action,
        subject="task",
        subject_id=before.task_id,
        before={"state": before.state, "skipped": before.skipped},
        after={"state": state},
        now=now,
    )


def _require(condition: bool, expected: str, got: str) -> None:
    if not condition:
        raise DataError("the batch is not valid", expected=expected, got=got)
