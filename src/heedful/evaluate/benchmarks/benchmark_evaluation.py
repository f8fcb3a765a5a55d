"""Runs public benchmarks: chooses the series, asks the models, has answers scored and judged, and writes the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from heedful.errors import ConfigError, MissingError
from heedful.evaluate.benchmarks.benchmark_data import data_file
from heedful.evaluate.benchmarks.benchmark_run import Contestant, HowAsked, Rows, alone, ask_models
from heedful.evaluate.benchmarks.benchmark_scores import Numbers, item_numbers, series_differences, series_scores
from heedful.evaluate.benchmarks.benchmark_tables import BenchmarkResults, as_numbers, in_words, toxicity_by_prompt
from heedful.evaluate.benchmarks.series import Series, series_of
from heedful.evaluate.benchmarks.task_table import TASKS, Setting, task_named
from heedful.evaluate.benchmarks.toxicity import AGREEMENT, scorer_version
from heedful.evaluate.benchmarks.truth_judges import Judge
from heedful.evaluate.benchmarks.verdicts import (
    counted,
    judged_numbers,
    numbers_of_people,
    toxicity_numbers,
    write_table_for_people,
)
from heedful.evaluate.results_file import save_numbers, write_text
from heedful.project.files import remove_leftovers

RESULTS, TABLE, FOR_PEOPLE = "results.json", "results.txt", "truthfulqa-to-judge.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How TruthfulQA is judged: by a judge, by a table that people filled in, or not at all."""

    judge: Judge | None = None
    name: str = ""
    """The judge's name, kept with each verdict."""
    by_people: Path | None = None
    """The table that people filled in."""


Responses = Mapping[tuple[str, str], tuple[Series, Rows]]
"""Keys: model and series."""


def chosen_series(
    folder: Path, tasks: Sequence[str], settings: Sequence[Setting], *, seed: int, limit: int | None, console: Console
) -> list[Series]:
    """Choose the series: those named, or those that the folder has data for. The console lists tasks without data.

    Raises ConfigError for unknown names, MissingError if a named task has no data or if there are no data at all.
    """
    named = [task_named(name) for name in tasks]
    there = [task for task in TASKS if data_file(folder, task.name, task.files) is not None]
    absent = [task.name for task in TASKS if task not in there]
    if not named and absent:
        console.print(f"no data for {', '.join(absent)}: left out", highlight=False, markup=False)
    found: list[Series] = []
    for task in named or there:
        for setting in task.settings:
            if settings and setting not in settings:
                continue
            without_examples = setting == "few-shot" and data_file(folder, task.name, task.train_files) is None
            if without_examples and not named and not settings:
                console.print(f"no training file for {task.name}: few-shot is left out", highlight=False, markup=False)
                continue
            found.append(series_of(task, setting, folder, seed=seed, limit=limit))
    if not found:
        raise MissingError(
            "there is nothing to ask",
            expected="a folder for each task with its data, and settings that the tasks have",
            got=f"settings {', '.join(settings)}" if settings and (named or there) else "no data for any task",
            where=folder,
            next_step="docs/public-benchmarks.md names the source and the files of each data set",
        )
    return found


def evaluate_benchmarks(
    models: Sequence[Contestant], series: Sequence[Series], out: Path, how: HowAsked, judging: Judging, console: Console
) -> BenchmarkResults:
    """Ask, judge, score and compare; write ``results.json`` and ``results.txt`` into ``out``.

    Raises BusyError, MissingError, ModelError, ConfigError, DataError, StorageError.
    """
    if not models:
        raise ConfigError("no model is named", expected="the folder of at least one model", got="none")
    with alone(out):
        for folder in (out, *(out / model.name for model in models)):
            remove_leftovers(folder)  # leftovers of a run that was killed while it replaced a file
        rows = ask_models(models, series, out, how, console)
        notes: list[str] = []
        judged = _judged(models, series, rows, out, judging, notes, console)
        numbers = {
            (model.name, one.name): item_numbers(one, rows[model.name, one.name], judged.get((model.name, one.name)))
            for model in models
            for one in series
        }
        results = _results(models, series, rows, numbers, how.seed, notes)
        save_numbers(out / RESULTS, as_numbers(results))
        write_text(out / TABLE, in_words(results) + "\n")
    return results


def _results(
    models: Sequence[Contestant],
    series: Sequence[Series],
    rows: Mapping[tuple[str, str], Rows],
    numbers: Mapping[tuple[str, str], Sequence[Numbers]],
    seed: int,
    notes: Sequence[str],
) -> BenchmarkResults:
    first, *others = [model.name for model in models]
    return BenchmarkResults(
        models=(first, *others),
        series=tuple(series),
        scores=tuple(
            score
            for one in series
            for name in (first, *others)
            for score in series_scores(name, one, rows[name, one.name], numbers[name, one.name], seed=seed)
        ),
        differences=tuple(
            difference
            for one in series
            for name in others
            for difference in series_differences(
                first,
                name,
                one,
                (rows[first, one.name], numbers[first, one.name]),
                (rows[name, one.name], numbers[name, one.name]),
                seed=seed,
            )
        ),
        toxicity_by_prompt={
            name: {
                one.name: toxicity_by_prompt(one, numbers[name, one.name])
                for one in series
                if one.task.name == "real_toxicity_prompts"
            }
            for name in (first, *others)
        },
        notes=tuple(notes),
    )


def _judged(
    models: Sequence[Contestant],
    series: Sequence[Series],
    rows: Mapping[tuple[str, str], Rows],
    out: Path,
    judging: Judging,
    notes: list[str],
    console: Console,
) -> dict[tuple[str, str], dict[str, Numbers]]:
    """Return scores and verdicts by model and series. ``notes`` receives the judges' quality and what they left out."""
    found: dict[tuple[str, str], dict[str, Numbers]] = {}
    toxic = [one for one in series if one.task.name == "real_toxicity_prompts"]
    for one in toxic:
        for model in models:
            found[model.name, one.name] = toxicity_numbers(one, rows[model.name, one.name])
    if toxic:
        notes.append(f"toxicity by {scorer_version()}: {AGREEMENT}")
    truth: Responses = {
        (model.name, one.name): (one, rows[model.name, one.name])
        for one in series
        if one.task.name == "truthfulqa"
        for model in models
    }
    if truth and judging.by_people is not None:
        found |= numbers_of_people(judging.by_people, truth)
        notes.append(f"TruthfulQA was judged by people: {judging.by_people.name}")
    elif truth and judging.judge is not None:
        notes.append(f"TruthfulQA was judged by {judging.name}")
        for (model, name), (one, own) in truth.items():
            path = out / model / f"{name}.verdicts.jsonl"
            found[model, name], reasons = judged_numbers(judging.judge, judging.name, one, own, path, console)
            if reasons:
                notes.append(f"{model}, {name}: missing verdicts: {counted(reasons)}")
    elif truth:
        count = write_table_for_people(out / FOR_PEOPLE, truth)
        notes.append(
            f"TruthfulQA has no judge: name one, or fill the {count:,} rows of {FOR_PEOPLE} and give it with --verdicts"
        )
    return found
