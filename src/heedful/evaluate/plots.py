"""The report's figures: one small function each, results in, one inline SVG out. The same input gives the same text.

Colours are CSS variables (``--fig-ink``, ``--fig-ppo`` ...) that the page sets for light, dark and print, and text stays
text. A figure that shows a human judgement carries the labelers' kind *inside* the SVG, so that a copy of the figure alone
still says "simulated labelers".
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from heedful.evaluate import lineup, paper
from heedful.evaluate.lineup import BASE, PPO, PPO_PTX, SFT
from heedful.evaluate.results import AlignmentTax, Benchmark, DataCounts, HeadToHead, Model, RewardModel, WinRate

WIDTH = 420
"""Width of a figure in SVG units (points): near a phone's width, so that text keeps its size there."""

_SENTINELS: Mapping[str, str] = {
    name: f"#0101{index:02x}" for index, name in enumerate(("ink", "muted", "grid", *lineup.FAMILIES, "paper"), start=1)
}
"""Colours that matplotlib writes and ``_svg`` then replaces by the page's CSS variables."""

_INK, _MUTED, _GRID, _PAPER = (_SENTINELS[name] for name in ("ink", "muted", "grid", "paper"))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "heedful",
    "text.parse_math": False,  # a model's label may hold a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same layout everywhere
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.edgecolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_GROUP_MARKS: Mapping[str, tuple[str, str, float]] = {
    "held_out": ("held-out labelers", "o", 1.0),
    "training": ("training labelers", "s", 0.55),
}
_MODEL_MARKS: Mapping[str, str] = {BASE.name: "s", SFT.name: "^", PPO.name: "o", PPO_PTX.name: "D"}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a curve figure: x and y of equal length; ``model`` picks the colour."""

    label: str
    model: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def model_title(models: Mapping[str, Model], name: str) -> str:
    """Return label and size, such as "PPO-ptx 1.6M"."""
    model = models[name]
    return f"{model['label']} {model['size']}".strip()


def win_rates(rows: Sequence[WinRate], models: Mapping[str, Model], baseline: str, mark: str) -> str:
    """Draw win rates against the baseline, a row per model in the order of ``models``, with 95 % intervals (SPEC 4.1).

    The baseline's own row is the 50 % line. Hollow diamonds: the paper's 175B values.
    """
    names = [name for name in models if name == baseline or any(row["model"] == name for row in rows)]
    with _style():
        figure, axes = _row_figure([model_title(models, name) for name in names], legend_rows=2)
        _percent_axis(axes, 0.0, 1.0, f"share preferred to {_at_most(models[baseline]['label'], 30)}")
        axes.axvline(0.5, color=_MUTED, linewidth=1.2, zorder=1)
        groups = [group for group in _GROUP_MARKS if any(row["group"] == group for row in rows)]
        for position, name in enumerate(names):
            here = {row["group"]: row for row in rows if row["model"] == name}
            if name == baseline:
                axes.plot([0.5], [position], "|", color=_SENTINELS[SFT.name], markersize=14, markeredgewidth=3)
            for group, row in here.items():
                shift = 0.0 if len(groups) == 1 else (-0.14 if group == "held_out" else 0.14)
                _whisker(
                    axes, row["win_rate"], row["low"], row["high"], position + shift, _colour(name), *_GROUP_MARKS[group][1:]
                )
            published = paper.WIN_RATE_AGAINST_SFT.get(name) if baseline == SFT.name else None
            if published is not None:
                _paper_mark(axes, published, position + (0.34 if len(groups) > 1 else 0.25))
        _legend(axes, groups, with_paper=baseline == SFT.name and any(name in paper.WIN_RATE_AGAINST_SFT for name in names))
        said = "; ".join(
            f"{model_title(models, row['model'])} {_percent(row['win_rate'])}"
            f" ({_percent(row['low'])} to {_percent(row['high'])}, {_GROUP_MARKS[row['group']][0]})"
            for row in rows
        )
        return _svg(figure, "win-rates", f"Win rate against {models[baseline]['label']}", said, mark)


def head_to_head(rows: Sequence[HeadToHead], models: Mapping[str, Model], mark: str) -> str:
    """Draw pairs of models judged directly, with 95 % intervals. Hollow diamonds: the paper's 175B models."""
    pairs = list(dict.fromkeys((row["model"], row["against"]) for row in rows))
    with _style():
        titles = [f"{model_title(models, model)}\nover {model_title(models, against)}" for model, against in pairs]
        figure, axes = _row_figure(titles, legend_rows=2, row_height=38)
        _percent_axis(axes, 0.0, 1.0, "share preferred")
        axes.axvline(0.5, color=_MUTED, linewidth=1.2, zorder=1)
        groups = [group for group in _GROUP_MARKS if any(row["group"] == group for row in rows)]
        for row in rows:
            position = pairs.index((row["model"], row["against"]))
            shift = 0.0 if len(groups) == 1 else (-0.14 if row["group"] == "held_out" else 0.14)
            _whisker(
                axes,
                row["win_rate"],
                row["low"],
                row["high"],
                position + shift,
                _colour(row["model"]),
                *_GROUP_MARKS[row["group"]][1:],
            )
        for position, pair in enumerate(pairs):
            if pair in paper.HEAD_TO_HEAD:
                _paper_mark(axes, paper.HEAD_TO_HEAD[pair], position + (0.34 if len(groups) > 1 else 0.25))
        _legend(axes, groups, with_paper=any(pair in paper.HEAD_TO_HEAD for pair in pairs))
        said = "; ".join(
            f"{model_title(models, row['model'])} over {model_title(models, row['against'])} {_percent(row['win_rate'])}"
            f" ({_GROUP_MARKS[row['group']][0]})"
            for row in rows
        )
        return _svg(figure, "head-to-head", "Pairs of models judged directly", said, mark)


def reward_model(section: RewardModel, mark: str) -> str:
    """Draw reward-model accuracy beside the labelers' own agreement and the two length rules, with 95 % intervals."""
    rows: list[tuple[str, float, float, float, str, paper.PaperValue | None]] = []
    for group in ("held_out", "training"):
        estimate = section["by_group"].get(group)
        if estimate is not None:
            label = f"Reward model,\n{_GROUP_MARKS[group][0]}"
            published = paper.REWARD_MODEL_ACCURACY[group]
            rows.append((label, estimate["value"], estimate["low"], estimate["high"], _SENTINELS["ppo"], published))
    if not rows:
        rows.append(("Reward model", section["accuracy"], section["low"], section["high"], _SENTINELS["ppo"], None))
    for group in ("held_out", "training"):
        who = _GROUP_MARKS[group][0]
        of_two, with_model = section["agreement"].get(group), section["agreement_with_reward_model"].get(group)
        if of_two is not None:
            label = f"Agreement,\n{who}"
            rows.append((label, of_two["value"], of_two["low"], of_two["high"], _SENTINELS[SFT.name], paper.AGREEMENT[group]))
        if with_model is not None:
            label = f"Reward model with\n{who}, same pairs"
            rows.append((label, with_model["value"], with_model["low"], with_model["high"], _SENTINELS["ppo"], None))
    for label, rule in (("The longer one wins", section["longer_wins"]), ("The shorter one wins", section["shorter_wins"])):
        rows.append((label, rule["value"], rule["low"], rule["high"], _SENTINELS[BASE.name], None))
    with _style():
        figure, axes = _row_figure([row[0] for row in rows], legend_rows=1, row_height=36)
        _percent_axis(axes, 0.0, 1.0, "share of comparisons")
        axes.axvline(0.5, color=_MUTED, linewidth=1.2, zorder=1)
        for position, (_, value, low, high, colour, published) in enumerate(rows):
            axes.barh(position, value, height=0.5, color=colour, alpha=0.35, zorder=2)
            axes.plot([value, value], [position - 0.25, position + 0.25], color=colour, linewidth=2.5, zorder=3)
            if high > low:
                axes.plot([low, high], [position, position], color=_INK, linewidth=1.6, zorder=4)
            if published is not None:
                _paper_mark(axes, published, position + 0.36)
        _legend(axes, [], with_paper=any(row[5] is not None for row in rows), chance=True)
        said = "; ".join(f"{label.replace(chr(10), ' ')} {_percent(value)}" for label, value, *_ in rows)
        return _svg(figure, "reward-model", "Reward model, labelers and length rules", said, mark)


@lru_cache(maxsize=128)
def curve(
    name: str, title: str, x_label: str, series: tuple[Series, ...], marked_x: float | None = None, mark: str | None = None
) -> str:
    """Draw one curve per model. ``marked_x`` rings the points at that x (the chosen checkpoint), ``mark`` says who judged.

    A command that writes its report again, as after each round, draws only what has changed: a curve takes a tenth of a second.
    """
    with _style():
        figure = Figure(figsize=(300 / 72, 190 / 72), layout="constrained")
        axes = figure.add_subplot()
        for one in series:
            dashes = (4, 1.5) if one.model == PPO_PTX.name else ()
            axes.plot(one.x, one.y, color=_colour(one.model), dashes=dashes, linewidth=1.7, label=_at_most(one.label, 12))
            if len(one.x) <= 20:
                axes.plot(one.x, one.y, "o", color=_colour(one.model), markersize=4)
            ringed = [(x, y) for x, y in zip(one.x, one.y, strict=True) if x == marked_x]
            for x, y in ringed:
                axes.plot([x], [y], "o", markersize=11, markerfacecolor="none", markeredgecolor=_INK, markeredgewidth=1.6)
        axes.grid(axis="y", linewidth=0.8)
        axes.margins(x=0.04, y=0.12)
        axes.locator_params(nbins=5)
        axes.set_axisbelow(True)
        axes.set_title(title, loc="left", pad=20 if len(series) > 1 else 8)
        axes.set_xlabel(x_label)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.97), ncols=2, handlelength=2.4)
        said = "; ".join(f"{one.label} from {one.y[0]:.3g} to {one.y[-1]:.3g}" for one in series if len(one.y))
        return _svg(figure, name, title, said, mark)


def alignment_tax(rows: Sequence[AlignmentTax], benchmarks: Sequence[Benchmark], models: Mapping[str, Model]) -> str:
    """Draw each model's score per benchmark, with intervals if measured, and the share of PPO's drop that PPO-ptx undoes."""
    intervals = {
        (benchmark["name"], score["model"]): (score["low"], score["high"])
        for benchmark in benchmarks
        for score in benchmark["scores"]
    }
    names = [name for name in _MODEL_MARKS if name in models]
    with _style():
        titles = [f"{row['benchmark']}\n{_undone(row['share_undone'])}" for row in rows]
        figure, axes = _row_figure(titles, legend_rows=1, row_height=58)
        reached = [value for row in rows for value in (row["base"], row["sft"], row["ppo"], row["ppo_ptx"])]
        reached += [bound for row in rows for name in names for bound in intervals.get((row["benchmark"], name), ())]
        _percent_axis(axes, max(0.0, min(reached) - 0.05), min(1.0, max(reached) + 0.05), "score (higher is better)")
        for position, row in enumerate(rows):
            scores = {"base": row["base"], "sft": row["sft"], "ppo": row["ppo"], "ppo_ptx": row["ppo_ptx"]}
            for index, name in enumerate(names):
                low, high = intervals.get((row["benchmark"], name), (scores[name], scores[name]))
                shift = (index - (len(names) - 1) / 2) * 0.2
                _whisker(axes, scores[name], low, high, position + shift, _colour(name), _MODEL_MARKS[name], 1.0)
        handles = [
            Line2D(
                [], [], marker=_MODEL_MARKS[name], color=_colour(name), linestyle="", label=_at_most(models[name]["label"], 8)
            )
            for name in names
        ]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, columnspacing=1.0, handletextpad=0.2)
        said = "; ".join(
            f"{row['benchmark']}: base {_percent(row['base'])}, SFT {_percent(row['sft'])}, PPO {_percent(row['ppo'])},"
            f" PPO-ptx {_percent(row['ppo_ptx'])}"
            for row in rows
        )
        return _svg(figure, "alignment-tax", "Benchmarks before and after alignment", said)


def loop(counts: DataCounts, labelers: str, columns: int) -> str:
    """Draw the loop: a ring of eight boxes, clockwise, 4 x 2 for a wide page or 2 x 4 for a phone (``columns``)."""
    boxes = [
        ("Prompts", "people ask", _counted(counts, "prompts"), True),
        ("Demonstrations", "labelers answer", _counted(counts, "demonstrations"), True),
        ("SFT", "the model imitates", "", False),
        ("Rankings", "labelers order outputs", _counted(counts, "rankings"), True),
        ("Reward model", "learns the order", _counted(counts, "comparisons"), False),
        ("PPO, PPO-ptx", "optimise the reward", _counted(counts, "episodes"), False),
        ("Evaluation", "held-out labelers judge", "", True),
        ("Round again", "rank the new policy", "", False),
    ]
    places = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (1, 1), (0, 1)]
    if columns == 2:
        places = [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (0, 3), (0, 2), (0, 1)]
    width, height, gap = 190, 78, 32
    name = f"loop-{columns}"
    parts: list[str] = []
    for (title, caption, count, by_people), (column, row) in zip(boxes, places, strict=True):
        x, y = column * (width + gap) + 2, row * (height + gap) + 2
        kind = "people" if by_people else "model"
        parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{18 if by_people else 4}"/>')
        lines = [("b", title), ("", caption)] + ([("n", count)] if count else [])
        for index, (style, text) in enumerate(lines):
            line_y = y + height / 2 + 5 + (index - (len(lines) - 1) / 2) * 20
            parts.append(f'<text class="{style}" x="{x + width / 2}" y="{line_y:g}">{escape(text)}</text>')
    for (column, row), (next_column, next_row) in zip(places, places[1:] + places[:1], strict=True):
        x = column * (width + gap) + 2 + width / 2 + (next_column - column) * width / 2
        y = row * (height + gap) + 2 + height / 2 + (next_row - row) * height / 2
        to_x, to_y = x + (next_column - column) * (gap - 12), y + (next_row - row) * (gap - 12)
        parts.append(f'<path class="arrow" d="M{x:g} {y:g}L{to_x:g} {to_y:g}" marker-end="url(#{name}-head)"/>')
    total_width = columns * (width + gap) - gap + 4
    total_height = (8 // columns) * (height + gap) - gap + 4
    who = "simulated labelers" if labelers == "simulated" else "people"
    steps = "; ".join(", ".join(filter(None, box[:3])) for box in boxes)
    said = f"A ring, clockwise: {steps}. Rounded boxes are the work of {who}."
    return (
        f'<svg class="loop" viewBox="0 0 {total_width} {total_height}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">The loop</title><desc id="{name}-desc">{escape(said)}</desc>'
        f'<defs><marker id="{name}-head" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>{"".join(parts)}</svg>'
    )


@contextmanager
def _style() -> Iterator[None]:
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts draw the text
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _row_figure(titles: Sequence[str], legend_rows: int, row_height: float = 34) -> tuple[Figure, Axes]:
    height = len(titles) * row_height + 48 + 18 * legend_rows
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(
        range(len(titles)), labels=["\n".join(_at_most(line, 30) for line in title.split("\n")) for title in titles]
    )
    axes.set_ylim(len(titles) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _percent_axis(axes: Axes, low: float, high: float, label: str) -> None:
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(label)


def _whisker(axes: Axes, value: float, low: float, high: float, y: float, colour: str, marker: str, strength: float) -> None:
    axes.plot([low, high], [y, y], color=colour, alpha=strength, linewidth=2, zorder=3)
    axes.plot([value], [y], marker, color=colour, alpha=strength, markersize=6.5, zorder=4)


def _paper_mark(axes: Axes, published: paper.PaperValue, y: float) -> None:
    axes.plot([published.low, published.high], [y, y], color=_PAPER, linewidth=1.2, zorder=3)
    axes.plot([published.value], [y], "D", markerfacecolor="none", markeredgecolor=_PAPER, markersize=6, zorder=4)


def _legend(axes: Axes, groups: Sequence[str], with_paper: bool, chance: bool = False) -> None:
    handles = [
        Line2D(
            [],
            [],
            marker=_GROUP_MARKS[group][1],
            alpha=_GROUP_MARKS[group][2],
            color=_INK,
            linestyle="",
            label=_GROUP_MARKS[group][0],
        )
        for group in groups
    ]
    if with_paper:
        handles.append(Line2D([], [], marker="D", markerfacecolor="none", color=_PAPER, linestyle="", label="the paper"))
    if chance:
        handles.append(Line2D([], [], color=_MUTED, linewidth=1.2, label="chance"))
    if handles:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, columnspacing=1.0, handletextpad=0.3)


def _svg(figure: Figure, name: str, title: str, description: str, mark: str | None = None) -> str:
    """Write the figure as one inline SVG: ids begin with ``name``; with the page's colours, a title and a description."""
    if mark is not None:
        figure.supxlabel(mark, x=0.99, ha="right", fontsize=10, fontweight="bold", color=_INK)
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\g<1>#{name}-", text)
    for colour_name, sentinel in _SENTINELS.items():
        text = text.replace(sentinel, f"var(--fig-{colour_name.replace('_', '-')})")
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None, "matplotlib always writes a viewBox"
    opening = (
        f'<svg {view_box.group()} role="img" aria-labelledby="{name}-title {name}-desc"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return opening + text[text.index(">") + 1 :]


def _colour(name: str) -> str:
    return _SENTINELS.get(lineup.family(name), _INK)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _at_most(text: str, length: int) -> str:
    """Shorten a label so that it leaves room for the figure."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _undone(share: float | None) -> str:
    return "PPO did not drop" if share is None else f"{_percent(share)} undone"


def _counted(counts: DataCounts, key: str) -> str:
    number = counts.get(key)
    return "" if number is None else f"{number:,} {key}"
