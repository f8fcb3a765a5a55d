"""Open answers again: for the labeler within minutes, or sent back by a researcher with a note.

The old answer moves to ``superseded_answer`` with the ids of its records. There it is kept, but it does not count and no model
trains on it. The assignment is leased again, with the old answer as its draft. The next answer makes new records with new ids,
so a project that has used the old records is not affected. The audit log says who did it and when.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from heedful.errors import ConflictError, DataError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, batch, person, superseded_answer, task
from heedful.labeling.queue import counters
from heedful.labeling.queue.answer_rows import ANSWER_TABLES
from heedful.labeling.queue.assignments import not_there, phase_of
from heedful.labeling.queue.claims import locked_worker
from heedful.labeling.queue.kinds import refuse_unstorable

CORRECTION_SECONDS = 300.0
"""How long after an answer its labeler may correct it."""
SENT_BACK_SECONDS = 3 * 86_400.0
"""How long an answer that was sent back stays with its labeler."""
LONGEST_NOTE = 2_000


def can_correct(state: str, answered: float | None, surplus: bool, now: float) -> bool:
    """Whether the labeler may still correct an answer."""
    return state == "answered" and not surplus and answered is not None and now - answered <= CORRECTION_SECONDS


def correct(connection: Connection, assignment_id: int, person_id: int, *, now: float | None = None) -> None:
    """Open one's own recent answer again. Raises ConflictError if it is too late, MissingError, RefusedError."""
    at = moment(now)
    locked_worker(connection, person_id)
    row = _answered(connection, assignment_id)
    if row["person_id"] != person_id:
        raise not_there(assignment_id)
    if not can_correct(row["state"], row["answered"], row["surplus"], at):
        raise ConflictError(
            "this answer can no longer be corrected",
            expected=f"an answer of the last {CORRECTION_SECONDS / 60:.0f} minutes",
            next_step="tell the researchers what is wrong with it: they can send it back to you",
        )
    _open_again(connection, row, "correct", by=person_id, seconds=row["lease_seconds"], note=None, at=at)


def send_back(connection: Connection, assignment_id: int, note: str, *, by: int, now: float | None = None) -> None:
    """Ask a labeler to do an answer again; the note says why. Raises DataError, ConflictError, MissingError."""
    at = moment(now)
    refuse_unstorable(note, "the note")
    if not note.strip() or len(note) > LONGEST_NOTE:
        raise DataError("the note is not valid", expected=f"what to change, 1 to {LONGEST_NOTE} characters", got=f"{len(note)}")
    row = _answered(connection, assignment_id)
    if row["state"] != "answered" or row["surplus"] or row["closed"] is not None:
        raise ConflictError("this answer cannot be sent back", expected="an answer that counts, in a batch that is open")
    _open_again(connection, row, "send_back", by=by, seconds=SENT_BACK_SECONDS, note=note.strip(), at=at)


def _answered(connection: Connection, assignment_id: int) -> dict[str, Any]:
    query = (
        select(assignment, batch.c.lease_seconds, batch.c.closed, task.c.phase, person.c.role, person.c.group_name)
        .select_from(
            assignment.join(task).join(batch, task.c.batch_id == batch.c.id).join(person, person.c.id == assignment.c.person_id)
        )
        .where(assignment.c.id == assignment_id)
        .with_for_update(key_share=True, of=assignment)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_there(assignment_id)
    return dict(row)


def _open_again(
    connection: Connection, row: Mapping[str, Any], action: str, *, by: int, seconds: float, note: str | None, at: float
) -> None:
    if phase_of(row) != row["phase"]:  # the answer would be lost: the labeler could not submit it again (SPEC 2.4)
        raise ConflictError("this answer stays as it is: its labeler was moved to another group")
    before = counters.lock(connection, row["task_id"])
    if before.state == "withdrawn":
        raise ConflictError("this task is no longer served", next_step="tell the researchers what is wrong with the answer")
    record_ids = _supersede(connection, row, by=by, at=at)
    state = counters.take_back_answer(connection, before)
    draft = {**row["answer"], "seconds_spent": row["seconds_spent"]} | ({} if note is None else {"sent_back": note})
    values = {"state": "leased", "expires": at + seconds, "answered": None}
    connection.execute(
        update(assignment)
        .where(assignment.c.id == row["id"])
        .values(
            **values,
            token=secrets.token_urlsafe(24),
            answer=None,
            late=False,
            draft=draft,
            draft_version=row["draft_version"] + 1,
            draft_saved=at,
        )
    )
    digest = sha256(json.dumps(row["answer"], sort_keys=True).encode()).hexdigest()
    events.record(
        connection,
        person_id=by,
        action=action,
        subject="assignment",
        subject_id=row["id"],
        before={"state": "answered", "answered": row["answered"], "answer_sha256": digest, "record_ids": record_ids},
        after={"state": "leased", "expires": values["expires"], "task": state},
        now=at,
    )


def _supersede(connection: Connection, row: Mapping[str, Any], *, by: int, at: float) -> list[str]:
    """Move an answer out of the tables that everything else reads; return the ids of its records."""
    record_ids: list[str] = []
    for table in ANSWER_TABLES:
        of_answer = table.c.assignment_id == row["id"]
        record_ids += connection.execute(select(table.c.id).where(of_answer).order_by(table.c.id)).scalars()
        connection.execute(delete(table).where(of_answer))
    same = ("instruction_id", "shown_order", "answer", "answered", "late", "seconds_spent")
    kept = {name: row[name] for name in same} | {"assignment_id": row["id"], "record_ids": record_ids}
    connection.execute(insert(superseded_answer).values(**kept, superseded=at, superseded_by=by))
    return record_ids
