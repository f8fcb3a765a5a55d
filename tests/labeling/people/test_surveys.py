from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, text
from tests.labeling.labeling import add_person

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import event, survey_answer, survey_taken
from heedful.labeling.people import surveys


def test_the_papers_questions() -> None:
    assert [question.name for question in surveys.SURVEYS["demographics"].questions] == [
        "gender",
        "ethnicities",
        "nationality",
        "age",
        "education",
    ]
    assert all(len(question.options) == 5 for question in surveys.SURVEYS["satisfaction"].questions)


def test_an_answer_is_kept_without_the_person_and_once(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        assert [one.name for one in surveys.open_surveys(connection, ann)] == ["demographics", "satisfaction"]
        answers: dict[str, Any] = {"age": "25-34", "ethnicities": ["Latinx", "East Asian"], "nationality": "  ", "gender": ""}
        assert surveys.take(connection, ann, "demographics", answers)
        assert not surveys.take(connection, ann, "demographics", {"age": "65+"})
        assert [one.name for one in surveys.open_surveys(connection, ann)] == ["satisfaction"]
        row = connection.execute(select(survey_answer)).one()
        assert set(row._mapping) == {"id", "survey", "answers"}
        assert row.answers == {"age": "25-34", "ethnicities": ["East Asian", "Latinx"]}
        assert connection.execute(select(event)).all() == []


def test_who_leaves_everything_out_is_not_asked_again(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        assert surveys.take(connection, ann, "satisfaction", {})
        assert connection.execute(select(survey_answer)).all() == []
        assert len(connection.execute(select(survey_taken)).all()) == 1


def test_the_order_on_the_disk_does_not_say_who_answered_what(database: Database) -> None:
    place = "rowid" if database.is_sqlite else "ctid"
    ages = surveys.SURVEYS["demographics"].questions[3].options
    orders: set[tuple[str, ...]] = set()
    with database.write() as connection:
        for number, age in enumerate(ages):
            surveys.take(connection, add_person(connection, f"p{number}"), "demographics", {"age": age})
    for number in range(8):
        with database.write() as connection:
            surveys.take(connection, add_person(connection, f"q{number}"), "demographics", {"gender": "Male"})
            rows = connection.execute(text(f"SELECT answers FROM survey_answer ORDER BY {place}")).scalars().all()
            orders.add(tuple(str(row) for row in rows if "age" in str(row)))
    # 6 answers in 8 random orders: that fewer than 4 are different has a chance of about one in 10^12.
    assert len(orders) >= 4


def test_results_from_five_answers_on(database: Database) -> None:
    with database.write() as connection:
        for number in range(5):
            assert surveys.results(connection, "satisfaction") is None
            answers = {"glad": "Agree" if number else "Disagree", **({"clear": "Agree"} if number == 2 else {})}
            surveys.take(connection, add_person(connection, f"p{number}"), "satisfaction", answers)
        found = surveys.results(connection, "satisfaction")
    assert found is not None
    assert found["glad"] == Counter({"Agree": 4, "Disagree": 1})
    assert found["clear"] == Counter({"Agree": 1})
    assert found["repetitive"] == Counter()


OTHERS: tuple[dict[str, Any], ...] = (
    {"age": "12"},
    {"shoe_size": "44"},
    {"gender": ["Male", "Female"]},
    {"nationality": "x" * 101},
    {"ethnicities": ["Martian"]},
    {"nationality": "a\x00"},
    {"nationality": 3},
    {"nationality": None},
)


def test_other_answers_are_refused(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        for answers in OTHERS:
            with pytest.raises(DataError):
                surveys.take(connection, ann, "demographics", answers)
        assert len(surveys.open_surveys(connection, ann)) == 2
        with pytest.raises(MissingError):
            surveys.take(connection, ann, "horoscope", {})
