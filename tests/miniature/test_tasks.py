from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.align.prefixes import with_prefix
from heedful.conversation import turns_of
from heedful.miniature.good_answers import Style, answer, careless_answer, drop_constraint
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.invented_world import World
from heedful.miniature.judging import judge
from heedful.miniature.labelers import training_labelers
from heedful.miniature.tasks import (
    demonstrate,
    few_shot_prefixes,
    prompts,
    use_case_quota,
    users_of,
)
from heedful.records import USE_CASE_SHARES, Prompt, Split

WORLD = World(0)


def test_prompts_are_the_same_for_the_same_seed() -> None:
    assert prompts(WORLD, seed=1, count=60, split="train") == prompts(World(0), seed=1, count=60, split="train")
    assert prompts(WORLD, seed=1, count=60, split="train") != prompts(WORLD, seed=2, count=60, split="train")


def test_use_cases_come_at_table_1s_shares() -> None:
    found = Counter(prompt.use_case for prompt in prompts(WORLD, seed=0, count=1000, split="train"))
    for use_case, share in USE_CASE_SHARES.items():
        assert abs(found[use_case] - 1000 * share / 0.999) < 1


@given(count=st.integers(0, 5000))
def test_the_quota_adds_up(count: int) -> None:
    assert sum(use_case_quota(count).values()) == count


def test_no_user_is_in_two_splits() -> None:
    splits: tuple[Split, ...] = ("train", "valid", "test")
    users = [{p.user for p in prompts(WORLD, seed=0, count=400, split=split)} for split in splits]
    for i in range(3):
        assert users[i] <= set(users_of(splits[i]))
        assert len(users[i]) > 10
        for j in range(i):
            assert not users[i] & users[j]


def test_a_prompt_ends_its_line_is_short_and_its_metadata_is_json() -> None:
    for prompt in prompts(WORLD, seed=5, count=500, split="valid"):
        assert prompt.text.endswith("\n")
        assert not prompt.text.endswith("\n\n")
        assert len(prompt.text.split()) <= 70
        assert json.loads(json.dumps(prompt.metadata)) == prompt.metadata
        assert prompt.source == "simulated"


def test_prompts_are_mostly_new_ones() -> None:
    texts = [prompt.text for prompt in prompts(WORLD, seed=0, count=4000, split="train")]
    assert len(set(texts)) > 0.97 * len(texts)


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 10**9), world_seed=st.integers(0, 3), short=st.floats(0, 1), warm=st.floats(0, 1))
def test_every_answer_without_sloppiness_is_perfect(seed: int, world_seed: int, short: float, warm: float) -> None:
    world, rng = World(world_seed), random.Random(seed)
    instruction = make_instruction(world, rng, rng.choice(list(USE_CASE_SHARES)))  # type: ignore[arg-type]
    prompt = _prompt(instruction)
    text = answer(world, rng, instruction.meta, Style(short=short, warm=warm))
    assert judge(world, prompt, text).perfect, (prompt.text, text, judge(world, prompt, text))
    assert 1 <= len(text.split()) <= 45


def test_demonstrations_of_careful_labelers_are_perfect_and_of_sloppy_ones_mostly() -> None:
    train = prompts(WORLD, seed=0, count=400, split="train")
    careful = dataclasses.replace(training_labelers(0)[0], sloppy=0.0)
    sloppy = dataclasses.replace(careful, sloppy=1.0)
    assert all(judge(WORLD, p, demonstrate(WORLD, p, labeler=careful, seed=0)).perfect for p in train)
    with_constraints = [p for p in train if p.metadata["constraints"]]
    missed = [not judge(WORLD, p, demonstrate(WORLD, p, labeler=sloppy, seed=0)).perfect for p in with_constraints]
    assert sum(missed) > 0.5 * len(missed)


def test_a_few_of_a_hundred_demonstrations_miss_a_constraint() -> None:
    labelers = training_labelers(0)
    train = prompts(WORLD, seed=0, count=1500, split="train")
    missed = [
        not judge(WORLD, p, demonstrate(WORLD, p, labeler=labelers[i % len(labelers)], seed=0)).perfect
        for i, p in enumerate(train)
        if p.metadata["constraints"]
    ]
    assert 0.04 < sum(missed) / len(missed) < 0.12


def test_a_demonstration_is_the_same_each_time_and_differs_between_labelers() -> None:
    labelers = training_labelers(0)
    story = next(p for p in prompts(WORLD, seed=0, count=60, split="train") if p.metadata["task"] == "story")
    assert demonstrate(WORLD, story, labeler=labelers[0], seed=0) == demonstrate(WORLD, story, labeler=labelers[0], seed=0)
    assert len({demonstrate(WORLD, story, labeler=labeler, seed=0) for labeler in labelers}) > 3


def test_careless_answers_are_mostly_not_perfect() -> None:
    rng = random.Random(0)
    perfect = []
    for _ in range(600):
        instruction = make_instruction(WORLD, rng)
        perfect.append(judge(WORLD, _prompt(instruction), careless_answer(WORLD, rng, instruction)).perfect)
    assert sum(perfect) < 0.3 * len(perfect)


def test_drop_constraint_forgets_exactly_one() -> None:
    meta = {"task": "story", "constraints": [{"kind": "use_word", "value": "lamp"}, {"kind": "sentences", "value": 2}]}
    left = drop_constraint(random.Random(0), meta)
    assert left is not None
    assert len(left["constraints"]) == 1
    assert len(meta["constraints"]) == 2
    assert drop_constraint(random.Random(0), {"task": "story", "constraints": []}) is None


def test_few_shot_prefixes_fit_and_end_before_the_answer() -> None:
    prefixes = few_shot_prefixes(WORLD, seed=0)
    assert len(set(prefixes)) == len(prefixes) >= 4
    longest = max((p.text for p in prompts(WORLD, seed=0, count=500, split="valid")), key=lambda text: len(text.split()))
    for prefix in prefixes:
        text = with_prefix(prefix, longest)
        assert text.endswith("\nAnswer:")
        assert text.count("Task:") in (3, 4)
        assert len(text.split()) <= 150


def _prompt(instruction: Instruction) -> Prompt:
    return Prompt(id="p", turns=turns_of(instruction.text + "\n"), use_case=instruction.use_case, metadata=instruction.meta)
