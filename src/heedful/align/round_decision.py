"""Decide whether a round's policy is accepted, by the rule written down when the round began, with the reasons in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align.round_benchmarks import finite_or_none, measured, points_of
from heedful.align.rounds import BENCHMARKS_FILE, BEYOND_CHANCE, DECISION_FILE, EXPECTED_FILE, rule_in
from heedful.align.settings import Given, write_json
from heedful.evaluate.preference import judgements_from_rankings
from heedful.evaluate.results import Group, Round, RoundBenchmark
from heedful.project.ended_rounds import ended_rounds, read_known
from heedful.project.files import read_jsonl
from heedful.project.runs import records_in
from heedful.ranks.world import world
from heedful.statistics import Estimate, bootstrap_mean, two_way_win_rate

BIAS_METRIC = "entropy (bits)"
"""A higher or lower value does not make a model better or worse, so the rule about falling scores does not apply to it."""


def decide(given: Given, *, folder: Path, console: Console) -> None:
    """Write decision.json: win rate, benchmarks, the rule, whether the policy is accepted, and why."""
    if not world().is_rank_zero:
        return
    n, compared = given.stage.round, given.run_of("compare")
    before = ended_rounds(given.setting.project.runs)[n - 2]
    rule = rule_in(given.run_of("known"))
    policy, against = f"policy_{n}", before.policy
    wins, num_prompts, num_judgements = _wins(given, compared, policy, against, rule["confidence"])
    benchmarks = _benchmarks(compared)
    if "benchmarks" in given.stage.needs:
        benchmarks += measured(given.run_of("benchmarks"))
    benchmarks = with_intervals_if(rule.get(BEYOND_CHANCE, False), benchmarks)
    accepted, reasons = verdict(wins, benchmarks, confidence=rule["confidence"], largest_drop=rule["largest_drop"])
    known = read_known(given.run_of("known"))
    decision: Round = {
        "number": n,
        "prompts_arrived": len(known.prompts - before.known.prompts),
        "choose": given.setting.preset.rounds.choose,
        "rankings": sum(1 for _ in records_in(given.runs[f"collect_{n}"], "ranking")),
        "policy": policy,
        "against": against,
        "win_rate": finite_or_none(wins.value),
        "low": finite_or_none(wins.low),
        "high": finite_or_none(wins.high),
        "num_prompts": num_prompts,
        "num_judgements": num_judgements,
        "benchmarks": benchmarks,
        "confidence": rule["confidence"],
        "largest_drop": rule["largest_drop"],
        "accepted": accepted,
        "reasons": reasons,
        "current": policy if accepted else against,
    }
    write_json(folder / DECISION_FILE, decision)
    console.print(f"round {n}: {policy} is {'accepted' if accepted else 'rejected'}", style="bold", highlight=False)
    for reason in reasons:
        console.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)


def verdict(
    wins: Estimate, benchmarks: Sequence[RoundBenchmark], *, confidence: float, largest_drop: float
) -> tuple[bool, list[str]]:
    """Whether the policy is accepted, and why. The interval must be above 50 %, and no benchmark may fall too far.

    A benchmark has fallen too far if its drop is larger than allowed and the drop's interval is above 0. Without an interval
    the drop alone counts: nothing shows that it is chance.
    """
    reasons: list[str] = []
    better = not math.isnan(wins.low) and wins.low > 0.5
    if math.isnan(wins.value):
        reasons.append("no labeler has compared the two policies, and the rule asks for it")
    else:
        interval = "unknown" if math.isnan(wins.low) else f"{100 * wins.low:.1f} to {100 * wins.high:.1f} %"
        reasons.append(
            f"labelers prefer the new policy in {100 * wins.value:.1f} % of comparisons ({100 * confidence:g} % interval "
            f"{interval}): the rule asks for an interval above 50 %, and this one {'is' if better else 'is not'}"
        )
    public = [row for row in benchmarks if "allowed" in row]
    too_far = [row for row in public if row["drop"] is None or _too_far(row, row["drop"], row.get("allowed", 0.0))]
    reasons += map(_public_in_words, public)
    measured_here = [row for row in benchmarks if row["metric"] != BIAS_METRIC and "allowed" not in row]
    counted = [(row["drop"], row) for row in measured_here if row["drop"] is not None]
    further = [(drop, row) for drop, row in counted if _fell_further(drop, largest_drop)]
    reasons += [
        f"{row['name']} fell by {drop:.1f} points; the rule allows {largest_drop:g}{_chance_in_words(row)}"
        for drop, row in further
    ]
    if not counted and not public:
        reasons.append("no benchmark was measured: the rule about falling scores does not apply")
    elif counted and not further:
        drop, row = max(counted, key=lambda one: one[0])
        change = f"{row['name']} fell most, by {drop:.1f}" if drop > 0 else "none fell"
        reasons.append(f"no benchmark fell by more than the {largest_drop:g} points that the rule allows: {change}")
    fallen = [row for drop, row in further if _too_far(row, drop, largest_drop)]
    return better and not fallen and not too_far, reasons


def _too_far(row: RoundBenchmark, drop: float, allowed: float) -> bool:
    return _fell_further(drop, allowed) and not _may_be_chance(row)


def _may_be_chance(row: RoundBenchmark) -> bool:
    """Whether the drop's interval is known and holds 0."""
    low = row.get("drop_low")
    return low is not None and not _fell_further(low, 0.0)


def _fell_further(drop: float, allowed: float) -> bool:
    """Whether a score fell by more points than allowed. Floats find 0.71 and 0.69 to be 2.0000000000000018 points apart: 2."""
    return drop > allowed and not math.isclose(drop, allowed, rel_tol=1e-9, abs_tol=1e-9)


def _public_in_words(row: RoundBenchmark) -> str:
    scale = points_of(row["metric"])
    allowed, drop, policy, against = row.get("allowed", 0.0), row["drop"], row["policy"], row["against"]
    if drop is None or policy is None or against is None:
        unscored = [name for name, score in (("the new policy", policy), ("the one before", against)) if score is None]
        return (
            f"{row['name']}: {row['metric']} of {' and of '.join(unscored)} is unknown, because no item had a score; the rule "
            f"lets it fall by {allowed:g} points, and nothing shows that it did not fall further"
        )
    change = f"fell by {drop:.1f}" if drop > 0 else f"rose by {-drop:.1f}" if drop < 0 else "stayed the same"
    outcome = f"fell further{_chance_in_words(row)}" if _fell_further(drop, allowed) else "did not fall further"
    return (
        f"{row['name']}: {row['metric']} {change}, from {scale * against:.1f} to {scale * policy:.1f}; the rule "
        f"lets it fall by {allowed:g} points, and it {outcome}"
    )


def _chance_in_words(row: RoundBenchmark) -> str:
    """What the interval of a drop that is larger than allowed says; empty without an interval."""
    low, high = row.get("drop_low"), row.get("drop_high")
    if low is None or high is None:
        return ""
    interval = f", 95 % interval {low:.1f} to {high:.1f}"
    return f"{interval}: it holds 0, so this may be chance and does not count" if _may_be_chance(row) else interval


def with_intervals_if(beyond_chance: bool, benchmarks: Sequence[RoundBenchmark]) -> list[RoundBenchmark]:
    """The benchmarks to decide by. Without ``beyond_chance`` in the rule they have no intervals, so every drop counts."""
    return [row if beyond_chance else {**row, "drop_low": None, "drop_high": None} for row in benchmarks]


def _wins(given: Given, compared: Path, policy: str, against: str, confidence: float) -> tuple[Estimate, int, int | None]:
    """The win rate, the number of prompts, and the number of judgements (None: it is simulated labelers' average)."""
    if (compared / EXPECTED_FILE).is_file():
        rows = [row for _, row in read_jsonl(compared / EXPECTED_FILE)]
        wins = bootstrap_mean([row["win"] for row in rows], confidence=confidence, seed=given.setting.seed)
        return wins, len(rows), None
    responses = {one.id: one for one in records_in(compared, "response")}
    rankings = [one for one in records_in(compared, "ranking") if responses.keys() >= set(one.response_ids)]
    rankings = [one for one in rankings if one.prompt_id in given.records.prompts]  # owners may have withdrawn prompts
    groups: dict[str, Group] = {one.labeler: "held_out" for one in rankings}
    found = judgements_from_rankings(rankings, responses, given.records.prompts, groups, [(policy, against)])
    prompts, labelers = [one.prompt_id for one in found], [one.labeler for one in found]
    estimate = two_way_win_rate([one.outcome for one in found], prompts, labelers, confidence=confidence)
    # With a single labeler there is no interval for other labelers, so it covers only other prompts.
    wins = estimate.by_prompt if math.isnan(estimate.two_way.low) else estimate.two_way
    return wins, len(set(prompts)), len(found)


def _benchmarks(compared: Path) -> list[RoundBenchmark]:
    sections: list[dict[str, Any]] = json.loads((compared / BENCHMARKS_FILE).read_text(encoding="utf-8"))
    rows: list[RoundBenchmark] = []
    for section in sections:
        scores = {row["model"]: row["score"] for row in section["scores"]}
        rows.append(
            {
                "name": section["name"],
                "metric": section["metric"],
                "policy": scores["policy"],
                "against": scores["current"],
                "drop": 100 * (scores["current"] - scores["policy"]),
                "drop_low": section.get("drop_low"),
                "drop_high": section.get("drop_high"),
            }
        )
    return rows
