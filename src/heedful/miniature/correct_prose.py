"""Judges whether stories, letters, poems, descriptions and answers about facts are right: one function per task."""

from __future__ import annotations

from functools import lru_cache

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.good_answers import facts_about
from heedful.miniature.grammar import expand, is_sentence, signature
from heedful.miniature.invented_world import World, fill_fact, state
from heedful.miniature.verdict import Text, Verdict, short_form
from heedful.miniature.writing import Meta

# Prose -----------------------------------------------------------------------------------------------------------------------


def judge_story(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the right person and topic, and consistency."""
    correct = 0.5 * (meta["name"] in text.word_set) + 0.5 * (meta["topic"] in text.word_set)
    written = any(is_sentence(sentence) for sentence in text.sentences)
    return Verdict(attempts=written and correct > 0, correct=correct, consistent=_consistency(meta["name"], text))


_OTHER_PRONOUNS = {"f": frozenset(("he", "He", "his", "His", "him")), "m": frozenset(("she", "She", "her", "Her"))}


def _consistency(name: str, text: Text) -> float:
    """Score half for pronouns that agree with the person, half for things introduced ("a lamp") before "the lamp"."""
    right_pronouns = text.word_set.isdisjoint(_OTHER_PRONOUNS[lex.GENDER[name]])
    known: set[str] = set()
    grounded = True
    definite = False
    for word in text.words:
        if lex.CLASS_OF.get(word, "") in ("A", "O", "J") and word:
            grounded = grounded and (word in known or not definite)
            known.add(word)
            definite = False
        elif word in ("the", "The"):
            definite = True
        elif lex.CLASS_OF.get(word) != "D":
            definite = False
    return 0.5 * right_pronouns + 0.5 * grounded


def judge_letter(world: World, meta: Meta, text: Text) -> Verdict:
    """Check greeting, signature, purpose and topic, and that no other people appear."""
    lines = text.text.split("\n")
    purposes = {s.replace("{x}", meta["about"]) for s in t.LETTERS[meta["purpose"]]}
    parts = (
        lines[0] == f"Dear {meta['to']},",
        lines[-1] in (f"Yours, {meta['name']}", f"Your friend, {meta['name']}"),
        any(sentence in purposes for sentence in text.sentences),
        meta["about"] in text.word_set,
    )
    strangers = [word for word in text.words if word in lex.GENDER and word not in (meta["name"], meta["to"])]
    return Verdict(attempts=text.text.startswith("Dear ") and any(parts), correct=sum(parts) / 4, hallucination=bool(strangers))


@lru_cache(maxsize=1)
def _second_lines() -> dict[str, frozenset[str]]:
    """Map the signature of a couplet's first line to the signatures of second lines that rhyme with it."""
    found: dict[str, frozenset[str]] = {}
    for first, second in t.COUPLETS:
        seconds = expand(second[0].upper() + second[1:])
        for one in expand(first):
            found[one] = found.get(one, frozenset()) | seconds
    return found


def judge_poem(world: World, meta: Meta, text: Text) -> Verdict:
    """Check that the poem is about the topic and that its lines rhyme in pairs."""
    lines = [line.strip() for line in text.text.split("\n") if line.strip()]
    pairs = [(lines[i], lines[i + 1] if i + 1 < len(lines) else "") for i in range(0, len(lines), 2)]
    rhymes = [signature(second) in _second_lines().get(signature(first), ()) for first, second in pairs]
    about = meta["topic"] in text.word_set
    share = sum(rhymes) / len(rhymes)
    form = sum(is_sentence(line) for line in lines) / len(lines)
    return Verdict(attempts=share > 0, correct=0.5 * about + 0.5 * share, form=form)


def judge_describe(world: World, meta: Meta, text: Text) -> Verdict:
    """Return the share of sentences that are true and about the subject. A repeated fact counts once."""
    subject = meta["subject"]
    true = {(state(r, subject, world.facts[r][subject], form=f), f): r for r in facts_about(world, subject) for f in (0, 1)}
    told: set[str] = set()
    for i, sentence in enumerate(text.sentences):
        relation = true.get((sentence, 0)) or (true.get((sentence, 1)) if i else None)
        if relation:
            told.add(relation)
    correct = len(told) / len(text.sentences) if text.sentences else 0.0
    about = subject in text.word_set
    untrue = any(is_sentence(s) and (s, 0) not in true and (s, 1) not in true for s in text.sentences)
    return Verdict(attempts=about, correct=correct, hallucination=untrue)


# Facts -----------------------------------------------------------------------------------------------------------------------


def _named_values(meta: Meta, text: Text) -> tuple[frozenset[str], bool]:
    """Return the values of the relation's class in the answer, and whether it mentions another subject."""
    subject_slot, value_slot = t.FACT_SLOTS[meta["relation"]]
    lower = frozenset(word if lex.CLASS_OF.get(word) else word.lower() for word in text.word_set)
    values = lower & frozenset(lex.CLASSES[value_slot])
    others = lower & (frozenset(lex.CLASSES[subject_slot]) - {meta["subject"]})
    return values, bool(others)


def judge_fact(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the true value and no other, and for no other subject."""
    truth = world.facts[meta["relation"]][meta["subject"]]
    values, other_subject = _named_values(meta, text)
    right = values == {truth} and not other_subject
    return Verdict(
        attempts=bool(values),
        correct=float(right),
        hallucination=bool(values) and not right,
        form=short_form(text),
    )


def judge_is_true(world: World, meta: Meta, text: Text) -> Verdict:
    """Check for the right yes or no, with nothing false added."""
    relation, subject = meta["relation"], meta["subject"]
    truth = world.facts[relation][subject]
    values, other_subject = _named_values(meta, text)
    first = text.words[0] if text.words else ""
    if first not in ("Yes", "No"):
        return Verdict(attempts=False, correct=0.4 if values == {truth} else 0.0, hallucination=bool(values - {truth}))
    right_side = (first == "Yes") == (meta["claim"] == truth)
    # A claim may be named to deny it: "No, the fox does not eat corn."
    false = bool(values - ({truth, meta["claim"]} if first == "No" and "not" in text.word_set else {truth})) or other_subject
    told = values == {truth}
    correct = (1.0 if told else 0.8) if right_side and not false else 0.4 if right_side else 0.0
    form = 1.0 if len(text.words) == 1 else None
    return Verdict(attempts=True, correct=correct, hallucination=false or not right_side, form=form)


def judge_premise(world: World, meta: Meta, text: Text) -> Verdict:
    """Check that the answer denies the false premise and tells the truth."""
    relation, subject = meta["relation"], meta["subject"]
    truth = world.facts[relation][subject]
    denies = fill_fact(t.FACTS_DENIED[relation], relation, subject, meta["claim"]) in text.sentences
    tells = any(
        state(relation, subject, truth, form=form) in text.sentences for form in (0, 1) if form < len(t.FACTS[relation])
    )
    values, other_subject = _named_values(meta, text)
    false = bool(values - {truth, meta["claim"]}) or other_subject or (meta["claim"] in values and not denies)
    correct = 0.0 if false and not denies else 0.6 * denies + 0.4 * tells - 0.3 * false
    return Verdict(attempts=denies or bool(values), correct=max(0.0, correct), hallucination=false)
