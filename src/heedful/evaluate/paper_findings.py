"""The paper's findings and numbers, each beside this run's (SPEC headline results, 3.6, 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from heedful.evaluate import paper
from heedful.evaluate.lineup import BASE, PPO, PPO_PTX, PPO_PTX_SMALL, PROMPTED_BASE, SFT
from heedful.evaluate.number_words import interval, percent, points
from heedful.evaluate.results import HeadToHead, Ratings, Results, WinRate

GROUP_LABELS: Mapping[str, str] = {"held_out": "Held-out labelers", "training": "Training labelers"}

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


def findings(results: Results) -> list[Finding]:
    """Check each of the paper's main findings (SPEC headline results, 3.6, 4) against this run."""
    rates = held_out_first(results["preference"]["win_rates"]) if "preference" in results else {}
    return [
        _order_finding(rates),
        *[_above_sft_finding(rates, name, label) for name, label in ((PPO.name, PPO.label), (PPO_PTX.name, PPO_PTX.label))],
        _small_finding(results),
        _groups_finding(results),
        *_reward_model_findings(results),
        *_tax_findings(results),
    ]


def comparisons(results: Results) -> list[Comparison]:
    """List this run's numbers beside those that the paper states."""
    preference = results.get("preference")
    rates = held_out_first(preference["win_rates"]) if preference is not None and preference["baseline"] == SFT.name else {}
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
    """Compare rates on closed-domain prompts, as in the paper. Results of earlier versions have only the overall rate."""
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


def _duel(rows: Sequence[HeadToHead], model: str, against: str) -> HeadToHead | None:
    found = [row for row in rows if row["model"] == model and row["against"] == against]
    return min(found, key=lambda row: row["group"] != "held_out", default=None)


def _ours(row: WinRate | HeadToHead | None) -> str:
    return "not measured" if row is None else f"{percent(row['win_rate'])} ({interval(row)})"


def _theirs(value: paper.PaperValue) -> str:
    spread = "" if value.plus_minus is None else f" ± {100 * value.plus_minus:g}"
    return f"{100 * value.value:g}{spread} % ({value.section})"


def held_out_first(rows: Sequence[WinRate]) -> dict[str, WinRate]:
    """Return each model's row by held-out labelers, or by training labelers if there is no other."""
    return {row["model"]: row for row in sorted(rows, key=lambda row: row["group"] == "held_out")}


def _sorted_by_group(rows: Sequence[Ratings]) -> list[Ratings]:
    return sorted(rows, key=lambda row: row["group"] != "held_out")
