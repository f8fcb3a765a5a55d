"""What sweeps and experiments share: finding finished stages, and training that may diverge."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from heedful.align.running import FinishedStage
from heedful.align.settings import Given, prefixes_of, write_json
from heedful.align.stages import STAGES, Stage, due, met_by, situation_of
from heedful.align.steps import STEPS
from heedful.align.who_labels import Labelers
from heedful.errors import MissingError, NumericalError
from heedful.presets import Preset
from heedful.project.data_folder import Records
from heedful.project.outputs import check_outputs
from heedful.project.project import Project
from heedful.project.refusals import Refusals
from heedful.project.runs import newest_done, stage_state
from heedful.training.checkpoint import CHECKPOINTS, remove_checkpoints

_DIVERGED = "diverged.json"


def train_or_diverge(given: Given, *, folder: Path, console: Console) -> None:
    """Train. If a loss or gradient is not a finite number, that is recorded as the trial's outcome."""
    try:
        STEPS[given.stage.name](given, folder=folder, console=console)
    except NumericalError as error:
        write_json(folder / _DIVERGED, {"reason": error.message})
        remove_checkpoints(folder / CHECKPOINTS)
        console.print(f"diverged: {error.message}", style="yellow", markup=False, highlight=False)


def why_diverged(folder: Path) -> str | None:
    """Why the training in a trial's folder diverged; None if it did not."""
    if not (folder / _DIVERGED).is_file():
        return None
    return str(json.loads((folder / _DIVERGED).read_text(encoding="utf-8"))["reason"])


def newest_run(project: Project, name: str) -> FinishedStage | None:
    """The newest finished run of a stage, or None. Raises DataError for damaged outputs."""
    folder = newest_done(project.runs, name)
    if folder is None:
        return None
    state = stage_state(folder)
    check_outputs(name, folder, state)
    return FinishedStage(name, folder, state["fingerprint"], float(state["seconds"]))


def stages_of(project: Project, preset: Preset, labelers: Labelers, records: Records, refusals: Refusals | None) -> set[str]:
    """Names of the stages that the project has."""
    prefixes = bool(prefixes_of(project, labelers, records))
    situation = situation_of(project, preset, labelers, records, prefixes=prefixes, refusals=refusals)
    return {other.name for other in due(situation)}


def earlier_runs(
    project: Project, row: Stage, preset: Preset, labelers: Labelers, records: Records, refusals: Refusals | None
) -> dict[str, FinishedStage]:
    """The newest runs of the stages that a step needs, or of those used in their place. Raises MissingError."""
    had = stages_of(project, preset, labelers, records, refusals)
    names = {other.name for other in STAGES}
    needs = {met_by(need, had) for need in row.needs.values() if need in names}
    return {need: _done(project, need, row.name) for need in sorted(needs & names)}


def _done(project: Project, name: str, step: str) -> FinishedStage:
    """The newest finished run of an earlier stage. Raises MissingError if there is none."""
    found = newest_run(project, name)
    if found is not None:
        return found
    raise MissingError(
        f"the stage {name} has not run yet, and {step} starts from it",
        expected=f"a finished run in {project.runs / name}-1",
        got="none",
        where=project.folder,
        next_step=f"run `heedful align {project.folder}` first",
    )
