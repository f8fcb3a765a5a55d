"""Back up, restore, check and copy a labeling database. Rows are streamed: memory does not grow with the database."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Integer, RowMapping, Table, and_, case, func, insert, select, text, tuple_

from heedful.errors import ConfigError, ConflictError, DataError, MissingError, StorageError
from heedful.labeling.database.connection import Database, make_private, open_database
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    demonstration,
    ranking,
    rating,
    task,
    task_response,
)
from heedful.labeling.database.usage_tables import metadata  # all tables: importing it brings its own
from heedful.labeling.queue.answer_rows import Answered, rows_of_answer
from heedful.labeling.queue.items import batched
from heedful.project.files import flush_to_disk

_ROWS_AT_ONCE = 1_000
_PAGES_AT_ONCE = 2_000
_SHOWN_PROBLEMS = 20


# ---------------------------------------------------------------------------------------------------- backup and restore


def backup(database: Database, target: str | Path) -> Path:
    """Copy a SQLite database to a file while it is in use. The copy is one consistent, checked state; no partial file is left.

    Raises ConfigError for PostgreSQL (it has ``pg_dump``), StorageError if the disk refuses.
    """
    source = _sqlite_path(database)
    target = Path(target).expanduser().absolute()
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        make_private(aside)
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as read, closing(sqlite3.connect(aside)) as write:
            # Read one state: otherwise each write in the meantime would make the copy start over.
            read.execute("BEGIN")
            read.execute("SELECT count(*) FROM sqlite_master").fetchone()
            read.backup(write, pages=_PAGES_AT_ONCE)
            # One file, without a log beside it.
            write.execute("PRAGMA journal_mode = DELETE")
            _refuse_damaged(write, aside)
        _put_in_place(aside, target)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            "the backup could not be written", expected="a disk with room", got=str(error), where=target
        ) from error
    finally:
        _remove(aside)
    return target


def restore(source: str | Path, target: str | Path, *, overwrite: bool = False) -> Path:
    """Replace a database with a backup; stop the server first. The old database is kept as ``….before-restore``.

    Raises MissingError (no backup), DataError (the backup is damaged or not a labeling database), ConflictError if a database
    exists and ``overwrite`` was not given, StorageError.
    """
    source, target = Path(source).expanduser().absolute(), Path(target).expanduser().absolute()
    if not source.is_file():
        raise MissingError("there is no such backup", expected="a file", got="nothing", where=source)
    if target.exists() and not overwrite:
        raise ConflictError(
            "there is a database already",
            expected="no file there yet",
            got="a file",
            where=target,
            next_step="stop the server, then use --overwrite (the old one is kept beside it), or give another path",
        )
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        make_private(aside)
        with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as read, closing(sqlite3.connect(aside)) as write:
            _refuse_damaged(read, source)
            read.backup(write, pages=_PAGES_AT_ONCE)
            write.execute("PRAGMA journal_mode = DELETE")
        if target.exists():
            _set_aside(target)
        _put_in_place(aside, target)
    except (sqlite3.Error, OSError) as error:
        if "not a database" in str(error):
            raise DataError("this is not a backup", expected="a SQLite database", got=str(error), where=source) from None
        raise StorageError(
            "the backup could not be put in place", expected="a disk with room", got=str(error), where=target
        ) from error
    finally:
        _remove(aside)
    open_database(target).close()  # upgrades an older version, refuses a newer one
    return target


def _set_aside(target: Path) -> None:
    """Keep the old database and its log under another name."""
    with closing(sqlite3.connect(target)) as old:
        old.execute("PRAGMA busy_timeout = 1000")
        [busy, *_] = old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError("the database is in use", got="another process reads or writes it", where=target)
    os.replace(target, target.with_name(target.name + ".before-restore"))
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)


def _sqlite_path(database: Database) -> Path:
    if database.path is None:
        raise ConfigError(
            "this backup is for SQLite",
            expected="a SQLite file",
            got=database.url.render_as_string(),
            next_step="use pg_dump, or `heedful store copy` to a SQLite file",
        )
    return database.path


def _refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    missing = {"assignment", "event", "alembic_version"} - there
    if said != "ok" or missing:
        got = said if said != "ok" else f"no table {sorted(missing)[0]}"
        raise DataError("this is not an intact labeling database", expected="all its pages and tables", got=got, where=path)


def _put_in_place(aside: Path, target: Path) -> None:
    flush_to_disk(aside)
    os.replace(aside, target)
    flush_to_disk(target.parent)


def _remove(aside: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):
            aside.with_name(aside.name + suffix).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- check


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the database holds, and what is wrong with it."""

    counts: Mapping[str, int]
    """Rows by table."""
    problems: Sequence[str] = field(default_factory=list[str])
    """A few dozen at most; empty if the database is intact."""

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{name:<20}{count:>12,}" for name, count in self.counts.items() if count]
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


def check(database: Database) -> Checked:
    """Check the file, its references and counters, and that every answer's rows match its raw JSON."""
    problems: list[str] = []
    with database.read() as connection:
        if database.is_sqlite:
            said = connection.execute(text("PRAGMA integrity_check(10)")).scalars().all()
            problems += [f"the file: {line}" for line in said if line != "ok"]
        problems += _broken_references(connection)
        problems += _wrong_counters(connection)
        problems += _wrong_rows(connection)
        return Checked(counts=counts_of(connection), problems=problems)


def counts_of(connection: Connection) -> dict[str, int]:
    """Rows of each table."""
    return {t.name: connection.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}


def _broken_references(connection: Connection) -> list[str]:
    """References to rows that do not exist. SQLite does not notice them if another program changed the file."""
    problems: list[str] = []
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            target = key.column.table.alias("target")
            missing = connection.execute(
                select(func.count())
                .select_from(table.outerjoin(target, key.parent == target.c[key.column.name]))
                .where(key.parent.is_not(None), target.c[key.column.name].is_(None))
            ).scalar_one()
            if missing:
                problems.append(
                    f"{table.name}.{key.parent.name}: {missing} rows name a {key.column.table.name} that does not exist"
                )
    return problems


def _wrong_counters(connection: Connection) -> list[str]:
    leased = func.coalesce(func.sum(case((assignment.c.state == "leased", 1), else_=0)), 0)
    counted = and_(assignment.c.state == "answered", assignment.c.surplus.is_(False))
    answered = func.coalesce(func.sum(case((counted, 1), else_=0)), 0)
    rows = connection.execute(
        select(task.c.id, task.c.held, task.c.answered, leased.label("leases"), answered.label("answers"))
        .select_from(task.outerjoin(assignment, assignment.c.task_id == task.c.id))
        .group_by(task.c.id, task.c.held, task.c.answered)
        .having((task.c.held != leased + answered) | (task.c.answered != answered))
        .limit(_SHOWN_PROBLEMS)
    )
    return [
        f"task {row.id}: it counts {row.held} held and {row.answered} answered; "
        f"there are {row.leases} leases and {row.answers} answers"
        for row in rows
    ]


def _wrong_rows(connection: Connection) -> list[str]:
    """Answers whose rows differ from those that their raw JSON gives; rows that belong to no answer."""
    problems: list[str] = []
    query = (
        select(assignment, task.c.kind, task.c.prompt_id)
        .select_from(assignment.join(task, assignment.c.task_id == task.c.id))
        .where(assignment.c.state == "answered")
        .order_by(assignment.c.id)
    )
    rows = connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}).mappings()
    for some in batched(rows, _ROWS_AT_ONCE):
        problems += _wrong_rows_of(connection, some)
        if len(problems) >= _SHOWN_PROBLEMS:
            return [*problems[:_SHOWN_PROBLEMS], "and maybe more"]
    return problems


def _wrong_rows_of(connection: Connection, answers: Sequence[RowMapping]) -> list[str]:
    ids = [row["id"] for row in answers]
    shown: dict[int, list[str]] = {}
    of_tasks = select(task_response).where(task_response.c.task_id.in_([row["task_id"] for row in answers]))
    for row in connection.execute(of_tasks.order_by(task_response.c.task_id, task_response.c.position)):
        shown.setdefault(row.task_id, []).append(row.response_id)
    there: dict[int, set[str]] = {id: set() for id in ids}
    for table in (demonstration, ranking, rating, annotation):
        for row in connection.execute(select(table).where(table.c.assignment_id.in_(ids))).mappings():
            there[row["assignment_id"]].add(_content(table, row))
    problems: list[str] = []
    for row in answers:
        of = Answered(
            assignment_id=row["id"],
            token=row["token"],
            kind=row["kind"],
            person_id=row["person_id"],
            prompt_id=row["prompt_id"],
            response_ids=shown.get(row["task_id"], []),
            at=row["answered"],
        )
        try:
            expected = {_content(table, one) for table, made in rows_of_answer(of, row["answer"]) for one in made}
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"assignment {row['id']}: its raw answer cannot be read ({type(error).__name__}: {error})")
            continue
        if expected != there[row["id"]]:
            missing, extra = len(expected - there[row["id"]]), len(there[row["id"]] - expected)
            problems.append(
                f"assignment {row['id']}: {missing} rows of its answer are missing or changed, {extra} do not belong to it"
            )
    return problems


def _content(table: Table, row: Mapping[Any, Any]) -> str:
    """A row's content, and its id."""
    said = {column.name: row[column.name] for column in table.c if column.name != "created"}
    return table.name + json.dumps(said, sort_keys=True)


# ---------------------------------------------------------------------------------------------------- copy


def copy(source: Database, target: Database) -> dict[str, int]:
    """Copy everything into an empty database (SQLite to PostgreSQL or back), in one transaction; return rows by table.

    Counts and a checksum of each table are compared before the copy is committed. Raises ConflictError if the target is not
    empty, DataError if the copy differs, StorageError.
    """
    with source.read() as reading, target.write() as writing:
        held = {name: count for name, count in counts_of(writing).items() if count}
        if held:
            name, count = next(iter(held.items()))
            raise ConflictError(
                "the database to copy into is not empty",
                expected="an empty database",
                got=f"{count} rows in {name}",
                where=target.url.render_as_string(),
                next_step="give another one",
            )
        for table in metadata.sorted_tables:
            for some in batched(_rows_in_order(reading, table), _ROWS_AT_ONCE):
                writing.execute(insert(table), [dict(row) for row in some])
            _continue_numbers(writing, table)
        counts = counts_of(reading)
        there = counts_of(writing)
        for table in metadata.sorted_tables:
            before, after = checksum(reading, table), checksum(writing, table)
            if (before, counts[table.name]) != (after, there[table.name]):
                raise DataError(
                    f"the copy of the table {table.name} differs: nothing was copied",
                    expected=f"{counts[table.name]} rows, checksum {before[:16]}",
                    got=f"{there[table.name]} rows, checksum {after[:16]}",
                    where=target.url.render_as_string(),
                )
    return counts


def checksum(connection: Connection, table: Table) -> str:
    """SHA-256 over all rows in the order of the primary key; the same on both databases."""
    digest = sha256()
    for row in _rows_in_order(connection, table):
        digest.update(json.dumps(list(row.values()), sort_keys=True, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _rows_in_order(connection: Connection, table: Table) -> Iterator[RowMapping]:
    """All rows by key, page by page: no cursor stays open, and the order does not depend on how the database sorts text."""
    keys = list(table.primary_key.columns)
    # Compare text byte by byte on both, whatever language PostgreSQL was set up for.
    is_text = [not isinstance(key.type, Integer) for key in keys]
    bytewise = connection.dialect.name == "postgresql"
    order = [key.collate("C") if text_key and bytewise else key for key, text_key in zip(keys, is_text, strict=True)]
    last: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*order).limit(_ROWS_AT_ONCE)
        if last is not None:
            query = query.where(tuple_(*order) > tuple_(*last))
        rows = connection.execute(query).mappings().all()
        yield from rows
        if len(rows) < _ROWS_AT_ONCE:
            return
        last = tuple(rows[-1][key.name] for key in keys)


def _continue_numbers(connection: Connection, table: Table) -> None:
    """PostgreSQL numbers rows by itself: make it continue after the copied ones."""
    if connection.dialect.name == "postgresql" and table.autoincrement_column is not None:
        name, column = table.name, table.autoincrement_column.name
        highest = connection.execute(select(func.max(table.c[column]))).scalar()
        if highest is not None:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, :column), :highest)"),
                {"table": name, "column": column, "highest": highest},
            )
