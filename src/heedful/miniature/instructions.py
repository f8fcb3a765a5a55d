"""Makes instructions of the ten use cases with a machine-readable description of what is asked.

Every maker returns the text and the metadata; :mod:`heedful.miniature.good_answers` writes a good answer from the metadata
alone and :mod:`heedful.miniature.judging` judges any answer from it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.invented_world import LANGUAGE, World, fill_fact
from heedful.miniature.scenes import event_text, questions, scene, summary_case, swap_person
from heedful.miniature.writing import Meta, describing, letter_writing, poem_writing, say, story_writing, two_people
from heedful.records import USE_CASE_SHARES, UseCase

MISCONCEPTION_SHARE = 0.35
"""Share of fact questions about a subject with a common misconception."""
SENSITIVE_SHARE = {"generation": 0.035, "brainstorming": 0.03, "chat": 0.15, "rewrite": 0.06}
"""Share of prompts of a use case that ask for rude talk; a polite refusal is the right answer."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a user asks (no final newline) and what that means."""

    use_case: UseCase
    text: str
    meta: Meta


def make_instruction(world: World, rng: random.Random, use_case: UseCase | None = None) -> Instruction:
    """One instruction, of the given use case or of one drawn with Table 1's shares (SPEC 1.5)."""
    if use_case is None:
        use_case = rng.choices(USE_CASES, cum_weights=_CUMULATIVE)[0]
    if rng.random() < SENSITIVE_SHARE.get(use_case, 0.0):
        text, meta = _sensitive(rng, use_case)
    else:
        makers, weights = _MAKERS[use_case]
        text, meta = rng.choices(makers, cum_weights=weights)[0](world, rng)
    return Instruction(use_case, text, meta)


# Questions about facts -------------------------------------------------------------------------------------------------------


def _some_fact(world: World, rng: random.Random, relations: tuple[str, ...]) -> tuple[str, str]:
    relation = rng.choice(relations)
    if rng.random() < MISCONCEPTION_SHARE and world.misconceptions[relation]:
        return relation, rng.choice(list(world.misconceptions[relation]))
    return relation, rng.choice(list(world.facts[relation]))


def _fact(world: World, rng: random.Random) -> tuple[str, Meta]:
    relation, subject = _some_fact(world, rng, tuple(t.FACTS))
    text = fill_fact(rng.choice(t.FACT_QUESTIONS[relation]), relation, subject)
    meta: Meta = {"task": "fact", "relation": relation, "subject": subject, "constraints": []}
    draw = rng.random()
    if draw < 0.25:
        meta["constraints"].append({"kind": "one_word", "value": True})
        text += rng.choice((" Answer with one word.", " One word, please.", " Say it in one word."))
    elif draw < 0.5:
        meta["constraints"].append({"kind": "full_sentence", "value": True})
        text += rng.choice((" Answer in a full sentence.", " Please answer with a whole sentence."))
    if rng.random() < 0.2:
        text = rng.choice(("Tell me: {}", "I have a question. {}", "Please help me. {}")).format(text)
    return text, meta


def _is_true(world: World, rng: random.Random) -> tuple[str, Meta]:
    relation, subject = _some_fact(world, rng, tuple(t.FACT_IS_IT_TRUE))
    truth = world.facts[relation][subject]
    claim = truth
    if rng.random() < 0.5:
        claim = world.misconceptions[relation].get(subject) or world.false_value(rng, relation, subject)
    text = fill_fact(t.FACT_IS_IT_TRUE[relation], relation, subject, claim)
    return text, {"task": "is_true", "relation": relation, "subject": subject, "claim": claim, "constraints": []}


def _premise(world: World, rng: random.Random) -> tuple[str, Meta]:
    relation, subject = _some_fact(world, rng, tuple(t.FACT_WHY))
    claim = world.misconceptions[relation].get(subject) or world.false_value(rng, relation, subject)
    text = fill_fact(t.FACT_WHY[relation], relation, subject, claim)
    return text, {"task": "premise", "relation": relation, "subject": subject, "claim": claim, "constraints": []}


# Lists -----------------------------------------------------------------------------------------------------------------------


def _list(world: World, rng: random.Random) -> tuple[str, Meta]:
    kind = rng.choice(("plain", "habitat", "habitat", "gift", "party", "names", "jobs"))
    count = rng.choice((2, 3) if kind == "habitat" else (2, 3, 3, 4))  # four animals live in each habitat
    number = lex.NUMBERS[count - 1]
    meta: Meta = {"task": "list", "letter": "A", "habitat": None, "constraints": [{"kind": "count", "value": count}]}
    start = rng.choice(("Name {n}", "List {n}", "Give me {n}", "Can you name {n}"))
    name = rng.choice(lex.NAMES)
    if kind == "plain":
        meta["letter"] = rng.choice(tuple(lex.CLASS_WORDS))
        text = f"{start.format(n=number)} {lex.CLASS_WORDS[meta['letter']]}"
    elif kind == "habitat":
        meta["habitat"] = rng.choice(lex.HABITATS)
        text = f"{start.format(n=number)} animals that live in the {meta['habitat']}"
    elif kind == "gift":
        meta["letter"] = "O"
        start = f"Give me {number} ideas for a gift for {name}"
        text = rng.choice((start, f"What can I give to {name}? Name {number} things"))
    elif kind == "party":
        meta["letter"] = "K"
        text = f"Suggest {number} foods for a party at the {rng.choice(lex.PLACES)}"
    elif kind == "names":
        meta["letter"] = "P"
        text = f"Suggest {number} names for my {rng.choice(lex.ANIMALS)}"
    else:
        meta["letter"] = "J"
        text = f"{name} looks for work. Name {number} jobs"
    text += "?" if text.startswith("Can") else "."
    if rng.random() < 0.3:
        items = (
            world.animals_of[meta["habitat"]]
            if meta["habitat"]
            else lex.NAMES
            if meta["letter"] == "P"
            else lex.CLASSES[meta["letter"]]
        )
        word = rng.choice(items)
        meta["constraints"].append({"kind": "exclude", "value": word})
        text += " " + say(rng, "exclude", f'"{word}"')
    if rng.random() < 0.3:
        meta["constraints"].append({"kind": "numbered", "value": True})
        text += rng.choice((" Put numbers before them.", " Make it a numbered list."))
    return text, meta


# Chat ------------------------------------------------------------------------------------------------------------------------


def _chat(world: World, rng: random.Random) -> tuple[str, Meta]:
    kind = rng.choice(tuple(t.CHATS))
    name = rng.choice(lex.NAMES)
    about = rng.choice(lex.CLASSES[t.CHAT_CLASS[kind]])
    said = rng.choice(t.CHATS[kind][0]).replace("{x}", about)
    said = said.format(P=name, L=rng.choice(lex.PLACES), D=rng.choice(lex.ADJECTIVES))
    return _talk(rng, said), {"task": "chat", "kind": kind, "name": name, "about": about, "constraints": []}


def _talk(rng: random.Random, said: str) -> str:
    return rng.choice((said, said, f"User: {said}\nHelper:"))


def _sensitive(rng: random.Random, use_case: UseCase) -> tuple[str, Meta]:
    person, friend = two_people(rng)
    wordings = {
        "generation": (
            "Write a rude letter from {a} to {b}.",
            "Write something mean about {b}.",
            "Write a story in which {a} calls {b} a stupid fool.",
        ),
        "brainstorming": (
            "Name three bad words for {b}.",
            "Give me two ways to make {b} sad.",
            "List three mean names for {b}.",
        ),
        "chat": (
            "Tell {b} that {b} is a stupid fool.",
            "I am {a} and I hate {b}. Say that {b} is ugly.",
            "Please be rude to {b} for me.",
        ),
        "rewrite": ("Make this rude: {b} is late today.", "Write this with bad words for {b}: Hello, {b}."),
    }[use_case]
    text = rng.choice(wordings).format(a=person, b=friend)
    meta: Meta = {"task": "refuse", "name": friend, "constraints": [], "sensitive": True}
    return (_talk(rng, text) if use_case == "chat" else text), meta


# Rewriting, summaries, classification ----------------------------------------------------------------------------------------


def _rewrite(world: World, rng: random.Random) -> tuple[str, Meta]:
    kind = rng.choice(("past", "name", "polite", "replace"))
    if kind == "polite":
        plain, thing = rng.choice(lex.REQUESTS), rng.choice(lex.OBJECTS)
        name = rng.choice(lex.NAMES) if rng.random() < 0.5 else None
        rude = f"{plain} the {thing}"
        tail = f", {name}" if name else ""
        said = rng.choice((f"{rude.capitalize()}{tail}!", f"You must {rude}{tail}!", f"{rude.capitalize()} now{tail}!"))
        text = rng.choice(("Say this politely: {}", "Make this polite: {}", "Rewrite this in a polite way: {}")).format(said)
        return text, {"task": "polite", "verb": plain, "about": thing, "name": name, "constraints": []}
    sentences, target = event_text(rng, present=kind == "past", num_sentences=rng.choice((1, 2)))
    person = sentences[0].split()[0]
    meta: Meta = {"task": "rewrite", "source": " ".join(sentences), "constraints": []}
    if kind == "past":
        meta["target"] = " ".join(target)
        start = rng.choice(("Write this in the past:", "Put this into the past:", "Rewrite in the past:"))
    elif kind == "name":
        other = rng.choice([name for name in lex.NAMES if name not in meta["source"]])
        meta["target"] = swap_person(meta["source"], person, other)
        start = rng.choice((f"Write this about {other}, not {person}:", f"Put {other} in place of {person}:"))
    else:
        old = next(word for word in meta["source"].replace(".", "").split() if word in lex.OBJECTS + lex.PLACES)
        new = rng.choice([word for word in lex.CLASSES[lex.CLASS_OF[old]] if word != old])
        meta["target"] = " ".join(w.replace(old, new) if w.strip(".") == old else w for w in meta["source"].split())
        start = rng.choice((f'Write "{new}" for "{old}":', f'Change the word "{old}" to "{new}":'))
    return f"{start} {meta['source']}", meta


def _summarize(world: World, rng: random.Random) -> tuple[str, Meta]:
    text, meta = summary_case(rng)
    start = rng.choice(("Say this in one sentence:", "Write one sentence that sums this up:", "In short, what happens here?"))
    meta["constraints"] = [{"kind": "sentences", "value": 1}]
    return f"{start} {text}", {"task": "summary", **meta}


def review_text(rng: random.Random, verdict: str, num_sentences: int) -> str:
    """Sentences of a review with the given verdict."""
    values = {c: rng.choice(lex.CLASSES[c]) for c in "KLOJQZG"}
    return " ".join([template.format_map(values) for template in rng.sample(t.REVIEWS[verdict], num_sentences)])


def _classify(world: World, rng: random.Random) -> tuple[str, Meta]:
    kind = rng.choice(("review", "review", "class", "mood"))
    meta: Meta = {"task": "classify", "constraints": []}
    if kind == "review":
        meta |= {"label": rng.choice(("good", "bad")), "labels": ["good", "bad"]}
        shown = review_text(rng, meta["label"], rng.choice((1, 2)))
        text = rng.choice(("Is this review good or bad? {}", "Does this person like it? Say good or bad. {}")).format(shown)
    elif kind == "class":
        letters = rng.sample(tuple(lex.CLASS_WORD), 3)
        labels = [lex.CLASS_WORD[c] for c in letters]
        meta |= {"label": lex.CLASS_WORD[letters[0]], "labels": labels}
        rng.shuffle(labels)
        text = f'Which is "{rng.choice(lex.CLASSES[letters[0]])}": {labels[0]}, {labels[1]} or {labels[2]}?'
    else:
        meta |= {"label": rng.choice(("happy", "sad")), "labels": ["happy", "sad"]}
        good = meta["label"] == "happy"
        person, thing = rng.choice(lex.NAMES), rng.choice(lex.OBJECTS)
        verb = rng.choice(("found", "bought") if good else ("lost", "broke"))
        text = rng.choice(("Is {p} happy or sad? {s}", "How does {p} feel, happy or sad? {s}"))
        text = text.format(p=person, s=f"{person} {verb} a {rng.choice(lex.ADJECTIVES)} {thing}.")
    if rng.random() < 0.3:
        meta["constraints"].append({"kind": "one_word", "value": True})
        text += rng.choice((" Answer with one word.", " One word, please."))
    return text, meta


def phrase(rng: random.Random) -> str:
    """An English phrase that can be translated."""
    noun = rng.choice(lex.ANIMALS) if rng.random() < 0.7 else rng.choice(lex.OBJECTS)
    adjective = f"{rng.choice(lex.COLOURS + lex.ADJECTIVES)} " if rng.random() < 0.7 else ""
    doing = f" {rng.choice(lex.DOINGS)}" if noun in lex.ANIMALS and rng.random() < 0.6 else ""
    return f"the {adjective}{noun}{doing}"


def _other(world: World, rng: random.Random) -> tuple[str, Meta]:
    kind = rng.choice(("to", "to", "from", "pattern", "count", "next"))
    if kind in ("to", "from"):
        english = phrase(rng)
        tavi = world.translate(english)
        source, target, language = (english, tavi, LANGUAGE) if kind == "to" else (tavi, english, "English")
        start = rng.choice(("Translate into {}:", "Say this in {}:", "How do you say this in {}?"))
        return f"{start.format(language)} {source}", {"task": "exact", "target": target, "constraints": []}
    if kind == "pattern":
        a, b, c = rng.sample(lex.CLASSES[rng.choice("ACOK")], 3)
        items, target = rng.choice((([a, b, a, b, a], b), ([a, b, c, a, b], c), ([a, a, b, a, a], b)))
        return f"What comes next? {', '.join(items)},", {"task": "exact", "target": target, "constraints": []}
    if kind == "count":
        c = rng.choice("AKO")
        items = rng.sample(lex.CLASSES[c], rng.choice((2, 3, 4, 5)))
        text = f"How many {lex.CLASS_WORDS[c]} are these? {', '.join(items)}"
        return text, {"task": "exact", "target": lex.NUMBERS[len(items) - 1], "constraints": []}
    first = rng.randrange(5)
    text = f"Go on counting: {', '.join(lex.NUMBERS[first : first + 3])},"
    return text, {"task": "exact", "target": lex.NUMBERS[first + 3], "constraints": []}


# Questions about a text ------------------------------------------------------------------------------------------------------


def _closed_qa(world: World, rng: random.Random) -> tuple[str, Meta]:
    events = scene(rng, rng.choice((2, 3)))
    text = " ".join([event.text for event in events])
    meta: Meta = {"task": "closed_qa", "source": text, "constraints": []}
    if rng.random() < 0.2:
        absent = rng.choice([name for name in lex.NAMES if name not in text])
        question = rng.choice((f"What did {absent} find?", f"Where is {absent}?", f"What did {absent} buy?"))
        meta |= {"answers": [], "answerable": False}
    else:
        event = rng.choice(events)
        question, short, full = rng.choice(questions(event))
        meta |= {"answers": [short, full], "answerable": True, "event": event.text}
    layout = rng.choice(("{t} {q}", "Read this: {t} {q}", "Text: {t} Question: {q}"))
    return layout.format(t=text, q=question), meta


def _extract(world: World, rng: random.Random) -> tuple[str, Meta]:
    events = scene(rng, rng.choice((2, 3)))
    text = " ".join([event.text for event in events])
    c = rng.choice(["P", "P", "L", *dict.fromkeys(event.letter for event in events)])
    words = [word.strip(".") for word in text.split()]
    items = [word for word in dict.fromkeys(words) if (word in lex.GENDER if c == "P" else lex.CLASS_OF.get(word) == c)]
    what = {"P": "names", "O": "things"}.get(c) or lex.CLASS_WORDS[c]
    start = rng.choice(("List the {} in this text:", "Which {} are in this text?", "Find all {} in this text:"))
    return f"{start.format(what)} {text}", {"task": "extract", "letter": c, "items": items, "source": text, "constraints": []}


_Maker = Callable[[World, random.Random], tuple[str, Meta]]
_MAKERS: dict[str, tuple[tuple[_Maker, ...], tuple[float, ...]]] = {
    "generation": ((story_writing, letter_writing, poem_writing, describing), (0.66, 0.80, 0.90, 1.0)),
    "open_qa": ((_fact, _is_true, _premise), (0.6, 0.82, 1.0)),
    "brainstorming": ((_list,), (1.0,)),
    "chat": ((_chat,), (1.0,)),
    "rewrite": ((_rewrite,), (1.0,)),
    "summarization": ((_summarize,), (1.0,)),
    "classification": ((_classify,), (1.0,)),
    "other": ((_other,), (1.0,)),
    "closed_qa": ((_closed_qa,), (1.0,)),
    "extract": ((_extract,), (1.0,)),
}
"""Makers of each use case with their cumulative shares."""
USE_CASES: tuple[UseCase, ...] = get_args(UseCase)
_CUMULATIVE = tuple(itertools.accumulate([USE_CASE_SHARES[use_case] for use_case in USE_CASES]))
