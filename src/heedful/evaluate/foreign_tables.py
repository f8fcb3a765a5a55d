"""Reads CSV, TSV and JSONL files from other programs. A row that cannot be read is reported with its line, never guessed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from heedful.errors import DataError
from heedful.project.files import Row, unpacked
from heedful.project.json_arrays import rows_of_file

_LARGEST_CELL = 2**31 - 1


def table_rows(path: str | Path) -> Iterator[Row]:
    """Read each row as an object of columns, or return why it is not one. Line numbers count from 1.

    ``.csv`` and ``.tsv`` need a header; an empty cell is an empty text. Anything else is JSONL or one JSON array. ``.gz`` too.
    After a row with an unclosed quote, reading continues at the next line of the file, so one stray quote costs one row.
    """
    path = Path(path)
    if is_separated(path):
        yield from _csv_rows(path, "\t" if _suffix(path) == ".tsv" else ",")
        return
    for row in rows_of_file(path):
        if row.problem is None and not isinstance(row.value, dict):
            row = Row(row.line, problem="not an object with columns", raw=row.raw)
        yield row


def is_separated(path: Path) -> bool:
    """Return whether the file's name says that its cells are separated by commas or tabs."""
    return _suffix(path) in (".csv", ".tsv")


def ends_midway(path: Path) -> bool:
    """Return whether a CSV file's last line has no line end: it may have been cut off inside its last cell."""
    return not _content(path).endswith((b"\n", b"\r"))


def _content(path: Path) -> bytes:
    with unpacked(path) as file:
        return file.read()


def _suffix(path: Path) -> str:
    """Return the file name's suffix, ignoring ``.gz``."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    lines = _decoded_lines(path)
    csv.field_size_limit(_LARGEST_CELL)
    header, start = _header(lines, path, delimiter)
    while start < len(lines):
        taken = 0

        def following(start: int = start) -> Iterator[str]:
            nonlocal taken
            for place in range(start, len(lines)):
                taken += 1
                yield lines[place]

        # A new reader is needed only after an error: one reader handles all valid rows.
        reader = csv.reader(following(), delimiter=delimiter, strict=True)
        first = start
        try:
            for cells in reader:
                if cells:
                    yield _csv_row(first + 1, header, cells)
                first = start + taken
            return
        except csv.Error as error:
            yield Row(first + 1, problem=f"not CSV: {error}", raw=lines[first].rstrip("\r\n"))
            start = first + 1


def _csv_row(line: int, header: list[str], cells: list[str]) -> Row:
    if cells[-1] == header[-1] and [cells[0].removeprefix("\ufeff"), *cells[1:]] == header:
        return Row(line, problem="the header again", raw=", ".join(cells))
    if len(cells) != len(header):
        return Row(line, problem=f"{len(cells)} cells where the header has {len(header)}", raw=", ".join(cells))
    if not all(is_unicode(cell) for cell in cells):
        return Row(line, problem="not UTF-8", raw=repr(", ".join(cells)))
    if any("\0" in cell for cell in cells):
        return Row(line, problem="a NUL byte", raw=repr(", ".join(cells)))
    return Row(line, value=dict(zip(header, cells, strict=True)))


def _header(lines: list[str], path: Path, delimiter: str) -> tuple[list[str], int]:
    taken = 0

    def counted() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            taken += 1
            yield line

    try:
        header = next(csv.reader(counted(), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise DataError(
            f"{path.name} has no readable header", expected="column names in the first line", got=str(error), where=f"{path}:1"
        ) from None
    if not header or len(set(header)) < len(header) or not all(is_unicode(name) and "\0" not in name for name in header):
        raise DataError(
            f"{path.name} has no usable header",
            expected="different column names in UTF-8 in the first line",
            got=", ".join(map(repr, header)) or "an empty line or file",
            where=f"{path}:1",
        )
    return header, taken


def _decoded_lines(path: Path) -> list[str]:
    content = _content(path)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{path.name} is not UTF-8",
            expected="UTF-8",
            got="UTF-16, by its first two bytes",
            where=path,
            next_step="save it as UTF-8",
        )
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return _lines_of(text)


def _lines_of(text: str) -> list[str]:
    """Split into lines and keep their ends. Only LF ends a line, as in csv (str.splitlines also cuts at other separators).

    In a file without any LF, CR ends lines, as on old Macs.
    """
    end = "\n" if "\n" in text else "\r"
    lines = text.split(end)
    return [line + end for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def is_unicode(text: str) -> bool:
    """Return whether the text is free of lone surrogates, which UTF-8 cannot hold."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
