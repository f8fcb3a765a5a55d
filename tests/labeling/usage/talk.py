"""Conversations and keys as the pages make them, for tests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from heedful.labeling.usage import api_keys, conversations
from heedful.labeling.usage.api_keys import NewKey
from heedful.labeling.usage.conversations import ConversationView, NewConversation

ALPHA, BETA = "acme/alpha-7b", "acme/beta-2"


def begin(
    connection: Connection,
    person_id: int,
    text: str = "Name a river.",
    *,
    layout: Any = "single",
    models: tuple[str, ...] = (ALPHA,),
    training: bool = True,
    **more: Any,
) -> ConversationView:
    """A conversation with its first turn, whose answers wait."""
    new = NewConversation(layout=layout, models=models, training=training, **more)
    number = conversations.start(connection, person_id, new)
    conversations.add_turn(connection, number, person_id, text, training=training)
    return conversations.own(connection, number, person_id)


def answer_all(connection: Connection, view: ConversationView, *texts: str, state: Any = "finished") -> ConversationView:
    """The last turn's answers, written: the texts from left to right (the last one again and again)."""
    for answer in view.turns[-1].answers:
        ask = conversations.begin_answer(connection, answer.id, view.person_id)
        text = texts[min(answer.position, len(texts) - 1)]
        conversations.end_answer(connection, ask, text, state=state, finish_reason="stop")
    return conversations.own(connection, view.id, view.person_id)


def compare(connection: Connection, person_id: int, *texts: str, **more: Any) -> ConversationView:
    """A blind comparison of two models, ready for the vote."""
    view = begin(connection, person_id, layout="compare", models=(ALPHA, BETA), **more)
    return answer_all(connection, view, *(texts or ("The Rhine.", "The Nile.")))


def a_key(connection: Connection, person_id: int, **more: Any) -> tuple[int, str]:
    """A key's id and the key."""
    values: dict[str, Any] = {"name": "test"} | more
    return api_keys.make(connection, NewKey(person_id=person_id, **values), by=None)
