"""Where a project's labeling database is, and opening one that must be there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heedful.errors import MissingError
from heedful.labeling.database.connection import Database, database_url, open_database

DATABASE_FILE = "labels.sqlite"
"""The labeling database in a project's folder."""


def database_of(project: Path, database: str | None) -> str | Path:
    """Where the labels are: ``database`` if given, else ``$DATABASE_URL``, else the file in the project's folder."""
    return database or os.environ.get("DATABASE_URL") or project / DATABASE_FILE


@contextmanager
def existing(where: str | Path) -> Iterator[Database]:
    """Open a database that must be there. Raises MissingError."""
    url = database_url(where)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise MissingError(
            "there is no labeling database",
            expected="a file that `heedful web` or `heedful store import` has made",
            got="nothing",
            where=url.database,
            next_step="name the project's folder with --project, or the database with --database",
        )
    database = open_database(where)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def if_there(project: Path) -> Iterator[Database | None]:
    """The project's labeling database (``$DATABASE_URL``, else the file in its folder), or None if there is none."""
    where = database_of(project, None)
    if where == project / DATABASE_FILE and not Path(where).is_file():
        yield None
        return
    with existing(where) as database:
        yield database
