"""Chances in closed form: against numbers by hand, and against the labelers themselves."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from heedful.miniature.expected import Judged, chances, judged, mean_preference, preference
from heedful.miniature.good_answers import answer
from heedful.miniature.invented_world import World
from heedful.miniature.judging import judge
from heedful.miniature.labelers import JUST_NOTICEABLE, held_out_labelers, rank, utility
from heedful.miniature.tasks import prompts
from heedful.records import Response

WORLD = World(0)
LABELERS = held_out_labelers(0)


@pytest.mark.parametrize(
    ("difference", "noise", "win", "tie"),
    [
        # (0 - 0.4) / (sqrt(2) * 0.7) = -0.40406, whose normal tail is 0.34308.
        (0.0, 0.7, 0.34308, 0.31384),
        # (1 - 0.4) / (sqrt(2) * 0.7) = 0.60609: 0.72777; (-1 - 0.4) / (sqrt(2) * 0.7) = -1.41421: 0.07865.
        (1.0, 0.7, 0.72777, 0.19358),
        (JUST_NOTICEABLE, 0.0, 1.0, 0.0),
        (0.39, 0.0, 0.0, 1.0),
        (-0.5, 0.0, 0.0, 0.0),
    ],
)
def test_chances_by_hand(difference: float, noise: float, win: float, tie: float) -> None:
    assert chances(difference, noise) == pytest.approx((win, tie), abs=2e-5)


def test_chances_add_up_and_mirror() -> None:
    deviation = math.sqrt(2) * 0.95
    for difference in (-3.0, -0.7, -0.1, 0.0, 0.2, 1.4, 9.0):
        win, tie = chances(difference, 0.95)
        loss, same_tie = chances(-difference, 0.95)
        assert win + tie + loss == pytest.approx(1.0)
        assert tie == pytest.approx(same_tie)
        assert win == pytest.approx(1 - NormalDist(difference, deviation).cdf(JUST_NOTICEABLE))


def test_labelers_judge_pairs_as_often_as_computed() -> None:
    """2,000 rankings of the same two answers, each with another seed of the noise, by the code that ranks in every run."""
    labeler, rng = LABELERS[0], random.Random(1)
    prompt = next(p for p in prompts(WORLD, seed=5, count=60, split="test") if p.metadata["task"] == "story")
    difference, texts, judgements = 0.0, ["", ""], [judge(WORLD, prompt, "")] * 2
    while not 0.3 < difference < 1.0:  # so that wins, ties and losses all occur
        texts = [answer(WORLD, rng, dict(prompt.metadata)) for _ in range(2)]
        judgements = [judge(WORLD, prompt, text) for text in texts]
        difference = utility(labeler, judgements[0]) - utility(labeler, judgements[1])
    responses = [Response(id=f"r{i}", prompt_id=prompt.id, text=text, model="m", finished=True) for i, text in enumerate(texts)]
    win, tie = chances(difference, labeler.noise)
    outcomes = [rank(labeler, prompt, responses, judgements, seed=seed).ranks for seed in range(2_000)]
    for expected, seen in (
        (win, outcomes.count((1, 2))),
        (tie, outcomes.count((1, 1))),
        (1 - win - tie, outcomes.count((2, 1))),
    ):
        assert seen / 2_000 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2_000))


def test_equal_texts_are_tied_and_a_response_is_not_compared_with_itself() -> None:
    one, other = Judged("a", (1.0,) * 6, True), Judged("b", (9.0,) * 6, True)
    assert preference(LABELERS, one, Judged("a", (9.0,) * 6, True)) == (0.5, 1.0)
    assert preference(LABELERS, other, one)[0] > 0.99
    both = [one, other]
    win, tie = mean_preference(LABELERS, both, both)
    assert win == pytest.approx(0.5)
    assert tie < 0.01  # with itself, a response would be tied
    assert mean_preference(LABELERS, both, list(both))[1] > 0.49


def test_a_good_answer_is_faultless_and_preferred_to_an_instruction() -> None:
    rng = random.Random(0)
    for prompt in prompts(WORLD, seed=2, count=20, split="test"):
        good = judged(WORLD, LABELERS, prompt, answer(WORLD, rng, dict(prompt.metadata)))
        bad = judged(WORLD, LABELERS, prompt, "Write a story about Mia and the lamp.")
        assert len(good.utilities) == 6
        assert good.utility == pytest.approx(sum(good.utilities) / 6)
        assert not bad.faultless
        assert preference(LABELERS, good, bad)[0] > 0.9, prompt.text
