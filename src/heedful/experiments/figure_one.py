"""The paper's figure 1 in miniature: expected win rate of every model of every size against the largest SFT model.

The projects of all sizes have the same seed, and so the same test prompts and labelers. Nothing is sampled here: the answers
come from each project's evaluation, and held-out simulated labelers judge them in closed form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

from matplotlib.figure import Figure

from heedful.align.simulated import SimulatedLabelers
from heedful.align.who_labels import labelers_of
from heedful.evaluate import lineup, plots
from heedful.experiments.findings import as_measure
from heedful.miniature.expected import judged, mean_preference
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.project.runs import newest_done, records_in
from heedful.records import Response
from heedful.statistics import bootstrap_mean


class SizeRow(TypedDict):
    """One model of one size."""

    model: str
    label: str
    size: str
    """The base model's name, such as small."""
    parameters: int
    win_rate: float
    low: float
    high: float
    faultless: float


class FigureOne(TypedDict):
    """All rows, by size and then in the order of the report."""

    baseline: str
    """Size of the SFT model that all models are compared with."""
    num_prompts: int
    rows: list[SizeRow]


def figure_one(projects: Mapping[str, Project]) -> FigureOne:
    """The figure's numbers. projects: size -> project with all stages done; the last one's SFT model is the baseline."""
    found = {size: _Evaluated(project) for size, project in projects.items()}
    baseline = list(found)[-1]
    labelers = labelers_of(projects[baseline])
    assert isinstance(labelers, SimulatedLabelers)
    world, held_out = labelers.panel.world, labelers.panel.labelers["held_out"]
    prompts = Records.load(projects[baseline].data).prompts
    against = found[baseline].answers[lineup.SFT.name]
    shared = [name for name in against if all(name in own.answers[lineup.SFT.name] for own in found.values())]
    opinion = {
        name: judged(world, held_out, prompts[name], against[name].text, finished=against[name].finished) for name in shared
    }
    rows: list[SizeRow] = []
    for size, own in found.items():
        for model in lineup.CONTENDERS:
            if model.name not in own.answers:
                continue
            answers = own.answers[model.name]
            ours = [
                judged(world, held_out, prompts[name], answers[name].text, finished=answers[name].finished) for name in shared
            ]
            same = (size, model.name) == (baseline, lineup.SFT.name)
            wins = [
                0.5 if same else mean_preference(held_out, [one], [opinion[name]])[0]
                for name, one in zip(shared, ours, strict=True)
            ]
            measure = as_measure(bootstrap_mean(wins, seed=projects[baseline].seed))
            rows.append(
                {
                    "model": model.name,
                    "label": model.label,
                    "size": size,
                    "parameters": own.parameters[model.name],
                    "win_rate": measure["value"],
                    "low": measure["value"] if measure["low"] is None else measure["low"],
                    "high": measure["value"] if measure["high"] is None else measure["high"],
                    "faultless": round(sum(one.faultless for one in ours) / len(ours), 6),
                }
            )
    return {"baseline": baseline, "num_prompts": len(shared), "rows": rows}


class _Evaluated:
    """A project's newest evaluation: model -> prompt id -> answer, and the models' sizes."""

    def __init__(self, project: Project) -> None:
        folder = newest_done(project.runs, "evaluate")
        assert folder is not None, "align ended with the evaluation"
        self.answers: dict[str, dict[str, Response]] = {}
        for response in records_in(folder, "response"):
            self.answers.setdefault(str(response.model), {})[response.prompt_id] = response
        models = json.loads((folder / "models.json").read_text(encoding="utf-8"))
        self.parameters: dict[str, int] = {model["name"]: model["parameters"] for model in models}


def row_of(found: FigureOne, model: str, size: str) -> SizeRow | None:
    """The row of a model, if it took part."""
    return next((row for row in found["rows"] if (row["model"], row["size"]) == (model, size)), None)


def sizes_of(found: FigureOne) -> list[str]:
    """From the smallest to the largest."""
    return list(dict.fromkeys(row["size"] for row in found["rows"]))


def win_rate_figure(found: FigureOne) -> str:
    """Win rate over size, a line for each kind of model, with intervals, as inline SVG."""
    sizes = sizes_of(found)
    with plots._style():
        figure = Figure(figsize=(plots.WIDTH / 72, 300 / 72), layout="constrained")
        axes = figure.add_subplot()
        for model in lineup.CONTENDERS:
            own = [(place, row) for place, size in enumerate(sizes) if (row := row_of(found, model.name, size))]
            if not own:
                continue
            colour = plots._colour(model.name)
            axes.plot([p for p, _ in own], [r["win_rate"] for _, r in own], "o-", color=colour, label=model.label, markersize=5)
            for place, row in own:
                axes.plot([place, place], [row["low"], row["high"]], color=colour, linewidth=1.4, alpha=0.7)
        axes.axhline(0.5, color=plots._MUTED, linewidth=1.2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xticks(range(len(sizes)), labels=sizes)
        axes.margins(x=0.12, y=0.08)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_xlabel("size of the base model")
        axes.set_title(f"expected win rate against the {found['baseline']} SFT model", loc="left", pad=40)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 0.98), ncols=3, handlelength=1.6)
        said = "; ".join(f"{row['size']} {row['label']} {100 * row['win_rate']:.1f} %" for row in found["rows"])
        return plots._svg(figure, "figure-1", "Figure 1 in miniature", said, "simulated labelers")


def paired(rows: Sequence[SizeRow]) -> str:
    """A Markdown table: a row for each kind of model, a column for each size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = ["| model | " + " | ".join(sizes) + " |", "| --- |" + " ---: |" * len(sizes)]
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = {row["size"]: row for row in rows if row["label"] == label}
        shown = [_cell(cells[size]) if size in cells else "" for size in sizes]
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(row: SizeRow) -> str:
    return f"{100 * row['win_rate']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
