"""What the researchers' console shows about queues and people: counts, pace, who works on what (SPEC 2.2, 2.3).

All counts come from indexes, never from scanning the big tables; tests/labeling/console/test_queue_progress.py checks the query
plans. People appear under their pseudonyms. Candidates in screening are never listed, because selection is on anonymised data
(SPEC 2.1); only :mod:`heedful.labeling.quality.candidate_screening` shows their answers. Days are UTC days.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, TextClause, and_, cast, func, select, text

from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, batch, person, session, task

DAY = 86_400.0
MIN_PACE_SECONDS = 3_600.0
"""The shortest time over which a batch's pace is measured: two answers in the first minute say little."""
MEDIAN_OF = 100
"""A labeler's median time is over this many of their newest answers."""

LATE = text("assignment.late")
"""Exactly the condition of the partial index ``ix_assignment_late``: SQLite uses the index only for these words."""


# ---------------------------------------------------------------------------------------------------- queues


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How far one batch is. Numbers count answers, unless the name says tasks."""

    batch_id: int
    name: str
    kind: str
    phase: str
    priority: int
    overlap: int
    created: float
    closed: float | None
    open_tasks: int
    done_tasks: int
    set_aside_tasks: int
    """Tasks that were skipped too often; a researcher has to look at them."""
    withdrawn_tasks: int
    wanted: int
    """Answers wanted for all open and done tasks."""
    answered: int
    """Answers that these tasks have, late ones included."""
    remaining: int
    """Answers that open tasks still lack."""
    leased: int
    """Running leases."""
    skipped: int
    late: int
    """Answers submitted after their lease had expired; they are kept and marked."""
    last_day: int
    """Answers of the last 24 hours."""
    days_left: float | None
    """At the pace of the last 24 hours; None if nothing was answered in that time."""

    @property
    def share(self) -> float:
        """The share of wanted answers that have been given; 0 to 1."""
        return 1 - self.remaining / self.wanted if self.wanted else 0.0


def queues(connection: Connection, *, batch_id: int | None = None, now: float | None = None) -> list[Queue]:
    """Every batch (or the one asked for), open ones first, newest first."""
    now = moment(now)
    chosen = select(batch).order_by(batch.c.closed.isnot(None), batch.c.id.desc())
    if batch_id is not None:
        chosen = chosen.where(batch.c.id == batch_id)
    batches = connection.execute(chosen).mappings().all()
    if not batches:
        return []
    only = None if batch_id is None else task.c.batch_id == batch_id
    tasks = _task_counts(connection, only)
    leased = _by_batch(connection, _running(now), only)
    skipped = _by_batch(connection, assignment.c.state == "skipped", only)
    late = _by_batch(connection, LATE, only)
    last_day = _by_batch(connection, _answered_since(now - DAY), only)
    found: list[Queue] = []
    for row in batches:
        counts = tasks[row["id"]]
        wanted, answered = (sum(counts[state][column] for state in ("open", "done")) for column in ("wanted", "answered"))
        remaining = counts["open"]["wanted"] - counts["open"]["answered"]
        found.append(
            Queue(
                batch_id=row["id"],
                **{name: row[name] for name in ("name", "kind", "phase", "priority", "overlap", "created", "closed")},
                open_tasks=counts["open"]["tasks"],
                done_tasks=counts["done"]["tasks"],
                set_aside_tasks=counts["set_aside"]["tasks"],
                withdrawn_tasks=counts["withdrawn"]["tasks"],
                wanted=wanted,
                answered=answered,
                remaining=max(remaining, 0),
                leased=leased[row["id"]],
                skipped=skipped[row["id"]],
                late=late[row["id"]],
                last_day=last_day[row["id"]],
                days_left=days_left(remaining, last_day[row["id"]], now - row["created"]),
            )
        )
    return found


def days_left(remaining: int, last_day: int, age_seconds: float) -> float | None:
    """Days until ``remaining`` answers are given, at the pace of the last 24 hours (or since the batch was made, if later)."""
    if remaining <= 0:
        return 0.0
    if not last_day:
        return None
    return remaining / last_day * min(max(age_seconds, MIN_PACE_SECONDS), DAY) / DAY


def answers_per_day(connection: Connection, *, days: int = 14, now: float | None = None) -> list[tuple[float, int]]:
    """``(start of the UTC day, answers)`` of the last ``days`` days, oldest first, days without answers included."""
    now = moment(now)
    first = _day(now) - days + 1
    by_person = _days_by_person(connection, first * DAY)
    total: Counter[int] = Counter()
    for counts in by_person.values():
        total.update(counts)
    return [(day * DAY, total[day]) for day in range(first, first + days)]


def batch_names(connection: Connection) -> list[tuple[int, str]]:
    """(id, name) of every batch but those of screening, newest first, for pages to choose from."""
    rows = connection.execute(select(batch.c.id, batch.c.name).where(batch.c.phase != "screening").order_by(batch.c.id.desc()))
    return [(id, name) for id, name in rows]


# ---------------------------------------------------------------------------------------------------- people


def candidates(connection: Connection) -> set[int]:
    """Ids of all candidates: pages that show people leave them out."""
    return set(connection.execute(select(person.c.id).where(person.c.group_name == "candidate")).scalars())


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeler:
    """One labeler's work, under the pseudonym."""

    person_id: int
    pseudonym: str
    role: str
    group: str
    simulated: bool
    disabled: float | None
    last_day: int
    """Answers of the last 24 hours."""
    per_day: tuple[tuple[float, int], ...]
    """(start of the UTC day, answers), oldest first."""
    median_seconds: float | None
    """Over the newest 100 answers whose time is known."""
    skips: Mapping[str, int]
    """How often each reason was given in the days shown, most frequent first."""
    last_seen: float | None
    """Of the newest session."""
    leases: tuple[tuple[str, float], ...]
    """Kind of task and end of the lease, for each task they are working on."""


def people(connection: Connection, *, days: int = 7, now: float | None = None) -> list[Labeler]:
    """Everyone but candidates, by role, group and pseudonym."""
    now = moment(now)
    everyone = connection.execute(
        select(person)
        .where(person.c.group_name != "candidate")
        .order_by(person.c.role != "labeler", person.c.group_name, person.c.pseudonym)
    )
    rows = everyone.mappings().all()
    first = _day(now) - days + 1
    by_day = _days_by_person(connection, first * DAY)
    last_day = _counts(
        connection,
        select(assignment.c.person_id, func.count()).where(_answered_since(now - DAY)).group_by(assignment.c.person_id),
    )
    last_seen = dict(
        connection.execute(select(session.c.person_id, func.max(session.c.last_seen)).group_by(session.c.person_id)).all()
    )
    leases: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)
    for person_id, kind, expires in connection.execute(
        select(assignment.c.person_id, task.c.kind, assignment.c.expires)
        .join(task, task.c.id == assignment.c.task_id)
        .where(_running(now))
        .order_by(assignment.c.expires)
    ):
        leases[person_id].append((kind, expires))
    skips: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for person_id, reason, count in connection.execute(
        select(assignment.c.person_id, assignment.c.skip_reason, func.count())
        .where(_of_anyone("skipped"), assignment.c.answered >= first * DAY)
        .group_by(assignment.c.person_id, assignment.c.skip_reason)
    ):
        skips[person_id][reason or "no reason given"] = count
    return [
        Labeler(
            person_id=row["id"],
            pseudonym=row["pseudonym"],
            role=row["role"],
            group=row["group_name"],
            simulated=row["simulated"],
            disabled=row["disabled"],
            last_day=last_day[row["id"]],
            per_day=tuple((day * DAY, by_day[row["id"]][day]) for day in range(first, first + days)),
            median_seconds=_median_seconds(connection, row["id"]),
            skips=dict(skips[row["id"]].most_common()),
            last_seen=last_seen.get(row["id"]),
            leases=tuple(leases[row["id"]]),
        )
        for row in rows
    ]


# ---------------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedTask:
    """A task that several labelers skipped; its prompt may be unclear or impossible to label (SPEC 2.2)."""

    task_id: int
    batch_id: int
    kind: str
    state: str
    """open, done, or set_aside (skipped too often: not served until a researcher reopens it)."""
    prompt_id: str | None
    skips: int
    reasons: Mapping[str, int]


def skipped_often(connection: Connection, *, batch_id: int | None = None, least: int = 2, limit: int = 20) -> list[SkippedTask]:
    """Tasks that at least ``least`` people skipped, most skipped first."""
    counted = (
        select(assignment.c.task_id, func.count().label("skips"))
        .where(assignment.c.state == "skipped")
        .group_by(assignment.c.task_id)
        .having(func.count() >= least)
        .subquery()
    )
    chosen = (
        select(task.c.id, task.c.batch_id, task.c.kind, task.c.state, task.c.prompt_id, counted.c.skips)
        .join(counted, counted.c.task_id == task.c.id)
        .where(task.c.state != "withdrawn", task.c.phase != "screening")
        .order_by(counted.c.skips.desc(), task.c.id)
        .limit(limit)
    )
    if batch_id is not None:
        chosen = chosen.where(task.c.batch_id == batch_id)
    rows = connection.execute(chosen).all()
    reasons: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for task_id, reason in connection.execute(
        select(assignment.c.task_id, assignment.c.skip_reason).where(
            assignment.c.task_id.in_([row[0] for row in rows]), assignment.c.state == "skipped"
        )
    ):
        reasons[task_id][reason or "no reason given"] += 1
    return [
        SkippedTask(
            task_id=task_id,
            batch_id=own_batch,
            kind=kind,
            state=state,
            prompt_id=prompt_id,
            skips=skips,
            reasons=dict(reasons[task_id].most_common()),
        )
        for task_id, own_batch, kind, state, prompt_id, skips in rows
    ]


# ---------------------------------------------------------------------------------------------------- counting


def task_counts_query(only: ColumnElement[bool] | None = None) -> Select[*tuple[Any, ...]]:
    """Tasks, answers wanted and answers given, by batch and state: read from ``ix_task_progress`` alone."""
    columns = (task.c.batch_id, task.c.state)
    counted = select(*columns, func.count(), func.sum(task.c.wanted), func.sum(task.c.answered)).group_by(*columns)
    return counted if only is None else counted.where(only)


def assignments_query(
    condition: ColumnElement[bool] | TextClause, only: ColumnElement[bool] | None = None
) -> Select[*tuple[Any, ...]]:
    """Assignments for which ``condition`` holds, by batch."""
    counted = (
        select(task.c.batch_id, func.count())
        .select_from(assignment.join(task, task.c.id == assignment.c.task_id))
        .where(condition)
        .group_by(task.c.batch_id)
    )
    return counted if only is None else counted.where(only)


def _task_counts(connection: Connection, only: ColumnElement[bool] | None) -> defaultdict[int, defaultdict[str, Counter[str]]]:
    counts: defaultdict[int, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for own_batch, state, tasks, wanted, answered in connection.execute(task_counts_query(only)):
        counts[own_batch][state] = Counter(tasks=tasks, wanted=wanted, answered=answered)
    return counts


def _by_batch(
    connection: Connection, condition: ColumnElement[bool] | TextClause, only: ColumnElement[bool] | None
) -> Counter[int]:
    return _counts(connection, assignments_query(condition, only))


def _counts(connection: Connection, query: Select[*tuple[Any, ...]]) -> Counter[int]:
    return Counter(dict(connection.execute(query).all()))


def _running(now: float) -> ColumnElement[bool]:
    return and_(assignment.c.state == "leased", assignment.c.expires > now)


def _of_anyone(state: str) -> ColumnElement[bool]:
    """The condition lists all people by id, so that the index by person and time serves it instead of a full scan."""
    return and_(assignment.c.person_id.in_(select(person.c.id)), assignment.c.state == state)


def _answered_since(since: float) -> ColumnElement[bool]:
    return and_(_of_anyone("answered"), assignment.c.answered >= since)


def _days_by_person(connection: Connection, since: float) -> defaultdict[int, Counter[int]]:
    day = cast(assignment.c.answered, BigInteger) // int(DAY)
    counted = select(assignment.c.person_id, day, func.count()).where(_answered_since(since))
    found: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for own, number, count in connection.execute(counted.group_by(assignment.c.person_id, day)):
        found[own][number] = count
    return found


def _median_seconds(connection: Connection, person_id: int) -> float | None:
    newest: Sequence[float] = (
        connection.execute(
            select(assignment.c.seconds_spent)
            .where(
                assignment.c.person_id == person_id,
                assignment.c.state == "answered",
                assignment.c.seconds_spent.isnot(None),
            )
            .order_by(assignment.c.answered.desc())
            .limit(MEDIAN_OF)
        )
        .scalars()
        .all()
    )
    return median(newest) if newest else None


def _day(now: float) -> int:
    return int(now // DAY)
