"""Records on disk: atomic writes, JSONL, and a project's ``data/`` folder as one checked ``Records`` value.

A file is written aside, flushed to the disk and renamed over the old one, so a crash or a full disk leaves the old file or
the new one, never half of either.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from heedful.conversation import turns_of
from heedful.errors import DataError, MissingError, StorageError
from heedful.project.structure import from_mapping, shown
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response

Kind = Literal["prompt", "response", "demonstration", "ranking", "rating"]
Record = Prompt | Response | Demonstration | Ranking | Rating

RECORD_TYPES: Mapping[Kind, type] = {
    "prompt": Prompt,
    "response": Response,
    "demonstration": Demonstration,
    "ranking": Ranking,
    "rating": Rating,
}
"""Every kind of record in dependency order: a record refers only to kinds before its own."""

_KIND_OF: Mapping[type, Kind] = {cls: kind for kind, cls in RECORD_TYPES.items()}


# ---------------------------------------------------------------------------------------------------- writing


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Put ``content`` at ``path`` or leave ``path`` as it was. Raises StorageError if the disk is full or refuses."""
    data = content.encode() if isinstance(content, str) else content
    _put_in_place([(_write_aside(_real(path), [data]), _real(path))])


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Write one JSON value per line, atomically; compressed where ``path`` ends in ``.gz``. Raises StorageError."""
    _put_in_place([(_write_aside(_real(path), map(_line, rows)), _real(path))])


def append_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Add rows at the end of a JSONL file (not ``.gz``): all of them or, if the disk refuses, none. Raises StorageError.

    A last line that a crash cut in the middle is taken away first; a whole one that only lacks its newline gets it.
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
    """Make the file end with a whole line; its length after that."""
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
    try:
        for aside, path in written:
            with _storage_errors(path):
                os.replace(aside, path)
        for folder in {path.parent for _, path in written}:
            with _storage_errors(folder):
                _sync_folder(folder)
    finally:
        for aside, _ in written:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
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
            next_step="make room or give another folder, then run the same command again; nothing half-written was left",
        ) from error


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Wait for, then hold, the folder's lock: two writers at once would each lose the other's records. Raises StorageError."""
    folder = Path(folder)
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed writers left aside in a folder (its lock must be held). Raises StorageError."""
    for aside in Path(folder).glob(".*.tmp"):
        with _storage_errors(aside):
            aside.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- reading


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""JSON as the standard has it: no NaN, no Infinity."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its value, or the problem that kept it from being read and its raw text."""

    line: int
    value: object = None
    problem: str | None = None
    raw: str = ""


def read_rows(path: str | Path) -> Iterator[Row]:
    """The JSON values of a JSONL file, one per line (``.gz`` too); a bad line is a row with a problem, an empty one is none.

    Raises MissingError if there is no such file, DataError if it cannot be unpacked.
    """
    for number, line in _lines(Path(path)):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield Row(number, problem=f"not UTF-8: {error.reason} at byte {error.start}", raw=repr(line))
            continue
        text = text.strip()
        if not text:
            continue
        try:
            yield Row(number, value=JSON_DECODER.decode(text))
        except (ValueError, RecursionError) as error:
            yield Row(number, problem=f"not JSON: {error}", raw=text)


def read_text(path: str | Path) -> str:
    """A whole text file (``.gz`` too). Raises MissingError; DataError if it cannot be unpacked or is not UTF-8."""
    try:
        return b"".join(line for _, line in _lines(Path(path))).decode("utf-8-sig")
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
                next_step="mend the line or take it out",
            )
        yield row.line, row.value


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise MissingError(f"there is no file {path.name}", expected="a file", got=_what_is_there(path), where=path)
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield from enumerate(gzip.GzipFile(fileobj=plain) if packed else plain, start=1)
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(
            f"{path.name} cannot be read",
            expected="a whole text or gzip file",
            got=str(error),
            where=path,
            next_step="fetch or copy the file again",
        ) from error


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "nothing" if path.parent.is_dir() else f"no folder {path.parent}"


# ---------------------------------------------------------------------------------------------------- records


def kind_of(record: Record) -> Kind:
    """The kind's name, as in the ``kind`` field and in the file names."""
    return _KIND_OF[type(record)]


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as a JSON object; fields that are None, empty mappings and the phase training are left out.

    A prompt that is one turn of the user's is written as ``text``, a conversation as ``turns`` (roles and texts).
    """
    values = [(f.name, getattr(record, f.name)) for f in fields(record)]
    if isinstance(record, Prompt):
        lone = len(record.turns) == 1 and record.turns[0].role == "user"
        said = ("text", record.text) if lone else ("turns", [turn._asdict() for turn in record.turns])
        values = [said if name == "turns" else (name, value) for name, value in values]
    return {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for name, value in values
        if value is not None and not (isinstance(value, Mapping) and not value) and (name, value) != ("phase", "training")
    }


def record_from_json(kind: Kind, row: object, *, where: str | Path | None = None) -> Record:
    """The record that a JSON object says. Raises DataError for an unknown or missing key, a wrong type, a bad value."""
    if isinstance(row, Mapping):
        row = _in_todays_format(kind, row)
    article = "an" if kind[0] in "aeiou" else "a"
    return from_mapping(RECORD_TYPES[kind], row, what=f"{article} {kind}", where=where, error=DataError)


def _in_todays_format(kind: Kind, row: Mapping[str, Any]) -> dict[str, Any]:
    """A text as turns; the phase, which the first format had in the metadata."""
    row = {key: value for key, value in row.items() if key != "kind"}
    if kind == "prompt" and isinstance(row.get("text"), str) and "turns" not in row:
        row["turns"] = turns_of(row.pop("text"))
    if kind in ("ranking", "rating") and "phase" not in row and isinstance(row.get("metadata"), Mapping):
        task = row["metadata"].get("task")
        row |= {"phase": task} if task in ("evaluation", "screening") else {}
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All that a project's ``data/`` folder holds, by id."""

    prompts: dict[str, Prompt] = field(default_factory=dict[str, Prompt])
    responses: dict[str, Response] = field(default_factory=dict[str, Response])
    demonstrations: dict[str, Demonstration] = field(default_factory=dict[str, Demonstration])
    rankings: dict[str, Ranking] = field(default_factory=dict[str, Ranking])
    ratings: dict[str, Rating] = field(default_factory=dict[str, Rating])

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        """Records in any order, by kind and id; references are not checked yet. Raises DataError on a repeated id."""
        result = cls()
        for record in records:
            kind = kind_of(record)
            if record.id in result.by_kind(kind):
                raise _duplicate(kind, record.id, "", "")
            result.by_kind(kind)[record.id] = record
        return result

    @classmethod
    def load(cls, folder: str | Path) -> Records:
        """Read and check a folder; a file that is not there holds nothing.

        Raises MissingError if there is no folder, DataError naming file, line and id for a bad row or a broken reference.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingError("there is no data folder", expected="a folder", got=_what_is_there(folder), where=folder)
        result = cls()
        lines: dict[tuple[Kind, str], int] = {}
        for kind in RECORD_TYPES:
            path, target = folder / file_name(kind), result.by_kind(kind)
            for line, row in read_jsonl(path) if path.exists() else ():
                record = record_from_json(kind, row, where=f"{path}:{line}")
                if record.id in target:
                    raise _duplicate(kind, record.id, f"{path}:{line}", f" (first on line {lines[kind, record.id]})")
                target[record.id] = record
                lines[kind, record.id] = line
        _check(result, lambda kind, id: f"{folder / file_name(kind)}:{lines[kind, id]}")
        return result

    def save(self, folder: str | Path) -> None:
        """Check, then write all five files; a full disk leaves every old file as it was. Raises DataError, StorageError.

        The new files are put in place in dependency order, so that after a crash records refer only to what is there
        (where records were only added).
        """
        self.check()
        written: list[tuple[Path, Path]] = []
        try:
            for kind in RECORD_TYPES:
                path = _real(Path(folder) / file_name(kind))
                rows = (_line(record_to_json(record)) for record in self.by_kind(kind).values())
                written.append((_write_aside(path, rows), path))
            _put_in_place(written)
        finally:
            for aside, _ in written:
                with suppress(OSError):
                    aside.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise DataError if a record names a prompt or response that is not there, or that belongs elsewhere."""
        _check(self, lambda kind, id: file_name(kind))

    def by_kind(self, kind: Kind) -> dict[str, Any]:
        """The dict of one kind."""
        return cast("dict[str, Any]", getattr(self, f"{kind}s"))

    def all(self) -> Iterator[Record]:
        """Every record, in dependency order."""
        for kind in RECORD_TYPES:
            yield from self.by_kind(kind).values()


def file_name(kind: Kind) -> str:
    """The file of a kind in a data folder."""
    return f"{kind}s.jsonl"


def broken_reference(record: Record, prompts: Mapping[str, Prompt], responses: Mapping[str, Response]) -> str | None:
    """What is wrong with the ids that a record names, or None."""
    if isinstance(record, Prompt):
        return None
    if record.prompt_id not in prompts:
        return f"the prompt {record.prompt_id!r}, which is not there"
    named = record.response_ids if isinstance(record, Ranking) else (record.response_id,) if isinstance(record, Rating) else ()
    for response_id in named:
        response = responses.get(response_id)
        if response is None:
            return f"the response {response_id!r}, which is not there"
        if response.prompt_id != record.prompt_id:
            return f"the response {response_id!r}, which belongs to the prompt {response.prompt_id!r}, not {record.prompt_id!r}"
    return None


def _check(records: Records, where: Callable[[Kind, str], str]) -> None:
    for kind in RECORD_TYPES:
        for id, record in records.by_kind(kind).items():
            problem = broken_reference(record, records.prompts, records.responses)
            if problem is not None:
                raise DataError(
                    f"the {kind} {id!r} names what it cannot",
                    expected="the ids of a prompt, and of that prompt's own responses, in the same folder",
                    got=problem,
                    where=where(kind, id),
                    next_step=f"add what is missing, put the id right, or take the {kind} out",
                )


def _duplicate(kind: Kind, id: str, where: str, first: str) -> DataError:
    return DataError(
        f"there are two {kind}s with the id {id!r}",
        expected="each id once",
        got=f"{id!r} again{first}",
        where=where or file_name(kind),
        next_step="give one of them another id, or take it out",
    )
