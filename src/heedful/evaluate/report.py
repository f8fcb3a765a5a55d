"""``report.html``: a run's results as one self-contained page, beside the paper's numbers.

One file without scripts, fonts or network; it can be read on a phone, in dark mode and on paper. What a model wrote is
untrusted: the template escapes everything, and the page's content security policy also refuses scripts.
The words of the page are in ``report.html.jinja``, the figures in ``plots.py``, the paper's numbers in ``paper.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heedful.evaluate import lineup, plots
from heedful.evaluate.alternatives_table import alternative_lines
from heedful.evaluate.lineup import PPO, PPO_PTX, SFT
from heedful.evaluate.number_words import commands, duration, interval, number, percent, signed, visible, words
from heedful.evaluate.paper_findings import GROUP_LABELS, comparisons, findings, held_out_first
from heedful.evaluate.refusal_table import refusal_lines
from heedful.evaluate.results import ExpectedPreference, Model, PpoPoint, Results, Timings, WinRate
from heedful.evaluate.results_file import check_results, check_timings, write_text
from heedful.records import RATING_FLAGS

_PPO_CURVES: tuple[tuple[str, str], ...] = (
    ("reward", "Reward"),
    ("kl", "KL from the initial policy (nats)"),
    ("length", "Response length (tokens)"),
    ("entropy", "Entropy (nats per token)"),
    ("finished_share", "Share that reach end-of-text"),
    ("explained_variance", "Value function: explained variance"),
    ("clip_fraction", "Share of clipped ratios"),
    ("policy_loss", "Policy loss"),
    ("value_loss", "Value loss"),
    ("ptx_loss", "Pretraining loss (nats per token)"),
)


def write_report(results: Results, timings: Timings | None, path: str | Path) -> None:
    """Write the page for checked results; DataError if they do not fit the schema, StorageError if the disk refuses."""
    check_results(results)
    if timings is not None:
        check_timings(timings)
    write_text(path, render_report(results, timings))


def render_report(results: Results, timings: Timings | None) -> str:
    """Render the page as text. The same results and timings give the same text."""
    models = ordered_models(results)
    simulated = results["labelers"] == "simulated"
    mark = "judged by simulated labelers" if simulated else "judged by people"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=percent,
        interval=interval,
        signed=signed,
        number=number,
        duration=duration,
        visible=visible,
        words=words,
        commands=commands,
    )
    template = environment.from_string(files("heedful.evaluate").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        results={**dict.fromkeys(Results.__optional_keys__), **results},  # an absent section is None to the template
        timings=timings,
        models=models,
        title=lambda name: plots.model_title(models, name),
        simulated=simulated,
        headline=headline(results),
        findings=findings(results),
        comparisons=comparisons(results),
        alternatives=alternative_lines(results, timings),
        refusals=refusal_lines(results),
        groups=GROUP_LABELS,
        flags=RATING_FLAGS,
        figures={name: Markup(svg) for name, svg in figures(results, models, mark).items()},
        curve_names=[name for name, _ in _PPO_CURVES],
    )


def ordered_models(results: Results) -> dict[str, Model]:
    """Order models: base, prompted base, SFT, PPO, PPO-ptx, each followed by its smaller siblings, then any others."""

    def place(model: Model) -> tuple[int, int]:
        kin = lineup.family(model["name"])
        return (lineup.FAMILIES.index(kin) if kin in lineup.FAMILIES else len(lineup.FAMILIES), -model["parameters"])

    return {model["name"]: model for model in sorted(results["models"], key=place)}


def figures(results: Results, models: Mapping[str, Model], mark: str) -> dict[str, str]:
    """Draw every figure that the results allow, by name."""
    made = {f"loop_{columns}": plots.loop(results.get("data", {}), results["labelers"], columns) for columns in (4, 2)}
    preference = results.get("preference")
    if preference is not None and preference["win_rates"]:
        made["win_rates"] = plots.win_rates(preference["win_rates"], models, preference["baseline"], mark)
    if preference is not None and preference["head_to_head"]:
        made["head_to_head"] = plots.head_to_head(preference["head_to_head"], models, mark)
    if "reward_model" in results:
        made["reward_model"] = plots.reward_model(results["reward_model"], mark)
    if results.get("alignment_tax"):
        made["alignment_tax"] = plots.alignment_tax(results.get("alignment_tax", []), results.get("benchmarks", []), models)
    checkpoints = results.get("sft_checkpoints")
    if checkpoints:
        epochs = tuple(float(row["epoch"]) for row in checkpoints)
        chosen = next((float(row["epoch"]) for row in checkpoints if row["chosen"]), None)
        losses = plots.Series("validation loss", SFT.name, epochs, tuple(row["validation_loss"] for row in checkpoints))
        rewards = plots.Series("mean reward", SFT.name, epochs, tuple(row["reward"] for row in checkpoints))
        made["sft_loss"] = plots.curve("sft-loss", "Validation loss (nats per token)", "epoch", (losses,), chosen)
        made["sft_reward"] = plots.curve("sft-reward", "Mean reward on validation prompts", "epoch", (rewards,), chosen)
    if "expected_preference" in results:
        points = _against_kl(results["expected_preference"])
        made["win_rate_kl"] = plots.curve("win-rate-kl", "Win rate against SFT", "KL (nats per response)", points, mark=mark)
    made.update(_training_curves(results, models))
    return made


def _training_curves(results: Results, models: Mapping[str, Model]) -> dict[str, str]:
    curves = results.get("curves", {})
    made: dict[str, str] = {}
    runs: dict[str, Sequence[PpoPoint]] = {PPO.name: curves.get("ppo", []), PPO_PTX.name: curves.get("ppo_ptx", [])}
    for key, label in _PPO_CURVES:
        series = tuple(
            one
            for name, points in runs.items()
            if (one := _series(models[name]["label"] if name in models else name, name, points, "iteration", key)).y
        )
        if series:
            made[key] = plots.curve(f"curve-{key}", label, "iteration", series)
    for name, points, key, label in (
        ("training_sft", curves.get("sft", []), "loss", "SFT loss (nats per token)"),
        ("validation_sft", results.get("sft_validation", []), "loss", "SFT: validation loss (nats per token)"),
        ("training_reward", curves.get("reward", []), "loss", "Reward model: loss"),
        ("training_accuracy", curves.get("reward", []), "accuracy", "Reward model: accuracy on its batch"),
    ):
        one = _series(label, SFT.name, points, "step", key)
        if one.y:
            made[name] = plots.curve(name.replace("_", "-"), label, "step", (one,))
    return made


def _series(label: str, model: str, points: Sequence[Mapping[str, Any]], x: str, y: str) -> plots.Series:
    kept = [(float(point[x]), float(point[y])) for point in points if point.get(x) is not None and point.get(y) is not None]
    return plots.Series(label, model, tuple(x for x, _ in kept), tuple(y for _, y in kept))


def headline(results: Results) -> str:
    """Return one sentence on what alignment changed, with the most important number, good or bad."""
    who = "held-out simulated labelers" if results["labelers"] == "simulated" else "held-out labelers"
    preference = results.get("preference")
    rows = held_out_first(preference["win_rates"]) if preference is not None else {}
    row = rows.get(PPO_PTX.name) or rows.get(PPO.name) or rows.get(SFT.name)
    if preference is None or row is None:
        return "No comparison between models has been judged yet, so this page cannot say whether alignment helped."
    if row["group"] == "training":
        who = who.replace("held-out", "training")
    baseline = _label(results, preference["baseline"])
    share = f"{percent(row['win_rate'], 0)} of {row['num_comparisons']:,} comparisons (95 % interval {interval(row, 0)})"
    model, beside = _label(results, row["model"]), _beside_controls(results, row)
    if row["low"] > 0.5:
        return f"{who.capitalize()} prefer {model} to {baseline} in {share}.{beside}"
    if row["high"] < 0.5:
        return (
            f"{who.capitalize()} prefer {baseline} to {model}: {model} wins only {share}. Alignment did not help here.{beside}"
        )
    return f"{who.capitalize()} see no clear difference between {model} and {baseline}: {model} wins {share}.{beside}"


def _beside_controls(results: Results, row: WinRate) -> str:
    """Put the model's win rate into context: beside the ceiling, and beside SFT without sampling."""
    section = results.get("expected_preference")
    rows = {} if section is None else {one["name"]: one for one in section["rows"]}
    if not {row["model"], "faultless", "sft_greedy"} <= set(rows):
        return ""
    model, ceiling, greedy = rows[row["model"]], rows["faultless"], rows["sft_greedy"]
    said = f" Without the luck of their noise {_label(results, row['model'])} wins {percent(model['win_rate'], 0)}"
    said += f" ({interval(model, 0)}); an always faultless answer would win {percent(ceiling['win_rate'], 0)}."
    if model["low"] > greedy["high"]:
        return f"{said} That is more than SFT gains by answering at temperature 0 ({percent(greedy['win_rate'], 0)})."
    if model["high"] < greedy["low"]:
        return f"{said} SFT alone, answering at temperature 0, wins more than that: {percent(greedy['win_rate'], 0)}."
    return f"{said} SFT alone, answering at temperature 0, wins about as much: {percent(greedy['win_rate'], 0)}."


def _against_kl(section: ExpectedPreference) -> tuple[plots.Series, ...]:
    """Make the series of win rates over KL: the best of n of SFT's answers as one line, each PPO policy as a point."""
    best = [row for row in section["rows"] if row["name"].startswith("sft_best_of_")]
    found = [_series("best of n", SFT.name, best, "kl", "win_rate")]
    for name in (PPO.name, PPO_PTX.name):
        own = [row for row in section["rows"] if row["name"] == name]
        found += [_series(row["label"], name, [row], "kl", "win_rate") for row in own if row["kl"] is not None]
    return tuple(series for series in found if series.y)


def _label(results: Results, name: str) -> str:
    return next(model["label"] for model in results["models"] if model["name"] == name)
