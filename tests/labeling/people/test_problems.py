from __future__ import annotations

import pytest
from tests.labeling.labeling import add_person, add_ranking_tasks

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.people import problems
from heedful.labeling.queue import leases


def test_a_question_its_answer_and_that_it_was_seen(database: Database) -> None:
    with database.write() as connection:
        ann, rex = add_person(connection, "ann"), add_person(connection, "rex", role="researcher")
        add_ranking_tasks(connection, 1)
        view = leases.claim(connection, ann, kind="rank")
        assert view is not None
        number = problems.ask(connection, ann, " What is a tie?\r\nReally ", task_id=view.task_id, now=1.0)
        general = problems.ask(connection, ann, "Lunch?", now=2.0)
        assert [one.id for one in problems.own(connection, ann)] == [general, number]
        assert problems.count_unanswered(connection) == 2
        assert problems.count_unseen(connection, ann) == 0
        problems.mark_seen(connection, number, ann, now=2.5)  # nothing to see yet

        problems.answer(connection, number, "Equally good.", answered_by=rex, now=3.0)
        asked = problems.get(connection, number)
        assert (asked.pseudonym, asked.text, asked.task_id) == ("ann", "What is a tie?\nReally", view.task_id)
        assert (asked.answer, asked.answered_by, asked.answered, asked.seen) == ("Equally good.", rex, 3.0, None)
        assert problems.count_unseen(connection, ann) == 1
        problems.mark_seen(connection, number, ann, now=4.0)
        problems.mark_seen(connection, number, ann, now=5.0)
        assert problems.get(connection, number).seen == 4.0
        assert problems.count_unseen(connection, ann) == 0

        problems.answer(connection, number, "Equally good or bad.", answered_by=rex, now=6.0)
        assert problems.count_unseen(connection, ann) == 1
        assert [one.id for one in problems.list_problems(connection)] == [general, number]
        assert [one.id for one in problems.list_problems(connection, answered=False)] == [general]
        assert [one.id for one in problems.list_problems(connection, answered=True)] == [number]
        assert [one.id for one in problems.list_problems(connection, before_id=general)] == [number]


def test_what_is_somebody_elses_is_not_there(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        (task_id,) = add_ranking_tasks(connection, 1)
        with pytest.raises(MissingError):
            problems.ask(connection, ann, "This one?", task_id=task_id)
        number = problems.ask(connection, ann, "Mine?")
        for person_id, problem_id in ((bob, number), (ann, number + 1)):
            with pytest.raises(MissingError):
                problems.mark_seen(connection, problem_id, person_id)
        with pytest.raises(MissingError):
            problems.answer(connection, number + 1, "No.", answered_by=bob)
        assert problems.own(connection, bob) == []


def test_what_cannot_be_kept_is_refused(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        number = problems.ask(connection, ann, "Fine")
        for text in ("", "  \n", "a\x00b", "x" * (problems.LONGEST + 1), "\ud800"):
            with pytest.raises(DataError):
                problems.ask(connection, ann, text)
            with pytest.raises(DataError):
                problems.answer(connection, number, text, answered_by=ann)
