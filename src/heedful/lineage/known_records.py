"""Every record in a project's files, as rows by id, and the search for the records of one person.

The records are in ``data/``, and in the folders of runs, experiments and sweeps, whether these are finished or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.conversation import Turn
from heedful.labeling.usage.consent import key_in, stored_prompt_id
from heedful.labeling.usage.usage_export import PLAYGROUND
from heedful.project.data_folder import RECORD_TYPES, Kind, file_name
from heedful.project.files import read_jsonl
from heedful.project.owners import composed
from heedful.project.project import Project

_KINDS_BY_FILE: Mapping[str, Kind] = {file_name(kind): kind for kind in RECORD_TYPES}


@dataclass(slots=True)
class KnownRecords:
    """Rows as in the files."""

    by_kind: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in RECORD_TYPES})
    named_by: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Prompt or response -> ids of the records that name it."""
    imported: set[str] = field(default_factory=set[str])
    """Ids of the records in the data folder. The others are only in folders of runs and experiments."""

    def add(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Take in a row; the first row with an id counts."""
        self.by_kind[kind].setdefault(row["id"], row)
        for id in _named(row):
            self.named_by.setdefault(id, set()).add(row["id"])

    def kind_of(self, id: str) -> str | None:
        """The kind of a record, or None if no file holds it."""
        return next((kind for kind, rows in self.by_kind.items() if id in rows), None)

    def find(self, id: str) -> Mapping[str, Any]:
        """A record's row; empty if no file holds it."""
        kind = self.kind_of(id)
        return self.by_kind[kind][id] if kind else {}

    def with_labels(self, ids: Iterable[str]) -> set[str]:
        """The ids of prompts or responses, and of everything that names them."""
        found = set(ids)
        new = list(found)
        while new:
            more = self.named_by.get(new.pop(), set()) - found
            found |= more
            new += more
        return found

    def of_owner(self, owner: str, usage: Collection[str] = ()) -> set[str]:
        """Ids of everything that is an owner's: the prompts, feedback in the playground, and all that names these.

        usage: keys of the owner's turns and requests, if the labeling database knows any. Feedback may be about another
        owner's prompt, because an import merges prompts that are the same word for word.
        """
        wanted = composed(owner)
        found = {id for id, row in self.by_kind["prompt"].items() if composed(str(row.get("user", ""))) == wanted}
        for kind, rows in self.by_kind.items():
            if kind != "prompt":
                found |= {id for id, row in rows.items() if is_feedback(row) and composed(str(row.get("labeler"))) == wanted}
        return self.with_labels(found) | {id for ids in self.by_usage(usage).values() for id in ids}

    def by_usage(self, keys: Collection[str]) -> dict[str, set[str]]:
        """Key of a turn or request -> ids of everything that came from it, and of all that names these."""
        found = {key: {stored_prompt_id(key)} for key in keys}
        for rows in self.by_kind.values() if found else ():
            for id, row in rows.items():
                for key in _keys(row):
                    if key in found:
                        found[key].add(id)
        return {key: {id for id in self.with_labels(ids) if self.kind_of(id)} for key, ids in found.items()}


def is_feedback(row: Mapping[str, Any]) -> bool:
    """Whether a label is an edit or a vote in the playground, and so its owner's own words."""
    return row.get("metadata", {}).get("source") == PLAYGROUND


def _keys(row: Mapping[str, Any]) -> list[str]:
    """Keys of the turns and requests that a record came from."""
    return [key for key in (row.get("metadata", {}).get("usage"), key_in(row["id"])) if isinstance(key, str)]


def _named(row: Mapping[str, Any]) -> list[str]:
    """Ids of the prompt and the responses that a record names."""
    several = row.get("response_ids")
    named = [row.get("prompt_id"), row.get("response_id"), *(several if isinstance(several, list) else [])]
    return [id for id in named if isinstance(id, str)]


def known_records(project: Project) -> KnownRecords:
    """The records in a project's files; those in the data folder come first. Raises DataError if it has a broken file.

    Elsewhere a kill may have cut a line short, and a file of the user's own may have the same name: such rows are passed over.
    """
    known = _in_data(project.data, lambda row: True)
    for kind, path in files_of_records(project.folder):
        if path.parent != project.data:
            for row in rows_in(path):
                if _is_record(kind, row):
                    known.add(kind, row)
    return known


def records_of_usage(data: Path, keys: Collection[str], ids: Collection[str] = ()) -> KnownRecords:
    """Of a data folder, only the records that ``by_usage`` finds for these keys, and those with these ids or that name them.

    The other records are read, but not kept in memory. Raises DataError for a broken file.
    """
    wanted, found = set(keys), {*map(stored_prompt_id, keys), *ids}

    def is_wanted(row: Mapping[str, Any]) -> bool:
        if row["id"] not in found and found.isdisjoint(_named(row)) and wanted.isdisjoint(_keys(row)):
            return False
        found.add(row["id"])  # those that name it come later
        return True

    return _in_data(data, is_wanted)


def _in_data(data: Path, keep: Callable[[Mapping[str, Any]], bool]) -> KnownRecords:
    known = KnownRecords()
    for kind in RECORD_TYPES:
        path = data / file_name(kind)
        for _, row in read_jsonl(path) if path.is_file() else ():
            if _is_record(kind, row) and keep(row):
                known.add(kind, row)
    known.imported.update(*known.by_kind.values())
    return known


def files_of_records(folder: Path) -> Iterator[tuple[Kind, Path]]:
    """Kind and path of every file of records in a folder and the folders below it."""
    for path in sorted(folder.rglob("*s.jsonl")):
        if path.name in _KINDS_BY_FILE and path.is_file():
            yield _KINDS_BY_FILE[path.name], path


def rows_in(path: Path) -> Iterator[Any]:
    """The values of a JSONL file's lines, without the lines that are not JSON."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _is_record(kind: Kind, row: Any) -> bool:
    """Whether a row is a record as Heedful stores it."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("metadata", {}), dict):
        return False
    if kind != "prompt":
        return isinstance(row.get("prompt_id"), str)
    turns = row.get("turns", [])
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and set(turn) == set(Turn._fields) for turn in turns):
        return False
    return all(isinstance(text, str) for text in ([turn["text"] for turn in turns] if "turns" in row else [row.get("text")]))
