"""More tables of the labeling database: the playground's conversations and the public API's keys and log (SPEC 1.1, 6).

They are part of ``tables.metadata``.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from heedful.labeling.database.tables import Json, metadata

# ---------------------------------------------------------------- playground

conversation = Table(
    "conversation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("mode", String(20), nullable=False),  # chat | completion
    Column("layout", String(20), nullable=False),  # single | compare | rank
    Column("models", Json, nullable=False),  # names, as the model server has them
    Column("num_answers", Integer, nullable=False),  # to each turn
    Column("system", Text),  # the system message of a chat
    Column("use_case", String(40)),
    Column("sampling", Json, nullable=False),  # temperature, top_p, max_tokens, stop, seed
    Column("training", Boolean, nullable=False),  # whether new turns may be used for training unless they say otherwise
    Column("share_token", String(64), unique=True),  # anyone who knows it may read the conversation
    Column("created", Double, nullable=False),
    Index("ix_conversation_of_person", "person_id", "created", "id"),
)

conversation_turn = Table(
    "conversation_turn",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(40), nullable=False, unique=True),  # random: records and runs name the turn by it
    Column("conversation_id", ForeignKey("conversation.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("text", Text, nullable=False),  # the user's
    Column("training", Boolean, nullable=False),  # may be used for training; never true again after an opt-out
    Column("flags", Json, nullable=False),  # personal data and misuse that were found in it
    Column("task_id", ForeignKey("task.id"), index=True),  # the ranking of its answers
    Column("created", Double, nullable=False),
    UniqueConstraint("conversation_id", "position"),
)

turn_answer = Table(
    "turn_answer",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn_id", ForeignKey("conversation_turn.id"), nullable=False),
    Column("position", Integer, nullable=False),  # as shown, from left to right
    Column("model", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("state", String(20), nullable=False),  # waiting | running | finished | stopped | failed
    Column("finish_reason", String(40)),
    Column("chosen", Boolean, nullable=False),  # the conversation continues with it
    Column("started", Double),
    Column("ended", Double),
    UniqueConstraint("turn_id", "position"),
)

model_vote = Table(
    "model_vote",
    metadata,
    Column("turn_id", ForeignKey("conversation_turn.id"), primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("choice", String(10), nullable=False),  # answer | tie | bad
    Column("position", Integer),  # of the preferred answer
    Column("gave_away", Json, nullable=False),  # [{"position": …, "word": …}]: answers that name their model
    Column("created", Double, nullable=False, index=True),
)

answer_feedback = Table(
    "answer_feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(40), nullable=False, unique=True),
    Column("answer_id", ForeignKey("turn_answer.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("kind", String(10), nullable=False),  # edit | critique
    Column("text", Text, nullable=False),
    Column("created", Double, nullable=False),
    UniqueConstraint("answer_id", "kind"),
)

# ---------------------------------------------------------------- public API

api_key = Table(
    "api_key",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),  # the owner
    Column("name", String(100), nullable=False),
    Column("beginning", String(20), nullable=False),  # of the key, to recognise it
    Column("key_hash", String(64), nullable=False, unique=True),  # SHA-256
    Column("purpose", String(20), nullable=False),  # playground | production
    Column("scopes", Json, nullable=False),  # among chat, completions, models
    Column("uses", Json, nullable=False),  # tags of allowed use; empty: any
    Column("training", Boolean, nullable=False),  # whether requests may be used for training; never of a production key
    Column("per_minute", Integer, nullable=False),  # requests
    Column("per_day", Integer),  # requests
    Column("tokens_per_month", Integer),
    Column("keep_days", Integer),  # text is erased after this many days; none: when the owner asks
    Column("created_by", ForeignKey("person.id")),
    Column("created", Double, nullable=False),
    Column("revoked", Double),
)

api_request = Table(  # every request that was admitted with a key, whatever its result
    "api_request",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(40), nullable=False, unique=True),  # random: records and runs name the request by it
    Column("api_key_id", ForeignKey("api_key.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("endpoint", String(20), nullable=False),  # chat | completions | models
    Column("used_for", String(40)),  # one of the key's tags
    Column("model", Text),
    Column("status", Integer),  # of the answer; 499: the client left; none: running, or the server was killed
    Column("streamed", Boolean),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("seconds", Double),
    Column("flags", Json, nullable=False),
    Column("training", Boolean, nullable=False),  # may be used for training; never true again after an opt-out
    Column("request", Json),  # messages or prompt; none: a production key, a failed request, or erased
    Column("response", Json),  # texts
    Index("ix_api_request_of_key", "api_key_id", "at", "id"),
    Index("ix_api_request_at", "at"),
)

# ---------------------------------------------------------------- opt-out

TRACES = "traces"
"""The key of a withdrawal's report under which ids and texts are kept until they are erased everywhere."""
EVERYWHERE = "everywhere"
"""The key of a withdrawal's report that says: all is erased but unused bytes of the database."""

withdrawal = Table(  # turns and requests whose owner withdrew consent later, or deleted them
    "withdrawal",
    metadata,
    Column("key", String(40), primary_key=True),  # of the turn or request
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("applied", Double),  # when it was erased everywhere; none: not yet
    Column("report", Json),  # what was erased, which runs had used it; until then also ids and texts to look for
)
