"""Scores a file of stored samples, joins several references by a rule, and names the rows that could not be scored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heedful.errors import ConfigError
from heedful.evaluate.foreign_tables import ends_midway, is_separated, table_rows
from heedful.evaluate.plain_table import plain_table
from heedful.evaluate.scoring.bleu import sacrebleu_class
from heedful.evaluate.scoring.cells import (
    NotScored,
    SampleColumns,
    cell_of,
    drop_alternatives,
    logprobs_of,
    references_of,
    response_of,
    spans_said,
)
from heedful.evaluate.scoring.choices import chosen, entropy_bits
from heedful.evaluate.scoring.drop import drop_scores
from heedful.evaluate.scoring.question_answers import (
    CANNOT_ANSWER,
    HUMAN_F1_MINIMUM,
    exact_match,
    quac_f1,
    quac_human_f1,
    quac_references,
    squad_f1,
    squad_references,
)
from heedful.evaluate.scoring.rouge import rouge_l, rouge_n, rouge_words
from heedful.statistics import Estimate, bootstrap_mean
from heedful.statistics.intervals import FloatArray, IntArray

Metric = Literal["squad_v2", "drop", "quac", "rouge", "rouge_stemmed", "bleu", "accuracy", "choice", "entropy"]
Rule = Literal["max over alternatives", "all parts required", "first", "leave one out", "no references"]

RULES: Mapping[Metric, tuple[Rule, ...]] = {
    "squad_v2": ("max over alternatives", "first", "all parts required"),
    "drop": ("max over alternatives", "first", "all parts required"),
    "quac": ("leave one out", "max over alternatives", "first"),
    "rouge": ("max over alternatives", "first", "all parts required"),
    "rouge_stemmed": ("max over alternatives", "first", "all parts required"),
    "bleu": ("max over alternatives", "first"),
    "accuracy": ("max over alternatives", "first", "all parts required"),
    "choice": ("no references",),
    "entropy": ("no references",),
}
"""How each metric can join several references; the official script's way comes first.

- ``max over alternatives``: each reference is a right answer by itself; the best score counts. BLEU counts an n-gram that any
  reference has.
- ``all parts required``: the references together are one answer; the worst score counts. DROP matches spans with parts.
- ``first``: only the first reference.
- ``leave one out``: the best score without reference i, averaged over all i, so that people can be scored the same way (QuAC).
"""

METRICS: tuple[Metric, ...] = tuple(RULES)

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Unscored:
    """A row without a score, by its line in the file."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScores:
    """The scores of one group of rows, such as those of one model or one prompt."""

    cells: tuple[str, ...]
    """The values of the columns ``SampleColumns.groups`` in these rows."""
    means: Mapping[str, Estimate]
    num_scored: int
    num_unscored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScores:
    """The scores of one file, and the unscored rows: ``num_rows == num_scored + len(unscored)``."""

    file: str
    metric: Metric
    rule: Rule
    columns: SampleColumns
    means: Mapping[str, Estimate]
    """Means over scored rows, 0 to 1 (BLEU 0 to 100, entropy in bits). BLEU has no interval, because it is not a mean over
    rows. Empty if there are groups, since a mean over different models says nothing."""
    groups: tuple[GroupScores, ...]
    """In the order of the file; empty without ``SampleColumns.groups``."""
    scores: Mapping[str, FloatArray]
    """Each number, of shape (scored rows,); empty for BLEU. NaN where QuAC leaves a question out of ``f1``."""
    lines: IntArray
    """Line of each scored row."""
    num_rows: int
    unscored: tuple[Unscored, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_scored(self) -> int:
        """The number of rows behind the means."""
        return len(self.lines)

    def summary(self) -> str:
        """Describe the scores in a few lines: the rule, the means, and the first rows that could not be scored."""
        lines = [f"{self.metric} of {self.file}, references: {self.rule}"]
        if self.groups:
            names = list(next((group.means for group in self.groups if group.means), ()))
            rows = [[*self.columns.groups, "scored", "not scored", *names]]
            for group in self.groups:
                means = [_shown(group.means[name]) if name in group.means else "n/a" for name in names]
                rows.append([*group.cells, f"{group.num_scored:,}", f"{group.num_unscored:,}", *means])
            lines += plain_table(rows, left=len(self.columns.groups))
        else:
            lines += plain_table([[name, _shown(mean), f"({mean.count:,} rows)"] for name, mean in self.means.items()])
        lines.append(f"  rows: {self.num_rows:,}, scored {self.num_scored:,}, not scored {len(self.unscored):,}")
        reasons = dict(Counter(row.reason for row in self.unscored).most_common(_SHOWN))
        for reason, count in reasons.items():
            places = [str(row.line) for row in self.unscored if row.reason == reason][:_SHOWN]
            more = ", ..." if count > len(places) else ""
            lines.append(f"    {count:,} x {reason} (line {', '.join(places)}{more})")
        others = [str(row.line) for row in self.unscored if row.reason not in reasons]
        if others:
            more = ", ..." if len(others) > _SHOWN else ""
            lines.append(f"    {len(others):,} x for another reason (line {', '.join(others[:_SHOWN])}{more})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(slots=True, kw_only=True)
class _Rows:
    """The rows of a file. The first five lists have the same order."""

    lines: list[int] = field(default_factory=list[int])
    scored: list[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])
    texts: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])
    """Responses and references for BLEU, whose ``scored`` are empty."""
    clusters: list[str] = field(default_factory=list[str])
    groups: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    unscored: list[Unscored] = field(default_factory=list[Unscored])
    unscored_groups: Counter[tuple[str, ...]] = field(default_factory=Counter[tuple[str, ...]])


def score_samples(
    path: str | Path,
    metric: Metric,
    columns: SampleColumns | None = None,
    *,
    rule: Rule | None = None,
    no_answer: Sequence[str] = (),
    seed: int = 0,
) -> SampleScores:
    """Score every row of a CSV, TSV or JSONL file that can be scored, and name every row that cannot.

    ``rule``: how several references count, one of ``RULES[metric]``; without it the official script's.
    ``no_answer``: texts that mean "there is no answer", as a response or as a reference (surrounding spaces are ignored); they
    count as SQuAD's empty text and QuAC's CANNOTANSWER. Raises ConfigError for a rule that the metric does not have,
    MissingError or DataError for a file that cannot be read at all.
    """
    columns = columns or SampleColumns()
    chosen_rule = _rule(metric, rule)
    rows = _read(Path(path), metric, columns, chosen_rule, no_answer)
    scores = {} if metric == "bleu" else _columns_of(rows.scored)
    clusters = np.array(rows.clusters) if columns.cluster is not None else None

    def means(places: IntArray) -> dict[str, Estimate]:
        if metric == "bleu":
            value = _bleu([rows.texts[place] for place in places.tolist()]) if len(places) else math.nan
            return {"bleu": Estimate(value, math.nan, math.nan, len(places), math.nan)} if len(places) else {}
        own = None if clusters is None else clusters[places]
        return {name: _mean(values[places], own, seed) for name, values in scores.items()}

    places_of: dict[tuple[str, ...], list[int]] = {}
    for place, group in enumerate(rows.groups):
        places_of.setdefault(group, []).append(place)
    for group in rows.unscored_groups:
        places_of.setdefault(group, [])
    return SampleScores(
        file=Path(path).name,
        metric=metric,
        rule=chosen_rule,
        columns=columns,
        means={} if columns.groups else means(np.arange(len(rows.lines))),
        groups=tuple(
            GroupScores(
                cells=group,
                means=means(np.array(places, dtype=np.int64)) if places else {},
                num_scored=len(places),
                num_unscored=rows.unscored_groups[group],
            )
            for group, places in places_of.items()
            if columns.groups
        ),
        scores=scores,
        lines=np.array(rows.lines, dtype=np.int64),
        num_rows=len(rows.lines) + len(rows.unscored),
        unscored=tuple(rows.unscored),
        notes=tuple(_notes(Path(path), len(rows.lines) + len(rows.unscored))),
    )


def _read(path: Path, metric: Metric, columns: SampleColumns, rule: Rule, no_answer: Sequence[str]) -> _Rows:
    rows = _Rows()
    for row in table_rows(path):
        group: tuple[str, ...] | None = None
        try:
            if row.problem is not None:
                raise NotScored(row.problem)
            cells: Any = row.value
            group = tuple([str(cell_of(cells, name)) for name in columns.groups])
            cluster = "" if columns.cluster is None else str(cell_of(cells, columns.cluster))
            if metric == "bleu":
                rows.texts.append((response_of(cells, columns), _bleu_references(cells, columns, rule)))
            else:
                rows.scored.append(_score(metric, cells, columns, rule, no_answer))
        except NotScored as reason:
            rows.unscored.append(Unscored(row.line, str(reason)))
            if group is not None:
                rows.unscored_groups[group] += 1
            continue
        rows.lines.append(row.line)
        rows.clusters.append(cluster)
        rows.groups.append(group)
    return rows


def _rule(metric: Metric, rule: Rule | None) -> Rule:
    if metric not in RULES:
        raise ConfigError("no such metric", expected=f"one of {', '.join(METRICS)}", got=repr(metric))
    if rule is not None and rule not in RULES[metric]:
        raise ConfigError(
            f"{metric} cannot join references in this way", expected=f"one of {', '.join(RULES[metric])}", got=repr(rule)
        )
    return rule or RULES[metric][0]


# ---------------------------------------------------------------------------------------------------- one row


def _score(
    metric: Metric, cells: Mapping[str, Any], columns: SampleColumns, rule: Rule, no_answer: Sequence[str]
) -> Mapping[str, float]:
    if metric == "entropy":
        return {"entropy": entropy_bits(logprobs_of(cells, columns))}
    if metric == "choice":
        return {"accuracy": _choice_accuracy(cells, columns)}
    if metric == "drop":
        return _drop(cells, columns, rule)
    response, references = response_of(cells, columns), references_of(cells, columns)
    says_nothing = bool(no_answer) and response.strip() in no_answer
    if metric == "squad_v2":
        response = "" if says_nothing else response
        found = squad_references([reference for reference in references if reference.strip() not in no_answer])
        return {
            "exact": joined([exact_match(response, reference) for reference in found], rule),
            "f1": joined([squad_f1(response, reference) for reference in found], rule),
        }
    if not references:
        raise NotScored("no reference")
    if metric == "quac":
        references = [CANNOT_ANSWER if reference.strip() in no_answer else reference for reference in references]
        return _quac(CANNOT_ANSWER if says_nothing else response, references, rule)
    if metric == "accuracy":
        return {"accuracy": joined([float(response.strip() == reference.strip()) for reference in references], rule)}
    stemmed = metric == "rouge_stemmed"
    ours = rouge_words(response, stemmed=stemmed)
    words = [rouge_words(reference, stemmed=stemmed) for reference in references]
    return {
        "rouge1": joined([rouge_n(ours, theirs, 1) for theirs in words], rule),
        "rouge2": joined([rouge_n(ours, theirs, 2) for theirs in words], rule),
        "rougeL": joined([rouge_l(ours, theirs) for theirs in words], rule),
    }


def joined(scores: Sequence[float], rule: Rule) -> float:
    """Join the scores against each reference into one, by the rule; see ``RULES``."""
    if rule == "first":
        return scores[0]
    if rule == "leave one out" and len(scores) > 1:
        return sum(max([*scores[:i], *scores[i + 1 :]]) for i in range(len(scores))) / len(scores)
    return min(scores) if rule == "all parts required" else max(scores)


def _quac(response: str, references: Sequence[str], rule: Rule) -> Mapping[str, float]:
    """``f1`` leaves out questions on which people disagree; ``heq`` is 1 if the response is at least as good as people."""
    found = quac_references(references)
    human = quac_human_f1(found)
    f1 = joined([quac_f1(response, reference) for reference in found], rule)
    counts = human >= HUMAN_F1_MINIMUM
    return {"f1": f1 if counts else math.nan, "unfiltered_f1": f1, "heq": float(f1 >= human) if counts else math.nan}


def _drop(cells: Mapping[str, Any], columns: SampleColumns, rule: Rule) -> Mapping[str, float]:
    spans = spans_said(cell_of(cells, columns.response), columns.response)
    if not spans:
        raise NotScored(f"column {columns.response!r} holds no span")
    alternatives = [
        one
        for name in columns.references
        for one in drop_alternatives(cell_of(cells, name), name, columns.separator)
        if one and one[0].strip()
    ]
    if not alternatives:
        raise NotScored("no reference")
    if rule == "all parts required":
        alternatives = [[span for one in alternatives for span in one]]
    elif rule == "first":
        alternatives = alternatives[:1]
    pairs = [drop_scores(spans, reference) for reference in alternatives]
    return {"exact": max(exact for exact, _ in pairs), "f1": max(f1 for _, f1 in pairs)}


def _choice_accuracy(cells: Mapping[str, Any], columns: SampleColumns) -> float:
    logprobs = logprobs_of(cells, columns)
    cell = cell_of(cells, columns.answer)
    text = str(cell).strip()
    # int() itself refuses thousands of digits.
    if isinstance(cell, bool) or not text.isdecimal() or len(text) > 9 or int(text) >= len(logprobs):
        raise NotScored(f"column {columns.answer!r} is not a place among {len(logprobs)} choices")
    return float(chosen(logprobs) == int(text))


def _bleu_references(cells: Mapping[str, Any], columns: SampleColumns, rule: Rule) -> list[str]:
    references = references_of(cells, columns)
    if not references:
        raise NotScored("no reference")
    return references[:1] if rule == "first" else references


# ---------------------------------------------------------------------------------------------------- all rows


def _columns_of(rows: Sequence[Mapping[str, float]]) -> dict[str, FloatArray]:
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _shown(mean: Estimate) -> str:
    if math.isnan(mean.value):
        return "n/a"
    return f"{mean.value:.4f}" + ("" if math.isnan(mean.plus_minus) else f" ± {mean.plus_minus:.4f}")


def _mean(values: FloatArray, clusters: np.ndarray[Any, Any] | None, seed: int) -> Estimate:
    """Average the values that are not NaN, with 1.96 standard errors or a bootstrap over clusters."""
    kept = ~np.isnan(values)
    if clusters is not None:
        return bootstrap_mean(values[kept], clusters[kept], seed=seed)
    count = int(kept.sum())
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0, math.nan)
    mean = float(values[kept].mean())
    error = float(values[kept].std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(mean, mean - 1.959964 * error, mean + 1.959964 * error, count, error)


def _bleu(texts: Sequence[tuple[str, list[str]]]) -> float:
    """Compute corpus BLEU, 0 to 100, with sacrebleu's defaults (tokenizer 13a, exponential smoothing; Post 2018)."""
    most = max(len(references) for _, references in texts)
    streams = [[references[i] if i < len(references) else None for _, references in texts] for i in range(most)]
    measure: Callable[..., Any] = sacrebleu_class()().corpus_score
    return float(measure([response for response, _ in texts], streams).score)


def _notes(path: Path, num_rows: int) -> Iterator[str]:
    if not num_rows:
        yield "the file holds no row"
    elif is_separated(path) and ends_midway(path):
        yield "the last line has no line end: if the file was cut off, its last cell is incomplete"
