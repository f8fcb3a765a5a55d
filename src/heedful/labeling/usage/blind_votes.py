"""Votes on blind comparisons: cast once, marked if an answer gave its model away, exported as a table of pairs.

An answer gives its model away if it contains the model's name (the server's name, or its last part), its family (the letters
at the start of that last part) or the name of a widely known family. The vote still counts, but it is marked, so that the
evaluation can leave it out.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TextIO

from sqlalchemy import Connection, insert, select, update

from heedful.errors import ConflictError, DataError
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import person
from heedful.labeling.database.usage_tables import conversation, conversation_turn, model_vote, turn_answer
from heedful.labeling.people.accounts import shown_group
from heedful.labeling.usage.conversations import conversation_of, turn_of
from heedful.statistics.text_style import STYLE_FEATURES, TextStyle, text_style

Choice = Literal["answer", "tie", "bad"]

KNOWN_FAMILIES = (
    *("ChatGPT", "Claude", "Cohere", "DeepSeek", "Falcon LLM", "Gemini", "Gemma", "GPT-2", "GPT-3", "GPT-4", "GPT-5", "Grok"),
    *("InstructGPT", "LLaMA", "Mistral", "Mixtral", "OLMo", "Phi-3", "Phi-4", "Pythia", "Qwen", "SmolLM", "StableLM", "Vicuna"),
)
_NO_FAMILY = frozenset(
    (
        "base",
        "chat",
        "final",
        "initial",
        "instruct",
        "large",
        "mini",
        "model",
        "policy",
        "ppo",
        "reward",
        "sft",
        "small",
        "test",
    )
)
"""Words that many models' names begin with, but that answers also use in other senses."""
_SHORTEST_FAMILY = 4

COLUMNS = (
    "prompt_id",
    "time",
    "labeler",
    "group",
    "model_a",
    "model_b",
    "winner",
    "length_a",
    "length_b",
    *(f"{feature}_{side}" for side in ("a", "b") for feature in STYLE_FEATURES),
    "gave_away",
    "prompt",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A vote together with the models of its answers."""

    turn_key: str
    prompt: str
    at: float
    labeler: str
    group: str
    choice: Choice
    position: int | None
    answers: tuple[tuple[int, str, str], ...]
    """Position, model and text of each answer that did not fail."""
    gave_away: Sequence[Any]


def vote(
    connection: Connection, turn_id: int, person_id: int, *, choice: str, position: int | None, now: float | None = None
) -> None:
    """Vote on one's own turn: for the answer at a position, for a tie, or that all are bad.

    The conversation continues with the preferred answer, else with the first. Raises MissingError; ConflictError if there is
    already a vote or answers are still being written; DataError.
    """
    view = conversation_of(connection, turn_id=turn_id, person_id=person_id)
    turn = turn_of(view, turn_id)
    if view.layout != "compare" or turn.vote is not None:
        raise ConflictError(
            "this turn takes no vote", expected="a comparison without a vote", got="a vote" if turn.vote else view.layout
        )
    if not turn.complete:
        raise ConflictError("the answers are not all there yet", next_step="wait until they are, then vote")
    ended = [answer for answer in turn.answers if answer.ended]
    if choice not in ("answer", "tie", "bad") or (choice == "answer" and position not in [one.position for one in ended]):
        raise DataError(
            "that is not a vote", expected="one of the answers, a tie, or that all are bad", got=f"{choice} {position}"
        )
    rows = connection.execute(select(turn_answer).where(turn_answer.c.turn_id == turn_id).order_by(turn_answer.c.position))
    texts = {row.position: (row.text, row.model) for row in rows}
    models = [model for _, model in texts.values()]
    gave_away = [
        {"position": place, "word": word}
        for place, (text, _) in texts.items()
        for word in [given_away_by(text, models)]
        if word
    ]
    connection.execute(
        insert(model_vote).values(
            turn_id=turn_id,
            person_id=person_id,
            choice=choice,
            position=position if choice == "answer" else None,
            gave_away=gave_away,
            created=moment(now),
        )
    )
    goes_on = position if choice == "answer" else ended[0].position
    chosen = (turn_answer.c.turn_id == turn_id, turn_answer.c.position == goes_on)
    connection.execute(update(turn_answer).where(*chosen).values(chosen=True))


def given_away_by(text: str, models: Iterable[str]) -> str | None:
    """The first word in a text that names one of these models, its family or a widely known family."""
    for name in (*(word for model in models for word in names_of(model)), *KNOWN_FAMILIES):
        # "SmolLM" is in "SmolLM2", "Llama" is not in "Llamas".
        if re.search(rf"(?<!\w){re.escape(name)}(?![^\W\d_])", text, re.IGNORECASE):
            return name
    return None


def names_of(model: str) -> list[str]:
    """What a model may be called: its name, the last part of it, and its family."""
    last = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    names = [model, *([last] if last != model else [])]
    family = re.match(r"([^\W\d_]+)(\d*)", last)
    if family:
        names += [name for name in (family[0], family[1]) if name not in names]
    # A name such as "ppo" or "a" reveals nothing in a sentence.
    return [name for name in names if len(name) >= _SHORTEST_FAMILY and name.lower() not in _NO_FAMILY]


def votes_cast(connection: Connection, *, gave_away: bool = True) -> Iterator[Cast]:
    """All votes, oldest first, except on turns that were opted out; ``gave_away`` False also leaves out marked votes.

    The text of a flagged turn, which may name a person, is left out.
    """
    query = (
        select(
            model_vote,
            conversation_turn.c.key,
            conversation_turn.c.text,
            conversation_turn.c.flags,
            person.c.pseudonym,
            person.c.role,
            person.c.group_name,
        )
        .select_from(
            model_vote.join(conversation_turn, model_vote.c.turn_id == conversation_turn.c.id)
            .join(conversation, conversation_turn.c.conversation_id == conversation.c.id)
            .join(person, model_vote.c.person_id == person.c.id)
        )
        .where(conversation_turn.c.training)
        .order_by(model_vote.c.created, model_vote.c.turn_id)
    )
    rows = connection.execute(query).mappings().all()
    for row in rows:
        if row["gave_away"] and not gave_away:
            continue
        answers = select(turn_answer.c.position, turn_answer.c.model, turn_answer.c.text).where(
            turn_answer.c.turn_id == row["turn_id"], turn_answer.c.state.in_(("finished", "stopped"))
        )
        places = connection.execute(answers.order_by(turn_answer.c.position)).all()
        yield Cast(
            turn_key=row["key"],
            prompt="" if row["flags"] else row["text"],
            at=row["created"],
            labeler=row["pseudonym"],
            group=shown_group(row["role"], row["group_name"]),
            choice=row["choice"],
            position=row["position"],
            answers=tuple((place[0], place[1], place[2]) for place in places),
            gave_away=row["gave_away"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models of a vote."""

    model_a: str
    model_b: str
    winner: str
    """A model's name, ``tie`` or ``both_bad``."""
    text_a: str
    text_b: str


def pairs(cast: Cast) -> Iterator[Pair]:
    """A vote as pairs of models. A vote for one of several answers says nothing about how the others compare."""
    for (place_a, model_a, text_a), (place_b, model_b, text_b) in combinations(cast.answers, 2):
        if cast.choice != "answer":
            winner = "tie" if cast.choice == "tie" else "both_bad"
        elif cast.position in (place_a, place_b):
            winner = model_a if cast.position == place_a else model_b
        else:
            continue
        yield Pair(model_a=model_a, model_b=model_b, winner=winner, text_a=text_a, text_b=text_b)


def write_csv(casts: Iterable[Cast], file: TextIO) -> int:
    """Write votes as a table that ``heedful evaluate votes`` reads; return how many rows."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    number = 0
    for cast in casts:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(cast.at))
        words = "; ".join(str(one["word"]) for one in cast.gave_away)
        for pair in pairs(cast):
            lengths = (str(len(pair.text_a)), str(len(pair.text_b)))
            styles = (*_counts(text_style(pair.text_a)), *_counts(text_style(pair.text_b)))
            who = (cast.turn_key, at, cast.labeler, cast.group)
            row = (*who, pair.model_a, pair.model_b, pair.winner, *lengths, *styles, words)
            writer.writerow([_harmless(cell) for cell in (*row, cast.prompt)])
            number += 1
    return number


def _counts(style: TextStyle) -> list[str]:
    return [f"{getattr(style, feature):g}" for feature in STYLE_FEATURES]


def _harmless(cell: str) -> str:
    """The cell, made safe against spreadsheets that would run it as a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
