"""Erase from a project what users took back or deleted, in the playground or by the public API.

The labeling database lists what was withdrawn (``heedful.labeling.usage.consent``). Erasing it has two steps:

1. :func:`take_out`, at once: the records in ``data/``, tasks and ``labels.jsonl``, so that nothing that begins from now on
   learns from it. The ids and texts that the next step has to look for are noted in the database first.
2. :func:`apply_withdrawals`, as soon as no training runs: everything else, as forgetting an owner does it
   (``heedful.prompts.erasing_project``); the database and its backups; and then the note itself.

A kill at any moment loses nothing: whoever calls next finishes it. A trained model cannot be untrained, so the runs that held
the text or may have learned from it are listed for those who took it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from heedful.errors import BusyError
from heedful.labeling.database import erasing
from heedful.labeling.database.connection import Database
from heedful.labeling.database.usage_tables import TRACES
from heedful.labeling.usage import consent
from heedful.labeling.usage.consent import Pending
from heedful.lineage.known_records import KnownRecords, known_records, records_of_usage
from heedful.lineage.run_graph import every_run
from heedful.project.files import locked
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.prompts.erasing_project import erase_elsewhere, erase_records, rewrite, task_files
from heedful.prompts.traces import Traces, runs_that_used, traces_from_json, traces_in, wanted_in

LABELS_FILE = "labels.jsonl"
"""What ``heedful store export`` wrote last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOut:
    """What :func:`take_out` did."""

    number: int
    """How many turns and requests are withdrawn and not yet erased everywhere."""
    erased: Mapping[str, int]
    """Records by kind that this call erased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalReport:
    """What :func:`apply_withdrawals` did."""

    number: int
    """How many turns and requests were withdrawn since the last time."""
    erased: Mapping[str, int]
    """Records by kind."""
    runs: tuple[Path, ...]
    """Runs that held the text, or that may have learned from it."""
    left: tuple[Path, ...]
    """Files that may hold it and could not be searched."""
    waits: bool
    """Whether a training runs in the project, so that only :func:`take_out` was done."""

    def lines(self) -> list[str]:
        """What was done, in a few lines for people; none if there was nothing to do."""
        counts = ", ".join(f"{count:,} {kind}" for kind, count in self.erased.items() if count)
        said = [f"erased, because users withdrew consent: {counts}"] if counts else []
        if self.waits:
            said.append("what runs, reports and backups hold of withdrawn text is erased when the training that runs has ended")
        if self.runs:
            said.append(f"runs that may have learned from withdrawn text: {', '.join(run.name for run in self.runs)}")
        return said + [f"this file may hold withdrawn text and cannot be searched: {file}" for file in self.left]


def take_out(database: Database, project: Project, *, seconds: float | None = None) -> TakenOut:
    """Erase from records, tasks and labels what was withdrawn and is still in them. It reads no run, so it is quick.

    seconds: how long to wait for another process that changes the records; None: as long as it takes.
    Raises DataError for a broken data folder (nothing was changed), StorageError for a full disk and BusyError if the time is
    over (call it again).
    """
    if not _pending(database):
        return TakenOut(number=0, erased={})
    with locked(project.data, seconds=seconds):
        pending = _pending(database)
        unfinished = _unfinished(pending)
        noted = {id for one in unfinished.values() for id in one.report.get(TRACES, {}).get("ids", [])}
        known = records_of_usage(project.data, unfinished.keys(), noted)
        found = _traces(known, unfinished)
        erased: Counter[str] = Counter()
        changes: dict[str, dict[str, Any]] = {}
        for key, traces in found.items():
            if traces.ids & known.imported:
                erased += _counted(known, traces.ids)
                report = unfinished[key].report
                before = set(report.get(TRACES, {}).get("ids", []))  # of a call that was killed
                counts = Counter(report.get("erased", {})) + _counted(known, traces.ids - before)
                changes[key] = {"erased": dict(counts), TRACES: traces.to_json()}  # needed to find them elsewhere
        with database.write() as connection:
            consent.note(connection, changes)
        traces = _together(found)
        for file in (*task_files(project), project.folder / LABELS_FILE):
            rewrite(file, lambda row: not (traces.in_record(row) or _usage(row) in unfinished))
        erase_records(project, traces)
    return TakenOut(number=len(pending), erased=dict(erased))


def _counted(known: KnownRecords, ids: Set[str]) -> Counter[str]:
    """Records by kind."""
    return +Counter({f"{kind}s": len(ids & rows.keys()) for kind, rows in known.by_kind.items()})


def apply_withdrawals(database: Database, project: Project, *, alone: bool = False) -> WithdrawalReport:
    """Erase from a project and its database all that was withdrawn. If it is killed half-way, call it again.

    alone: whether the caller holds the lock of the project's runs. If not, and a training runs, ``waits`` is true: the next
    call after it does the rest.
    Raises DataError for a broken data folder, StorageError for a full disk or if another process keeps reading an older state
    of the database (call it again).
    """
    taken = take_out(database, project)
    nothing = WithdrawalReport(number=taken.number, erased=taken.erased, runs=(), left=(), waits=taken.number > 0)
    if not taken.number:
        return nothing
    with ExitStack() as stack:
        if not alone:
            try:
                stack.enter_context(alone_in(project.runs))
            except BusyError:
                return nothing
        with locked(project.data):
            pending = _pending(database)
            if unfinished := _unfinished(pending):
                _erase_everywhere(database, project, unfinished)
            now = _pending(database)
        done = {key: replace(one, report=now[key].report) for key, one in pending.items() if key in now}
        if done:
            _finish(database, done)
    runs = dict.fromkeys(project.folder / run for one in done.values() for run in one.report.get("runs", []))
    left = dict.fromkeys(project.folder / file for one in done.values() for file in one.report.get("left", []))
    return WithdrawalReport(number=len(pending), erased=taken.erased, runs=tuple(runs), left=tuple(left), waits=False)


def apply_without_project(database: Database, folder: Path | None) -> None:
    """The same for a database that belongs to no project; ``folder`` has its ``backups/``, if any. Raises StorageError."""
    pending = _pending(database)
    if not pending:
        return
    with database.read() as connection:
        withdrawals = consent.to_repeat(connection, list(pending))
    consent.repeat_in(database, withdrawals)
    if folder is not None:
        erasing.erase_in_copies(folder, database, partial(consent.repeat_in, withdrawals=withdrawals))
    _finish(database, pending)


def _finish(database: Database, pending: Mapping[str, Pending]) -> None:
    """Erase unused bytes of the database, then note that all is done. Raises StorageError."""
    erasing.leave_no_bytes(database)
    with database.write() as connection:
        consent.applied(connection, pending)


def _erase_everywhere(database: Database, project: Project, pending: Mapping[str, Pending]) -> None:
    """Everything but unused bytes of the database. Hold the locks of runs and data."""
    known = known_records(project)
    found = _traces(known, pending)
    traces = _together(found)
    wanted = wanted_in(known, traces)
    used = runs_that_used(project, known, every_run(project), wanted, found)
    changes: dict[str, dict[str, Any]] = {}
    for key, one in pending.items():
        names = [run.folder.relative_to(project.folder).as_posix() for run in used[key]]
        changes[key] = {"runs": list(dict.fromkeys([*one.report.get("runs", []), *names]))}
    with database.write() as connection:  # once the text is erased, nothing tells which runs held it
        consent.note(connection, changes)
        withdrawals = consent.to_repeat(connection, list(pending))
    elsewhere = erase_elsewhere(
        project, traces, wanted, database=database, in_database=partial(consent.repeat_in, withdrawals=withdrawals)
    )
    erase_records(project, traces)
    with database.write() as connection:
        left = [path.relative_to(project.folder).as_posix() for path in elsewhere.left]
        consent.note_erased(connection, pending, left)


def _traces(known: KnownRecords, pending: Mapping[str, Pending]) -> dict[str, Traces]:
    """The traces of each withdrawal: what the files have of it now, and what was noted before."""
    by_usage = known.by_usage(pending.keys())
    found: dict[str, Traces] = {}
    for key, one in pending.items():
        prompt = consent.stored_prompt_id(key)
        traces = traces_in(known, by_usage[key])
        traces.ids |= {key, prompt}
        traces.prompts.add(prompt)
        if TRACES in one.report:
            noted = traces_from_json(one.report[TRACES])
            # Whatever is in the data folder by now belongs to another person: equal words get equal ids.
            others = known.imported - traces.ids
            noted.ids -= others
            noted.prompts -= others
            traces.add(noted)
        found[key] = traces
    return found


def _together(found: Mapping[str, Traces]) -> Traces:
    traces = Traces()
    for one in found.values():
        traces.add(one)
    return traces


def _usage(row: Any) -> Any:
    """The turn or request that a row of ``labels.jsonl`` came from."""
    metadata = row.get("metadata")
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    return usage if isinstance(usage, str) else None


def _pending(database: Database) -> dict[str, Pending]:
    with database.read() as connection:
        return consent.pending(connection)


def _unfinished(pending: Mapping[str, Pending]) -> dict[str, Pending]:
    return {key: one for key, one in pending.items() if not one.needs_rewrite_only}
