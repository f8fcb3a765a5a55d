"""``heedful reproduce``: the paper in miniature, from bare base models to its figures.

For each size of base model, one miniature project goes through `heedful align` with a task mixture (FLAN, T0). Figure 1
compares all models of all sizes. The experiments run on one size, *small*; the paper's ran on its smallest, 1.3B. Every part
continues after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from heedful import __version__
from heedful.align.loop import align
from heedful.align.settings import write_json
from heedful.align.task_mixture import MINIATURE
from heedful.errors import ConfigError, MissingError
from heedful.experiments.catalogue import LABELER_GROUPS, experiment_named
from heedful.experiments.experiment_run import Wanted, run_experiment
from heedful.experiments.figure_one import FigureOne, figure_one
from heedful.experiments.findings import Findings
from heedful.experiments.labeler_groups import LabelerGroups, labeler_groups
from heedful.experiments.paper_shapes import shapes_of
from heedful.experiments.reproduction_text import Reproduction, write_reproduction
from heedful.experiments.workshop import FOLDER
from heedful.miniature.preparation import WEIGHTS, base_model_folder
from heedful.presets import miniature
from heedful.project.files import write_atomically
from heedful.project.project import CONFIG_FILE, Project

PROCESSES = 2
"""Stages that run at the same time."""
EXPERIMENTED = "small"
"""The size that the experiments run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The extent of a reproduction."""

    name: str
    """full or quick."""
    tables: str
    """Tables of heedful.toml that differ from the miniature's."""
    experiments: Mapping[str, Wanted]
    """Experiment -> its size."""
    labeler_seeds: int
    """Reward models for each group of labelers; 0: none."""


FULL = Extent(
    name="full",
    tables="",
    experiments={
        name: Wanted()
        for name in ("gamma", "kl", "likert", "longer-training", "initial-mix", "learning-rate", "over-optimisation")
    },
    labeler_seeds=3,
)
_PPO = miniature().ppo
"""The projects' own values: the policies that have them are not trained again."""
QUICK = Extent(
    name="quick",
    tables="""
[sft]
epochs = 2
candidates = 2

[initial_policy]
epochs = 2
candidates = 1

[task_mixture]
epochs = 1
candidates = 1

[ppo]
episodes = 512
batch_size = 128
minibatches = 4

[collect]
prompts = 400
validation_prompts = 60

[evaluate]
prompts = 100
labelers_per_prompt = 1
benchmark_items = 20
choice_prompts = 16
""",
    experiments={
        "gamma": Wanted(values=(0, _PPO.ptx_coefficient), prompts=30, samples=1),
        "kl": Wanted(values=(_PPO.kl_coefficient, 25), prompts=30, samples=1),
        "likert": Wanted(values=(0, _PPO.kl_coefficient, 25), prompts=30, samples=1),
        "learning-rate": Wanted(values=(_PPO.learning_rate, 3e-3), prompts=30, samples=1),
    },
    labeler_seeds=1,
)
"""Everything once, in minutes: it shows that everything works, not effects."""


def reproduce(folder: Path, extent: Extent, seed: int, console: Console) -> Path:
    """Do what is left to do, then write ``results/``; return the path of its reproduction.md.

    Raises ConfigError if the folder holds a reproduction with another extent or seed, MissingError without base models, and
    whatever `heedful align` and `heedful experiment` raise.
    """
    sizes = shipped_sizes()
    projects = {size: _project(folder, size, sizes, extent, seed) for size in sizes}
    parts: list[tuple[str, Callable[[], object]]] = [
        (f"align the {size} model", lambda project=project: align(project, console)) for size, project in projects.items()
    ]
    experimented = projects[EXPERIMENTED]
    parts += [
        (
            f"experiment {name} on the {EXPERIMENTED} model",
            lambda name=name, wanted=wanted: run_experiment(experimented, experiment_named(name), wanted, console),
        )
        for name, wanted in extent.experiments.items()
    ]
    if extent.labeler_seeds:
        parts.append(
            (
                f"experiment {LABELER_GROUPS} on the {EXPERIMENTED} model",
                lambda: labeler_groups(experimented, extent.labeler_seeds, console),
            )
        )
    for number, (what, action) in enumerate(parts, start=1):
        console.print(f"part {number} of {len(parts)}: {what}", style="bold", markup=False, highlight=False)
        action()
    return _write(folder, extent, seed, projects, figure_one(projects))


def shipped_sizes() -> list[str]:
    """The base models that ship with the package, smallest first. Raises MissingError if there is none."""
    found = sorted(WEIGHTS.glob("*/model.safetensors"), key=lambda path: path.stat().st_size)
    if not found:
        raise MissingError(
            "no base model ships with the package",
            expected="weights of the miniature",
            got="none",
            where=WEIGHTS,
            next_step="make them: python -m heedful.miniature.base small medium",
        )
    return [path.parent.name for path in found]


def _project(folder: Path, size: str, sizes: Sequence[str], extent: Extent, seed: int) -> Project:
    """The project of a size, made if needed. Every reward model starts from the largest base model, as the paper's from 6B."""
    path, text = folder / size, _settings(size, sizes, extent, seed)
    file = path / CONFIG_FILE
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                "this folder holds another reproduction",
                expected=f"the {extent.name} one with seed {seed}, made with the same base models",
                got="a project with other settings",
                where=file,
                next_step="give another folder, or move this one away",
            )
        return Project.load(path)
    for name in ("data", "runs", "tasks"):
        (path / name).mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    return Project.load(path)


def _settings(size: str, sizes: Sequence[str], extent: Extent, seed: int) -> str:
    largest = "" if size == sizes[-1] else f"reward_start = {json.dumps(str(base_model_folder(sizes[-1])))}\n"
    return f"""\
# Made by `heedful reproduce` ({extent.name}): prompts and labelers are simulated.

[project]
name = "miniature, {size}"
base_model = {json.dumps(str(base_model_folder(size)))}
{largest}task_mixture = "{MINIATURE}"
labelers = "simulated"
preset = "miniature"
seed = {seed}
processes = {PROCESSES}
{extent.tables}"""


def _write(folder: Path, extent: Extent, seed: int, projects: Mapping[str, Project], figure: FigureOne) -> Path:
    experiments = projects[EXPERIMENTED].folder / FOLDER
    found: dict[str, Findings] = {
        name: json.loads((experiments / name / "results.json").read_text(encoding="utf-8")) for name in extent.experiments
    }
    groups: LabelerGroups | None = None
    if extent.labeler_seeds:
        groups = json.loads((experiments / LABELER_GROUPS / "results.json").read_text(encoding="utf-8"))
    means = (None, None) if groups is None else (groups["within"]["mean"], groups["across"]["mean"])
    command = "heedful reproduce" + (" --quick" if extent.name == "quick" else "") + (f" --seed {seed}" if seed else "")
    results: Reproduction = {
        "heedful": __version__,
        "command": command,
        "extent": extent.name,
        "seed": seed,
        "figure_1": figure,
        "shapes": shapes_of(figure, found, *means),
        "experimented": EXPERIMENTED,
        "experiments": found,
        "labeler_groups": groups,
    }
    folder = folder / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    return write_reproduction(results, folder)
