"""``heedful experiment``: train an experiment's policies, measure them and draw the figure, or estimate the cost.

An experiment writes ``experiments/<name>/`` with results.json, results.csv and report.html. The policies are in
``experiments/runs/``, where all experiments of the project find them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from heedful import __version__
from heedful.align.settings import write_json
from heedful.align.trial_stages import newest_run, why_diverged
from heedful.experiments.catalogue import Experiment, Variant, planned_variants
from heedful.experiments.experiment_page import write_experiment_page
from heedful.experiments.findings import Findings, Point, as_measure, best_point, text_of, write_csv
from heedful.experiments.measuring import Yardstick, measure, measure_model, yardstick
from heedful.experiments.over_optimisation import further_points
from heedful.experiments.workshop import FOLDER, Policy, Workshop, check_variants, make_policies, open_workshop, steps_of
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.presets import Preset
from heedful.project.lock import alone_in
from heedful.project.project import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The size of an experiment."""

    values: Sequence[float] = ()
    """Values instead of the experiment's grid."""
    episodes: int | None = None
    """Episodes of every policy, instead of the project's number."""
    seeds: int | None = None
    """Policies for each value, instead of the experiment's number."""
    prompts: int = 200
    """Validation prompts that each policy answers, at most."""
    samples: int = 2
    """Answers to each prompt."""


def run_experiment(project: Project, experiment: Experiment, wanted: Wanted, console: Console) -> Path:
    """Do what is left to do and write the figure; return the page's path.

    Raises ConfigError for values that the project cannot have, MissingError if a stage that it needs is not done,
    DataError without validation prompts, BusyError if another process works in the project, StorageError.
    """
    with alone_in(project.runs):
        keep_large_temporaries()
        shop = open_workshop(project, console)
        preset, variants = _planned(shop, experiment, wanted)
        check_variants(shop, preset, variants)
        stick = yardstick(shop, num_prompts=wanted.prompts, samples=wanted.samples)
        policies = make_policies(shop, preset, variants)
        points = [
            _point(shop, preset, variant, policy, stick, f"{number} of {len(variants)}", console)
            for number, (variant, policy) in enumerate(zip(variants, policies, strict=True), start=1)
        ]
        points += further_points(shop, experiment, stick)
        findings = _findings(shop, experiment, preset, stick, points)
        folder = project.folder / FOLDER / experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", findings)
        write_csv(findings, folder / "results.csv")
        write_experiment_page(findings, folder / "report.html")
        _show(findings, console)
        return folder / "report.html"


def _planned(shop: Workshop, experiment: Experiment, wanted: Wanted) -> tuple[Preset, list[Variant]]:
    return planned_variants(experiment, shop.preset, values=wanted.values, episodes=wanted.episodes, seeds=wanted.seeds)


def _point(
    shop: Workshop, preset: Preset, variant: Variant, policy: Policy, stick: Yardstick, number: str, console: Console
) -> Point:
    console.print(
        f"policy {number}: {variant.series}, {text_of(variant.value)}" + (f", seed {variant.seed}" if variant.seed else ""),
        highlight=False,
        markup=False,
    )
    point: Point = {
        "series": variant.series,
        "value": variant.value,
        "seed": preset.ppo.seed + variant.seed,
        "folder": policy.finished.folder.relative_to(shop.project.folder).as_posix(),
        "seconds": round(policy.finished.seconds, 2),
        "measures": {},
    }
    reason = why_diverged(policy.finished.folder)
    if reason is not None:
        point["diverged"] = reason
        return point
    _, found = measure(shop, policy, stick)
    point["measures"] = {name: as_measure(one) for name, one in found.items()}
    return point


def _findings(shop: Workshop, experiment: Experiment, preset: Preset, stick: Yardstick, points: list[Point]) -> Findings:
    measured = {name for point in points for name in point["measures"]}
    public = sorted(shop.preset.rounds.benchmarks)
    wanted = [one for name in experiment.panels for one in ([name, *public] if name == "benchmarks" else [name])]
    panels = [name for name in wanted if name in measured]
    base = measure_model(shop, shop.setting.base_model, None, stick, {"model": shop.digest(shop.setting.base_model)})[1]
    notes = [*stick.notes]
    if missing := [name for name in experiment.panels if name not in measured]:
        notes.append(f"not measured in this project: {', '.join(name.replace('_', ' ') for name in missing)}")
    findings: Findings = {
        "heedful": __version__,
        "project": shop.project.name,
        "labelers": shop.setting.labelers.marked,
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        "paper": experiment.paper,
        "x": experiment.x,
        "x_measure": experiment.x_measure,
        "logarithmic": experiment.logarithmic,
        "panels": panels,
        "episodes": preset.ppo.episodes,
        "prompts": len(stick.prompts),
        "samples": stick.samples,
        "base": {name: as_measure(base[name]) for name in ("benchmarks", *public, "text_loss") if name in base},
        "points": points,
        "best": None,
        "notes": notes,
    }
    findings["best"] = best_point(findings)
    return findings


def _show(findings: Findings, console: Console) -> None:
    """Print the table of all policies."""
    table = Table(title=findings["title"], title_justify="left")
    for heading in ("", findings["x"], "seed", *(name.replace("_", " ") for name in findings["panels"])):
        table.add_column(heading, justify="right")
    for point in findings["points"]:
        cells = [f"{point['measures'][name]['value']:.4g}" if name in point["measures"] else "" for name in findings["panels"]]
        if "diverged" in point and cells:
            cells[0] = "diverged"
        table.add_row(point["series"], text_of(point["value"]), str(point["seed"]), *cells)
    console.print(table)
    for note in findings["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- what it costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One stage of an experiment."""

    stage: str
    series: str
    value: float
    seed: int
    done: bool
    seconds: float | None
    """Estimated time, from the project's own run of the stage; None without such a run."""


def cost_of(project: Project, experiment: Experiment, wanted: Wanted, console: Console) -> list[Cost]:
    """What an experiment still has to train. Nothing is trained or written."""
    shop = open_workshop(project, console)
    preset, variants = _planned(shop, experiment, wanted)
    found: list[Cost] = []
    seen: set[str] = set()
    for variant in variants:
        for step in steps_of(shop, variant, preset):
            if step.fingerprint in seen:
                continue
            seen.add(step.fingerprint)
            seconds = 0.0 if step.done is not None else _seconds(shop, step.name, step.given.config)
            found.append(
                Cost(
                    stage=step.name,
                    series=variant.series,
                    value=variant.value,
                    seed=preset.ppo.seed + variant.seed,
                    done=step.done is not None,
                    seconds=seconds,
                )
            )
    return found


def _seconds(shop: Workshop, name: str, config: object) -> float | None:
    """The time in proportion to the project's own run, by episodes or by epochs."""
    own = newest_run(shop.project, name)
    if own is None:
        return None
    counted = "episodes" if name.startswith("ppo") else "epochs"
    settings = shop.preset.ppo if name.startswith("ppo") else shop.preset.initial_policy
    return own.seconds * getattr(config, counted) / getattr(settings, counted)


def show_cost(costs: Sequence[Cost], console: Console) -> None:
    """Print a row for each stage, and the sum."""
    table = Table()
    for heading in ("stage", "", "value", "seed", "time"):
        table.add_column(heading, justify="left" if heading in ("stage", "") else "right")
    for cost in costs:
        time = "done" if cost.done else "unknown" if cost.seconds is None else _time(cost.seconds)
        table.add_row(cost.stage, cost.series, text_of(cost.value), str(cost.seed), time)
    console.print(table)
    left = [cost for cost in costs if not cost.done]
    known = [cost.seconds for cost in left if cost.seconds is not None]
    words = f"{len(left):,} of {len(costs):,} stages to train, about {_time(sum(known))}" if left else "nothing to train"
    if len(known) < len(left):
        words += f"; unknown: {len(left) - len(known):,}, because the project has no run of that stage"
    console.print(
        f"{words}. Times follow the project's own runs; measuring takes a little more.", highlight=False, soft_wrap=True
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
