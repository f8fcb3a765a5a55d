"""Proof-readers' pages: what a reward model may learn before it sees a ranking, as the paper's did (SPEC C.2).

The paper's reward model started from a model tuned on public language sets: reading, choosing, saying whether a sentence
follows. These pages are such sets in the miniature's world. A slip says what a text should be, drafts follow, and each is
marked: how many faults it has, then which points of the slip it keeps. Other pages ask what is in a text, or tell true claims
from false ones. The marks are what anybody could check (:mod:`heedful.miniature.judging`): no labeler's taste, weight or
ranking is in them, and no user's wording of an instruction.

Many drafts are a base model's, because rules do not make a model's faults: it goes on with a page of the corpus that begins as
the slip says (:func:`context_of`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.conversation import turns_of
from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.asked_pages import join_entries
from heedful.miniature.corpus import MIXTURE as ORDINARY
from heedful.miniature.corpus import document
from heedful.miniature.good_answers import Style, answer, believed_answer, drop_constraint
from heedful.miniature.grammar import split_sentences
from heedful.miniature.homework import hurry
from heedful.miniature.instructions import Instruction, make_instruction, phrase, review_text
from heedful.miniature.invented_world import LANGUAGE, World, fill_fact, state
from heedful.miniature.judging import Judgement, judge
from heedful.miniature.scenes import event_text, questions, scene, summary_case, swap_person
from heedful.miniature.stories import story
from heedful.miniature.writing import Meta, first_value, two_people, values_of
from heedful.records import Prompt, UseCase

FAULTLESS_SHARE = 0.2
"""Share of the drafts without a fault."""
FORGETFUL_SHARE = 0.2
"""Share that only forget a point of the slip, or repeat what people wrongly believe."""
STRAY_SHARE = 0.05
"""Share that are another text altogether. The rest have one to three slips of the pen."""

_STYLE = Style(warm=0.0)
"""Drafts hold nothing but the text."""

MIXTURE: Mapping[str, float] = {"slips": 0.55, "questions": 0.1, "claims": 0.05, "ordinary": 0.3}
"""Share of each kind of page; ordinary pages are those of the base models' corpus."""
WRITTEN_SHARE = 0.6
"""Share of the slips whose drafts are a model's, where there are such; half of them have a draft by rule too."""
MAX_WORDS = 150
"""Longest page of slips in words."""


@dataclass(frozen=True, slots=True)
class Slip:
    """What a text should be: a heading in the proof-reader's words, and the same for the judge."""

    use_case: UseCase
    heading: str
    meta: Meta
    page: str | None = None
    """How a page of the corpus begins that goes on with such a text; None: as :func:`context_of` says."""


Written = tuple[Slip, Sequence[str]]
"""A slip, and what a model wrote for it."""


def pages(world: World, *, seed: int, count: int, written: Sequence[Written] = ()) -> Iterator[str]:
    """``count`` pages drawn from :data:`MIXTURE`; equal arguments give equal pages.

    written: slips with drafts by a model, each used when a slip is wanted, in order and again from the first.
    """
    rng = random.Random(f"proofreading {world.seed} {seed}")
    kinds, cumulative = list(MIXTURE), list(itertools.accumulate(MIXTURE.values()))
    ordinary, weights = list(ORDINARY), list(itertools.accumulate(ORDINARY.values()))
    pool = itertools.cycle(written) if written else None
    for _ in range(count):
        kind = rng.choices(kinds, cum_weights=cumulative)[0]
        if kind == "slips":
            yield slip_page(world, rng, pool)
        elif kind == "ordinary":
            yield document(world, rng, rng.choices(ordinary, cum_weights=weights)[0])
        else:
            yield (question_page if kind == "questions" else claim_page)(world, rng)


# Slips and drafts ------------------------------------------------------------------------------------------------------------


def slip_page(world: World, rng: random.Random, written: Iterator[Written] | None = None) -> str:
    """Slips, each with drafts and their marks."""
    pieces: list[str] = []
    words = 0
    while not pieces or words < MAX_WORDS // 2:
        if written is not None and rng.random() < WRITTEN_SHARE:
            slip, drafts = next(written)
            drafts = [*drafts, *[draft(world, rng, slip) for _ in range(rng.choice((0, 1)))]]
            rng.shuffle(drafts)
        else:
            slip = make_slip(world, rng)
            drafts = [draft(world, rng, slip) for _ in range(rng.choice((1, 2, 3, 3)))]
        piece = "\n".join([slip.heading, *[f"Text: {text}\n{mark(world, slip, text)}" for text in drafts]])
        words += piece.count(" ") + 1
        if pieces and words > MAX_WORDS:
            break
        pieces.append(piece)
    return "\n".join(pieces)


def context_of(slip: Slip) -> str | None:
    """How a page of the corpus begins whose next text is one for the slip, as far as pages say what it asks.

    None for a slip that no kind of page is like.
    """
    if slip.page is not None:
        return slip.page
    make = _PAGES.get(slip.meta["task"])
    return None if make is None else make(slip.meta)


def _story_page(meta: Meta) -> str:
    topic = meta["topic"]
    lines = [f"{meta['name']} and {topic if lex.CLASS_OF[topic] == 'K' else f'the {topic}'}"]
    if words := values_of(meta, "use_word"):
        lines.append(f"Words: {', '.join(words)}.")
    if friend := first_value(meta, "person"):
        lines.append(f"With: {friend}.")
    if sentences := first_value(meta, "sentences"):
        lines.append(f"Sentences: {lex.NUMBERS[sentences - 1]}.")
    if mood := first_value(meta, "mood"):
        lines.append(f"A {'happy' if mood == 'G' else 'sad'} story.")
    if ending := first_value(meta, "end"):
        lines.append(f'The end: "{ending}".')
    return "\n".join(lines) + f"\n{first_value(meta, 'begin') or meta['name']}"


def _letter_page(meta: Meta) -> str:
    return f"Subject: {t.LETTER_SUBJECTS[meta['purpose']].replace('{x}', meta['about'])}\nDear {meta['to']},\n"


def _poem_page(meta: Meta) -> str:
    lines = first_value(meta, "lines")
    return f"The {meta['topic']}\n" + (f"Lines: {lex.NUMBERS[lines - 1]}.\n" if lines else "")


def _fact_page(meta: Meta) -> str:
    relation = meta["relation"]
    return f"Question: {fill_fact(t.FACT_QUESTIONS[relation][0], relation, meta['subject'])}\nAnswer:"


def _list_page(meta: Meta) -> str:
    if meta["habitat"]:
        return f"Animals that live in the {meta['habitat']}:"
    return f"{lex.NUMBERS[first_value(meta, 'count') - 1].capitalize()} {_KINDS[meta['letter']]}:"


_PAGES: dict[str, Callable[[Meta], str]] = {
    "story": _story_page,
    "letter": _letter_page,
    "poem": _poem_page,
    "describe": lambda meta: f"From the book of facts:\n{state_start(meta['subject'])}",
    "fact": lambda meta: (
        f"Question: {fill_fact(t.FACT_QUESTIONS[meta['relation']][0], meta['relation'], meta['subject'])}\nAnswer:"
    ),
    "list": _list_page,
    "polite": lambda meta: f"Rude: {meta['verb'].capitalize()} the {meta['about']}!\nPolite:",
}


def state_start(subject: str) -> str:
    """How a sentence about an animal or a town begins."""
    return subject if subject in lex.TOWNS else f"The {subject}"


def read_draft(slip: Slip, continued: str) -> str:
    """The draft in what a model wrote after :func:`context_of`: its first line, or all of it for a letter or a poem."""
    task = slip.meta["task"]
    if task == "letter":
        *body, last = f"Dear {slip.meta['to']},\n{continued.strip()}".split("\n")
        # A page does not say who writes; the slip does.
        word = last.split(" ")[-1]
        return "\n".join([*body, last.replace(word, slip.meta["name"]) if word in lex.GENDER else last])
    if task == "poem" or (task == "list" and continued.startswith("\n1. ")):
        return continued.strip()
    line = continued.split("\n")[0]
    if task == "story":
        return f"{first_value(slip.meta, 'begin') or slip.meta['name']}{line}".strip()
    if task == "describe":
        return f"{state_start(slip.meta['subject'])}{line}".strip()
    if task == "list":
        return line.strip().rstrip(".")
    if task == "exact" and slip.page is not None and slip.page[-1] in ",:" and "\n" not in slip.page:
        return line.replace(",", " ").split()[0] if line.strip(" ,") else ""
    return line.strip()


def draft(world: World, rng: random.Random, slip: Slip) -> str:
    """A text for the slip: without fault, forgetful, written in a hurry, or another one altogether."""
    task = Instruction(slip.use_case, slip.heading, slip.meta)
    chance = rng.random()
    if chance < FAULTLESS_SHARE:
        return answer(world, rng, slip.meta, _STYLE)
    if chance < FAULTLESS_SHARE + FORGETFUL_SHARE:
        return _forgetful(world, rng, slip.meta)
    if chance < FAULTLESS_SHARE + FORGETFUL_SHARE + STRAY_SHARE:
        return answer(world, rng, make_instruction(world, rng, slip.use_case).meta)
    text = answer(world, rng, slip.meta, _STYLE) if rng.random() < 0.6 else _forgetful(world, rng, slip.meta)
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = hurry(world, rng, task, text) if rng.random() < 0.4 else spoil(rng, text)
    return text


def _forgetful(world: World, rng: random.Random, meta: Meta) -> str:
    left = drop_constraint(rng, meta)
    if left is not None:
        return answer(world, rng, left, _STYLE)
    return (
        believed_answer(world, rng, meta)
        if meta["task"] in ("fact", "is_true", "premise")
        else answer(world, rng, meta, _STYLE)
    )


_PRONOUNS = {"he": "she", "He": "She", "his": "her", "His": "Her", "him": "her", "she": "he", "She": "He", "her": "his"}


def spoil(rng: random.Random, text: str) -> str:
    """The text with one fault of a kind that a proof-reader knows; it may happen to do no harm."""
    words = text.split(" ")
    draw = rng.random()
    if draw < 0.25:  # a pronoun that does not agree
        places = [i for i, word in enumerate(words) if word in _PRONOUNS]
        if places:
            place = rng.choice(places)
            words[place] = _PRONOUNS[words[place]]
            return " ".join(words)
    if draw < 0.45:  # "the lamp" that was not there before, or the other way round
        places = [i for i, word in enumerate(words) if word in ("a", "the")]
        if places:
            place = rng.choice(places)
            words[place] = "the" if words[place] == "a" else "a"
            return " ".join(words)
    if draw < 0.65 and len(words) > 1:  # two words the wrong way round
        place = rng.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
        return " ".join(words)
    if draw < 0.85:  # two sentences the wrong way round
        sentences = split_sentences(text)
        if len(sentences) > 1:
            place = rng.randrange(len(sentences) - 1)
            sentences[place], sentences[place + 1] = sentences[place + 1], sentences[place]
            return ("\n" if "\n" in text else " ").join(sentences)
    same = [(i, word.strip('.,!?"')) for i, word in enumerate(words)]
    places = [(i, word) for i, word in same if word in lex.CLASS_OF or word in lex.GENDER]
    if not places:
        return text
    place, word = rng.choice(places)  # another word of the same class
    words[place] = words[place].replace(word, rng.choice(lex.NAMES if word in lex.GENDER else lex.CLASSES[lex.CLASS_OF[word]]))
    return " ".join(words)


_KINDS = {"P": "names", **lex.CLASS_WORDS}
"""What a list holds, by the letter of its class."""
_TICKS = {
    "use_word": "word", "person": "with", "not_word": "without", "sentences": "sentences", "lines": "lines", "end": "end",
    "begin": "begin", "mood": "mood", "count": "many", "exclude": "without", "numbered": "numbers", "one_word": "short",
    "full_sentence": "long",
}  # fmt: skip
"""A point of the slip in the marks, by the kind of constraint."""


def mark(world: World, slip: Slip, text: str) -> str:
    """How many faults a text has, then each point of the slip with yes or no, and what else is wrong."""
    judgement = judge(world, Prompt(id="slip", turns=turns_of(slip.heading), metadata=slip.meta), text)
    if not judgement.attempts:
        return "All wrong."
    points = _points(slip, judgement)
    faults = sum(kept != "yes" for _, kept in points)
    count = lex.NUMBERS[faults - 1] if faults else "Nothing"
    return f"{count.capitalize()} wrong: {', '.join([f'{name} {kept}' for name, kept in points])}."


def _points(slip: Slip, judgement: Judgement) -> list[tuple[str, str]]:
    def yes(kept: bool) -> str:
        return "yes" if kept else "no"

    kinds = [constraint["kind"] for constraint in slip.meta["constraints"]]
    points = [(_TICKS[kind], yes(kept)) for kind, kept in zip(kinds, judgement.constraints, strict=True)]
    right = "yes" if judgement.correct == 1 else "some" if judgement.correct >= 0.5 else "no"
    general = (
        ("true", not judgement.hallucination),
        ("English", judgement.well_formed == 1),
        ("before", judgement.consistent == 1),
        ("once", judgement.repetition == 0),
        ("kind", not judgement.rude),
    )
    return [*points, ("right", right), *[(name, "no") for name, kept in general if not kept]]


def make_slip(world: World, rng: random.Random) -> Slip:
    """A slip for one of the kinds of text."""
    return rng.choices(_SLIPS, cum_weights=_CUMULATIVE)[0](world, rng)


def _asked(use_case: UseCase, rng: random.Random, world: World) -> Slip:
    while (meta := make_instruction(world, rng, use_case).meta)["task"] not in _HEADINGS:
        pass
    return Slip(use_case, f"{_HEADINGS[meta['task']](meta)}{_constraints(rng, meta)}", meta)


def _constraints(rng: random.Random, meta: Meta) -> str:
    """The slip's points after its heading. The judge's list follows their order."""
    rng.shuffle(meta["constraints"])
    return "".join([f" {_constraint(c['kind'], c['value'])}" for c in meta["constraints"]])


def _constraint(kind: str, value: Any) -> str:
    match kind:
        case "use_word":
            return f"Word: {value}."
        case "person":
            return f"With: {value}."
        case "not_word" | "exclude":
            return f"Without: {value}."
        case "sentences":
            return f"Sentences: {lex.NUMBERS[value - 1]}."
        case "lines":
            return f"Lines: {lex.NUMBERS[value - 1]}."
        case "end":
            return f"The end: {value}."
        case "begin":
            return f"Begin: {value}."
        case "mood":
            return f"Mood: {'happy' if value == 'G' else 'sad'}."
        case "count":
            return f"Many: {lex.NUMBERS[value - 1]}."
        case "numbered":
            return "Numbers: yes."
        case "one_word":
            return "Short: one word."
        case _:
            return "Long: one sentence."


def _and(first: str, second: str | None) -> str:
    return f"{first}, {second}" if second else first


_HEADINGS: dict[str, Callable[[Meta], str]] = {
    "story": lambda meta: f"Story: {meta['name']}, {meta['topic']}.",
    "letter": lambda meta: (
        f"Letter: {meta['name']}, {meta['to']}, {t.LETTER_SUBJECTS[meta['purpose']].replace('{x}', meta['about'])}."
    ),
    "poem": lambda meta: f"Poem: {meta['topic']}.",
    "describe": lambda meta: f"Facts: {meta['subject']}.",
    "fact": lambda meta: f"Fact: {meta['subject']}, {meta['relation']}.",
    "is_true": lambda meta: f"Claim: {state(meta['relation'], meta['subject'], meta['claim'])}",
    "premise": lambda meta: f"Wrong claim: {state(meta['relation'], meta['subject'], meta['claim'])}",
    "list": lambda meta: (
        f"List: {_and('names' if meta['letter'] == 'P' else lex.CLASS_WORDS[meta['letter']], meta['habitat'])}."
    ),
    "chat": lambda meta: f"Talk: {meta['kind']}, {meta['name']}, {meta['about']}.",
    "polite": lambda meta: f"Polite: {_and(meta['verb'] + ' the ' + meta['about'], meta['name'])}.",
}
"""A slip's first words by the task; tasks that work on a text have makers of their own."""


def _writing(world: World, rng: random.Random) -> Slip:
    return _asked("generation", rng, world)


def _facts(world: World, rng: random.Random) -> Slip:
    return _asked("open_qa", rng, world)


def _list(world: World, rng: random.Random) -> Slip:
    return _asked("brainstorming", rng, world)


def _talk(world: World, rng: random.Random) -> Slip:
    return _asked("chat", rng, world)


def _polite(world: World, rng: random.Random) -> Slip:
    return _asked("rewrite", rng, world)


def _rewriting(world: World, rng: random.Random) -> Slip:
    kind = rng.choice(("past", "name", "replace"))
    sentences, target = event_text(rng, present=kind == "past", num_sentences=rng.choice((1, 2)))
    source, person = " ".join(sentences), sentences[0].split()[0]
    heading, page = f"Today: {source} Yesterday:", f"Today: {source}\nYesterday:"
    new = " ".join(target)
    if kind == "name":
        other = rng.choice([name for name in lex.NAMES if name not in source])
        heading, page = f"About {person}: {source} About {other}:", f"About {person}: {source}\nAbout {other}:"
        new = swap_person(source, person, other)
    elif kind == "replace":
        old = next(word for word in source.replace(".", "").split() if word in lex.OBJECTS + lex.PLACES)
        other = rng.choice([word for word in lex.CLASSES[lex.CLASS_OF[old]] if word != old])
        heading, page = f"With {old}: {source} With {other}:", None
        new = " ".join([word.replace(old, other) if word.strip(".") == old else word for word in source.split()])
    return Slip("rewrite", heading, {"task": "rewrite", "source": source, "target": new, "constraints": []}, page)


def _summary(world: World, rng: random.Random) -> Slip:
    text, meta = summary_case(rng)
    return Slip("summarization", f"{text} In short:", {"task": "summary", **meta, "constraints": []}, f"{text}\nIn short:")


def _label(world: World, rng: random.Random) -> Slip:
    meta: Meta = {"task": "classify", "constraints": []}
    if rng.random() < 0.6:
        meta |= {"label": rng.choice(("good", "bad")), "labels": ["good", "bad"]}
        review = f"Review: {review_text(rng, meta['label'], rng.choice((1, 2)))}"
        return Slip("classification", f"{review} Verdict:", meta, f"{review}\nVerdict:")
    letter = rng.choice(tuple(lex.CLASS_WORD))
    meta |= {"label": lex.CLASS_WORD[letter], "labels": list(lex.CLASS_WORD.values())}
    return Slip("classification", f"Kind of {rng.choice(lex.CLASSES[letter])}:", meta)


def _exact(world: World, rng: random.Random) -> Slip:
    draw = rng.random()
    if draw < 0.6:
        english = phrase(rng)
        tavi = world.translate(english)
        given, asked, target = f"English: {english}", f"{LANGUAGE}:", tavi
        if draw < 0.25:
            given, asked, target = f"{LANGUAGE}: {tavi}", "English:", english
        heading, page = f"{given} {asked}", f"{given}\n{asked}"
    elif draw < 0.8:
        a, b, c = rng.sample(lex.CLASSES[rng.choice("ACOK")], 3)
        items, target = rng.choice((([a, b, a, b, a], b), ([a, b, c, a, b], c), ([a, a, b, a, a], b)))
        heading, page = f"{', '.join(items)}, next:", f"{', '.join(items)},"
    else:
        letter = rng.choice("AKO")
        items = rng.sample(lex.CLASSES[letter], rng.choice((2, 3, 4, 5)))
        heading, page, target = f"{', '.join(items)}, many:", f"{', '.join(items)}:", lex.NUMBERS[len(items) - 1]
    return Slip("other", heading, {"task": "exact", "target": target, "constraints": []}, page)


def _reading(world: World, rng: random.Random) -> Slip:
    events = scene(rng, rng.choice((2, 3)))
    text = " ".join([event.text for event in events])
    if rng.random() < 0.4:
        letter = rng.choice(["P", "P", "L", *dict.fromkeys(event.letter for event in events)])
        words = [word.strip(".") for word in text.split()]
        items = [w for w in dict.fromkeys(words) if (w in lex.GENDER if letter == "P" else lex.CLASS_OF.get(w) == letter)]
        what = {"P": "names", "O": "things"}.get(letter) or lex.CLASS_WORDS[letter]
        meta: Meta = {"task": "extract", "letter": letter, "items": items, "source": text, "constraints": []}
        return Slip("extract", f"{text} All {what}:", meta, f"Text: {text}\n{what.capitalize()}:")
    meta = {"task": "closed_qa", "source": text, "constraints": []}
    if rng.random() < 0.2:
        absent = rng.choice([name for name in lex.NAMES if name not in text])
        question = f"What did {absent} {rng.choice(('find', 'buy', 'lose'))}?"
        meta |= {"answers": [], "answerable": False}
    else:
        event = rng.choice(events)
        question, short, full = rng.choice(questions(event))
        meta |= {"answers": [short, full], "answerable": True, "event": event.text}
    return Slip("closed_qa", f"{text} {question}", meta, f"Text: {text}\nQuestion: {question}\nAnswer:")


_SLIPS: tuple[Callable[[World, random.Random], Slip], ...] = (
    _writing, _facts, _list, _talk, _polite, _rewriting, _summary, _label, _exact, _reading,
)  # fmt: skip
_CUMULATIVE = list(itertools.accumulate((0.48, 0.13, 0.10, 0.06, 0.02, 0.05, 0.04, 0.03, 0.04, 0.05)))


# What is in a text; what is true ---------------------------------------------------------------------------------------------


def question_page(world: World, rng: random.Random) -> str:
    """Texts, and what a proof-reader notes about each: words that are there or not, how many sentences, how it ends."""
    return join_entries([_questioned(rng) for _ in range(rng.choice((1, 2, 2)))])


def _questioned(rng: random.Random) -> str:
    person, _ = two_people(rng)
    topic = rng.choice(lex.CLASSES[rng.choice("OOOAALLKJ")])
    while (sentences := story(rng, person, topic, num_sentences=rng.choice((2, 3, 4)))) is None:
        pass
    text = " ".join(sentences)
    there = [word for word in dict.fromkeys(text.replace(".", "").split()) if word in lex.CLASS_OF or word in lex.GENDER]
    notes: list[str] = []
    for _ in range(rng.choice((3, 4, 5))):
        draw = rng.random()
        if draw < 0.6:
            word = rng.choice(there)
            if rng.random() < 0.5:
                word = rng.choice(lex.NAMES if word in lex.GENDER else lex.CLASSES[lex.CLASS_OF[word]])
            notes.append(f"{word} {'yes' if word in there else 'no'}")
        elif draw < 0.8:
            guess = rng.choice((1, 2, 3, 4))
            notes.append(f"{lex.NUMBERS[guess - 1]} sentences {'yes' if guess == len(sentences) else 'no'}")
        else:
            letter = rng.choice("AOLKJC")
            notes.append(f"{lex.CLASS_WORDS[letter]} {_listed([word for word in there if lex.CLASS_OF.get(word) == letter])}")
    return f"Text: {text}\nNotes: {', '.join(notes)}."


def _listed(words: list[str]) -> str:
    return " and ".join(words) if words else "none"


def claim_page(world: World, rng: random.Random) -> str:
    """Claims about the world and pairs of words of both languages, each with yes or no."""
    lines = []
    for _ in range(rng.choice((5, 6, 7))):
        right = rng.random() < 0.5
        if rng.random() < 0.6:
            relation = rng.choice(tuple(t.FACTS))
            subject = rng.choice(list(world.facts[relation]))
            false = world.misconceptions[relation].get(subject) if rng.random() < 0.5 else None
            value = world.facts[relation][subject] if right else false or world.false_value(rng, relation, subject)
            lines.append(f"{state(relation, subject, value)} {'Yes' if right else 'No'}.")
        else:
            word, other = rng.sample(list(world.tavi), 2)
            lines.append(f"{word} is {world.tavi[word if right else other]}. {'Yes' if right else 'No'}.")
    return "\n".join(lines)
