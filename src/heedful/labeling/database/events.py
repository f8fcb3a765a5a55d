"""The audit log: who did what to what, and when. Events are only added; the database refuses to change or remove one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import event


def record(
    connection: Connection,
    *,
    person_id: int | None,
    action: str,
    subject: str,
    subject_id: int | str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> None:
    """Add an event, in the transaction of the change that it records.

    ``person_id`` None: the command line. ``subject`` is a table's name. ``before`` and ``after`` hold what changed, but no text
    of a prompt, an output or an answer: it must be possible to erase an owner's text, and events cannot be erased.
    """
    connection.execute(
        insert(event).values(
            at=moment(now),
            person_id=person_id,
            action=action,
            subject=subject,
            subject_id=str(subject_id),
            before=before,
            after=after,
        )
    )
