"""``heedful prompts forget OWNER``: erase an owner's text from a project's records for good, and list its other traces.

It erases the owner's prompts; all responses, demonstrations, rankings and ratings of them; tasks that show them; rejected rows
that are the owner's or hold any of the texts; and temporary files of killed writers. A tombstone remains
(``heedful.project.owners``). It also erases the text from runs, samples, reports and exports in the project
(``heedful.prompts.erasing_files``), and from the labeling database and its backups. Models that may have learned from it are
listed; with ``retrain`` the next ``heedful align`` makes new ones.

You may kill it at any moment and run it again. The tombstone is written first, so nothing comes back in between. The texts are
needed to find them in other files, so other files come first and prompts last. After each rename the folder is consistent: no
record refers to an erased one.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from heedful.conversation import Turn, plain_text
from heedful.errors import DataError, MissingError
from heedful.labeling.database import erasing
from heedful.labeling.database.connection import Database
from heedful.lineage.known_records import known_records
from heedful.lineage.retraining import mark_to_retrain, to_do_again
from heedful.lineage.run_graph import MODEL, RunNode, descendants, runs_of
from heedful.lineage.tracing import use_of
from heedful.project.data_folder import RECORD_TYPES, Kind, file_name, turns_in
from heedful.project.files import locked, read_jsonl, remove_leftovers, write_jsonl
from heedful.project.formats.rows import content_id
from heedful.project.importing import REJECTED
from heedful.project.lock import alone_in
from heedful.project.owners import (
    FORGOTTEN,
    OWNERS,
    OwnerKey,
    composed,
    owner_key,
    read_tombstones,
    spellings,
    split_name,
    write_tombstones,
)
from heedful.project.project import Project
from heedful.project.runs import STAGE_FILE
from heedful.prompts.erasing_files import TELLING, Wanted, erase_in_files, parsed, wanted_of

LABELS_FIRST: tuple[Kind, ...] = tuple(reversed(list(RECORD_TYPES)))
"""Records that refer to others come before those they refer to."""
_OWNER_KEYS = ("owner", "user", "user_id", "organization")
_SEARCHED = (".jsonl", ".json", ".html", ".txt", ".csv")
_NOT_SEARCHED = ("model", "checkpoints", "adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedRun:
    """A run that held the owner's text, or that may have learned from it."""

    folder: Path
    holds_text: bool
    """Whether some of its files held the text or named the prompts before they were erased. If not, the run was given
    the prompts, or builds on such a run, or does not say what it was given and ended after the text was imported."""


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
        known = next((tombstones[hashed] for hashed in hashes if hashed in tombstones), None)
        traces = _traces(project, owner, set(hashes))
        erased = _erased(project, traces)
        stored = None if database is None else erasing.traces_of_owner(database, owner)
        if known is None and not erased and not traces.ids and not (stored and stored.there):
            raise _unknown(data, owner, traces)
        traces.ids |= stored.ids if stored else frozenset()
        runs = runs_that_used(project, traces) if traces.ids else _known_runs(project, known)
        tombstone = _tombstone(key, owner, traces, erased, known)
        tombstone["runs"] = [
            {"folder": str(run.folder.relative_to(project.folder)), "holds_text": run.holds_text} for run in runs
        ]
        write_tombstones(data, {**tombstones, tombstone["owner"]: tombstone})
        remove_leftovers(data)
        graph = runs_of(project.runs)
        again = to_do_again(graph, {run.folder.name for run in runs if run.folder.parent == project.runs})
        if retrain:
            mark_to_retrain(graph, again)
        others = erase_in_files(project.folder, _wanted(project, graph, traces, stored), untouched=_own_files(project))
        for file in task_files(project):
            rewrite(file, lambda row: not traces.in_task(row))
        rewrite(data / REJECTED, lambda row: not traces.in_rejected(row))
        in_database = {} if database is None else erasing.forget_owner(database, owner)
        in_copies, left = erasing.forget_in_copies(project.folder, owner)
        if database is not None:
            erasing.leave_no_bytes(database)
        for kind in LABELS_FIRST:
            rewrite(data / file_name(kind), traces.others(kind))
    counts = {
        **erased,
        **{f"{name} (labeling database)": count for name, count in in_database.items()},
        **{f"{name} (its backups)": count for name, count in in_copies.items()},
    }
    return ForgetReport(
        time=tombstone["time"],
        erased=counts,
        runs=runs,
        cleaned=others.cleaned,
        files=tuple(sorted({*others.left, *left})),
        models=tuple(graph[name].folder / MODEL for name in again if graph[name].has_model),
        to_retrain=tuple(again),
        marked=retrain,
        similar=tuple(traces.similar),
    )


def _unknown(data: Path, owner: str, traces: Traces) -> MissingError:
    return MissingError(
        "this owner has no data here",
        expected="the id of an owner (the field user in prompts.jsonl)",
        got=repr(owner),
        where=data / file_name("prompt"),
        next_step=f"did you mean {traces.similar[0]!r}?" if traces.similar else "check the id: every letter must match",
    )


def _wanted(project: Project, graph: Mapping[str, RunNode], traces: Traces, stored: erasing.OwnersTraces | None) -> Wanted:
    """What to look for in the project's other files: texts of its records, of its runs and of the labeling database."""
    records = known_records(project.data, graph)
    ids = records.with_labels(traces.ids | (stored.ids if stored else frozenset()))
    written = {*traces.written, *(stored.written if stored else ())}
    answers = {*traces.texts, *(stored.answers if stored else ())}
    answers |= {str(records.find(id).get("text", "")) for id in ids if records.kind_of(id) in ("response", "demonstration")}
    return wanted_of(ids, records.by_kind["prompt"].keys() - ids, written, answers - written)


def _own_files(project: Project) -> list[Path]:
    """Files that are erased row by row, each in its own way."""
    data = project.data
    own = [data / REJECTED, data / FORGOTTEN, data / OWNERS, *(data / file_name(kind) for kind in RECORD_TYPES)]
    return [*own, *task_files(project), project.folder / "backups"]


# ---------------------------------------------------------------------------------------------------- what is the owner's


@dataclass(slots=True)
class Traces:
    """What identifies the owner's records and texts."""

    owner: str
    hashes: set[str]
    """The owner's keyed hashes, as rejected rows of the prompt pipeline hold them."""
    similar: list[str] = field(default_factory=list[str])
    """Other owners' ids that differ only in case or the like."""
    ids: set[str] = field(default_factory=set[str])
    """Of prompts."""
    written: set[str] = field(default_factory=set[str])
    """Texts by the owner: prompts and their single turns."""
    contents: set[str] = field(default_factory=set[str])
    """Ids that another import of the prompts' texts would give them."""
    texts: set[str] = field(default_factory=set[str])
    """Of prompts, their single turns, and all answers to them."""
    needles: tuple[str, ...] = ()
    """The longer texts, as files may spell them."""
    imported: bool = True
    """Whether any of the prompts is in the data folder, and not in a round or the labeling database alone."""
    since: datetime | None = None
    """When the first of the prompts was imported; None if a prompt does not say when."""

    def of(self, kind: Kind, row: Any) -> bool:
        return row.get("id" if kind == "prompt" else "prompt_id") in self.ids

    def others(self, kind: Kind) -> Callable[[Any], bool]:
        """A function that is true for rows of this kind that do not belong to the owner's prompts."""
        return lambda row: not self.of(kind, row)

    def look_for_texts(self) -> None:
        """Prepare the search in files for the longer texts, in every spelling."""
        self.texts.discard("")
        telling = [text for text in self.texts if len(text) >= TELLING]
        self.needles = tuple({needle for text in telling for needle in _spellings(text)})

    def in_task(self, row: Any) -> bool:
        return isinstance(row, dict) and row.get("prompt_id") in self.ids

    def in_rejected(self, row: Mapping[str, Any]) -> bool:
        """Whether a rejected row is the owner's, or holds any of the texts (the prompt pipeline keeps no text in such rows)."""
        return row.get("owner") in self.hashes or ("row" in row and self._inside(row["row"]))

    def _inside(self, value: object) -> bool:
        if isinstance(value, Mapping):
            named = any(composed(str(value[key])) == self.owner for key in _OWNER_KEYS if key in value)
            return named or any(map(self._inside, value.values()))
        if isinstance(value, list):
            return any(map(self._inside, value))
        if not isinstance(value, str):
            return False
        return value.strip() in self.texts or value in self.ids or any(needle in value for needle in self.needles)


def _spellings(text: str) -> tuple[str, ...]:
    """A text as files may hold it: plain, in JSON, in HTML."""
    return tuple({text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text)})


def _traces(project: Project, owner: str, hashes: set[str]) -> Traces:
    data = project.data
    traces = Traces(owner, hashes, imported=False)
    similar: dict[str, None] = {}
    times: list[datetime | None] = []
    imported = read_rows(data / file_name("prompt"))
    for here, row in chain(((True, row) for row in imported), ((False, row) for row in _prompts_elsewhere(project))):
        user = row.get("user")
        if user is not None and composed(user) == owner:
            traces.ids.add(row["id"])
            traces.imported |= here
            turns = turns_in(row)
            traces.contents.add(content_id("prompt", plain_text(turns)))
            traces.written |= {plain_text(turns).strip(), *(turn.text.strip() for turn in turns if turn.role != "assistant")}
            times.append(time_of(row.get("metadata", {}).get("imported")))
        elif user is not None and split_name(user) == split_name(owner):
            similar[user] = None
    traces.similar = list(similar)
    known = [time for time in times if time is not None]
    traces.since = min(known) if known and len(known) == len(times) else None
    traces.texts |= traces.written
    kinds: tuple[Kind, ...] = ("response", "demonstration")
    for kind in kinds:
        traces.texts |= {row["text"].strip() for row in read_rows(data / file_name(kind)) if traces.of(kind, row)}
    traces.look_for_texts()
    return traces


def _prompts_elsewhere(project: Project) -> Iterator[Mapping[str, Any]]:
    """Prompts outside the data folder: those that a round or an experiment chose from, whether labelers got them or not."""
    for path in sorted(project.folder.rglob(file_name("prompt"))):
        if path.parent != project.data:
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                row = parsed(line)  # a kill may have cut a line short
                if isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in ("id", "user")) and _has_text(row):
                    yield row


def _has_text(row: Mapping[str, Any]) -> bool:
    """Whether a row is a prompt as Heedful stores it: a file of the user's own may have the same name."""
    turns = row.get("turns", [])
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and set(turn) == set(Turn._fields) for turn in turns):
        return False
    return all(isinstance(text, str) for text in ([turn["text"] for turn in turns] if "turns" in row else [row.get("text")]))


def _erased(project: Project, traces: Traces) -> Counter[str]:
    """How much will be erased. Every file is read here, so that a broken one stops the call before anything is changed."""
    erased: Counter[str] = Counter()
    for kind in RECORD_TYPES:
        erased[f"{kind}s"] = sum(traces.of(kind, row) for row in read_rows(project.data / file_name(kind)))
    erased["tasks"] = sum(traces.in_task(row) for file in task_files(project) for row in read_rows(file))
    erased["rejected rows"] = sum(map(traces.in_rejected, read_rows(project.data / REJECTED)))
    return +erased


def _tombstone(
    key: OwnerKey, owner: str, traces: Traces, erased: Mapping[str, int], known: Mapping[str, Any] | None
) -> dict[str, Any]:
    """If this finishes an earlier, interrupted call, that call's time and counts stay."""
    begun = known or {"time": datetime.now(UTC).isoformat(timespec="seconds"), "erased": dict(erased), "prompts": []}
    prompts = sorted({*begun["prompts"], *map(key.hashed, traces.ids | traces.contents)})
    return {"owner": key.hashed(owner), "time": begun["time"], "erased": begun["erased"], "prompts": prompts}


# ---------------------------------------------------------------------------------------------------- runs


def runs_that_used(project: Project, traces: Traces) -> tuple[UsedRun, ...]:
    """Runs that hold the text or name the prompts, that were given them, or that build on such a run.

    A run that does not say what it was given counts if it ended after the text was imported.
    """
    needles = (*traces.needles, *traces.ids)
    graph = runs_of(project.runs)
    use = use_of(project, known_records(project.data, graph).with_labels(traces.ids), graph)

    def perhaps(stage: Path) -> bool:
        return traces.imported and _ended_after(stage, traces.since)

    doubtful = [name for name in use.doubtful if perhaps(graph[name].folder / STAGE_FILE)]
    touched = {*use.given_to, *doubtful, *descendants(graph, [*use.given_to, *doubtful])}
    runs: list[UsedRun] = []
    for stage in sorted(project.folder.rglob(STAGE_FILE)):
        holds = any(_holds(file, needles) for file in _searched(stage.parent))
        known = stage.parent.parent == project.runs and stage.parent.name in graph
        if holds or (stage.parent.name in touched if known else perhaps(stage)):
            runs.append(UsedRun(folder=stage.parent, holds_text=holds))
    return tuple(runs)


def _ended_after(stage: Path, since: datetime | None) -> bool:
    return since is None or datetime.fromtimestamp(stage.stat().st_mtime, UTC) >= since


def _known_runs(project: Project, known: Mapping[str, Any] | None) -> tuple[UsedRun, ...]:
    """The runs that a tombstone lists and that still exist."""
    listed = known["runs"] if known else []
    runs = (UsedRun(folder=project.folder / row["folder"], holds_text=row["holds_text"]) for row in listed)
    return tuple(run for run in runs if run.folder.is_dir())


def _searched(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _NOT_SEARCHED:
            yield from _searched(path)
        elif path.suffix in _SEARCHED and path.is_file():
            yield path


def _holds(file: Path, needles: Iterable[str]) -> bool:
    content = file.read_text(encoding="utf-8", errors="replace")
    return any(needle in content for needle in needles)


def time_of(text: object) -> datetime | None:
    """A moment as records have it; None for anything else."""
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------- files


def task_files(project: Project) -> list[Path]:
    """The files of tasks for labelers."""
    return sorted(project.tasks.glob("*.jsonl")) if project.tasks.is_dir() else []


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
