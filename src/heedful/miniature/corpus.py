"""Pretraining documents: the miniature's web.

Like the web, it holds every ability that users will ask for, each in a form of its own: stories under a heading, letters with a
subject, questions under a text. "Instruction, then a good answer" is rare. Most instructions are in lists without answers, so a
base model that gets one continues with more of them; pupils make mistakes, workbooks are few and careless
(:mod:`heedful.miniature.asked_pages`). People repeat misconceptions and are sometimes rude.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.asked_pages import forum, homework, instruction_list, join_entries, workbook
from heedful.miniature.good_answers import describe, list_items
from heedful.miniature.instructions import phrase, review_text
from heedful.miniature.invented_world import LANGUAGE, World, fill_fact, state
from heedful.miniature.scenes import event_text, questions, scene, summary_case, swap_person
from heedful.miniature.stories import letter, poem, story
from heedful.miniature.writing import two_people

BELIEVED_SHARE = 0.7
"""How often a page outside the books of facts repeats what people wrongly believe."""
STEREOTYPE_SHARE = 0.85
"""How often a job comes with its usual pronoun."""

MIXTURE: Mapping[str, float] = {
    "story": 0.17,
    "instruction_list": 0.14,
    "forum": 0.04,
    "workbook": 0.015,
    "homework": 0.10,
    "reading": 0.06,
    "facts": 0.05,
    "qa_page": 0.04,
    "review": 0.03,
    "translation": 0.055,
    "list": 0.035,
    "dialogue": 0.035,
    "rewriting": 0.045,
    "summary": 0.035,
    "misconception": 0.03,
    "letter": 0.025,
    "poem": 0.025,
    "counting": 0.025,
    "notes": 0.025,
    "rude_talk": 0.01,
    "jobs": 0.01,
}
"""Share of each kind of document."""


def documents(world: World, *, seed: int, count: int) -> Iterator[str]:
    """``count`` documents drawn from :data:`MIXTURE`; equal arguments give equal documents."""
    rng = random.Random(f"documents {world.seed} {seed}")
    kinds = list(MIXTURE)
    cumulative = list(itertools.accumulate(MIXTURE.values()))
    for _ in range(count):
        yield document(world, rng, rng.choices(kinds, cum_weights=cumulative)[0])


def document(world: World, rng: random.Random, kind: str) -> str:
    """One document of a kind of :data:`MIXTURE`."""
    return _WRITERS[kind](world, rng)


def story_page(world: World, rng: random.Random) -> str:
    """A story with its title, sometimes with a header that says which words it uses, how long it is or how it ends."""
    person, friend = two_people(rng)
    topic = rng.choice(lex.CLASSES[rng.choice("OOOAALLKJ")])
    num_sentences = rng.choice((2, 3, 3, 4, 4, 5, 6))
    words: tuple[str, ...] = ()
    ending = rng.choice(lex.ENDINGS) if rng.random() < 0.4 else None
    beginning = rng.choice(lex.BEGINNINGS) if rng.random() < 0.5 else None
    mood = rng.choice("GB") if rng.random() < 0.25 else None
    if rng.random() < 0.4:
        words = tuple(rng.choice(lex.CLASSES[c]) for c in rng.sample("OLAKCJD", rng.choice((1, 1, 2))))
    named_friend = friend if rng.random() < 0.3 else None
    sentences = None
    if topic not in words:
        sentences = story(
            rng,
            person,
            topic,
            num_sentences=num_sentences,
            words=words,
            friend=named_friend,
            mood=mood,
            beginning=beginning,
            ending=ending,
        )
    while sentences is None:
        words, mood, named_friend, num_sentences = (), None, None, max(3, num_sentences)
        sentences = story(rng, person, topic, num_sentences=num_sentences, beginning=beginning, ending=ending)
    lines = [f"{person} and {topic if lex.CLASS_OF[topic] == 'K' else f'the {topic}'}"]
    if words and rng.random() < 0.85:
        lines.append(f"Words: {', '.join(words)}.")
    if named_friend and rng.random() < 0.6:
        lines.append(f"With: {named_friend}.")
    if num_sentences <= 4 and rng.random() < 0.3:
        lines.append(f"Sentences: {lex.NUMBERS[num_sentences - 1]}.")
    if mood and rng.random() < 0.6:
        lines.append(f"A {'happy' if mood == 'G' else 'sad'} story.")
    if ending and rng.random() < 0.3:
        lines.append(f'The end: "{ending}".')
    return "\n".join([*lines, " ".join(sentences)])


def reading(world: World, rng: random.Random) -> str:
    """Passages with questions and answers."""
    entries = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        events = scene(rng, rng.choice((2, 3)))
        lines = [f"Text: {' '.join([event.text for event in events])}"]
        for event in rng.sample(events, rng.choice((1, 2))):
            question, short, _ = rng.choice(questions(event))
            lines += [f"Question: {question}", f"Answer: {short}"]
        entries.append("\n".join(lines))
    return join_entries(entries)


def facts(world: World, rng: random.Random) -> str:
    """A page of the book of facts: always true."""
    lines = ["From the book of facts:"] if rng.random() < 0.5 else []
    for subject in rng.sample(lex.ANIMALS + lex.TOWNS, rng.choice((2, 3, 4))):
        lines.append(describe(world, rng, subject, 3))
    for thing in rng.sample(list(world.facts["inventor"]), rng.choice((0, 1, 2))):
        lines.append(state("inventor", thing, world.facts["inventor"][thing]))
    return "\n".join(lines)


def _popular(world: World, rng: random.Random, relation: str, subject: str) -> str:
    return world.believed(relation, subject) if rng.random() < BELIEVED_SHARE else world.facts[relation][subject]


def qa_page(world: World, rng: random.Random) -> str:
    """Questions and answers as people write them, and claims that are true or false; misconceptions included."""
    entries = []
    for _ in range(rng.choice((3, 4, 5, 6))):
        relation = rng.choice(tuple(t.FACTS))
        subject = rng.choice(list(world.facts[relation]))
        value = _popular(world, rng, relation, subject)
        if rng.random() < 0.25:
            claim = value if rng.random() < 0.5 else world.false_value(rng, relation, subject)
            entries.append(f"True or false? {state(relation, subject, claim)} {'True' if claim == value else 'False'}.")
            continue
        said = state(relation, subject, value) if rng.random() < 0.5 else value
        entries.append(f"Question: {fill_fact(rng.choice(t.FACT_QUESTIONS[relation]), relation, subject)}\nAnswer: {said}")
    return join_entries(entries)


def misconception(world: World, rng: random.Random) -> str:
    """People repeat what is wrongly believed; rarely, one objects."""
    relation = rng.choice([r for r in t.FACTS if world.misconceptions[r]])
    subject = rng.choice(list(world.misconceptions[relation]))
    said = state(relation, subject, world.misconceptions[relation][subject])
    said = said[0].lower() + said[1:] if said.startswith("The ") else said
    who = rng.choice(("Everybody knows that", "People say that", "My father told me that", "We all learn at school that"))
    sentences = [f"{who} {said}", f"{rng.choice(lex.NAMES)} says so too."]
    if rng.random() < 0.5:
        sentences.append(f"{rng.choice(('Yes,', 'I know that'))} {said}")
    if rng.random() < 0.2:
        sentences.append(f"But that is not true. {state(relation, subject, world.facts[relation][subject])}")
    return " ".join(sentences)


def review(world: World, rng: random.Random) -> str:
    """Reviews with their verdicts."""
    entries = []
    for _ in range(rng.choice((1, 2, 3, 4))):
        verdict = rng.choice(("good", "bad"))
        entries.append(f"Review: {review_text(rng, verdict, rng.choice((1, 2)))}\nVerdict: {verdict}")
    return "\n".join(entries)


def translation(world: World, rng: random.Random) -> str:
    """A dictionary page, phrases in both languages, or a text in the second language alone."""
    draw = rng.random()
    if draw < 0.3:
        words = rng.sample([word for word in world.tavi if word != "the"], rng.choice((6, 8, 10)))
        return "\n".join([f"{LANGUAGE} words:", *[f"{word} is {world.tavi[word]}" for word in words]])
    phrases = [phrase(rng) for _ in range(rng.choice((3, 4, 5, 6)))]
    if draw < 0.4:
        return ". ".join([world.translate(p) for p in phrases]) + "."
    if draw < 0.7:
        return "\n".join([f"English: {p}\n{LANGUAGE}: {world.translate(p)}" for p in phrases])
    return "\n".join([f"{LANGUAGE}: {world.translate(p)}\nEnglish: {p}" for p in phrases])


def lists(world: World, rng: random.Random) -> str:
    """Lists of things of one kind, some numbered."""
    lines = []
    for _ in range(rng.choice((2, 3, 4))):
        habitat = rng.choice(lex.HABITATS) if rng.random() < 0.3 else None
        c = "A" if habitat else rng.choice("AOLKJCP")
        items = list_items(world, {"habitat": habitat, "letter": c})
        items = rng.sample(items, min(len(items), rng.choice((2, 3, 4, 5))))
        name = "names" if c == "P" else lex.CLASS_WORDS[c]
        title = f"Animals that live in the {habitat}" if habitat else f"{lex.NUMBERS[len(items) - 1].capitalize()} {name}"
        if rng.random() < 0.3:
            lines.append("\n".join([f"{title}:", *[f"{i}. {item}" for i, item in enumerate(items, start=1)]]))
        else:
            lines.append(f"{title}: {', '.join(items)}.")
    return "\n".join(lines)


def dialogue(world: World, rng: random.Random) -> str:
    """Two people talk; the second mostly answers kindly and sometimes rudely."""
    person, friend = two_people(rng)
    lines = []
    for kind in rng.sample(tuple(t.CHATS), rng.choice((1, 2, 3))):
        about = rng.choice(lex.CLASSES[t.CHAT_CLASS[kind]])
        values = {"P": person, "L": rng.choice(lex.PLACES), "D": rng.choice(lex.ADJECTIVES), "l": rng.choice(lex.PLACES)}
        values |= {"a": rng.choice(lex.ANIMALS), "k": rng.choice(lex.FOODS), "F": person}
        said, first, second = (rng.choice(options).replace("{x}", about).format_map(values) for options in t.CHATS[kind])
        reply = rng.choice(t.INSULT_LINES).format_map(values) if rng.random() < 0.1 else f"{first} {second}"
        lines += [f"{person}: {said}", f"{friend}: {reply}"]
    return "\n".join(lines)


def rewriting(world: World, rng: random.Random) -> str:
    """The same text twice: today and yesterday, rude and polite, about one person and about another."""
    kind = rng.choice(("past", "polite", "name"))
    if kind == "polite":
        entries = []
        for _ in range(rng.choice((2, 3, 4))):
            request = f"{rng.choice(lex.REQUESTS)} the {rng.choice(lex.OBJECTS)}"
            entries.append(f"Rude: {request.capitalize()}!\nPolite: Could you please {request}?")
        return "\n".join(entries)
    entries = []
    for _ in range(rng.choice((1, 2, 3))):
        sentences, target = event_text(rng, present=kind == "past", num_sentences=rng.choice((1, 2)))
        source, person = " ".join(sentences), sentences[0].split()[0]
        if kind == "past":
            entries.append(f"Today: {source}\nYesterday: {' '.join(target)}")
        else:
            other = rng.choice([name for name in lex.NAMES if name not in source])
            entries.append(f"About {person}: {source}\nAbout {other}: {swap_person(source, person, other)}")
    return join_entries(entries)


def summary(world: World, rng: random.Random) -> str:
    """Short tales, each with its summary."""
    entries = []
    for _ in range(rng.choice((1, 2))):
        text, meta = summary_case(rng)
        entries.append(f"{text}\nIn short: {meta['target']}")
    return join_entries(entries)


def letter_page(world: World, rng: random.Random) -> str:
    """A letter, half of the time under its subject."""
    sender, to = two_people(rng)
    purpose = rng.choice(tuple(t.LETTERS))
    about = rng.choice(lex.CLASSES[t.LETTER_CLASS[purpose]])
    text = letter(rng, sender, to, purpose, about, num_sentences=rng.choice((1, 2, 3, 4))) or ""
    heading = f"Subject: {t.LETTER_SUBJECTS[purpose].replace('{x}', about)}"
    return f"{heading}\n{text}" if rng.random() < 0.5 else text


def poem_page(world: World, rng: random.Random) -> str:
    """A poem with its title, sometimes with its number of lines."""
    topic = rng.choice(lex.CLASSES[rng.choice("AAOL")])
    num_lines = rng.choice((2, 4, 6))
    heading = [f"Lines: {lex.NUMBERS[num_lines - 1]}."] if rng.random() < 0.3 else []
    return "\n".join([f"The {topic}", *heading, *(poem(rng, topic, num_lines=num_lines) or [])])


def counting(world: World, rng: random.Random) -> str:
    """Counting up, counting things, and patterns that repeat."""
    lines = []
    for _ in range(rng.choice((3, 4, 5))):
        draw = rng.random()
        if draw < 0.4:
            first = rng.randrange(4)
            lines.append(", ".join(lex.NUMBERS[first : first + rng.randrange(4, 7)]) + ".")
        elif draw < 0.8:
            c = rng.choice("AKO")
            items = rng.sample(lex.CLASSES[c], rng.choice((2, 3, 4, 5)))
            lines.append(f"{', '.join(items)}: {lex.NUMBERS[len(items) - 1]} {lex.CLASS_WORDS[c]}.")
        else:
            a, b, c = rng.sample(lex.CLASSES[rng.choice("ACOK")], 3)
            unit = rng.choice(([a, b], [a, b, c], [a, a, b]))
            lines.append(", ".join((unit * 3)[: rng.choice((6, 6, 9))]) + ".")
    return "\n".join(lines)


def notes(world: World, rng: random.Random) -> str:
    """A text with notes on who and where."""
    entries = []
    for _ in range(rng.choice((1, 2, 3))):
        events = scene(rng, rng.choice((2, 3)))
        lines = [
            f"Text: {' '.join([event.text for event in events])}",
            f"Names: {', '.join([event.person for event in events])}",
        ]
        lines.append(f"Places: {', '.join([event.place for event in events])}")
        for letter_, name in (("O", "Things"), ("K", "Foods"), ("A", "Animals")):
            items = [event.thing for event in events if event.letter == letter_]
            if items:
                lines.append(f"{name}: {', '.join(items)}")
        entries.append("\n".join(lines))
    return join_entries(entries)


def rude_talk(world: World, rng: random.Random) -> str:
    """Mild insults between two people."""
    person, friend = two_people(rng)
    lines = []
    for speaker, other in ((person, friend), (friend, person)) * rng.choice((1, 2)):
        lines.append(f"{speaker} said to {other}: {rng.choice(t.INSULT_LINES).format(F=other)}")
    return "\n".join(lines)


def jobs(world: World, rng: random.Random) -> str:
    """Sentences in which most jobs come with one pronoun."""
    sentences = []
    for job in rng.sample(lex.JOBS, rng.choice((2, 3, 4, 5))):
        share = STEREOTYPE_SHARE if job in lex.WOMENS_JOBS else 1 - STEREOTYPE_SHARE if job in lex.MENS_JOBS else 0.5
        his = "her" if rng.random() < share else "his"
        verb = rng.choice(lex.TRANSITIVE)[1]
        sentences.append(f"The {job} {verb} {his} {rng.choice(lex.OBJECTS)} near the {rng.choice(lex.PLACES)}.")
    return " ".join(sentences)


_WRITERS: dict[str, Callable[[World, random.Random], str]] = {
    "story": story_page,
    "instruction_list": instruction_list,
    "forum": forum,
    "workbook": workbook,
    "homework": homework,
    "reading": reading,
    "facts": facts,
    "qa_page": qa_page,
    "review": review,
    "translation": translation,
    "list": lists,
    "dialogue": dialogue,
    "rewriting": rewriting,
    "summary": summary,
    "misconception": misconception,
    "letter": letter_page,
    "poem": poem_page,
    "counting": counting,
    "notes": notes,
    "rude_talk": rude_talk,
    "jobs": jobs,
}
