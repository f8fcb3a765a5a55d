"""An experiment's page, self-contained: the paper's figure for the user's own model, a plot per measure, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from heedful.evaluate import plots
from heedful.evaluate.results_file import write_text
from heedful.experiments.catalogue import MEASURES, MIXED, PLAIN
from heedful.experiments.findings import Findings, Measure, Point, mean_over_seeds, measure_names, series_of, text_of

_COLOURS = {PLAIN: "ppo", MIXED: "ppo_ptx"}
_OTHERS = ("sft", "ppo", "ppo_ptx", "base")
_PERCENT = ("win_rate", "faultless", "benchmarks")
_BY_LABELERS = ("win_rate", "likert", "faultless", "reward", "held_out_reward")


def write_experiment_page(findings: Findings, path: Path) -> None:
    """Write the page. Raises StorageError."""
    write_text(path, render_experiment_page(findings))


def render_experiment_page(findings: Findings) -> str:
    """The page as text; the same findings give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("heedful.experiments").joinpath("experiment.html.jinja").read_text(encoding="utf-8")
    names = measure_names(findings["points"], findings["panels"])
    return environment.from_string(source).render(
        found=findings,
        figures=[Markup(panel_figure(findings, name)) for name in findings["panels"]],
        names=names,
        best=findings["best"],
        rows=[_row(point, names) for point in findings["points"]],
        words=lambda name: MEASURES.get(name, name.replace("_", " ")),
        value=text_of,
    )


def _row(point: Point, names: Sequence[str]) -> list[str]:
    cells = [_shown(point["measures"][name]) if name in point["measures"] else "" for name in names]
    if "diverged" in point and cells:
        cells[0] = "diverged"
    return [point["series"], text_of(point["value"]), str(point["seed"]), *cells, f"{point['seconds']:.0f}", point["folder"]]


def _shown(measure: Measure) -> str:
    ends = "" if measure["low"] is None else f" ({measure['low']:.4g} to {measure['high']:.4g})"
    return f"{measure['value']:.4g}{ends}"


def panel_figure(findings: Findings, name: str) -> str:
    """One measure over the values as inline SVG: lines of means over seeds, whiskers, a ring at the best, the base dashed."""
    title = MEASURES.get(name, name.replace("_", " "))
    mark = "simulated labelers" if findings["labelers"] == "simulated" and name in _BY_LABELERS else None
    places = _places(findings)
    lines = series_of(findings["points"])
    with plots._style():
        figure = Figure(figsize=(plots.WIDTH / 72, 240 / 72), layout="constrained")
        axes = figure.add_subplot()
        for number, (series, points) in enumerate(lines.items()):
            colour = plots._colour(_COLOURS.get(series, _OTHERS[number % len(_OTHERS)]))
            _line(axes, findings, points, name, places, colour)
        if name in findings["base"]:
            axes.axhline(findings["base"][name]["value"], color=plots._MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        best = findings["best"]
        if best is not None and name == findings["panels"][0]:
            at, level = _best_place(findings, best, name, places)
            ring = {"markerfacecolor": "none", "markeredgecolor": plots._INK, "markeredgewidth": 1.6}
            axes.plot([at], [level], "o", markersize=12, **ring)
        diverged = [places(point) for point in findings["points"] if "diverged" in point]
        axes.plot(diverged, [0.03] * len(diverged), "x", color=plots._INK, transform=axes.get_xaxis_transform())
        _axes(axes, findings, name)
        axes.set_title(title, loc="left", pad=22 if len(lines) > 1 or name in findings["base"] else 8)
        _legend(axes, list(lines), name in findings["base"])
        return plots._svg(
            figure,
            name.replace("_", "-").replace(".", "-"),
            f"{title} over {findings['x']}",
            _said(findings, lines, name),
            mark,
        )


def _places(findings: Findings) -> Any:
    """A policy's place on the x axis: its measure, its value or, for a grid of ratios, the value's index."""
    measure = findings["x_measure"]
    values = sorted({point["value"] for point in findings["points"]})

    def place(point: Point) -> float:
        if measure is not None:
            return math.sqrt(max(0.0, point["measures"][measure]["value"])) if measure in point["measures"] else 0.0
        return float(values.index(point["value"])) if findings["logarithmic"] else point["value"]

    return place


def _line(axes: Axes, findings: Findings, points: Sequence[Point], name: str, places: Any, colour: str) -> None:
    measured = sorted((point for point in points if name in point["measures"]), key=places)
    if not measured:
        return
    means = mean_over_seeds(measured, name)
    seeds = len(measured) > len(means)
    if findings["x_measure"] is None:
        at = {point["value"]: places(point) for point in measured}
        axes.plot([at[value] for value in means], list(means.values()), "-", color=colour, linewidth=1.7)
    else:
        axes.plot([places(p) for p in measured], [p["measures"][name]["value"] for p in measured], "-", color=colour)
    for point in measured:
        one, x = point["measures"][name], places(point)
        if one["low"] is not None and one["high"] is not None and not seeds:
            axes.plot([x, x], [one["low"], one["high"]], color=colour, linewidth=1.4, alpha=0.7)
        axes.plot([x], [one["value"]], "o", color=colour, markersize=4 if seeds else 5.5, alpha=0.6 if seeds else 1)


def _best_place(findings: Findings, best: Point, name: str, places: Any) -> tuple[float, float]:
    line = series_of(findings["points"])[best["series"]]
    if findings["x_measure"] is not None:
        return places(best), best["measures"][name]["value"]
    return places(best), mean_over_seeds(line, name)[best["value"]]


def _axes(axes: Axes, findings: Findings, name: str) -> None:
    values = sorted({point["value"] for point in findings["points"]})
    if findings["x_measure"] is None:
        where = range(len(values)) if findings["logarithmic"] else values
        axes.set_xticks(list(where), labels=[text_of(value) for value in values])
        axes.tick_params(axis="x", rotation=30)
    if name in _PERCENT:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(axis="y", linewidth=0.8)
    axes.margins(x=0.06, y=0.14)
    axes.set_axisbelow(True)
    axes.set_xlabel(findings["x"])


def _legend(axes: Axes, lines: Sequence[str], with_base: bool) -> None:
    handles = [
        Line2D([], [], color=plots._colour(_COLOURS.get(series, _OTHERS[number % len(_OTHERS)])), label=series)
        for number, series in enumerate(lines)
    ]
    if with_base:
        handles.append(Line2D([], [], color=plots._MUTED, linestyle=(0, (4, 3)), label="base model"))
    if len(handles) > 1:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.03, 0.97), ncols=3, handlelength=2.0)


def _said(findings: Findings, lines: Mapping[str, Sequence[Point]], name: str) -> str:
    said = [
        f"{series}: " + ", ".join(f"{text_of(value)}: {mean:.4g}" for value, mean in mean_over_seeds(points, name).items())
        for series, points in lines.items()
    ]
    diverged = [f"{point['series']} {text_of(point['value'])}" for point in findings["points"] if "diverged" in point]
    return "; ".join(said + ([f"diverged: {', '.join(diverged)}"] if diverged else []))
