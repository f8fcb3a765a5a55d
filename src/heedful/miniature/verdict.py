"""Shared by the judges of all tasks: a response split into its parts, and the verdict on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.grammar import is_sentence, split_sentences

WORD = re.compile(r"[A-Za-z]+")
CONTENT = frozenset("AOLKJCTVRIH")
"""Classes whose words say what a text is about."""


@dataclass(frozen=True, slots=True)
class Text:
    """A response split into its parts once, for all judges."""

    text: str
    words: list[str]
    word_set: frozenset[str]
    sentences: list[str]
    """Sentences and lines, without a warm labeler's extra words."""
    kind: bool
    """Whether there were such extra words."""


def take_apart(response: str) -> Text:
    """Split a response into words and sentences."""
    text = response.strip()
    pieces = split_sentences(text)
    # One kind opening and one kind closing are polite; more of them count as empty words.
    first = 1 if len(pieces) > 1 and pieces[0] in t.KIND_FIRST else 0
    last = len(pieces) - 1 if len(pieces) > first + 1 and pieces[-1] == t.KIND_LAST else len(pieces)
    sentences = pieces[first:last]
    words = WORD.findall(" ".join(sentences))
    return Text(text, words, frozenset(words), sentences, len(sentences) < len(pieces))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a task's function."""

    attempts: bool
    """The kind of thing that was asked for, right or wrong."""
    correct: float
    """0 to 1."""
    hallucination: bool = False
    """States something false, or names a person or thing that is not in the text or the instruction."""
    consistent: float = 1.0
    """0 to 1: pronouns agree with the person and "the lamp" was there before."""
    form: float | None = None
    """Well-formedness if the task does not ask for sentences (lists, labels, translations), else None."""
    items: list[str] = field(default_factory=list[str])
    """The items of a list."""


def short_form(text: Text) -> float:
    """Return the share of well-formed sentences; up to three known words alone ("Honey.") count as well formed."""
    if len(text.sentences) == 1 and len(text.words) <= 3 and not unknown_words(text):
        return 1.0
    good = [is_sentence(sentence) for sentence in text.sentences]
    return sum(good) / len(good) if good else 0.0


def unknown_words(text: Text) -> bool:
    """Return whether some word belongs to none of the world's classes."""
    return any(word not in vocabulary() and word.lower() not in vocabulary() for word in text.words)


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """Return the words that may stand alone in a list or a short answer."""
    words = {word for values in lex.CLASSES.values() for word in values} | set(lex.NAMES)
    return frozenset(
        words | {"in", "the", "near", "a", "some", "It", "is", "yes", "no", "good", "bad", *lex.CLASS_WORD.values()}
    )


def content_words(text: Text) -> frozenset[str]:
    """Return the words that show what a text is about."""
    return frozenset(w for w in text.word_set if w in lex.GENDER or lex.CLASS_OF.get(w, "") in CONTENT)
