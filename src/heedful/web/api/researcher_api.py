"""The JSON API for researchers and admins: batches, people, invites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import StreamingResponse

from heedful.labeling.console import audit
from heedful.labeling.database import events as store_events
from heedful.labeling.exchange import labels
from heedful.labeling.people import accounts
from heedful.labeling.queue import changes, items, task_making
from heedful.labeling.queue.items import LEASE_SECONDS
from heedful.labeling.queue.kinds import Phase, TaskKind
from heedful.project.storable import LARGEST_WHOLE
from heedful.records import Source, Split, UseCase
from heedful.web.api.labeler_api import Done, Json, Sent
from heedful.web.console.batch_pages import fitting, make_planned
from heedful.web.routing import Id, Routes, Visiting

EXPORTED_AT_ONCE = 200
"""How many records are sent in one piece."""


class NewBatch(Sent):
    """A batch to make: which prompts and outputs it uses, and how its tasks are given out."""

    name: str = Field(min_length=1, max_length=200, pattern=r"\S")
    kind: TaskKind
    phase: Phase
    tasks: int = Field(ge=1, le=task_making.MOST_TASKS, description="At most this many tasks are made")
    gold: int = Field(default=0, ge=0, le=task_making.MOST_TASKS, description="At most this many of them have a known answer")
    gold_batch_id: int | None = Field(
        default=None, ge=1, le=LARGEST_WHOLE, description="The screening batch that holds the known answers"
    )
    overlap: int = Field(default=1, ge=1, le=1_000, description="How many labelers answer each task")
    priority: int = Field(default=0, ge=-1_000, le=1_000)
    per_labeler_limit: int | None = Field(default=None, ge=1, le=task_making.MOST_TASKS)
    lease_seconds: float = Field(default=LEASE_SECONDS, ge=60, le=7 * 86_400, allow_inf_nan=False)
    split: Split | None = None
    source: Source | None = None
    use_case: UseCase | None = None
    language: str | None = Field(default=None, max_length=20)
    model: str | None = Field(default=None, max_length=200)
    fresh: bool = Field(default=True, description="Only use prompts that have no task of this kind yet")
    smallest_k: int = Field(
        default=task_making.SMALLEST_K, ge=1, le=task_making.LARGEST_K, description="Fewest outputs of a task"
    )
    largest_k: int = Field(default=task_making.LARGEST_K, ge=1, le=task_making.LARGEST_K, description="Most outputs of a task")
    payloads: list[Json] = Field(
        default=[{}],
        min_length=1,
        max_length=1_000,
        description="Further settings of the tasks: with several, each task takes the next one in turn",
    )


class NewInvite(Sent):
    """The role and group of the person to invite."""

    role: accounts.Role
    group: accounts.Group = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """A link that works once. It is shown only now: the database keeps only its hash."""

    link: str


def routes(add: Routes) -> None:
    """The API's routes for researchers and admins."""
    researcher: dict[str, Any] = {"who": "researcher", "tags": ["researcher"]}
    admin: dict[str, Any] = {"who": "admin", "tags": ["admin"]}
    add.get("/api/v1/batches", all_batches, response_model=list[task_making.Batch], **researcher)
    add.post("/api/v1/batches", make_batch, response_model=task_making.Made, **researcher)
    add.get("/api/v1/batches/{batch_id}", one_batch, response_model=task_making.Batch, **researcher)
    add.post("/api/v1/batches/{batch_id}/close", close_batch, response_model=Done, **researcher)
    add.post("/api/v1/batches/{batch_id}/open", open_batch, response_model=Done, **researcher)
    add.post("/api/v1/export", export, **researcher)
    add.get("/api/v1/people", everybody, response_model=list[accounts.Person], **admin)
    add.get("/api/v1/invites", invites, response_model=list[accounts.Invite], **admin)
    add.post("/api/v1/invites", invite, response_model=Invited, **admin)
    add.delete("/api/v1/invites/{invite_id}", withdraw, response_model=Done, **admin)
    add.get("/api/v1/events", events, response_model=audit.Lines, **admin)


def all_batches(visit: Visiting) -> Sequence[task_making.Batch]:
    """List all batches with the number of their tasks in each state: open, done, set_aside, withdrawn."""
    with visit.database.read() as connection:
        return task_making.all_batches(connection)


def one_batch(visit: Visiting, batch_id: Id) -> task_making.Batch:
    """Show one batch."""
    with visit.database.read() as connection:
        return task_making.get_batch(connection, batch_id)


def make_batch(visit: Visiting, sent: NewBatch) -> task_making.Made:
    """Make a batch of tasks from prompts drawn at random among those that fit. If fewer fit, fewer tasks are made.

    ``gold`` of the tasks use prompts that a researcher answered in screening. Labelers' answers are compared with the
    researcher's, and labelers cannot tell which tasks these are.
    """
    choice = task_making.Choice(
        split=sent.split,
        source=sent.source,
        use_case=sent.use_case,
        language=sent.language,
        fresh=sent.fresh,
        smallest_k=sent.smallest_k,
        largest_k=sent.largest_k,
        model=sent.model,
    )
    plan = task_making.Plan(
        name=sent.name,
        kind=sent.kind,
        phase=sent.phase,
        tasks=sent.tasks,
        gold=sent.gold,
        gold_batch_id=sent.gold_batch_id,
        overlap=sent.overlap,
        priority=sent.priority,
        per_labeler_limit=sent.per_labeler_limit,
        lease_seconds=sent.lease_seconds,
        choice=choice,
        payloads=sent.payloads,
    )
    task_making.check_plan(plan)
    return make_planned(visit, plan, fitting(visit, plan))


def close_batch(visit: Visiting, batch_id: Id) -> Done:
    """Close a batch: no more of its tasks are given out. Tasks that labelers already hold can still be answered."""
    with visit.database.write() as connection:
        changes.close_batch(connection, batch_id, person_id=visit.person.id, closed=True)
    return Done()


def open_batch(visit: Visiting, batch_id: Id) -> Done:
    """Open a closed batch again."""
    with visit.database.write() as connection:
        changes.close_batch(connection, batch_id, person_id=visit.person.id, closed=False)
    return Done()


def export(visit: Visiting, surplus: bool = False) -> StreamingResponse:
    """Export all answers as records, one JSON object per line (JSONL), as ``heedful import heedful`` reads them.

    The prompts and outputs that the answers refer to come first. ``surplus`` adds answers beyond the overlap that was asked
    for, and those that were corrected or sent back. This is a POST because the audit log records who exports.
    """
    with visit.database.write() as connection:
        after = {"surplus": surplus}
        store_events.record(
            connection, person_id=visit.person.id, action="export", subject="assignment", subject_id="all", after=after
        )

    def lines() -> Iterator[str]:
        with visit.database.read() as connection:
            rows = labels.exported_records(connection, surplus=surplus)
            for some in items.batched(rows, EXPORTED_AT_ONCE):
                yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)

    headers = {"Content-Disposition": 'attachment; filename="labels.jsonl"'}
    return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)


def everybody(visit: Visiting) -> list[accounts.Person]:
    """List everyone with an account, and the simulated labelers."""
    with visit.database.read() as connection:
        return accounts.all_people(connection)


def invites(visit: Visiting) -> list[accounts.Invite]:
    """List the invitations that can still be used. The links themselves are not shown: only their hashes are kept."""
    with visit.database.read() as connection:
        return accounts.open_invites(connection)


def invite(visit: Visiting, sent: NewInvite) -> Invited:
    """Make a link with which one person can join, once, within a week."""
    with visit.database.write() as connection:
        token = accounts.invite_to_join(connection, role=sent.role, group=sent.group, created_by=visit.person.id)
    return Invited(link=f"{visit.settings.public_url}/join/{token}")


def withdraw(visit: Visiting, invite_id: Id) -> Done:
    """Withdraw an invitation: its link stops working."""
    with visit.database.write() as connection:
        accounts.withdraw_invite(connection, invite_id, by=visit.person.id)
    return Done()


def events(
    visit: Visiting,
    person: Annotated[str | None, Query(max_length=40, description="The pseudonym of the person who did it")] = None,
    action: Annotated[str | None, Query(max_length=40)] = None,
    subject: Annotated[str | None, Query(max_length=30)] = None,
    subject_id: Annotated[str | None, Query(max_length=200)] = None,
    older_than: Annotated[int | None, Query(ge=1, le=LARGEST_WHOLE)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> audit.Lines:
    """List the audit log, newest first. For the next page, send the last page's ``next`` as ``older_than``."""
    with visit.database.read() as connection:
        return audit.find(
            connection,
            pseudonym=person,
            action=action,
            subject=subject,
            subject_id=subject_id,
            older_than=older_than,
            limit=limit,
        )
