"""The written result of a reproduction: reproduction.md, with every figure as an SVG file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from heedful.experiments.catalogue import MEASURES
from heedful.experiments.experiment_page import panel_figure
from heedful.experiments.figure_one import FigureOne, paired, sizes_of, win_rate_figure
from heedful.experiments.findings import Findings, text_of
from heedful.experiments.labeler_groups import NUM_GROUPS, LabelerGroups, percent_of
from heedful.experiments.labeler_groups_page import accuracy_figure
from heedful.experiments.paper_shapes import Shape
from heedful.project.files import write_atomically

NUM_SIZES = 3
"""The number of model sizes in the paper."""
_COLOURS = (
    "<style>svg{--fig-ink:#1b1e24;--fig-muted:#5a6270;--fig-grid:#e2e5ea;--fig-base:#6b7280;--fig-prompted-base:#8a6d3b;"
    "--fig-task-mixture:#2f7d4f;--fig-sft:#7a4ea3;--fig-ppo:#0b66b5;--fig-ppo-ptx:#b8480b;--fig-paper:#1b1e24;background:#fff}"
    "</style>"
)


class Reproduction(TypedDict):
    """``results.json`` of a reproduction."""

    heedful: str
    command: str
    extent: str
    seed: int
    figure_1: FigureOne
    shapes: list[Shape]
    experimented: str
    """The size that the experiments ran on."""
    experiments: dict[str, Findings]
    labeler_groups: LabelerGroups | None


def write_reproduction(results: Reproduction, folder: Path) -> Path:
    """Write the page and its figures; return the page's path. The same results give the same bytes. Raises StorageError."""
    figures = {"figure-1": win_rate_figure(results["figure_1"])}
    for name, found in results["experiments"].items():
        figures |= {f"{name}-{panel.replace('_', '-')}": panel_figure(found, panel) for panel in found["panels"]}
    groups = results["labeler_groups"]
    if groups is not None:
        figures["labeler-groups"] = accuracy_figure(groups)
    for name, svg in figures.items():
        write_atomically(folder / f"{name}.svg", standalone(svg))
    page = folder / "reproduction.md"
    write_atomically(page, in_markdown(results))
    return page


def standalone(svg: str) -> str:
    """An inline SVG as a separate file, with the colours that pages define."""
    at = svg.index(">") + 1
    return svg[:at] + _COLOURS + svg[at:] + "\n"


def in_markdown(results: Reproduction) -> str:
    """The page: what was run, figure 1, the paper's shapes, and each experiment."""
    figure = results["figure_1"]
    lines = ["# The paper in miniature", "", *_what_was_run(results), ""]
    lines += ["## Figure 1", "", "![Expected win rates over model size](figure-1.svg)", ""]
    lines += [f"Expected win rate against the {figure['baseline']} SFT model on {figure['num_prompts']:,} test prompts,"]
    lines += ["with 95 % intervals over prompts. They do not cover other training seeds.", "", paired(figure["rows"]), ""]
    lines += ["## Do the paper's shapes appear?", "", *_shapes(results["shapes"]), ""]
    for name, found in results["experiments"].items():
        lines += _experiment(name, found)
    if (groups := results["labeler_groups"]) is not None:
        lines += _labeler_groups(groups)
    return "\n".join(lines).rstrip() + "\n"


def _what_was_run(results: Reproduction) -> list[str]:
    sizes = sizes_of(results["figure_1"])
    lines = [
        "**Simulated labelers.** A program gave the judgements behind these numbers, not people. Win rates and overall quality",
        "are what held-out simulated labelers would say on average, in closed form.",
        "",
        "```console",
        f"$ {results['command']}",
        "```",
        "",
        f"- Heedful {results['heedful']}, seed {results['seed']}, base models: {', '.join(sizes)}.",
        f"- Experiments were run on the {results['experimented']} model, the paper's on its smallest, 1.3B.",
        "- Each size has its own rankings and reward model. The smaller sizes' reward models start from the largest base",
        "  model; the paper has one reward model of 6B for all.",
    ]
    if len(sizes) < NUM_SIZES:
        lines.append(f"- The paper has {NUM_SIZES} sizes. Only {len(sizes)} base models ship with the package.")
    if results["extent"] == "quick":
        lines.append("- **A quick run**: it shows that everything works. It trains too little to show effects.")
    return lines


def _shapes(shapes: list[Shape]) -> list[str]:
    lines = [
        "A shape appears, or does not, where 95 % intervals do not overlap. Otherwise it cannot be told.",
        "",
        "| the paper | its numbers | here | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for shape in shapes:
        lines.append(f"| {shape['claim']} | {shape['paper']} | {shape['here']} | **{shape['verdict']}** |")
    missing = [shape["claim"] for shape in shapes if shape["verdict"] != "appears"]
    if missing:
        lines += ["", f"Not shown here: {len(missing)} of {len(shapes)} shapes.", *(f"- {claim}" for claim in missing)]
    return lines


def _experiment(name: str, found: Findings) -> list[str]:
    lines = [f"## {found['title']}", "", f"{found['source']}. The paper: {found['paper']}", ""]
    for panel in found["panels"]:
        lines.append(f"![{MEASURES.get(panel, panel)}]({name}-{panel.replace('_', '-')}.svg)")
    lines += ["", "| | value | seed | " + " | ".join(panel.replace("_", " ") for panel in found["panels"]) + " |"]
    lines.append("| --- |" + " ---: |" * (2 + len(found["panels"])))
    for point in found["points"]:
        cells = [f"{point['measures'][panel]['value']:.4g}" if panel in point["measures"] else "" for panel in found["panels"]]
        if "diverged" in point and cells:
            cells[0] = "diverged"
        lines.append(f"| {point['series']} | {text_of(point['value'])} | {point['seed']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _labeler_groups(groups: LabelerGroups) -> list[str]:
    rows = (("labelers who taught it", "within"), ("the group left out", "across"))
    lines = [
        "## Does a reward model generalize to labelers it never saw?",
        "",
        f"Appendix E.2. {NUM_GROUPS} groups of labelers, {groups['seeds']} seeds. The paper does not say what its ± is; ours",
        "is the standard error of the groups' means.",
        "",
        "![Accuracy](labeler-groups.svg)",
        "",
        "| accuracy on rankings by | here | the paper |",
        "| --- | ---: | ---: |",
    ]
    for who, name in rows:
        lines.append(f"| {who} | {percent_of(groups[name])} | {percent_of(groups['paper'][name])} |")
    return lines
