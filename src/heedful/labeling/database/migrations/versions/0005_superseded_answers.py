"""Answers that were corrected or sent back are kept.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add their table."""
    op.create_table(
        "superseded_answer",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("instruction_id", sa.Integer(), nullable=True),
        sa.Column("shown_order", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("record_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("answered", sa.Double(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("seconds_spent", sa.Double(), nullable=True),
        sa.Column("superseded", sa.Double(), nullable=False),
        sa.Column("superseded_by", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.id"], name=op.f("fk_superseded_answer_assignment_id_assignment")
        ),
        sa.ForeignKeyConstraint(
            ["instruction_id"], ["instruction.id"], name=op.f("fk_superseded_answer_instruction_id_instruction")
        ),
        sa.ForeignKeyConstraint(["superseded_by"], ["person.id"], name=op.f("fk_superseded_answer_superseded_by_person")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_superseded_answer")),
    )
    op.create_index(op.f("ix_superseded_answer_assignment_id"), "superseded_answer", ["assignment_id"], unique=False)
