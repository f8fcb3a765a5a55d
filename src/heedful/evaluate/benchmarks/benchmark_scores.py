"""Scores models' answers: each item by the data set's own rule, means with intervals, differences between models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heedful.evaluate.benchmarks.prompt_formats import DO_NOT_KNOW, NOT_IN_BACKGROUND
from heedful.evaluate.benchmarks.series import Series
from heedful.evaluate.benchmarks.task_table import Item
from heedful.evaluate.scoring.bleu import sacrebleu_class
from heedful.evaluate.scoring.choices import chosen, entropy_bits
from heedful.evaluate.scoring.drop import drop_scores
from heedful.evaluate.scoring.question_answers import (
    CANNOT_ANSWER,
    HUMAN_F1_MINIMUM,
    exact_match,
    normalized,
    quac_f1,
    quac_human_f1,
    quac_references,
    squad_f1,
    squad_references,
)
from heedful.evaluate.scoring.rouge import rouge_l, rouge_words
from heedful.evaluate.scoring.samples import joined
from heedful.statistics import Estimate, bootstrap_mean, paired_difference
from heedful.statistics.intervals import FloatArray

Row = Mapping[str, Any]
Numbers = Mapping[str, float]
"""One item's score by each metric; NaN if it has none."""

_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScore:
    """One model's score in one series by one metric."""

    model: str
    series: str
    metric: str
    estimate: Estimate
    """The mean over scored items; for BLEU, the corpus score."""
    num_items: int
    num_unscored: int
    """Items without a score: a judge failed or is missing, or QuAC's annotators disagree. They are left out of means, never
    counted as 0."""
    num_cut: int
    """Items whose prompt lost tokens at its beginning, because the model's context window is too short."""
    num_unfinished: int
    """Responses that ended at the limit of tokens."""
    num_empty: int
    """Responses without a character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference:
    """How much higher a model scores than the first one on the same items."""

    model: str
    baseline: str
    series: str
    metric: str
    difference: Estimate
    num_items: int
    """Items that both have a score for."""


# ---------------------------------------------------------------------------------------------------- one item


def squad_numbers(item: Item, row: Row) -> Numbers:
    """Score by SQuAD 2.0's rule; "Not in background." is the empty answer."""
    response = "" if normalized(row["response"]) == normalized(NOT_IN_BACKGROUND) else row["response"]
    references = squad_references(item.facts["answers"])
    return {
        "f1": max(squad_f1(response, reference) for reference in references),
        "exact": max(exact_match(response, reference) for reference in references),
    }


def quac_numbers(item: Item, row: Row) -> Numbers:
    """Score by QuAC's rule; "I don't know." is CANNOTANSWER. ``f1`` and ``heq`` leave out questions where people disagree."""
    response = CANNOT_ANSWER if normalized(row["response"]) == normalized(DO_NOT_KNOW) else row["response"]
    references = quac_references(item.facts["answers"])
    human = quac_human_f1(references)
    f1 = joined([quac_f1(response, reference) for reference in references], "leave one out")
    counts = human >= HUMAN_F1_MINIMUM
    return {"f1": f1 if counts else math.nan, "unfiltered_f1": f1, "heq": float(f1 >= human) if counts else math.nan}


def drop_numbers(item: Item, row: Row) -> Numbers:
    """Score by DROP's rule: the best of all answers that people gave. The response is one span."""
    references = [spans for spans in item.facts["answers"] if spans and spans[0].strip()]
    pairs = [drop_scores([row["response"]], spans) for spans in references]
    return {"f1": max(f1 for _, f1 in pairs), "exact": max(exact for exact, _ in pairs)}


def wsc_numbers(item: Item, row: Row) -> Numbers:
    """Count a sampled noun as yes if it contains the item's noun or is part of it (figure 24). An empty response is a no."""
    response, noun = normalized(row["response"]), normalized(item.facts["noun"])
    says_yes = bool(response) and (noun in response or response in noun)
    return {"accuracy": float(says_yes == bool(item.facts["label"]))}


def summary_numbers(item: Item, row: Row) -> Numbers:
    """Score by ROUGE-L F1, without stemming."""
    return {"rougeL": rouge_l(rouge_words(row["response"]), rouge_words(item.facts["summary"]))}


def choice_numbers(item: Item, row: Row) -> Numbers:
    """Score 1 if the right choice has the highest mean log-probability per token; ties go to the first (SPEC 4.2)."""
    means = [total / length for total, length in zip(row["logprobs"], row["lengths"], strict=True)]
    return {"accuracy": float(chosen(means) == item.answer)}


def bias_numbers(item: Item, row: Row) -> Numbers:
    """Return the entropy in bits over the choices' total probabilities (D.1), not over their means per token."""
    return {"entropy": entropy_bits(row["logprobs"])}


_OF_TASK: Mapping[str, Callable[[Item, Row], Numbers]] = {
    "squad_v2": squad_numbers,
    "quac": quac_numbers,
    "drop": drop_numbers,
    "wsc": wsc_numbers,
    "cnn_dm": summary_numbers,
    "tldr": summary_numbers,
    "wmt15_fr_en": lambda item, row: {},
}
_OF_KIND = {"choice": choice_numbers, "bias": bias_numbers}


def item_numbers(series: Series, rows: Mapping[str, Row], judged: Mapping[str, Numbers] | None = None) -> list[Numbers]:
    """Return the numbers of each item. ``judged``: by item, the scores of the toxicity scorer or the judges of truth."""
    task = series.task
    if task.name in ("real_toxicity_prompts", "truthfulqa"):
        nothing = dict.fromkeys(task.metrics, math.nan)
        return [(judged or {}).get(item.id, nothing) for item in series.items]
    rule = _OF_KIND.get(task.kind) or _OF_TASK[task.name]
    return [rule(item, rows[item.id]) for item in series.items]


# ---------------------------------------------------------------------------------------------------- one series


def series_scores(
    model: str, series: Series, rows: Mapping[str, Row], numbers: Sequence[Numbers], *, seed: int = 0
) -> list[SeriesScore]:
    """Compute one model's means in a series, a row for each metric."""
    kept = [rows[item.id] for item in series.items]
    scores: list[SeriesScore] = []
    for metric in series.task.metrics:
        if metric == "bleu":
            estimate, num_unscored = corpus_bleu(series, rows, seed=seed), 0
        else:
            values = np.array([one[metric] for one in numbers])
            scored = ~np.isnan(values)
            clusters = clusters_of(series)
            estimate = bootstrap_mean(values[scored], None if clusters is None else clusters[scored], seed=seed)
            num_unscored = int((~scored).sum())
        scores.append(
            SeriesScore(
                model=model,
                series=series.name,
                metric=metric,
                estimate=estimate,
                num_items=len(series.items),
                num_unscored=num_unscored,
                num_cut=sum(row["cut"] > 0 for row in kept),
                num_unfinished=sum(not row.get("finished", True) for row in kept),
                num_empty=sum(not row.get("response", "-") for row in kept),
            )
        )
    return scores


def clusters_of(series: Series) -> np.ndarray[Any, np.dtype[np.str_]] | None:
    """Return which items share a passage or dialogue; None if no two do."""
    names = [item.cluster for item in series.items]
    return np.array(names) if all(names) else None


def series_differences(
    baseline: str,
    model: str,
    series: Series,
    first: tuple[Mapping[str, Row], Sequence[Numbers]],
    second: tuple[Mapping[str, Row], Sequence[Numbers]],
    *,
    seed: int = 0,
) -> list[ScoreDifference]:
    """Compute ``model``'s scores minus the baseline's, item by item.

    first: the baseline's rows and numbers. second: the model's.
    """
    found: list[ScoreDifference] = []
    for metric in series.task.metrics:
        if metric == "bleu":
            estimate = bleu_difference(series, first[0], second[0], seed=seed)
        else:
            before, after = (np.array([one[metric] for one in numbers]) for _, numbers in (first, second))
            both = ~np.isnan(before) & ~np.isnan(after)
            clusters = clusters_of(series)
            own = None if clusters is None else clusters[both]
            estimate = paired_difference(after[both], before[both], own, seed=seed)
        found.append(
            ScoreDifference(
                model=model,
                baseline=baseline,
                series=series.name,
                metric=metric,
                difference=estimate,
                num_items=estimate.count,
            )
        )
    return found


# ---------------------------------------------------------------------------------------------------- BLEU


def corpus_bleu(series: Series, rows: Mapping[str, Row], *, seed: int = 0) -> Estimate:
    """Compute corpus BLEU, 0 to 100, like sacrebleu, with a bootstrap over sentences (the paper has no error bars)."""
    counts = _bleu_counts(series, rows)
    values = _resampled_bleu(counts, len(series.items), seed)
    return _bleu_estimate(_bleu_of(counts.sum(axis=0)), values, len(series.items))


def bleu_difference(series: Series, first: Mapping[str, Row], second: Mapping[str, Row], *, seed: int = 0) -> Estimate:
    """Compute the second model's corpus BLEU minus the first's, both on the same resampled sentences."""
    before, after = _bleu_counts(series, first), _bleu_counts(series, second)
    count = len(series.items)
    values = _resampled_bleu(after, count, seed) - _resampled_bleu(before, count, seed)
    return _bleu_estimate(_bleu_of(after.sum(axis=0)) - _bleu_of(before.sum(axis=0)), values, count)


def _bleu_estimate(value: float, values: FloatArray, count: int) -> Estimate:
    if count < 2:
        return Estimate(value, math.nan, math.nan, count, math.nan)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count, float(values.std(ddof=1)))


def _resampled_bleu(counts: FloatArray, count: int, seed: int) -> FloatArray:
    generator = np.random.default_rng(seed)
    drawn = generator.integers(count, size=(_RESAMPLES, count))
    return np.array([_bleu_of(counts[places].sum(axis=0)) for places in drawn])


def _bleu_counts(series: Series, rows: Mapping[str, Row]) -> FloatArray:
    """Count per sentence, shape (sentences, 10): both lengths, shared n-grams (n = 1 to 4), and all n-grams."""
    measure = sacrebleu_class()(effective_order=True)
    found: list[list[float]] = []
    for item in series.items:
        score = measure.sentence_score(rows[item.id]["response"], [item.facts["english"]])
        found.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.array(found, dtype=np.float64)


def _bleu_of(sums: FloatArray) -> float:
    whole = [int(value) for value in sums]
    return float(
        sacrebleu_class()
        .compute_bleu(correct=whole[2:6], total=whole[6:10], sys_len=whole[0], ref_len=whole[1], smooth_method="exp")
        .score
    )
