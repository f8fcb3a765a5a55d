"""Read a project's ``runs/`` folder without torch: which stages were done, in which folders, and how far they got."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heedful.project.data_folder import RECORD_TYPES, Kind, Records, file_name, record_from_json
from heedful.project.files import read_jsonl, write_atomically

STAGE_FILE = "stage.json"
ENDED = "ended"
"""The key of a finished stage's ``stage.json`` under which it says when it ended (ISO 8601, UTC)."""


def stage_folders(runs: Path, name: str) -> dict[int, Path]:
    """Number -> folder of all runs of a stage (``runs/<name>-<number>/``)."""
    found: dict[int, Path] = {}
    for folder in runs.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if number.isdigit() and folder.is_dir():
            found[int(number)] = folder
    return found


def stage_state(folder: Path) -> dict[str, Any]:
    """What ``stage.json`` says; empty if it is missing or a kill cut it short."""
    try:
        state = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Rewrite a finished stage's ``stage.json`` but keep its modification time: for older versions it is the end of the run."""
    path = folder / STAGE_FILE
    status = path.stat()
    write_atomically(path, json.dumps(state, indent=2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def ended_at(folder: Path, state: Mapping[str, Any]) -> datetime:
    """When a finished run ended, in UTC. A run of an older version does not say; then it is the time of its ``stage.json``."""
    with suppress(KeyError, TypeError, ValueError):
        return datetime.fromisoformat(state[ENDED])
    return datetime.fromtimestamp((folder / STAGE_FILE).stat().st_mtime, UTC)


def newest_done(runs: Path, name: str) -> Path | None:
    """The folder of a stage's newest run that is done."""
    folders = stage_folders(runs, name)
    return next((folders[n] for n in sorted(folders, reverse=True) if stage_state(folders[n]).get("done")), None)


def last_step(folder: Path) -> int | None:
    """The last step of ``metrics.jsonl``, or None if it has none (a line that a kill cut short does not count)."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def records_in(folder: Path, kind: Kind) -> Iterator[Any]:
    """The records of a kind that a stage wrote into its folder; none if there is no such file. Raises DataError."""
    path = folder / file_name(kind)
    for line, row in read_jsonl(path) if path.is_file() else ():
        yield record_from_json(kind, row, where=f"{path}:{line}")


def with_records(records: Records, folder: Path, kinds: Sequence[Kind]) -> Records:
    """The records together with those that a stage wrote into its folder. Raises DataError."""
    merged = Records(**{f"{kind}s": dict(records.by_kind(kind)) for kind in RECORD_TYPES})
    for kind in kinds:
        for record in records_in(folder, kind):
            merged.by_kind(kind).setdefault(record.id, record)
    merged.check()
    return merged
