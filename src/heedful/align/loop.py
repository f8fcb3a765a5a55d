"""``heedful align``: the stages of the table in order, like make. What is done is not done again."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from heedful.align.assemble import assemble
from heedful.align.before_training import check_before_training
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import cores, import_ahead, peak_memory
from heedful.align.running import FinishedStage, Job, Stages
from heedful.align.settings import Given, Setting, given_for, prefixes_of, setting_of
from heedful.align.stages import STAGES, Situation, Stage, due, left_out, next_group, situation_of
from heedful.align.steps import STEPS, TASKS
from heedful.align.who_labels import Labelers, labelers_of
from heedful.errors import ConfigError
from heedful.evaluate.report import write_report
from heedful.evaluate.results import Timings, save_results, save_timings
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import first_device
from heedful.presets import Preset, resolved_preset
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_files
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.ranks.collectives import all_gather
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import across_ranks, world


@across_ranks
def align(project: Project, console: Console, *, partly: bool = False) -> Path | None:
    """Run every stage that the data allow; returns the report, or None if people have to label first (it says what).

    partly: go on with the answers that people have given so far, even if some tasks still wait.
    Raises UserError for what the user must mend (BusyError if another process works in the project), NumericalError,
    StorageError. Interrupted at any point, it continues when called again. Under ``torchrun`` all ranks call it, each with the
    same project; all but rank 0 with a quiet console.
    """
    with alone_in(project.runs) if world().is_rank_zero else nullcontext():
        return _align(project, console, partly)


def _align(project: Project, console: Console, partly: bool) -> Path | None:
    keep_large_temporaries()
    processes = min(project.processes, cores()) if first_device().type == "cpu" and world().size == 1 else 1
    if processes > 1:
        import_ahead()
    preset = resolved_preset(project)
    _refuse_adapters(preset)
    stages, labelers = Stages(project.runs, console), labelers_of(project)
    # Rank 0 takes people's answers; the others then read what it took.
    on_rank_zero(lambda: labelers.take(partly=partly))
    state = _State(project, preset, labelers, labelers.known())
    on_rank_zero(lambda: check_before_training(state.setting, state.records))
    while group := next_group(state.situation, state.done):
        _say_left_out(state, group[0], console)
        jobs = [state.job(stage) for stage in group]
        for finished in _run(stages, group, jobs, processes):
            state.done[finished.name] = finished
        for stage in group:
            # People judge the evaluation while the report can be read already.
            last = stage is STAGES[-1]
            waiting = state.still_waiting(stage, partly=partly or last)
            if last:
                return _report(state, stages, waiting, console)
            if waiting:
                _say_waiting(console, stage, waiting)
                return None
            if stage.asks or stage.name == "data":
                state.records = labelers.known(state.folders().get("collect"))
            if stage.asks and not state.situation.answers_at_once and stage.left_out(state.situation) is None:
                _say_waiting(console, stage, "no answer is about a training prompt yet")
                return None
    raise AssertionError("the table of stages ends with the evaluation")


def _run(stages: Stages, group: list[Stage], jobs: list[Job], processes: int) -> list[FinishedStage]:
    """Side by side if the stages may run in processes of their own."""
    if all(stage.apart for stage in group):
        return stages.run_side_by_side(jobs, processes=processes)
    return stages.run_side_by_side(jobs, processes=1)


@dataclass(slots=True)
class _State:
    """How far one call of align has come."""

    project: Project
    preset: Preset
    labelers: Labelers
    records: Records
    done: dict[str, FinishedStage] = field(default_factory=dict[str, FinishedStage])
    digests: dict[Path, str] = field(default_factory=dict[Path, str])
    said: set[str] = field(default_factory=set[str])
    """Stages already reported as left out."""

    @property
    def situation(self) -> Situation:
        prefixes = bool(prefixes_of(self.project, self.labelers, self.records))
        return situation_of(self.project, self.preset, self.labelers, self.records, prefixes=prefixes)

    @property
    def setting(self) -> Setting:
        return setting_of(self.project, self.preset, self.labelers, self.records)

    def folders(self) -> dict[str, Path]:
        return {name: finished.folder for name, finished in self.done.items()}

    def given(self, stage: Stage) -> Given:
        return given_for(stage, self.setting, self.records, self.folders())

    def job(self, stage: Stage) -> Job:
        given = self.given(stage)
        return Job(name=stage.name, inputs=self._inputs(given), action=partial(STEPS[stage.name], given))

    def _inputs(self, given: Given) -> dict[str, Any]:
        counted = {row.name for row in due(self.situation)}
        earlier = {name: finished.fingerprint for name, finished in self.done.items() if name in counted}
        return fingerprint_inputs(given, self.records, earlier, self._digest)

    def _digest(self, path: Path) -> str:
        """Of a model or text: read once, by rank 0 alone."""
        if path not in self.digests:
            self.digests[path] = on_rank_zero(lambda: digest_of_files(path))
        return self.digests[path]

    def still_waiting(self, stage: Stage, *, partly: bool) -> str | None:
        """Ask for what people have to do after a stage; what still waits, in words."""
        if stage.asks is None:
            return None
        given, folder = self.given(stage), self.done[stage.name].folder
        return on_rank_zero(lambda: self.labelers.ask(TASKS[stage.name](given, folder), folder, partly=partly))


def _refuse_adapters(preset: Preset) -> None:
    """Before hours of training: :func:`heedful.training.sharding.shard` would refuse them only then."""
    adapted = [name for name in ("sft", "initial_policy", "reward", "ppo") if getattr(preset, name).lora_rank]
    if world().size > 1 and adapted:
        raise ConfigError(
            "adapters (LoRA) cannot be trained under torchrun yet",
            expected="lora_rank = 0, or one process",
            got=f"lora_rank > 0 in [{'], ['.join(adapted)}] on {world().size} ranks",
            next_step="set lora_rank = 0, or start without torchrun",
        )


def _say_left_out(state: _State, before: Stage, console: Console) -> None:
    """Say of the stages before this one why the project does without them, each once."""
    earlier = [row.name for row in STAGES[: STAGES.index(before)]]
    for name, reason in left_out(state.situation).items():
        if name in earlier and name not in state.said:
            state.said.add(name)
            console.print(f"{name}: left out, {reason}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _say_waiting(console: Console, stage: Stage, waiting: str) -> None:
    console.print(f"waiting for {stage.asks}:", style="bold yellow", end=" ")
    console.print(waiting, markup=False, highlight=False, soft_wrap=True)


def _report(state: _State, stages: Stages, waiting: str | None, console: Console) -> Path:
    """Write results.json, timings.json and report.html; say what people can still add."""
    folder = state.project.folder
    results = assemble(state.setting, state.records, state.folders(), left_out(state.situation))
    timings = _timings(stages)
    report = folder / "report.html"

    def save() -> None:
        save_results(folder / "results.json", results)
        save_timings(folder / "timings.json", timings)
        write_report(results, timings, report)

    on_rank_zero(save)
    if waiting:
        without = "" if "preference" in results else "; until then the report has no win rates"
        _say_waiting(console, STAGES[-1], waiting + without)
    return report


def _timings(stages: Stages) -> Timings:
    ranks = f", {world().size} ranks" if world().size > 1 else ""
    return {
        "stages": [{"stage": s.name, "seconds": round(s.seconds, 2)} for s in stages.done],
        "total_seconds": round(sum(s.seconds for s in stages.done), 2),
        "peak_memory_bytes": max(sum(all_gather(peak_memory())), stages.most_memory),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores{ranks}, torch {torch.__version__}",
    }
