"""The playground's conversations, and the public API's keys and log.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)


def _column(name: str, kind: sa.types.TypeEngine, *, optional: bool = False) -> sa.Column:
    return sa.Column(name, kind, nullable=optional)


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}_{target}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def upgrade() -> None:
    """Add the tables."""
    _conversations()
    _feedback()
    _api()
    op.create_table(
        "withdrawal",
        _column("key", sa.String(40)),
        _column("person_id", sa.Integer()),
        _column("at", sa.Double()),
        _column("applied", sa.Double(), optional=True),
        _column("report", _JSON, optional=True),
        _refers("withdrawal", "person_id", "person"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_withdrawal")),
    )
    op.create_index(op.f("ix_withdrawal_person_id"), "withdrawal", ["person_id"])


def _conversations() -> None:
    op.create_table(
        "conversation",
        _column("id", sa.Integer()),
        _column("person_id", sa.Integer()),
        _column("mode", sa.String(20)),
        _column("layout", sa.String(20)),
        _column("models", _JSON),
        _column("num_answers", sa.Integer()),
        _column("system", sa.Text(), optional=True),
        _column("use_case", sa.String(40), optional=True),
        _column("sampling", _JSON),
        _column("training", sa.Boolean()),
        _column("share_token", sa.String(64), optional=True),
        _column("created", sa.Double()),
        _refers("conversation", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation")),
        _unique("conversation", "share_token"),
    )
    op.create_index("ix_conversation_of_person", "conversation", ["person_id", "created", "id"])
    op.create_table(
        "conversation_turn",
        _column("id", sa.Integer()),
        _column("key", sa.String(40)),
        _column("conversation_id", sa.Integer()),
        _column("position", sa.Integer()),
        _column("text", sa.Text()),
        _column("training", sa.Boolean()),
        _column("flags", _JSON),
        _column("task_id", sa.Integer(), optional=True),
        _column("created", sa.Double()),
        _refers("conversation_turn", "conversation_id", "conversation"),
        _refers("conversation_turn", "task_id", "task"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_turn")),
        _unique("conversation_turn", "conversation_id", "position"),
        _unique("conversation_turn", "key"),
    )
    op.create_index(op.f("ix_conversation_turn_task_id"), "conversation_turn", ["task_id"])
    op.create_table(
        "turn_answer",
        _column("id", sa.Integer()),
        _column("turn_id", sa.Integer()),
        _column("position", sa.Integer()),
        _column("model", sa.Text()),
        _column("text", sa.Text()),
        _column("state", sa.String(20)),
        _column("finish_reason", sa.String(40), optional=True),
        _column("chosen", sa.Boolean()),
        _column("started", sa.Double(), optional=True),
        _column("ended", sa.Double(), optional=True),
        _refers("turn_answer", "turn_id", "conversation_turn"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_turn_answer")),
        _unique("turn_answer", "turn_id", "position"),
    )


def _feedback() -> None:
    op.create_table(
        "model_vote",
        _column("turn_id", sa.Integer()),
        _column("person_id", sa.Integer()),
        _column("choice", sa.String(10)),
        _column("position", sa.Integer(), optional=True),
        _column("gave_away", _JSON),
        _column("created", sa.Double()),
        _refers("model_vote", "person_id", "person"),
        _refers("model_vote", "turn_id", "conversation_turn"),
        sa.PrimaryKeyConstraint("turn_id", name=op.f("pk_model_vote")),
    )
    op.create_index(op.f("ix_model_vote_created"), "model_vote", ["created"])
    op.create_table(
        "answer_feedback",
        _column("id", sa.Integer()),
        _column("key", sa.String(40)),
        _column("answer_id", sa.Integer()),
        _column("person_id", sa.Integer()),
        _column("kind", sa.String(10)),
        _column("text", sa.Text()),
        _column("created", sa.Double()),
        _refers("answer_feedback", "answer_id", "turn_answer"),
        _refers("answer_feedback", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_feedback")),
        _unique("answer_feedback", "answer_id", "kind"),
        _unique("answer_feedback", "key"),
    )


def _api() -> None:
    op.create_table(
        "api_key",
        _column("id", sa.Integer()),
        _column("person_id", sa.Integer()),
        _column("name", sa.String(100)),
        _column("beginning", sa.String(20)),
        _column("key_hash", sa.String(64)),
        _column("purpose", sa.String(20)),
        _column("scopes", _JSON),
        _column("uses", _JSON),
        _column("training", sa.Boolean()),
        _column("per_minute", sa.Integer()),
        _column("per_day", sa.Integer(), optional=True),
        _column("tokens_per_month", sa.Integer(), optional=True),
        _column("keep_days", sa.Integer(), optional=True),
        _column("created_by", sa.Integer(), optional=True),
        _column("created", sa.Double()),
        _column("revoked", sa.Double(), optional=True),
        _refers("api_key", "created_by", "person"),
        _refers("api_key", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        _unique("api_key", "key_hash"),
    )
    op.create_index(op.f("ix_api_key_person_id"), "api_key", ["person_id"])
    op.create_table(
        "api_request",
        _column("id", sa.Integer()),
        _column("key", sa.String(40)),
        _column("api_key_id", sa.Integer()),
        _column("at", sa.Double()),
        _column("endpoint", sa.String(20)),
        _column("used_for", sa.String(40), optional=True),
        _column("model", sa.Text(), optional=True),
        _column("status", sa.Integer(), optional=True),
        _column("streamed", sa.Boolean(), optional=True),
        _column("prompt_tokens", sa.Integer(), optional=True),
        _column("completion_tokens", sa.Integer(), optional=True),
        _column("seconds", sa.Double(), optional=True),
        _column("flags", _JSON),
        _column("training", sa.Boolean()),
        _column("request", _JSON, optional=True),
        _column("response", _JSON, optional=True),
        _refers("api_request", "api_key_id", "api_key"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_request")),
        _unique("api_request", "key"),
    )
    op.create_index("ix_api_request_of_key", "api_request", ["api_key_id", "at", "id"])
    op.create_index("ix_api_request_at", "api_request", ["at"])
