from __future__ import annotations

import random
from collections import Counter

from heedful.miniature.good_answers import answer
from heedful.miniature.homework import homework_entry, hurry, pupils_answer, remark
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.invented_world import World

WORLD = World(0)


def story_with_a_word() -> Instruction:
    rng = random.Random(0)
    while True:
        task = make_instruction(WORLD, rng, "generation")
        if task.meta["task"] == "story" and [c["kind"] for c in task.meta["constraints"]] == ["use_word"]:
            return task


def test_an_entry_is_a_task_with_one_to_three_answers_and_a_remark_on_each() -> None:
    rng = random.Random(1)
    for _ in range(200):
        entry = homework_entry(WORLD, rng)
        assert entry.startswith("Homework: ")
        pupils, teachers = entry.count("\nPupil: "), entry.count("\nTeacher: ")
        assert pupils == teachers
        assert 1 <= pupils <= 3


def test_good_answers_are_praised() -> None:
    """Whatever is asked: the answers that labelers would write have no mistake (five words may come twice by chance)."""
    rng = random.Random(2)
    twice = 0
    for _ in range(500):
        task = make_instruction(WORLD, rng)
        said = remark(WORLD, task, answer(WORLD, rng, task.meta))
        twice += said == "You say it twice."
        assert said in ("Very good.", "You say it twice."), task.text
    assert twice < 10


def test_the_teacher_names_the_mistake() -> None:
    rng = random.Random(3)
    task = story_with_a_word()
    word = task.meta["constraints"][0]["value"]
    text = answer(WORLD, rng, task.meta)
    assert "You forgot a word." in remark(WORLD, task, text.replace(word, "thing"))
    assert "This is not an answer." in remark(WORLD, task, "Write a story about a lamp.")
    assert "You say it twice." in remark(WORLD, task, f"{text} {text}")


def test_a_hurried_answer_differs_and_is_mostly_marked_down() -> None:
    rng = random.Random(4)
    good = changed = 0
    for _ in range(600):
        task = make_instruction(WORLD, rng)
        text = answer(WORLD, rng, task.meta)
        slipped = hurry(WORLD, rng, task, text)
        changed += slipped != text
        good += remark(WORLD, task, slipped) == "Very good."
    assert changed > 500
    assert good < 200


def test_most_pupils_make_a_mistake_and_all_kinds_occur() -> None:
    rng = random.Random(5)
    remarks: Counter[str] = Counter()
    total = 0
    for _ in range(3_000):
        task = make_instruction(WORLD, rng)
        total += 1
        remarks.update(remark(WORLD, task, pupils_answer(WORLD, rng, task)).replace(". ", ".\n").splitlines())
    assert 0.1 < remarks["Very good."] / total < 0.35
    for kind in ("This is not an answer.", "You forgot a word.", "Count the sentences.", "This is not true."):
        assert remarks[kind] > 10, kind
