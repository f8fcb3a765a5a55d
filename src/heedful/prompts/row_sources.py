"""Where an import's rows come from: a file, or the labeling database, which holds the public API's log and the playground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heedful.labeling.database.connection import Database
from heedful.labeling.usage.usage_log import prompt_rows
from heedful.project.files import Row
from heedful.project.table_files import rows_of_any_file


@dataclass(frozen=True, slots=True)
class RowSource:
    """A name for messages, and the rows, which are read twice."""

    name: str
    where: str
    """Identifies the source in ``rejected.jsonl``: it is the same for every import of the same rows."""
    rows: Callable[[], Iterable[Row]]


def of_file(path: Path) -> RowSource:
    """The rows of a file."""
    return RowSource(path.name, str(path), lambda: rows_of_any_file(path))


@contextmanager
def of_database(database: Database) -> Iterator[RowSource]:
    """Requests and turns that may become prompts, in the format ``api``; both readings see the same state of the database."""
    with database.read() as connection:
        where = database.url.render_as_string()

        def rows() -> Iterator[Row]:
            return (Row(line=number, value=row) for number, row in prompt_rows(connection))

        yield RowSource("the labeling database", where, rows)
