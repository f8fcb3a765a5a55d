"""Erase from a project's records what users withdrew in the playground or from the public API.

The labeling database lists what was withdrawn (``heedful.labeling.usage.consent``). The prompts that came from it are erased,
with all responses, demonstrations, rankings and ratings of them, tasks that show them, and their rows in ``labels.jsonl``. A
trained model cannot be untrained, so the runs that hold the prompts or may have learned from them are listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from heedful.labeling.database.connection import Database
from heedful.labeling.usage import consent
from heedful.project.data_folder import RECORD_TYPES, file_name, turns_in
from heedful.project.files import locked
from heedful.project.project import Project
from heedful.prompts.forgetting import LABELS_FIRST, Traces, read_rows, rewrite, runs_that_used, task_files, time_of

LABELS_FILE = "labels.jsonl"
"""What ``heedful store export`` wrote last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalReport:
    """What was done about withdrawals."""

    number: int
    """How many turns and requests were withdrawn since the last time."""
    erased: Mapping[str, int]
    """Records by kind."""
    runs: tuple[Path, ...]
    """Runs that hold the text, or that may have learned from it."""


def apply_withdrawals(database: Database, project: Project) -> WithdrawalReport:
    """Erase from a project's records what was withdrawn and is still in them. If it is killed half-way, run it again.

    Raises DataError for a broken data folder (nothing was changed), StorageError for a full disk (run it again).
    """
    with database.read() as connection:
        keys = set(consent.pending(connection))
    if not keys:
        return WithdrawalReport(number=0, erased={}, runs=())
    with locked(project.data):
        ids, traces = _traces(project.data, keys)
        of_prompt: dict[str, Counter[str]] = {key: Counter() for key in keys}
        for kind in RECORD_TYPES:
            for row in read_rows(project.data / file_name(kind)):
                key = ids.get(row.get("id" if kind == "prompt" else "prompt_id"))
                if key is not None:
                    of_prompt[key][f"{kind}s"] += 1
        runs = [str(run.folder.relative_to(project.folder)) for run in runs_that_used(project, traces)] if ids else []
        for file in task_files(project):
            rewrite(file, lambda row: not traces.in_task(row))
        rewrite(project.folder / LABELS_FILE, lambda row: not _is_of(row, ids))
        for kind in LABELS_FIRST:
            rewrite(project.data / file_name(kind), traces.others(kind))
        there = set(ids.values())
        reports = {key: {"erased": dict(of_prompt[key]), "runs": runs if key in there else []} for key in keys}
        with database.write() as connection:
            consent.applied(connection, reports)
    erased = sum(of_prompt.values(), Counter[str]())
    return WithdrawalReport(number=len(keys), erased=dict(erased), runs=tuple(project.folder / run for run in runs))


def _traces(data: Path, keys: set[str]) -> tuple[dict[str, str], Traces]:
    """The ids of withdrawn prompts, each with the key of its withdrawal, and what identifies their texts."""
    ids = {consent.stored_prompt_id(key): key for key in keys}
    traces = Traces("", set())
    times: list[datetime | None] = []
    there: set[str] = set()
    for row in read_rows(data / file_name("prompt")):
        key = row.get("metadata", {}).get("usage")
        if key in keys:
            ids[row["id"]] = key
        if row["id"] in ids:
            there.add(row["id"])
            traces.texts |= {turn.text.strip() for turn in turns_in(row) if turn.role != "assistant"}
            times.append(time_of(row.get("metadata", {}).get("imported")))
    traces.ids |= set(ids)
    known = [time for time in times if time is not None]
    if there:
        traces.since = min(known) if known and len(known) == len(times) else None
        traces.look_for_texts()
    return ids if there else {id: key for id, key in ids.items() if _named(data, id)}, traces


def _named(data: Path, id: str) -> bool:
    """Whether a label names this prompt, which is not in the data folder itself."""
    return any(row.get("prompt_id") == id for kind in LABELS_FIRST for row in read_rows(data / file_name(kind)))


def _is_of(row: Any, ids: Mapping[str, str]) -> bool:
    return isinstance(row, dict) and (row.get("id") in ids or row.get("prompt_id") in ids)
