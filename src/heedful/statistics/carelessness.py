"""Signs of careless answers: too fast, the same answer again and again, always the first shown, identical forms.

These are signs, not proof (Meade and Craig 2012). Each comes with the probability that an attentive labeler shows it, and a
person decides what to do. The probabilities assume that a labeler's answers are independent. Answers on one prompt are not, so
the probabilities are too small rather than too large.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from heedful.errors import ConfigError, DataError
from heedful.statistics.intervals import Estimate, FloatArray, wilson

Sign = Literal["fast", "repeated answer", "first shown", "identical forms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarelessnessThresholds:
    """When signs are flagged. The defaults are ours; docs/statistics.md says how many false alarms they cause."""

    fast_ratio: float = 1 / 3
    """A submission is fast if it took less than this fraction of both all labelers' and this labeler's usual time for its
    length."""
    fast_share: float = 0.05
    """A labeler is flagged if certainly more than this share of submissions is fast."""
    pace_ratio: float = 0.5
    """A labeler is also flagged if their median time for a text's length is below this fraction of the other labelers'."""
    min_submissions: int = 20
    """With fewer submissions of a kind of task, medians and shares mean little, so nothing is flagged."""
    min_run: int = 5
    """Shorter runs of the same answer are never flagged."""
    excess: float = 2.0
    """First-shown and identical-form shares are flagged only from this many times the expected share. With a thousand tasks
    even small differences are significant, and people differ a little."""
    chance: float = 0.001
    """A sign is flagged if the probability that an attentive labeler shows it is below this."""

    def __post_init__(self) -> None:
        for name in ("fast_ratio", "fast_share", "pace_ratio", "chance"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is out of range", expected="between 0 and 1", got=str(getattr(self, name)))
        if self.min_submissions < 2 or self.min_run < 2 or self.excess < 1:
            raise ConfigError(
                "min_submissions, min_run or excess is out of range",
                expected="min_submissions and min_run of at least 2, excess of at least 1",
                got=f"{self.min_submissions}, {self.min_run} and {self.excess}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One submitted task. A labeler's submissions must be in the order in which they were made."""

    id: str
    labeler: str
    kind: str
    """Kind of task; only submissions of one kind are compared."""
    seconds: float
    """Time of active work on the task."""
    characters: int
    """Length of the text to read: prompt and all outputs."""
    answer: str | None = None
    """The whole answer as text; equal answers have equal texts. None for free text, which cannot be compared."""
    first_shown_best: bool | None = None
    """Whether the output shown first was ranked alone at the top; None without a ranking, or if the top is tied."""
    num_outputs: int = 1
    """K, the number of outputs, shown in random order."""
    identical_forms: bool | None = None
    """Whether all outputs got the same rating form; None with fewer than two outputs."""

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and math.isfinite(self.seconds) and self.characters >= 0 and self.num_outputs >= 1):
            raise DataError(
                "the submission is not valid",
                expected="seconds and characters of at least 0, num_outputs of at least 1",
                got=f"{self.seconds}, {self.characters} and {self.num_outputs}",
                where=self.id,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CarelessnessRow:
    """One labeler at one kind of task."""

    labeler: str
    kind: str
    submissions: int
    fast: Estimate
    """Share of fast submissions."""
    fast_ids: tuple[str, ...]
    pace_ratio: float
    """The labeler's median of time relative to the usual time for the text's length, divided by the other labelers' median;
    NaN with one labeler."""
    run: int
    """Length of the least likely run of one answer; 0 if no other labeler answered."""
    run_answer: str | None
    run_chance: float
    """Upper bound on the probability of such a run for a labeler who gives each answer as often as the others do."""
    first_shown_best: Estimate
    """Share of rankings with the first shown output alone at the top."""
    first_shown_chance: float
    """Probability of this many or more if the order shown is random and does not matter: then each has probability 1/K."""
    identical_forms: Estimate
    """Share of tasks in which all outputs got the same form."""
    identical_forms_chance: float
    """Probability of this many or more at the other labelers' share."""
    signs: tuple[Sign, ...]


def carelessness(submissions: Sequence[Submission], thresholds: CarelessnessThresholds | None = None) -> list[CarelessnessRow]:
    """One row per labeler and kind of task, sorted by kind and labeler.

    *fast* is flagged if Wilson's 95 % interval of the share of fast submissions lies above ``fast_share``, or if the pace ratio
    is below its threshold. The usual time for a text is the median over submissions with texts of about the same length (up to
    ten bins, each with 20 submissions or more); a labeler's own usual time is that times the labeler's median ratio to it. The
    other three signs are flagged if their probability is below ``chance`` and they exceed ``min_run`` or ``excess``.
    """
    thresholds = thresholds or CarelessnessThresholds()
    by_kind: defaultdict[str, defaultdict[str, list[Submission]]] = defaultdict(lambda: defaultdict(list))
    for submission in submissions:
        by_kind[submission.kind][submission.labeler].append(submission)
    rows: list[CarelessnessRow] = []
    for kind, by_labeler in sorted(by_kind.items()):
        paces = _paces(by_labeler)
        medians = {labeler: float(np.median(pace)) for labeler, pace in paces.items()}
        answers = Counter(s.answer for own in by_labeler.values() for s in own if s.answer is not None)
        forms = Counter(s.identical_forms for own in by_labeler.values() for s in own)
        for labeler, own in sorted(by_labeler.items()):
            others = [median for name, median in medians.items() if name != labeler]
            ratio = medians[labeler] / float(np.median(others)) if others and np.median(others) > 0 else math.nan
            limit = thresholds.fast_ratio * min(medians[labeler], 1.0)
            fast_ids = tuple(s.id for s, pace in zip(own, paces[labeler].tolist(), strict=True) if pace < limit)
            run, run_answer, run_chance = _least_likely_run(own, answers)
            first, first_expected, first_chance = _first_shown(own)
            identical, identical_expected, identical_chance = _identical_forms(own, forms)
            fast = wilson(len(fast_ids), len(own))
            found: dict[Sign, bool] = {
                "fast": fast.low > thresholds.fast_share or ratio < thresholds.pace_ratio,
                "repeated answer": run >= thresholds.min_run and run_chance < thresholds.chance,
                "first shown": first_chance < thresholds.chance and first.value >= thresholds.excess * first_expected - 1e-9,
                "identical forms": identical_chance < thresholds.chance
                and identical.value >= thresholds.excess * identical_expected,
            }
            enough = len(own) >= thresholds.min_submissions
            rows.append(
                CarelessnessRow(
                    labeler=labeler,
                    kind=kind,
                    submissions=len(own),
                    fast=fast,
                    fast_ids=fast_ids,
                    pace_ratio=ratio,
                    run=run,
                    run_answer=run_answer,
                    run_chance=run_chance,
                    first_shown_best=first,
                    first_shown_chance=first_chance,
                    identical_forms=identical,
                    identical_forms_chance=identical_chance,
                    signs=tuple(sign for sign, present in found.items() if present and enough),
                )
            )
    return rows


def chance_of_run(length: int, count: int, share: float) -> float:
    """Upper bound on the probability that ``count`` independent answers contain a run of ``length`` or more of one answer.

    ``share`` is the answer's probability. Such a run starts at the first answer, or right after a different one::

        share^length * (1 + (count - length) (1 - share))
    """
    if length < 1:
        return 1.0
    return min(1.0, share**length * (1 + (count - length) * (1 - share))) if length <= count else 0.0


def binomial_tail(successes: int, count: int, probability: float) -> float:
    """P(X >= successes) for a binomial X, exact."""
    if successes <= 0:
        return 1.0
    return float(_binomial(count, probability)[successes:].sum())


def _paces(by_labeler: Mapping[str, Sequence[Submission]]) -> dict[str, FloatArray]:
    """Each submission's time divided by the usual time for its length, by labeler."""
    submissions = [s for own in by_labeler.values() for s in own]
    seconds = np.array([s.seconds for s in submissions], dtype=np.float64)
    characters = np.array([s.characters for s in submissions], dtype=np.float64)
    num_bins = max(1, min(10, len(submissions) // 20))
    edges = np.unique(np.quantile(characters, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, characters)
    usual = np.array([np.median(seconds[bins == b]) if (bins == b).any() else 1.0 for b in range(len(edges) + 1)])
    ratios = seconds / np.maximum(usual[bins], 1e-9)
    stops = np.cumsum([len(own) for own in by_labeler.values()])
    return dict(zip(by_labeler, np.split(ratios, stops[:-1]), strict=True))


def _least_likely_run(own: Sequence[Submission], answers: Counter[str]) -> tuple[int, str | None, float]:
    """The least likely of the answers' longest runs: its length, the answer, and its probability.

    The probability uses the other labelers' shares. It is multiplied by the number of different answers, since any could run.
    """
    said = [s.answer for s in own if s.answer is not None]
    others = answers - Counter(said)
    if not said or not others:
        # Without other labelers, we cannot know how common an answer is.
        return 0, None, 1.0
    longest: defaultdict[str, int] = defaultdict(int)
    for answer, run in groupby(said):
        longest[answer] = max(longest[answer], len(list(run)))
    # + 1, because an answer that no other labeler gave is still possible.
    total = others.total() + len(answers)
    chances = {
        answer: min(1.0, len(answers) * chance_of_run(length, len(said), (others[answer] + 1) / total))
        for answer, length in longest.items()
    }
    rarest = min(chances, key=lambda answer: (chances[answer], -longest[answer], answer))
    return longest[rarest], rarest, chances[rarest]


def _first_shown(own: Sequence[Submission]) -> tuple[Estimate, float, float]:
    """Share, expected share, probability. In a random order each of K outputs is first with 1/K, whatever its quality."""
    counted = [s for s in own if s.first_shown_best is not None and s.num_outputs > 1]
    hits = sum(bool(s.first_shown_best) for s in counted)
    distribution = np.ones(1)
    for k, count in sorted(Counter(s.num_outputs for s in counted).items()):
        distribution = np.convolve(distribution, _binomial(count, 1 / k))
    expected = sum(1 / s.num_outputs for s in counted) / max(len(counted), 1)
    return wilson(hits, len(counted)), expected, min(1.0, float(distribution[hits:].sum())) if hits else 1.0


def _identical_forms(own: Sequence[Submission], forms: Counter[bool | None]) -> tuple[Estimate, float, float]:
    """Share, share expected from the other labelers, probability."""
    mine = Counter(s.identical_forms for s in own)
    hits, count = mine[True], mine[True] + mine[False]
    others = forms[True] + forms[False] - count
    if not others or not count:
        return wilson(hits, count), math.nan, 1.0
    # + 1 and + 2, because what no other labeler did is still possible.
    share = (forms[True] - hits + 1) / (others + 2)
    return wilson(hits, count), share, binomial_tail(hits, count, share)


def _binomial(count: int, probability: float) -> FloatArray:
    """Probabilities of 0..count successes."""
    if probability in (0.0, 1.0):
        return np.eye(count + 1)[round(probability) * count]
    k = np.arange(1, count + 1)
    logs = np.cumsum(np.log(count - k + 1) - np.log(k) + math.log(probability / (1 - probability)))
    return np.exp(np.concatenate([[0.0], logs]) + count * math.log1p(-probability))
