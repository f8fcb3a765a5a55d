"""``heedful status``: which records a project has, which stages are done, and what comes next.

Everything is read from disk. This module does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from heedful.align.labeling_database import OTHERS
from heedful.align.prefixes import candidate_prefixes
from heedful.align.rounds import Opened, asking_stages, decisions, rows_of_round, with_rule
from heedful.align.stages import STAGES, Situation, Stage, due, left_out, situation_of
from heedful.align.who_labels import Labelers, labelers_of
from heedful.errors import MissingError
from heedful.evaluate.results import RoundBenchmark
from heedful.presets import records_and_refusals, resolved_preset
from heedful.project.data_folder import RECORD_TYPES, Records, file_name
from heedful.project.ended_rounds import ended_rounds, first_stage, newest_round
from heedful.project.project import Project
from heedful.project.refusals import in_words as refusals_in_words
from heedful.project.refusals import ordinary
from heedful.project.runs import last_step, newest_done, stage_folders, stage_state, with_records
from heedful.project.selection import all_in_one_split
from heedful.records import Split


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How far a stage's newest run is: done, begun (``step`` is the last one in its metrics), or not started (no folder)."""

    name: str
    folder: Path | None
    done: bool
    seconds: float
    step: int | None


def show_status(project: Project, console: Console) -> None:
    """Print records, stages and what comes next. Raises DataError for a broken data folder."""
    labelers = labelers_of(project)
    everything = known_records(project, labelers)
    records = ordinary(everything)
    stages = stage_statuses(project, labelers, everything)
    console.print(project.name, style="bold", markup=False, highlight=False)
    console.print(_record_table(records))
    for said in _refusals_in_words(project, everything):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    console.print(_stage_table(project, stages))
    begun = {stage.name for stage in stages if stage.folder is not None}
    for name, reason in left_out(_situation(project, labelers, everything)).items():
        if name not in begun:
            console.print(f"{name}: left out, {reason}", markup=False, highlight=False, soft_wrap=True)
    for said in _rounds_in_words(project):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    if (unused := labelers.unused(everything)) is not None:
        console.print(unused, markup=False, highlight=False, soft_wrap=True)
    if (warning := all_in_one_split(records.prompts.values())) is not None:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    console.print("next:", style="bold", end=" ")
    console.print(next_step(project, labelers, everything, stages), markup=False, highlight=False, soft_wrap=True)


def known_records(project: Project, labelers: Labelers) -> Records:
    """All records in the data, and the answers that labelers have given since then."""
    if not project.data.is_dir():
        return Records()
    # Simulated labelers do not know all records: the data may include an export of their work.
    records = Records.load(project.data) if labelers.invents_data else labelers.known()
    asked = [newest_done(project.runs, row.name) for row in asking_stages(project.runs) if row.asks == "rankings"]
    for folder in asked if labelers.marked == "people" else ():
        if folder is not None:
            records = with_records(records, folder / OTHERS, ("prompt", "response"))
            records = with_records(records, folder, ("response", "ranking"))
    return records


def stage_statuses(project: Project, labelers: Labelers, records: Records) -> list[StageStatus]:
    """Every stage that the project has or will have, in order."""
    further = _rows_of_further_rounds(project)
    expected = [*due(_situation(project, labelers, records)), *further]
    found: list[StageStatus] = []
    for row in (*STAGES, *further):
        folders = stage_folders(project.runs, row.name)
        if not folders:
            if row in expected:
                found.append(StageStatus(row.name, None, False, 0.0, None))
            continue
        folder = folders[max(folders)]
        state = stage_state(folder)
        done = bool(state.get("done"))
        step = None if done else last_step(folder)
        found.append(StageStatus(row.name, folder, done, float(state.get("seconds", 0.0)), step))
    return found


def _rows_of_further_rounds(project: Project) -> list[Stage]:
    """The stages of every further round that was begun."""
    earlier, settings = ended_rounds(project.runs), resolved_preset(project).rounds
    rows: list[Stage] = []
    for number in range(2, newest_round(project.runs) + 1):
        opened = Opened(number=number, earlier=tuple(earlier[: number - 1]))
        again = bool(stage_folders(project.runs, f"initial_policy_{number}"))
        members = stage_folders(project.runs, f"member_{number}_1")
        config = settings if number > len(earlier) else replace(settings, choose="disagreement" if members else "random")
        config = with_rule(config, newest_done(project.runs, first_stage(number)))
        rows += rows_of_round(opened, config, with_text=True, new_demonstrations=again)
    return rows


def _rounds_in_words(project: Project) -> Iterator[str]:
    """A line for each further round: its decision, or that it has begun."""
    decided = decisions(project.runs)
    for one in decided:
        rate = "" if one["win_rate"] is None else f", preferred to {one['against']} in {100 * one['win_rate']:.1f} %"
        result = "accepted" if one["accepted"] else "rejected"
        yield f"round {one['number']}: {one['policy']} {result}{rate}; the current policy is {one['current']}"
        public = [f"{row['name']} {_change_in_points(row)}" for row in one["benchmarks"] if "allowed" in row]
        if public:
            yield f"  benchmarks, in points: {', '.join(public)}"
    if newest_round(project.runs) > len(decided) + 1:
        yield f"round {len(decided) + 2}: begun"


def _change_in_points(row: RoundBenchmark) -> str:
    return "unknown" if row["drop"] is None else f"{-row['drop']:+.1f}"


def next_step(project: Project, labelers: Labelers, records: Records, stages: list[StageStatus]) -> str:
    """What is missing or what to do next, in one sentence."""
    command = f"`heedful align {project.folder}`"
    try:
        project.model_folder(project.base_model)
    except MissingError as error:
        return f"{error.message} ({error.got}): put it there, or change base_model in {project.config_file}"
    begun = [stage.name for stage in stages if stage.folder is not None and not stage.done]
    if begun:
        return f"{begun[0]} is not finished: run {command}, it continues"
    done = {stage.name for stage in stages if stage.done}
    newest = newest_round(project.runs)
    rows = [row for row in _rows_of_further_rounds(project) if row.round == newest]
    for row in rows or due(_situation(project, labelers, records)):
        waiting = labelers.waiting(row) if row.asks and row.name in done else None
        if waiting and row is not STAGES[-1]:
            return waiting
        if row.name not in done:
            missing = f"no demonstrations: import some with `heedful import FORMAT FILE --project {project.folder}`, then "
            return f"{missing if row.asks == 'demonstrations' else ''}run {command}"
    report = project.folder / "report.html"
    if not report.is_file():
        return f"run {command}"
    if rows:
        arrived = len(ordinary(records).prompts.keys() - ended_rounds(project.runs)[-1].known.prompts)
        new = f"; {arrived:,} prompts have arrived since: `{command[1:-1]} --round {newest + 1}`" if arrived else ""
        return f"round {newest} is over: the report is {report}{new}"
    written = report.stat().st_mtime
    # An import rewrites all files in data/, so their times do not tell which of them changed.
    data = [project.data / file_name(kind) for kind in RECORD_TYPES]
    for what, files in ((project.config_file.name, [project.config_file]), ("data", data)):
        if any(file.is_file() and file.stat().st_mtime > written for file in files):
            return f"{what} changed since {report} was written: run {command}"
    waiting = labelers.waiting(STAGES[-1])
    return f"done: the report is {report}" if waiting is None else f"the report is {report}; for its win rates {waiting}"


def _refusals_in_words(project: Project, records: Records) -> Iterator[str]:
    """What the project's model declines, and marked prompts that are not used."""
    usual, refusals = records_and_refusals(project, resolved_preset(project), records)
    if refusals is not None:
        yield from refusals_in_words(refusals)
    elif number := len(records.prompts) - len(usual.prompts):
        yield f"{number:,} prompts are marked for refusals and not used: [refusals] in heedful.toml names no policy"


def _situation(project: Project, labelers: Labelers, records: Records) -> Situation:
    preset = resolved_preset(project)
    records, refusals = records_and_refusals(project, preset, records)
    asked_for = not records.demonstrations and not project.skip_sft
    prefixes = asked_for or bool(candidate_prefixes(records.prompts, list(records.demonstrations.values()), seed=project.seed))
    return situation_of(project, preset, labelers, records, prefixes=prefixes, refusals=refusals)


def _record_table(records: Records) -> Table:
    table = Table("records", *get_args(Split), "all", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    prompts = Counter(prompt.split for prompt in records.prompts.values())
    rankings = records.rankings.values()
    rows = {
        "prompts": prompts,
        "demonstrations": _by_split(records, (d.prompt_id for d in records.demonstrations.values())),
        "rankings": _by_split(records, (r.prompt_id for r in rankings)),
        "  comparisons": _by_split(records, (r.prompt_id for r in rankings for _ in range(r.num_comparisons))),
        "ratings": _by_split(records, (r.prompt_id for r in records.ratings.values())),
    }
    for name, counts in rows.items():
        table.add_row(name, *(f"{counts[split]:,}" for split in get_args(Split)), f"{sum(counts.values()):,}")
    labeled = (*records.demonstrations.values(), *rankings, *records.ratings.values())
    table.add_row("labelers", *[""] * len(get_args(Split)), f"{len({record.labeler for record in labeled}):,}")
    return table


def _stage_table(project: Project, stages: list[StageStatus]) -> Table:
    table = Table("stage", "state", "folder")
    table.add_column("seconds", justify="right")
    for stage in stages:
        if stage.folder is None:
            table.add_row(stage.name, "not started", "", "")
            continue
        step = "" if stage.step is None else f" at step {stage.step:,}"
        state = "done" if stage.done else f"not finished{step}"
        folder = stage.folder.relative_to(project.folder)
        table.add_row(stage.name, state, str(folder), f"{stage.seconds:,.1f}")
    return table


def _by_split(records: Records, prompt_ids: Iterable[str]) -> Counter[Split]:
    return Counter(_split_of(records, prompt_id) for prompt_id in prompt_ids)


def _split_of(records: Records, prompt_id: str) -> Split:
    return records.prompts[prompt_id].split
