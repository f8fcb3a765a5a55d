from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, text
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for, number_of

from heedful.conversation import turns_of
from heedful.errors import ConfigError, ConflictError, DataError, MissingError, StorageError
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import assignment, metadata, prompt
from heedful.labeling.queue import items, leases
from heedful.records import Prompt


def fill(database: Database, *, answers: int = 4) -> None:
    """A database with something of most kinds."""
    with database.write() as connection:
        ann = add_person(connection, "ann")
        items.add_prompts(connection, [Prompt(id=id, turns=turns_of("ä" * 3)) for id in ("Z", "a", "ä", "é-1", "é 1", "_")])
        for kind in ("rank", "rate", "demonstrate", "toxicity", "review_prompt"):
            add_ranking_tasks(connection, 2, kind=kind, name=kind)
        for number in range(answers):
            view = leases.claim(connection, ann, now=0.1 + number / 3)
            assert view is not None
            leases.submit(connection, view.id, ann, token=view.token, answer=answer_for(view), seconds_spent=0.1 + number / 7)
        view = leases.claim(connection, ann, now=9.0)
        assert view is not None
        leases.save_draft(connection, view.id, ann, token=view.token, draft={"text": "\u2028 ü"}, version=0, now=9.5)


def test_a_sound_database(database: Database) -> None:
    fill(database, answers=10 - 1)
    checked = maintenance.check(database)
    assert checked.problems == []
    assert checked.counts["assignment"] == 10
    assert "assignment" in checked.summary()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE ranking SET ranks = '[4, 3, 2, 1]'", "rows of its answer are missing or changed"),
        ("DELETE FROM rating WHERE id IN (SELECT min(id) FROM rating)", "1 rows of its answer are missing"),
        ("UPDATE demonstration SET text = 'other'", "missing or changed"),
        ("UPDATE task SET held = held + 1 WHERE id = 1", "task 1: it counts"),
        ("UPDATE task SET answered = 5 WHERE id = 2", "task 2: it counts"),
        ("DELETE FROM prompt WHERE id = 'rank-0'", "task.prompt_id: 1 rows name a prompt that does not exist"),
        ("UPDATE assignment SET answer = '{}' WHERE state = 'answered'", "its raw answer cannot be read"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: str, problem: str) -> None:
    path = tmp_path / "heedful.db"
    database = open_database(path)
    fill(database, answers=9)
    with closing(sqlite3.connect(path)) as other:  # foreign keys are off here
        other.execute(damage)
        other.commit()
    found = maintenance.check(database).problems
    assert any(problem in line for line in found), found
    database.close()


def test_backup_while_people_work(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    fill(database)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with database.write() as connection:
                items.add_prompts(connection, [Prompt(id=f"new-{number}-{k}", turns=turns_of("x" * 500)) for k in range(2)])
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [maintenance.backup(database, tmp_path / f"backup-{number}.db") for number in range(3)]
    finally:
        stop.set()
        writer.join()
    for path in copies:
        copied = open_database(path)
        assert maintenance.check(copied).problems == []
        with copied.read() as connection:
            assert number_of(connection, prompt) % 2 == 0  # whole transactions only
        copied.close()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
    database.close()


def test_backup_is_what_was_there(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    fill(database)
    copied = open_database(maintenance.backup(database, tmp_path / "folder" / "backup.db"))
    with database.read() as old, copied.read() as new:
        for table in metadata.sorted_tables:
            assert maintenance.checksum(old, table) == maintenance.checksum(new, table)
    copied.close()
    database.close()


def test_restore(tmp_path: Path) -> None:
    path, saved = tmp_path / "heedful.db", tmp_path / "backup.db"
    database = open_database(path)
    fill(database)
    maintenance.backup(database, saved)
    with database.write() as connection:
        add_person(connection, "later")
    database.close()
    with pytest.raises(ConflictError, match="already"):
        maintenance.restore(saved, path)
    maintenance.restore(saved, path, overwrite=True)
    for there, people in ((path, 1), (tmp_path / "heedful.db.before-restore", 2)):
        opened = open_database(there)
        assert maintenance.check(opened).counts["person"] == people
        opened.close()
    maintenance.restore(saved, tmp_path / "new" / "place.db")
    assert (tmp_path / "new" / "place.db").is_file()


def test_restore_refuses_what_is_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "heedful.db"
    database = open_database(path)
    fill(database)
    database.close()
    before = path.read_bytes()
    (tmp_path / "notes.txt").write_text("no database " * 400)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE recipe (id INTEGER)")
    broken = tmp_path / "broken.db"
    broken.write_bytes(before[: len(before) // 2])
    for bad in (tmp_path / "notes.txt", other, broken):
        with pytest.raises((DataError, StorageError)):
            maintenance.restore(bad, path, overwrite=True)
        assert path.read_bytes() == before
    with pytest.raises(MissingError, match="no such backup"):
        maintenance.restore(tmp_path / "nothing.db", path, overwrite=True)


def test_backup_to_a_place_that_refuses(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="backup could not be written"):
        maintenance.backup(database, tmp_path / "file" / "backup.db")
    database.close()


def test_copy_to_postgresql_and_back(postgres_url: str, tmp_path: Path) -> None:
    first, second, third = (open_database(where) for where in (tmp_path / "a.db", postgres_url, tmp_path / "b.db"))
    fill(first)
    counts = maintenance.copy(first, second)
    assert maintenance.copy(second, third) == counts
    assert counts["assignment"] == 5
    with first.read() as old, third.read() as new:
        for table in metadata.sorted_tables:
            assert maintenance.checksum(old, table) == maintenance.checksum(new, table)
            assert set(map(repr, old.execute(select(table)))) == set(map(repr, new.execute(select(table))))
    assert maintenance.check(second).problems == []
    with second.write() as connection:
        bob = add_person(connection, "bob")  # PostgreSQL counts on from the copied ids
        assert leases.claim(connection, bob, now=50.0) is not None
    with pytest.raises(ConflictError, match="not empty"):
        maintenance.copy(first, second)
    with pytest.raises(ConfigError, match="for SQLite"):
        maintenance.backup(second, tmp_path / "c.db")
    for database in (first, second, third):
        database.close()


def test_copy_that_differs_is_not_kept(tmp_path: Path) -> None:
    first, second = open_database(tmp_path / "a.db"), open_database(tmp_path / "b.db")
    fill(first)
    with second.write() as connection:
        connection.execute(
            text("CREATE TRIGGER meddle AFTER INSERT ON rating BEGIN UPDATE rating SET overall = 1 WHERE id = NEW.id; END")
        )
    with pytest.raises(DataError, match="the copy of the table rating differs"):
        maintenance.copy(first, second)
    with second.read() as connection:
        assert number_of(connection, assignment) == 0
    first.close()
    second.close()


def test_many_rows_are_copied_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_ROWS_AT_ONCE", 3)
    first, second = open_database(tmp_path / "a.db"), open_database(tmp_path / "b.db")
    fill(first, answers=9)
    maintenance.copy(first, second)
    assert maintenance.check(second).problems == []
    first.close()
    second.close()
