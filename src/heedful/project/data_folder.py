"""A project's ``data/`` folder: one JSONL file for each kind of record, read and checked as one ``Records`` value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from heedful.conversation import Turn, is_lone, turns_of
from heedful.errors import DataError, MissingError
from heedful.project.files import read_jsonl, what_is_there, write_jsonl_files
from heedful.project.structure import from_mapping, nearest, shown
from heedful.records import Demonstration, Phase, Prompt, Ranking, Rating, Response

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


def kind_of(record: Record) -> Kind:
    """The kind's name, as in the ``kind`` field and in the file names."""
    return _KIND_OF[type(record)]


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as a JSON object; fields that are None, empty mappings and the phase training are left out.

    A prompt that is one turn of the user's is written as ``text``, a conversation as ``turns`` (roles and texts).
    """
    values = [(f.name, getattr(record, f.name)) for f in fields(record)]
    if isinstance(record, Prompt):
        lone = is_lone(record.turns) and turns_of(record.text) == record.turns
        said = ("text", record.text) if lone else ("turns", [turn._asdict() for turn in record.turns])
        values = [said if name == "turns" else (name, value) for name, value in values]
    return {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for name, value in values
        if value is not None and not (isinstance(value, Mapping) and not value) and (name, value) != ("phase", "training")
    }


def first_format(record: Record) -> dict[str, Any]:
    """The JSON object that digests are computed from. An older record gives the object that the first record format wrote.

    In that format a conversation was one text, and the phase was in the metadata. A finished stage stays finished only if the
    digests of its records do not change.
    """
    row = record_to_json(record)
    if isinstance(record, Prompt) and turns_of(record.text) == record.turns:
        row = {name: value for name, value in row.items() if name != "turns"} | {"text": record.text}
    elif isinstance(record, Demonstration | Ranking | Rating) and _phase_in(record.metadata) == record.phase:
        row.pop("phase", None)
    return row


def record_from_json(kind: Kind, row: object, *, where: str | Path | None = None) -> Record:
    """The record in a JSON object. Raises DataError for an unknown or missing key, a wrong type or a bad value."""
    article = "an" if kind[0] in "aeiou" else "a"
    if isinstance(row, Mapping):
        row = _in_todays_format(kind, row, where)
    return from_mapping(RECORD_TYPES[kind], row, what=f"{article} {kind}", where=where, error=DataError)


def _in_todays_format(kind: Kind, row: Mapping[str, Any], where: str | Path | None) -> dict[str, Any]:
    """The row in today's format: a prompt's text becomes turns, and the phase comes out of the metadata."""
    row = {key: value for key, value in row.items() if key != "kind"}
    if kind == "prompt" and "turns" not in row:
        row["turns"] = turns_of(_text_of_prompt(row, where))
        del row["text"]
    if kind in ("demonstration", "ranking", "rating") and isinstance(row.get("metadata"), Mapping):
        first = _phase_in(row["metadata"])
        if first != "training" and row.setdefault("phase", first) != first:
            raise DataError(
                f"the {kind} {row.get('id')!r} names two phases",
                expected=f"one phase: a {kind} for {first} never trains a model",
                got=f"{row['phase']!r}, and {first!r} as task in the metadata",
                where=where,
                next_step="remove one of them",
            )
    return row


def _phase_in(metadata: Mapping[str, Any]) -> Phase:
    """The phase in the first format, where ``ranking`` meant training."""
    task = metadata.get("task")
    return task if task in ("evaluation", "screening") else "training"


def turns_in(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a stored prompt's row. The row must be one that ``Records`` has written."""
    return tuple(Turn(**turn) for turn in row["turns"]) if "turns" in row else turns_of(row["text"])


def _text_of_prompt(row: Mapping[str, Any], where: str | Path | None) -> str:
    if "text" not in row:
        meant = next((key for key in row if nearest(key, ("text", "turns"))), None)
        raise DataError(
            "a prompt lacks its text",
            expected="'text', or 'turns' with the role and text of each",
            got=f"the keys {', '.join(map(repr, row))}",
            where=where,
            next_step=f"did you mean {nearest(meant, ('text', 'turns'))!r} by {meant!r}?" if meant else None,
        )
    if not isinstance(row["text"], str):
        raise DataError("'text' of a prompt has the wrong type", expected="str", got=shown(row["text"]), where=where)
    return row["text"]


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
        """Read and check a folder; a missing file counts as empty.

        Raises MissingError if there is no folder, DataError naming file, line and id for a bad row or a broken reference.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingError("there is no data folder", expected="a folder", got=what_is_there(folder), where=folder)
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

        The files are replaced in dependency order. So if records were only added, a crash leaves no record that refers to a
        missing one.
        """
        self.check()
        write_jsonl_files(
            {Path(folder) / file_name(kind): map(record_to_json, self.by_kind(kind).values()) for kind in RECORD_TYPES}
        )

    def check(self) -> None:
        """Raise DataError if a record names a prompt or response that is missing, or that belongs elsewhere."""
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
                    f"the {kind} {id!r} has a broken reference",
                    expected="the ids of a prompt, and of that prompt's own responses, in the same folder",
                    got=problem,
                    where=where(kind, id),
                    next_step=f"add what is missing, correct the id, or remove the {kind}",
                )


def _duplicate(kind: Kind, id: str, where: str, first: str) -> DataError:
    return DataError(
        f"there are two {kind}s with the id {id!r}",
        expected="each id once",
        got=f"{id!r} again{first}",
        where=where or file_name(kind),
        next_step="give one of them another id, or remove it",
    )
