"""The page about a reward model: its accuracy beside trivial rules, a reliability plot, best of n; self-contained."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from heedful import __version__
from heedful.evaluate import plots
from heedful.evaluate.results_file import write_text
from heedful.evaluate.reward_evaluation import (
    RewardEvaluation,
    best_of_table,
    calibration_table,
    group_table,
    leads_table,
    rules_table,
)


def write_reward_page(found: RewardEvaluation, path: Path) -> None:
    """Write the page to ``path``. Raises StorageError."""
    write_text(path, render_reward_page(found))


def render_reward_page(found: RewardEvaluation) -> str:
    """Render the page as text. The same numbers give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("heedful.evaluate").joinpath("reward_page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        version=__version__,
        found=found,
        rules=rules_table(found),
        leads=leads_table(found),
        groups={title: group_table(title, rows) for title, rows in found.groups.items()},
        calibration=calibration_table(found.calibration),
        best_of=best_of_table(found.best_of),
        figures={
            "accuracy": Markup(accuracy_figure(found)),
            "reliability": Markup(reliability_figure(found)),
            "best_of": Markup(best_of_figure(found)),
        },
    )


def accuracy_figure(found: RewardEvaluation) -> str:
    """Draw the reward model and each rule on all pairs, with two-way intervals where they are known."""
    rows = {"reward model": found.all_pairs.accuracy, **found.all_pairs.rules}
    with plots._style():
        figure, axes = plots._row_figure(list(rows), legend_rows=0)
        plots._percent_axis(axes, 0.0, 1.0, "pairs ordered as the labeler did")
        axes.axvline(0.5, color=plots._MUTED, linewidth=1.2, zorder=1)
        for position, (name, one) in enumerate(rows.items()):
            low, high = one.two_way.low, one.two_way.high
            ends = (one.value, one.value) if math.isnan(low) else (low, high)
            colour = plots._colour("ppo" if name == "reward model" else "base")
            plots._whisker(axes, one.value, *ends, position, colour, "o", 1.0)
        said = "; ".join(f"{name} {plots._percent(one.value)}" for name, one in rows.items())
        return plots._svg(figure, "accuracy", "Accuracy beside trivial rules", said)


def reliability_figure(found: RewardEvaluation) -> str:
    """Draw how often the higher score is right over the predicted probability; on the diagonal if calibrated."""
    bins = found.calibration.bins
    largest = max((one.count for one in bins), default=1)
    with plots._style():
        figure = Figure(figsize=(plots.WIDTH / 72, 260 / 72), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0.5, 1], [0.5, 1], color=plots._MUTED, linewidth=1.2)
        axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color=plots._colour("ppo"), linewidth=1.2)
        for one in bins:
            size = 4 + 8 * math.sqrt(one.count / largest)
            axes.plot([one.confidence], [one.accuracy], "o", color=plots._colour("ppo"), markersize=size)
        plots._percent_axis(axes, 0.48, 1.02, "predicted probability, sigmoid(difference of scores)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_ylim(min([0.45, *(b.accuracy - 0.05 for b in bins)]), 1.03)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title("how often the higher score is right", loc="left", pad=8)
        said = "; ".join(f"{plots._percent(b.confidence)} predicted, {plots._percent(b.accuracy)} right" for b in bins)
        return plots._svg(figure, "reliability", "Reliability of the scores", said)


def best_of_figure(found: RewardEvaluation) -> str:
    """Draw the labelers' verdict on the response that the reward model chooses from n."""
    curve = found.best_of
    with plots._style():
        figure = Figure(figsize=(plots.WIDTH / 72, 220 / 72), layout="constrained")
        axes = figure.add_subplot()
        for one in curve:
            axes.plot([one.n, one.n], [one.wins.low, one.wins.high], color=plots._colour("ppo"), linewidth=1.6)
        axes.plot([b.n for b in curve], [b.wins.value for b in curve], "o-", color=plots._colour("ppo"), linewidth=1.7)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xticks([b.n for b in curve])
        axes.set_xlabel("n")
        axes.grid(axis="y", linewidth=0.8)
        axes.margins(x=0.06, y=0.14)
        axes.set_title("wins of the best of n over the other responses", loc="left", pad=8)
        said = "; ".join(f"best of {b.n}: {plots._percent(b.wins.value)}" for b in curve)
        return plots._svg(figure, "best-of", "Best of n by reward, as labelers judge it", said)
