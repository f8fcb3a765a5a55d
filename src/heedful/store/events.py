"""Stand-in until the store's own events module is merged."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection

from heedful.store.tables import event


def record(
    connection: Connection,
    *,
    person_id: int | None,
    action: str,
    subject: str,
    subject_id: object,
    before: Any = None,
    after: Any = None,
    now: float | None = None,
) -> None:
    """Write down who did what."""
    connection.execute(
        event.insert().values(
            at=time.time() if now is None else now,
            person_id=person_id,
            action=action,
            subject=subject,
            subject_id=str(subject_id),
            before=before,
            after=after,
        )
    )
