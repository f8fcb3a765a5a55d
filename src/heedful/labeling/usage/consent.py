"""Whose texts may become training data, and how they withdraw consent (SPEC 1.1, 2.4).

A turn or request whose owner opts out is never used again: every export checks the row itself. What was derived from it is
erased: this module erases it from the database, and :mod:`heedful.prompts.withdrawing` erases it from a project's records. The
rows of ``withdrawal`` tell that module what to search for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from heedful.errors import MissingError
from heedful.labeling.database import erasing, events
from heedful.labeling.database.tables import prompt
from heedful.labeling.database.usage_tables import api_key, api_request, conversation, conversation_turn, withdrawal
from heedful.labeling.people.accounts import Person
from heedful.labeling.queue import items
from heedful.labeling.usage import conversations
from heedful.labeling.usage.usage_log import usable_keys

PLAYGROUND = "playground-"
"""The prefix of the ids of prompts that came from the playground."""
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """Something that an owner withdrew."""

    key: str
    at: float
    applied: float | None
    """When the project's records were cleaned; None: not yet."""
    report: Mapping[str, Any]


def makes_training_data(who: Person) -> bool:
    """Whether the person's texts may train a model. Those of held-out labelers and candidates never do (SPEC 2.4)."""
    return who.role != "labeler" or who.group == "training"


def stored_prompt_id(key: str) -> str:
    """The id of the prompt that a turn becomes when its answers are ranked, edited or criticized."""
    return PLAYGROUND + key


def withdraw_turn(connection: Connection, turn_id: int, person_id: int, *, now: float | None = None) -> None:
    """Opt one's own turn out, and the later turns that contain it. Raises MissingError."""
    view = conversations.conversation_of(connection, turn_id=turn_id, person_id=person_id)
    first = conversations.turn_of(view, turn_id).position
    # In a chat, a later turn's prompt contains the earlier turns.
    last = len(view.turns) if view.mode == "chat" else first + 1
    _withdraw_turns(connection, view.turns[first:last], person_id, now)


def withdraw_conversation(connection: Connection, conversation_id: int, person_id: int, *, now: float | None = None) -> None:
    """Opt one's own conversation out: all its turns, and future ones. Raises MissingError."""
    view = conversations.own(connection, conversation_id, person_id, lock=True)
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(training=False))
    _withdraw_turns(connection, view.turns, person_id, now)


def withdraw_request(connection: Connection, request_id: int, person_id: int, *, now: float | None = None) -> None:
    """Opt a request with the person's own key out. Raises MissingError."""
    query = (
        select(api_request.c.key, api_request.c.training)
        .join(api_key, api_request.c.api_key_id == api_key.c.id)
        .where(api_request.c.id == request_id, api_key.c.person_id == person_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise MissingError("there is no such request")
    if row.training:
        withdraw_requests(connection, [row.key], person_id, now=now)


def withdraw_key(connection: Connection, api_key_id: int, person_id: int, *, now: float | None = None) -> int:
    """Opt one's own key out: its requests so far and future ones; return how many were usable. Raises MissingError."""
    mine = (api_key.c.id == api_key_id, api_key.c.person_id == person_id)
    if connection.execute(update(api_key).where(*mine).values(training=False)).rowcount != 1:
        raise MissingError("there is no such key")
    keys = usable_keys(connection, api_key_id)
    withdraw_requests(connection, keys, person_id, now=now)
    return len(keys)


def withdraw_requests(connection: Connection, keys: Sequence[str], person_id: int, *, now: float | None = None) -> None:
    """Opt requests out; the caller has checked whose they are."""
    for some in items.batched(keys, _ROWS_AT_ONCE):
        connection.execute(update(api_request).where(api_request.c.key.in_(some)).values(training=False))
        _record(connection, some, person_id, now)


def _withdraw_turns(connection: Connection, turns: Sequence[conversations.TurnView], person_id: int, now: float | None) -> None:
    ids = [turn.id for turn in turns if turn.training]
    keys = [turn.key for turn in turns if turn.training]
    if ids:
        connection.execute(
            update(conversation_turn).where(conversation_turn.c.id.in_(ids)).values(training=False, task_id=None)
        )
        _record(connection, keys, person_id, now)


def _record(connection: Connection, keys: Sequence[str], person_id: int, now: float | None) -> None:
    """Erase what the labeling queue derived from these, and note them for the project's records."""
    if not keys:
        return
    at = time.time() if now is None else now
    derived = prompt.c.id.in_([stored_prompt_id(key) for key in keys]) | prompt.c.details["usage"].as_string().in_(keys)
    erased = erasing.erase_prompts(connection, derived)
    known = set(connection.execute(select(withdrawal.c.key).where(withdrawal.c.key.in_(keys))).scalars())
    rows = [{"key": key, "person_id": person_id, "at": at, "report": {"erased": {}}} for key in keys if key not in known]
    if rows:
        connection.execute(insert(withdrawal), rows)
    events.record(
        connection,
        person_id=person_id,
        action="withdraw",
        subject="withdrawal",
        subject_id=keys[0],
        after={"number": len(keys), "erased": erased},
        now=at,
    )


def pending(connection: Connection) -> list[str]:
    """Keys of withdrawals that have not been applied to the project's records yet, oldest first."""
    query = select(withdrawal.c.key).where(withdrawal.c.applied.is_(None)).order_by(withdrawal.c.at, withdrawal.c.key)
    return list(connection.execute(query).scalars())


def applied(connection: Connection, reports: Mapping[str, Mapping[str, Any]], *, now: float | None = None) -> None:
    """Note that these were erased from the records. ``reports``: what was erased and which runs used it, by key."""
    at = time.time() if now is None else now
    for key, report in reports.items():
        connection.execute(update(withdrawal).where(withdrawal.c.key == key).values(applied=at, report=dict(report)))


def withdrawn_by(connection: Connection, person_id: int, *, limit: int = 100) -> list[Withdrawn]:
    """What a person withdrew, newest first."""
    query = select(withdrawal).where(withdrawal.c.person_id == person_id)
    rows = connection.execute(query.order_by(withdrawal.c.at.desc(), withdrawal.c.key).limit(limit))
    return [Withdrawn(key=row.key, at=row.at, applied=row.applied, report=row.report or {}) for row in rows]


def delete_conversation(connection: Connection, conversation_id: int, person_id: int, *, now: float | None = None) -> None:
    """Delete one's own conversation and everything derived from it. Raises MissingError."""
    withdraw_conversation(connection, conversation_id, person_id, now=now)
    conversations.remove(connection, conversation_id)
    events.record(
        connection,
        person_id=person_id,
        action="delete_conversation",
        subject="conversation",
        subject_id=conversation_id,
        now=now,
    )
