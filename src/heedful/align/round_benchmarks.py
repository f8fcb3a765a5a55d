"""Public benchmarks in the rule of a further round: which ones, how both policies are measured, and the scores to decide by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console

from heedful.align.rounds import rule_in
from heedful.align.settings import Given, Setting, write_json
from heedful.errors import ConfigError
from heedful.evaluate.benchmarks.benchmark_evaluation import Judging, evaluate_benchmarks
from heedful.evaluate.benchmarks.benchmark_run import Contestant, HowAsked
from heedful.evaluate.benchmarks.benchmark_scores import SeriesScore
from heedful.evaluate.benchmarks.benchmark_tables import BenchmarkResults
from heedful.evaluate.benchmarks.series import Series, series_of
from heedful.evaluate.benchmarks.task_table import SHOTS, TASKS, Task
from heedful.evaluate.benchmarks.task_table import Setting as Shots
from heedful.evaluate.results import RoundBenchmark
from heedful.presets import Preset
from heedful.project.project import Project
from heedful.ranks.world import world
from heedful.statistics import Estimate

_SCORES_FILE = "scores.json"


def task_and_setting(name: str, where: Path) -> tuple[Task, Shots]:
    """The benchmark that ``[rounds] benchmarks`` names, as ``task`` or ``task.few-shot``. Raises ConfigError.

    A rule can only use scores that need no judge, and for which higher is better.
    """
    task_name, dot, setting = name.partition(".")
    usable = [task for task in TASKS if set(task.settings) <= set(SHOTS)]
    for task in usable:
        wanted = setting if dot else "zero-shot"
        if task.name == task_name and wanted in task.settings:
            return task, wanted
    names = [f"{task.name}.{one}" if one == "few-shot" else task.name for task in usable for one in task.settings]
    unfit = [task.title for task in TASKS if task.name == task_name and task not in usable]
    raise ConfigError(
        f"{unfit[0]} cannot be in the rule of a round" if unfit else "[rounds] benchmarks names no benchmark",
        expected=f"a benchmark whose score needs no judge, and for which higher is better: {', '.join(names)}",
        got=repr(name),
        where=where,
        next_step="measure it with `heedful evaluate benchmarks`" if unfit else "choose one of these",
    )


def check_rule_benchmarks(project: Project, preset: Preset, *, with_data: bool) -> None:
    """Refuse benchmarks that do not exist, before any training. with_data: also refuse data that cannot be read.

    Raises ConfigError, MissingError, DataError.
    """
    for name in preset.rounds.benchmarks:
        task_and_setting(name, project.config_file)
    if with_data:
        _series(project, preset, preset.rounds.benchmarks)


def rule_of(given: Given) -> dict[str, float]:
    """Benchmark -> points by which it may fall, as the round wrote down when it began."""
    return rule_in(given.run_of("known")).get("benchmarks", {})


def identity_of_benchmarks(setting: Setting, names: Iterable[str], digest: Callable[[Path], str]) -> list[Any]:
    """What determines a policy's scores besides its weights: benchmarks, number of items, precision, template, and data."""
    folders = sorted({_data(setting.project, setting.preset) / name.partition(".")[0] for name in names})
    how = [setting.preset.evaluate.benchmark_items, setting.preset.answering("evaluate").precision, setting.template]
    return [sorted(names), how, [digest(folder) for folder in folders]]


def measure(given: Given, *, folder: Path, console: Console) -> None:
    """Measure both policies on the benchmarks of the rule. Answers are saved item by item, so a kill loses none of them."""
    if not world().is_rank_zero:
        return
    rule = rule_of(given)
    models = {key: given.model_of(key) for key in ("current", "policy")}
    series, results = _answered(given.setting, models, rule, folder / "answers", console)
    scores = _first_metrics(series, results)
    changes = {(one.series, one.metric): one.difference for one in results.differences}
    rows = [
        _row(name, points, scores, changes[series[name].name, series[name].task.metrics[0]])
        for name, points in sorted(rule.items())
    ]
    write_json(folder / _SCORES_FILE, rows)


def measured(folder: Path) -> list[RoundBenchmark]:
    """The scores that :func:`measure` wrote."""
    return json.loads((folder / _SCORES_FILE).read_text(encoding="utf-8"))


Scores = Mapping[tuple[str, str], SeriesScore]
"""(model, benchmark) -> the score by the benchmark's first metric (F1, accuracy, BLEU or ROUGE-L)."""


def public_scores(setting: Setting, models: Mapping[str, Path], names: Iterable[str], out: Path, console: Console) -> Scores:
    """Measure models on benchmarks, with all answers in ``out``. Raises ConfigError, MissingError, DataError, ModelError."""
    return _first_metrics(*_answered(setting, models, names, out, console))


def _answered(
    setting: Setting, models: Mapping[str, Path], names: Iterable[str], out: Path, console: Console
) -> tuple[dict[str, Series], BenchmarkResults]:
    series = _series(setting.project, setting.preset, names)
    contestants = [Contestant(name=name, folder=folder) for name, folder in models.items()]
    precision = setting.preset.answering("evaluate").precision
    how = HowAsked(template=setting.template, precision=precision, seed=setting.seed)
    return series, evaluate_benchmarks(contestants, list(series.values()), out, how, Judging(), console)


def _first_metrics(series: Mapping[str, Series], results: BenchmarkResults) -> Scores:
    found = {(one.model, one.series, one.metric): one for one in results.scores}
    return {
        (model, name): found[model, one.name, one.task.metrics[0]] for model in results.models for name, one in series.items()
    }


def _data(project: Project, preset: Preset) -> Path:
    return project.folder / preset.rounds.benchmark_data


def _series(project: Project, preset: Preset, names: Iterable[str]) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for name in sorted(names):
        task, setting = task_and_setting(name, project.config_file)
        limit = preset.evaluate.benchmark_items
        found[name] = series_of(task, setting, _data(project, preset), seed=project.seed, limit=limit)
    return found


def _row(name: str, allowed: float, scores: Scores, change: Estimate) -> RoundBenchmark:
    policy, current = scores["policy", name], scores["current", name]
    values = policy.estimate.value, current.estimate.value
    return {
        "name": name,
        "metric": policy.metric,
        "policy": finite_or_none(values[0]),
        "against": finite_or_none(values[1]),
        "drop": finite_or_none(points_of(policy.metric) * (values[1] - values[0])),
        "allowed": allowed,
        **interval_of_drop(change, points_of(policy.metric)),
    }


class DropInterval(TypedDict):
    """The 95 % interval of a drop, in points; null if unknown."""

    drop_low: float | None
    drop_high: float | None


def interval_of_drop(change: Estimate, points: float) -> DropInterval:
    """The interval of a drop. ``change``: the new policy's score minus the current one's, paired by item, ``points`` a unit."""
    return {"drop_low": finite_or_none(0 - points * change.high), "drop_high": finite_or_none(0 - points * change.low)}


def finite_or_none(value: float) -> float | None:
    """A number as JSON has it: NaN, where nothing was scored, is null."""
    return value if math.isfinite(value) else None


def points_of(metric: str) -> float:
    """Points per unit of a metric. BLEU is already in points; all others go from 0 to 1."""
    return 1.0 if metric == "bleu" else 100.0
