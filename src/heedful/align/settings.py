"""What stages are given: the project's settings, its labelers, the records, and the folders of earlier stages."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align.prefixes import candidate_prefixes
from heedful.align.stages import Stage, config_of, met_by
from heedful.align.who_labels import Labelers, the_miniature
from heedful.evaluate.benchmarks.abilities import Benchmark
from heedful.labeling.exchange.asking import Task
from heedful.miniature.benchmark_items import benchmarks
from heedful.miniature.tasks import few_shot_prefixes
from heedful.model.chat_template import Template
from heedful.model.engine.vllm_engine import generator
from heedful.presets import Preset
from heedful.project.data_folder import Records
from heedful.project.files import write_atomically
from heedful.project.project import Project
from heedful.project.refusals import Refusals
from heedful.project.selection import for_reward_model, without_labels
from heedful.ranks.world import world

BENCHMARK_SEED = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that stages need to know about a project, except its records."""

    project: Project
    preset: Preset
    base_model: Path
    small_model: Path | None
    reward_start: Path | None
    """The model that the reward model starts from; None: the SFT model."""
    labelers: Labelers
    benchmarks: tuple[Benchmark, ...]
    prefixes: tuple[str, ...]
    """Candidate few-shot prefixes of the base model (SPEC 3.7)."""
    refusals: Refusals | None = None
    """What the model declines; None without a policy."""

    @property
    def learns_refusals(self) -> bool:
        """Whether models are trained to decline anything."""
        return self.refusals is not None and bool(self.refusals.training_prompts())

    @property
    def seed(self) -> int:
        return self.project.seed

    @property
    def template(self) -> Template:
        """How a conversation becomes tokens: plain, chat, or the text of a Jinja template."""
        return self.project.template


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one stage is given. It can be pickled, because a stage may run in its own process."""

    stage: Stage
    setting: Setting
    config: Any
    """The stage's own settings (None if it has none)."""
    records: Records
    """The project's records. Only stages that need rankings get them."""
    runs: Mapping[str, Path]
    """Folders of the finished stages, by name."""

    def run_of(self, key: str) -> Path:
        """The folder of the earlier stage that ``needs`` in the table names under this key."""
        name = self.stage.needs[key]
        assert name is not None
        return self.runs[name]

    def made(self, key: str) -> Path | None:
        """The folder of the stage that meets this need, or None if a given model does (see :meth:`model_of`)."""
        name = met_by(str(self.stage.needs[key]), self.runs)
        return self.runs.get(name)

    def model_of(self, key: str) -> Path:
        """The folder of the model that an earlier stage made, or of the model used in its place."""
        folder = self.made(key)
        if folder is not None:
            return folder / "model"
        given: Path | None = getattr(self.setting, met_by(str(self.stage.needs[key]), self.runs))
        assert given is not None
        return given


def needs_of(given: Given) -> dict[str, str | None]:
    """The needs of a stage, without those for refusals if no model is trained to decline anything."""
    off = () if given.setting.learns_refusals else ("refusals", "refusal_comparisons")
    return {key: need for key, need in given.stage.needs.items() if need not in off}


def given_for(stage: Stage, setting: Setting, records: Records, runs: Mapping[str, Path]) -> Given:
    """What a stage is given, with only the labels that it needs."""
    ranked = stage.reads_rankings or "rankings" in stage.needs.values()
    return Given(
        stage=stage,
        setting=setting,
        config=config_of(stage, setting.preset),
        records=for_reward_model(records) if ranked else without_labels(records),
        runs=runs,
    )


def setting_of(
    project: Project, preset: Preset, labelers: Labelers, records: Records, refusals: Refusals | None = None
) -> Setting:
    """The project's setting. Raises MissingError if a model is missing, ConfigError if vLLM is needed but not installed."""
    for engine in (project.engine, preset.ppo.engine):
        generator(engine)  # raises now, not after hours of training
    return Setting(
        project=project,
        preset=preset,
        base_model=project.model_folder(project.base_model),
        small_model=None if project.small_model is None else project.model_folder(project.small_model),
        reward_start=None if project.reward_start is None else project.model_folder(project.reward_start),
        labelers=labelers,
        benchmarks=_benchmarks(preset.evaluate.benchmark_items) if labelers.invents_data else (),
        prefixes=prefixes_of(project, labelers, records),
        refusals=refusals,
    )


def prefixes_of(project: Project, labelers: Labelers, records: Records) -> tuple[str, ...]:
    """Candidate few-shot prefixes: the miniature's own, or made of the project's demonstrations."""
    if labelers.invents_data:
        return _few_shot_prefixes(project.seed)
    return candidate_prefixes(records.prompts, list(records.demonstrations.values()), seed=project.seed)


@functools.cache
def _benchmarks(items: int) -> tuple[Benchmark, ...]:
    return tuple(benchmarks(the_miniature(), seed=BENCHMARK_SEED, items=items))


@functools.cache
def _few_shot_prefixes(seed: int) -> tuple[str, ...]:
    return tuple(few_shot_prefixes(the_miniature(), seed=seed))


def ask(given: Given, tasks: list[Task], folder: Path, console: Console) -> None:
    """Give tasks to the labelers, from within a stage. Under ``torchrun`` only rank 0 does it."""
    if not world().is_rank_zero or not tasks:
        return
    if given.setting.labelers.ask(tasks, folder) is None:
        kind = "demonstrations" if tasks[0].kind == "demonstrate" else "rankings"
        with (folder / f"{kind}.jsonl").open(encoding="utf-8") as lines:
            count = sum(1 for _ in lines)
        marked = given.setting.labelers.marked
        console.print(f"{count:,} {kind}" if marked == "people" else f"{count:,} {kind} by {marked} labelers", highlight=False)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented. Under ``torchrun`` only rank 0 does it. Raises StorageError."""
    if world().is_rank_zero:
        write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
