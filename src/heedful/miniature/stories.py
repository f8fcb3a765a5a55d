"""Builds stories, poems and letters from the sentence templates, with everything that must be in them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t

_COUNTABLE = "AOJ"
_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    slots: frozenset[str]
    needs: frozenset[str]
    """Slots whose thing must already be in the story ("the {O}")."""
    brings: frozenset[str]
    """Slots whose thing enters the story here ("a {O}")."""


def _parse(text: str) -> _Sentence:
    brings = frozenset(re.findall(r"\b[aA] (?:\{D\} )?\{([AOJ])\}", text))
    slots = frozenset(re.findall(r"\{(\w)\}", text))
    return _Sentence(text, slots, (slots & frozenset(_COUNTABLE)) - brings, brings)


def _by_slot(texts: tuple[str, ...]) -> dict[str, list[_Sentence]]:
    parsed = [_parse(text) for text in texts]
    index = {letter: [s for s in parsed if letter in s.slots] for letter in "AOLKJCDGBF"}
    return {**index, "": parsed}


_OPENINGS = {letter: _by_slot(texts) for letter, texts in t.OPENINGS.items()}
_MIDDLES = _by_slot(t.MIDDLES)
_LASTS = _by_slot(t.LASTS)


def story(
    rng: random.Random,
    person: str,
    topic: str,
    *,
    num_sentences: int,
    words: tuple[str, ...] = (),
    friend: str | None = None,
    mood: str | None = None,
    beginning: str | None = None,
    ending: str | None = None,
) -> list[str] | None:
    """The sentences of a story about a person and a topic that meets every demand; None if none was found.

    ``mood`` is "G" (some happy word and no sad one) or "B" (the other way round); ``friend`` must appear when given.
    """
    pronouns = lex.PRONOUNS[lex.GENDER[person]]
    letter = lex.CLASS_OF[topic]
    demanded = [(lex.CLASS_OF[word], word) for word in words]
    if friend:
        demanded.append(("F", friend))
    if mood:
        demanded.append((mood, rng.choice(lex.CLASSES[mood])))
    for _ in range(_ATTEMPTS):
        cast = _cast(rng, person, topic, letter, friend)
        pending, known, used = list(demanded), set[str](), list[str]()
        sentences: list[str] = []
        for i in range(num_sentences):
            last = i == num_sentences - 1
            fixed = letter if i == 0 else ""  # the first sentence brings in the topic itself
            pools = _OPENINGS[letter] if i == 0 else _LASTS if last else _MIDDLES
            chosen = _choose(rng, pools, pending, known, used, mood, letter, fixed=fixed, cover_all=last)
            if chosen is None:
                break
            values = _values(rng, chosen, cast, pending, known, fixed)
            values.update(pronouns)
            values["end"] = f" {ending}" if last and ending else ""
            sentence = chosen.text.format_map(values)
            sentences.append(f"{beginning} {sentence}" if i == 0 and beginning else sentence)
            used.append(chosen.text)
        if len(sentences) == num_sentences and not pending:
            return sentences
    return None


def _cast(rng: random.Random, person: str, topic: str, letter: str, friend: str | None) -> dict[str, str]:
    cast = {c: rng.choice(lex.CLASSES[c]) for c in "AOLKJC"}
    while friend is None or friend == person:
        friend = rng.choice(lex.NAMES)
    cast.update({"P": person, "F": friend, letter: topic})
    return cast


def _choose(
    rng: random.Random,
    pools: dict[str, list[_Sentence]],
    pending: list[tuple[str, str]],
    known: set[str],
    used: list[str],
    mood: str | None,
    topic: str,
    *,
    fixed: str,
    cover_all: bool,
) -> _Sentence | None:
    forbidden = {"G": "B", "B": "G"}.get(mood or "", "")
    wanted = {letter for letter, _ in pending}
    if cover_all:
        if len(wanted) < len(pending):
            return None
        pool = [s for s in pools[pending[0][0]] if wanted <= s.slots] if pending else pools[""]
    else:
        wanted.discard(fixed)
        choices = [c for c, _ in pending if c != fixed]
        pool = pools[rng.choice(choices)] if choices else pools[topic if rng.random() < 0.5 else ""]
        pool = pool or pools[""]

    def fits(sentence: _Sentence) -> bool:
        # "a ..." must introduce a demanded thing: "the ring" would refer to a ring that is not there.
        return (
            sentence.needs <= known
            and not (sentence.needs & wanted)
            and not any(c in known and c not in wanted for c in sentence.brings)
            and forbidden not in sentence.slots
            and sentence.text not in used
        )

    for _ in range(6):
        sentence = pool[int(rng.random() * len(pool))] if pool else None
        if sentence and fits(sentence):
            return sentence
    left = [sentence for sentence in pool if fits(sentence)]
    if left or cover_all:
        return rng.choice(left) if left else None
    left = [sentence for sentence in pools[""] if fits(sentence)]
    return rng.choice(left) if left else None


def _values(
    rng: random.Random, sentence: _Sentence, cast: dict[str, str], pending: list[tuple[str, str]], known: set[str], fixed: str
) -> dict[str, str]:
    """A word for every slot of the sentence; demanded words come first, and are then no longer pending."""
    values = dict(cast)
    for c in "DGB":
        if c in sentence.slots:
            values[c] = rng.choice(lex.CLASSES[c])
    taken: set[str] = set()
    for item in list(pending):
        c, word = item
        if c in sentence.slots and c not in taken and c not in sentence.needs and c != fixed:
            values[c] = word
            taken.add(c)
            pending.remove(item)
            if c in sentence.brings and c not in known:
                cast[c] = word
    known |= sentence.brings
    return values


def poem(rng: random.Random, topic: str, *, num_lines: int, words: tuple[str, ...] = ()) -> list[str] | None:
    """The lines of a poem (couplets that rhyme) about an animal, a thing or a place; None if the words do not fit."""
    for _ in range(_ATTEMPTS):
        pending = list(words)
        lines: list[str] = []
        for first, second in rng.sample(t.COUPLETS, num_lines // 2):
            both = f"{first}\n{_capital(second)}"
            values = {"X": topic, "D": rng.choice(lex.ADJECTIVES), "C": rng.choice(lex.COLOURS)}
            for word in list(pending):
                c = lex.CLASS_OF[word]
                if "{" + c + "}" in both and values[c] not in words:
                    values[c] = word
                    pending.remove(word)
            lines += both.format_map(values).split("\n")
        if not pending:
            return lines
    return None


def letter(
    rng: random.Random, sender: str, to: str, purpose: str, about: str, *, num_sentences: int, words: tuple[str, ...] = ()
) -> str | None:
    """A letter "Dear ...", its sentences on one line, "Yours, ..."; None if the demanded words do not fit."""
    first = rng.choice(t.LETTERS[purpose]).replace("{x}", about)
    for _ in range(_ATTEMPTS):
        pending = list(words)
        body = [first]
        for template in rng.sample(t.LETTER_MORE, num_sentences - 1):
            values = {c: rng.choice(lex.CLASSES[c]) for c in "GLAK"}
            for word in list(pending):
                if "{" + lex.CLASS_OF[word] + "}" in template:
                    values[lex.CLASS_OF[word]] = word
                    pending.remove(word)
            body.append(template.format_map(values))
        if not pending:
            return f"Dear {to},\n{' '.join(body)}\nYours, {sender}"
    return None


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
