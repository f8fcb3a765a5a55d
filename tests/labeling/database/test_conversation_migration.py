"""A database of the version before conversations opens, keeps its work, and goes on."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Boolean, MetaData, create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from tests.conftest import new_postgres_database
from tests.labeling.labeling import rank_answer

from heedful.conversation import Turn
from heedful.errors import HeedfulError
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import MIGRATIONS, open_database
from heedful.labeling.database.tables import event, prompt, response
from heedful.labeling.exchange import labels
from heedful.labeling.queue import leases

OLD = Path(__file__).with_name("schema_0002.sql")
TALK = (
    Turn("system", "Answer briefly."),
    Turn("user", "Name a hill."),
    Turn("assistant", "Box Hill."),
    Turn("user", "Another one?"),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an old database that nobody has opened since."""
    path = tmp_path / "labels.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(OLD.read_text())
    if request.param == "sqlite":
        return str(path)
    url = new_postgres_database(request.getfixturevalue("postgres_server"))
    copy_old_rows(path, url)
    return url


def copy_old_rows(path: Path, url: str) -> None:
    """The old tables by their own migrations, and the file's rows."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(url)
    with engine.begin() as connection, sqlite3.connect(path) as old:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        there = MetaData()
        there.reflect(connection)
        for table in there.sorted_tables:
            if table.name != "alembic_version":
                found = old.execute(f"SELECT {', '.join(column.name for column in table.c)} FROM {table.name}")
                rows = [dict(zip(table.c.keys(), row, strict=True)) for row in found]
                for row in rows:
                    row |= {column.name: converted(column.type, row[column.name]) for column in table.c}
                if rows:
                    connection.execute(insert(table), rows)
                if rows and isinstance(rows[0].get("id"), int):
                    number = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {max(row['id'] for row in rows)})"
                    connection.execute(text(number))
    engine.dispose()


def converted(type_: object, value: Any) -> Any:
    if value is None:
        return None
    return json.loads(value) if isinstance(type_, JSON) else bool(value) if isinstance(type_, Boolean) else value


def test_flattened_conversations_become_turns(where: str) -> None:
    database = open_database(where)
    with database.read() as connection:
        stored = {row.id: row for row in connection.execute(select(prompt))}
        assert set(connection.execute(select(response.c.phase)).scalars()) == {"training"}
        assert "do not know any" not in repr(connection.execute(select(event.c.before, event.c.after)).all())
    assert stored["talk"].turns == [turn._asdict() for turn in TALK]
    assert stored["talk"].text.startswith("Answer briefly.\n\nHuman: Name a hill.")  # still found by its words
    assert stored["lone"].turns is None
    with pytest.raises((DBAPIError, HeedfulError), match="never changed"), database.write() as connection:
        connection.execute(update(event).values(at=0.0))
    assert maintenance.check(database).problems == []
    database.close()


def test_work_goes_on(where: str) -> None:
    """What was answered is exported, what was begun comes back with its draft, and the pages get turns."""
    database = open_database(where)
    with database.write() as connection:
        begun = leases.claim(connection, 1, now=20.0)
        assert begun is not None
        assert (begun.prompt and begun.prompt.id, begun.draft) == ("lone", {"groups": []})
        assert begun.prompt is not None
        assert [turn.role for turn in begun.prompt.turns] == ["user"]
        done = leases.view_assignment(connection, 1, 1)
        assert done.prompt is not None
        assert done.prompt.turns == TALK
        leases.submit(
            connection, begun.id, 1, token=begun.token, answer=rank_answer(["lone-1", "lone-2"]), seconds_spent=None, now=21.0
        )
        rankings = {ranking.prompt_id: ranking.ranks for ranking in labels.stored_rankings(connection)}
    assert rankings == {"talk": (1, 2), "lone": (1, 2)}
    database.close()
