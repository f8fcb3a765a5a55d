"""Simulated labelers' average comparisons in closed form, without the luck of their noise.

A labeler orders responses by utility plus normal noise, and ties those that are closer than the just noticeable difference. So
the chances of a win, a tie and a loss follow from two utilities. They are exact for two responses; in an order of many, a
response is tied with the best of its rank, which changes a few ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heedful.miniature.invented_world import World
from heedful.miniature.judging import judge
from heedful.miniature.labelers import JUST_NOTICEABLE, Labeler, best_utility, utility
from heedful.records import Prompt


@dataclass(frozen=True, slots=True)
class Judged:
    """Some labelers' opinions of a response."""

    text: str
    utilities: tuple[float, ...]
    """Without noise, one for each labeler."""
    faultless: bool

    @property
    def utility(self) -> float:
        """The labelers' mean utility."""
        return sum(self.utilities) / len(self.utilities)


def judged(world: World, labelers: Sequence[Labeler], prompt: Prompt, text: str, *, finished: bool = True) -> Judged:
    """Return each labeler's opinion of a response, without noise."""
    found = judge(world, prompt, text, finished)
    return Judged(text, tuple([utility(labeler, found) for labeler in labelers]), found.perfect)


def chances(difference: float, noise: float) -> tuple[float, float]:
    """Return the chances of a win and of a tie. ``difference`` is the response's utility minus the other's.

    The noises of both are independent, so their difference has the standard deviation sqrt(2) * noise.
    """
    if noise == 0:
        win, loss = float(difference >= JUST_NOTICEABLE), float(-difference >= JUST_NOTICEABLE)
    else:
        win, loss = (_normal((sign * difference - JUST_NOTICEABLE) / (math.sqrt(2) * noise)) for sign in (1, -1))
    return win, 1 - win - loss


def _normal(z: float) -> float:
    """Return the standard normal distribution function at z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def preference(labelers: Sequence[Labeler], one: Judged, other: Judged) -> tuple[float, float]:
    """Return the share of judgements that ``one`` wins, a tie counting half, and the share of ties. Equal texts are tied."""
    if one.text == other.text:
        return 0.5, 1.0
    pairs = zip(labelers, one.utilities, other.utilities, strict=True)
    found = [chances(first - second, labeler.noise) for labeler, first, second in pairs]
    return sum(win + tie / 2 for win, tie in found) / len(found), sum(tie for _, tie in found) / len(found)


def mean_preference(labelers: Sequence[Labeler], ones: Sequence[Judged], others: Sequence[Judged]) -> tuple[float, float]:
    """The mean over all pairs of responses to one prompt. If both are the same responses, none is compared with itself."""
    same = ones is others
    found = [preference(labelers, a, b) for i, a in enumerate(ones) for j, b in enumerate(others) if not (same and i == j)]
    if not found:
        return 0.5, 1.0
    return sum(win for win, _ in found) / len(found), sum(tie for _, tie in found) / len(found)


def mean_rating(labelers: Sequence[Labeler], one: Judged) -> float:
    """The overall quality from 1 to 7 that labelers give on average.

    A labeler rounds 1 + 6 * (utility + noise) / best utility, and keeps it between 1 and 7. So the mean is 1, and for each
    rating from 2 to 7 the chance that the labeler gives at least that.
    """
    pairs = zip(labelers, one.utilities, strict=True)
    return sum(_expected_rating(labeler, found) for labeler, found in pairs) / len(labelers)


def _expected_rating(labeler: Labeler, found: float) -> float:
    needed = [(rating - 1.5) / 6 * best_utility(labeler) - found for rating in range(2, 8)]
    if labeler.noise == 0:
        return 1.0 + sum(value <= 0 for value in needed)
    return 1 + sum(_normal(-value / labeler.noise) for value in needed)
