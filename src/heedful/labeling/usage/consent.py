"""Whose texts may become training data, and how they withdraw consent (SPEC 1.1, 2.4).

A turn or request whose owner opts out is never used again: every export checks the row itself. What was derived from it is
erased: this module erases it from the labeling queue, and :mod:`heedful.prompts.withdrawing` from everywhere else. The rows of
``withdrawal`` tell that module what to search for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update

from heedful.errors import MissingError
from heedful.labeling.database import erasing, events
from heedful.labeling.database.connection import Database
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import person, prompt
from heedful.labeling.database.usage_tables import (
    EVERYWHERE,
    TRACES,
    api_key,
    api_request,
    conversation,
    conversation_turn,
    withdrawal,
)
from heedful.labeling.people.accounts import Person
from heedful.labeling.queue import items
from heedful.labeling.usage import api_keys, conversations
from heedful.labeling.usage.usage_log import usable_keys

PLAYGROUND = "playground-"
"""The prefix of the ids of prompts that came from the playground."""
_NAMES_TURN = re.compile(r"(?:vote|(?:edit-|edit-ranking-|edited-|critique-)?playground)-([0-9a-f]{24})(?:-\d+)?")
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """Something that an owner withdrew."""

    key: str
    at: float
    applied: float | None
    """When it was erased everywhere; None: not yet."""
    report: Mapping[str, Any]


def makes_training_data(who: Person) -> bool:
    """Whether the person's texts may train a model. Those of held-out labelers and candidates never do (SPEC 2.4)."""
    return who.role != "labeler" or who.group == "training"


def stored_prompt_id(key: str) -> str:
    """The id of the prompt that a turn becomes when its answers are ranked, edited or criticized."""
    return PLAYGROUND + key


def key_in(id: str) -> str | None:
    """The key of the turn that a record's id names (``vote-KEY``, ``playground-KEY-0``, ``edit-playground-KEY-0``), or None."""
    found = _NAMES_TURN.fullmatch(id)
    return found[1] if found else None


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


def delete_texts(connection: Connection, api_key_id: int, person_id: int, *, now: float | None = None) -> int:
    """Delete the texts of all requests of one's own key, and everything derived from them; return how many had some.

    The key stays opted in or out as before. Raises MissingError.
    """
    api_keys.get(connection, api_key_id, person_id=person_id)
    with_text = api_request.c.request.is_not(None) | api_request.c.response.is_not(None)
    mine = api_request.c.api_key_id == api_key_id
    keys = connection.execute(select(api_request.c.key).where(mine, with_text | api_request.c.training)).scalars().all()
    withdraw_requests(connection, keys, person_id, now=now)
    return api_keys.delete_texts(connection, api_key_id, by=person_id, now=now)


def _withdraw_turns(connection: Connection, turns: Sequence[conversations.TurnView], person_id: int, now: float | None) -> None:
    ids = [turn.id for turn in turns if turn.training]
    keys = [turn.key for turn in turns if turn.training]
    if ids:
        connection.execute(
            update(conversation_turn).where(conversation_turn.c.id.in_(ids)).values(training=False, task_id=None)
        )
        _record(connection, keys, person_id, now)


def _record(connection: Connection, keys: Sequence[str], person_id: int, now: float | None) -> None:
    """Erase what the labeling queue derived from these, and note them to be erased everywhere else."""
    if not keys:
        return
    at = moment(now)
    erased = erasing.erase_prompts(connection, _derived(keys))
    again = connection.execute(select(withdrawal).where(withdrawal.c.key.in_(keys)).with_for_update()).mappings().all()
    for row in again:  # what was taken back before is deleted now
        report = {name: value for name, value in (row["report"] or {}).items() if name != EVERYWHERE}
        changed = {"at": max(at, row["at"] + 1e-3), "applied": None, "report": report}
        connection.execute(update(withdrawal).where(withdrawal.c.key == row["key"]).values(changed))
    known = {row["key"] for row in again}
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


def _derived(keys: Sequence[str]) -> ColumnElement[bool]:
    """The prompts that came from turns and requests."""
    return prompt.c.id.in_([stored_prompt_id(key) for key in keys]) | prompt.c.details["usage"].as_string().in_(keys)


# ---------------------------------------------------------------------------------------------------- until it is erased


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A withdrawal that has not been erased everywhere yet."""

    at: float
    """When it was withdrawn, or deleted after that: whatever was erased before that moment must be erased again."""
    report: Mapping[str, Any]
    """What is known about it so far."""

    @property
    def needs_rewrite_only(self) -> bool:
        """Whether only unused bytes of the database are left."""
        return bool(self.report.get(EVERYWHERE))


def pending(connection: Connection) -> dict[str, Pending]:
    """Withdrawals that have not been erased everywhere yet by their keys, oldest first."""
    query = select(withdrawal.c.key, withdrawal.c.at, withdrawal.c.report).where(withdrawal.c.applied.is_(None))
    rows = connection.execute(query.order_by(withdrawal.c.at, withdrawal.c.key))
    return {row.key: Pending(at=row.at, report=row.report or {}) for row in rows}


def note(connection: Connection, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Add values to the reports of pending withdrawals."""
    for key, change in changes.items():
        _change(connection, key, change)


def note_erased(connection: Connection, done: Mapping[str, Pending], left: Sequence[str]) -> None:
    """Note that everything but unused bytes of the database is erased, and forget ids and texts. left: files to look at."""
    for key, one in done.items():
        _change(connection, key, {EVERYWHERE: True, TRACES: None, "left": list(left) or None}, withdrawal.c.at == one.at)


def _change(connection: Connection, key: str, change: Mapping[str, Any], *conditions: ColumnElement[bool]) -> None:
    """Change values of a pending withdrawal's report if it meets the conditions; None removes a value."""
    wanted = (withdrawal.c.key == key, withdrawal.c.applied.is_(None), *conditions)
    report = connection.execute(select(withdrawal.c.report).where(*wanted).with_for_update()).scalar_one_or_none()
    if report is not None:
        changed = {name: value for name, value in {**report, **change}.items() if value is not None}
        connection.execute(update(withdrawal).where(withdrawal.c.key == key).values(report=changed))


def applied(connection: Connection, done: Mapping[str, Pending], *, now: float | None = None) -> None:
    """Note that these have been erased everywhere. One whose owner has deleted it in the meantime stays pending."""
    at = moment(now)
    runs = sorted({run for one in done.values() for run in one.report.get("runs", [])})
    for key, one in done.items():
        unchanged = (withdrawal.c.key == key, withdrawal.c.at == one.at)
        connection.execute(update(withdrawal).where(*unchanged).values(applied=at))
    events.record(
        connection,
        person_id=None,
        action="erase_withdrawn",
        subject="withdrawal",
        subject_id=next(iter(done)),
        after={"number": len(done), "runs": runs} if runs else {"number": len(done)},
        now=at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """Withdrawals to repeat in copies of the database."""

    rows: Sequence[Mapping[str, Any]]
    """Of the table ``withdrawal``, without reports."""
    deleted: Sequence[str]
    """The keys of those whose texts their owner deleted."""


def to_repeat(connection: Connection, keys: Sequence[str]) -> Withdrawals:
    """What is to be repeated in copies of this database."""
    rows: list[Mapping[str, Any]] = []
    kept: set[str] = set()
    for some in items.batched(keys, _ROWS_AT_ONCE):
        columns = (withdrawal.c.key, withdrawal.c.person_id, withdrawal.c.at)
        rows += [dict(row) for row in connection.execute(select(*columns).where(withdrawal.c.key.in_(some))).mappings()]
        kept.update(connection.execute(select(conversation_turn.c.key).where(conversation_turn.c.key.in_(some))).scalars())
        with_text = (api_request.c.key.in_(some), api_request.c.request.is_not(None) | api_request.c.response.is_not(None))
        kept.update(connection.execute(select(api_request.c.key).where(*with_text)).scalars())
    return Withdrawals(rows=rows, deleted=[key for key in keys if key not in kept])


def repeat_in(database: Database, withdrawals: Withdrawals) -> dict[str, int]:
    """Erase from a database what was withdrawn, and what was derived from it; return how many rows of each kind.

    It may be a copy from before the withdrawal: whoever restores it gets a database in which it is noted again.
    """
    erased: Counter[str] = Counter()
    with database.write() as connection:
        people = set(connection.execute(select(person.c.id)).scalars())
        for some in items.batched(withdrawals.rows, _ROWS_AT_ONCE):
            keys = [row["key"] for row in some]
            erased.update(erasing.erase_prompts(connection, _derived(keys)))
            of_turns, of_requests = conversation_turn.c.key.in_(keys), api_request.c.key.in_(keys)
            connection.execute(update(conversation_turn).where(of_turns).values(training=False, task_id=None))
            connection.execute(update(api_request).where(of_requests).values(training=False))
            known = set(connection.execute(select(withdrawal.c.key).where(withdrawal.c.key.in_(keys))).scalars())
            new = [{**row, "report": {"erased": {}}} for row in some if row["key"] not in known and row["person_id"] in people]
            if new:
                connection.execute(insert(withdrawal), new)
        for keys in items.batched(withdrawals.deleted, _ROWS_AT_ONCE):
            erased.update(erasing.erase_turns(connection, conversation_turn.c.key.in_(keys)))
            texts = api_request.c.key.in_(keys) & (api_request.c.request.is_not(None) | api_request.c.response.is_not(None))
            none = {"request": None, "response": None}
            erased["api_request"] += connection.execute(update(api_request).where(texts).values(none)).rowcount
    return dict(+erased)


def withdrawn_by(connection: Connection, person_id: int, *, limit: int = 100) -> list[Withdrawn]:
    """What a person withdrew, newest first."""
    query = select(withdrawal).where(withdrawal.c.person_id == person_id)
    rows = connection.execute(query.order_by(withdrawal.c.at.desc(), withdrawal.c.key).limit(limit))
    return [Withdrawn(key=row.key, at=row.at, applied=row.applied, report=_shown(row.report or {})) for row in rows]


def _shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without the texts that it keeps until they are erased."""
    return {key: value for key, value in report.items() if key not in (TRACES, EVERYWHERE)}


def delete_conversation(connection: Connection, conversation_id: int, person_id: int, *, now: float | None = None) -> None:
    """Delete one's own conversation and everything derived from it. Raises MissingError."""
    view = conversations.own(connection, conversation_id, person_id, lock=True)
    turns = conversation_turn.c.conversation_id == conversation_id
    connection.execute(update(conversation_turn).where(turns).values(training=False, task_id=None))
    _record(connection, [turn.key for turn in view.turns], person_id, now)
    conversations.remove(connection, conversation_id)
    events.record(
        connection,
        person_id=person_id,
        action="delete_conversation",
        subject="conversation",
        subject_id=conversation_id,
        now=now,
    )
