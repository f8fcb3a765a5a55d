"""``used.json`` in a run's folder: what a stage was given, written when it begins.

It names the code, the runs and files that the stage builds on, and the ids of the records that it was given. It is not part of
the stage's fingerprint. Runs of older versions do not have it; for them, :mod:`heedful.lineage.run_graph` reads ``stage.json``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import heedful
from heedful import __version__
from heedful.errors import DataError
from heedful.project.files import write_atomically
from heedful.project.structure import from_mapping
from heedful.records import Demonstration, Prompt, Ranking, Rating

USED = "used.json"
_SOURCES = (".py", ".cpp", ".h", ".jinja")
_KIND_OF_TASK: Mapping[type, str] = {Demonstration: "demonstrate", Ranking: "rank", Rating: "rate"}
UNKNOWN_VERSION = "unknown"
"""The version of the instructions for labels that name none: labels from files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseRecord:
    """What one stage was given."""

    heedful: str
    """Version of Heedful."""
    sources: str
    """A digest of the package's source files."""
    commit: str | None = None
    """The commit of the source files, if they are in a git checkout; with "-dirty" if they were changed."""
    parents: dict[str, str] = field(default_factory=dict[str, str])
    """Role of an earlier run -> the run's folder name."""
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """A model or text of the project -> its path and a digest of its files."""
    template: str = "plain"
    """plain, chat, or a digest of the template's text."""
    asks: str | None = None
    """What the stage asks labelers for, if anything."""
    makes: str | None = None
    """The name that its model has in the evaluation."""
    records: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Kind of record -> ids."""
    labelers: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Labeler's pseudonym -> labels of each kind."""
    instructions: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Kind of task -> version of the instructions -> labels."""


def labels_given(labels: Iterable[Demonstration | Ranking]) -> dict[str, Any]:
    """The fields of a :class:`UseRecord` about labels: who gave them, and under which instructions."""
    labelers: dict[str, Counter[str]] = {}
    instructions: dict[str, Counter[str]] = {}
    for label in labels:
        kind = _KIND_OF_TASK[type(label)]
        labelers.setdefault(label.labeler, Counter())[kind] += 1
        instructions.setdefault(kind, Counter())[str(label.metadata.get("instruction_version") or UNKNOWN_VERSION)] += 1
    return {
        "labelers": {name: dict(sorted(labelers[name].items())) for name in sorted(labelers)},
        "instructions": {kind: dict(sorted(instructions[kind].items())) for kind in sorted(instructions)},
    }


def ids_given(prompts: Iterable[Prompt], labels: Iterable[Demonstration | Ranking]) -> dict[str, list[str]]:
    """The field ``records``: the prompts, the labels, and the labels' own prompts; each id once, in order."""
    prompt_ids = dict.fromkeys(prompt.id for prompt in prompts)
    found: dict[str, dict[str, None]] = {"prompts": prompt_ids, "demonstrations": {}, "rankings": {}}
    for label in labels:
        found["prompts"][label.prompt_id] = None
        found["demonstrations" if isinstance(label, Demonstration) else "rankings"][label.id] = None
    return {kind: list(ids) for kind, ids in found.items() if ids}


def write_use(folder: Path, use: UseRecord) -> None:
    """Write ``used.json``. Raises StorageError."""
    value = {name: getattr(use, name) for name in UseRecord.__dataclass_fields__}
    write_atomically(folder / USED, json.dumps(value, ensure_ascii=False) + "\n")


def read_use(folder: Path) -> UseRecord | None:
    """What ``used.json`` says, or None for a run of an older version. Raises DataError for a damaged file."""
    path = folder / USED
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            "the record of what a run used cannot be read",
            expected="a JSON object",
            got=str(error),
            where=path,
            next_step="restore the file from a copy, or remove it: the run then counts as one of an older version",
        ) from None
    return from_mapping(UseRecord, value, what=USED, where=path, error=DataError)


@functools.cache
def code_version() -> tuple[str, str, str | None]:
    """Version, digest of the package's source files, and the commit if they are in a git checkout."""
    package = Path(heedful.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(path for path in package.rglob("*") if path.suffix in _SOURCES):
        digest.update(file.relative_to(package).as_posix().encode())
        digest.update(file.read_bytes())
    return __version__, digest.hexdigest()[:16], _commit(package)


def _commit(package: Path) -> str | None:
    """The commit of a checkout that tracks the package; None for an installed package."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
