from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.miniature import lexicon as lex
from heedful.miniature.good_answers import answer
from heedful.miniature.grammar import is_sentence
from heedful.miniature.instructions import make_instruction
from heedful.miniature.invented_world import World, state
from heedful.miniature.judging import Judgement, is_rude, judge
from heedful.records import Prompt

WORLD = World(0)
GOOD = (
    "One day Mia found a new lamp near the river. She carried the lamp to the mill. "
    "Mia went home with a tiny fox and all was well."
)


def ask(task: str, *constraints: tuple[str, Any], **rest: Any) -> Prompt:
    found = [{"kind": kind, "value": value} for kind, value in constraints]
    return Prompt(id="p", turns=turns_of("Do it.\n"), metadata={"task": task, "constraints": found, **rest})


def story(text: str, *constraints: tuple[str, Any]) -> Judgement:
    return judge(WORLD, ask("story", *constraints, name="Mia", topic="lamp"), text)


def test_a_good_story_is_perfect() -> None:
    found = story(
        GOOD, ("use_word", "river"), ("sentences", 3), ("end", "and all was well"), ("begin", "One day"), ("not_word", "boat")
    )
    assert found.perfect
    assert found.constraints == (True,) * 5


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        (("use_word", "boat"), False),
        (("use_word", "river"), True),
        (("use_word", "rive"), False),
        (("not_word", "river"), False),
        (("sentences", 2), False),
        (("sentences", 4), False),
        (("end", "and the sun went down"), False),
        (("begin", "Long ago"), False),
        (("person", "Tom"), False),
        (("mood", "G"), False),
    ],
)
def test_each_constraint_is_seen(constraint: tuple[str, Any], kept: bool) -> None:
    assert story(GOOD, constraint).constraints == (kept,)


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        (GOOD.replace("found a new lamp", "found new lamp"), "well_formed"),
        (GOOD.replace("river", "rivre"), "well_formed"),
        (GOOD.replace("carried the", "carry the"), "well_formed"),
        (GOOD + " of Tom the the lamp", "well_formed"),
        ("mia lamp " * 8, "well_formed"),
        (GOOD.replace("She", "He"), "consistent"),
        (GOOD.replace("carried the lamp", "carried the ring"), "consistent"),
        (GOOD.replace("Mia", "Anna"), "correct"),
        (GOOD.replace("lamp", "ring"), "correct"),
    ],
)
def test_each_corruption_lowers_its_feature(text: str, feature: str) -> None:
    assert getattr(story(GOOD), feature) == 1.0
    assert getattr(story(text), feature) < 1.0


def test_answers_that_do_not_attempt_the_task() -> None:
    for text in (
        "",
        "\n",
        "Write a story about Tom and a boat.\nWrite a poem about the lamp.",
        "ul kisu supo",
        f"Tell me: {GOOD}",
    ):
        found = story(text, ("not_word", "boat"))
        assert not found.attempts
        # A constraint that an empty answer cannot break is not kept by it either.
        assert found.constraints == (False,)
        assert found.constraints_share == 0


def test_going_on_with_instructions_is_seen_after_a_good_answer_too() -> None:
    found = story(GOOD + "\nWrite a story about Tom and a boat.")
    assert found.instruction_like
    assert found.attempts
    assert not found.perfect


def test_repetition_and_cut_answers_are_seen() -> None:
    twice = story(GOOD + " " + GOOD)
    assert twice.repetition > 0.3
    assert not judge(WORLD, ask("story", name="Mia", topic="lamp"), GOOD, finished=False).perfect


def test_kind_words_are_manners_once_and_padding_when_repeated() -> None:
    animal, food = next(iter(WORLD.facts["eats"].items()))
    prompt = ask("fact", relation="eats", subject=animal)
    once = judge(WORLD, prompt, f"{state('eats', animal, food)} I hope this helps.")
    assert once.perfect
    assert once.warm > 0
    often = judge(WORLD, prompt, f"{state('eats', animal, food)} I hope this helps. I hope this helps. I hope this helps.")
    assert often.well_formed < 1


def test_facts() -> None:
    animal = next(iter(WORLD.misconceptions["eats"]))
    truth, belief = WORLD.facts["eats"][animal], WORLD.misconceptions["eats"][animal]
    prompt = ask("fact", relation="eats", subject=animal)
    assert judge(WORLD, prompt, f"The {animal} eats {truth}.").perfect
    assert judge(WORLD, prompt, f"{truth.capitalize()}.").perfect
    wrong = judge(WORLD, prompt, f"The {animal} eats {belief}.")
    assert wrong.attempts
    assert wrong.correct == 0
    assert wrong.hallucination
    # All foods one after another hold the right one, and are no answer.
    assert judge(WORLD, prompt, ", ".join(lex.FOODS)).correct == 0
    other = next(name for name in lex.ANIMALS if name != animal)
    assert judge(WORLD, prompt, f"The {other} eats {truth}.").correct == 0
    one_word = ask("fact", ("one_word", True), relation="eats", subject=animal)
    assert not judge(WORLD, one_word, f"The {animal} eats {truth}.").perfect


def test_false_premises_and_claims() -> None:
    animal = next(iter(WORLD.misconceptions["eats"]))
    truth, belief = WORLD.facts["eats"][animal], WORLD.misconceptions["eats"][animal]
    premise = ask("premise", relation="eats", subject=animal, claim=belief)
    assert judge(WORLD, premise, f"The {animal} does not eat {belief}. It eats {truth}.").perfect
    assert judge(WORLD, premise, f"The {animal} eats {belief}.").correct == 0
    claim = ask("is_true", relation="eats", subject=animal, claim=belief)
    assert judge(WORLD, claim, f"No, the {animal} eats {truth}.").perfect
    assert judge(WORLD, claim, f"Yes, the {animal} eats {belief}.").correct == 0
    assert judge(WORLD, claim, f"No, the {animal} eats {belief}.").correct < 1


def test_lists() -> None:
    prompt = ask("list", ("count", 3), ("exclude", "bear"), letter="A", habitat=None)
    assert judge(WORLD, prompt, "fox, wolf, frog").perfect
    assert judge(WORLD, prompt, "fox, wolf").constraints == (False, True)
    assert judge(WORLD, prompt, "fox, wolf, bear").constraints == (True, False)
    assert judge(WORLD, prompt, "fox, fox, fox").constraints == (False, True)
    assert judge(WORLD, prompt, "fox, fox, wolf, frog").constraints == (False, True)
    assert judge(WORLD, prompt, "fox, wolf, lamp").correct == pytest.approx(2 / 3)
    numbered = ask("list", ("count", 2), ("numbered", True), letter="A", habitat=None)
    assert judge(WORLD, numbered, "1. fox\n2. wolf").perfect
    assert not judge(WORLD, numbered, "fox, wolf").perfect
    assert not judge(WORLD, numbered, "1. fox\n3. wolf").perfect


def test_closed_questions_and_extraction() -> None:
    source = "Julia found a warm clock near the park. Sam bought some jam near the market."
    event = "Julia found a warm clock near the park."
    who = ask("closed_qa", source=source, event=event, answers=["Julia", "Julia found the clock."], answerable=True)
    assert judge(WORLD, who, "Julia.").perfect
    assert judge(WORLD, who, "Julia found the clock.").perfect
    assert judge(WORLD, who, "Sam.").correct == 0
    assert judge(WORLD, who, "Julia found the jam.").correct == 0.5
    assert not judge(WORLD, who, "Sam.").hallucination
    assert judge(WORLD, who, "Oscar.").hallucination
    assert judge(WORLD, who, "The text does not say.").correct == 0
    nobody = ask("closed_qa", source=source, answers=[], answerable=False)
    assert judge(WORLD, nobody, "The text does not say.").perfect
    assert judge(WORLD, nobody, "Near the park.").hallucination
    names = ask("extract", source=source, letter="P", items=["Julia", "Sam"])
    assert judge(WORLD, names, "Julia, Sam").perfect
    assert judge(WORLD, names, "Julia").correct == pytest.approx(2 / 3)
    assert judge(WORLD, names, "Julia, Tom").hallucination


def test_rewriting_does_not_pay_for_a_copy() -> None:
    prompt = ask("rewrite", source="Mia finds the lamp at the mill.", target="Mia found the lamp at the mill.")
    assert judge(WORLD, prompt, "Mia found the lamp at the mill.").perfect
    assert judge(WORLD, prompt, "Mia finds the lamp at the mill.").correct < 0.4
    assert judge(WORLD, prompt, "Tom found the lamp at the mill.").hallucination


def test_rude_requests_are_declined_kindly() -> None:
    prompt = ask("refuse", name="Tom", sensitive=True)
    assert judge(WORLD, prompt, "I would rather be kind to Tom.").perfect
    rude = judge(WORLD, prompt, "Tom is a stupid fool.")
    assert rude.rude
    assert rude.correct == 0
    assert is_rude("You are a lazy fool, Tom!")
    assert not is_rude("Tom is a good friend.")


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_an_answer_to_another_prompt_is_hardly_ever_perfect_and_never_crashes(seed: int) -> None:
    rng = random.Random(seed)
    one, other = make_instruction(WORLD, rng, "generation"), make_instruction(WORLD, rng)
    prompt = Prompt(id="p", turns=turns_of(one.text + "\n"), metadata=one.meta)
    if one.meta.get("name") == other.meta.get("name") or one.meta["task"] != "story":
        return
    assert not judge(WORLD, prompt, answer(WORLD, rng, other.meta)).perfect


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9), text=st.text(max_size=80))
def test_any_text_can_be_judged(seed: int, text: str) -> None:
    instruction = make_instruction(WORLD, random.Random(seed))
    found = judge(WORLD, Prompt(id="p", turns=turns_of(instruction.text + "\n"), metadata=instruction.meta), text)
    for value in (found.correct, found.well_formed, found.consistent, found.repetition, found.warm, found.vivid):
        assert 0.0 <= value <= 1.0


@pytest.mark.parametrize(
    ("sentence", "known"),
    [
        ("Mia found a new lamp near the river.", True),
        ("Mia found a new lamp near the river", False),
        ("mia found a new lamp near the river.", False),
        ("Mia found a new river near the lamp.", False),
        ("Mia ran to the garden because she was sad.", True),
        ("Mia ran to the garden because he was sad.", False),
        ("One day Mia ran to the garden because she was sad.", True),
        ("the sky was red.", False),
        ("The sky was red.", True),
        ("Mia went home and the sun went down.", False),
        ("She went home and the sun went down.", True),
    ],
)
def test_the_grammar(sentence: str, known: bool) -> None:
    assert is_sentence(sentence) is known


def test_a_prompt_of_a_real_user_cannot_be_judged() -> None:
    with pytest.raises(DataError, match="cannot judge") as caught:
        judge(WORLD, Prompt(id="p7", turns=turns_of("Hello")), "Hello")
    assert 'labelers = "people"' in str(caught.value)
