"""Count, export and delete what the playground and the public API hold about one person (SPEC 1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from heedful.labeling.database.usage_tables import (
    answer_feedback,
    api_key,
    api_request,
    conversation,
    conversation_turn,
    model_vote,
)
from heedful.labeling.usage import api_keys, consent, conversations, usage_log

_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """How much is stored about a person."""

    conversations: int
    turns: int
    usable_turns: int
    """Turns that may be used for training."""
    votes: int
    feedback: int
    """Edits and critiques."""
    keys: int
    requests: int
    """Of one's own keys."""
    kept_texts: int
    """Requests whose text is still stored."""
    usable_requests: int
    """Requests that may be used for training."""


def own_data(connection: Connection, person_id: int) -> OwnData:
    """Count what is stored about a person."""
    turns = conversation_turn.join(conversation, conversation_turn.c.conversation_id == conversation.c.id)
    requests = api_request.join(api_key, api_request.c.api_key_id == api_key.c.id)
    my_turn, my_key = conversation.c.person_id == person_id, api_key.c.person_id == person_id

    def number(table: Any, *of: Any) -> int:
        return connection.execute(select(func.count()).select_from(table).where(*of)).scalar_one()

    return OwnData(
        conversations=number(conversation, my_turn),
        turns=number(turns, my_turn),
        usable_turns=number(turns, my_turn, conversation_turn.c.training),
        votes=number(model_vote, model_vote.c.person_id == person_id),
        feedback=number(answer_feedback, answer_feedback.c.person_id == person_id),
        keys=number(api_key, my_key),
        requests=number(requests, my_key),
        kept_texts=number(requests, my_key, api_request.c.request.is_not(None) | api_request.c.response.is_not(None)),
        usable_requests=number(requests, my_key, api_request.c.training, api_request.c.request.is_not(None)),
    )


def everything(connection: Connection, person_id: int) -> Iterator[dict[str, Any]]:
    """Everything stored about a person, row by row: conversations, then keys and requests. Hidden model names stay hidden."""
    for number in _conversations_of(connection, person_id):
        yield {"kind": "conversation", **asdict(conversations.own(connection, number, person_id))}
    for key in api_keys.all_keys(connection, person_id=person_id):
        yield {"kind": "key", "id": key.id, "name": key.name, "purpose": key.purpose, "created": key.created}
        before: int | None = None
        while found := usage_log.requests_of(connection, key.id, limit=_ROWS_AT_ONCE, before=before):
            yield from ({"kind": "request", "key_id": key.id, **asdict(request)} for request in found)
            before = found[-1].id


def delete_everything(connection: Connection, person_id: int, *, now: float | None = None) -> OwnData:
    """Delete all conversations, all texts of requests, and everything derived from them; return what there was.

    Keys stay, and so do the counts of their requests.
    """
    was = own_data(connection, person_id)
    for number in _conversations_of(connection, person_id):
        consent.delete_conversation(connection, number, person_id, now=now)
    for key in api_keys.all_keys(connection, person_id=person_id):
        consent.delete_texts(connection, key.id, person_id, now=now)
    return was


def _conversations_of(connection: Connection, person_id: int) -> list[int]:
    query = select(conversation.c.id).where(conversation.c.person_id == person_id).order_by(conversation.c.id)
    return list(connection.execute(query).scalars())
