"""Alembic runs the migrations here, in the transaction that ``heedful.labeling.database.connection`` has begun."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
