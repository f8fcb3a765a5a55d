"""``heedful status``: what a project holds, which stages are done, and what comes next. Read from the disk; no torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from heedful.errors import MissingError
from heedful.project.data_folder import RECORD_TYPES, Records, file_name
from heedful.project.files import read_rows
from heedful.project.project import Project
from heedful.project.runs import last_step, stage_folders, stage_state
from heedful.records import Split

STAGES = (
    "data",
    "sft",
    "collect",
    "reward",
    "choose_sft",
    "choose_prefix",
    "initial_policy",
    "ppo",
    "ppo_ptx",
    "initial_policy_small",
    "ppo_ptx_small",
    "evaluate",
)
"""All stages of align, in its order; which of them a project has depends on its settings and data."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How far a stage's newest run came: done, begun (``step`` is the last one in its metrics), or neither (no folder)."""

    name: str
    folder: Path | None
    done: bool
    seconds: float
    step: int | None


def show_status(project: Project, console: Console) -> None:
    """Print records, stages and what comes next. Raises DataError for a broken data folder."""
    records = Records.load(project.data) if project.data.is_dir() else Records()
    stages = stage_statuses(project, records)
    console.print(project.name, style="bold", markup=False, highlight=False)
    console.print(_record_table(records))
    console.print(_stage_table(project, stages))
    console.print("next:", style="bold", end=" ")
    console.print(next_step(project, records, stages), markup=False, highlight=False, soft_wrap=True)


def stage_statuses(project: Project, records: Records) -> list[StageStatus]:
    """Every stage that the project has or will have, in order."""
    found: list[StageStatus] = []
    for name in STAGES:
        folders = stage_folders(project.runs, name)
        if not folders:
            if _expected(project, records, name):
                found.append(StageStatus(name, None, False, 0.0, None))
            continue
        folder = folders[max(folders)]
        state = stage_state(folder)
        done = bool(state.get("done"))
        found.append(StageStatus(name, folder, done, float(state.get("seconds", 0.0)), None if done else last_step(folder)))
    return found


def next_step(project: Project, records: Records, stages: list[StageStatus]) -> str:
    """What is missing or what to do next, in one sentence."""
    command = f"`heedful align {project.folder}`"
    try:
        project.model_folder(project.base_model)
    except MissingError as error:
        return f"{error.message} ({error.got}): put it there, or change base_model in {project.config_file}"
    simulated = project.labelers == "simulated"
    if not records.demonstrations and not simulated:
        return (
            f"no demonstrations: import some with `heedful import FORMAT FILE --project {project.folder}`, then run {command}"
        )
    done = {stage.name for stage in stages if stage.done}
    begun = [stage.name for stage in stages if stage.folder is not None and not stage.done]
    if begun:
        return f"{begun[0]} is not finished: run {command}, it continues"
    if not simulated and not _has_training_rankings(records) and "collect" in done:
        tasks = project.tasks / "ranking.jsonl"
        return (
            f"{_num_rows(tasks):,} ranking tasks wait in {tasks}: fill in ranks and labeler of each, then "
            f"`heedful import heedful {tasks} --project {project.folder}`; {in_the_browser(project.folder)}"
        )
    report = project.folder / "report.html"
    if "evaluate" not in done or not report.is_file():
        return f"run {command}"
    written = report.stat().st_mtime
    # An import writes all files of data/ anew: which of them changed, their times do not tell.
    data = [project.data / file_name(kind) for kind in RECORD_TYPES]
    for what, files in ((project.config_file.name, [project.config_file]), ("data", data)):
        if any(file.is_file() and file.stat().st_mtime > written for file in files):
            return f"{what} changed since {report} was written: run {command}"
    tasks = project.tasks / "evaluation.jsonl"
    judged = simulated or any(r.phase == "evaluation" for r in records.rankings.values())
    if tasks.is_file() and not judged:
        return (
            f"the report is {report}; for its win rates {_num_rows(tasks):,} tasks wait in {tasks}: fill in ranks and labeler "
            f"of each, then `heedful import heedful {tasks} --project {project.folder}`; {in_the_browser(project.folder)}"
        )
    return f"done: the report is {report}"


def in_the_browser(folder: Path) -> str:
    """The other way for tasks to be done: people's browsers instead of a file."""
    here = f"--project {folder}"
    return f"or in the browser: `heedful store import {here}`, `heedful web {folder}`, then `heedful store export {here}`"


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
        "  comparisons": _by_split(records, (r.prompt_id for r in rankings for _ in range(_num_comparisons(r.ranks)))),
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


def _expected(project: Project, records: Records, name: str) -> bool:
    """Whether a stage that was not started will be: as far as settings and data tell."""
    if name == "data":
        return project.labelers == "simulated"
    if name == "collect":
        return project.labelers == "simulated" or not _has_training_rankings(records)
    if name.endswith("_small"):
        return project.small_model is not None
    if name == "ppo_ptx":
        return project.pretraining_text.exists() or project.labelers == "simulated"
    return True


def _has_training_rankings(records: Records) -> bool:
    return any(_split_of(records, ranking.prompt_id) == "train" for ranking in records.rankings.values())


def _by_split(records: Records, prompt_ids: Iterable[str]) -> Counter[Split]:
    return Counter(_split_of(records, prompt_id) for prompt_id in prompt_ids)


def _split_of(records: Records, prompt_id: str) -> Split:
    return records.prompts[prompt_id].split


def _num_comparisons(ranks: tuple[int, ...]) -> int:
    return sum(ranks[i] != ranks[j] for i in range(len(ranks)) for j in range(i))


def _num_rows(path: Path) -> int:
    return sum(1 for _ in read_rows(path)) if path.is_file() else 0
