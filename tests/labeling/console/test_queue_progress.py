from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from tests.labeling.labels_by_hand import DAY, NOW, Labels, new_database

from heedful.labeling.console import explorer, queue_progress
from heedful.labeling.console.prompt_record import prompt_record
from heedful.labeling.database.connection import Database
from heedful.labeling.quality import candidate_screening, carefulness, labeler_agreement

BIG = ("prompt", "response", "task", "task_response", "assignment", "demonstration", "ranking", "rating", "annotation", "event")


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return new_database(tmp_path)


def test_a_queue_counts_answers_skips_leases_late_ones_and_its_pace(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann, bea, cem = (make.person(name) for name in ("ann", "bea", "cem"))
        first, second = make.batch(created=NOW - 10 * DAY), make.batch(kind="demonstrate", created=NOW - 2 * 3600)
        for number in range(4):
            make.prompt(f"p{number}")
        whole, half, skipped, aside = (make.task(first, f"p{number}", num_outputs=2) for number in range(4))
        make.rank(whole, ann, "0", "1", at=NOW - 3 * DAY)
        make.rank(whole, bea, "0", "1", at=NOW - 100, late=True)
        make.rank(half, ann, "01", at=NOW - 100)
        make.assignment(half, bea, "leased")
        make.assignment(half, cem, "leased", expires=NOW - 1)  # ran out: nobody works on it
        make.assignment(skipped, ann, "skipped", at=NOW - 50, skip_reason="unclear")
        make.assignment(skipped, bea, "skipped", at=NOW - 50, skip_reason="unclear")
        make.assignment(skipped, cem, "skipped", at=NOW - 40)
        connection.exec_driver_sql(f"UPDATE task SET state = 'set_aside' WHERE id = {aside}")
        only = make.task(second, "p0", wanted=10)
        make.answer(only, ann, {"text": "Ben Nevis"}, at=NOW - 60)
    with database.read() as connection:
        new, old = queue_progress.queues(connection, now=NOW)
        assert queue_progress.queues(connection, batch_id=first, now=NOW) == [old]
        often = queue_progress.skipped_often(connection)
        days = queue_progress.answers_per_day(connection, days=4, now=NOW)
    assert (old.open_tasks, old.done_tasks, old.set_aside_tasks) == (2, 1, 1)
    # wanted: 2 each of the three that are not set aside; there: 2 + 1; half lacks 1, skipped lacks 2
    assert (old.wanted, old.answered, old.remaining, old.share) == (6, 3, 3, 0.5)
    assert (old.leased, old.skipped, old.late, old.last_day) == (1, 3, 1, 2)
    assert old.days_left == 1.5  # 3 to go, 2 a day
    # 9 to go; 1 in the two hours since the batch was made is 12 a day
    assert (new.remaining, new.last_day, new.days_left) == (9, 1, pytest.approx(9 / 12))
    assert [(task.task_id, task.skips, task.reasons) for task in often] == [(skipped, 3, {"unclear": 2, "no reason given": 1})]
    assert [number for _, number in days] == [1, 0, 0, 3]
    assert all(start % DAY == 0 for start, _ in days)


def test_pace() -> None:
    assert queue_progress.days_left(0, 0, 5.0) == 0
    assert queue_progress.days_left(10, 0, DAY) is None
    assert queue_progress.days_left(10, 5, 30 * DAY) == 2
    # Two minutes old: taken as an hour, so 5 answers are 120 a day.
    assert queue_progress.days_left(120, 5, 120.0) == 1


def test_people_stand_under_pseudonyms_and_candidates_do_not_stand_there(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann = make.person("ann", group="held_out")
        make.person("rex", role="researcher")
        carl = make.person("carl", group="candidate")
        tasks = [make.task(make.batch(), make.prompt(f"p{number}"), num_outputs=2) for number in range(5)]
        for number, seconds in enumerate((10.0, 50.0, 20.0)):
            make.rank(tasks[number], ann, "01", at=NOW - number * DAY - 60, seconds_spent=seconds)
        make.assignment(tasks[3], ann, "leased")
        make.assignment(tasks[4], ann, "skipped", at=NOW - 5, skip_reason="broken")
        make.rank(tasks[0], carl, "01")
    with database.read() as connection:
        everyone = queue_progress.people(connection, days=3, now=NOW)
    assert [row.pseudonym for row in everyone] == ["ann", "rex"]
    ann_row = everyone[0]
    assert (ann_row.group, ann_row.last_day, ann_row.median_seconds, ann_row.skips) == ("held_out", 1, 20.0, {"broken": 1})
    assert [number for _, number in ann_row.per_day] == [1, 1, 1]
    assert ann_row.leases == (("rank", NOW + 600),)
    assert "Name of" not in repr(everyone)


def test_an_empty_database_has_empty_answers(database: Database) -> None:
    with database.read() as connection:
        assert queue_progress.queues(connection) == []
        assert queue_progress.people(connection) == []
        assert queue_progress.skipped_often(connection) == []
        assert sum(number for _, number in queue_progress.answers_per_day(connection)) == 0
        report = labeler_agreement.agreement(connection)
        assert (report.comparisons.count, report.rankings, report.flags) == (0, 0, {})
        assert carefulness.gold(connection).tasks == 0
        assert carefulness.careless(connection) == []
        assert candidate_screening.screening(connection, b"k").records == ()
        for kind in explorer.KINDS:
            assert explorer.page(connection, explorer.Search(kind=kind, text="x", since=1.0)).rows == ()


def plans(connection: Connection, work: Any) -> list[tuple[str, str]]:
    """(statement, one step of SQLite's plan for it) of all that ``work`` asks."""
    asked: list[tuple[str, Any]] = []

    @event.listens_for(connection, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        asked.append((statement, parameters))

    work()
    event.remove(connection, "before_cursor_execute", note)
    assert asked
    return [
        (statement, row[3])
        for statement, parameters in asked
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    ]


def scans(connection: Connection, work: Any) -> set[str]:
    """Steps that go through a whole big table or one of its indexes."""
    return {
        step
        for _, step in plans(connection, work)
        if step.startswith("SCAN") and (step.split()[1] in BIG or step.split()[1].startswith("of_batch"))
    }


def test_no_page_of_the_console_walks_through_a_big_table(sqlite: Database) -> None:
    with sqlite.write() as connection:
        make = Labels(connection)
        ann, bea = make.person("ann"), make.person("bea")
        task_id = make.task(make.batch(), make.prompt("p"), num_outputs=3, gold={"groups": [["p.0"], ["p.1", "p.2"]]})
        make.rank(task_id, ann, "0", "12")
        make.rank(task_id, bea, "0", "12")
    with sqlite.read() as connection:
        # Tasks are counted from an index that holds nothing else; late answers from one that holds only them.
        assert scans(connection, lambda: queue_progress.queues(connection)) == {
            "SCAN task USING COVERING INDEX ix_task_progress",
            "SCAN assignment USING INDEX ix_assignment_late",
        }
        of_one = scans(connection, lambda: queue_progress.queues(connection, batch_id=1))
        assert all("ix_assignment_late" in step for step in of_one)
        for work in (
            lambda: queue_progress.people(connection),
            lambda: queue_progress.skipped_often(connection),
            lambda: queue_progress.answers_per_day(connection),
            lambda: carefulness.careless(connection),
            lambda: candidate_screening.screening(connection, b"k"),
            lambda: prompt_record(connection, "p"),
        ):
            assert scans(connection, work) == set()
        # The newest few of an index in its order, and the gold tasks alone.
        assert scans(connection, lambda: carefulness.gold(connection)) == {"SCAN task USING INDEX ix_task_gold"}
        assert scans(connection, lambda: labeler_agreement.agreement(connection)) == {
            "SCAN ranking USING INDEX ix_ranking_newest",
            "SCAN rating USING INDEX ix_rating_newest",
            # where the newest 100,000 begin
            "SCAN ranking USING COVERING INDEX ix_ranking_newest",
            "SCAN rating USING COVERING INDEX ix_rating_newest",
        }


@pytest.mark.parametrize("kind", explorer.KINDS)
def test_the_explorer_reads_an_index_in_its_order(
    sqlite: Database, kind: explorer.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = [
        explorer.Search(kind=kind),
        explorer.Search(kind=kind, text="word", use_case="chat", split="test", source="labeler", since=NOW - DAY, until=NOW),
    ]
    if kind not in ("prompt", "response"):
        searches.append(explorer.Search(kind=kind, labeler="ann", text="word"))
    monkeypatch.setattr(explorer, "SMALL_BATCH", 0)
    searches.append(explorer.Search(kind=kind, batch_id=1))
    with sqlite.write() as connection:
        make = Labels(connection)
        make.person("ann")
        make.task(make.batch(), make.prompt("p"))
    with sqlite.read() as connection:
        for search in searches:
            for behind in (None, (NOW, "z")):
                steps = plans(connection, lambda s=search, b=behind: explorer.page(connection, s, behind=b))
                assert not any("TEMP B-TREE" in step for _, step in steps), steps
                # A large batch's tasks are never gone through for each row.
                assert not any("of_batch USING" in step and "batch_id" in step for _, step in steps), steps
                walked = [step for _, step in steps if step.split()[1] == kind]
                assert walked
                assert all(f"ix_{kind}_newest" in step or f"ix_{kind}_of_person" in step for step in walked), walked
