from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from heedful.miniature.good_answers import answer
from heedful.miniature.invented_world import World
from heedful.miniature.judging import Judgement, judge
from heedful.miniature.labelers import (
    JUST_NOTICEABLE,
    best_utility,
    held_out_labelers,
    noisy_utility,
    rank,
    rate,
    training_labelers,
    utility,
    weak_order,
)
from heedful.miniature.tasks import prompts
from heedful.records import Response

WORLD = World(0)
TRAIN = training_labelers(0)
HELD_OUT = held_out_labelers(0)
PROMPTS = prompts(WORLD, seed=0, count=200, split="valid")
IDEAL = {p.id: answer(WORLD, random.Random(p.id), dict(p.metadata)) for p in PROMPTS}


def test_groups_are_disjoint_have_other_tastes_and_are_the_same_each_time() -> None:
    assert not {labeler.name for labeler in TRAIN} & {labeler.name for labeler in HELD_OUT}
    assert {labeler.group for labeler in TRAIN} == {"training"}
    assert {labeler.group for labeler in HELD_OUT} == {"held_out"}
    assert len({labeler.tastes for labeler in (*TRAIN, *HELD_OUT)}) == len(TRAIN) + len(HELD_OUT)
    assert training_labelers(0) == TRAIN
    assert training_labelers(1) != TRAIN
    truth = [sum(labeler.tastes.truth for labeler in group) / len(group) for group in (TRAIN, HELD_OUT)]
    assert truth[1] > truth[0]


@pytest.mark.parametrize("labeler", [*TRAIN, *HELD_OUT], ids=lambda labeler: labeler.name)
def test_ideal_answers_please_everybody(labeler) -> None:
    shares = [utility(labeler, judge(WORLD, p, IDEAL[p.id])) / best_utility(labeler) for p in PROMPTS]
    assert min(shares) > 0.8
    assert sum(shares) / len(shares) > 0.9


WORSE: list[dict[str, object]] = [
    {"attempts": False},
    {"correct": 0.5},
    {"constraints": (True, False)},
    {"well_formed": 0.6},
    {"consistent": 0.5},
    {"hallucination": True},
    {"instruction_like": True},
    {"repetition": 0.5},
    {"rude": True},
    {"finished": False},
]


@pytest.mark.parametrize("labeler", [*TRAIN, *HELD_OUT], ids=lambda labeler: labeler.name)
@pytest.mark.parametrize("change", WORSE, ids=lambda change: next(iter(change)))
def test_a_worse_feature_lowers_everybodys_utility(labeler, change: dict[str, object]) -> None:
    best = Judgement(
        attempts=True, constraints=(True, True), correct=1.0, hallucination=False, well_formed=1.0, consistent=1.0,
        instruction_like=False, repetition=0.0, rude=False, finished=True, num_words=20, warm=0.0,
        long_form=True, vivid=0.0, full_sentence=False,
    )  # fmt: skip
    assert best.perfect
    assert utility(labeler, dataclasses.replace(best, **change)) < utility(labeler, best)


def test_longer_is_not_better_in_itself() -> None:
    story = next(p for p in PROMPTS if p.metadata["task"] == "story" and not p.metadata["constraints"])
    text = IDEAL[story.id]
    longer = text + " The sky was red. The sky was blue. The sky was green. The sky was white. The sky was grey."
    for labeler in (*TRAIN, *HELD_OUT):
        taste_for_colours = abs(labeler.tastes.vividness)
        gain = utility(labeler, judge(WORLD, story, longer)) - utility(labeler, judge(WORLD, story, text))
        assert gain <= taste_for_colours


def test_a_single_short_sentence_is_no_bargain_as_a_story() -> None:
    story = next(p for p in PROMPTS if p.metadata["task"] == "story" and not p.metadata["constraints"])
    usual = judge(WORLD, story, IDEAL[story.id])
    assert usual.long_form
    for labeler in (*TRAIN, *HELD_OUT):
        liked = dataclasses.replace(usual, num_words=round(labeler.tastes.preferred_words))
        assert utility(labeler, dataclasses.replace(usual, num_words=5)) < utility(labeler, liked)
        assert utility(labeler, dataclasses.replace(usual, num_words=80)) < utility(labeler, liked)


def test_noise_depends_on_labeler_prompt_text_and_seed_and_on_nothing_else() -> None:
    prompt, other_prompt = PROMPTS[:2]
    judgement = judge(WORLD, prompt, IDEAL[prompt.id])
    first = noisy_utility(TRAIN[0], prompt, "text", judgement, seed=0)
    assert first == noisy_utility(TRAIN[0], prompt, "text", judgement, seed=0)
    twin = dataclasses.replace(TRAIN[0], name="twin")
    others = {
        noisy_utility(TRAIN[0], prompt, "text", judgement, seed=1),
        noisy_utility(TRAIN[0], prompt, "other text", judgement, seed=0),
        noisy_utility(TRAIN[0], other_prompt, "text", judgement, seed=0),
        noisy_utility(twin, prompt, "text", judgement, seed=0),
    }
    assert first not in others
    assert len(others) == 4


def test_noise_is_gaussian_with_the_labelers_deviation() -> None:
    judgement = judge(WORLD, PROMPTS[0], "x")
    mean = utility(TRAIN[0], judgement)
    draws = [noisy_utility(TRAIN[0], PROMPTS[0], str(i), judgement, seed=0) - mean for i in range(20_000)]
    sigma = (sum(x * x for x in draws) / len(draws)) ** 0.5
    assert sum(draws) / len(draws) == pytest.approx(0.0, abs=0.03)
    assert sigma == pytest.approx(TRAIN[0].noise, rel=0.03)
    # A normal distribution holds 68.27 % within one standard deviation.
    assert sum(abs(x) < TRAIN[0].noise for x in draws) / len(draws) == pytest.approx(0.6827, abs=0.015)


@pytest.mark.parametrize(
    ("utilities", "ranks"),
    [
        ([1.0, 3.0, 2.0], (3, 1, 2)),
        ([1.0, 1.05, 3.0], (2, 2, 1)),
        ([2.0], (1,)),
        ([1.0, 1.0, 1.0], (1, 1, 1)),
        # 0.1 steps: each is close to its neighbour, but a group's members are all close to its best.
        ([0.0, 0.1, 0.2, 0.3], (2, 2, 1, 1)),
    ],
)
def test_weak_order(utilities: list[float], ranks: tuple[int, ...]) -> None:
    assert weak_order(utilities, just_noticeable=0.15) == ranks


def test_ranking_is_blind_to_the_model_and_the_order_and_ties_equal_texts() -> None:
    prompt = next(p for p in PROMPTS if p.metadata["task"] == "story")
    texts = [IDEAL[prompt.id], "", IDEAL[prompt.id], "mia the the"]
    responses = [Response(id=f"r{i}", prompt_id=prompt.id, text=text, model=f"m{i}") for i, text in enumerate(texts)]
    judgements = [judge(WORLD, prompt, r.text, r.finished) for r in responses]
    found = rank(TRAIN[0], prompt, responses, judgements, seed=0)
    assert found.ranks[0] == found.ranks[2] == 1
    assert found.response_ids == ("r0", "r1", "r2", "r3")
    renamed = [dataclasses.replace(r, model="other") for r in responses]
    assert rank(TRAIN[0], prompt, renamed, judgements, seed=0) == found
    backwards = rank(TRAIN[0], prompt, responses[::-1], judgements[::-1], seed=0)
    assert backwards.ranks == found.ranks[::-1]


def test_a_quiet_labelers_rating_tells_good_from_bad() -> None:
    labeler = dataclasses.replace(TRAIN[0], noise=0.0)
    prompt = next(p for p in PROMPTS if p.metadata["task"] == "story" and p.metadata["constraints"])
    forms = {}
    for name, text in (("good", IDEAL[prompt.id]), ("bad", "Write a poem.\nWrite a letter.")):
        response = Response(id=name, prompt_id=prompt.id, text=text)
        forms[name] = rate(labeler, prompt, response, judge(WORLD, prompt, text), seed=0)
    assert forms["good"].overall >= 6
    assert forms["bad"].overall <= 2
    assert forms["good"].metadata["simulated"] is True


def test_ratings_flags_follow_the_judgement_but_for_slips() -> None:
    wrong = total = 0
    for prompt, labeler in itertools.product(PROMPTS[:100], TRAIN[:3]):
        text = IDEAL[prompt.id]
        response = Response(id="r", prompt_id=prompt.id, text=text)
        flags = rate(labeler, prompt, response, judge(WORLD, prompt, text), seed=0).flags
        wrong += flags["fails_task"] + flags["hallucination"] + (not flags["satisfies_constraint"])
        total += 3
    assert 0 < wrong / total < 0.06


def test_just_noticeable_is_small_beside_the_noise() -> None:
    assert all(labeler.noise > JUST_NOTICEABLE for labeler in (*TRAIN, *HELD_OUT))
