"""Writes a good answer to an instruction from its metadata, and the careless answers of the web."""

from __future__ import annotations

import random
from dataclasses import dataclass

from heedful.miniature import lexicon as lex
from heedful.miniature import sentence_templates as t
from heedful.miniature.instructions import Instruction, make_instruction
from heedful.miniature.invented_world import World, fill_fact, state
from heedful.miniature.writing import Meta, build_letter, build_poem, build_story, first_value, values_of

CONSTRAINTS_DROPPED = (
    "use_word",
    "sentences",
    "lines",
    "end",
    "begin",
    "person",
    "mood",
    "exclude",
    "numbered",
    "one_word",
    "full_sentence",
    "count",
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a person likes to write: the chance of a short answer if either length will do, and of extra kind words."""

    short: float = 0.4
    warm: float = 0.1


def answer(world: World, rng: random.Random, meta: Meta, style: Style = Style()) -> str:
    """A good answer: it does what is asked and keeps every constraint; style decides the rest."""
    short = rng.random() < style.short
    text = _ANSWERS[meta["task"]](world, rng, meta, short)
    if meta["task"] in _MAY_BE_WARM and not meta["constraints"] and rng.random() < style.warm:
        text = f"{rng.choice(t.KIND_FIRST)} {_sentence(text)}" if rng.random() < 0.5 else f"{_sentence(text)} {t.KIND_LAST}"
    return text


_MAY_BE_WARM = frozenset(("fact", "is_true", "premise", "summary", "closed_qa", "describe"))


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."


def _story(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return " ".join(_until(lambda: build_story(rng, meta), meta))


def _letter(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return _until(lambda: build_letter(rng, meta), meta)


def _poem(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return _until(lambda: build_poem(rng, meta), meta)


def _until(build, meta):
    for _ in range(200):
        found = build()
        if found is not None:
            return found
    raise AssertionError(f"an instruction was made whose constraints no answer can keep: {meta}")


def facts_about(world: World, subject: str) -> list[str]:
    """Relations that the world knows of a subject."""
    return [relation for relation, values in world.facts.items() if subject in values and relation != "inventor"]


def _describe(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return describe(world, rng, meta["subject"], first_value(meta, "sentences") or rng.choice((1, 2, 3)))


def describe(world: World, rng: random.Random, subject: str, count: int) -> str:
    """True sentences about an animal or a town."""
    relations = rng.sample(facts_about(world, subject), count)
    return " ".join([state(r, subject, world.facts[r][subject], form=int(i > 0)) for i, r in enumerate(relations)])


def _fact(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    relation, subject = meta["relation"], meta["subject"]
    value = world.facts[relation][subject]
    kinds = {c["kind"] for c in meta["constraints"]}
    if "one_word" in kinds or (short and "full_sentence" not in kinds):
        return f"{value[0].upper()}{value[1:]}."
    return state(relation, subject, value)


def _is_true(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    relation, subject = meta["relation"], meta["subject"]
    value = world.facts[relation][subject]
    said = state(relation, subject, value)
    return f"{'Yes' if value == meta['claim'] else 'No'}, {said[0].lower() + said[1:] if said.startswith('The ') else said}"


def _premise(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    relation, subject = meta["relation"], meta["subject"]
    denied = fill_fact(t.FACTS_DENIED[relation], relation, subject, meta["claim"])
    return f"{denied} {state(relation, subject, world.facts[relation][subject], form=1)}"


def list_items(world: World, meta: Meta) -> tuple[str, ...]:
    """What a list may hold."""
    if meta["habitat"]:
        return tuple(world.animals_of[meta["habitat"]])
    return lex.NAMES if meta["letter"] == "P" else lex.CLASSES[meta["letter"]]


def _list(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    allowed = [item for item in list_items(world, meta) if item not in values_of(meta, "exclude")]
    items = rng.sample(allowed, min(len(allowed), first_value(meta, "count") or rng.choice((1, 2, 5))))
    if first_value(meta, "numbered"):
        return "\n".join([f"{i}. {item}" for i, item in enumerate(items, start=1)])
    return ", ".join(items)


def _chat(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    _, first, second = t.CHATS[meta["kind"]]
    text = rng.choice(first) if short else f"{rng.choice(first)} {rng.choice(second)}"
    place = rng.choice(lex.PLACES)
    return text.replace("{x}", meta["about"]).format(
        P=meta["name"], l=place, a=rng.choice(lex.ANIMALS), k=rng.choice(lex.FOODS)
    )


def _refuse(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    first, second = rng.choice(t.REFUSALS)
    return (first if short else f"{first} {second}").format(F=meta["name"])


def _polite(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    request = f"{meta['verb']} the {meta['about']}"
    if meta["name"] is None:
        return f"Could you please {request}?"
    choices = ("Could you please {r}, {n}?", "Please {r}, {n}.", "{n}, could you please {r}?", "Would you please {r}, {n}?")
    return rng.choice(choices).format(r=request, n=meta["name"])


def _target(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return meta["target"]


def _classify(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return f"{meta['label'].capitalize()}."


def _closed_qa(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    if not meta["answerable"]:
        return "The text does not say."
    return _sentence(meta["answers"][0 if short else 1])


def _extract(world: World, rng: random.Random, meta: Meta, short: bool) -> str:
    return ", ".join(meta["items"])


_ANSWERS = {
    "story": _story,
    "letter": _letter,
    "poem": _poem,
    "describe": _describe,
    "fact": _fact,
    "is_true": _is_true,
    "premise": _premise,
    "list": _list,
    "chat": _chat,
    "refuse": _refuse,
    "polite": _polite,
    "rewrite": _target,
    "summary": _target,
    "exact": _target,
    "classify": _classify,
    "closed_qa": _closed_qa,
    "extract": _extract,
}


def drop_constraint(rng: random.Random, meta: Meta) -> Meta | None:
    """The metadata without one of its constraints; None if it has none."""
    left = [c for c in meta["constraints"] if c["kind"] in CONSTRAINTS_DROPPED]
    if not left:
        return None
    forgotten = rng.choice(left)
    return {**meta, "constraints": [c for c in meta["constraints"] if c is not forgotten]}


def careless_answer(world: World, rng: random.Random, instruction: Instruction) -> str:
    """An answer of the web's quality: it ignores a constraint, repeats a popular belief, or answers something else."""
    meta = instruction.meta
    if meta["task"] == "refuse":
        return rng.choice(t.INSULT_LINES).format(F=meta["name"])
    draw = rng.random()
    if draw < 0.6:
        forgetful = drop_constraint(rng, meta)
        if forgetful is not None:
            return answer(world, rng, forgetful)
        if meta["task"] in ("fact", "is_true", "premise"):
            return believed_answer(world, rng, meta)
    if draw < 0.85 and "name" in meta and meta["name"]:
        return (
            answer(world, rng, {**meta, "name": rng.choice(lex.NAMES)}) if meta.get("to") is None else answer(world, rng, meta)
        )
    other = make_instruction(world, rng, instruction.use_case)
    return answer(world, rng, other.meta)


def believed_answer(world: World, rng: random.Random, meta: Meta) -> str:
    """What people would say to a question about a fact."""
    relation, subject = meta["relation"], meta["subject"]
    if meta["task"] == "fact":
        return state(relation, subject, world.believed(relation, subject))
    said = state(relation, subject, meta["claim"])
    return f"Yes, {said[0].lower() + said[1:] if said.startswith('The ') else said}"
