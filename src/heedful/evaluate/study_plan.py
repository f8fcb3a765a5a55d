"""Plans how large a study must be: reads ties and variance from earlier votes, and finds the size for each difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heedful.errors import ConfigError, DataError
from heedful.evaluate.plain_table import plain_table
from heedful.evaluate.votes import Vote
from heedful.statistics import PlannedStudy, VarianceShares, prompts_needed, study_power, variance_shares

USUAL_SHARES = VarianceShares(prompt=0.2, labeler=0.03)
"""A guess for comparisons of whole answers (``docs/evaluation.md``)."""
USUAL_TIE_RATE = 0.1

_MOST_PROMPTS = 10_000_000
_MOST_LABELERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStudy:
    """What earlier votes on one pair of models tell about the next study."""

    model: str
    other: str
    num_votes: int
    tie_rate: float
    shares: VarianceShares


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The setting that all differences share."""

    num_labelers: int
    labelers_per_prompt: int
    tie_rate: float
    shares: VarianceShares
    power: float
    confidence: float

    def __post_init__(self) -> None:
        for name, value in (("power", self.power), ("confidence", self.confidence)):
            if not 0 < value < 1:
                raise ConfigError(f"no such {name}", expected="a number between 0 and 1, such as 0.8", got=str(value))


def earlier_study(votes: Sequence[Vote]) -> EarlierStudy:
    """Estimate ties and shares of the variance from the pair of models with the most votes.

    It uses only one pair, because outcomes of different pairs also differ for reasons other than prompt and labeler. Raises
    DataError if there is no vote, or if the shares cannot be told apart.
    """
    pairs: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        pairs.setdefault((min(vote.model_a, vote.model_b), max(vote.model_a, vote.model_b)), []).append(vote)
    if not pairs:
        raise DataError("there are no votes to learn from", expected="a file with votes", got="no vote")
    (model, other), own = max(pairs.items(), key=lambda pair: len(pair[1]))
    outcomes = [vote.outcome if vote.model_a == model else 1 - vote.outcome for vote in own]
    return EarlierStudy(
        model=model,
        other=other,
        num_votes=len(own),
        tie_rate=sum(outcome == 0.5 for outcome in outcomes) / len(own),
        shares=variance_shares(outcomes, [vote.prompt for vote in own], [vote.labeler for vote in own]),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """How to find one difference: a study, or how many labelers it needs at least, however many prompts there are."""

    difference: float
    study: PlannedStudy | None
    fewest_labelers: int | None
    """Only if there is no study; None also if not even ``_MOST_LABELERS`` would be enough."""


def plan_studies(differences: Sequence[float], setting: Setting) -> list[Answer]:
    """Answer each difference from 50 %. Raises ConfigError for an invalid one, DataError for impossible settings."""
    for difference in differences:
        if not 0 < difference <= 0.5:
            raise ConfigError(
                "not a difference from 50 %", expected="a number above 0 and up to 0.5; 0.05 finds 55 %", got=str(difference)
            )
    return [_plan(difference, setting) for difference in differences]


def _plan(difference: float, setting: Setting) -> Answer:
    if _limit(difference, setting, setting.num_labelers) < setting.power:
        return Answer(difference, None, _fewest_labelers(difference, setting))
    study = prompts_needed(
        0.5 + difference,
        setting.shares,
        num_labelers=setting.num_labelers,
        labelers_per_prompt=setting.labelers_per_prompt,
        tie_rate=setting.tie_rate,
        power=setting.power,
        confidence=setting.confidence,
    )
    return Answer(difference, study, None)


def _limit(difference: float, setting: Setting, num_labelers: int) -> float:
    """Return the power with unlimited prompts."""
    return study_power(
        0.5 + difference,
        setting.shares,
        num_prompts=_MOST_PROMPTS,
        num_labelers=num_labelers,
        labelers_per_prompt=setting.labelers_per_prompt,
        tie_rate=setting.tie_rate,
        confidence=setting.confidence,
    )


def _fewest_labelers(difference: float, setting: Setting) -> int | None:
    high = setting.num_labelers
    while _limit(difference, setting, high) < setting.power:
        high *= 2
        if high > _MOST_LABELERS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _limit(difference, setting, middle) >= setting.power else (middle, high)
    return high


def in_words(answers: Sequence[Answer], setting: Setting) -> str:
    """Render the setting, a table with a row for each difference, and how many labelers are missing."""
    rows = [["win rate", "prompts", "comparisons", "each labeler", "power"]]
    lines: list[str] = []
    for answer in answers:
        study, win_rate = answer.study, _percent(0.5 + answer.difference)
        if study is None:
            rows.append([win_rate, "-", "-", "-", "too low"])
            fewest = f"at least {answer.fewest_labelers:,}" if answer.fewest_labelers else f"more than {_MOST_LABELERS:,}"
            lines.append(f"{win_rate} needs {fewest} labelers: labelers differ, and prompts alone do not make up for that")
            continue
        each = study.num_comparisons / study.num_labelers
        rows.append([win_rate, f"{study.num_prompts:,}", f"{study.num_comparisons:,}", f"{each:,.0f}", _percent(study.power)])
    return "\n".join(
        [
            f"labelers: {setting.num_labelers:,}, {setting.labelers_per_prompt} on each prompt",
            f"ties: {_percent(setting.tie_rate)} of the comparisons",
            f"variance: prompts {_percent(setting.shares.prompt)}, labelers {_percent(setting.shares.labeler)}",
            f"goal: the {_percent(setting.confidence)} interval leaves out 50 % in {_percent(setting.power)} of studies",
            *plain_table(rows),
            *lines,
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def as_numbers(answers: Sequence[Answer], setting: Setting) -> dict[str, Any]:
    """Return the same for JSON; ``None`` where no number of prompts is enough."""
    return {
        "labelers": setting.num_labelers,
        "labelers_per_prompt": setting.labelers_per_prompt,
        "tie_rate": setting.tie_rate,
        "prompt_share": setting.shares.prompt,
        "labeler_share": setting.shares.labeler,
        "power_wanted": setting.power,
        "confidence": setting.confidence,
        "studies": [
            {
                "difference": answer.difference,
                "prompts": None if answer.study is None else answer.study.num_prompts,
                "comparisons": None if answer.study is None else answer.study.num_comparisons,
                "power": None if answer.study is None else answer.study.power,
                "fewest_labelers": answer.fewest_labelers,
            }
            for answer in answers
        ],
    }
