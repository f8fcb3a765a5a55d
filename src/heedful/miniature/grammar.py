"""Recognises the sentences of the world: a sentence is well formed when the classes of its words, in order, match a template.

Each word is looked up, then the sequence of classes in one set, so a sentence takes microseconds.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from itertools import product

from heedful.miniature import sentence_templates as t
from heedful.miniature.lexicon import BEGINNINGS, CLASS_OF, ENDINGS, GENDER, MOTION, PRONOUNS, TRANSITIVE

_PUNCTUATION = ".,!?:;\"'"
_SLOT = re.compile(r"\{(\w+)\}")
_VERB_FORM = {word: f"<verb{i}>" for verbs in (*TRANSITIVE, *MOTION) for i, word in enumerate(verbs)}
_X_CLASSES = "AOL"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@lru_cache(maxsize=65536)
def word_class(token: str) -> str:
    """Class of one whitespace-separated token, with its punctuation kept: "lamp," is "<O>,"."""
    core = token.strip(_PUNCTUATION)
    if not core:
        return token
    start = token.index(core)
    return token[:start] + _core_class(core) + token[start + len(core) :]


def _core_class(core: str) -> str:
    if core in GENDER:
        return f"<P{GENDER[core]}>"
    letter = CLASS_OF.get(core)
    return f"<{letter}>" if letter else _VERB_FORM.get(core, core)


def signature(sentence: str) -> str:
    """The classes of a sentence's words; the first letter's case is checked by :func:`is_sentence`."""
    return " ".join([word_class(token) for token in sentence.split()])


def split_sentences(text: str) -> list[str]:
    """Sentences and lines of a text, without empty ones."""
    return [piece for piece in (part.strip() for part in _SENTENCE_END.split(text)) if piece]


def is_sentence(sentence: str) -> bool:
    """True when some template of the world makes this sentence (names, agreement of pronouns and punctuation included)."""
    return signature(sentence) in _signatures()


def well_formed_share(sentences: list[str]) -> float:
    """Share of sentences that the grammar knows, weighted by their words; 0 without sentences."""
    good = total = 0
    for sentence in sentences:
        words = sentence.count(" ") + 1
        total += words
        if is_sentence(sentence):
            good += words
    return good / total if total else 0.0


def expand(template: str) -> set[str]:
    """Every signature of a template: both genders of each person, with and without closing phrase."""
    found: set[str] = set()
    ends = ("", *(f" {phrase}" for phrase in ENDINGS)) if "{end}" in template else ("",)
    x_letters = _X_CLASSES if "{X}" in template else " "
    for p, f, end, x in product("mf" if _has_person(template) else "m", "mf" if "{F}" in template else "m", ends, x_letters):
        slots: dict[str, str] = {**PRONOUNS[p], "P": f"<P{p}>", "F": f"<P{f}>", "end": end, "X": f"<{x}>"}
        filled = _SLOT.sub(partial(_fill, slots), template)
        found.add(" ".join([token if "<" in token else word_class(token) for token in filled.split()]))
    return found


def _fill(slots: dict[str, str], match: re.Match[str]) -> str:
    name = match[1]
    return slots[name] if name in slots else f"<{name}>" if name.startswith("verb") else f"<{name.upper()}>"


def _has_person(template: str) -> bool:
    return any("{" + slot + "}" in template for slot in ("P", "he", "his", "him", "He", "His"))


def _lettered(templates: tuple[str, ...], letter: str) -> list[str]:
    return [template.replace("{x}", "{" + letter + "}") for template in templates]


def all_templates() -> list[str]:
    """Every template whose sentences count as well formed in an answer."""
    found = [s for group in t.OPENINGS.values() for s in group] + list(t.MIDDLES) + list(t.LASTS) + list(t.LETTER_MORE)
    found += [line for couplet in t.COUPLETS for line in couplet]
    found += [line for couplet in t.COUPLETS for line in (_capital(couplet[1]),)]
    for purpose, sentences in t.LETTERS.items():
        found += _lettered(sentences, t.LETTER_CLASS[purpose])
    for relation, sentences in t.FACTS.items():
        found += [*sentences, t.FACTS_DENIED[relation]]
        for sentence in (sentences[0], t.FACTS_DENIED[relation]):
            lower = sentence[0].lower() + sentence[1:]
            found += [f"Yes, {lower}", f"No, {lower}"]
    found += [sentence for pair in t.REFUSALS for sentence in pair]
    for kind, (_, first, second) in t.CHATS.items():
        found += _lettered((*first, *second), t.CHAT_CLASS[kind])
    found += [s for group in t.REVIEWS.values() for s in group]
    found += ["Dear {F},", "Yours, {P}", "Your friend, {P}", "The text does not say.", "The text does not say that."]
    found += [f"{{P}} {{{v}}} {rest}" for v in ("verb0", "verb1") for rest in REWRITE_RESTS]
    found += [f"{{He}} {{{v}}} {rest}" for v in ("verb0", "verb1") for rest in REWRITE_RESTS]
    found += [s.replace("{y}", "{verb2}") for s in POLITE]
    found += SUMMARIES
    return found


REWRITE_RESTS = ("a {D} {O} near the {L}.", "the {O} at the {L}.", "to the {L} with {F}.", "the {D} {O} of {F}.")
"""What may follow the verb of a sentence that users want rewritten."""
POLITE = (
    "Could you please {y} the {O}?", "Please {y} the {O}, {F}.", "{F}, could you please {y} the {O}?",
    "Would you please {y} the {O}, {F}?",
    "Could you please {y} the {D} {O}?", "Could you please {y} the {O}, {F}?",
)  # fmt: skip
SUMMARIES = [
    "{P} found a {O} and gave it to {F}.", "{P} lost a {O} and {F} found it.", "{P} bought a {O} and gave it to {F}.",
    "{P} broke a {O} and {F} helped {him}.", "{P} wanted a {O} and {F} made it.", "{P} met a {A} and it became {his} friend.",
]  # fmt: skip


@lru_cache(maxsize=1)
def _signatures() -> frozenset[str]:
    found: set[str] = set()
    for template in all_templates():
        found |= expand(template)
    # A story may begin with an opening phrase before any of its first sentences.
    for group in t.OPENINGS.values():
        for template in group:
            for beginning in BEGINNINGS:
                found |= expand(f"{beginning} {template}")
    return frozenset(found)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
