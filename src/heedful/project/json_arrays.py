"""The rows of a file that is JSONL or one JSON array: tools write both, often under the same ending."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from heedful.errors import DataError
from heedful.project.files import JSON_DECODER, TOO_DEEP, Row, is_too_deep, read_rows, read_text


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file, or the elements of a file that is one JSON array."""
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        return
    opens_array = (first.problem is not None and first.raw.startswith("[")) or isinstance(first.value, list)
    if opens_array:
        yield from _array_elements(path)
    else:
        yield first
        yield from rows


def _array_elements(path: Path) -> Iterator[Row]:
    text = read_text(path)
    position, counted, line = text.index("[") + 1, 0, 1
    first = True
    while True:
        position = _skip_space(text, position)
        if text[position : position + 1] == "]":
            if text[position + 1 :].strip():
                raise _broken_array(path, "more text after the array's end")
            return
        try:
            if not first:
                if text[position : position + 1] != ",":
                    raise json.JSONDecodeError("',' or ']' expected", text, position)
                position = _skip_space(text, position + 1)
            line, counted = line + text.count("\n", counted, position), position
            value, position = JSON_DECODER.raw_decode(text, position)
        except RecursionError:
            raise _broken_array(path, TOO_DEEP) from None
        except ValueError as error:
            raise _broken_array(path, str(error)) from None
        first = False
        yield Row(line, problem=TOO_DEEP, raw=repr(value)[:200]) if is_too_deep(value) else Row(line, value=value)


def _broken_array(path: Path, got: str) -> DataError:
    return DataError(
        f"{path.name} is not a whole JSON array",
        expected="a JSON array of objects, or JSONL: one object per line",
        got=got,
        where=path,
        next_step="correct the file; nothing was imported from it",
    )


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position
