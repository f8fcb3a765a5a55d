"""Which tasks a person gets: claims, waiting tasks, and expired leases (SPEC 2.3, 2.4)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, case, exists, func, insert, select, update

from heedful.errors import MissingError, RefusedError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, batch, instruction, person, task, task_response
from heedful.labeling.queue import counters
from heedful.labeling.queue.assignments import AssignmentView, phase_of, view_assignment
from heedful.labeling.queue.kinds import Phase, TaskKind

DAY = 86_400.0
_GIVEN_BACK_AT_ONCE = 200
_TAKEN = ("leased", "answered", "skipped")
_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many tasks of a batch this person could be given."""

    kind: TaskKind
    phase: Phase
    batch_id: int
    batch_name: str
    count: int


def claim(
    connection: Connection,
    person_id: int,
    *,
    kind: TaskKind | None = None,
    batch_id: int | None = None,
    now: float | None = None,
) -> AssignmentView | None:
    """A task for a person to work on, or None if nothing is waiting or a limit (the day's, a batch's) is reached.

    A running lease of that kind or batch is renewed first; then comes a task with the person's draft; then a new task, by
    priority, in random order within a priority. Raises MissingError (no such person), RefusedError (disabled).
    """
    at = moment(now)
    worker = locked_worker(connection, person_id)
    wanted = _served_to(worker)
    if kind is not None:
        wanted = and_(wanted, batch.c.kind == kind)
    if batch_id is not None:
        wanted = and_(wanted, batch.c.id == batch_id)
    running = connection.execute(
        select(assignment.c.id, batch.c.lease_seconds)
        .select_from(assignment.join(task).join(batch, task.c.batch_id == batch.c.id))
        .where(assignment.c.person_id == person_id, assignment.c.state == "leased", assignment.c.expires > at, wanted)
        .order_by(assignment.c.leased, assignment.c.id)
        .limit(1)
    ).one_or_none()
    if running is not None:
        expires = at + running.lease_seconds
        connection.execute(
            update(assignment)
            .where(assignment.c.id == running.id)
            .values(expires=case((assignment.c.expires > expires, assignment.c.expires), else_=expires))
        )
        events.record(
            connection,
            person_id=person_id,
            action="renew",
            subject="assignment",
            subject_id=running.id,
            after={"expires": expires},
            now=at,
        )
        return view_assignment(connection, running.id, person_id)
    give_back_expired(connection, now=at)
    left = answers_left_today(connection, person_id, now=at)
    if left is not None and left <= 0:
        return None
    found = _begun(connection, person_id, wanted) or _next(connection, person_id, wanted)
    return None if found is None else view_assignment(connection, _lease(connection, person_id, found, at), person_id)


def claim_task(connection: Connection, person_id: int, task_id: int, *, now: float | None = None) -> int:
    """Lease this task to a person; return the assignment's id. A leased, answered or skipped assignment stays as it is."""
    at = moment(now)
    locked_worker(connection, person_id)
    mine = (assignment.c.task_id == task_id, assignment.c.person_id == person_id)
    found = connection.execute(select(assignment.c.id, assignment.c.state).where(*mine)).one_or_none()
    if found is not None and found.state in _TAKEN:
        return found.id
    return _lease(connection, person_id, task_id, at)


def give_back_expired(connection: Connection, *, now: float | None = None) -> int:
    """Give back expired leases (at most 200 at once, oldest first), so that others can get the tasks; return how many."""
    at = moment(now)
    rows = connection.execute(
        select(assignment.c.id, assignment.c.task_id, assignment.c.person_id, assignment.c.expires)
        .where(assignment.c.state == "leased", assignment.c.expires <= at)
        .order_by(assignment.c.expires)
        .limit(_GIVEN_BACK_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    # In the order of the tasks, so that two claims that both give back cannot deadlock.
    for row in sorted(rows, key=lambda row: (row.task_id, row.id)):
        connection.execute(update(assignment).where(assignment.c.id == row.id).values(state="expired"))
        counters.end_lease(connection, row.task_id)
        events.record(
            connection,
            person_id=row.person_id,
            action="expire",
            subject="assignment",
            subject_id=row.id,
            before={"state": "leased", "expires": row.expires},
            after={"state": "expired"},
            now=at,
        )
    return len(rows)


def answers_left_today(connection: Connection, person_id: int, *, now: float | None = None) -> int | None:
    """How many more answers the person may give within 24 hours; None if there is no limit. Skips do not count."""
    limit = connection.execute(select(person.c.daily_limit).where(person.c.id == person_id)).scalar_one_or_none()
    if limit is None:
        return None
    given = connection.execute(
        select(func.count())
        .select_from(assignment)
        .where(assignment.c.person_id == person_id, assignment.c.state == "answered", assignment.c.answered > moment(now) - DAY)
    ).scalar_one()
    return max(0, limit - given)


def waiting(connection: Connection, person_id: int, now: float | None = None) -> list[Waiting]:
    """What a claim could give the person, batch by batch, highest priority first; changes nothing."""
    at = moment(now)
    worker = _look_at(connection, person_id)
    left = answers_left_today(connection, person_id, now=at)
    if worker["disabled"] is not None or left == 0:
        return []
    live = _live_batches(connection, person_id, _served_to(worker))
    if not live:
        return []
    ids = [row["id"] for row in live]
    open_tasks = (task.c.state == "open", task.c.batch_id.in_(ids))
    count = dict(connection.execute(select(task.c.batch_id, func.count()).where(*open_tasks).group_by(task.c.batch_id)).all())
    # Only running leases fill an open task: a claim would give expired ones back.
    over = func.sum(case((assignment.c.expires <= at, 1), else_=0))
    full = connection.execute(
        select(task.c.id, task.c.batch_id)
        .select_from(assignment.join(task))
        .where(assignment.c.state == "leased", *open_tasks)
        .group_by(task.c.id, task.c.batch_id, task.c.held, task.c.wanted)
        .having(task.c.held - over >= task.c.wanted)
    ).all()
    taken = and_(assignment.c.state.in_(_TAKEN), ~and_(assignment.c.state == "leased", assignment.c.expires <= at))
    own = connection.execute(
        select(task.c.batch_id, func.count())
        .select_from(assignment.join(task))
        .where(assignment.c.person_id == person_id, taken, *open_tasks, task.c.id.not_in([row.id for row in full]))
        .group_by(task.c.batch_id)
    )
    for row in full:
        count[row.batch_id] -= 1
    for of_batch, number in own:
        count[of_batch] -= number
    return [
        Waiting(
            kind=row["kind"],
            phase=row["phase"],
            batch_id=row["id"],
            batch_name=row["name"],
            count=count[row["id"]] if row["left"] is None else min(row["left"], count[row["id"]]),
        )
        for row in live
        if count.get(row["id"], 0) > 0
    ]


def locked_worker(connection: Connection, person_id: int) -> RowMapping:
    """The person's row, locked, so that what one person does on two pages at once happens in sequence."""
    worker = _look_at(connection, person_id, lock=True)
    if worker["disabled"] is not None:
        raise RefusedError("this account is disabled", next_step="ask the researchers")
    return worker


def _look_at(connection: Connection, person_id: int, *, lock: bool = False) -> RowMapping:
    query = select(person.c.id, person.c.role, person.c.group_name, person.c.disabled).where(person.c.id == person_id)
    if lock:
        query = query.with_for_update(key_share=True)
    worker = connection.execute(query).mappings().one_or_none()
    if worker is None:
        raise MissingError("there is no such person", expected="a person's id", got=str(person_id))
    return worker


def _served_to(worker: RowMapping) -> Any:
    """The condition for batches that are served to this person (SPEC 2.1, 2.4)."""
    phase = phase_of(worker)
    if phase != "screening":
        return batch.c.phase == phase
    for_others = "score_demonstration" if worker["role"] == "labeler" else "self_assess"
    return and_(batch.c.phase == phase, batch.c.kind != for_others)


def _live_batches(connection: Connection, person_id: int, wanted: Any) -> list[dict[str, Any]]:
    """Batches with open tasks whose limit this person has not reached; ``left`` is how many more they may answer, or None."""
    is_open = exists().where(task.c.batch_id == batch.c.id, task.c.state == "open")
    found = connection.execute(
        select(batch.c.id, batch.c.name, batch.c.kind, batch.c.phase, batch.c.per_labeler_limit)
        .where(batch.c.closed.is_(None), wanted, is_open)
        .order_by(batch.c.priority.desc(), batch.c.id)
    )
    live: list[dict[str, Any]] = []
    for row in found.mappings():
        left = None
        if row["per_labeler_limit"] is not None:
            mine = (
                select(func.count())
                .select_from(assignment.join(task))
                .where(
                    assignment.c.person_id == person_id,
                    assignment.c.state.in_(("leased", "answered")),
                    task.c.batch_id == row["id"],
                )
            )
            left = row["per_labeler_limit"] - connection.execute(mine).scalar_one()
        if left is None or left > 0:
            live.append({**row, "left": left})
    return live


def _begun(connection: Connection, person_id: int, wanted: Any) -> int | None:
    """A task that still wants answers, of which the person has a draft under an expired lease."""
    return connection.execute(
        select(task.c.id)
        .select_from(assignment.join(task).join(batch, task.c.batch_id == batch.c.id))
        .where(
            assignment.c.person_id == person_id,
            assignment.c.state == "expired",
            assignment.c.draft.is_not(None),
            task.c.state == "open",
            task.c.held < task.c.wanted,
            batch.c.closed.is_(None),
            wanted,
        )
        .order_by(assignment.c.draft_saved.desc())
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True, of=task)
    ).scalar_one_or_none()


def _next(connection: Connection, person_id: int, wanted: Any) -> int | None:
    """The open task to serve next. PostgreSQL locks its row, and skips rows that others have locked."""
    best: list[tuple[int, float, int]] = []
    for row in _live_batches(connection, person_id, wanted):
        candidate = connection.execute(candidate_query(row["id"], person_id)).one_or_none()
        if candidate is not None:
            best.append((candidate.priority, candidate.shuffle, row["id"]))
    for _, _, batch_id in sorted(best, reverse=True):
        query = candidate_query(batch_id, person_id).with_for_update(key_share=True, skip_locked=True, of=task)
        locked = connection.execute(query).one_or_none()
        if locked is not None:
            return locked.id
    return None


def candidate_query(batch_id: int, person_id: int) -> Select[int, float, int]:
    """The first task of a batch that a person can get: an index is read backwards until one fits, without sorting."""
    mine = exists().where(
        assignment.c.task_id == task.c.id, assignment.c.person_id == person_id, assignment.c.state.in_(_TAKEN)
    )
    return (
        select(task.c.id, task.c.priority, task.c.shuffle)
        .where(task.c.batch_id == batch_id, task.c.state == "open", task.c.held < task.c.wanted, ~mine)
        .order_by(task.c.priority.desc(), task.c.shuffle.desc())
        .limit(1)
    )


def _lease(connection: Connection, person_id: int, task_id: int, at: float) -> int:
    """Lease a task; return the assignment's id. A person who had it before gets the same order, and the draft."""
    rules = connection.execute(
        select(task.c.kind, task.c.phase, batch.c.lease_seconds)
        .select_from(task.join(batch, task.c.batch_id == batch.c.id))
        .where(task.c.id == task_id)
    ).one()
    in_force = (
        select(instruction.c.id)
        .where(instruction.c.kind == rules.kind, instruction.c.phase == rules.phase)
        .order_by(instruction.c.version.desc())
        .limit(1)
    )
    values = {
        "token": secrets.token_urlsafe(24),
        "state": "leased",
        "instruction_id": connection.execute(in_force).scalar_one_or_none(),
        "leased": at,
        "expires": at + rules.lease_seconds,
    }
    mine = (assignment.c.task_id == task_id, assignment.c.person_id == person_id)
    before = connection.execute(select(assignment.c.id, assignment.c.state).where(*mine)).one_or_none()
    if before is None:
        shown_order = list(responses_of_task(connection, task_id))
        _RANDOM.shuffle(shown_order)
        values["shown_order"] = shown_order
        added = insert(assignment).values(task_id=task_id, person_id=person_id, **values).returning(assignment.c.id)
        assignment_id = connection.execute(added).scalar_one()
    else:
        assignment_id = before.id
        connection.execute(update(assignment).where(assignment.c.id == assignment_id).values(**values))
    counters.add_lease(connection, task_id)
    events.record(
        connection,
        person_id=person_id,
        action="claim",
        subject="assignment",
        subject_id=assignment_id,
        before=None if before is None else {"state": before.state},
        after={"task_id": task_id} | {name: value for name, value in values.items() if name != "token"},
        now=at,
    )
    return assignment_id


def responses_of_task(connection: Connection, task_id: int) -> Sequence[str]:
    """The ids of a task's outputs, in the task's order."""
    query = select(task_response.c.response_id).where(task_response.c.task_id == task_id).order_by(task_response.c.position)
    return connection.execute(query).scalars().all()
