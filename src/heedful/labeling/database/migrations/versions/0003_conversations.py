"""Prompts as the turns of a conversation; what a response was written for.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from heedful.conversation import turns_of

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROWS_AT_ONCE = 1_000


def upgrade() -> None:
    """Add the columns, then split each text that is a flattened conversation into its turns."""
    op.add_column("prompt", sa.Column("turns", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("response", sa.Column("phase", sa.String(length=20), nullable=False, server_default="training"))
    prompt = sa.table("prompt", sa.column("id"), sa.column("text"), sa.column("turns", sa.JSON))
    connection, last = op.get_bind(), ""
    while True:
        flattened = sa.select(prompt.c.id, prompt.c.text).where(prompt.c.text.like("%Assistant:"), prompt.c.id > last)
        rows = connection.execute(flattened.order_by(prompt.c.id).limit(_ROWS_AT_ONCE)).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            turns = turns_of(row.text)
            if len(turns) > 1:
                stored = [turn._asdict() for turn in turns]
                connection.execute(sa.update(prompt).where(prompt.c.id == row.id).values(turns=stored))
