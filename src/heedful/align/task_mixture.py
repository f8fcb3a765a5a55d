"""Tune the base model on a mixture of solved language tasks, like FLAN and T0: one more model in the evaluation (SPEC 3.7).

``task_mixture`` in heedful.toml names a file of solved tasks; without it there is no such model. With simulated labelers,
``"benchmarks"`` means tasks like those of the miniature's own benchmarks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from heedful.align.settings import BENCHMARK_SEED, Given, Setting
from heedful.align.train_stages import sft
from heedful.align.who_labels import the_miniature
from heedful.errors import DataError, MissingError
from heedful.miniature import solved_tasks
from heedful.project.data_folder import Records
from heedful.project.importing import AUTO, import_file
from heedful.project.selection import demonstrations_of

MINIATURE = "benchmarks"
_SHARES = (0.95, 0.05, 0.0)


def task_mixture(given: Given, *, folder: Path, console: Console) -> None:
    """Train the base model on the mixture, and keep candidates for the choice by RM score."""
    sft(replace(given, records=mixture_of(given.setting)), folder=folder, console=console)


def mixture_of(setting: Setting) -> Records:
    """The solved tasks, as prompts with demonstrations. Raises MissingError, DataError if there is none to train on."""
    if _is_the_miniatures(setting):
        return solved_tasks.solved_tasks(
            the_miniature(),
            seed=setting.seed,
            benchmark_seed=BENCHMARK_SEED,
            benchmark_items=setting.preset.evaluate.benchmark_items,
        )
    path = mixture_file(setting)
    with TemporaryDirectory(prefix="heedful-tasks-") as folder:
        report = import_file(AUTO, path, folder, split_shares=_SHARES, split_by="prompt", seed=setting.seed)
        records = Records.load(folder)
    if not demonstrations_of(records, "train"):
        raise DataError(
            "the task mixture contains no solved task",
            expected="tasks with their answers, in a format that `heedful import` reads",
            got=f"{report.read:,} rows of the format {report.format}, {len(records.demonstrations):,} with an answer",
            where=path,
            next_step="see docs/your-project.md for the formats, or remove task_mixture from heedful.toml",
        )
    return records


def mixture_file(setting: Setting) -> Path:
    """The file that heedful.toml names. Raises MissingError."""
    project = setting.project
    path = project.folder / Path(str(project.task_mixture)).expanduser()
    if not path.is_file():
        hint = "" if setting.labelers.invents_data else f' ("{MINIATURE}" is for simulated labelers)'
        raise MissingError(
            "the task mixture is not there",
            expected="a file of solved tasks, absolute or relative to the project",
            got=f"no such file{hint if project.task_mixture == MINIATURE else ''}",
            where=path,
            next_step="put it there, or remove task_mixture from heedful.toml",
        )
    return path


def identity_of(setting: Setting, digest: Any) -> Any:
    """The value that identifies the mixture in a stage's fingerprint."""
    if _is_the_miniatures(setting):
        return [MINIATURE, setting.seed, setting.preset.evaluate.benchmark_items, solved_tasks.NUM_TASKS]
    return digest(mixture_file(setting))


def _is_the_miniatures(setting: Setting) -> bool:
    return setting.labelers.invents_data and setting.project.task_mixture == MINIATURE
