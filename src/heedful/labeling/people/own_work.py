"""What a labeler's own page shows about their work: how much is done, and how long a task usually takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Connection, Subquery, case, func, select

from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, person, task
from heedful.labeling.queue.kinds import Phase

DAY = 86_400.0
_OWN, _EVERYBODY = 200, 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A labeler's own counts."""

    day: int
    """Answers within the last 24 hours."""
    total: int
    skipped: int


def progress(connection: Connection, person_id: int, *, now: float | None = None) -> Progress:
    """How much a person has done."""
    now = moment(now)
    answered = assignment.c.state == "answered"
    row = connection.execute(
        select(
            func.coalesce(func.sum(case((answered & (assignment.c.answered > now - DAY), 1), else_=0)), 0),
            func.coalesce(func.sum(case((answered, 1), else_=0)), 0),
            func.count(),
        ).where(assignment.c.person_id == person_id, assignment.c.state.in_(("answered", "skipped")))
    ).one()
    return Progress(day=row[0], total=row[1], skipped=row[2] - row[1])


def usual_seconds(connection: Connection, person_id: int) -> Mapping[str, float]:
    """Median seconds by kind: the person's last answers, or everyone's if there are none. Kinds without times are left out."""
    # Take the newest rows first, then drop untimed ones: this bounds the read, however many answers there are.
    columns = (assignment.c.task_id, assignment.c.state, assignment.c.seconds_spent)
    own = select(*columns).where(assignment.c.person_id == person_id, assignment.c.state == "answered")
    return {
        **_medians(connection, select(*columns).order_by(assignment.c.id.desc()).limit(_EVERYBODY).subquery()),
        **_medians(connection, own.order_by(assignment.c.answered.desc()).limit(_OWN).subquery()),
    }


def phases_of(connection: Connection, person_id: int) -> tuple[Phase, ...]:
    """The phases whose instructions concern a person: that of their group, or all phases for researchers (SPEC 2.4)."""
    row = connection.execute(select(person.c.role, person.c.group_name).where(person.c.id == person_id)).one()
    if row.role != "labeler":
        return ("training", "evaluation", "screening")
    if row.group_name == "candidate":
        return ("screening",)
    return ("evaluation",) if row.group_name == "held_out" else ("training",)


def _medians(connection: Connection, some: Subquery) -> dict[str, float]:
    timed = (some.c.state == "answered") & some.c.seconds_spent.is_not(None)
    by_kind: dict[str, list[float]] = {}
    for kind, seconds in connection.execute(
        select(task.c.kind, some.c.seconds_spent).join(some, some.c.task_id == task.c.id).where(timed)
    ):
        by_kind.setdefault(kind, []).append(seconds)
    return {kind: median(values) for kind, values in by_kind.items()}
