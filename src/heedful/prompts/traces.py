"""What identifies a person's records and texts in a project, and the runs that used them.

The person is an owner (``heedful.prompts.forgetting``), or has taken back turns and requests (``heedful.prompts.withdrawing``).
For both, :class:`heedful.lineage.known_records.KnownRecords` finds the records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from heedful.conversation import plain_text
from heedful.lineage.known_records import KnownRecords, is_feedback
from heedful.lineage.run_graph import MODEL, RunNode, descendants
from heedful.lineage.tracing import ids_of_run
from heedful.project.data_folder import Kind, turns_in
from heedful.project.project import Project
from heedful.project.runs import STAGE_FILE, ended_at, stage_state
from heedful.prompts.erasing_files import TELLING, Wanted, parts_of, spelled, wanted_of

_SEARCHED = (".jsonl", ".json", ".html", ".txt", ".csv")
_NOT_SEARCHED = (MODEL, "checkpoints", "adapter")


@dataclass(slots=True, kw_only=True)
class Traces:
    """What to look for."""

    ids: set[str] = field(default_factory=set[str])
    """Of all records, and keys of turns and requests."""
    prompts: set[str] = field(default_factory=set[str])
    """Those of prompts."""
    written: set[str] = field(default_factory=set[str])
    """Texts by that person: prompts, their single turns, edits and critiques."""
    answers: set[str] = field(default_factory=set[str])
    """Texts by others and by models, about the prompts."""
    owner: str | None = None
    """The owner's id, composed: rows that name it as their owner count too. None: turns and requests, not a whole owner."""
    hashes: frozenset[str] = frozenset()
    """The owner's keyed hashes, as rejected rows of the prompt pipeline hold them."""
    imported: bool = False
    """Whether any of the records is, or was, in the data folder, and not in a round or the labeling database alone."""
    since: datetime | None = None
    """When the first of these was imported; None if one does not say when."""

    def add(self, other: Traces) -> None:
        """Look for what ``other`` names too."""
        self.since = _earlier(self, other)
        self.imported |= other.imported
        for name in ("ids", "prompts", "written", "answers"):
            getattr(self, name).update(getattr(other, name))

    def in_record(self, row: Any) -> bool:
        """Whether a row of the data folder, or a task, is to be erased."""
        if not isinstance(row, Mapping):
            return False
        named = row.get("response_ids")
        return (
            row.get("id") in self.ids
            or row.get("prompt_id") in self.prompts
            or (isinstance(named, list) and any(isinstance(id, str) and id in self.ids for id in named))
        )

    def to_json(self) -> dict[str, Any]:
        """What of turns and requests must be remembered until it is erased everywhere."""
        texts = {name: sorted(getattr(self, name)) for name in ("ids", "prompts", "written", "answers")}
        return {**texts, "imported": self.imported, "since": None if self.since is None else self.since.isoformat()}


def traces_from_json(row: Mapping[str, Any]) -> Traces:
    """What :meth:`Traces.to_json` has written."""
    return Traces(
        ids=set(row["ids"]),
        prompts=set(row["prompts"]),
        written=set(row["written"]),
        answers=set(row["answers"]),
        imported=row["imported"],
        since=time_of(row["since"]),
    )


def _earlier(one: Traces, other: Traces) -> datetime | None:
    """When the first prompt of both was imported; None if that is not known."""
    times = [traces.since for traces in (one, other) if traces.imported]
    known = [time for time in times if time is not None]
    return min(known) if known and len(known) == len(times) else None


def traces_in(known: KnownRecords, ids: Iterable[str]) -> Traces:
    """The traces of records: their ids and texts."""
    found = set(ids)
    traces = Traces(ids=found, prompts=found & known.by_kind["prompt"].keys())
    for id in traces.prompts:
        row = known.by_kind["prompt"][id]
        traces.written |= texts_of_prompt(row)
    for id in found & known.imported:
        row = known.find(id)
        if row.get("prompt_id") not in traces.prompts:  # labels came no earlier than their prompts
            time = time_of(row.get("metadata", {}).get("imported"))
            traces.since = _earlier(traces, Traces(imported=True, since=time))
            traces.imported = True
    for kind in ("response", "demonstration"):
        rows = known.by_kind[kind]
        for id in found & rows.keys():
            text = str(rows[id].get("text", "")).strip()
            (traces.written if is_feedback(rows[id]) or id.startswith("edited-") else traces.answers).add(text)
    traces.answers -= traces.written
    return traces


def texts_of_prompt(row: Mapping[str, Any]) -> set[str]:
    """The text of a stored prompt, and its single turns except for the models'."""
    turns = turns_in(row)
    return {plain_text(turns).strip(), *(turn.text.strip() for turn in turns if turn.role != "assistant")}


def wanted_in(known: KnownRecords, traces: Traces) -> Wanted:
    """What to search files for. Texts that remaining records hold word for word are not searched for: they are others' too."""
    kept_ids = known.by_kind["prompt"].keys() - traces.ids
    return wanted_of(
        traces.ids | traces.prompts,
        kept_ids,
        written=traces.written,
        answers=traces.answers - traces.written,
        kept_prompts=_kept_texts(known, traces.ids, ("prompt",)),
        kept_answers=_kept_texts(known, traces.ids, ("response", "demonstration")),
        known_ids=traces.ids.union(*known.by_kind.values()),
        owner=traces.owner,
        hashes=traces.hashes,
    )


def _kept_texts(known: KnownRecords, ids: Set[str], kinds: Iterable[Kind]) -> Iterator[str]:
    """Texts of the records that remain."""
    for kind in kinds:
        for id, row in known.by_kind[kind].items():
            if id not in ids:
                yield from texts_of_prompt(row) if kind == "prompt" else [str(row.get("text", ""))]


# ---------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedRun:
    """A run that held the text, or that may have learned from it."""

    folder: Path
    holds_text: bool
    """Whether some of its files held the text or named the prompts before they were erased. If not, the run was given
    the records, or builds on such a run, or does not say what it was given and ended after the text was imported."""


def runs_that_used(
    project: Project, known: KnownRecords, runs: Mapping[str, RunNode], wanted: Wanted, whose: Mapping[str, Traces]
) -> dict[str, tuple[UsedRun, ...]]:
    """For each of ``whose``: runs that hold the text or name the prompts, that were given records, or that build on such runs.

    runs: every run of the project. wanted: what files are searched for, of all ``whose`` together. A run that does not say what
    it was given counts if it ended after the text was imported.
    """
    ids_of = {name: ids_of_run(project, run) for name, run in runs.items()}
    stages = sorted(path.parent for path in project.folder.rglob(STAGE_FILE))
    names = {run.folder: name for name, run in runs.items()}
    holding = _holding(stages, {name: _needles(traces, wanted) for name, traces in whose.items()})
    found: dict[str, tuple[UsedRun, ...]] = {}
    for one, traces in whose.items():
        ids = known.with_labels(traces.ids)

        def perhaps(folder: Path, traces: Traces = traces) -> bool:
            return traces.imported and _ended_after(folder, traces.since)

        given = [name for name, (named, _) in ids_of.items() if not ids.isdisjoint(named)]
        given += [name for name, (_, is_known) in ids_of.items() if not is_known and perhaps(runs[name].folder)]
        touched = {*given, *descendants(runs, given)}
        used = (folder for folder in stages if folder in holding[one] or _is_touched(folder, names, touched, perhaps))
        found[one] = tuple(UsedRun(folder=folder, holds_text=folder in holding[one]) for folder in used)
    return found


def _is_touched(folder: Path, names: Mapping[Path, str], touched: Set[str], perhaps: Callable[[Path], bool]) -> bool:
    return names[folder] in touched if folder in names else perhaps(folder)


def _needles(traces: Traces, wanted: Wanted) -> tuple[str, ...]:
    """The ids of prompts and the longer texts, as files may spell them."""
    ids = (id if len(id) >= TELLING else json.dumps(id) for id in traces.prompts)
    return (*ids, *spelled(parts_of(traces.written, traces.answers).intersection(wanted.parts)))


def _holding(stages: Iterable[Path], needles: Mapping[str, tuple[str, ...]]) -> dict[str, set[Path]]:
    """For each name, the folders with a file that holds one of its needles."""
    found: dict[str, set[Path]] = {name: set() for name in needles}
    for folder in stages:
        for file in _searched(folder):
            open_names = [name for name in needles if folder not in found[name]]
            content = file.read_text(encoding="utf-8", errors="replace") if open_names else ""
            for name in open_names:
                if any(needle in content for needle in needles[name]):
                    found[name].add(folder)
    return found


def _searched(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _NOT_SEARCHED:
            yield from _searched(path)
        elif path.suffix in _SEARCHED and path.is_file():
            yield path


def _ended_after(run: Path, since: datetime | None) -> bool:
    return since is None or ended_at(run, stage_state(run)) >= since


def time_of(text: object) -> datetime | None:
    """A moment as records have it; None for anything else."""
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
