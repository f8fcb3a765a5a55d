"""Short texts whose content is known: for questions, extraction, rewriting and summaries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from heedful.miniature import lexicon as lex


@dataclass(frozen=True, slots=True)
class Event:
    """A person did something with a thing at a place."""

    person: str
    past: str
    plain: str
    letter: str
    thing: str
    place: str
    text: str


_EVENT_VERBS = {
    "O": (("found", "find"), ("lost", "lose"), ("bought", "buy"), ("painted", "paint"), ("hid", "hide"), ("sold", "sell")),
    "K": (("bought", "buy"), ("sold", "sell"), ("found", "find")),
    "A": (("saw", "see"), ("found", "find"), ("lost", "lose")),
}


def scene(rng: random.Random, num_events: int) -> list[Event]:
    """Events that differ in person, thing and place, so that any one of the three identifies an event."""
    people = rng.sample(lex.NAMES, num_events)
    places = rng.sample(lex.PLACES, num_events)
    events = []
    things: set[str] = set()
    for person, place in zip(people, places, strict=True):
        letter = rng.choice("OOKA")
        past, plain = rng.choice(_EVENT_VERBS[letter])
        while (thing := rng.choice(lex.CLASSES[letter])) in things:
            pass
        things.add(thing)
        what = f"some {thing}" if letter == "K" else f"a {rng.choice(lex.ADJECTIVES)} {thing}"
        events.append(Event(person, past, plain, letter, thing, place, f"{person} {past} {what} near the {place}."))
    return events


def questions(event: Event) -> list[tuple[str, str, str]]:
    """(question, short answer, full answer) about one event."""
    the = f"the {event.thing}"
    a = f"some {event.thing}" if event.letter == "K" else f"a {event.thing}"
    return [
        (f"Who {event.past} {the}?", event.person, f"{event.person} {event.past} {the}."),
        (f"What did {event.person} {event.plain}?", event.thing, f"{event.person} {event.past} {a}."),
        (f"Where was {the}?", f"near the {event.place}", f"The {event.thing} was near the {event.place}."),
    ]


def event_text(rng: random.Random, *, present: bool, num_sentences: int) -> tuple[list[str], list[str]]:
    """Sentences about one person, in the present or the past, and the same sentences in the past."""
    person, friend = rng.sample(lex.NAMES, 2)
    pronouns = lex.PRONOUNS[lex.GENDER[person]]
    thing = rng.choice(lex.OBJECTS)
    sentences: list[str] = []
    target: list[str] = []
    for i in range(num_sentences):
        who = person if i == 0 else pronouns["He"]
        place, adjective = rng.choice(lex.PLACES), rng.choice(lex.ADJECTIVES)
        if i == 0:
            verbs = rng.choice(lex.TRANSITIVE)
            rest = rng.choice(
                (
                    f"a {adjective} {thing} near the {place}.",
                    f"the {thing} at the {place}.",
                    f"the {adjective} {thing} of {friend}.",
                )
            )
        else:
            verbs, rest = rng.choice(lex.MOTION), f"to the {place} with {friend}."
        sentences.append(f"{who} {verbs[0 if present else 1]} {rest}")
        target.append(f"{who} {verbs[1]} {rest}")
    return sentences, target


def swap_person(text: str, old: str, new: str) -> str:
    """The text about another person, with pronouns that fit."""
    pronoun = {"He": lex.PRONOUNS[lex.GENDER[new]]["He"], "She": lex.PRONOUNS[lex.GENDER[new]]["He"]}
    words = [new + word[len(old) :] if word.strip(".,") == old else pronoun.get(word, word) for word in text.split()]
    return " ".join(words)


_PLOTS: tuple[tuple[str, str, str], ...] = (
    ("{P} found a {D} {O} near the {L}.", "Then {he} gave the {O} to {F}.", "{P} found a {O} and gave it to {F}."),
    ("{P} lost a {D} {O} near the {L}.", "Then {F} found the {O}.", "{P} lost a {O} and {F} found it."),
    ("{P} bought a {D} {O} at the {L}.", "Then {he} gave the {O} to {F}.", "{P} bought a {O} and gave it to {F}."),
    ("{P} broke a {D} {O} at the {L}.", "Then {F} came and helped.", "{P} broke a {O} and {F} helped {him}."),
    ("{P} wanted a {D} {O}.", "Then {F} made the {O}.", "{P} wanted a {O} and {F} made it."),
    ("{P} met a {D} {A} near the {L}.", "Then the {A} came home with {him}.", "{P} met a {A} and it became {his} friend."),
)
"""How a plot begins, how it ends, and its summary."""
_BETWEEN = (
    "{He} was very {B}.", "{He} walked to the {L2}.", "The sky was {C}.", "It was a {Q} day.", "{He} thought about it all day.",
    "There was {K} to eat.",
)  # fmt: skip


def summary_case(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A text of three or four sentences and the metadata of its summary (target, person, thing, friend)."""
    person, friend = rng.sample(lex.NAMES, 2)
    values = {c: rng.choice(lex.CLASSES[c]) for c in "ADOLBCKQ"}
    values |= {"P": person, "F": friend, "L2": rng.choice(lex.PLACES)}
    values |= lex.PRONOUNS[lex.GENDER[person]]
    begin, end, summary = rng.choice(_PLOTS)
    middle = rng.sample(_BETWEEN, rng.choice((1, 2)))
    text = " ".join([template.format_map(values) for template in (begin, *middle, end)])
    return text, {"source": text, "target": summary.format_map(values)}
