"""Indexes for the researchers' console; the indexes for claims and answers do not change.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Indexes by time and id for every table that can be searched, for counters, and for a few rare conditions."""
    op.drop_index("ix_prompt_created", "prompt")
    for table in ("prompt", "response", "demonstration", "ranking", "rating", "annotation"):
        op.create_index(f"ix_{table}_newest", table, ["created", "id"])
    for table in ("demonstration", "ranking", "rating", "annotation"):
        op.drop_index(f"ix_{table}_person_id", table)
        op.create_index(f"ix_{table}_of_person", table, ["person_id", "created", "id"])
    op.drop_index("ix_assignment_person", "assignment")
    op.create_index("ix_assignment_person", "assignment", ["person_id", "state", "answered", "task_id"])
    op.create_index("ix_task_progress", "task", ["batch_id", "state", "wanted", "answered"])
    for name, table, column, only in (
        ("ix_task_gold", "task", "id", "gold IS NOT NULL"),
        ("ix_assignment_late", "assignment", "task_id", "late"),
        ("ix_problem_open", "problem", "created", "answered IS NULL"),
    ):
        op.create_index(name, table, [column], sqlite_where=sa.text(only), postgresql_where=sa.text(only))
