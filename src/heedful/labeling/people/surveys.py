"""The optional, anonymous surveys among labelers: demographics (Table 12) and satisfaction (Table 13); SPEC 2.5.

An answer is stored without person and time. Who took part is stored separately, so that people are asked only once. The two
cannot be joined: no event is recorded, and each new answer rewrites all answers of the survey in a random order, so that even
their order on disk reveals nothing. Results are shown once there are five answers.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text

from heedful.errors import DataError, MissingError
from heedful.labeling.database.tables import survey_answer, survey_taken
from heedful.labeling.queue.kinds import refuse_unstorable

FEWEST = 5
"""No results are shown for fewer answers than this: among few people, a number can identify someone."""

LONGEST = 100
"""Characters of a free-text answer."""

_AGREEMENT = ("Strongly agree", "Agree", "Neither agree nor disagree", "Disagree", "Strongly disagree")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of a survey; people may leave any question out."""

    name: str
    text: str
    options: tuple[str, ...] = ()
    """None: a free-text question."""
    several: bool = False
    """Whether more than one option may be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A survey's questions."""

    name: str
    title: str
    questions: tuple[Question, ...]


SURVEYS: Mapping[str, Survey] = {
    "demographics": Survey(
        name="demographics",
        title="About you",
        questions=(
            Question(name="gender", text="What gender do you identify as?", options=("Male", "Female", "Nonbinary / other")),
            Question(
                name="ethnicities",
                text="What ethnicities do you identify as?",
                options=(
                    "White / Caucasian",
                    "Southeast Asian",
                    "Indigenous / Native American / Alaskan Native",
                    "East Asian",
                    "Middle Eastern",
                    "Latinx",
                    "Black / of African descent",
                    "Other",
                ),
                several=True,
            ),
            Question(name="nationality", text="What is your nationality?"),
            Question(name="age", text="What is your age?", options=("18-24", "25-34", "35-44", "45-54", "55-64", "65+")),
            Question(
                name="education",
                text="What is your highest attained level of education?",
                options=(
                    "Less than high school degree",
                    "High school degree",
                    "Undergraduate degree",
                    "Master's degree",
                    "Doctorate degree",
                ),
            ),
        ),
    ),
    "satisfaction": Survey(
        name="satisfaction",
        title="About the work",
        questions=tuple(
            Question(name=name, text=text, options=_AGREEMENT)
            for name, text in (
                ("clear", "It was clear from the instructions what I was supposed to do."),
                ("enjoyable", "I found the task enjoyable and engaging."),
                ("repetitive", "I found the task repetitive."),
                ("paid_fairly", "I was paid fairly for doing the task."),
                ("glad", "Overall, I'm glad I did this task."),
            )
        ),
    ),
}
"""The questions of Tables 12 and 13; "Other" among the ethnicities is ours."""


def survey(name: str) -> Survey:
    """A survey by its name. Raises MissingError."""
    if name not in SURVEYS:
        raise MissingError("there is no such survey", expected=f"one of {', '.join(SURVEYS)}", got=repr(name))
    return SURVEYS[name]


def open_surveys(connection: Connection, person_id: int) -> list[Survey]:
    """The surveys that a person has neither taken nor declined."""
    query = select(survey_taken.c.survey).where(survey_taken.c.person_id == person_id)
    taken = set(connection.execute(query).scalars())
    return [one for name, one in SURVEYS.items() if name not in taken]


def take(connection: Connection, person_id: int, name: str, answers: Mapping[str, Any]) -> bool:
    """Store a person's answers without the person; return False and store nothing if they answered before. Raises DataError.

    Questions left out are not stored. If all are, only that the person was asked is stored.
    """
    kept = _checked(survey(name), answers)
    if all(one.name != name for one in open_surveys(connection, person_id)):
        return False
    connection.execute(insert(survey_taken).values(survey=name, person_id=person_id))
    if kept:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway; here two could write the same rows
            connection.execute(text("LOCK TABLE survey_answer IN EXCLUSIVE MODE"))
        query = select(survey_answer.c.answers).where(survey_answer.c.survey == name)
        rows = [*connection.execute(query).scalars(), kept]
        random.SystemRandom().shuffle(rows)
        connection.execute(delete(survey_answer).where(survey_answer.c.survey == name))
        connection.execute(
            insert(survey_answer), [{"id": secrets.token_hex(16), "survey": name, "answers": row} for row in rows]
        )
    return True


def results(connection: Connection, name: str) -> Mapping[str, Counter[str]] | None:
    """How often each answer to each question was given; None if there are fewer than ``FEWEST`` answers."""
    query = select(survey_answer.c.answers).where(survey_answer.c.survey == survey(name).name)
    rows = list(connection.execute(query).scalars())
    if len(rows) < FEWEST:
        return None
    counts: dict[str, Counter[str]] = {question.name: Counter() for question in survey(name).questions}
    for row in rows:
        for question, given in row.items():
            counts[question].update(given if isinstance(given, list) else [given])
    return counts


def _checked(survey: Survey, answers: Mapping[str, Any]) -> dict[str, str | list[str]]:
    questions = {question.name: question for question in survey.questions}
    kept: dict[str, str | list[str]] = {}
    for name, given in answers.items():
        if name not in questions:
            raise DataError("there is no such question", expected=f"one of {', '.join(questions)}", got=repr(name))
        question = questions[name]
        given = given if isinstance(given, list) else [given]
        refuse_unstorable(given, question.text)
        if not all(isinstance(value, str) for value in given):
            raise DataError("an answer is a text", where=question.text, got=repr(given)[:80])
        values = [value.strip() for value in given if value.strip()]
        if not values:
            continue
        if len(values) > 1 and not question.several:
            raise DataError("one answer at most", where=question.text, got=", ".join(values))
        for value in values:
            if question.options and value not in question.options:
                raise DataError("not among the answers", where=question.text, expected=", ".join(question.options), got=value)
            if len(value) > LONGEST:
                raise DataError(
                    "the answer is too long", where=question.text, expected=f"at most {LONGEST} characters", got=str(len(value))
                )
        kept[name] = sorted(set(values)) if question.several else values[0]
    return kept
