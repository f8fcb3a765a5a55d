"""Erase a person's traces from a whole project. Forgetting an owner and withdrawals both work this way.

Ids and texts are needed to find more of them. So whatever else holds them comes first, then the records in ``data/``: labels
before what they name, and prompts last. After each rename the folder is consistent: no record refers to an erased one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.labeling.database import erasing
from heedful.labeling.database.connection import Database
from heedful.project.data_folder import RECORD_TYPES, Kind, file_name
from heedful.project.files import read_jsonl, remove_leftovers, write_jsonl
from heedful.project.importing import REJECTED
from heedful.project.owners import FORGOTTEN, OWNERS
from heedful.project.project import Project
from heedful.prompts.erasing_files import Wanted, erase_in_files, is_wanted
from heedful.prompts.traces import Traces

LABELS_FIRST: tuple[Kind, ...] = tuple(reversed(list(RECORD_TYPES)))
"""Records that refer to others come before those they refer to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedElsewhere:
    """What was erased outside the records."""

    cleaned: Mapping[Path, int]
    """Files that the text was erased from -> rows or places."""
    left: tuple[Path, ...]
    """Files that hold the text, or may hold it, and were not changed: files that cannot be searched, and backups of the
    labeling database that could not be opened."""
    in_database: Mapping[str, int]
    in_copies: Mapping[str, int]


def erase_elsewhere(
    project: Project,
    traces: Traces,
    wanted: Wanted,
    *,
    database: Database | None,
    in_database: Callable[[Database], Mapping[str, int]],
) -> ErasedElsewhere:
    """Erase from everything but the records: files, tasks, rejected rows, the labeling database and its copies.

    in_database: erases from the labeling database, and then from each copy of it. The database still has to be rewritten
    (``erasing.leave_no_bytes``). Hold the locks of runs and data. Raises StorageError; call it again.
    """
    data = project.data
    remove_leftovers(data)
    others = erase_in_files(project.folder, wanted, untouched=_own_files(project))
    for file in task_files(project):
        rewrite(file, lambda row: not in_task(row, traces, wanted))
    rewrite(data / REJECTED, lambda row: not in_rejected(row, wanted))
    erased = {} if database is None else in_database(database)
    in_copies, left = erasing.erase_in_copies(project.folder, database, in_database)
    return ErasedElsewhere(
        cleaned=others.cleaned, left=tuple(sorted({*others.left, *left})), in_database=erased, in_copies=in_copies
    )


def erase_records(project: Project, traces: Traces) -> None:
    """Erase from the records in ``data/``. Hold its lock. Raises StorageError; call it again."""
    for kind in LABELS_FIRST:
        rewrite(project.data / file_name(kind), lambda row: not traces.in_record(row))


def num_records(project: Project, traces: Traces) -> Counter[str]:
    """How many records of each kind will be erased. Raises DataError for a broken file, before anything is changed."""
    counts: Counter[str] = Counter()
    for kind in RECORD_TYPES:
        counts[f"{kind}s"] = sum(map(traces.in_record, read_rows(project.data / file_name(kind))))
    return counts


def in_task(row: Any, traces: Traces, wanted: Wanted) -> bool:
    """Whether a task is about one of the records."""
    return traces.in_record(row) or (isinstance(row, Mapping) and is_wanted(row, wanted))


def in_rejected(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a rejected row is the owner's, holds any of the text, or is left out as the duplicate of an erased prompt."""
    reason = str(row.get("reason", "")).replace(":", " ").split()
    return is_wanted(row, wanted) or any(word in wanted.ids for word in reason if word.startswith("prompt-"))


def task_files(project: Project) -> list[Path]:
    """The files of tasks for labelers."""
    return sorted(project.tasks.glob("*.jsonl")) if project.tasks.is_dir() else []


def _own_files(project: Project) -> list[Path]:
    """Files that are erased row by row, each in its own way."""
    data = project.data
    own = [data / REJECTED, data / FORGOTTEN, data / OWNERS, *(data / file_name(kind) for kind in RECORD_TYPES)]
    return [*own, *task_files(project), project.folder / "backups"]


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file, none if there is no such file. Raises DataError for a row that is not an object."""
    for line, row in read_jsonl(path) if path.exists() else ():
        if not isinstance(row, dict):
            raise DataError("a row is not an object", expected="a JSON object", got=type(row).__name__, where=f"{path}:{line}")
        yield row


def rewrite(path: Path, keep: Callable[[Any], bool]) -> None:
    """Rewrite the file without the rows to erase, if it has any."""
    if not all(map(keep, read_rows(path))):
        write_jsonl(path, filter(keep, read_rows(path)))
