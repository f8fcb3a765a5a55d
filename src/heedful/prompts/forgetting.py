"""``heedful prompts forget OWNER``: erase an owner's text from a project for good, and list its other traces.

It erases the owner's prompts; all responses, demonstrations, rankings and ratings of them; tasks that show them; rejected rows
that are the owner's or hold any of the texts; and temporary files of killed writers. A tombstone remains
(``heedful.project.owners``). It also erases the text from runs, samples, reports and exports in the project, and from the
labeling database and its backups (``heedful.prompts.erasing_project``). Models that may have learned from it are listed; with
``retrain`` the next ``heedful align`` makes new ones.

You may kill it at any moment and run it again. The tombstone is written first, so nothing comes back in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heedful.conversation import plain_text
from heedful.errors import MissingError
from heedful.labeling.database import erasing
from heedful.labeling.database.connection import Database
from heedful.lineage.known_records import KnownRecords, known_records
from heedful.lineage.retraining import mark_to_retrain, to_do_again
from heedful.lineage.run_graph import MODEL, every_run, runs_of
from heedful.project.data_folder import file_name, turns_in
from heedful.project.files import locked
from heedful.project.formats.rows import content_id
from heedful.project.importing import REJECTED
from heedful.project.lock import alone_in
from heedful.project.owners import (
    OwnerKey,
    composed,
    owner_key,
    read_tombstones,
    spellings,
    split_name,
    write_tombstones,
)
from heedful.project.project import Project
from heedful.prompts.erasing_project import (
    erase_elsewhere,
    erase_records,
    in_rejected,
    in_task,
    num_records,
    read_rows,
    task_files,
)
from heedful.prompts.traces import Traces, UsedRun, runs_that_used, traces_in, wanted_in


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetReport:
    """What was erased, and what the user still has to look at."""

    time: str
    """When the owner was first forgotten (ISO 8601, UTC)."""
    erased: Mapping[str, int]
    """How many records of each kind, tasks and rejected rows this call erased."""
    runs: tuple[UsedRun, ...]
    cleaned: Mapping[Path, int]
    """Other files that the text was erased from -> rows or places."""
    files: tuple[Path, ...]
    """Files that hold the text, or may hold it, and were not changed: files that cannot be searched, and backups of the
    labeling database that could not be opened."""
    models: tuple[Path, ...]
    """Folders of models that may have learned from the text: it cannot be erased from their weights."""
    to_retrain: tuple[str, ...]
    """Runs that must be done again to get models without it."""
    marked: bool
    """Whether the next ``heedful align`` does them again."""
    similar: tuple[str, ...]
    """Owners whose ids differ only in case or the like, and whose prompts are still there."""


def forget_owner(project: Project, owner: str, *, database: Database | None = None, retrain: bool = False) -> ForgetReport:
    """Erase everything of one owner from a project's files, and from its labeling database if it has one.

    retrain: the next ``heedful align`` repeats what was trained on the owner's records, or on a model that was.
    Raises MissingError if there is no such owner (and none was forgotten), DataError for a broken data folder (nothing was
    changed), BusyError while `heedful align` runs, StorageError for a full disk (run it again).
    """
    data = project.data
    if not data.is_dir():
        raise MissingError("there is no data folder", expected="a project with prompts", got="nothing", where=data)
    with alone_in(project.runs), locked(data):
        key = owner_key(data)
        tombstones = read_tombstones(data)
        hashes = [key.hashed(form) for form in spellings(owner)]
        owner = composed(owner)
        before = next((tombstones[hashed] for hashed in hashes if hashed in tombstones), None)
        known = known_records(project)
        stored = None if database is None else erasing.traces_of_owner(database, owner)
        traces = _traces(known, owner, frozenset(hashes), stored)
        wanted = wanted_in(known, traces)
        erased = num_records(project, traces)
        erased["tasks"] = sum(in_task(row, traces, wanted) for file in task_files(project) for row in read_rows(file))
        erased["rejected rows"] = sum(in_rejected(row, wanted) for row in read_rows(data / REJECTED))
        erased = +erased
        similar = _similar(known, owner)
        if before is None and not erased and not traces.prompts and not (stored and stored.there):
            raise _unknown(data, owner, similar)
        every = every_run(project)
        runs = {run.folder: run for run in _known_runs(project, before)}
        if traces.ids:
            for run in runs_that_used(project, known, every, wanted, {owner: traces})[owner]:
                held = runs[run.folder].holds_text if run.folder in runs else False
                runs[run.folder] = UsedRun(folder=run.folder, holds_text=run.holds_text or held)
        tombstone = _tombstone(key, owner, _all_ids(known, traces), erased, before)
        tombstone["runs"] = [
            {"folder": str(run.folder.relative_to(project.folder)), "holds_text": run.holds_text} for run in runs.values()
        ]
        write_tombstones(data, {**tombstones, tombstone["owner"]: tombstone})
        graph = runs_of(project.runs)
        again = to_do_again(graph, {folder.name for folder in runs if folder.parent == project.runs})
        if retrain:
            mark_to_retrain(graph, again)
        elsewhere = erase_elsewhere(
            project, traces, wanted, database=database, in_database=lambda one: erasing.forget_owner(one, owner)
        )
        if database is not None:
            erasing.leave_no_bytes(database)
        erase_records(project, traces)
    counts = {
        **erased,
        **{f"{name} (labeling database)": count for name, count in elsewhere.in_database.items()},
        **{f"{name} (its backups)": count for name, count in elsewhere.in_copies.items()},
    }
    return ForgetReport(
        time=tombstone["time"],
        erased=counts,
        runs=tuple(runs.values()),
        cleaned=elsewhere.cleaned,
        files=elsewhere.left,
        models=tuple(graph[name].folder / MODEL for name in again if graph[name].has_model),
        to_retrain=tuple(again),
        marked=retrain,
        similar=similar,
    )


def _unknown(data: Path, owner: str, similar: tuple[str, ...]) -> MissingError:
    return MissingError(
        "this owner has no data here",
        expected="the id of an owner (the field user in prompts.jsonl)",
        got=repr(owner),
        where=data / file_name("prompt"),
        next_step=f"did you mean {similar[0]!r}?" if similar else "check the id: every letter must match",
    )


def _traces(known: KnownRecords, owner: str, hashes: frozenset[str], stored: erasing.OwnersTraces | None) -> Traces:
    """What identifies the owner's records and texts, in the project's files and in the labeling database."""
    ids = stored.ids if stored else frozenset[str]()
    traces = traces_in(known, known.of_owner(owner, ids) | known.with_labels(ids))
    traces.prompts |= ids
    if stored:
        traces.written |= stored.written
        traces.answers |= stored.answers
    traces.owner, traces.hashes = owner, hashes
    return traces


def _similar(known: KnownRecords, owner: str) -> tuple[str, ...]:
    """Other owners' ids that differ only in case or the like."""
    users = dict.fromkeys(str(row["user"]) for row in known.by_kind["prompt"].values() if row.get("user") is not None)
    return tuple(user for user in users if composed(user) != owner and split_name(user) == split_name(owner))


def _all_ids(known: KnownRecords, traces: Traces) -> set[str]:
    """The ids of prompts, and those that another import of their texts would give them."""
    rows = (known.by_kind["prompt"][id] for id in traces.prompts if id in known.by_kind["prompt"])
    return traces.prompts | {content_id("prompt", plain_text(turns_in(row))) for row in rows}


def _tombstone(
    key: OwnerKey, owner: str, prompts: set[str], erased: Mapping[str, int], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """If this finishes an earlier, interrupted call, that call's time and counts stay."""
    begun = before or {"time": datetime.now(UTC).isoformat(timespec="seconds"), "erased": dict(erased), "prompts": []}
    hashed = sorted({*begun["prompts"], *map(key.hashed, prompts)})
    return {"owner": key.hashed(owner), "time": begun["time"], "erased": begun["erased"], "prompts": hashed}


def _known_runs(project: Project, before: Mapping[str, Any] | None) -> tuple[UsedRun, ...]:
    """The runs that a tombstone lists and that still exist."""
    listed = before["runs"] if before else []
    runs = (UsedRun(folder=project.folder / row["folder"], holds_text=row["holds_text"]) for row in listed)
    return tuple(run for run in runs if run.folder.is_dir())
