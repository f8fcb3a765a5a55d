"""Stages with fingerprints: each runs once for the same inputs, continues after a kill, and runs again if an input changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful import __version__
from heedful.align.processes import Cost, processor_time, run_in_processes
from heedful.errors import StorageError
from heedful.project.files import write_atomically
from heedful.project.fingerprints import as_json, fingerprint_of
from heedful.project.outputs import OUTPUTS, check_outputs, described_outputs
from heedful.project.runs import ENDED, STAGE_FILE, stage_folders, stage_state
from heedful.ranks.rank_zero import barrier_without_timeout, on_rank_zero
from heedful.ranks.world import world


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """A finished stage: where its outputs are, what identifies them, and how long it took."""

    name: str
    folder: Path
    fingerprint: str
    seconds: float
    """Wall-clock time. Stages that ran side by side share it in proportion to their own times."""
    processor_seconds: float | None = None
    """Processor time of rank 0, all threads together; None if an older version ran the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A stage that may run beside others in its own process. ``action(folder=..., console=...)`` must be picklable.

    Several jobs may have the same name, if their inputs differ: trials, for example.
    """

    name: str
    inputs: Mapping[str, Any]
    action: Callable[..., None]


class Stages:
    """The stages of one project, each in ``runs/<name>-<n>/``. A changed input gets a new n; nothing is overwritten."""

    def __init__(self, runs: Path, console: Console) -> None:
        self.runs, self.console = runs, console
        self.done: list[FinishedStage] = []

    def run(self, name: str, inputs: Mapping[str, Any], action: Callable[[Path], None]) -> FinishedStage:
        """Do ``action(folder)`` unless it was already done for the same ``inputs``.

        inputs: values that JSON can hold, including fingerprints of earlier stages. ``action`` gets an unfinished folder of the
        same inputs again, and training continues from the checkpoints there. Under ``torchrun`` all ranks do the action, and
        only rank 0 writes ``stage.json``. Raises DataError if the outputs of a finished stage are damaged.
        """
        # Under torchrun rank 0 decides, because ranks may see other clocks, modification times and files.
        fingerprint, folder_name, state = on_rank_zero(lambda: self._found(name, inputs))
        folder = Path(folder_name)
        if state.get("done"):
            return self._done_before(name, folder, fingerprint, state)
        self.console.rule(f"[bold]{name}")
        begun = _Begun.now(name, inputs, fingerprint, folder, state)
        start, busy = time.monotonic(), processor_time()
        try:
            action(folder)
        except BaseException:
            begun.leave(time.monotonic() - start, processor_time() - busy)
            raise
        barrier_without_timeout()

        def end() -> list[float]:
            ended = begun.end(time.monotonic() - start, processor_time() - busy)
            return [ended.seconds, ended.processor_seconds or 0.0]

        seconds, processor_seconds = on_rank_zero(end)
        stage = FinishedStage(name, folder, fingerprint, seconds, processor_seconds)
        self.console.print(f"[dim]{name}: {stage.seconds:.1f} s[/dim]", highlight=False)
        self.done.append(stage)
        return stage

    def run_side_by_side(self, jobs: Sequence[Job], *, processes: int) -> list[FinishedStage]:
        """Do jobs that do not need one another, ``processes`` at a time; returns their stages in the given order.

        With one process they run one after another in this process. Otherwise each runs in its own process, with its share of
        the cores. If one fails, the others are stopped and its error is raised. When run again, all continue from their
        checkpoints.
        """
        if processes == 1:
            return [
                self.run(job.name, job.inputs, lambda folder, job=job: job.action(folder=folder, console=self.console))
                for job in jobs
            ]
        stages: dict[str, FinishedStage] = {}
        begun: dict[str, _Begun] = {}
        actions: dict[str, Callable[..., None]] = {}
        called: list[str] = []
        """What each job is called here: its name, or its folder's if another job has the same name."""
        for job in jobs:
            fingerprint = stage_fingerprint(job.name, job.inputs)
            folder, state = self._folder(job.name, fingerprint)
            name = job.name if sum(other.name == job.name for other in jobs) == 1 else folder.name
            called.append(name)
            if state.get("done"):
                stages[name] = self._done_before(job.name, folder, fingerprint, state)
            else:
                begun[name] = _Begun.now(job.name, job.inputs, fingerprint, folder, state)
                actions[name] = job.action
        if begun:
            self.console.rule(f"[bold]{', '.join(begun)}")
            stages |= self._in_processes(begun, actions, processes)
        return [stages[name] for name in called]

    def _in_processes(
        self, begun: Mapping[str, _Begun], actions: Mapping[str, Callable[..., None]], processes: int
    ) -> dict[str, FinishedStage]:
        calls = {name: partial(actions[name], folder=stage.folder) for name, stage in begun.items()}
        costs: dict[str, Cost] = {}
        start = time.monotonic()
        try:
            # Stages print their own names, which say nothing if two are the same.
            labelled = any(name != stage.row["stage"] for name, stage in begun.items())
            for name, cost in run_in_processes(calls, processes=processes, labelled=labelled):
                costs[name] = cost
                begun[name].end(cost.seconds / processes, cost.processor_seconds)  # so that a kill from now on does not lose it
                self.console.print(f"[dim]{name}: {cost.seconds:.1f} s of its own[/dim]", highlight=False)
        except BaseException:
            for name, stage in begun.items():
                if name not in costs:
                    stage.leave((time.monotonic() - start) / len(begun), 0.0)  # its processor time is unknown
            raise
        share = (time.monotonic() - start) / sum(cost.seconds for cost in costs.values())
        found = {name: stage.end(share * costs[name].seconds, costs[name].processor_seconds) for name, stage in begun.items()}
        self.done += found.values()
        return found

    def _done_before(self, name: str, folder: Path, fingerprint: str, state: Mapping[str, Any]) -> FinishedStage:
        stage = FinishedStage(name, folder, fingerprint, float(state["seconds"]), state.get("processor_seconds"))
        self.console.print(f"{name}: done before, in {folder}", style="dim", markup=False, highlight=False, soft_wrap=True)
        self.done.append(stage)
        return stage

    def _found(self, name: str, inputs: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        """The stage's fingerprint, folder and state, as JSON for the other ranks."""
        fingerprint = stage_fingerprint(name, inputs)
        folder, state = self._folder(name, fingerprint)
        return fingerprint, str(folder), state

    def _folder(self, name: str, fingerprint: str) -> tuple[Path, dict[str, Any]]:
        """The stage's newest folder with this fingerprint, or the next free one. Raises DataError for damaged outputs."""
        numbered = stage_folders(self.runs, name)
        for number in sorted(numbered, reverse=True):
            state = stage_state(numbered[number])
            if state.get("fingerprint") == fingerprint:
                if state.get("done"):
                    check_outputs(name, numbered[number], state)
                return numbered[number], state
        return self.runs / f"{name}-{max(numbered, default=0) + 1}", {}


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stage in progress, which its ``stage.json`` records."""

    row: Mapping[str, Any]
    folder: Path
    spent: tuple[float, float]
    """Wall-clock and processor seconds before an interruption."""

    @classmethod
    def now(cls, name: str, inputs: Mapping[str, Any], fingerprint: str, folder: Path, state: Mapping[str, Any]) -> _Begun:
        folder.mkdir(parents=True, exist_ok=True)
        row = {"stage": name, "fingerprint": fingerprint, "inputs": dict(inputs)}
        spent = float(state.get("seconds", 0.0)), float(state.get("processor_seconds", 0.0))
        begun = cls(row, folder, spent)
        begun._write(done=False, seconds=0.0, processor_seconds=0.0)
        return begun

    def end(self, seconds: float, processor_seconds: float) -> FinishedStage:
        """Record that the stage is done."""
        self._write(done=True, seconds=seconds, processor_seconds=processor_seconds)
        spent = self.spent[0] + seconds, self.spent[1] + processor_seconds
        return FinishedStage(self.row["stage"], self.folder, self.row["fingerprint"], *spent)

    def leave(self, seconds: float, processor_seconds: float) -> None:
        """Record that the stage was interrupted."""
        with suppress(StorageError):  # a full disk must not hide the error that stopped the stage
            self._write(done=False, seconds=seconds, processor_seconds=processor_seconds)

    def _write(self, *, done: bool, seconds: float, processor_seconds: float) -> None:
        if not world().is_rank_zero:
            return
        spent = {"seconds": self.spent[0] + seconds, "processor_seconds": self.spent[1] + processor_seconds}
        state = {**self.row, "done": done, **spent}
        if done:  # outputs are described only once; later calls just correct the seconds
            before = stage_state(self.folder)
            # The file's own time would not survive a copy of the project.
            state[ENDED] = before.get(ENDED) or datetime.now(UTC).isoformat(timespec="seconds")
            state[OUTPUTS] = before.get(OUTPUTS) or described_outputs(self.folder)
        write_atomically(self.folder / STAGE_FILE, json.dumps(state, indent=2, default=as_json))


def done_before(runs: Path, name: str, fingerprint: str) -> FinishedStage | None:
    """The finished run of a stage with this fingerprint, in a folder of runs, or None. Raises DataError for damaged outputs."""
    numbered = stage_folders(runs, name)
    for number in sorted(numbered, reverse=True):
        state = stage_state(numbered[number])
        if state.get("done") and state.get("fingerprint") == fingerprint:
            check_outputs(name, numbered[number], state)
            return FinishedStage(name, numbered[number], fingerprint, float(state["seconds"]))
    return None


def stage_fingerprint(name: str, inputs: Mapping[str, Any]) -> str:
    """The fingerprint that identifies a stage. Equal inputs have equal fingerprints."""
    return fingerprint_of({"heedful": __version__, "stage": name, **inputs})
