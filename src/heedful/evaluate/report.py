"""``report.html``: a run's results as one self-contained page, beside the paper's numbers.

One file without scripts, fonts or network; it can be read on a phone, in dark mode and on paper. What a model wrote is
untrusted: the template escapes everything, and the page's content security policy also refuses scripts.
The words of the page are in ``report.html.jinja``, the figures in ``plots.py``, the paper's numbers in ``paper.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heedful.evaluate import lineup, paper, plots
from heedful.evaluate.alternatives_table import alternative_lines
from heedful.evaluate.lineup import BASE, PPO, PPO_PTX, PPO_PTX_SMALL, PROMPTED_BASE, SFT
from heedful.evaluate.results import (
    ExpectedPreference,
    HeadToHead,
    Model,
    PpoPoint,
    Ratings,
    Results,
    Timings,
    WinRate,
    check_results,
    check_timings,
    write_text,
)
from heedful.records import RATING_FLAGS

GROUP_LABELS: Mapping[str, str] = {"held_out": "Held-out labelers", "training": "Training labelers"}

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

Verdict = Literal["yes", "no", "unclear", "not measured"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One of the paper's findings, and whether this run shows it; "unclear" if an interval leaves it open."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number of this run beside the paper's."""

    what: str
    ours: str
    paper: str
    note: str = ""


def write_report(results: Results, timings: Timings | None, path: str | Path) -> None:
    """Write the page for checked results; DataError if they do not fit the schema, StorageError if the disk refuses."""
    check_results(results)
    if timings is not None:
        check_timings(timings)
    write_text(path, render_report(results, timings))


def render_report(results: Results, timings: Timings | None) -> str:
    """The page as text; the same results and timings give the same text."""
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
        groups=GROUP_LABELS,
        flags=RATING_FLAGS,
        figures={name: Markup(svg) for name, svg in figures(results, models, mark).items()},
        curve_names=[name for name, _ in _PPO_CURVES],
    )


def ordered_models(results: Results) -> dict[str, Model]:
    """Models by name: base, prompted base, SFT, PPO, PPO-ptx, each followed by its smaller siblings, then any others."""

    def place(model: Model) -> tuple[int, int]:
        kin = lineup.family(model["name"])
        return (lineup.FAMILIES.index(kin) if kin in lineup.FAMILIES else len(lineup.FAMILIES), -model["parameters"])

    return {model["name"]: model for model in sorted(results["models"], key=place)}


def figures(results: Results, models: Mapping[str, Model], mark: str) -> dict[str, str]:
    """Every figure that the results allow, by name."""
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
        epochs = [float(row["epoch"]) for row in checkpoints]
        chosen = next((float(row["epoch"]) for row in checkpoints if row["chosen"]), None)
        losses = plots.Series("validation loss", SFT.name, epochs, [row["validation_loss"] for row in checkpoints])
        rewards = plots.Series("mean reward", SFT.name, epochs, [row["reward"] for row in checkpoints])
        made["sft_loss"] = plots.curve("sft-loss", "Validation loss (nats per token)", "epoch", [losses], chosen)
        made["sft_reward"] = plots.curve("sft-reward", "Mean reward on validation prompts", "epoch", [rewards], chosen)
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
        series = [
            one
            for name, points in runs.items()
            if (one := _series(models[name]["label"] if name in models else name, name, points, "iteration", key)).y
        ]
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
            made[name] = plots.curve(name.replace("_", "-"), label, "step", [one])
    return made


def _series(label: str, model: str, points: Sequence[Mapping[str, Any]], x: str, y: str) -> plots.Series:
    kept = [(float(point[x]), float(point[y])) for point in points if point.get(x) is not None and point.get(y) is not None]
    return plots.Series(label, model, [pair[0] for pair in kept], [pair[1] for pair in kept])


def headline(results: Results) -> str:
    """One sentence on what alignment changed, with the most important number, good or bad."""
    who = "held-out simulated labelers" if results["labelers"] == "simulated" else "held-out labelers"
    preference = results.get("preference")
    rows = _held_out_first(preference["win_rates"]) if preference is not None else {}
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
    """The model's win rate in context: beside the ceiling, and beside SFT without sampling."""
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


def _against_kl(section: ExpectedPreference) -> list[plots.Series]:
    """Win rates with a KL: the best of n of SFT's answers as one line, each PPO policy as a point."""
    best = [row for row in section["rows"] if row["name"].startswith("sft_best_of_")]
    found = [_series("best of n", SFT.name, best, "kl", "win_rate")]
    for name in (PPO.name, PPO_PTX.name):
        own = [row for row in section["rows"] if row["name"] == name]
        found += [_series(row["label"], name, [row], "kl", "win_rate") for row in own if row["kl"] is not None]
    return [series for series in found if series.y]


def findings(results: Results) -> list[Finding]:
    """The paper's main findings (SPEC headline results, 3.6, 4), each checked against this run."""
    rates = _held_out_first(results["preference"]["win_rates"]) if "preference" in results else {}
    return [
        _order_finding(rates),
        *[_above_sft_finding(rates, name, label) for name, label in ((PPO.name, PPO.label), (PPO_PTX.name, PPO_PTX.label))],
        _small_finding(results),
        _groups_finding(results),
        *_reward_model_findings(results),
        *_tax_findings(results),
    ]


def comparisons(results: Results) -> list[Comparison]:
    """This run's numbers beside those that the paper states."""
    preference = results.get("preference")
    rates = _held_out_first(preference["win_rates"]) if preference is not None and preference["baseline"] == SFT.name else {}
    duels = preference["head_to_head"] if preference is not None else []
    lines = [
        Comparison(
            "PPO-ptx preferred to SFT", _ours(rates.get(PPO_PTX.name)), _theirs(paper.WIN_RATE_AGAINST_SFT[PPO_PTX.name])
        ),
        *[
            Comparison(f"PPO-ptx preferred to the {label}", _ours(_duel(duels, PPO_PTX.name, against)), _theirs(value))
            for (_, against), value in paper.HEAD_TO_HEAD.items()
            for label in ("base model" if against == BASE.name else "base model with a few-shot prefix",)
        ],
        Comparison(
            "Small PPO-ptx preferred to the larger base model",
            _ours(_duel(duels, PPO_PTX_SMALL.name, BASE.name)),
            "preferred (1.3B to 175B; abstract)",
        ),
    ]
    section = results.get("reward_model")
    for name, ours, theirs in (
        ("Reward model, {}", section["by_group"] if section else {}, paper.REWARD_MODEL_ACCURACY),
        ("Agreement among {}", section["agreement"] if section else {}, paper.AGREEMENT),
    ):
        for group in ("training", "held_out"):
            estimate = ours.get(group)
            said = "not measured" if estimate is None else f"{percent(estimate['value'])} ({interval(estimate)})"
            note = "The paper cross-validates over five groups of labelers." if theirs is paper.REWARD_MODEL_ACCURACY else ""
            lines.append(Comparison(name.format(GROUP_LABELS[group].lower()), said, _theirs(theirs[group]), note))
    lines += [_hallucination(results, name, value) for name, value in paper.HALLUCINATION.items()]
    return lines


def _hallucination(results: Results, name: str, theirs: paper.PaperValue) -> Comparison:
    """On closed-domain prompts, as in the paper; results of earlier versions have only the rate over all prompts."""
    what = f"Hallucination on closed-domain prompts, {'PPO-ptx' if name == PPO_PTX.name else 'base model'}"
    closed = [row for row in results.get("closed_domain_hallucination", []) if row["model"] == name]
    if closed:
        rate = min(closed, key=lambda row: row["group"] != "held_out")["rate"]
        return Comparison(what, f"{percent(rate['value'])} ({interval(rate)})", _theirs(theirs))
    rated = {row["model"]: row for row in reversed(_sorted_by_group(results.get("ratings", [])))}
    rate = rated[name]["flags"].get("hallucination") if name in rated else None
    if rate is None:
        return Comparison(what, "not measured", _theirs(theirs))
    return Comparison(
        what.replace(" on closed-domain prompts", ""),
        percent(rate),
        _theirs(theirs),
        "All prompts here; closed-domain tasks in the paper.",
    )


def _order_finding(rates: Mapping[str, WinRate]) -> Finding:
    claim = "Preference rises in the order base, prompted base, SFT, then PPO and PPO-ptx"
    if not {BASE.name, PROMPTED_BASE.name, PPO.name, PPO_PTX.name} <= set(rates):
        return Finding(claim, "not measured", "Needs win rates of base, prompted base, PPO and PPO-ptx against SFT.")
    base, prompted, ppo, ptx = (rates[name]["win_rate"] for name in (BASE.name, PROMPTED_BASE.name, PPO.name, PPO_PTX.name))
    evidence = f"{percent(base, 0)}, {percent(prompted, 0)}, 50 % (SFT itself), {percent(ppo, 0)} and {percent(ptx, 0)}."
    return Finding(claim, "yes" if base < prompted < 0.5 < min(ppo, ptx) else "no", evidence)


def _above_sft_finding(rates: Mapping[str, WinRate], name: str, label: str) -> Finding:
    claim = f"{label} is preferred to SFT"
    return _above_half(claim, rates.get(name), f"Needs judged comparisons of {label} against SFT.")


def _small_finding(results: Results) -> Finding:
    claim = "A small PPO-ptx model is preferred to a much larger base model"
    duels = results["preference"]["head_to_head"] if "preference" in results else []
    return _above_half(
        claim, _duel(duels, PPO_PTX_SMALL.name, BASE.name), "Needs judged comparisons of a small PPO-ptx model against base."
    )


def _above_half(claim: str, row: WinRate | HeadToHead | None, missing: str) -> Finding:
    if row is None:
        return Finding(claim, "not measured", missing)
    verdict: Verdict = "yes" if row["low"] > 0.5 else "no" if row["high"] < 0.5 else "unclear"
    return Finding(claim, verdict, f"{percent(row['win_rate'], 0)} of {row['num_comparisons']:,} ({interval(row, 0)}).")


def _groups_finding(results: Results) -> Finding:
    claim = "Labelers who produced no training data prefer it as much as those who did"
    rows = results["preference"]["win_rates"] if "preference" in results else []
    by_group = {row["group"]: row for row in rows if row["model"] == PPO_PTX.name}
    if len(by_group) < 2:
        return Finding(claim, "not measured", "Needs both groups' judgements of PPO-ptx.")
    held_out, training = by_group["held_out"], by_group["training"]
    apart = held_out["low"] > training["high"] or training["low"] > held_out["high"]
    verdict: Verdict = "no" if held_out["high"] < 0.5 or apart else "yes" if held_out["low"] > 0.5 else "unclear"
    return Finding(claim, verdict, f"{percent(held_out['win_rate'], 0)} held-out, {percent(training['win_rate'], 0)} training.")


def _reward_model_findings(results: Results) -> list[Finding]:
    above = "The reward model knows more than length"
    close = "The reward model predicts a labeler about as well as another labeler does (within 5 points)"
    section = results.get("reward_model")
    if section is None:
        missing = "Needs rankings of unseen prompts."
        return [Finding(above, "not measured", missing), Finding(close, "not measured", missing)]
    group = "held_out" if "held_out" in section["agreement"] else "training"
    measured = section["by_group"].get(group)
    accuracy = measured["value"] if measured else section["accuracy"]
    low = measured["low"] if measured else section["low"]
    high = measured["high"] if measured else section["high"]
    rule = max(section["longer_wins"]["value"], section["shorter_wins"]["value"])
    verdict: Verdict = "yes" if low > rule else "no" if high < rule else "unclear"
    first = Finding(above, verdict, f"{percent(accuracy)} against {percent(rule)} for the better length rule.")
    agreement, with_model = section["agreement"].get(group), section["agreement_with_reward_model"].get(group)
    if agreement is None or with_model is None:
        return [first, Finding(close, "not measured", "Needs prompts that several labelers ranked.")]
    near: Verdict = "yes" if with_model["value"] >= agreement["value"] - 0.05 else "no"
    evidence = (
        f"It agrees with {GROUP_LABELS[group].lower()} on {percent(with_model['value'])} of the comparisons "
        f"on which they agree with each other on {percent(agreement['value'])}."
    )
    return [first, Finding(close, near, evidence)]


def _tax_findings(results: Results) -> list[Finding]:
    tax = "PPO costs something on public benchmarks: the alignment tax"
    undone = "PPO-ptx undoes at least half of that"
    rows = results.get("alignment_tax")
    if not rows:
        missing = "Needs benchmarks of base, SFT, PPO and PPO-ptx."
        return [Finding(tax, "not measured", missing), Finding(undone, "not measured", missing)]
    worst = max(rows, key=lambda row: row["drop_ppo"])
    evidence = f"Largest drop: {points(worst['drop_ppo'])} on {worst['benchmark']} (PPO {percent(worst['ppo'])})."
    if worst["drop_ppo"] <= 0:
        return [Finding(tax, "no", "PPO lost on no benchmark."), Finding(undone, "not measured", "There was no drop to undo.")]
    scores = {
        score["model"]: score
        for benchmark in results.get("benchmarks", [])
        if benchmark["name"] == worst["benchmark"]
        for score in benchmark["scores"]
    }
    clear = not {BASE.name, PPO.name} <= set(scores) or scores[PPO.name]["high"] < scores[BASE.name]["low"]
    evidence += "" if clear else " The intervals of base and PPO overlap."
    share = worst["share_undone"]
    kept = "not measured" if share is None else "yes" if share >= 0.5 else "no"
    said = (
        ""
        if share is None
        else f"{percent(share, 0)} of the drop on {worst['benchmark']} undone (PPO-ptx {percent(worst['ppo_ptx'])})."
    )
    return [Finding(tax, "yes" if clear else "unclear", evidence), Finding(undone, kept, said)]


def _held_out_first(rows: Sequence[WinRate]) -> dict[str, WinRate]:
    """Each model's row by held-out labelers; by training labelers if there are no others."""
    return {row["model"]: row for row in sorted(rows, key=lambda row: row["group"] == "held_out")}


def _sorted_by_group(rows: Sequence[Ratings]) -> list[Ratings]:
    return sorted(rows, key=lambda row: row["group"] != "held_out")


def _duel(rows: Sequence[HeadToHead], model: str, against: str) -> HeadToHead | None:
    found = [row for row in rows if row["model"] == model and row["against"] == against]
    return min(found, key=lambda row: row["group"] != "held_out", default=None)


def _label(results: Results, name: str) -> str:
    return next(model["label"] for model in results["models"] if model["name"] == name)


def _ours(row: WinRate | HeadToHead | None) -> str:
    return "not measured" if row is None else f"{percent(row['win_rate'])} ({interval(row)})"


def _theirs(value: paper.PaperValue) -> str:
    spread = "" if value.plus_minus is None else f" ± {100 * value.plus_minus:g}"
    return f"{100 * value.value:g}{spread} % ({value.section})"


def percent(value: float, digits: int = 1) -> str:
    """0.734 as "73.4 %" (with a space that does not break)."""
    return f"{100 * value:.{digits}f}\u00a0%"


def points(value: float) -> str:
    """A difference of shares: 0.051 as "5.1 points"."""
    return f"{100 * value:.1f}\u00a0points"


def interval(row: Mapping[str, Any], digits: int = 1) -> str:
    """The row's low and high as "71.4–75.4 %"."""
    return f"{100 * row['low']:.{digits}f}\u2013{100 * row['high']:.{digits}f}\u00a0%"


def signed(value: float, digits: int = 1) -> str:
    """A difference of shares in points with its sign; a true minus, and no "-0.0"."""
    text = f"{abs(100 * value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else chr(0x2212)}{text}"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number, or a dash for none."""
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds for people: "0.4 s", "48 s", "3 min 07 s", "2 h 05 min"."""
    if seconds < 59.5:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def words(name: str) -> str:
    """An identifier for people: "fails_task" as "fails task", "open_qa" as "open QA", "ppo_ptx" as "PPO-ptx"."""
    spelled = {"qa": "QA", "sft": "SFT", "ppo": "PPO"}
    return " ".join(spelled.get(word, word) for word in name.split("_")).replace("PPO ptx", "PPO-ptx")


def visible(text: str) -> str:
    """Control and text-direction characters as visible escapes, so that a NUL or an override has no effect."""
    return text.translate(_ESCAPES)


def commands(text: str) -> Markup:
    """Escaped text in which backticks enclose code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts))


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
