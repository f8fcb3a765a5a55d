"""Screening of candidates for the labeling team on four criteria, without names (SPEC 2.1; the paper's B.1).

The criteria are: agreement with researchers on flagging sensitive speech; agreement with researchers on rankings; researchers'
ratings of the candidate's demonstrations for sensitive prompts; and the topics or groups for which the candidate says they can
recognise sensitive speech. The cut-offs are soft: people make the selection, and the table says if chance alone could move a
candidate across a cut-off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from heedful.errors import ConfigError, DataError
from heedful.statistics.intervals import Estimate, wilson

Standing = Literal["met", "borderline", "not met", "missing"]

CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ23456789"
"""No vowels and no Y, so that no code looks like a name; no 0 and 1, which look like letters."""
_CODE = re.compile(rf"[{CODE_LETTERS}]{{8}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningCutoffs:
    """Soft cut-offs (SPEC 2.1)."""

    sensitive_agreement: float = 0.75
    """Share of answers on sensitive speech that agree with the researchers'."""
    comparison_agreement: float = 0.75
    """Share of comparisons that agree with the researchers'."""
    demonstration_score: float = 6.0
    """Mean of the researchers' ratings, 1-7."""
    confidence: float = 0.68
    """A criterion is borderline if the cut-off lies in the interval with this confidence; 0.68 is one standard error."""

    def __post_init__(self) -> None:
        for name in ("sensitive_agreement", "comparison_agreement"):
            _require(0 <= getattr(self, name) <= 1, name, "a share from 0 to 1", getattr(self, name))
        _require(1 <= self.demonstration_score <= 7, "demonstration_score", "a rating from 1 to 7", self.demonstration_score)
        _require(0 < self.confidence < 1, "confidence", "a share between 0 and 1", self.confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningRecord:
    """One candidate's results. It has only counts and a code, nothing that identifies the candidate."""

    candidate: str
    """A random code of eight ``CODE_LETTERS``; anything else is refused."""
    sensitive_agreed: int = 0
    sensitive_answered: int = 0
    """Answers on sensitive speech for items that researchers answered too."""
    comparisons_agreed: int = 0
    comparisons_made: int = 0
    """Comparisons that neither the candidate nor the researchers tied."""
    demonstration_scores: tuple[int, ...] = ()
    """The researchers' ratings (1-7), one for each demonstration."""
    topics: frozenset[str] = frozenset()
    """Topics or groups for which the candidate says they can recognise sensitive speech."""

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.candidate):
            raise DataError(
                "a candidate must have a random code",
                expected=f"8 of {CODE_LETTERS}",
                got=f"{len(self.candidate)} characters that are not such a code",
                next_step="give each candidate a random code, and do not store the names with this table",
            )
        for agreed, count in (
            (self.sensitive_agreed, self.sensitive_answered),
            (self.comparisons_agreed, self.comparisons_made),
        ):
            if not 0 <= agreed <= count:
                self._refuse(f"agreed from 0 to {count}", str(agreed))
        if not all(1 <= score <= 7 for score in self.demonstration_scores):
            self._refuse("demonstration scores from 1 to 7", str(list(self.demonstration_scores)))

    def _refuse(self, expected: str, got: str) -> None:
        raise DataError("the screening record is not valid", expected=expected, got=got, where=f"candidate {self.candidate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningRow:
    """One candidate as shown on the screening page; intervals have the cut-offs' ``confidence``."""

    candidate: str
    sensitive_agreement: Estimate
    sensitive_standing: Standing
    comparison_agreement: Estimate
    comparison_standing: Standing
    demonstration_score: Estimate
    demonstration_standing: Standing
    topics: tuple[str, ...]
    standing: Standing
    """The worst of the three, in the order missing, not met, borderline, met."""


def screening_table(records: Sequence[ScreeningRecord], cutoffs: ScreeningCutoffs | None = None) -> list[ScreeningRow]:
    """One row per candidate: those who met all criteria first, then borderline, not met, missing; each sorted by code.

    A criterion is *borderline* if its cut-off lies within the estimate's interval: a second test could well have the opposite
    result. Otherwise it is *met* at or above the cut-off and *not met* below; without any answer it is *missing*. The paper
    gives the cut-offs and calls them soft; this meaning of soft is ours. Raises ``DataError`` if a code occurs twice.
    """
    cutoffs = cutoffs or ScreeningCutoffs()
    codes = [record.candidate for record in records]
    twice = sorted({code for code in codes if codes.count(code) > 1})
    if twice:
        raise DataError("a candidate occurs twice", expected="one record for each candidate", got=", ".join(twice))
    order: list[Standing] = ["met", "borderline", "not met", "missing"]
    rows = [_row(record, cutoffs) for record in records]
    return sorted(rows, key=lambda row: (order.index(row.standing), row.candidate))


def topic_coverage(records: Sequence[ScreeningRecord], selected: Collection[str], topics: Collection[str]) -> dict[str, int]:
    """How many of the ``selected`` candidates say they can recognise sensitive speech on each topic, least covered first.

    The fourth criterion is about the team, not the candidate: together the team should cover all ``topics``. Raises
    ``DataError`` if a selected code has no record.
    """
    unknown = sorted(set(selected) - {record.candidate for record in records})
    if unknown:
        raise DataError("a selected candidate has no record", expected="codes from the table", got=", ".join(unknown))
    chosen = [record for record in records if record.candidate in selected]
    counts = {topic: sum(topic in record.topics for record in chosen) for topic in topics}
    return dict(sorted(counts.items(), key=lambda item: (item[1], item[0])))


def demonstration_score(scores: Sequence[int], *, confidence: float = 0.95) -> Estimate:
    """Mean rating with a normal interval. The ratings' standard deviation is assumed to be at least half a point.

    A few equal ratings are no proof of certainty, though a bootstrap would claim it.
    """
    count = len(scores)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, math.nan)
    mean = sum(scores) / count
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (count - 1)) if count > 1 else 0.0
    error = max(deviation, 0.5) / math.sqrt(count)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return Estimate(mean, mean - z * error, mean + z * error, count, error)


def sensitive_counts(flags: Mapping[str, bool], researchers: Sequence[Mapping[str, bool]]) -> tuple[int, int]:
    """``(agreed, answered)``: a candidate's flags, by item, compared with the majority of the researchers.

    Items that no researcher answered, or on which the researchers are evenly split, do not count.
    """
    agreed = answered = 0
    for item, flag in flags.items():
        votes = [own[item] for own in researchers if item in own]
        balance = 2 * sum(votes) - len(votes)
        if balance:
            answered += 1
            agreed += flag == (balance > 0)
    return agreed, answered


def _row(record: ScreeningRecord, cutoffs: ScreeningCutoffs) -> ScreeningRow:
    sensitive = wilson(record.sensitive_agreed, record.sensitive_answered, confidence=cutoffs.confidence)
    comparison = wilson(record.comparisons_agreed, record.comparisons_made, confidence=cutoffs.confidence)
    demonstrations = demonstration_score(record.demonstration_scores, confidence=cutoffs.confidence)
    standings = (
        _standing(sensitive, cutoffs.sensitive_agreement),
        _standing(comparison, cutoffs.comparison_agreement),
        _standing(demonstrations, cutoffs.demonstration_score),
    )
    worst_first: list[Standing] = ["missing", "not met", "borderline", "met"]
    return ScreeningRow(
        candidate=record.candidate,
        sensitive_agreement=sensitive,
        sensitive_standing=standings[0],
        comparison_agreement=comparison,
        comparison_standing=standings[1],
        demonstration_score=demonstrations,
        demonstration_standing=standings[2],
        topics=tuple(sorted(record.topics)),
        standing=min(standings, key=worst_first.index),
    )


def _standing(estimate: Estimate, cutoff: float) -> Standing:
    if not estimate.count:
        return "missing"
    if estimate.low <= cutoff <= estimate.high:
        return "borderline"
    return "met" if estimate.value >= cutoff else "not met"


def _require(condition: bool, name: str, expected: str, got: float) -> None:
    if not condition:
        raise ConfigError(f"{name} is out of range", expected=expected, got=str(got))
