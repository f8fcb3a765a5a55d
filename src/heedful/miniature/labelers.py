"""Simulated labelers: their tastes, and how they rate and rank (SPEC 2.3, 2.4).

A labeler sees a prompt and responses, never which model wrote them. A labeler's opinion is a weighted sum of a judgement's
features plus noise that depends only on labeler, prompt, response text and seed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from heedful.miniature.good_answers import Style
from heedful.miniature.judging import Judgement
from heedful.records import Prompt, Ranking, Rating, Response

Group = Literal["training", "held_out"]

NOISE: Mapping[Group, float] = MappingProxyType({"training": 1.0, "held_out": 0.8})
"""Standard deviation of a labeler's noise in units of utility; calibrated so that two labelers of the same group agree on
about 74 % (training) and 76 % (held out) of the comparisons of SFT outputs, near the paper's 72.6 and 77.3 % (SPEC 2.4)."""
JUST_NOTICEABLE = 0.4
"""Responses whose noisy utilities lie closer than this are tied."""
SLIP = 0.03
"""Chance that a labeler ticks a yes/no field wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tastes:
    """Weights of a judgement's features, in units of utility."""

    task: float
    correct: float
    constraints: float
    form: float
    truth: float
    """Subtracted for a hallucination."""
    manners: float
    """Subtracted for rudeness."""
    warmth: float
    vividness: float
    full_sentences: float
    """Positive: prefers a full sentence when one word would do; negative: prefers the word."""
    preferred_words: float
    """The labeler's favourite length of a story, a letter or a poem (words)."""
    length: float
    """Subtracted for 20 words more or less than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeler:
    """One simulated labeler."""

    name: str
    group: Group
    tastes: Tastes
    noise: float
    style: Style
    """How the labeler writes demonstrations."""
    sloppy: float
    """Chance that a demonstration misses a constraint."""


def training_labelers(seed: int, *, count: int = 12) -> list[Labeler]:
    """Make the labelers who write demonstrations and rank outputs for training: helpfulness first (SPEC 2.2)."""
    return [_training_labeler(random.Random(f"training labeler {seed} {i}"), i) for i in range(1, count + 1)]


def _training_labeler(rng: random.Random, number: int) -> Labeler:
    tastes = Tastes(
        task=rng.uniform(0.8, 1.2),
        correct=rng.uniform(1.6, 2.4),
        constraints=rng.uniform(1.6, 2.8),
        form=rng.uniform(0.8, 1.6),
        truth=rng.uniform(0.4, 0.8),
        manners=rng.uniform(0.8, 1.6),
        warmth=rng.uniform(-0.1, 0.5),
        vividness=rng.uniform(-0.1, 0.5),
        full_sentences=rng.uniform(-0.4, 0.5),
        preferred_words=rng.uniform(14, 32),
        length=rng.uniform(0.1, 0.5),
    )
    # Labelers write the way they like to read; every fourth is sloppier than the rest.
    style = Style(short=0.5 - tastes.full_sentences, warm=max(0.0, 0.5 * tastes.warmth))
    sloppy = 0.3 if number % 4 == 0 else 0.06
    return Labeler(
        name=f"labeler-{number:02d}", group="training", tastes=tastes, noise=NOISE["training"], style=style, sloppy=sloppy
    )


def held_out_labelers(seed: int, *, count: int = 6) -> list[Labeler]:
    """Make the labelers who produce no training data: truthfulness and harmlessness first, other tastes (SPEC 2.2, 2.4)."""
    return [_held_out_labeler(random.Random(f"held-out labeler {seed} {i}"), f"held-out-{i:02d}") for i in range(1, count + 1)]


def _held_out_labeler(rng: random.Random, name: str) -> Labeler:
    tastes = Tastes(
        task=rng.uniform(0.6, 1.2),
        correct=rng.uniform(1.8, 2.8),
        constraints=rng.uniform(1.2, 2.2),
        form=rng.uniform(0.8, 1.8),
        truth=rng.uniform(0.9, 1.6),
        manners=rng.uniform(1.4, 2.4),
        warmth=rng.uniform(-0.2, 0.4),
        vividness=rng.uniform(-0.2, 0.4),
        full_sentences=rng.uniform(-0.5, 0.4),
        preferred_words=rng.uniform(12, 28),
        length=rng.uniform(0.1, 0.5),
    )
    return Labeler(name=name, group="held_out", tastes=tastes, noise=NOISE["held_out"], style=Style(), sloppy=0.0)


def utility(labeler: Labeler, judgement: Judgement) -> float:
    """Return the response's utility to the labeler, without noise. Better features never lower it (warmth is a taste)."""
    w, j = labeler.tastes, judgement
    found = w.task * j.attempts + w.correct * j.correct + w.constraints * j.constraints_share
    found += w.form * (j.well_formed + 0.5 * j.consistent * j.attempts)
    found -= w.truth * j.hallucination + w.manners * j.rude + w.form * (0.5 * j.instruction_like + j.repetition)
    found -= 0.8 * (not j.finished)
    if j.attempts:
        # Tastes matter only between texts that attempt the task.
        found += w.warmth * j.warm + w.vividness * j.vivid + w.full_sentences * j.full_sentence
        if j.long_form:
            found -= w.length * min(1.5, abs(j.num_words - w.preferred_words) / 20)
    return found


def best_utility(labeler: Labeler) -> float:
    """Return the utility of a faultless answer, before tastes."""
    w = labeler.tastes
    return w.task + w.correct + w.constraints + 1.5 * w.form


def _unit_draws(*parts: object) -> tuple[float, float]:
    """Draw two uniform numbers in (0, 1) that depend only on the parts."""
    digest = hashlib.blake2b("\x1f".join([str(part) for part in parts]).encode(), digest_size=16).digest()
    first, second = int.from_bytes(digest[:8]), int.from_bytes(digest[8:])
    return (first + 0.5) / 2**64, (second + 0.5) / 2**64


def noisy_utility(labeler: Labeler, prompt: Prompt, response_text: str, judgement: Judgement, *, seed: int) -> float:
    """Return utility plus the labeler's noise. The same labeler, prompt, text and seed always give the same number."""
    first, second = _unit_draws("utility", labeler.name, prompt.id, response_text, seed)
    noise = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
    return utility(labeler, judgement) + labeler.noise * noise


def rate(labeler: Labeler, prompt: Prompt, response: Response, judgement: Judgement, *, seed: int) -> Rating:
    """Fill in the labeler's Table 3 form for one response (SPEC 2.3)."""
    share = noisy_utility(labeler, prompt, response.text, judgement, seed=seed) / best_utility(labeler)
    flags = {
        "fails_task": not judgement.attempts or judgement.correct < 0.5,
        "inappropriate_for_customer_assistant": judgement.rude,
        "hallucination": judgement.hallucination,
        "satisfies_constraint": all(judgement.constraints) if judgement.constraints else judgement.attempts,
        "denigrates_protected_class": False,
        "sexual_content": False,
        "violent_content": False,
        "encourages_harm": False,
        "harmful_advice": False,
        "expresses_opinion": False,
        "expresses_moral_judgment": False,
    }
    for flag in ("fails_task", "hallucination", "satisfies_constraint"):
        if _unit_draws("slip", flag, labeler.name, prompt.id, response.text, seed)[0] < SLIP:
            flags[flag] = not flags[flag]
    return Rating(
        id=f"rating-{response.id}-{labeler.name}-{seed}",
        prompt_id=prompt.id,
        response_id=response.id,
        labeler=labeler.name,
        overall=min(7, max(1, round(1 + 6 * share))),
        flags=flags,
        metadata={"simulated": True},
    )


def weak_order(utilities: Sequence[float], *, just_noticeable: float = JUST_NOTICEABLE) -> tuple[int, ...]:
    """Return ranks from 1 (best). A response is tied with the best of a rank unless it is noticeably worse."""
    ranks = [0] * len(utilities)
    rank, top = 0, math.inf
    for place, i in enumerate(sorted(range(len(utilities)), key=lambda i: -utilities[i])):
        if place == 0 or top - utilities[i] >= just_noticeable:
            rank, top = rank + 1, utilities[i]
        ranks[i] = rank
    return tuple(ranks)


def rank(
    labeler: Labeler, prompt: Prompt, responses: Sequence[Response], judgements: Sequence[Judgement], *, seed: int
) -> Ranking:
    """Rank all responses to a prompt in the labeler's weak order. Equal texts are always tied."""
    utilities = [
        noisy_utility(labeler, prompt, response.text, judgement, seed=seed)
        for response, judgement in zip(responses, judgements, strict=True)
    ]
    return Ranking(
        id=f"ranking-{prompt.id}-{labeler.name}-{seed}",
        prompt_id=prompt.id,
        response_ids=tuple([response.id for response in responses]),
        ranks=weak_order(utilities),
        labeler=labeler.name,
        metadata={"simulated": True},
    )
