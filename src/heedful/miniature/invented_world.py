"""The world itself: its facts, what people wrongly believe, and its second language, all drawn from one seed."""

from __future__ import annotations

import random
from functools import cached_property

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t

RELATIONS = tuple(t.FACTS)
NUM_MISCONCEPTIONS: dict[str, int] = {"eats": 6, "lives": 4, "colour": 4, "ruler": 3, "known": 3, "inventor": 3}
"""How many subjects of each relation have a common misconception."""
LANGUAGE = "Tavi"
"""Name of the second language: word for word, with the adjective after its noun."""


class World:
    """Everything that is true (and believed) in the miniature; equal seeds make equal worlds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"world {seed}")
        inventions = rng.sample(lex.OBJECTS, len(lex.INVENTORS))
        subjects = {"eats": lex.ANIMALS, "lives": lex.ANIMALS, "colour": lex.ANIMALS, "inventor": tuple(inventions)}
        self.facts: dict[str, dict[str, str]] = {}
        """relation -> subject -> true value"""
        for relation in RELATIONS:
            names = subjects.get(relation, lex.TOWNS)
            values = _spread(rng, lex.CLASSES[t.FACT_SLOTS[relation][1]], len(names))
            self.facts[relation] = dict(zip(names, values, strict=True))
        self.misconceptions: dict[str, dict[str, str]] = {relation: {} for relation in RELATIONS}
        """relation -> subject -> what most people wrongly believe"""
        for relation, count in NUM_MISCONCEPTIONS.items():
            for subject in rng.sample(list(self.facts[relation]), count):
                self.misconceptions[relation][subject] = self.false_value(rng, relation, subject)
        words = (*lex.ANIMALS, *lex.OBJECTS, *lex.COLOURS, *lex.ADJECTIVES, *lex.DOINGS)
        forms = [a + b for a in lex.TAVI_SYLLABLES for b in lex.TAVI_SYLLABLES if a != b]
        self.tavi: dict[str, str] = {"the": "ul", **dict(zip(words, rng.sample(forms, len(words)), strict=True))}
        """English word -> word of the second language"""

    def __repr__(self) -> str:
        return f"World(seed={self.seed})"

    def false_value(self, rng: random.Random, relation: str, subject: str) -> str:
        """A value that is not true of the subject."""
        values = lex.CLASSES[t.FACT_SLOTS[relation][1]]
        while (value := rng.choice(values)) == self.facts[relation][subject]:
            pass
        return value

    def believed(self, relation: str, subject: str) -> str:
        """What people say about the subject: its misconception if it has one, else the truth."""
        return self.misconceptions[relation].get(subject, self.facts[relation][subject])

    @cached_property
    def animals_of(self) -> dict[str, list[str]]:
        """Habitat -> animals that truly live there."""
        return {h: [a for a, where in self.facts["lives"].items() if where == h] for h in lex.HABITATS}

    @cached_property
    def english(self) -> dict[str, str]:
        """Word of the second language -> English word."""
        return {tavi: english for english, tavi in self.tavi.items()}

    def translate(self, phrase: str) -> str:
        """English "the red fox sleeps" into the second language: "ul <fox> <red> <sleeps>"."""
        words = phrase.split()
        for i in range(len(words) - 1):
            if words[i] in _ADJECTIVES:
                words[i], words[i + 1] = words[i + 1], words[i]
                break
        return " ".join([self.tavi[word] for word in words])


_ADJECTIVES = frozenset((*lex.COLOURS, *lex.ADJECTIVES))


def state(relation: str, subject: str, value: str, *, form: int = 0) -> str:
    """The sentence of a fact; form 1 continues about the same subject ("It eats ...")."""
    return fill_fact(t.FACTS[relation][form], relation, subject, value)


def fill_fact(template: str, relation: str, subject: str, value: str = "") -> str:
    """Fill subject and value of a relation into any template about it."""
    subject_slot, value_slot = t.FACT_SLOTS[relation]
    return template.replace("{" + subject_slot + "}", subject).replace("{" + value_slot + "}", value)


def _spread(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """``count`` values in random order, each used about equally often."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(values, len(values))
    return found[:count]
