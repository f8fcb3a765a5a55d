"""Finds the files of the benchmarks' data sets and reads their cells.

A row that lacks something the task needs raises an error with file and line: a benchmark that drops rows measures something
else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heedful.errors import DataError, MissingError
from heedful.project.files import read_text
from heedful.project.table_files import rows_of_any_file

Row = dict[str, Any]
"""One question of a data set. Its names depend on the task; ``id`` is always there."""

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".tsv", ".txt", ".parquet", ".sgm")


def data_file(folder: Path, task: str, stems: tuple[str, ...]) -> Path | None:
    """Find the first file in ``folder/task/`` with one of these names and a readable suffix, or None."""
    for stem in stems:
        for suffix in SUFFIXES:
            if (path := folder / task / f"{stem}{suffix}").is_file():
                return path
    return None


def missing_data(there: Path, what: str, stems: tuple[str, ...]) -> MissingError:
    """Make the error for a task whose data are missing."""
    found = ", ".join(sorted(path.name for path in there.iterdir())[:8]) if there.is_dir() else "no such folder"
    return MissingError(
        f"there are no data for {what}",
        expected=f"one of {', '.join(stems)} with a suffix such as .jsonl, .csv or .parquet",
        got=found or "an empty folder",
        where=there,
        next_step="docs/public-benchmarks.md names the source and the files of each data set",
    )


# ---------------------------------------------------------------------------------------------------- rows and cells


def cells_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of a table with its place, ``file:line``. Raises DataError for the first row that cannot be read."""
    for row in rows_of_any_file(path):
        where = f"{path}:{row.line}"
        if row.problem is not None or not isinstance(row.value, dict):
            raise DataError(
                f"a row of {path.name} cannot be read",
                expected="an object with named columns",
                got=row.problem or type(row.value).__name__,
                where=where,
                next_step="fetch the file again, or correct the row",
            )
        yield where, row.value


def text_of(cells: Mapping[str, Any], where: str, *names: str) -> str:
    """Return the text in the first of these columns that the row has. Raises DataError for no such column or other values."""
    for name in names:
        value = cells.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    raise DataError(
        f"a row lacks the column {names[0]!r}",
        expected=f"text in {' or '.join(map(repr, names))}",
        got=", ".join(list(cells)[:10]) or "no columns",
        where=where,
        next_step="fetch the file again, or name its columns as docs/public-benchmarks.md does",
    )


def number_of(cells: Mapping[str, Any], where: str, name: str) -> float:
    """The finite number in a column, or in its text. Raises DataError for anything else."""
    text = text_of(cells, where, name)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"a row has no usable {name!r}", expected="a number", got=repr(text[:60]), where=where)
    return number


def texts_of(cells: Mapping[str, Any], where: str, name: str) -> list[str]:
    """The texts of a list in a column. Raises DataError if it holds something else than texts and numbers."""
    return [text_of({name: one}, where, name) for one in listed(cells.get(name))]


def label_of(cells: Mapping[str, Any], where: str, name: str, values: Mapping[str, int]) -> int:
    """Return a label as a number. ``values``: the data set's labels. Raises DataError for any other label."""
    value = str(cells.get(name)).strip().lower()
    if value not in values:
        raise DataError(
            f"a row has no usable {name!r}", expected=f"one of {', '.join(values)}", got=repr(cells.get(name)), where=where
        )
    return values[value]


def whole_json(path: Path) -> Any:
    """Read a file that is one JSON object. Raises MissingError, DataError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(
            f"{path.name} is not JSON", expected="one JSON object", got=str(error), where=path, next_step="fetch it again"
        ) from None


def listed(value: object) -> list[Any]:
    """Return the value as a list. A cell of a table may hold it as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [value]
