from __future__ import annotations

import sqlite3
import threading
import traceback
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from tests.labeling.labeling import add_person, number_of

from heedful.errors import ConfigError, DataError, HeedfulError, StorageError
from heedful.labeling.database import events, maintenance
from heedful.labeling.database.connection import Database, database_url, open_database
from heedful.labeling.database.tables import event, person
from heedful.labeling.database.usage_tables import metadata


def test_migrations_give_the_tables(database: Database) -> None:
    """What the migrations make is what tables.py says: columns, types, indexes, constraints."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_opened_again_nothing_is_lost(database: Database) -> None:
    with database.write() as connection:
        add_person(connection, "p-1")
    again = open_database(database.url.render_as_string(hide_password=False))
    with again.read() as connection:
        assert number_of(connection, person) == 1
    again.close()


def test_newer_schema_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="newer version of Heedful"):
        open_database(database.url.render_as_string(hide_password=False))


def test_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipe (id INTEGER)")
    with pytest.raises(DataError, match="holds other tables"):
        open_database(path)
    assert {row[0] for row in sqlite3.connect(path).execute("SELECT name FROM sqlite_master")} == {"recipe"}


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("some notes, and no database at all " * 100)
    with pytest.raises(DataError, match="this is not a database"):
        open_database(path)


@pytest.mark.parametrize("where", ["mysql://host/name", "sqlite:///:memory:", "sqlite://", "://"])
def test_other_addresses_are_refused(where: str) -> None:
    with pytest.raises(ConfigError, match="not the address"):
        open_database(where)


def test_addresses(tmp_path: Path) -> None:
    assert database_url("a b.db").database == str(Path.cwd() / "a b.db")
    assert database_url(f"sqlite:///{tmp_path}/x.db").database == f"{tmp_path}/x.db"
    assert database_url("postgresql://me@host/name").drivername == "postgresql+psycopg"


def test_unreachable_server() -> None:
    with pytest.raises(StorageError, match="cannot be reached"):
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")


def test_password_is_not_shown() -> None:
    with pytest.raises(StorageError) as caught:
        open_database("postgresql+psycopg://nobody:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(caught.value)


def test_write_is_whole_or_nothing(database: Database) -> None:
    def write_half() -> None:
        with database.write() as connection:
            add_person(connection, "p-1")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_half()
    with database.read() as connection:
        assert number_of(connection, person) == 0


def test_read_cannot_write(database: Database) -> None:
    with pytest.raises((DBAPIError, HeedfulError), match=r"(?i)read.?only"), database.read() as connection:
        add_person(connection, "p-1")
    with database.write() as connection:
        add_person(connection, "p-1")  # the refused connection left nothing behind


def test_read_sees_one_state(database: Database) -> None:
    with database.read() as connection:
        assert number_of(connection, person) == 0
        with database.write() as other:
            add_person(other, "p-1")
        assert number_of(connection, person) == 0


@pytest.mark.parametrize("change", ["update", "delete"])
def test_events_are_kept(database: Database, change: str) -> None:
    with database.write() as connection:
        events.record(connection, person_id=None, action="test", subject="batch", subject_id=7, after={"name": "ä"}, now=5.0)
    statement = update(event).values(action="other") if change == "update" else delete(event)
    with pytest.raises(DBAPIError, match="never changed or removed"), database.write() as connection:
        connection.execute(statement)
    with database.read() as connection:
        row = connection.execute(select(event)).one()
    assert (row.at, row.action, row.subject, row.subject_id, row.before, row.after) == (
        5.0,
        "test",
        "batch",
        "7",
        None,
        {"name": "ä"},
    )


def test_sqlite_is_durable(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    with database.write() as connection:
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "query_only": 0}
        assert {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in wanted} == wanted
    database.close()


def test_foreign_keys_hold(database: Database) -> None:
    values = {"action": "x", "subject": "x", "subject_id": "1", "at": 0.0, "person_id": 99}
    with pytest.raises(DBAPIError, match=r"(?i)foreign key"), database.write() as connection:
        connection.execute(insert(event).values(**values))


def test_two_that_open_at_once(postgres_url: str, tmp_path: Path) -> None:
    """Servers that start together make the tables once."""
    for where in (str(tmp_path / "new.db"), postgres_url):
        problems: list[BaseException] = []

        def start(where: str = where, problems: list[BaseException] = problems) -> None:
            try:
                open_database(where).close()
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []


def test_errors_show_nothing_that_was_written(database: Database) -> None:
    """They end up in logs: of a refused row neither the parameters nor PostgreSQL's DETAIL are shown."""

    def add(id: int) -> None:
        with database.write() as connection:
            values = {"id": id, "pseudonym": f"p-{id}", "role": "labeler", "group_name": "training", "created": 0.0}
            connection.execute(insert(person).values(**values, **private))

    private = {
        "name": "".join(["Eve", " Adams"]),
        "email": "@".join(["eve", "example.org"]),
        "password_hash": "".join(["arg", "on"]),
    }
    add(1)
    with pytest.raises(DBAPIError) as caught:
        add(2)
    told = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in private.values() if secret in told]


def test_only_the_owner_reads_a_new_file(tmp_path: Path) -> None:
    database = open_database(tmp_path / "new" / "labels.sqlite")
    with database.write() as connection:
        add_person(connection, "p-1")
    files = sorted((tmp_path / "new").iterdir())
    assert {file.name: file.stat().st_mode & 0o777 for file in files} == dict.fromkeys(
        ("labels.sqlite", "labels.sqlite-shm", "labels.sqlite-wal"), 0o600
    )
    saved = maintenance.backup(database, tmp_path / "saved.sqlite")
    database.close()
    restored = maintenance.restore(saved, tmp_path / "restored.sqlite")
    assert [file.stat().st_mode & 0o777 for file in (saved, restored)] == [0o600, 0o600]
