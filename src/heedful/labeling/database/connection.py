"""The labeling database: one SQLite file, or a PostgreSQL server.

Reading and writing are separate: ``read()`` gives a connection on which the database itself refuses every change; ``write()``
gives one transaction that is committed completely or not at all. SQLite keeps a write-ahead log and flushes it to the disk at
every commit, so what was acknowledged survives a crash. It takes the write lock when a transaction begins, so that what the
transaction has read stays true until it commits. PostgreSQL locks rows (see :mod:`heedful.labeling.queue.leases`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError

from heedful.errors import BusyError, ConfigError, DataError, StorageError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_SECONDS = 30
"""How long a write waits for another process's write."""
_POOL = {"pool_size": 20, "max_overflow": 40, "pool_timeout": 60}
REWRITE_SECONDS = 5
"""How long a rewrite waits for readers to finish."""
_ADVISORY_LOCK = 0x68656564  # for PostgreSQL, "heed": two servers that start together migrate one after the other


class Database:
    """An open labeling database; safe to share among threads. Make one with :func:`open_database`."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        # Errors end up in logs, so they must never show what was written.
        options: dict[str, Any] = {
            "json_serializer": json.JSONEncoder(allow_nan=False).encode,
            "hide_parameters": True,
            **_POOL,
        }
        # SQLite allows one writer at a time anyway. Waiting here is fair and quick; SQLite itself would poll.
        self._one_writer = threading.Lock()
        if self.is_sqlite:
            options["connect_args"] = {"timeout": BUSY_SECONDS}
            self._writer = create_engine(url, **options)
            self._reader = create_engine(url, **options)
            _prepare_sqlite(self._writer, begin="BEGIN IMMEDIATE", query_only=False)
            _prepare_sqlite(self._reader, begin="BEGIN", query_only=True)
        else:
            self._writer = create_engine(url, pool_pre_ping=True, **options)
            event.listen(self._writer, "handle_error", _hide_values)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for PostgreSQL."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database throughout, and cannot change it. Raises StorageError."""
        with _storage_errors(self.url), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on an exception.

        Raises BusyError if SQLite's write lock does not become free in time, StorageError.
        """
        if self.is_sqlite:
            if not self._one_writer.acquire(timeout=BUSY_SECONDS):
                raise _busy(self.url)
            try:
                with _storage_errors(self.url), self._writer.begin() as connection:
                    yield connection
            finally:
                self._one_writer.release()
        else:
            with _storage_errors(self.url), self._writer.begin() as connection:
                yield connection

    def rewrite(self) -> bool:
        """Rewrite SQLite's file without unused bytes, and empty the log; False if a reader keeps the log from being emptied."""
        assert self.path is not None
        with self._one_writer, _storage_errors(self.url), closing(sqlite3.connect(self.path, timeout=REWRITE_SECONDS)) as alone:
            alone.isolation_level = None
            alone.execute("VACUUM")
            [busy, *_] = alone.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close all connections; SQLite then moves its write-ahead log into the file."""
        self._reader.dispose()
        self._writer.dispose()


def open_database(where: str | Path) -> Database:
    """Open a labeling database at a path, ``sqlite:///path`` or ``postgresql+psycopg://…``; create or upgrade it if needed.

    Raises ConfigError for another kind of address, DataError if a newer Heedful made it or it is another database, StorageError
    if it cannot be reached or written.
    """
    url = database_url(where)
    if url.get_backend_name() == "sqlite":
        _make_file(Path(str(url.database)))
    database = Database(url)
    try:
        with database.write() as connection:
            _migrate(connection, url)
    except BaseException:
        database.close()
        raise
    return database


def database_url(where: str | Path) -> URL:
    """The address of a database in SQLAlchemy's form. Raises ConfigError."""
    given = str(where)
    if "://" not in given:
        return URL.create("sqlite", database=str(Path(given).expanduser().absolute()))
    try:
        url = make_url(given)
    except ArgumentError:
        raise _no_address(given) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or not url.database or url.database == ":memory:":
        raise _no_address(url.render_as_string())
    return url.set(database=str(Path(url.database).expanduser().absolute())) if url.drivername == "sqlite" else url


def _no_address(given: str) -> ConfigError:
    return ConfigError(
        "this is not the address of a labeling database",
        expected="a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
        got=given,
    )


def _make_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
    except OSError as error:
        raise StorageError("the database could not be created", got=error.strerror or str(error), where=path) from error


def make_private(path: Path) -> None:
    """Create an empty file that only its owner may read, if there is none; SQLite gives its log the same permissions."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _hide_values(context: ExceptionContext) -> None:
    """PostgreSQL's DETAIL shows the values of the row that it refused: leave only the first line."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\nDETAIL")[0], *error.args[1:])


def _prepare_sqlite(engine: Engine, *, begin: str, query_only: bool) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {BUSY_SECONDS * 1000}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "secure_delete = ON",  # overwrites what is replaced or deleted: a forgotten owner leaves no bytes behind
            "cache_size = -65536",  # KiB
            f"query_only = {'ON' if query_only else 'OFF'}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


@contextmanager
def _storage_errors(url: URL) -> Iterator[None]:
    """Turn what the database refuses or cannot do into StorageError. A broken constraint is a bug in Heedful and stays."""
    try:
        yield
    except DBAPIError as error:
        if type(error).__name__ not in ("OperationalError", "DatabaseError") and not error.connection_invalidated:
            raise
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if reason == "database is locked":
            raise _busy(url) from None
        if reason == "file is not a database":
            raise DataError("this is not a database", expected="a SQLite file", got=reason, where=str(url.database)) from None
        raise StorageError(
            "the labeling database refused or cannot be reached",
            expected="a database that answers, on a disk with room",
            got=reason,
            where=url.render_as_string(),
        ) from error


def _busy(url: URL) -> BusyError:
    return BusyError(
        "the labeling database is busy: another change has been going on for a long time",
        expected=f"a turn to write within {BUSY_SECONDS} s",
        where=str(url.database),
        next_step="wait until the import or the run that is writing has finished, then try again",
    )


# ---------------------------------------------------------------------------------------------------- migrations


def _migrate(connection: Connection, url: URL) -> None:
    """Bring the schema up to date, in the transaction of ``connection``."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    head, known = _revisions()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return
    if current is None:
        _refuse_foreign(connection, url)
    elif current not in known:
        raise DataError(
            "a newer version of Heedful made this database",
            expected=f"schema {head} or older",
            got=f"schema {current}",
            where=url.render_as_string(),
            next_step="update Heedful: pip install --upgrade heedful",
        )
    config = _migrations()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    """The newest revision, and all that this version knows. Alembic runs every migration's file to tell: once in a process."""
    scripts = ScriptDirectory.from_config(_migrations())
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


def _refuse_foreign(connection: Connection, url: URL) -> None:
    there = connection.dialect.get_table_names(connection)
    if there:
        raise DataError(
            "the database holds other tables",
            expected="a labeling database, or an empty one",
            got=", ".join(sorted(there)[:5]),
            where=url.render_as_string(),
            next_step="give another file, or make a database for Heedful alone",
        )
