"""Every record in a project's data and runs, as rows by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.lineage.run_graph import RunNode, record_files
from heedful.project.data_folder import RECORD_TYPES, file_name
from heedful.project.files import read_jsonl
from heedful.project.owners import composed


@dataclass(slots=True)
class KnownRecords:
    """Rows as in the files."""

    by_kind: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in RECORD_TYPES})
    labels_of: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Prompt -> ids of the labels and responses that name it."""

    def kind_of(self, id: str) -> str | None:
        """The kind of a record, or None if no file holds it."""
        return next((kind for kind, rows in self.by_kind.items() if id in rows), None)

    def find(self, id: str) -> Mapping[str, Any]:
        """A record's row; empty if no file holds it."""
        kind = self.kind_of(id)
        return self.by_kind[kind][id] if kind else {}

    def with_labels(self, prompt_ids: Iterable[str]) -> set[str]:
        """The ids of prompts and of everything that names them."""
        return {found for id in prompt_ids for found in (id, *self.labels_of.get(id, ()))}

    def prompts_of_owner(self, owner: str) -> set[str]:
        """Ids of an owner's prompts."""
        wanted = composed(owner)
        return {id for id, row in self.by_kind["prompt"].items() if composed(str(row.get("user", ""))) == wanted}

    def rankings_with(self, response_id: str) -> set[str]:
        """Ids of the rankings that contain a response."""
        return {id for id, row in self.by_kind["ranking"].items() if response_id in row.get("response_ids", ())}

    def of_usage(self, key: str) -> set[str]:
        """Ids of the records that came from one turn of the playground or one request of the API."""
        return {id for rows in self.by_kind.values() for id, row in rows.items() if row.get("metadata", {}).get("usage") == key}


def known_records(data: Path, runs: Mapping[str, RunNode]) -> KnownRecords:
    """The records of a data folder and of runs. Raises DataError for a broken file."""
    known = KnownRecords()
    files = [(kind, path) for kind in RECORD_TYPES if (path := data / file_name(kind)).is_file()]
    for run in runs.values():
        files += record_files(run)
    for kind, path in files:
        for _, row in read_jsonl(path):
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                known.by_kind[kind].setdefault(row["id"], row)
                if kind != "prompt" and "prompt_id" in row:
                    known.labels_of.setdefault(row["prompt_id"], set()).add(row["id"])
    return known
