"""Corrected homework: tasks with an answer and a teacher's mark, the world's public data set for telling right from wrong.

The paper's final reward model started from a model that was first tuned on public language sets (SPEC 3.3, C.2); in the miniature this
set has that place. Half of the answers are right. The wrong ones ignore a constraint, tell what people believe, answer something else,
or have slips: a word exchanged, a sentence left out or written twice. Teachers mark by the world's own rules; no labeler takes part.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from heedful.miniature import lexicon as lex
from heedful.miniature.answers import answer, careless_answer
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.judging import judge
from heedful.miniature.world import World
from heedful.records import Prompt

MARK_QUESTION = "\nMark:"
RIGHT, WRONG = " right", " wrong"
_CARELESS = 0.5
_SLIP = 0.5
_FAMILIES = (lex.NAMES, lex.OBJECTS, lex.PLACES, lex.ANIMALS, lex.FOODS, lex.JOBS, lex.COLOURS)


@dataclass(frozen=True, slots=True)
class Graded:
    """An instruction, an answer, and whether the teacher found nothing wrong with it."""

    instruction: str
    answer: str
    right: bool

    @property
    def text(self) -> str:
        """What stands before the mark."""
        return f"{self.instruction}\n{self.answer}{MARK_QUESTION}"

    @property
    def mark(self) -> str:
        return RIGHT if self.right else WRONG


def graded_answers(world: World, *, seed: int, count: int) -> Iterator[Graded]:
    """``count`` marked answers; equal arguments give equal ones."""
    rng = random.Random(f"graded {world.seed} {seed}")
    for i in range(count):
        task = make_instruction(world, rng)
        # As many right as wrong ones on average, within every kind of task.
        text = answer(world, rng, task.meta) if i % 2 else _wrong_answer(world, rng, task)
        prompt = Prompt(id=f"graded-{i}", text=f"{task.text}\n", use_case=task.use_case, source="simulated", metadata=task.meta)
        yield Graded(task.text, text, judge(world, prompt, text, True).perfect)


def _wrong_answer(world: World, rng: random.Random, task: Instruction) -> str:
    careless = rng.random() < _CARELESS
    text = careless_answer(world, rng, task) if careless else _slip(rng, answer(world, rng, task.meta))
    while rng.random() < _SLIP or not text:
        text = _slip(rng, text) or answer(world, rng, task.meta)
    return text


def _slip(rng: random.Random, text: str) -> str:
    """One word exchanged for another of its family, or a sentence or line lost or doubled."""
    if rng.random() < 0.7:
        words = text.split(" ")
        place = rng.randrange(len(words))
        bare = words[place].strip(".,!?\n")
        family = next((f for f in _FAMILIES if bare in f), rng.choice(_FAMILIES))
        words[place] = words[place].replace(bare, rng.choice(list(family))) if bare else words[place]
        return " ".join(words)
    mark = "\n" if "\n" in text else ". "
    parts = text.split(mark)
    place = rng.randrange(len(parts))
    parts = parts[:place] + parts[place + 1 :] if rng.random() < 0.6 else [*parts[:place], parts[place], *parts[place:]]
    return mark.join(parts)
