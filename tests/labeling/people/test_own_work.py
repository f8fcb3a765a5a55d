from __future__ import annotations

from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for

from heedful.labeling.database.connection import Database
from heedful.labeling.people import own_work
from heedful.labeling.queue import leases


def test_progress_and_usual_time(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 6)
        add_ranking_tasks(connection, 2, kind="demonstrate", name="second")
        assert own_work.progress(connection, ann) == own_work.Progress(day=0, total=0, skipped=0)
        assert own_work.usual_seconds(connection, ann) == {}

        def answer(person_id: int, kind: str, seconds: float | None, now: float) -> None:
            view = leases.claim(connection, person_id, kind=kind, now=now)  # type: ignore[arg-type]
            assert view is not None
            leases.submit(
                connection, view.id, person_id, token=view.token, answer=answer_for(view), seconds_spent=seconds, now=now
            )

        answer(ann, "rank", 10.0, 1.0)
        answer(ann, "rank", 40.0, 100_000.0)
        answer(ann, "rank", 20.0, 100_001.0)
        answer(bob, "rank", 500.0, 100_002.0)
        answer(bob, "demonstrate", 70.0, 100_002.0)
        answer(ann, "demonstrate", None, 100_002.0)
        skipped = leases.claim(connection, ann, kind="rank", now=100_003.0)
        assert skipped is not None
        leases.skip(connection, skipped.id, ann, token=skipped.token, reason="odd", now=100_003.0)
        assert own_work.progress(connection, ann, now=100_004.0) == own_work.Progress(day=3, total=4, skipped=1)
        # Her own time where there is one, everybody's where there is none.
        assert own_work.usual_seconds(connection, ann) == {"rank": 20.0, "demonstrate": 70.0}


def test_phases(database: Database) -> None:
    with database.write() as connection:
        expected = {"training": ("training",), "held_out": ("evaluation",), "candidate": ("screening",)}
        for group, phases in expected.items():
            assert own_work.phases_of(connection, add_person(connection, group, group=group)) == phases
        researcher = add_person(connection, "rex", role="researcher")
        assert own_work.phases_of(connection, researcher) == ("training", "evaluation", "screening")
