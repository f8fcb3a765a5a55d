"""The log of the public API: usage by request and by day, and its rows for the import of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, or_, select

from heedful.conversation import messages_of
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import person
from heedful.labeling.database.usage_tables import api_key, api_request, conversation, conversation_turn
from heedful.labeling.usage import conversations
from heedful.labeling.usage.admission import DAY, MONTH

_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as its owner may see it."""

    id: int
    at: float
    endpoint: str
    used_for: str | None
    model: str | None
    status: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    flags: Sequence[str]
    training: bool
    request: Any
    response: Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsage:
    """How much a key was used: requests and tokens."""

    last_day: int
    last_month: int
    failed: int
    """In 30 days: with a status other than 200."""
    flagged: int
    """In 30 days."""
    tokens: int
    """In 30 days."""
    last_used: float | None


def usage_by_key(connection: Connection, *, now: float | None = None) -> dict[int, KeyUsage]:
    """Usage by key id; keys without requests in the last 30 days are left out."""
    at = moment(now)
    tokens = func.coalesce(api_request.c.prompt_tokens, 0) + func.coalesce(api_request.c.completion_tokens, 0)
    failed = or_(api_request.c.status.is_(None), api_request.c.status != _OK)
    query = (
        select(
            api_request.c.api_key_id,
            func.sum(case((api_request.c.at > at - DAY, 1), else_=0)),
            func.count(),
            func.sum(case((failed, 1), else_=0)),
            func.sum(tokens),
            func.max(api_request.c.at),
        )
        .where(api_request.c.at > at - MONTH)
        .group_by(api_request.c.api_key_id)
    )
    flagged: dict[int, int] = {}
    for row in flagged_requests(connection, since=at - MONTH, limit=100_000):
        flagged[row["api_key_id"]] = flagged.get(row["api_key_id"], 0) + 1
    return {
        key_id: KeyUsage(
            last_day=last_day,
            last_month=number,
            failed=num_failed,
            flagged=flagged.get(key_id, 0),
            tokens=num_tokens,
            last_used=last,
        )
        for key_id, last_day, number, num_failed, num_tokens, last in connection.execute(query).all()
    }


def flagged_requests(connection: Connection, *, since: float, limit: int = 100) -> list[Mapping[Any, Any]]:
    """Flagged requests, newest first, with key and owner, without texts."""
    columns = [column for column in api_request.c if column.name not in ("request", "response")]
    query = (
        select(*columns, api_key.c.name, api_key.c.purpose, person.c.pseudonym)
        .select_from(
            api_request.join(api_key, api_request.c.api_key_id == api_key.c.id).join(person, api_key.c.person_id == person.c.id)
        )
        .where(api_request.c.at > since)
        .order_by(api_request.c.at.desc(), api_request.c.id.desc())
    )
    found: list[Mapping[Any, Any]] = []
    for row in connection.execute(query, execution_options={"yield_per": 1_000}).mappings():
        if row["flags"]:
            found.append(row)
            if len(found) >= limit:
                break
    return found


def per_day(connection: Connection, *, days: int = 14, now: float | None = None) -> list[tuple[float, int]]:
    """Number of requests on each of the last days (UTC), oldest first."""
    at = moment(now)
    today = at // DAY * DAY
    starts = [today - DAY * back for back in range(days - 1, -1, -1)]
    query = select(func.count()).select_from(api_request)
    return [
        (start, connection.execute(query.where(api_request.c.at >= start, api_request.c.at < start + DAY)).scalar_one())
        for start in starts
    ]


def requests_of(connection: Connection, key_id: int, *, limit: int = 50, before: int | None = None) -> list[Request]:
    """A key's requests, newest first; ``before``: only those with a smaller id."""
    query = select(api_request).where(api_request.c.api_key_id == key_id)
    if before is not None:
        query = query.where(api_request.c.id < before)
    rows = connection.execute(query.order_by(api_request.c.id.desc()).limit(limit)).mappings()
    names = Request.__dataclass_fields__
    return [Request(**{name: row[name] for name in names}) for row in rows]


# ---------------------------------------------------------------------------------------------------- for the import


def prompt_rows(connection: Connection) -> Iterator[tuple[int, dict[str, Any]]]:
    """What may become prompts, as (number, row of the format ``api``): requests of the API, then turns of the playground.

    Some have no row, so their text never leaves the database: requests and turns that were opted out, requests of production
    keys, and texts of people who make no training data.
    """
    yield from _rows_of_requests(connection)
    yield from _rows_of_turns(connection)


def _rows_of_requests(connection: Connection) -> Iterator[tuple[int, dict[str, Any]]]:
    query = (
        select(api_request, person.c.pseudonym)
        .select_from(
            api_request.join(api_key, api_request.c.api_key_id == api_key.c.id).join(person, api_key.c.person_id == person.c.id)
        )
        .where(api_request.c.training, api_key.c.purpose == "playground", api_request.c.request.is_not(None), *_TRAINERS)
        .order_by(api_request.c.id)
    )
    for row in connection.execute(query, execution_options={"yield_per": 500}).mappings():
        common = _common(row["at"], row["pseudonym"], row["model"] or "unknown", row["key"])
        texts = row["request"]
        if row["endpoint"] == "chat":
            yield row["id"], common | {"messages": texts}
            continue
        for text in [texts] if isinstance(texts, str) else texts:
            yield row["id"], common | {"prompt": text}


def _rows_of_turns(connection: Connection) -> Iterator[tuple[int, dict[str, Any]]]:
    query = (
        select(conversation_turn.c.id, conversation_turn.c.conversation_id, conversation.c.person_id, person.c.pseudonym)
        .select_from(
            conversation_turn.join(conversation, conversation_turn.c.conversation_id == conversation.c.id).join(
                person, conversation.c.person_id == person.c.id
            )
        )
        .where(conversation_turn.c.training, *_TRAINERS)
        .order_by(conversation_turn.c.id)
    )
    for row in connection.execute(query).mappings().all():
        view = conversations.own(connection, row["conversation_id"], row["person_id"])
        turn = conversations.turn_of(view, row["id"])
        common = _common(turn.created, row["pseudonym"], ", ".join(view.models), turn.key)
        if view.use_case is not None:
            common["use_case"] = view.use_case
        if view.mode == "completion":
            yield row["id"], common | {"prompt": turn.text}
        else:
            yield row["id"], common | {"messages": messages_of(conversations.turns_before(view, turn.position))}


def _common(at: float, owner: str, model: str, key: str) -> dict[str, Any]:
    time_of = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return {"time": time_of, "owner": owner, "model": model, "consent": True, "usage": key}


_TRAINERS = (or_(person.c.role != "labeler", person.c.group_name == "training"),)
"""The same rule as ``consent.makes_training_data``."""


def usable_keys(connection: Connection, key_id: int) -> list[str]:
    """The identifying keys of an API key's requests that may be used for training."""
    usable = select(api_request.c.key).where(api_request.c.api_key_id == key_id, api_request.c.training)
    return list(connection.execute(usable).scalars())
