"""``heedful align``: run the stages of the table in order, like make. Finished stages do not run again."""

from __future__ import annotations

import platform
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from heedful.align.assemble import assemble
from heedful.align.before_training import check_before_training
from heedful.align.given_use import with_use_record
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import cores, import_ahead, peak_memory, processes_at_once
from heedful.align.round_benchmarks import check_rule_benchmarks
from heedful.align.round_intake import take_in
from heedful.align.round_records import records_of_round
from heedful.align.rounds import Opened, decision_in, decisions, rows_of_round, with_rule
from heedful.align.running import FinishedStage, Job, Stages
from heedful.align.settings import Given, Setting, given_for, prefixes_of, setting_of
from heedful.align.stages import STAGES, Situation, Stage, due, left_out, next_group, situation_of
from heedful.align.steps import step_of, tasks_of
from heedful.align.who_labels import Labelers, labelers_of
from heedful.errors import ConfigError
from heedful.evaluate.report import write_report
from heedful.evaluate.results import Results, StageTime, Timings
from heedful.evaluate.results_file import load_results, load_timings, save_results, save_timings
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.presets import Preset, records_and_refusals, resolved_preset
from heedful.project.ended_rounds import (
    EndedRound,
    Run,
    ended_rounds,
    first_stage,
    known_in,
    newest_round,
    read_known,
    rounds_to_do,
    save_round,
)
from heedful.project.fingerprints import digest_of_files
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.refusals import ordinary
from heedful.project.selection import may_train
from heedful.ranks.collectives import all_gather
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import across_ranks, world


@across_ranks
def align(
    project: Project, console: Console, *, partly: bool = False, last_round: int | None = None, until: str | None = None
) -> Path | None:
    """Run every stage that the data allow; returns the report, or None if people have to label first (the console says what).

    partly: continue with the answers that people have given so far, even if some tasks still wait. last_round: continue up to
    this round of feedback; None: up to the newest begun round (at first, round 1).
    until: the last stage to run in that round; then there is no report.
    Raises UserError for what the user must fix (BusyError if another process works in the project), NumericalError,
    StorageError. If it is interrupted at any point, it continues when called again. Under ``torchrun`` all ranks call it with
    the same project, and all except rank 0 with a quiet console.
    """
    with alone_in(project.runs) if world().is_rank_zero else nullcontext():
        return _align(project, console, partly, last_round, until)


def _align(project: Project, console: Console, partly: bool, last_round: int | None, until: str | None) -> Path | None:
    keep_large_temporaries()
    processes = processes_at_once(project)
    if processes > 1:
        import_ahead()
    preset = resolved_preset(project)
    _refuse_adapters(preset)
    report = None
    numbers = on_rank_zero(lambda: list(rounds_to_do(project.runs, last_round)))
    for number in numbers:
        last = until if number == numbers[-1] else None
        report = _align_round(project, preset, number, processes, console, partly, last)
        if report is None:
            return None
    return report


def _align_round(
    project: Project, preset: Preset, number: int, processes: int, console: Console, partly: bool, until: str | None
) -> Path | None:
    """One round of feedback. Round 1 is the table of stages; each further round has its own table."""
    stages, labelers = Stages(project.runs, console), labelers_of(project)
    opened = None
    on_rank_zero(lambda: check_rule_benchmarks(project, preset, with_data=number > 1))
    if number > 1:
        opened = Opened(number=number, earlier=tuple(ended_rounds(project.runs)[: number - 1]))
        on_rank_zero(lambda: take_in(project, console) if number > newest_round(project.runs) else None)
    # Rank 0 takes people's answers. The other ranks then read what it took.
    on_rank_zero(lambda: labelers.take(partly=partly))
    state = _State(project, preset, labelers, opened)
    on_rank_zero(lambda: check_before_training(state.setting, state.records))
    if until is not None:
        _check_until(state, until)
    while group := next_group(state.situation, state.done, state.rows):
        _say_left_out(state, group[0], console)
        jobs = [state.job(stage) for stage in group]
        for finished in _run(stages, group, jobs, processes):
            state.done[finished.name] = finished
        for stage in group:
            # The report is written before people have judged the evaluation.
            last = stage is STAGES[-1]
            waiting = state.still_waiting(stage, partly=partly or last)
            if last:
                on_rank_zero(state.save_round)
                return _report(state, stages, waiting, console)
            if waiting:
                _say_waiting(console, stage, waiting)
                return None
            if stage.asks or stage.name in ("data", first_stage(stage.round)):
                state.read_records()
            if stage.round > 1:
                continue
            if stage.asks and not state.situation.answers_at_once and stage.left_out(state.situation) is None:
                _say_waiting(console, stage, "there is no answer about a training prompt yet")
                return None
        if until in [stage.name for stage in group]:
            say = f"stopped after {until}; to continue, run `heedful align {project.folder}`"
            console.print(say, markup=False, highlight=False, soft_wrap=True)
            return None
    on_rank_zero(state.save_round)
    return _report_rounds(state, stages)


def _check_until(state: _State, until: str) -> None:
    """Raise ConfigError if no stage of this round has this name, or if the project does without it."""
    names = [row.name for row in due(state.situation, state.rows)]
    if until not in names:
        reason = left_out(state.situation).get(until) if state.opened is None else None
        raise ConfigError(
            f"align cannot stop after {until!r}",
            expected=", ".join(names),
            got=repr(until) if reason is None else f"a stage that is left out: {reason}",
            where=state.project.folder,
            next_step="name one of these stages after --until",
        )


def _run(stages: Stages, group: list[Stage], jobs: list[Job], processes: int) -> list[FinishedStage]:
    """Run those stages of a group side by side that may have their own processes, then the others in this process."""
    done: dict[str, FinishedStage] = {}
    for apart, at_once in ((True, processes), (False, 1)):
        own = [job for stage, job in zip(group, jobs, strict=True) if stage.apart == apart]
        done |= {finished.name: finished for finished in stages.run_side_by_side(own, processes=at_once)}
    return [done[stage.name] for stage in group]


class _State:
    """The progress of one call of align in one round."""

    def __init__(self, project: Project, preset: Preset, labelers: Labelers, opened: Opened | None) -> None:
        self.project, self.preset, self.labelers, self.opened = project, preset, labelers, opened
        self.done: dict[str, FinishedStage] = {}
        """The finished stages, including those of earlier rounds."""
        self.digests: dict[Path, str] = {}
        self.said: set[str] = set()
        """Stages already reported as left out."""
        if opened is not None:
            self.done = {name: FinishedStage(name, run.folder, run.fingerprint, 0.0) for name, run in opened.runs.items()}
        self.read_records()

    def read_records(self) -> None:
        """Read the records of the round, including the answers that labelers have given in it."""
        known = self.labelers.known(self.folders().get("collect"))
        self.records, self.refusals = records_and_refusals(self.project, self.preset, known)
        if self.opened is not None:
            self.records = ordinary(records_of_round(self.project, self.labelers, self.opened, self.folders(), known))

    @property
    def rows(self) -> tuple[Stage, ...]:
        """The table of this round."""
        if self.opened is None:
            return STAGES
        return rows_of_round(
            self.opened,
            with_rule(self.preset.rounds, self.folders().get(first_stage(self.opened.number))),
            with_text=self.situation.text,
            new_demonstrations=not self.project.skip_sft and self._has_new_demonstrations(),
        )

    def _has_new_demonstrations(self) -> bool:
        assert self.opened is not None
        new = self.records.demonstrations.keys() - self.opened.before.demonstrations
        return any(may_train(one) for id, one in self.records.demonstrations.items() if id in new)

    @property
    def situation(self) -> Situation:
        prefixes = bool(prefixes_of(self.project, self.labelers, self.records))
        return situation_of(self.project, self.preset, self.labelers, self.records, prefixes=prefixes, refusals=self.refusals)

    @property
    def setting(self) -> Setting:
        return setting_of(self.project, self.preset, self.labelers, self.records, self.refusals)

    def folders(self) -> dict[str, Path]:
        return {name: finished.folder for name, finished in self.done.items()}

    def given(self, stage: Stage) -> Given:
        return given_for(stage, self.setting, self.records, self.folders())

    def job(self, stage: Stage) -> Job:
        given = self.given(stage)
        inputs = self._inputs(given)
        return Job(name=stage.name, inputs=inputs, action=partial(with_use_record, step_of(stage), given, inputs))

    def _inputs(self, given: Given) -> dict[str, Any]:
        counted = {row.name for row in due(self.situation)} if self.opened is None else self.done.keys()
        earlier = {name: finished.fingerprint for name, finished in self.done.items() if name in counted}
        return fingerprint_inputs(given, self.records, earlier, self._digest)

    def _digest(self, path: Path) -> str:
        """The digest of a model or text, which only rank 0 reads, and only once."""
        if path not in self.digests:
            self.digests[path] = on_rank_zero(lambda: digest_of_files(path))
        return self.digests[path]

    def still_waiting(self, stage: Stage, *, partly: bool) -> str | None:
        """Ask people for what a stage needs from them; returns in words what still waits."""
        if stage.asks is None:
            return None
        given, folder = self.given(stage), self.done[stage.name].folder
        return on_rank_zero(lambda: self.labelers.ask(tasks_of(stage)(given, folder), folder, partly=partly))

    def save_round(self) -> None:
        """Record that the round is over, and which records it knew."""
        number = 1 if self.opened is None else self.opened.number
        earlier = () if self.opened is None else self.opened.earlier
        own = {name: one for name, one in self.done.items() if all(name not in ended.runs for ended in earlier)}
        runs = {name: Run(folder=one.folder, fingerprint=one.fingerprint) for name, one in own.items()}
        known = known_in(self.records)
        policy = "ppo_ptx" if "ppo_ptx" in runs else "ppo"
        if self.opened is not None:
            known = read_known(runs[first_stage(number)].folder)
            policy = decision_in(runs[f"decide_{number}"].folder)["current"]
        began_with = earlier[-1].ended_with if earlier else None
        save_round(self.project.runs, EndedRound(number=number, runs=runs, policy=policy, known=known, began_with=began_with))


_TRAINED = ("sft", "initial_policy", "task_mixture", "reward", "ppo", "dpo", "expert_iteration", "cloning")
"""Tables of heedful.toml with settings of stages that train."""


def _refuse_adapters(preset: Preset) -> None:
    """Refuse adapters under torchrun now; :func:`heedful.training.sharding.shard` might refuse them after hours of training."""
    adapted = [name for name in _TRAINED if getattr(preset, name).lora_rank]
    if world().size > 1 and adapted:
        raise ConfigError(
            "adapters (LoRA) cannot be trained under torchrun yet",
            expected="lora_rank = 0, or one process",
            got=f"lora_rank > 0 in [{'], ['.join(adapted)}] on {world().size} ranks",
            next_step="set lora_rank = 0, or start without torchrun",
        )


def _say_left_out(state: _State, before: Stage, console: Console) -> None:
    """Print, once per stage, why the project does without stages before this one."""
    if before not in STAGES:  # a further round has only stages that it needs
        return
    earlier = [row.name for row in STAGES[: STAGES.index(before)]]
    for name, reason in left_out(state.situation).items():
        if name in earlier and name not in state.said:
            state.said.add(name)
            console.print(f"{name}: left out, {reason}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _say_waiting(console: Console, stage: Stage, waiting: str) -> None:
    console.print(f"waiting for {stage.asks}:", style="bold yellow", end=" ")
    console.print(waiting, markup=False, highlight=False, soft_wrap=True)


def _report(state: _State, stages: Stages, waiting: str | None, console: Console) -> Path:
    """Write results.json, timings.json and report.html, and print what people can still add."""
    results = assemble(state.setting, state.records, state.folders(), left_out(state.situation))
    report = _save(state, results, _timings(stages))
    if waiting:
        without = "" if "preference" in results else "; until then the report has no win rates"
        _say_waiting(console, STAGES[-1], waiting + without)
    return report


def _report_rounds(state: _State, stages: Stages) -> Path:
    """Add the further rounds to the results.json, timings.json and report.html that round 1 wrote."""
    folder, own = state.project.folder, _timings(stages)
    results = load_results(folder / "results.json")
    before = load_timings(folder / "timings.json")
    names = {row["stage"] for row in own["stages"]}
    rows = [*(row for row in before["stages"] if row["stage"] not in names), *own["stages"]]
    timings: Timings = {
        **own,
        "stages": rows,
        "total_seconds": round(sum(row["seconds"] for row in rows), 2),
        "peak_memory_bytes": max(before["peak_memory_bytes"], own["peak_memory_bytes"]),
    }
    return _save(state, results, timings)


def _save(state: _State, results: Results, timings: Timings) -> Path:
    """Write the three files, including the decisions of further rounds; returns the report."""
    folder = state.project.folder

    def save() -> None:
        if rounds := decisions(state.project.runs):
            results["rounds"] = rounds
        save_results(folder / "results.json", results)
        save_timings(folder / "timings.json", timings)
        write_report(results, timings, folder / "report.html")

    on_rank_zero(save)
    return folder / "report.html"


def _time_of(stage: FinishedStage) -> StageTime:
    time: StageTime = {"stage": stage.name, "seconds": round(stage.seconds, 2)}
    if stage.processor_seconds is not None:
        time["processor_seconds"] = round(stage.processor_seconds, 2)
    return time


def _timings(stages: Stages) -> Timings:
    ranks = f", {world().size} ranks" if world().size > 1 else ""
    return {
        "stages": [_time_of(stage) for stage in stages.done],
        "total_seconds": round(sum(s.seconds for s in stages.done), 2),
        "peak_memory_bytes": sum(all_gather(peak_memory())),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores{ranks}, torch {torch.__version__}",
    }
