"""Answers that are opened again, by their labeler or by a researcher; tasks set aside; batches edited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from tests.labeling.labeling import add_person, add_ranking_tasks, count_broken, rank_answer

from heedful.errors import ConflictError, DataError, MissingError
from heedful.labeling.console import prompt_record
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import batch, event, person, ranking, rating, superseded_answer, task
from heedful.labeling.exchange import labels
from heedful.labeling.queue import changes, leases, reopening


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    database = open_database(tmp_path / "labels.sqlite")
    with database.write() as connection:
        yield connection
    database.close()


def answered(connection: Connection, person: int, *, at: float = 100.0) -> leases.AssignmentView:
    view = leases.claim(connection, person, now=at)
    assert view is not None
    answer = rank_answer([output.id for output in view.outputs])
    leases.submit(connection, view.id, person, token=view.token, answer=answer, seconds_spent=7.0, now=at)
    return leases.view_assignment(connection, view.id, person)


def answered_again(connection: Connection, assignment_id: int, person: int, *, overall: int, now: float) -> dict[str, Any]:
    view = leases.view_assignment(connection, assignment_id, person)
    answer = rank_answer([output.id for output in view.outputs], overall=overall)
    leases.submit(connection, view.id, person, token=view.token, answer=answer, seconds_spent=9.0, now=now)
    return answer


def counts(connection: Connection) -> tuple[str, int, int]:
    row = connection.execute(select(task.c.state, task.c.held, task.c.answered)).one()
    return row.state, row.held, row.answered


def number(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_an_answer_is_corrected_within_minutes(connection: Connection) -> None:
    who = add_person(connection, "p")
    add_ranking_tasks(connection, 1)
    first = answered(connection, who)
    assert counts(connection) == ("done", 1, 1)
    old_ids = connection.execute(select(ranking.c.id)).scalars().all()

    reopening.correct(connection, first.id, who, now=100.0 + reopening.CORRECTION_SECONDS)
    assert counts(connection) == ("open", 1, 0)
    assert number(connection, ranking) == number(connection, rating) == 0
    assert count_broken(connection) == []
    again = leases.view_assignment(connection, first.id, who)
    assert (again.state, again.answer) == ("leased", None)
    assert again.token != first.token
    assert again.draft is not None
    assert again.draft["ratings"] == first.answer["ratings"]  # type: ignore[index]

    changed = rank_answer([output.id for output in again.outputs], overall=2)
    leases.submit(connection, again.id, who, token=again.token, answer=changed, seconds_spent=9.0, now=500.0)
    assert counts(connection) == ("done", 1, 1)
    assert number(connection, ranking) == 1
    assert connection.execute(select(ranking.c.id)).scalars().all() != old_ids
    assert set(connection.execute(select(rating.c.overall)).scalars()) == {2}
    actions = connection.execute(select(event.c.action).order_by(event.c.id)).scalars().all()
    assert actions[-3:] == ["submit", "correct", "submit"]


def test_the_first_answer_is_kept_and_nothing_counts_it(connection: Connection) -> None:
    who, researcher = add_person(connection, "p"), add_person(connection, "r", role="researcher")
    add_ranking_tasks(connection, 1)
    first = answered(connection, who)
    used = [one.id for one in labels.stored_rankings(connection)] + [one.id for one in labels.stored_ratings(connection)]
    reopening.correct(connection, first.id, who, now=101.0)
    again = answered_again(connection, first.id, who, overall=2, now=110.0)
    reopening.send_back(connection, first.id, "Look at B again.", by=researcher, now=120.0)

    kept = connection.execute(select(superseded_answer).order_by(superseded_answer.c.id)).all()
    assert [(row.answer, row.answered, row.seconds_spent) for row in kept] == [(first.answer, 100.0, 7.0), (again, 110.0, 9.0)]
    assert [(row.superseded, row.superseded_by) for row in kept] == [(101.0, who), (120.0, researcher)]
    assert kept[0].record_ids == used
    assert list(labels.stored_rankings(connection, surplus=True)) == []
    known = connection.execute(select(event.c.before).where(event.c.action == "correct")).scalar_one()
    assert known["record_ids"] == used

    last = answered_again(connection, first.id, who, overall=3, now=130.0)
    [ranking_now] = labels.stored_rankings(connection)
    assert ranking_now.id not in [*kept[0].record_ids, *kept[1].record_ids]
    shown = prompt_record.prompt_record(connection, "first-0").answers
    assert [(given.answer, given.superseded) for given in shown] == [(last, None), (again, 120.0), (first.answer, 101.0)]
    assert [row["kind"] for row in labels.exported_records(connection)].count("annotation") == 0
    rows = [row for row in labels.exported_records(connection, surplus=True) if row["kind"] == "annotation"]
    assert [(row["task_kind"], row["answer"], row["metadata"]["superseded"]) for row in rows] == [
        ("rank", first.answer, 101.0),
        ("rank", again, 120.0),
    ]


def test_too_late_not_answered_or_of_somebody_else(connection: Connection) -> None:
    who, other = add_person(connection, "p"), add_person(connection, "q")
    add_ranking_tasks(connection, 1)
    view = answered(connection, who)
    with pytest.raises(ConflictError):
        reopening.correct(connection, view.id, who, now=101.0 + reopening.CORRECTION_SECONDS)
    with pytest.raises(MissingError):
        reopening.correct(connection, view.id, other, now=101.0)
    reopening.correct(connection, view.id, who, now=101.0)
    with pytest.raises(ConflictError):
        reopening.correct(connection, view.id, who, now=102.0)


def test_an_answer_is_sent_back_with_a_note(connection: Connection) -> None:
    who, researcher = add_person(connection, "p"), add_person(connection, "r", role="researcher")
    add_ranking_tasks(connection, 1)
    view = answered(connection, who)
    with pytest.raises(DataError):
        reopening.send_back(connection, view.id, " ", by=researcher)
    reopening.send_back(connection, view.id, "Look at B again.", by=researcher, now=9_000.0)
    assert counts(connection) == ("open", 1, 0)
    again = leases.claim(connection, who, now=9_001.0)
    assert again is not None
    assert again.id == view.id
    assert again.draft is not None
    assert again.draft["sent_back"] == "Look at B again."
    told = connection.execute(select(event.c.before, event.c.after).where(event.c.action == "send_back")).one()
    assert "Look at B" not in str(told)


def test_a_surplus_answer_and_one_to_a_withdrawn_task_stay_closed(connection: Connection) -> None:
    who = add_person(connection, "p")
    add_ranking_tasks(connection, 1)
    view = answered(connection, who)
    changes.withdraw_task(connection, view.task_id, person_id=None)
    with pytest.raises(ConflictError):
        reopening.correct(connection, view.id, who, now=101.0)
    assert number(connection, ranking) == 1


def test_a_task_is_set_aside_and_served_again(connection: Connection) -> None:
    who = add_person(connection, "p")
    (only,) = add_ranking_tasks(connection, 1)
    changes.set_task_aside(connection, only, person_id=None)
    assert leases.claim(connection, who) is None
    with pytest.raises(ConflictError):
        changes.set_task_aside(connection, only, person_id=None)
    changes.reopen_task(connection, only, person_id=None)
    assert leases.claim(connection, who) is not None


def test_a_batch_is_edited_later(connection: Connection) -> None:
    who = add_person(connection, "p")
    add_ranking_tasks(connection, 2)
    answered(connection, who)
    (batch_id,) = connection.execute(select(batch.c.id)).scalars()
    rules: dict[str, Any] = {"name": "New", "per_labeler_limit": None, "lease_seconds": 600.0, "person_id": None}
    changes.edit_batch(connection, batch_id, overlap=2, **rules)
    rows = connection.execute(select(task.c.state, task.c.wanted, task.c.answered).order_by(task.c.answered)).all()
    assert [tuple(row) for row in rows] == [("open", 2, 0), ("open", 2, 1)]
    changes.edit_batch(connection, batch_id, overlap=1, **rules)
    rows = connection.execute(select(task.c.state, task.c.wanted, task.c.answered).order_by(task.c.answered)).all()
    assert [tuple(row) for row in rows] == [("open", 1, 0), ("done", 1, 1)]
    before = connection.execute(select(event.c.before).where(event.c.action == "edit_batch").order_by(event.c.id)).scalars()
    assert list(before)[1] == {"overlap": 2}
    usual: dict[str, Any] = {"overlap": 1} | rules
    for wrong in ({"overlap": 0}, {"name": " "}, {"lease_seconds": 1.0}, {"per_labeler_limit": 0}):
        changed: dict[str, Any] = {**usual, **wrong}
        with pytest.raises(DataError):
            changes.edit_batch(connection, batch_id, **changed)


def test_fewer_labelers_for_each_task_send_nobody_away(connection: Connection) -> None:
    """Answers and running leases are never more than a task wants."""
    ann, bob, cem = (add_person(connection, name) for name in ("ann", "bob", "cem"))
    add_ranking_tasks(connection, 1, wanted=3)
    answered(connection, ann)
    working = [leases.claim(connection, who, now=100.0) for who in (bob, cem)]
    (batch_id,) = connection.execute(select(batch.c.id)).scalars()
    rules: dict[str, Any] = {"name": "New", "per_labeler_limit": None, "lease_seconds": 100.0, "person_id": None}
    changes.edit_batch(connection, batch_id, overlap=1, **rules)
    assert counts(connection) == ("open", 3, 1)
    assert count_broken(connection) == []
    for view, who in zip(working, (bob, cem), strict=True):
        assert view is not None
        answer = rank_answer([output.id for output in view.outputs])
        done = leases.submit(connection, view.id, who, token=view.token, answer=answer, seconds_spent=None, now=101.0)
        assert not done.surplus
        assert count_broken(connection) == []
    assert counts(connection) == ("done", 3, 3)


def test_an_answer_of_someone_who_was_moved_stays(connection: Connection) -> None:
    """Opened again, it would be lost: nobody could submit it."""
    who = add_person(connection, "p")
    rex = add_person(connection, "rex", role="researcher")
    add_ranking_tasks(connection, 1)
    view = answered(connection, who)
    connection.execute(person.update().where(person.c.id == who).values(group_name="held_out"))
    with pytest.raises(ConflictError, match="moved to another group"):
        reopening.correct(connection, view.id, who, now=101.0)
    with pytest.raises(ConflictError, match="moved to another group"):
        reopening.send_back(connection, view.id, "Again, please.", by=rex, now=101.0)
    assert (number(connection, ranking), counts(connection)) == (1, ("done", 1, 1))
