"""What the verbs of ``heedful store`` do: open what is there, work, and say what was done in a few lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heedful.errors import ConfigError, MissingError, StorageError
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database, database_url, open_database
from heedful.labeling.exchange import labels
from heedful.project.files import write_jsonl
from heedful.project.importing import import_file
from heedful.project.project import Project

DATABASE_FILE = "labels.sqlite"
"""The labeling database in a project's folder."""
LABELS_FILE = "labels.jsonl"


def database_of(project: Path, database: str | None) -> str | Path:
    """Where the labels are: what was said, else ``$DATABASE_URL``, else the file in the project's folder."""
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
    """The project's labeling database (``$DATABASE_URL``, else the file in its folder), or None where nobody made one."""
    where = database_of(project, None)
    if where == project / DATABASE_FILE and not Path(where).is_file():
        yield None
        return
    with existing(where) as database:
        yield database


def backup(where: str | Path, file: Path) -> str:
    """Back a SQLite database up while it is in use."""
    with existing(where) as database:
        target = maintenance.backup(database, file)
    return f"backup: {target} ({target.stat().st_size:,} bytes)"


def restore(where: str | Path, file: Path, *, overwrite: bool) -> str:
    """Put a backup where the database is to be. Raises ConfigError for PostgreSQL."""
    url = database_url(where)
    if url.get_backend_name() != "sqlite":
        raise ConfigError("a backup is restored to a SQLite file", got=url.render_as_string(), next_step="use pg_restore")
    return f"restored: {maintenance.restore(file, str(url.database), overwrite=overwrite)}"


def check(where: str | Path) -> str:
    """Say what is there. Raises StorageError naming what is wrong, where something is."""
    with existing(where) as database:
        checked = maintenance.check(database)
    if checked.problems:
        raise StorageError(
            f"the labeling database is not sound: {len(checked.problems)} problems",
            expected="a whole file, references and counters that hold, answers that are as they were submitted",
            got="; ".join(checked.problems),
            where=database.url.render_as_string(),
            next_step="keep a copy, then restore a backup; the answers' raw JSON is in the table assignment",
        )
    return f"{checked.summary()}\nsound: file, references, counters, and every answer's rows"


def copy(source: str, target: str) -> str:
    """Copy a database into an empty one of either kind."""
    with existing(source) as old:
        new = open_database(target)
        try:
            counts = maintenance.copy(old, new)
        finally:
            new.close()
    return f"copied {sum(counts.values()):,} rows; counts and checksums of all {len(counts)} tables agree"


def import_project(where: str | Path, project: Project, *, overlap: int, demonstrations: int) -> str:
    """Bring a project's prompts, responses and tasks into the database; it is made where there is none."""
    database = open_database(where)
    try:
        with database.write() as connection:
            done = labels.import_project(connection, project, overlap=overlap, demonstrations=demonstrations)
    finally:
        database.close()
    return done.summary()


def export_project(where: str | Path, project: Project | None, *, file: Path | None, surplus: bool) -> str:
    """Write all answers as records to a file; without one, to the project's ``labels.jsonl``, and into its data."""
    if file is not None:
        _export(where, file, surplus=surplus)
        return f"labels: {file}"
    assert project is not None
    target = project.folder / LABELS_FILE
    _export(where, target, surplus=surplus)
    if target.stat().st_size == 0:
        return "there are no answers to export yet"
    return import_file("heedful", target, project.data).summary()


def _export(where: str | Path, target: Path, *, surplus: bool) -> None:
    with existing(where) as database, database.read() as connection:
        write_jsonl(target, labels.exported_records(connection, surplus=surplus))
