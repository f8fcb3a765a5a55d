"""Pages on which people ask for something, as the web has them: mostly without an answer, seldom with a good one.

A base model learns from them what an instruction looks like, and that a page with one goes on with more of them, with people
who do not know either, or with a pupil's mistakes.
"""

from __future__ import annotations

import random

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.good_answers import answer, careless_answer
from heedful.miniature.homework import homework_entry
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.invented_world import World

CARELESS_SHARE = 0.7
"""Share of the workbooks' answers that are careless."""
REPLY_SHARE = 0.2
"""Share of the replies in a forum that try to answer, carelessly."""
MAX_WORDS = 110
"""Longest document in words; longer ones are cut between lines."""


def instruction_list(world: World, rng: random.Random) -> str:
    """Two to six instructions in a row, without answers, as on a page of exercises or writing ideas."""
    use_case = make_instruction(world, rng).use_case if rng.random() < 0.5 else None
    return join_entries([make_instruction(world, rng, use_case).text for _ in range(rng.choice((2, 3, 4, 5, 6)))])


def forum(world: World, rng: random.Random) -> str:
    """People ask in a forum; most replies are no answers."""
    return join_entries([_thread(world, rng) for _ in range(rng.choice((1, 2, 3)))])


def _thread(world: World, rng: random.Random) -> str:
    task = _one_line(world, rng)
    people = rng.sample(lex.NAMES, rng.choice((2, 2, 3, 4)))
    lines = [f"{people[0]} asks: {task.text}"]
    for person in people[1:]:
        said = careless_answer(world, rng, task) if rng.random() < REPLY_SHARE else rng.choice(t.FORUM_REPLIES)
        lines.append(f"{person}: {said.format(F=people[0]) if '{F}' in said else said}")
    return "\n".join(lines)


def _one_line(world: World, rng: random.Random) -> Instruction:
    while "\n" in (task := make_instruction(world, rng)).text:
        pass
    return task


def workbook(world: World, rng: random.Random) -> str:
    """One to four tasks with answers, seven in ten of them careless."""
    return join_entries(
        [workbook_entry(world, rng, careless=rng.random() < CARELESS_SHARE) for _ in range(rng.choice((1, 2, 3, 4)))]
    )


def workbook_entry(world: World, rng: random.Random, *, careless: bool) -> str:
    """One task of a workbook with its answer."""
    task = make_instruction(world, rng)
    text = careless_answer(world, rng, task) if careless or task.meta["task"] == "refuse" else answer(world, rng, task.meta)
    return f"Task: {task.text}\nAnswer: {text}"


def homework(world: World, rng: random.Random) -> str:
    """One to three tasks of a pupil's exercise book: mostly mistakes, and the teacher's remarks on them."""
    return join_entries([homework_entry(world, rng) for _ in range(rng.choice((1, 2, 3)))])


def join_entries(entries: list[str]) -> str:
    """The first entries that fit into :data:`MAX_WORDS`; always at least one."""
    kept: list[str] = []
    words = 0
    for entry in entries:
        words += entry.count(" ") + 1
        if kept and words > MAX_WORDS:
            break
        kept.append(entry)
    return "\n".join(kept)
