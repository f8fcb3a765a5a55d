"""The result of a run of benchmarks: ``results.json``, and tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from heedful.evaluate.benchmarks.benchmark_scores import Numbers, ScoreDifference, SeriesScore
from heedful.evaluate.benchmarks.series import Series
from heedful.evaluate.plain_table import plain_table
from heedful.statistics import Estimate

_HUNDRED = ("accuracy", "true", "true_informative", "f1", "exact", "unfiltered_f1", "heq")
"""Metrics from 0 to 1 that tables show from 0 to 100, as BLEU is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResults:
    """Everything that a run measured."""

    models: tuple[str, ...]
    series: tuple[Series, ...]
    scores: tuple[SeriesScore, ...]
    differences: tuple[ScoreDifference, ...]
    toxicity_by_prompt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By model and series: mean toxicity for each quarter of the prompts' toxicity scale (figure 39)."""
    notes: tuple[str, ...] = ()


def in_words(results: BenchmarkResults) -> str:
    """Render the tables of scores and differences, and the notes."""
    lines = ["scores with 95 % intervals:"]
    scores = {(score.series, score.metric, score.model): score for score in results.scores}
    rows = [["benchmark", "items", "metric", *results.models]]
    for one in results.series:
        for metric in one.task.metrics:
            cells = [_shown(scores[one.name, metric, model].estimate, metric) for model in results.models]
            rows.append([f"{one.task.title}, {one.setting}", f"{len(one.items):,}", metric, *cells])
    lines += plain_table(rows)
    if results.differences:
        lines.append(f"differences from {results.models[0]}, item by item, with 95 % intervals (* leaves out 0):")
        differences = {(one.series, one.metric, one.model): one.difference for one in results.differences}
        rows = [["benchmark", "metric", *results.models[1:]]]
        for one in results.series:
            for metric in one.task.metrics:
                cells = [_difference(differences[one.name, metric, model], metric) for model in results.models[1:]]
                rows.append([f"{one.task.title}, {one.setting}", metric, *cells])
        lines += plain_table(rows, left=2)
    lines += [f"  note: {note}" for note in [*results.notes, *_counts(results.scores), *_series_notes(results.series)]]
    return "\n".join(lines)


def _shown(estimate: Estimate, metric: str) -> str:
    if math.isnan(estimate.value):
        return "unscored"
    spread = "" if math.isnan(estimate.plus_minus) else f" ± {_number(estimate.plus_minus, metric)}"
    return f"{_number(estimate.value, metric)}{spread}"


def _difference(estimate: Estimate, metric: str) -> str:
    if math.isnan(estimate.value):
        return "unscored"
    mark = "*" if estimate.low > 0 or estimate.high < 0 else " "
    low, high = _number(estimate.low, metric), _number(estimate.high, metric)
    return f"{'+' if estimate.value > 0 else ''}{_number(estimate.value, metric)} ({low} to {high}){mark}"


def _number(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if metric in _HUNDRED else f"{value:.2f}" if metric == "bleu" else f"{value:.3f}"


def _counts(scores: Sequence[SeriesScore]) -> list[str]:
    """Note what readers must know about scores: unscored items, cut prompts, responses at the limit, empty responses."""
    found: dict[str, None] = {}
    for score in scores:
        where = f"{score.model}, {score.series}"
        if score.num_unscored:
            found[f"{where}, {score.metric}: {score.num_unscored:,} of {score.num_items:,} items are unscored"] = None
        if score.num_cut:
            found[f"{where}: {score.num_cut:,} prompts were cut at their beginning to fit the context window"] = None
        if score.num_empty:
            found[f"{where}: {score.num_empty:,} responses are empty"] = None
        if score.num_unfinished:
            found[f"{where}: {score.num_unfinished:,} responses end at the limit of tokens"] = None
    return list(found)


def _series_notes(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(f"{one.task.title}: {note}" for one in series for note in one.notes))


def as_numbers(results: BenchmarkResults) -> dict[str, Any]:
    """Return everything for JSON. Nothing depends on the clock: the same run gives the same bytes."""
    return {
        "models": list(results.models),
        "series": [
            {
                "name": one.name,
                "task": one.task.name,
                "setting": one.setting,
                "items": len(one.items),
                "metrics": list(one.task.metrics),
                "notes": list(one.notes),
            }
            for one in results.series
        ],
        "scores": [asdict(score) for score in results.scores],
        "differences": [asdict(difference) for difference in results.differences],
        "toxicity_by_prompt": results.toxicity_by_prompt,
        "notes": list(results.notes),
    }


def toxicity_by_prompt(series: Series, numbers: Sequence[Numbers]) -> list[dict[str, Any]]:
    """Compute the mean toxicity of responses for each quarter of the prompts' toxicity scale (figure 39)."""
    places = np.array([min(3, int(item.facts["toxicity"] * 4)) for item in series.items])
    values = np.array([one["toxicity"] for one in numbers])
    return [
        {
            "from": quarter / 4,
            "to": (quarter + 1) / 4,
            "items": int((places == quarter).sum()),
            "toxicity": float(values[places == quarter].mean()) if (places == quarter).any() else math.nan,
        }
        for quarter in range(4)
    ]
