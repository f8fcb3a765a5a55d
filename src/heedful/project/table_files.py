"""Rows of a file in any form that import reads: JSONL, one JSON array, CSV and TSV, Parquet."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TextIO

from heedful.errors import DataError, MissingError
from heedful.project.files import JSON_DECODER, LONGEST_LINE, Row, is_encodable, is_too_deep, refuse_missing
from heedful.project.json_arrays import rows_of_file

_JSON_COLUMNS = """
messages conversations history chat_history conversation_history responses completions outputs answers generations
candidates models model_names ratings scores ranks summaries summary info
"""
"""Columns of a CSV file whose cells may hold a JSON list or object."""

_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(?P<quote>['"])(role|content|from|value)(?P=quote)\s*:""")
"""The start of a list of chat messages. Cells of any column may hold one."""


def rows_of_any_file(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file (the first two also ``.gz``), one after the other.

    Raises MissingError for no file or no pyarrow, DataError for a file that cannot be read at all.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path)
    return _table_rows(path) if kind in (".csv", ".tsv") else rows_of_file(path)


def _table_rows(path: Path) -> Iterator[Row]:
    refuse_missing(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from rows_of_table(file, path)


def rows_of_table(file: TextIO, path: Path) -> Iterator[Row]:
    """The rows of a table with a header. Columns are separated by commas, semicolons or tabs, as in the header.

    ``path`` names the table in messages. Raises DataError for a table that cannot be read at all.
    """
    csv.field_size_limit(LONGEST_LINE)
    header = file.readline(LONGEST_LINE)
    file.seek(0)
    if "\0" in header or not is_encodable(header):
        raise DataError(
            f"{path.name} is not UTF-8",
            expected="a table in UTF-8",
            got="other bytes in its header",
            where=f"{path}:1",
            next_step="save it as CSV in UTF-8, or convert it, for example: iconv -f UTF-16 -t UTF-8",
        )
    reader = csv.DictReader(file, delimiter=_delimiter(header), strict=True)
    end = 1
    try:
        _check_columns(path, list(reader.fieldnames or ()))
        for cells in reader:
            line, end = end + 1, reader.line_num
            if None in cells or None in cells.values():
                yield Row(line, problem="more or fewer cells than the header has", raw=repr(cells))
            elif not all(map(is_encodable, cells.values())):
                yield Row(line, problem="not UTF-8", raw=repr(cells))
            else:
                yield _row_of_cells(line, cells)
    except csv.Error as error:
        raise DataError(
            f"{path.name} cannot be read as a table",
            expected="CSV with a header line; cells with separators or line ends in double quotes",
            got=str(error),
            where=f"{path}:{reader.line_num}",
        ) from None


def _delimiter(header: str) -> str:
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _check_columns(path: Path, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path.name} has two columns of one name", expected="each name once", got=repr(twice), where=path)


def _row_of_cells(line: int, cells: Mapping[str, str]) -> Row:
    try:
        return Row(line, value={name: _cell(name, cell) for name, cell in cells.items() if cell != ""})
    except ValueError as error:
        return Row(line, problem=str(error), raw=repr(cells))


def _cell(name: str, cell: str) -> object:
    """The cell's text, or the JSON list or object in it. Raises ValueError for one that is broken."""
    if not _MESSAGES.match(cell) and not (name in _JSON_COLUMNS.split() and cell.lstrip()[:1] in ("[", "{")):
        return cell
    try:
        value = JSON_DECODER.decode(cell.strip())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the column {name!r} starts like JSON but is not JSON: {error}") from None
    if is_too_deep(value):
        raise ValueError(f"the column {name!r} is nested too deep")
    return value


def _parquet_rows(path: Path) -> Iterator[Row]:
    refuse_missing(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingError(
            "Parquet files are read by pyarrow, which is not installed",
            expected="the extra prompts",
            got="no module pyarrow",
            next_step="pip install 'heedful[prompts]', or turn the file into JSONL or CSV",
        ) from None
    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1_000):
                for value in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield _parquet_row(number, value)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read as Parquet", expected="a whole Parquet file", got=str(error), where=path
        ) from None


def _parquet_row(number: int, value: object) -> Row:
    try:
        return Row(number, value=_plain(value))
    except ValueError as error:
        return Row(number, problem=str(error), raw=repr(value)[:1_000])


def _plain(value: object) -> object:
    """The value as JSON: missing parts (in Parquet also NaN) are left out, dates become text."""
    match value:
        case dict():
            return {name: _plain(part) for name, part in value.items() if part is not None and part == part}
        case list():
            return [_plain(part) if part == part else None for part in value]
        case date() | datetime():
            return value.isoformat()
        case float() if math.isinf(value):
            raise ValueError("an infinite number")
        case bytes():
            raise ValueError("binary data where text is expected")
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)
