"""Marked homework: pupils' answers to a task, each with the teacher's remark.

Only from these documents can a model of the world's texts learn to *check* an answer. Pupils make the mistakes of people in a
hurry: a wrong or missing word, a sentence left out or repeated, an answer to another task, a forgotten request. The teacher
sees what anybody could check (:mod:`heedful.miniature.judging`) and names every mistake.
"""

from __future__ import annotations

import random

from heedful.conversation import turns_of
from heedful.miniature import lexicon as lex
from heedful.miniature.good_answers import answer, careless_answer
from heedful.miniature.grammar import split_sentences
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.invented_world import World
from heedful.miniature.judging import Judgement, judge
from heedful.records import Prompt

GOOD_SHARE = 0.1
"""Share of the pupils who make no mistake."""
CARELESS_SHARE = 0.3
"""Share whose answer is careless as in a workbook; the rest slip once or twice, which may do no harm."""

FORGOTTEN = {
    "use_word": "You forgot a word.",
    "person": "You forgot a person.",
    "not_word": "You used a word that you should not use.",
    "sentences": "Count the sentences.",
    "lines": "Count the lines.",
    "end": "Look at the end.",
    "begin": "Look at the beginning.",
    "mood": "Look at the mood.",
    "count": "Count again.",
    "exclude": "One thing should not be there.",
    "numbered": "Where are the numbers?",
    "one_word": "One word was enough.",
    "full_sentence": "Write a full sentence.",
}
"""What the teacher says if a constraint is not kept."""


def homework_entry(world: World, rng: random.Random) -> str:
    """One task, one to three pupils' answers, and a remark on each."""
    task = make_instruction(world, rng)
    lines = [f"Homework: {task.text}"]
    for _ in range(rng.choice((1, 2, 2, 3))):
        text = pupils_answer(world, rng, task)
        lines += [f"Pupil: {text}", f"Teacher: {remark(world, task, text)}"]
    return "\n".join(lines)


def pupils_answer(world: World, rng: random.Random, task: Instruction) -> str:
    """A good, a careless or a hurried answer."""
    draw = rng.random()
    if draw < CARELESS_SHARE:
        return careless_answer(world, rng, task)
    text = answer(world, rng, task.meta)
    if draw >= CARELESS_SHARE + GOOD_SHARE:
        for _ in range(rng.choice((1, 2, 2))):
            text = hurry(world, rng, task, text)
    return text


def hurry(world: World, rng: random.Random, task: Instruction, text: str) -> str:
    """The text with one slip; it may happen to do no harm."""
    words = text.split(" ")
    draw = rng.random()
    if draw < 0.45:
        place = rng.randrange(len(words))
        words[place] = _other_word(rng, words[place])
    elif draw < 0.60:
        del words[rng.randrange(len(words))]
    elif draw < 0.80:
        sentences = split_sentences(text)
        place = rng.randrange(len(sentences))
        if draw < 0.70 and len(sentences) > 1:
            del sentences[place]
        else:
            sentences.insert(place, sentences[place])
        words = ("\n" if "\n" in text else " ").join(sentences).split(" ")
    elif draw < 0.90:
        words = words[: rng.randrange(len(words)) + 1]
    else:
        words = answer(world, rng, make_instruction(world, rng, task.use_case).meta).split(" ")
    return " ".join(words) or text


def _other_word(rng: random.Random, word: str) -> str:
    """Another word instead of this one, mostly of its class, with the same punctuation after it."""
    core = word.strip('.,!?"')
    if core in lex.GENDER:
        other = rng.choice(lex.NAMES)
    elif core in lex.CLASS_OF and rng.random() < 0.8:
        other = rng.choice(lex.CLASSES[lex.CLASS_OF[core]])
    else:
        other = rng.choice(lex.CLASSES[rng.choice(tuple(lex.CLASSES))])
    return word.replace(core, other) if core else other


def remark(world: World, task: Instruction, text: str) -> str:
    """What the teacher writes: "Very good.", or one short sentence for each mistake."""
    judgement = judge(world, Prompt(id="homework", turns=turns_of(task.text), metadata=task.meta), text)
    return " ".join(_mistakes(judgement, task)) or "Very good."


def _mistakes(judgement: Judgement, task: Instruction) -> list[str]:
    if not judgement.attempts:
        return ["This is not an answer."]
    mistakes = [
        FORGOTTEN[constraint["kind"]]
        for constraint, kept in zip(task.meta["constraints"], judgement.constraints, strict=True)
        if not kept
    ]
    if judgement.rude:
        mistakes.append("Do not be rude.")
    if judgement.hallucination:
        mistakes.append("This is not true.")
    elif judgement.correct < 1:
        mistakes.append("Not quite right." if judgement.correct >= 0.5 else "This is wrong.")
    if judgement.well_formed < 1:
        mistakes.append("Look at your English.")
    if judgement.consistent < 1:
        mistakes.append("Who and what do you mean?")
    if judgement.repetition > 0:
        mistakes.append("You say it twice.")
    return mistakes
