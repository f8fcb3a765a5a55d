from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from heedful.miniature import asked_pages, corpus
from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.homework import pupils_answer, remark
from heedful.miniature.instructions import make_instruction
from heedful.miniature.invented_world import World

WORLD = World(0)


def test_equal_seeds_make_equal_documents_and_other_seeds_do_not() -> None:
    first = list(corpus.documents(WORLD, seed=3, count=200))
    assert first == list(corpus.documents(World(0), seed=3, count=200))
    assert first != list(corpus.documents(WORLD, seed=4, count=200))
    assert first != list(corpus.documents(World(1), seed=3, count=200))


def test_documents_do_not_depend_on_pythons_hash_seed() -> None:
    # Iterating over a set of strings once made every process draw other documents.
    code = (
        "import hashlib; from heedful.miniature.corpus import documents; from heedful.miniature.invented_world import World; "
        "print(hashlib.md5(''.join(documents(World(0), seed=1, count=800)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_the_mixture_is_whole_and_every_kind_has_a_writer() -> None:
    assert sum(corpus.MIXTURE.values()) == pytest.approx(1.0)
    rng = random.Random(0)
    for kind in corpus.MIXTURE:
        assert corpus.document(WORLD, rng, kind).strip()


def test_documents_have_the_length_that_the_models_context_was_chosen_for() -> None:
    lengths = [len(text.split()) for text in corpus.documents(WORLD, seed=0, count=5000)]
    assert max(lengths) <= 160  # a homework task with three pupils' stories
    assert 35 < sum(lengths) / len(lengths) < 55


def test_instruction_lists_hold_no_answers() -> None:
    rng = random.Random(0)
    for _ in range(100):
        page = asked_pages.instruction_list(WORLD, rng)
        assert "Answer:" not in page
        assert "Task:" not in page


def test_forum_pages_hold_few_answers() -> None:
    rng = random.Random(0)
    replies = answers = 0
    for _ in range(400):
        for line in corpus.document(WORLD, rng, "forum").split("\n"):
            name, colon, said = line.partition(": ")
            if name in lex.NAMES and colon:
                replies += 1
                answers += not any(said == one.replace("{F}", asker) for one in t.FORUM_REPLIES for asker in lex.NAMES)
    assert replies > 500
    assert 0.1 < answers / replies < 0.3


def test_few_documents_show_an_instruction_with_a_good_answer() -> None:
    """The base must be a base: a good answer right under an instruction is rare (homework says first whose it is)."""
    assert corpus.MIXTURE["workbook"] * (1 - asked_pages.CARELESS_SHARE) < 0.01
    rng = random.Random(0)
    right = total = 0
    for _ in range(1_000):
        task = make_instruction(WORLD, rng)
        total += 1
        right += remark(WORLD, task, pupils_answer(WORLD, rng, task)) == "Very good."
    assert right / total < 0.35


def test_the_book_of_facts_is_true_and_question_pages_repeat_misconceptions() -> None:
    rng = random.Random(0)
    # Whatever people wrongly believe about an animal's food stands nowhere in the book of facts.
    book = "\n".join(corpus.facts(WORLD, rng) for _ in range(600))
    pages = "\n".join(corpus.document(WORLD, rng, kind) for kind in ("qa_page", "misconception") for _ in range(1500))
    for animal, belief in WORLD.misconceptions["eats"].items():
        truth = WORLD.facts["eats"][animal]
        assert belief != truth
        assert f"The {animal} eats {belief}." not in book
        wrong, right = (pages.count(f"he {animal} eats {value}.") for value in (belief, truth))
        assert wrong > right


def test_word_classes_do_not_overlap() -> None:
    words = [word for values in lex.CLASSES.values() for word in values] + list(lex.NAMES)
    assert [word for word, number in Counter(words).items() if number > 1] == []
    assert not [word for word in (*lex.ANIMALS, *lex.OBJECTS, *lex.JOBS, *lex.ADJECTIVES) if word[0] in "aeiou"]


def test_world_translates_word_for_word_with_the_adjective_behind() -> None:
    tavi = WORLD.tavi
    assert WORLD.translate("the red fox sleeps") == f"{tavi['the']} {tavi['fox']} {tavi['red']} {tavi['sleeps']}"
    assert len(set(tavi.values())) == len(tavi)
