"""The audit log holds no text of a task: reasons to skip, questions and answers stay in their own rows, which can be erased.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS = {"skip": "skip_reason", "ask": "text", "answer_problem": "answer"}
_STOP_KEEPING = {
    "sqlite": ["DROP TRIGGER event_no_update"],
    "postgresql": ["ALTER TABLE event DISABLE TRIGGER event_no_change"],
}
_KEEP_AGAIN = {
    "sqlite": [
        """CREATE TRIGGER event_no_update BEFORE UPDATE ON event
        BEGIN SELECT RAISE(ABORT, 'events are never changed or removed'); END"""
    ],
    "postgresql": ["ALTER TABLE event ENABLE TRIGGER event_no_change"],
}


def upgrade() -> None:
    """Remove the texts from events that have some."""
    dialect, connection = op.get_context().dialect.name, op.get_bind()
    json = sa.JSON(none_as_null=True)
    columns = (sa.column("id"), sa.column("action"), sa.column("before", json), sa.column("after", json))
    event = sa.table("event", *columns)
    for statement in _STOP_KEEPING[dialect]:
        op.execute(statement)
    for row in connection.execute(sa.select(event).where(event.c.action.in_(_TEXTS))).all():
        text = _TEXTS[row.action]
        without = {
            name: None if value is None else {key: kept for key, kept in value.items() if key != text}
            for name, value in (("before", row.before), ("after", row.after))
        }
        connection.execute(sa.update(event).where(event.c.id == row.id).values(without))
    for statement in _KEEP_AGAIN[dialect]:
        op.execute(statement)
