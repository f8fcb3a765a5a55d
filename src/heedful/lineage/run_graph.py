"""A project's runs, and which runs build on which: from ``used.json``, or from fingerprints.

Runs of older versions have no ``used.json``, and neither have those of experiments and sweeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.lineage.known_records import rows_in
from heedful.lineage.use_record import UseRecord, read_use
from heedful.project.data_folder import RECORD_TYPES, file_name
from heedful.project.project import Project
from heedful.project.runs import STAGE_FILE, ended_at, stage_state

OTHERS = "others"
"""In a run's folder: prompts and responses of researchers' own tasks."""
FORGOTTEN = "forgotten"
"""The key of ``stage.json`` under which `heedful prompts forget --retrain` keeps a run's fingerprint, so that the run no longer
counts as done."""
MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """One run, read from its folder."""

    name: str
    """Its folder's name, such as ``ppo_ptx-1``; outside ``runs/``, the folder's path in the project."""
    folder: Path
    stage: str
    number: int
    fingerprint: str
    done: bool
    ended: str | None
    """When it ended (ISO 8601, UTC). A run of an older version does not say; then it is the time of its ``stage.json``."""
    inputs: Mapping[str, Any]
    """The inputs of its fingerprint."""
    use: UseRecord | None
    """What it was given; None for a run of an older version."""
    parents: tuple[str, ...]
    """Names of the runs that it builds on."""
    to_retrain: bool
    """Whether the next `heedful align` does it again because an owner was forgotten."""

    @property
    def config(self) -> dict[str, Any] | None:
        """Its settings, if it has any."""
        return self.inputs.get("config")

    @property
    def has_model(self) -> bool:
        return (self.folder / MODEL).is_dir()


def runs_of(folder: Path) -> dict[str, RunNode]:
    """All runs of a project's ``runs`` folder by name, those of a stage in the order of their numbers.

    Raises DataError for a damaged ``used.json``.
    """
    return _nodes({path.parent: path.parent.name for path in folder.glob(f"*/{STAGE_FILE}")})


def every_run(project: Project) -> dict[str, RunNode]:
    """All runs of a project: those of ``runs/``, then those of experiments and sweeps under their paths in the project.

    Raises DataError for a damaged ``used.json``.
    """
    paths = [path.parent for path in project.folder.rglob(STAGE_FILE)]
    elsewhere = [path for path in paths if path.parent != project.runs]
    names = {path: path.relative_to(project.folder).as_posix() for path in elsewhere}
    nodes = _nodes({path: names.get(path, path.name) for path in paths})
    return {name: nodes[name] for name in sorted(nodes, key=lambda name: nodes[name].folder.parent != project.runs)}


def _nodes(names: Mapping[Path, str]) -> dict[str, RunNode]:
    """Runs by name, those of a stage in the order of their numbers."""
    states = {path: state for path in names if (state := stage_state(path))}
    ordered = sorted(states, key=lambda path: (_order(path.name), names[path]))
    by_fingerprint = {_fingerprint(states[path]): names[path] for path in ordered}
    return {names[path]: _node(names[path], path, states[path], by_fingerprint) for path in ordered}


def ancestors(runs: Mapping[str, RunNode], name: str) -> list[str]:
    """Names of a run and of the runs that it builds on, each after those that it builds on."""
    found: dict[str, None] = {}

    def visit(one: str, above: frozenset[str]) -> None:
        if one in found or one in above or one not in runs:
            return
        for parent in runs[one].parents:
            visit(parent, above | {one})
        found[one] = None

    visit(name, frozenset())
    return list(found)


def descendants(runs: Mapping[str, RunNode], names: Iterable[str]) -> list[str]:
    """Names of the runs that build on any of these, in the order of the runs, without these themselves."""
    start = set(names)
    found = set(start)
    while more := {run.name for run in runs.values() if run.name not in found and found.intersection(run.parents)}:
        found |= more
    return [name for name in runs if name in found - start]


def record_files(run: RunNode) -> Iterator[tuple[str, Path]]:
    """Kind and path of the record files that a run holds."""
    for kind in RECORD_TYPES:
        for path in (run.folder / file_name(kind), run.folder / OTHERS / file_name(kind)):
            if path.is_file():
                yield kind, path


def ids_in_run(run: RunNode) -> set[str]:
    """Ids of the records that a run was given, of the records in its folder, and of the prompts that those name."""
    found = {id for ids in (run.use.records if run.use else {}).values() for id in ids}
    for _, path in record_files(run):
        for row in rows_in(path):
            if isinstance(row, dict):
                found |= {str(row[key]) for key in ("id", "prompt_id") if key in row}
    return found


def _node(name: str, path: Path, state: Mapping[str, Any], by_fingerprint: Mapping[str, str]) -> RunNode:
    use, inputs = read_use(path), state.get("inputs", {})
    done = bool(state.get("done"))
    parents = tuple(dict.fromkeys(use.parents.values())) if use else _parents_by_fingerprint(inputs, by_fingerprint)
    stage, number = _order(path.name)
    return RunNode(
        name=name,
        folder=path,
        stage=str(state.get("stage", stage)),
        number=number,
        fingerprint=_fingerprint(state),
        done=done,
        ended=ended_at(path, state).isoformat(timespec="seconds") if done else None,
        inputs=inputs,
        use=use,
        parents=tuple(parent for parent in parents if parent != name),
        to_retrain=FORGOTTEN in state,
    )


def _fingerprint(state: Mapping[str, Any]) -> str:
    return str(state.get(FORGOTTEN) or state.get("fingerprint", ""))


def _parents_by_fingerprint(inputs: Mapping[str, Any], by_fingerprint: Mapping[str, str]) -> tuple[str, ...]:
    named = [value for given in inputs.values() for value in (given if isinstance(given, list) else [given])]
    return tuple(dict.fromkeys(by_fingerprint[value] for value in named if isinstance(value, str) and value in by_fingerprint))


def _order(name: str) -> tuple[str, int]:
    stage, _, number = name.rpartition("-")
    return (stage, int(number)) if stage and number.isdigit() else (name, 0)
