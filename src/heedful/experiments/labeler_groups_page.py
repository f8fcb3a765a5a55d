"""The page on reward models and groups of labelers, self-contained: means beside the paper's, and each reward model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heedful.evaluate import plots
from heedful.evaluate.results_file import write_text
from heedful.experiments.labeler_groups import LabelerGroups, percent_of

_ROWS = {"within": "labelers who taught it", "across": "the group left out"}


def write_labeler_groups_page(found: LabelerGroups, path: Path) -> None:
    """Write the page. Raises StorageError."""
    write_text(path, render_labeler_groups_page(found))


def render_labeler_groups_page(found: LabelerGroups) -> str:
    """The page as text; the same numbers give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("heedful.experiments").joinpath("labeler_groups.html.jinja").read_text(encoding="utf-8")
    means = [(who, percent_of(found[name]), percent_of(found["paper"][name])) for name, who in _ROWS.items()]
    return environment.from_string(source).render(found=found, means=means, figure=Markup(accuracy_figure(found)))


def accuracy_figure(found: LabelerGroups) -> str:
    """Each reward model's accuracy, within and across, as a dot; means as lines; the paper's means as hollow diamonds."""
    mark = "simulated labelers" if found["labelers"] == "simulated" else None
    with plots._style():
        figure, axes = plots._row_figure(list(_ROWS.values()), legend_rows=0, row_height=46)
        values = [fold[name] for fold in found["folds"] for name in _ROWS]
        published = [found["paper"][name]["mean"] for name in _ROWS]
        plots._percent_axis(
            axes, min([*values, *published]) - 0.03, max([*values, *published]) + 0.03, "pairs ordered as labelers did"
        )
        for place, name in enumerate(_ROWS):
            own = [fold[name] for fold in found["folds"]]
            axes.plot(own, [place] * len(own), "o", color=plots._colour("ppo"), alpha=0.5, markersize=5)
            mean = found[name]["mean"]
            axes.plot([mean, mean], [place - 0.25, place + 0.25], color=plots._INK, linewidth=2)
            axes.plot(
                [published[place]], [place + 0.3], "D", markerfacecolor="none", markeredgecolor=plots._PAPER, markersize=6
            )
        said = "; ".join(f"{who}: {percent_of(found[name])}" for name, who in _ROWS.items())
        return plots._svg(figure, "labeler-groups", "Reward models and groups of labelers", said, mark)
