"""Write files atomically; read and write JSONL.

A file is written under a temporary name, flushed to the disk and renamed over the old one. So a crash or a full disk leaves
the old file or the new one, never half of either.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import math
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from heedful.errors import BusyError, DataError, MissingError, StorageError
from heedful.project.lock import LOCK_FILE, open_lock_file
from heedful.project.structure import shown

# ---------------------------------------------------------------------------------------------------- writing


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Put ``content`` at ``path`` or leave ``path`` as it was. Raises StorageError if the disk is full or refuses."""
    data = content.encode() if isinstance(content, str) else content
    _write_together({path: [data]})


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Write one JSON value per line, atomically; compressed if ``path`` ends in ``.gz``. Raises StorageError."""
    write_jsonl_files({path: rows})


def write_jsonl_files(rows_by_path: Mapping[str | Path, Iterable[object]]) -> None:
    """Write several JSONL files; a full disk leaves every old file as it was. Raises StorageError.

    All are written under temporary names first, then renamed in the order given.
    """
    _write_together({path: map(_line, rows) for path, rows in rows_by_path.items()})


def _write_together(chunks_by_path: Mapping[str | Path, Iterable[bytes]]) -> None:
    written: list[tuple[Path, Path]] = []
    try:
        for path, chunks in chunks_by_path.items():
            written.append((_write_aside(_real(path), chunks), _real(path)))
        _put_in_place(written)
    finally:
        for aside, _ in written:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def append_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Add rows at the end of a JSONL file (not ``.gz``): all of them or, if the disk refuses, none. Raises StorageError.

    If a crash cut off the last line, that line is removed first; a complete line that only lacks its newline gets one.
    """
    path = _real(path)
    data = b"".join(map(_line, rows))
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            end = _mend_last_line(file)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(end)
                raise


def _mend_last_line(file: BinaryIO) -> int:
    """Make the file end with a complete line; return its length."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    if end and file.read(1) != b"\n":
        file.seek(0)
        content = file.read()
        start = content.rfind(b"\n") + 1
        try:
            JSON_DECODER.decode(content[start:].decode())
            file.write(b"\n")
            file.flush()
        except ValueError:
            file.truncate(start)
    return file.seek(0, os.SEEK_END)


def _line(row: object) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON as an escape, not in UTF-8
        return (json.dumps(row, allow_nan=False) + "\n").encode()


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))  # replace what a link points to, not the link


def _write_aside(path: Path, chunks: Iterable[bytes]) -> Path:
    """Write and fsync a file beside ``path``; the caller renames it. Nothing is left behind on an error."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as file:
                if path.suffix == ".gz":
                    with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                        packed.writelines(chunks)
                else:
                    file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
    return aside


def _put_in_place(written: list[tuple[Path, Path]]) -> None:
    """Rename each (aside, path) in order, then flush the folders, so that the renames themselves survive a power cut."""
    for aside, path in written:
        with _storage_errors(path):
            os.replace(aside, path)
    for folder in {path.parent for _, path in written}:
        with _storage_errors(folder):
            flush_to_disk(folder)


def flush_to_disk(path: Path) -> None:
    """Let a file or folder survive a power cut (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path.name} could not be written",
            expected="a disk with room and a folder that may be written to",
            got=error.strerror or str(error),
            where=path,
            next_step="free some space or choose another folder, then run the same command again; nothing is half-written",
        ) from error


@contextmanager
def locked(folder: str | Path, *, seconds: float | None = None) -> Iterator[None]:
    """Wait for the folder's lock, then hold it: two writers at once would lose each other's records.

    seconds: how long to wait; None: as long as it takes. Raises StorageError, BusyError if the time is over.
    """
    folder = Path(folder)
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open_lock_file(folder / LOCK_FILE)
    with file:
        if seconds is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            _lock_within(file.fileno(), seconds, folder)
        yield


def _lock_within(descriptor: int, seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise BusyError(
                    "another process changes the records",
                    expected=f"its end within {seconds:g} s",
                    where=folder,
                    next_step="try again when it is done",
                ) from None
            time.sleep(0.05)


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files of killed writers from a folder. Hold its lock. Raises StorageError."""
    for aside in Path(folder).glob(".*.tmp"):
        with _storage_errors(aside):
            aside.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- reading


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


LONGEST_LINE = 64 * 2**20
"""The longest line that is read, in bytes. A longer one is a mistake and would fill the memory."""

_TOO_LONG = "a line of more than 64 MiB"


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is larger than any number that can be stored")
    return number


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice in one object")
    return found


JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_each_key_once)
"""JSON without NaN, Infinity, numbers that would become infinite (``1e400``), or objects with a repeated key."""

DEEPEST = 100
"""How deeply lists and objects may be nested in one row. Writing or showing a deeper row would exhaust the stack."""

TOO_DEEP = f"lists and objects nested more than {DEEPEST} levels deep"


def is_too_deep(value: object) -> bool:
    """Whether lists and objects are nested more than ``DEEPEST`` levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its value or, if it could not be read, the problem and the raw text."""

    line: int
    value: object = None
    problem: str | None = None
    raw: str = ""


def read_rows(path: str | Path) -> Iterator[Row]:
    """The JSON values of a JSONL file (``.gz`` too). A bad line becomes a row with a problem; empty lines are skipped.

    Raises MissingError if there is no such file, DataError if it cannot be unpacked.
    """
    for number, line in _lines(Path(path)):
        if len(line) > LONGEST_LINE:
            yield Row(number, problem=_TOO_LONG, raw=repr(line[:200]))
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield Row(number, problem=f"not UTF-8: {error.reason} at byte {error.start}", raw=repr(line))
            continue
        text = text.strip()
        if not text:
            continue
        yield row_of_text(number, text)


def row_of_text(number: int, text: str) -> Row:
    """A line of JSONL as a row."""
    try:
        value = JSON_DECODER.decode(text)
    except RecursionError:
        return Row(number, problem=TOO_DEEP, raw=text)
    except ValueError as error:
        return Row(number, problem=f"not JSON: {error}", raw=text)
    if text.count("[") + text.count("{") > DEEPEST and is_too_deep(value):
        return Row(number, problem=TOO_DEEP, raw=text)
    return Row(number, value=value)


def bad_character(text: str) -> str | None:
    """What in a text no later file or database could hold, or None."""
    if "\0" in text:
        return "a NUL character (\\u0000) in a text"
    return None if is_encodable(text) else "half of a surrogate pair (\\ud800 to \\udfff) in a text: no character"


def is_encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: str | Path) -> str:
    """A whole text file (``.gz`` too). Raises MissingError; DataError if it cannot be unpacked or is not UTF-8."""
    lines: list[bytes] = []
    for number, line in _lines(Path(path)):
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"line {number} of {Path(path).name} cannot be read",
                expected="lines of less than 64 MiB",
                got=_TOO_LONG,
                where=f"{path}:{number}",
                next_step="write a JSON array as JSONL: one object per line",
            )
        lines.append(line)
    try:
        return b"".join(lines).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{Path(path).name} is not UTF-8 text", expected="UTF-8", got=str(error), where=path) from None


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Each (line number, value) of a JSONL file (``.gz`` too). Raises MissingError; DataError naming file and line."""
    for row in read_rows(path):
        if row.problem is not None:
            raise DataError(
                f"line {row.line} of {Path(path).name} cannot be read",
                expected="one JSON value on one line",
                got=f"{row.problem}: {shown(row.raw)}",
                where=f"{path}:{row.line}",
                next_step="correct or remove the line",
            )
        yield row.line, row.value


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line. Of a line longer than ``LONGEST_LINE``, only the first ``LONGEST_LINE + 1`` bytes."""
    with unpacked(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            yield number, line
            while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE + 1) or b"\n"


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """A file's bytes, unpacked if they are gzip's, whatever the name. Raises MissingError; DataError if it cannot be read."""
    refuse_missing(path)
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield gzip.GzipFile(fileobj=plain) if packed else plain
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path.name} cannot be read",
            expected="a whole text or gzip file",
            got=str(error),
            where=path,
            next_step="fetch or copy the file again",
        ) from error


def refuse_missing(path: Path) -> None:
    """Raise MissingError unless there is a file."""
    if not path.is_file():
        raise MissingError(f"there is no file {path.name}", expected="a file", got=what_is_there(path), where=path)


def what_is_there(path: Path) -> str:
    """What was found at a path that should hold a file or folder, for a message."""
    if path.is_dir():
        return "a folder"
    return "nothing" if path.parent.is_dir() else f"no folder {path.parent}"
