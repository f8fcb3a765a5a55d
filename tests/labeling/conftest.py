"""Databases for the tests: a SQLite file each, and one of a real PostgreSQL server where its package can start one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import new_postgres_database

from heedful.labeling.database.connection import Database, open_database


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our tables: copying it is quicker than making them."""
    file = tmp_path_factory.mktemp("empty") / "heedful.db"
    open_database(file).close()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[Database]:
    """A new labeling database, on SQLite and on PostgreSQL."""
    where: Path | str = tmp_path / "heedful.db"
    if request.param == "postgresql":
        where = new_postgres_database(request.getfixturevalue("postgres_server"), template=request.getfixturevalue("migrated"))
    else:
        shutil.copy(empty_file, where)
    database = open_database(where)
    yield database
    database.close()
