from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from heedful.miniature import lexicon as lex
from heedful.miniature import proofreading
from heedful.miniature import sentence_templates as t
from heedful.miniature.good_answers import Style, answer
from heedful.miniature.instructions import make_instruction
from heedful.miniature.invented_world import World, state
from heedful.miniature.proofreading import (
    Slip,
    claim_page,
    context_of,
    draft,
    make_slip,
    mark,
    pages,
    question_page,
    read_draft,
    slip_page,
    spoil,
)

WORLD = World(0)
MARK = re.compile(r"(All wrong\.|(\w+) wrong: (.*)\.)")


def story_slip() -> Slip:
    constraints = [{"kind": "use_word", "value": "river"}, {"kind": "sentences", "value": 2}]
    meta = {"task": "story", "name": "Mia", "topic": "lamp", "constraints": constraints}
    return Slip("generation", "Story: Mia, lamp. Word: river. Sentences: two.", meta)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mia found a big lamp near the river. She went home.", "Nothing wrong: word yes, sentences yes, right yes."),
        ("Mia found a big lamp near the mill. She went home.", "One wrong: word no, sentences yes, right yes."),
        ("Mia found a big lamp near the mill.", "Two wrong: word no, sentences no, right yes."),
        ("Ben found a big lamp near the river. He went home.", "Two wrong: word yes, sentences yes, right some, before no."),
        ("Mia found a big lamp near the river. He went home.", "One wrong: word yes, sentences yes, right yes, before no."),
        ("Mia found big a lamp near the river. She went home.", "One wrong: word yes, sentences yes, right yes, English no."),
        ("The fox eats honey.", "All wrong."),
    ],
)
def test_a_mark_says_how_many_faults_and_which(text: str, expected: str) -> None:
    assert mark(WORLD, story_slip(), text) == expected


def test_good_answers_have_no_fault_whatever_the_slip() -> None:
    """Five words may come twice by chance."""
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    twice = 0
    for _ in range(600):
        slip = make_slip(WORLD, rng)
        kinds[slip.meta["task"]] += 1
        found = mark(WORLD, slip, answer(WORLD, rng, slip.meta, Style(warm=0.0)))
        twice += "once no" in found
        assert found.startswith("Nothing wrong") or (found.startswith("One wrong") and "once no" in found), (slip, found)
    assert twice < 12
    assert len(kinds) == 16
    assert "refuse" not in kinds  # what is better not said is for labelers to say


def test_the_number_in_a_mark_is_that_of_the_points_that_are_not_kept() -> None:
    rng = random.Random(1)
    counted: Counter[str] = Counter()
    for _ in range(500):
        slip = make_slip(WORLD, rng)
        found = MARK.fullmatch(mark(WORLD, slip, draft(WORLD, rng, slip)))
        assert found is not None
        counted[found[2] or "All"] += 1
        if found[2] is not None:
            faults = sum(not point.endswith(" yes") for point in found[3].split(", "))
            assert found[2] == (lex.NUMBERS[faults - 1].capitalize() if faults else "Nothing")
    assert all(counted[word] > 25 for word in ("Nothing", "One", "Two", "All")), counted


def test_a_slip_names_its_constraints_in_the_order_of_its_mark() -> None:
    rng = random.Random(2)
    several = 0
    for _ in range(300):
        slip = make_slip(WORLD, rng)
        kinds = [constraint["kind"] for constraint in slip.meta["constraints"]]
        named = [proofreading._TICKS[kind] for kind in kinds]
        found = MARK.fullmatch(mark(WORLD, slip, answer(WORLD, rng, slip.meta, Style(warm=0.0))))
        assert found is not None
        assert [point.split()[0] for point in found[3].split(", ")][: len(named) + 1] == [*named, "right"]
        places = [slip.heading.rindex(f" {proofreading._constraint(c['kind'], c['value'])}") for c in slip.meta["constraints"]]
        assert places == sorted(places)
        several += len(kinds) > 1
    assert several > 50


def test_no_slip_is_worded_as_users_ask() -> None:
    rng = random.Random(3)
    asked = {make_instruction(WORLD, rng).text.split(" ")[0] for _ in range(2_000)}
    asked -= {"Text:", "Review:", *lex.NAMES}  # texts that are worked on
    for _ in range(500):
        heading = make_slip(WORLD, rng).heading
        assert heading.split(" ")[0] not in asked, heading


def test_a_spoiled_text_differs_mostly() -> None:
    rng = random.Random(4)
    texts = [answer(WORLD, rng, make_slip(WORLD, rng).meta) for _ in range(400)]
    assert sum(spoil(rng, text) != text for text in texts) > 300


def test_notes_on_a_text_are_true() -> None:
    rng = random.Random(5)
    checked = 0
    for _ in range(200):
        lines = question_page(WORLD, rng).split("\n")
        for text, notes in zip(lines[::2], lines[1::2], strict=True):
            said = text.removeprefix("Text: ")
            words = re.findall(r"\w+", said)
            for note in notes.removeprefix("Notes: ").removesuffix(".").split(", "):
                *what, verdict = note.split()
                if what[-1:] == ["sentences"]:
                    assert (verdict == "yes") == (lex.NUMBERS.index(what[0]) + 1 == said.count(".")), note
                elif what[:1] and what[0] in lex.CLASS_WORDS.values():
                    letter = {name: letter for letter, name in lex.CLASS_WORDS.items()}[what[0]]
                    there = [word for word in dict.fromkeys(words) if lex.CLASS_OF.get(word) == letter]
                    assert note.split(" ", 1)[1] == (" and ".join(there) or "none"), note
                else:
                    assert (verdict == "yes") == (what[0] in words), note
                checked += 1
    assert checked > 400


def test_claims_are_told_from_the_worlds_facts() -> None:
    rng = random.Random(6)
    true = {state(r, s, value) for r in t.FACTS for s, value in WORLD.facts[r].items()}
    true |= {f"{word} is {tavi}." for word, tavi in WORLD.tavi.items()}
    told: Counter[bool] = Counter()
    for _ in range(100):
        for line in claim_page(WORLD, rng).split("\n"):
            claim, _, verdict = line.rpartition(" ")
            assert (verdict == "Yes.") == (claim in true), line
            told[claim in true] += 1
    assert min(told.values()) > 150


def test_equal_seeds_make_equal_pages_and_most_are_slips() -> None:
    first, again = (list(pages(WORLD, seed=7, count=300)) for _ in range(2))
    assert first == again
    assert first != list(pages(WORLD, seed=8, count=300))
    marked = sum(any(MARK.fullmatch(line) for line in page.split("\n")) for page in first)
    assert 130 < marked < 200  # 55 %
    assert MARK.search(slip_page(WORLD, random.Random(9)))


def test_a_story_is_begun_as_pages_of_the_corpus_begin() -> None:
    slip = story_slip()
    assert context_of(slip) == "Mia and the lamp\nWords: river.\nSentences: two.\nMia"
    slip.meta["constraints"] += [{"kind": "begin", "value": "One day"}, {"kind": "end", "value": "and all was well"}]
    assert context_of(slip) == ('Mia and the lamp\nWords: river.\nSentences: two.\nThe end: "and all was well".\nOne day')
    assert read_draft(slip, " Mia found a lamp.\nBen and the hat") == "One day Mia found a lamp."


LETTER = {"task": "letter", "name": "Mia", "to": "Ben", "purpose": "thank", "about": "lamp", "constraints": []}
ANIMALS = {"task": "list", "letter": "A", "habitat": None, "constraints": [{"kind": "count", "value": 2}]}


@pytest.mark.parametrize(
    ("slip", "context", "continued", "expected"),
    [
        (
            Slip("generation", "Letter: Mia, Ben, thanks for the lamp.", LETTER),
            "Subject: thanks for the lamp\nDear Ben,\n",
            "How are you?\nYours, Ella",
            "Dear Ben,\nHow are you?\nYours, Mia",
        ),
        (
            Slip("generation", "Poem: lamp.", {"task": "poem", "topic": "lamp", "constraints": []}),
            "The lamp\n",
            "Sing to the lamp, sing to the sun,\nThe day was big and now is done.",
            "Sing to the lamp, sing to the sun,\nThe day was big and now is done.",
        ),
        (Slip("brainstorming", "List: animals. Many: two.", ANIMALS), "Two animals:", " fox, bear.\nThree", "fox, bear"),
        (Slip("brainstorming", "List: animals. Many: two.", ANIMALS), "Two animals:", "\n1. fox\n2. bear", "1. fox\n2. bear"),
        (
            Slip("open_qa", "Fact: fox, eats.", {"task": "fact", "relation": "eats", "subject": "fox", "constraints": []}),
            "Question: What does the fox eat?\nAnswer:",
            " The fox eats jam.\nQuestion: Who",
            "The fox eats jam.",
        ),
        (
            Slip("other", "fox, bear, many:", {"task": "exact", "target": "two", "constraints": []}, "fox, bear:"),
            "fox, bear:",
            " two animals.\n",
            "two",
        ),
        (
            Slip("other", "a, b, a, next:", {"task": "exact", "target": "b", "constraints": []}, "a, b, a,"),
            "a, b, a,",
            " b, a.",
            "b",
        ),
    ],
)
def test_a_models_draft_is_what_it_wrote_for_the_slip(slip: Slip, context: str, continued: str, expected: str) -> None:
    assert context_of(slip) == context
    assert read_draft(slip, continued) == expected


def test_claims_have_no_page_to_go_on_with() -> None:
    meta = {"task": "is_true", "relation": "eats", "subject": "fox", "claim": "jam", "constraints": []}
    assert context_of(Slip("open_qa", "Claim: The fox eats jam.", meta)) is None


def test_drafts_of_a_model_are_marked_like_others() -> None:
    written = [(story_slip(), ["Mia found a big lamp near the river.", "Mia had a lamp."])]
    entries = "\n".join(pages(WORLD, seed=1, count=60, written=written))
    marked = "Text: Mia found a big lamp near the river.\nOne wrong: word yes, sentences no, right yes."
    assert entries.count(marked) > 15
    assert entries.count(f"{story_slip().heading}\n") < entries.count("Text: ")
