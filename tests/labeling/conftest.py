"""Databases for the tests: a SQLite file each, and one of a real PostgreSQL server where its package can start one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import new_postgres_database

from heedful.labeling.database.connection import Database, open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A new labeling database, on SQLite and on PostgreSQL."""
    where: Path | str = tmp_path / "heedful.db"
    if request.param == "postgresql":
        where = new_postgres_database(request.getfixturevalue("postgres_server"), template=request.getfixturevalue("migrated"))
    database = open_database(where)
    yield database
    database.close()
