"""Read the audit log, newest first and page by page: who did what to what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from heedful.labeling.database.tables import event, person


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One event."""

    id: int
    at: float
    person_id: int | None
    pseudonym: str | None
    """None: the command line, or an unknown person."""
    action: str
    subject: str
    subject_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A page of events."""

    lines: tuple[Line, ...]
    next: int | None
    """``older_than`` of the next page; None: this is the last."""


def find(
    connection: Connection,
    *,
    pseudonym: str | None = None,
    action: str | None = None,
    subject: str | None = None,
    subject_id: str | None = None,
    since: float | None = None,
    until: float | None = None,
    older_than: int | None = None,
    limit: int = 50,
) -> Lines:
    """Events that meet every given condition, newest first.

    ``since`` and ``until``: from this time on, and before it. ``older_than``: only events before this one.
    """
    query = select(event, person.c.pseudonym).select_from(event.outerjoin(person, event.c.person_id == person.c.id))
    if pseudonym is not None:
        # Look the person up first: there is an index of events by person id.
        found = connection.execute(select(person.c.id).where(person.c.pseudonym == pseudonym)).scalar_one_or_none()
        query = query.where(event.c.person_id == (-1 if found is None else found))
    for column, wanted in ((event.c.action, action), (event.c.subject, subject), (event.c.subject_id, subject_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(event.c.at >= since)
    if until is not None:
        query = query.where(event.c.at < until)
    if older_than is not None:
        query = query.where(event.c.id < older_than)
    rows = connection.execute(query.order_by(event.c.id.desc()).limit(limit + 1)).all()
    lines = tuple(
        Line(
            id=row.id,
            at=row.at,
            person_id=row.person_id,
            pseudonym=row.pseudonym,
            action=row.action,
            subject=row.subject,
            subject_id=row.subject_id,
            before=row.before,
            after=row.after,
        )
        for row in rows[:limit]
    )
    return Lines(lines=lines, next=lines[-1].id if len(rows) > limit else None)
