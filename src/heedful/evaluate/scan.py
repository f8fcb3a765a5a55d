"""The page of a sweep: one plot of the measure over the swept value, one table, the best trial."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from heedful.evaluate import plots
from heedful.evaluate.results_file import write_text


class Trial(TypedDict):
    """One trial: the value, its result (none if it diverged), and its folder, relative to the project."""

    value: float
    folder: str
    seconds: float
    metrics: dict[str, float]
    diverged: NotRequired[str]


class Scan(TypedDict):
    """``results.json`` of a sweep."""

    heedful: str
    project: str
    labelers: str
    step: str
    field: str
    metric: str
    better: str
    """``higher`` or ``lower``."""
    spacing: str
    trials: list[Trial]
    best: Trial | None


def write_scan(scan: Scan, path: str | Path) -> None:
    """Write the page to ``path``. Raises StorageError."""
    write_text(path, render_scan(scan))


def render_scan(scan: Scan) -> str:
    """Render the page as text. The same results give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["value"] = value_text
    template = environment.from_string(files("heedful.evaluate").joinpath("scan.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        scan=scan,
        columns=columns(scan["trials"], scan["metric"]),
        figure=Markup(scan_figure(scan)),
        words=lambda name: name.replace("_", " "),
    )


def scan_figure(scan: Scan) -> str:
    """Draw the measure over the value as inline SVG. The best trial is ringed; diverged ones are crosses on the lower edge."""
    name, metric = scan["field"].replace("_", " "), scan["metric"].replace("_", " ")
    done = [(trial["value"], trial["metrics"][scan["metric"]]) for trial in scan["trials"] if "diverged" not in trial]
    diverged = [trial["value"] for trial in scan["trials"] if "diverged" in trial]
    mark = "simulated labelers" if scan["labelers"] == "simulated" and scan["step"] != "sft" else None
    with plots._style():
        figure = Figure(figsize=(plots.WIDTH / 72, 250 / 72), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([x for x, _ in done], [y for _, y in done], "o-", color=plots._colour("ppo"), linewidth=1.7, markersize=5)
        best = scan["best"]
        if best is not None:
            axes.plot(
                [best["value"]],
                [best["metrics"][scan["metric"]]],
                "o",
                markersize=12,
                markerfacecolor="none",
                markeredgecolor=plots._INK,
                markeredgewidth=1.6,
            )
        axes.plot(diverged, [0.03] * len(diverged), "x", color=plots._INK, markersize=8, transform=axes.get_xaxis_transform())
        if scan["spacing"] == "geometric" and all(trial["value"] > 0 for trial in scan["trials"]):
            axes.set_xscale("log")
        axes.set_xticks([trial["value"] for trial in scan["trials"]], labels=[value_text(t["value"]) for t in scan["trials"]])
        axes.minorticks_off()
        axes.tick_params(axis="x", rotation=30)
        axes.grid(axis="y", linewidth=0.8)
        axes.margins(x=0.06, y=0.14)
        axes.set_axisbelow(True)
        axes.set_xlabel(name)
        axes.set_title(f"{metric} ({scan['better']} is better)", loc="left", pad=8)
        said = "; ".join(f"{value_text(x)}: {y:.4g}" for x, y in done)
        if diverged:
            said += "; diverged: " + ", ".join(map(value_text, diverged))
        return plots._svg(figure, "scan", f"{metric} over {name}", said, mark)


def columns(trials: Sequence[Trial], metric: str) -> list[str]:
    """Return the names of the measures, starting with the one that decides."""
    names = dict.fromkeys([metric, *(name for trial in trials for name in trial["metrics"])])
    return list(names)


def value_text(value: Any) -> str:
    """Write a value of the grid with just enough digits to tell it from its neighbours."""
    return f"{value:.3g}"
