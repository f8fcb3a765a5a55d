"""Find a project's labeling database, and open one that must already exist."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from heedful.errors import MissingError
from heedful.labeling.database.connection import Database, database_url, open_database
from heedful.project.project import CONFIG_FILE, Project

DATABASE_FILE = "labels.sqlite"
"""The labeling database in a project's folder."""


def database_of(project: Path, database: str | None) -> str | Path:
    """Where the labels are.

    ``database`` if given, else ``database`` in the project's heedful.toml, else ``$DATABASE_URL``, else ``labels.sqlite`` in
    the folder. Raises ConfigError for a bad heedful.toml; a folder without one is fine.
    """
    configured = Project.load(project).database if database is None and (project / CONFIG_FILE).is_file() else None
    if configured and "://" not in configured:
        return project / Path(configured).expanduser()
    return database or configured or os.environ.get("DATABASE_URL") or project / DATABASE_FILE


def is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database, whatever its name."""
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def holds_labels(path: Path) -> bool:
    """Whether a file is a labeling database, or a copy of one. Looking changes nothing in it."""
    if not is_sqlite(path):
        return False
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return {"assignment", "event", "alembic_version"} <= tables


def is_sqlite_log(path: Path) -> bool:
    """Whether a file is the log of a SQLite database beside it."""
    return path.name.endswith(("-wal", "-shm")) and is_sqlite(path.with_name(path.name[:-4]))


@contextmanager
def existing(where: str | Path) -> Iterator[Database]:
    """Open a database that must already exist. Raises MissingError."""
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
    """The project's labeling database (see :func:`database_of`), or None if there is no such file."""
    where = database_of(project, None)
    if isinstance(where, Path) and not where.is_file():
        yield None
        return
    with existing(where) as database:
        yield database
