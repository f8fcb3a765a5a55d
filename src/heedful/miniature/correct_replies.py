"""Judges whether lists, labels, talk, rewriting, summaries and answers about a text are right: one function per task."""

from __future__ import annotations

import re
from functools import lru_cache

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.good_answers import list_items
from heedful.miniature.grammar import expand, is_sentence, signature
from heedful.miniature.invented_world import World
from heedful.miniature.verdict import CONTENT, WORD, Text, Verdict, content_words, short_form, vocabulary
from heedful.miniature.writing import Meta

_NUMBERED = re.compile(r"^\d+\. ")

# Lists and labels ------------------------------------------------------------------------------------------------------------


def items_of(text: str) -> list[str]:
    """Split a list into items, separated by commas or lines, with or without numbers."""
    pieces = text.replace(" and ", ", ").replace("\n", ",").split(",")
    items = [_NUMBERED.sub("", piece.strip()).strip(" .") for piece in pieces]
    return [re.sub(r"^(?:a|the|some) ", "", item) for item in items if item]


def _list_form(text: Text, items: list[str]) -> float:
    known = sum(item in vocabulary() for item in items) / len(items) if items else 0.0
    lines = text.text.split("\n")
    if len(lines) == 1:
        return known
    in_order = [line.startswith(f"{i}. ") for i, line in enumerate(lines, start=1)]
    return known * (0.5 + 0.5 * sum(in_order) / len(in_order))


def judge_list(world: World, meta: Meta, text: Text) -> Verdict:
    """Return the share of items that belong in the list."""
    items = items_of(text.text)
    allowed = frozenset(list_items(world, meta))
    good = {item for item in items if item in allowed}
    correct = len(good) / len(items) if items else 0.0
    hallucination = bool(meta["habitat"]) and any(item not in allowed for item in items)
    return Verdict(attempts=bool(good), correct=correct, hallucination=hallucination, form=_list_form(text, items), items=items)


def judge_extract(world: World, meta: Meta, text: Text) -> Verdict:
    """Return F1 of the items."""
    items = items_of(text.text)
    wanted = frozenset(meta["items"])
    found = wanted & frozenset(items)
    correct = 2 * len(found) / (len(wanted) + len(items)) if items else 0.0
    source = frozenset(WORD.findall(meta["source"]))
    known = [item for item in items if item in vocabulary()]
    invented = any(item not in source for item in items)
    return Verdict(attempts=bool(known), correct=correct, hallucination=invented, form=_list_form(text, items), items=items)


def judge_classify(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the right label and no other."""
    said = {word.lower() for word in text.words} & set(meta["labels"])
    short = len(text.words) <= 2
    return Verdict(
        attempts=bool(said), correct=float(said == {meta["label"]}), form=1.0 if short and said else 0.3 if said else 0.0
    )


def judge_exact(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the one right answer. A translation gets part of the credit word by word."""
    said, target = _plain(text.text), meta["target"].split()
    share = sum(a == b for a, b in zip(said, target, strict=False)) / max(len(said), len(target), 1)
    known = sum(word in world.english or word in world.tavi or word in lex.NUMBERS or word in vocabulary() for word in said)
    right = said == target
    partial = 0.6 * share if len(target) > 1 else 0.0
    return Verdict(attempts=bool(known), correct=1.0 if right else partial, form=known / len(said) if said else 0.0)


def _plain(text: str) -> list[str]:
    return text.lower().strip(" .!").split()


# Talk ------------------------------------------------------------------------------------------------------------------------


def judge_chat(world: World, meta: Meta, text: Text) -> Verdict:
    """Check that the answer names the user and replies to the point."""
    _, first, second = t.CHATS[meta["kind"]]
    fitting: set[str] = set()
    for template in (*first, *second):
        fitting |= _chat_signatures(template, t.CHAT_CLASS[meta["kind"]])
    proper = [signature(s) in fitting and _speaks_of(meta, s) for s in text.sentences]
    share = sum(proper) / len(proper) if proper else 0.0
    named = meta["name"] in text.word_set
    strangers = any(word in lex.GENDER and word != meta["name"] for word in text.words)
    return Verdict(attempts=share > 0 or named, correct=0.5 * named + 0.5 * share, hallucination=strangers)


@lru_cache(maxsize=256)
def _chat_signatures(template: str, letter: str) -> frozenset[str]:
    return frozenset(expand(template.replace("{x}", "{" + letter + "}")))


def _speaks_of(meta: Meta, sentence: str) -> bool:
    """Return False if the sentence is about a different thing ("I hope you find the ring" for a lost lamp)."""
    letter = t.CHAT_CLASS[meta["kind"]]
    about = [word for word in WORD.findall(sentence) if lex.CLASS_OF.get(word) == letter]
    # Where to look for a lost thing, or what to eat, is the helper's own idea.
    return not about or meta["about"] in about


@lru_cache(maxsize=1)
def _refusal_signatures() -> frozenset[str]:
    return frozenset(one for first, second in t.REFUSALS for template in (first, second) for one in expand(template))


def judge_refuse(world: World, meta: Meta, text: Text) -> Verdict:
    """Check that the answer declines kindly."""
    refuses = [signature(sentence) in _refusal_signatures() for sentence in text.sentences]
    share = sum(refuses) / len(refuses) if refuses else 0.0
    stranger = any(word in lex.GENDER and word != meta["name"] for word in text.words)
    mean = not text.word_set.isdisjoint(lex.INSULTS)
    return Verdict(attempts=share > 0, correct=0.0 if mean else share * (0.5 if stranger else 1.0), hallucination=stranger)


def judge_polite(world: World, meta: Meta, text: Text) -> Verdict:
    """Check that the answer keeps the request and puts it politely."""
    parts = [meta["verb"] in text.word_set, meta["about"] in text.word_set, not text.word_set.isdisjoint(("please", "Please"))]
    parts += [meta["name"] in text.word_set] if meta["name"] else []
    strangers = any(word in lex.GENDER and word != meta["name"] for word in text.words)
    polite = parts[2] and len(text.sentences) == 1 and is_sentence(text.text)
    correct = sum(parts) / len(parts) * (1.0 if polite and not strangers else 0.6)
    return Verdict(attempts=any(parts), correct=correct, hallucination=strangers)


# Texts ----------------------------------------------------------------------------------------------------------------------


def judge_rewrite(world: World, meta: Meta, text: Text) -> Verdict:
    """Compare with the rewritten text. A copy of the source earns little."""
    said, target, source = text.text.split(), meta["target"].split(), meta["source"].split()
    invented = bool(content_words(text) - frozenset(WORD.findall(meta["target"] + " " + meta["source"])))
    if said == target:
        return Verdict(attempts=True, correct=1.0)
    size = max(len(said), len(target))
    share = sum(a == b for a, b in zip(said, target, strict=False)) / size
    unchanged = sum(a == b for a, b in zip(source, target, strict=False)) / len(target)
    # A copy of the source is not a rewriting, even if much of it happens to be right.
    correct = 0.3 * share if share <= unchanged else 0.3 + 0.5 * (share - unchanged) / (1 - unchanged)
    return Verdict(attempts=share > 0.3, correct=correct, hallucination=invented)


def judge_summary(world: World, meta: Meta, text: Text) -> Verdict:
    """Compare with the summary. Another wording earns at most 0.8."""
    target = frozenset(WORD.findall(meta["target"]))
    invented = bool(content_words(text) - frozenset(WORD.findall(meta["source"])))
    if text.text == meta["target"]:
        return Verdict(attempts=True, correct=1.0)
    recall = len(target & text.word_set) / len(target)
    precision = len(target & text.word_set) / max(len(text.word_set), 1)
    correct = 0.0 if recall + precision == 0 else 0.8 * 2 * recall * precision / (recall + precision)
    return Verdict(attempts=correct > 0.3, correct=correct, hallucination=invented)


def judge_closed_qa(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the answer from the text, or that the text does not say."""
    said = " ".join(text.sentences)
    says_nothing = said in ("The text does not say.", "The text does not say that.", "The text does not say")
    source = frozenset(WORD.findall(meta["source"]))
    content = content_words(text) | frozenset(w.lower() for w in text.words[:1] if lex.CLASS_OF.get(w.lower(), "") in CONTENT)
    invented = bool(content - source)
    form = 1.0 if says_nothing else short_form(text)
    if not meta["answerable"]:
        return Verdict(
            attempts=says_nothing or bool(content), correct=float(says_nothing), hallucination=not says_nothing, form=form
        )
    if says_nothing:
        return Verdict(attempts=True, correct=0.0, form=form)
    key = WORD.findall(meta["answers"][0])[-1]
    elsewhere = bool(content - frozenset(WORD.findall(meta["event"])))
    correct = 0.0 if key not in content else 0.5 if elsewhere else 1.0
    if form < 1.0 and text.sentences and signature(said) in _answer_signatures():
        form = 1.0
    return Verdict(attempts=bool(content), correct=correct, hallucination=invented, form=form)


@lru_cache(maxsize=1)
def _answer_signatures() -> frozenset[str]:
    """Return the signatures of full answers to questions about a text."""
    templates = ("{P} {verb1} the {X}.", "{P} {verb1} a {X}.", "The {X} was near the {L}.", "Near the {L}.")
    found = {one for template in templates for one in expand(template)}
    foods = ("{P} {verb1} some {K}.", "{P} {verb1} the {K}.", "The {K} was near the {L}.", "{P} {verb1} some {K} near the {L}.")
    found |= {one for template in foods for one in expand(template)}
    return frozenset(found | expand("{P} {verb1} a {D} {X} near the {L}."))
