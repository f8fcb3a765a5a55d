"""Work on a leased task: save a draft, submit, skip, give back. Every change and its event are one transaction.

The rules (more in docs/store.md): A task wants a number of answers, each by a different person; leases and answers that count
never exceed it. When a lease expires, the next claim by anyone gives the task back; viewing a page changes nothing. A person
whose lease has expired may still save drafts and submit. Such an answer is kept and marked late, and marked surplus if others
have answered the task or hold it. A skip is not an answer: the person does not get the task again, and a task that many people
skip is set aside for the researchers. Three phases are kept apart: training labelers work in training, held-out labelers in
evaluation, candidates and researchers in screening (SPEC 2.4).

Functions that change something take the connection of a ``write()``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select, update

from heedful.errors import ConflictError, DataError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, batch, task
from heedful.labeling.queue import counters
from heedful.labeling.queue.answer_rows import Answered, write_answer
from heedful.labeling.queue.assignments import (
    AssignmentView,
    Output,
    PastAnswer,
    ShownPrompt,
    current_assignments,
    not_there,
    own_answers,
    phase_of,
    view_assignment,
)
from heedful.labeling.queue.claims import (
    Waiting,
    answers_left_today,
    claim,
    give_back_expired,
    locked_worker,
    responses_of_task,
    waiting,
)
from heedful.labeling.queue.kinds import TaskView, check_answer, refuse_unstorable
from heedful.project.storable import LARGEST_WHOLE

__all__ = [
    "AssignmentView",
    "Output",
    "PastAnswer",
    "SavedDraft",
    "ShownPrompt",
    "Submitted",
    "Waiting",
    "answers_left_today",
    "claim",
    "current_assignments",
    "give_back_expired",
    "own_answers",
    "release",
    "save_draft",
    "skip",
    "submit",
    "view_assignment",
    "waiting",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDraft:
    """The draft that the server holds now."""

    version: int
    saved: float
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """How an answer was stored; it is stored in every case."""

    late: bool
    surplus: bool


def save_draft(
    connection: Connection,
    assignment_id: int,
    person_id: int,
    *,
    token: str,
    draft: Mapping[str, Any],
    version: int,
    now: float | None = None,
) -> SavedDraft:
    """Keep an unfinished answer and renew the lease; an expired lease is renewed if the task has room.

    ``version``: the stored version that this draft follows, or any higher number that the page counts by itself. Saving the
    same draft again only renews the lease. Raises ConflictError for an older version with another content (it was saved from
    another page), a lost token or a finished task; MissingError, RefusedError.
    """
    at = moment(now)
    row = _own(connection, assignment_id, person_id, token)
    _refuse_other_phase(row)
    refuse_unstorable(draft, "the draft")
    if not 0 <= version < LARGEST_WHOLE:
        raise DataError("the draft's version is not valid", expected=f"0 to {LARGEST_WHOLE - 1}", got=str(version))
    same = row["draft"] is not None and _json(row["draft"]) == _json(draft)
    if version < row["draft_version"] and not same:
        raise ConflictError(
            "a newer draft is stored, from another page",
            expected=f"a draft that follows version {row['draft_version']}",
            got=f"one that follows version {version}",
            next_step="reload the page: it shows the newer draft",
        )
    stored = row["draft_version"] if same else max(version, row["draft_version"] + 1)
    values: dict[str, Any] = {"draft": dict(draft), "draft_version": stored, "draft_saved": at}
    running = row["state"] == "leased"
    if running or _take_up(connection, row):
        values |= {"state": "leased", "expires": max(row["expires"], at + row["lease_seconds"])}
    connection.execute(update(assignment).where(assignment.c.id == assignment_id).values(**values))
    # A draft is saved every few seconds and is not an answer: the audit log records the first, and a lease taken up again.
    if row["draft_version"] == 0 or values.get("state", row["state"]) != row["state"]:
        events.record(
            connection,
            person_id=person_id,
            action="draft",
            subject="assignment",
            subject_id=assignment_id,
            before={"version": row["draft_version"], "state": row["state"]},
            after={"version": stored, "state": values.get("state", row["state"])},
            now=at,
        )
    return SavedDraft(version=stored, saved=at, expires=values.get("expires", row["expires"]))


def _take_up(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Lease the task again to a person whose lease has expired; return False if it has no room."""
    if not counters.lock(connection, row["task_id"]).has_room or row["closed"] is not None:
        return False
    counters.add_lease(connection, row["task_id"])
    return True


def submit(
    connection: Connection,
    assignment_id: int,
    person_id: int,
    *,
    token: str,
    answer: Mapping[str, Any],
    seconds_spent: float | None,
    now: float | None = None,
) -> Submitted:
    """Store an answer, completely or not at all; submitting the same answer again changes nothing.

    Raises DataError naming the field if the answer is incomplete; ConflictError if another answer is stored, the task was
    skipped, or it has been opened again since (the token is out of date); MissingError, RefusedError.
    """
    at = moment(now)
    row = _own(connection, assignment_id, person_id, token, finished="answered")
    if row["state"] == "answered":
        if _json(row["answer"]) == _json(answer):
            return Submitted(late=row["late"], surplus=row["surplus"])
        raise ConflictError(
            "you have already given another answer to this task",
            next_step="answers are never overwritten: tell the researchers if the first one was wrong",
        )
    _refuse_other_phase(row)
    _check_seconds(seconds_spent)
    response_ids = responses_of_task(connection, row["task_id"])
    check_answer(row["kind"], TaskView(response_ids=tuple(response_ids), payload=row["payload"]), answer)
    before = counters.lock(connection, row["task_id"])
    leased = row["state"] == "leased"
    late = not leased or row["expires"] <= at
    # An answer in time always counts. A late one counts unless others' answers and leases already suffice.
    surplus = before.state == "withdrawn" or (late and before.held - leased >= before.wanted)
    state = counters.add_answer(connection, before, leased=leased, surplus=surplus)
    values = {"state": "answered", "answered": at, "late": late, "surplus": surplus, "seconds_spent": seconds_spent}
    connection.execute(
        update(assignment).where(assignment.c.id == assignment_id).values(answer=dict(answer), draft=None, **values)
    )
    of = Answered(
        assignment_id=assignment_id,
        token=row["token"],
        kind=row["kind"],
        person_id=person_id,
        prompt_id=row["prompt_id"],
        response_ids=response_ids,
        at=at,
    )
    write_answer(connection, of, answer)
    events.record(
        connection,
        person_id=person_id,
        action="submit",
        subject="assignment",
        subject_id=assignment_id,
        before={"state": row["state"]},
        after=values | {"answer_sha256": sha256(_json(answer).encode()).hexdigest(), "task": state},
        now=at,
    )
    return Submitted(late=late, surplus=surplus)


def skip(
    connection: Connection, assignment_id: int, person_id: int, *, token: str, reason: str, now: float | None = None
) -> None:
    """Skip the task for this person; ``reason`` is for the researchers. Skipping again changes nothing.

    Raises DataError without a reason, ConflictError, MissingError, RefusedError.
    """
    at = moment(now)
    row = _own(connection, assignment_id, person_id, token, finished="skipped")
    if row["state"] == "skipped":
        return
    refuse_unstorable(reason, "the reason")
    if not reason.strip():
        raise DataError("a skip needs a reason", expected="a few words", got="nothing", where="reason")
    before = counters.lock(connection, row["task_id"])
    # Every candidate gets all of screening, so its tasks are never set aside.
    set_aside = row["phase"] != "screening"
    state = counters.add_skip(connection, before, leased=row["state"] == "leased", set_aside=set_aside)
    values = {"state": "skipped", "answered": at}
    changed = values | {"skip_reason": reason.strip()}  # kept out of the event: events are never erased
    connection.execute(update(assignment).where(assignment.c.id == assignment_id).values(**changed))
    events.record(
        connection,
        person_id=person_id,
        action="skip",
        subject="assignment",
        subject_id=assignment_id,
        before={"state": row["state"], "task": before.state},
        after=values | {"task": state},
        now=at,
    )


def release(connection: Connection, assignment_id: int, person_id: int, *, token: str, now: float | None = None) -> None:
    """Give a task back unfinished, for others or for later; the draft is kept.

    Raises ConflictError, MissingError, RefusedError.
    """
    at = moment(now)
    row = _own(connection, assignment_id, person_id, token)
    if row["state"] != "leased":
        return
    counters.end_lease(connection, row["task_id"])
    connection.execute(update(assignment).where(assignment.c.id == assignment_id).values(state="released"))
    events.record(
        connection,
        person_id=person_id,
        action="release",
        subject="assignment",
        subject_id=assignment_id,
        before={"state": "leased"},
        after={"state": "released"},
        now=at,
    )


def _own(
    connection: Connection, assignment_id: int, person_id: int, token: str, *, finished: str | None = None
) -> dict[str, Any]:
    """The person's own assignment, locked, with its task's and batch's rules and the phase that the person works in.

    A finished assignment is refused, unless its state is ``finished``.
    """
    worker = locked_worker(connection, person_id)
    query = (
        select(
            assignment,
            task.c.kind,
            task.c.phase,
            task.c.prompt_id,
            task.c.payload,
            batch.c.lease_seconds,
            batch.c.closed,
        )
        .select_from(assignment.join(task).join(batch, task.c.batch_id == batch.c.id))
        .where(assignment.c.id == assignment_id, assignment.c.person_id == person_id)
        .with_for_update(key_share=True, of=assignment)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_there(assignment_id)
    if not secrets.compare_digest(row["token"].encode(), token.encode(errors="surrogatepass")):
        raise ConflictError(
            "this page is out of date: the task has been opened again",
            next_step="copy what you wrote, and reload the page",
        )
    if row["state"] in ("answered", "skipped") and row["state"] != finished:
        raise ConflictError(f"you have {row['state']} this task already", next_step="go on with the next one")
    return {**row, "works_in": phase_of(worker)}


def _refuse_other_phase(row: Mapping[str, Any]) -> None:
    """Raise ConflictError if the person has moved to another group since: tasks of the old group are closed (SPEC 2.4)."""
    if row["phase"] != row["works_in"]:
        raise ConflictError(
            "this task is no longer yours: you were moved to another group",
            expected=f"a task of the phase {row['works_in']}",
            got=f"one of the phase {row['phase']}",
            next_step="copy what you wrote if you need it, and go on with the next task",
        )


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise DataError(
            "the time spent is not valid", expected="seconds from 0, or none", got=repr(seconds), where="seconds_spent"
        )


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
