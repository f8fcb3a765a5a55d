"""The results of an experiment: results.json, and the same as a table for spreadsheets. No torch here."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from heedful.project.files import write_atomically
from heedful.statistics import Estimate

LOWER_IS_BETTER = ("text_loss", "kl")


class Measure(TypedDict):
    """A number with its interval; the ends are null where they are not known."""

    value: float
    low: float | None
    high: float | None


class Point(TypedDict):
    """One policy of an experiment."""

    series: str
    value: float
    seed: int
    folder: str
    """Relative to the project."""
    seconds: float
    measures: dict[str, Measure]
    diverged: NotRequired[str]


class Findings(TypedDict):
    """``results.json`` of an experiment."""

    heedful: str
    project: str
    labelers: str
    experiment: str
    title: str
    source: str
    paper: str
    x: str
    x_measure: str | None
    logarithmic: bool
    panels: list[str]
    episodes: int
    prompts: int
    samples: int
    base: dict[str, Measure]
    """Measures of the base model, which alignment should not worsen."""
    points: list[Point]
    best: Point | None
    """The best policy by the first panel; seeds of a value count together."""
    notes: list[str]


def as_measure(estimate: Estimate) -> Measure:
    """An estimate for JSON, which has no NaN."""
    ends = [None if math.isnan(end) else round(end, 6) for end in (estimate.low, estimate.high)]
    return {"value": round(estimate.value, 6), "low": ends[0], "high": ends[1]}


def series_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Line of the figure -> its policies that did not diverge."""
    found: dict[str, list[Point]] = {}
    for point in points:
        line = found.setdefault(point["series"], [])
        if "diverged" not in point:
            line.append(point)
    return found


def mean_over_seeds(points: Sequence[Point], name: str) -> dict[float, float]:
    """Value -> mean of a measure over the seeds of one line, in the order of the values."""
    found: dict[float, list[float]] = {}
    for point in points:
        if name in point["measures"]:
            found.setdefault(point["value"], []).append(point["measures"][name]["value"])
    return {value: sum(own) / len(own) for value, own in sorted(found.items())}


def best_point(findings: Findings) -> Point | None:
    """The first seed's policy of the value with the best mean in the first panel."""
    if not findings["panels"]:
        return None
    name = findings["panels"][0]
    sign = -1 if name in LOWER_IS_BETTER else 1
    means = {
        (series, value): sign * mean
        for series, line in series_of(findings["points"]).items()
        for value, mean in mean_over_seeds(line, name).items()
    }
    if not means:
        return None
    series, value = max(means, key=means.__getitem__)
    return next(one for one in findings["points"] if (one["series"], one["value"]) == (series, value) and "diverged" not in one)


def measure_names(points: Sequence[Point], first: Sequence[str] = ()) -> list[str]:
    """Names of all measures, those of the figure first."""
    names = dict.fromkeys(first)
    for point in points:
        names |= dict.fromkeys(point["measures"])
    return list(names)


def write_csv(findings: Findings, path: Path) -> None:
    """A row for each policy, with three columns for each measure. Raises StorageError."""
    names = measure_names(findings["points"], findings["panels"])
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", "value", "seed", "diverged", "seconds", "folder", *columns])
    for point in findings["points"]:
        cells = [cell for name in names for cell in _cells(point["measures"], name)]
        row = [point["series"], point["value"], point["seed"], point.get("diverged", ""), point["seconds"], point["folder"]]
        writer.writerow([*row, *cells])
    write_atomically(path, text.getvalue())


def _cells(measures: Mapping[str, Measure], name: str) -> list[float | str]:
    if name not in measures:
        return ["", "", ""]
    one = measures[name]
    return [one["value"], *("" if end is None else end for end in (one["low"], one["high"]))]


def text_of(value: float) -> str:
    """A value of the grid as text: whole numbers in full, others with three digits."""
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 1 else f"{value:.3g}"
