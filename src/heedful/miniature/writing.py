"""Instructions to write something: stories, letters, poems and descriptions, and the constraints that users add."""

from __future__ import annotations

import random
import re
from typing import Any

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.invented_world import World
from heedful.miniature.stories import letter, poem, story

Meta = dict[str, Any]
"""What an instruction asks, as JSON: "task", "constraints" and whatever the task needs."""


def named(word: str) -> str:
    """The word as a noun phrase: "a lamp", "the river", "honey"."""
    c = lex.CLASS_OF[word]
    return word if c == "K" else f"the {word}" if c == "L" else f"a {word}"


def two_people(rng: random.Random) -> tuple[str, str]:
    """Two different names."""
    first, second = rng.sample(lex.NAMES, 2)
    return first, second


# Constraints -----------------------------------------------------------------------------------------------------------------

_WORDINGS: dict[str, tuple[str, ...]] = {
    "use_word": ('Use the word "{x}".', 'The word "{x}" must be in it.', 'Do not forget the word "{x}".'),
    "not_word": ('Do not use the word "{x}".',),
    "sentences": ("Write exactly {x} sentences.", "It should have {x} sentences.", "Make it {x} sentences long."),
    "lines": ("Write exactly {x} lines.", "It should have {x} lines."),
    "end": ('End with the words "{x}".', 'The last words must be "{x}".'),
    "begin": ('Begin with the words "{x}".', 'Start with "{x}".'),
    "person": ("{x} should be in it too.", "{x} must be in it."),
    "mood": ("It should be {x}.", "Make it {x}."),
    "exclude": ("Do not name {x}.", "But not {x}, please."),
}


def say(rng: random.Random, kind: str, shown: str) -> str:
    """A constraint in one of its wordings."""
    text = rng.choice(_WORDINGS[kind]).replace("{x}", shown)
    return text.replace("one sentences", "one sentence")


def _constraint(rng: random.Random, kind: str, value: Any) -> tuple[Meta, str]:
    shown = (
        lex.NUMBERS[value - 1]
        if kind in ("sentences", "lines")
        else {"G": "happy", "B": "sad"}[value]
        if kind == "mood"
        else value
    )
    return {"kind": kind, "value": value}, say(rng, kind, shown)


def values_of(meta: Meta, kind: str) -> list[Any]:
    """The values of all constraints of one kind."""
    return [c["value"] for c in meta["constraints"] if c["kind"] == kind]


def first_value(meta: Meta, kind: str) -> Any:
    """The value of the first constraint of a kind, or None."""
    return next((c["value"] for c in meta["constraints"] if c["kind"] == kind), None)


# Generation ------------------------------------------------------------------------------------------------------------------


def story_writing(world: World, rng: random.Random) -> tuple[str, Meta]:
    """Asks for a story about a person and something, with up to three kinds of constraints."""
    while True:
        person, friend = two_people(rng)
        topic = rng.choice(lex.CLASSES[rng.choice("OOOAALLKJ")])
        kinds = rng.sample(
            ("use_word", "use_word", "sentences", "sentences", "end", "end", "begin", "person", "mood", "not_word"),
            rng.choices((0, 1, 2, 3), weights=(8, 27, 40, 25))[0],
        )
        meta: Meta = {"task": "story", "name": person, "topic": topic, "constraints": []}
        parts = []
        for kind in dict.fromkeys(kinds):
            if kind == "use_word" and rng.random() < 0.15:
                a, b = (rng.choice(lex.CLASSES[c]) for c in rng.sample("OLAKCD", 2))
                meta["constraints"] += [{"kind": "use_word", "value": a}, {"kind": "use_word", "value": b}]
                parts.append(f'Use the words "{a}" and "{b}".')
                continue
            constraint, text = _constraint(rng, kind, _story_value(rng, kind, friend))
            meta["constraints"].append(constraint)
            parts.append(text)
        if topic in values_of(meta, "use_word") or topic in values_of(meta, "not_word") or build_story(rng, meta) is None:
            continue
        start = rng.choice(
            (
                "Write a story about {}.", "Write a story about {}.", "Tell me a story about {}.",
                "Write a short story about {}.",
                "Please write a story about {}.", "I need a story about {}.", "Can you tell a story about {}?",
            )
        )  # fmt: skip
        return " ".join([start.format(f"{person} and {named(topic)}"), *parts]), meta


def _story_value(rng: random.Random, kind: str, friend: str) -> Any:
    if kind in ("use_word", "not_word"):
        return rng.choice(lex.CLASSES[rng.choice("OLAKCJD")])
    if kind == "sentences":
        return rng.choice((2, 3, 4))
    if kind == "end":
        return rng.choice(lex.ENDINGS)
    if kind == "begin":
        return rng.choice(lex.BEGINNINGS)
    return friend if kind == "person" else rng.choice("GB")


def build_story(rng: random.Random, meta: Meta) -> list[str] | None:
    """The sentences of a story that keeps every constraint of the metadata; None if none was found."""
    forbidden = set(values_of(meta, "not_word"))
    for _ in range(4):
        found = story(
            rng,
            meta["name"],
            meta["topic"],
            num_sentences=first_value(meta, "sentences") or rng.choice((2, 3, 3, 4)),
            words=tuple(values_of(meta, "use_word")),
            friend=first_value(meta, "person"),
            mood=first_value(meta, "mood"),
            beginning=first_value(meta, "begin") or (rng.choice(lex.BEGINNINGS) if rng.random() < 0.3 else None),
            ending=first_value(meta, "end") or (rng.choice(lex.ENDINGS) if rng.random() < 0.2 else None),
        )
        if found and forbidden.isdisjoint(re.findall(r"\w+", " ".join(found))):
            return found
    return None


def letter_writing(world: World, rng: random.Random) -> tuple[str, Meta]:
    """Asks for a letter with a purpose."""
    while True:
        sender, to = two_people(rng)
        purpose = rng.choice(tuple(t.LETTERS))
        about = rng.choice(lex.CLASSES[t.LETTER_CLASS[purpose]])
        meta: Meta = {"task": "letter", "name": sender, "to": to, "purpose": purpose, "about": about, "constraints": []}
        parts = []
        for kind in rng.sample(("use_word", "sentences"), rng.choice((0, 1, 1, 2))):
            value = rng.choice(lex.CLASSES[rng.choice("GLAK")]) if kind == "use_word" else rng.choice((1, 2, 3))
            constraint, text = _constraint(rng, kind, value)
            meta["constraints"].append(constraint)
            parts.append(text)
        if about in values_of(meta, "use_word") or build_letter(rng, meta) is None:
            continue
        him = "her" if lex.GENDER[to] == "f" else "him"
        purposes = {
            "thank": f"Thank {him} for the {about}.", "invite": f"Invite {him} to the {about}.",
            "ask": f"Ask for some {about}.", "sorry": f"Say sorry for the {about}.",
        }  # fmt: skip
        start = rng.choice(
            (
                "Write a letter from {a} to {b}.",
                "Write a short letter from {a} to {b}.",
                "I am {a}. Write a letter to {b} for me.",
            )
        )
        return " ".join([start.format(a=sender, b=to), purposes[purpose], *parts]), meta


def build_letter(rng: random.Random, meta: Meta) -> str | None:
    """A letter that keeps every constraint of the metadata; None if none was found."""
    num_sentences = first_value(meta, "sentences") or rng.choice((2, 3))
    words = tuple(values_of(meta, "use_word"))
    return letter(rng, meta["name"], meta["to"], meta["purpose"], meta["about"], num_sentences=num_sentences, words=words)


def poem_writing(world: World, rng: random.Random) -> tuple[str, Meta]:
    """Asks for a poem."""
    topic = rng.choice(lex.CLASSES[rng.choice("AAOL")])
    meta: Meta = {"task": "poem", "topic": topic, "constraints": []}
    parts = []
    kinds = rng.sample(("lines", "use_word"), rng.choice((0, 1, 1, 2)))
    for kind in kinds:
        value = rng.choice((2, 4)) if kind == "lines" else rng.choice(lex.CLASSES[rng.choice("CD")])
        constraint, text = _constraint(rng, kind, value)
        meta["constraints"].append(constraint)
        parts.append(text)
    start = rng.choice(("Write a poem about the {}.", "Write a short poem about the {}.", "Please make a poem about the {}."))
    return " ".join([start.format(topic), *parts]), meta


def build_poem(rng: random.Random, meta: Meta) -> str | None:
    """A poem that keeps every constraint of the metadata; None if none was found."""
    num_lines = first_value(meta, "lines") or rng.choice((2, 4))
    lines = poem(rng, meta["topic"], num_lines=num_lines, words=tuple(values_of(meta, "use_word")))
    return "\n".join(lines) if lines else None


def describing(world: World, rng: random.Random) -> tuple[str, Meta]:
    """Asks for true sentences about an animal or a town."""
    subject = rng.choice(lex.ANIMALS + lex.TOWNS)
    count = rng.choice((1, 2, 3))
    shown = f"the {subject}" if subject in world.facts["eats"] else subject
    number = "one sentence" if count == 1 else f"{lex.NUMBERS[count - 1]} sentences"
    start = rng.choice(("Describe {x} in {n}.", "Tell me about {x} in {n}.", "Write {n} about {x}."))
    return start.format(x=shown, n=number), {
        "task": "describe",
        "subject": subject,
        "constraints": [{"kind": "sentences", "value": count}],
    }
