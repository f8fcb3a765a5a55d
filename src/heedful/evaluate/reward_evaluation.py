"""Measures a reward model: accuracy beside trivial rules, calibration, best of n. Results as tables and as JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heedful.errors import DataError
from heedful.evaluate.plain_table import plain_table
from heedful.evaluate.reward_rankings import RankedRecords
from heedful.evaluate.reward_scoring import Scores
from heedful.records import Ranking
from heedful.statistics import (
    Calibration,
    ClusteredEstimate,
    Estimate,
    RankedPair,
    best_of_n,
    best_of_n_kl,
    calibration,
    check_confidence,
    fit_bag_of_words,
    pairs_by_margin,
    ranked_pairs,
    two_way_accuracy,
    two_way_lead,
    win_shares,
)

LONGER, SHORTER, WORDS = "longer wins", "shorter wins", "bag of words"
LABELER = "labeler"
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """Accuracy on some of the pairs: the reward model's, and each trivial rule's."""

    name: str
    accuracy: ClusteredEstimate
    rules: Mapping[str, ClusteredEstimate]
    leads: Mapping[str, ClusteredEstimate]
    """For each rule, the reward model's accuracy minus the rule's, pair by pair."""

    @property
    def num_pairs(self) -> int:
        return self.accuracy.two_way.count


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOf:
    """The reward model chooses the best of n of a prompt's responses."""

    n: int
    kl: float
    """Largest possible KL from the model that wrote the responses, in nats."""
    reward: Estimate
    wins: Estimate
    """The labelers' verdict: the chosen response's share of wins over the prompt's other responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardEvaluation:
    """All numbers about one reward model on one set of rankings."""

    model: str
    source: str
    confidence: float
    num_rankings: int
    num_prompts: int
    num_labelers: int
    num_labeler_ties: int
    """Pairs that a labeler tied: no accuracy counts them."""
    num_model_ties: int
    """Pairs with equal scores: they count as half right."""
    all_pairs: AccuracyRow
    where_longer_loses: AccuracyRow
    groups: Mapping[str, tuple[AccuracyRow, ...]]
    """The same by K, use case, labeler and margin."""
    calibration: Calibration
    best_of: tuple[BestOf, ...]
    num_best_of_prompts: int
    notes: tuple[str, ...]


def evaluate_reward(
    model: str, given: RankedRecords, scores: Scores, *, training: RankedRecords | None = None, confidence: float = 0.95
) -> RewardEvaluation:
    """Compute all numbers. The bag of words learns from the rankings in ``training``; without them there is none.

    Raises ConfigError for a confidence that is not between 0 and 1, and DataError if no labeler ordered any pair.
    """
    check_confidence(confidence)
    rewards = scores.by_response
    rankings = [r for r in given.rankings if all(name in rewards for name in r.response_ids)]
    pairs = ranked_pairs(rankings)
    if not pairs:
        raise DataError(
            "there is no comparison to measure the reward model on",
            expected="rankings in which a labeler ordered two responses",
            got=f"{len(rankings):,} rankings, all of them ties",
            where=given.source,
        )
    lengths = {name: len(given.responses[name].text) for name in rewards}
    notes = [*given.notes, *_scoring_notes(given, scores, len(given.rankings) - len(rankings))]
    rules: dict[str, Mapping[str, float]] = {LONGER: lengths, SHORTER: {name: -length for name, length in lengths.items()}}
    words = _bag_of_words(given, rewards, training, notes)
    if words is not None:
        rules[WORDS] = words

    def row(name: str, own: Sequence[RankedPair]) -> AccuracyRow:
        return AccuracyRow(
            name=name,
            accuracy=two_way_accuracy(own, rewards, confidence=confidence),
            rules={rule: two_way_accuracy(own, values, confidence=confidence) for rule, values in rules.items()},
            leads={rule: two_way_lead(own, rewards, values, confidence=confidence) for rule, values in rules.items()},
        )

    everything = row("all pairs", pairs)
    if math.isnan(everything.accuracy.two_way.low):
        notes.append("n/a: with one labeler or one prompt, nothing is known about others")
    curve, num_best_of_prompts = _best_of(rankings, rewards, confidence)
    return RewardEvaluation(
        model=model,
        source=given.source,
        confidence=confidence,
        num_rankings=len(rankings),
        num_prompts=len({ranking.prompt_id for ranking in rankings}),
        num_labelers=len({ranking.labeler for ranking in rankings}),
        num_labeler_ties=sum(len(r.ranks) * (len(r.ranks) - 1) // 2 for r in rankings) - len(pairs),
        num_model_ties=sum(rewards[pair.preferred] == rewards[pair.rejected] for pair in pairs),
        all_pairs=everything,
        where_longer_loses=row(
            "where the longer response loses", [p for p in pairs if lengths[p.preferred] < lengths[p.rejected]]
        ),
        groups=_groups(given, rankings, rewards, row),
        calibration=calibration(rankings, rewards),
        best_of=curve,
        num_best_of_prompts=num_best_of_prompts,
        notes=tuple(notes),
    )


def _groups(
    given: RankedRecords,
    rankings: Sequence[Ranking],
    rewards: Mapping[str, float],
    row: Callable[[str, Sequence[RankedPair]], AccuracyRow],
) -> dict[str, tuple[AccuracyRow, ...]]:
    by_k: defaultdict[int, list[Ranking]] = defaultdict(list)
    by_use_case: defaultdict[str, list[Ranking]] = defaultdict(list)
    by_labeler: defaultdict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        by_k[len(ranking.response_ids)].append(ranking)
        by_use_case[given.prompts[ranking.prompt_id].use_case or "unknown"].append(ranking)
        by_labeler[ranking.labeler].append(ranking)
    found = {
        "K": [row(str(k), ranked_pairs(by_k[k])) for k in sorted(by_k)],
        "use case": [row(name, ranked_pairs(by_use_case[name])) for name in sorted(by_use_case)],
        LABELER: [row(name, ranked_pairs(by_labeler[name])) for name in sorted(by_labeler)],
        "margin": [row(f"{low:.3g} to {high:.3g}", own) for low, high, own in pairs_by_margin(ranked_pairs(rankings), rewards)],
    }
    return {title: tuple(one for one in rows if one.num_pairs) for title, rows in found.items()}


def _bag_of_words(
    given: RankedRecords, rewards: Mapping[str, float], training: RankedRecords | None, notes: list[str]
) -> dict[str, float] | None:
    pairs = [] if training is None else ranked_pairs(training.rankings)
    if training is None or not pairs:
        why = "rankings to train it on: add --project" if training is None else "training rankings with an ordered pair"
        notes.append(f"no {WORDS}: there are no {why}")
        return None
    fitted = fit_bag_of_words(pairs, {name: one.text for name, one in training.responses.items()})
    notes.append(f"the {WORDS} learned from {len(pairs):,} training pairs of {training.source}")
    return {name: fitted.score(given.responses[name].text) for name in rewards}


def _best_of(rankings: Sequence[Ranking], rewards: Mapping[str, float], confidence: float) -> tuple[tuple[BestOf, ...], int]:
    """Compute best of n, for n up to the largest number of responses that at least half of the prompts have."""
    by_prompt: defaultdict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        by_prompt[ranking.prompt_id].append(ranking)
    wins = {prompt_id: win_shares(own) for prompt_id, own in by_prompt.items()}
    sizes = sorted(map(len, wins.values()), reverse=True)
    largest = sizes[(len(sizes) - 1) // 2]
    used = {prompt_id: shares for prompt_id, shares in wins.items() if len(shares) >= largest}
    chosen_by = {prompt_id: [rewards[name] for name in shares] for prompt_id, shares in used.items()}
    judged = {prompt_id: list(shares.values()) for prompt_id, shares in used.items()}
    numbers = range(1, largest + 1)
    reward = best_of_n(chosen_by, numbers, confidence=confidence)
    share = best_of_n(chosen_by, numbers, values=judged, confidence=confidence)
    return tuple([BestOf(n=n, kl=best_of_n_kl(n), reward=reward[n], wins=share[n]) for n in numbers]), len(used)


def _scoring_notes(given: RankedRecords, scores: Scores, num_left_out: int) -> list[str]:
    notes: list[str] = []
    if scores.too_long:
        shown = ", ".join(scores.too_long[:_SHOWN])
        notes.append(f"prompts that are too long: {len(scores.too_long):,} ({shown}); rankings left out: {num_left_out:,}")
    if scores.cut:
        shown = ", ".join(scores.cut[:_SHOWN])
        notes.append(
            f"responses that are too long: {len(scores.cut):,} of {len(scores.by_response):,} ({shown}); "
            "each is scored at its last token within the limit"
        )
    return notes


# ---------------------------------------------------------------------------------------------------- in words


def in_words(found: RewardEvaluation) -> str:
    """Render the tables and notes."""
    rates = f"{100 * found.confidence:.4g} %"
    lines = [
        f"{found.model} on {found.source}: {found.num_rankings:,} rankings of {found.num_prompts:,} prompts by "
        f"{found.num_labelers:,} labelers",
        f"{found.all_pairs.num_pairs:,} pairs; {found.num_labeler_ties:,} more that labelers tied are left out; "
        f"{found.num_model_ties:,} with equal scores count half",
        f"accuracy, with {rates} intervals for other prompts and other labelers:",
    ]
    lines += plain_table(rules_table(found))
    lines += ["the reward model's accuracy minus each rule's, on the same pairs:", *plain_table(leads_table(found))]
    for title, rows in found.groups.items():
        lines += [f"by {title}:", *plain_table(group_table(title, rows))]
    lines.append(f"calibration error of sigmoid(difference of scores): {found.calibration.expected_calibration_error:.3f}")
    lines += plain_table(calibration_table(found.calibration))
    lines.append(f"best of n responses by reward, {found.num_best_of_prompts:,} prompts:")
    lines += plain_table(best_of_table(found.best_of))
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def rules_table(found: RewardEvaluation) -> list[list[str]]:
    """Make the table of the reward model and the trivial rules, on all pairs and where the longer response loses."""
    hard = found.where_longer_loses
    table = [["", "accuracy", "two-way", "by prompt", "naive", f"where the longer loses ({hard.num_pairs:,} pairs)"]]
    everywhere = {"reward model": found.all_pairs.accuracy, **found.all_pairs.rules}
    misleading = {"reward model": hard.accuracy, **hard.rules}
    for name, one in everywhere.items():
        ends = [_ends(one.two_way), _ends(one.by_prompt), _ends(one.naive)]
        table.append([name, _percent(one.value), *ends, _with_ends(misleading[name].two_way)])
    return table


def leads_table(found: RewardEvaluation) -> list[list[str]]:
    """How far the reward model is above each rule, in points of accuracy."""
    table = [["above", "points", "two-way", "by prompt"]]
    for rule, lead in found.all_pairs.leads.items():
        table.append([rule, f"{100 * lead.value:+.1f}", _signed_ends(lead.two_way), _signed_ends(lead.by_prompt)])
    return table


def group_table(title: str, rows: Sequence[AccuracyRow]) -> list[list[str]]:
    """Make a row for each group, with the rules beside the reward model.

    One labeler says nothing about other labelers, so the intervals by labeler are over prompts.
    """
    rules = list(rows[0].rules) if rows else []
    table = [[title, "pairs", "accuracy", "by prompt" if title == LABELER else "two-way", *rules]]
    for row in rows:
        known = [_percent(row.rules[rule].value) for rule in rules]
        interval = row.accuracy.by_prompt if title == LABELER else row.accuracy.two_way
        table.append([row.name, f"{row.num_pairs:,}", _percent(row.accuracy.value), _ends(interval), *known])
    return table


def calibration_table(found: Calibration) -> list[list[str]]:
    """Make a row for each bin of the reliability plot."""
    table = [["predicted", "pairs", "mean predicted", "right"]]
    for one in found.bins:
        bounds = f"{100 * one.low:.0f} to {100 * one.high:.0f} %"
        table.append([bounds, f"{one.count:,}", _percent(one.confidence), _percent(one.accuracy)])
    return table


def best_of_table(curve: Sequence[BestOf]) -> list[list[str]]:
    """Make a row for each n."""
    table = [["n", "nats", "reward", "wins by labelers", "interval"]]
    for one in curve:
        table.append([str(one.n), f"{one.kl:.2f}", f"{one.reward.value:.3f}", _percent(one.wins.value), _ends(one.wins)])
    return table


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"


def _ends(estimate: Estimate) -> str:
    return "n/a" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _signed_ends(estimate: Estimate) -> str:
    return "n/a" if math.isnan(estimate.low) else f"{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}"


def _with_ends(estimate: Estimate) -> str:
    return _percent(estimate.value) if math.isnan(estimate.low) else f"{_percent(estimate.value)} ({_ends(estimate)})"


# ---------------------------------------------------------------------------------------------------- as numbers


def as_numbers(found: RewardEvaluation) -> dict[str, Any]:
    """Return the same numbers for JSON."""
    return {
        "model": found.model,
        "source": found.source,
        "confidence": found.confidence,
        "rankings": found.num_rankings,
        "prompts": found.num_prompts,
        "labelers": found.num_labelers,
        "labeler_ties": found.num_labeler_ties,
        "model_ties": found.num_model_ties,
        "all_pairs": _row_as_numbers(found.all_pairs),
        "where_longer_loses": _row_as_numbers(found.where_longer_loses),
        **{f"by_{title.replace(' ', '_').lower()}": list(map(_row_as_numbers, rows)) for title, rows in found.groups.items()},
        "calibration": asdict(found.calibration),
        "best_of": [asdict(one) for one in found.best_of],
        "best_of_prompts": found.num_best_of_prompts,
        "notes": list(found.notes),
    }


def _row_as_numbers(row: AccuracyRow) -> dict[str, Any]:
    rules = {name.replace(" ", "_"): asdict(one) for name, one in row.rules.items()}
    leads = {f"above_{name.replace(' ', '_')}": asdict(one) for name, one in row.leads.items()}
    return {"name": row.name, "pairs": row.num_pairs, "accuracy": asdict(row.accuracy), **rules, **leads}
