"""Whatever people do in whatever order, and at the same time: no place is given twice, no answer is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, func, select
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for, count_broken, number_of

from heedful.errors import ConflictError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import assignment, demonstration, event, task
from heedful.labeling.queue import changes, leases

PEOPLE = 4


class QueueMachine(RuleBasedStateMachine):
    """A model of who was promised what, beside the queue. One transaction, rolled back at the end."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.connection: Connection = self.stack.enter_context(_rolled_back(self.database))
        self.people = [add_person(self.connection, f"p-{n}", daily_limit=6 if n == 0 else None) for n in range(PEOPLE)]
        self.tasks = add_ranking_tasks(self.connection, 2, kind="demonstrate", wanted=1, name="one", per_labeler_limit=1)
        self.tasks += add_ranking_tasks(self.connection, 3, kind="demonstrate", wanted=2, name="two", priority=1)
        self.now = 0.0
        self.views: list[tuple[int, leases.AssignmentView]] = []
        self.skipped: set[int] = set()
        self.acknowledged: dict[int, tuple[str, bool]] = {}
        """Assignment id to what was answered, and whether in time."""

        for who in range(3):
            self.claim(who)

    def teardown(self) -> None:
        self.stack.close()

    def _view(self, number: int) -> tuple[int, leases.AssignmentView] | None:
        return self.views[number % len(self.views)] if self.views else None

    @rule(seconds=st.sampled_from([0.5, 60.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=st.integers(0, PEOPLE - 1))
    def claim(self, who: int) -> None:
        waits = sum(one.count for one in leases.waiting(self.connection, self.people[who], self.now))
        running = [
            v for v in leases.current_assignments(self.connection, self.people[who], now=self.now) if v.expires > self.now
        ]
        view = leases.claim(self.connection, self.people[who], now=self.now)
        live = any(v.state == "leased" for v in running)
        assert (view is not None) == (waits > 0 or live), "waiting() says what a claim can give"
        if view is not None:
            assert view.id not in self.acknowledged, "nobody gets a task twice that they answered"
            assert view.id not in self.skipped, "nobody gets a task again that they skipped"
            assert view.state == "leased"
            assert view.expires > self.now
            self.views.append((self.people[who], view))

    @rule(number=st.integers(0, 9), text=st.sampled_from(["a", "a", "b"]), later=st.sampled_from([0.0, 101.0]))
    def submit(self, number: int, text: str, later: float) -> None:
        if (found := self._view(number)) is None:
            return
        who, view = found
        self.now += later
        stored = leases.view_assignment(self.connection, view.id, who)
        in_time = stored.state == "leased" and stored.expires > self.now
        try:
            done = leases.submit(
                self.connection, view.id, who, token=view.token, answer={"text": text}, seconds_spent=1.0, now=self.now
            )
        except ConflictError:
            other_token = stored.token != view.token
            assert stored.state == "skipped" or other_token or self.acknowledged[view.id][0] != text
            return
        if view.id in self.acknowledged:
            assert self.acknowledged[view.id][0] == text
            return
        assert done.late == (not in_time), "late says whether the lease had ended"
        self.acknowledged[view.id] = (text, in_time)

    @rule(number=st.integers(0, 50), version=st.integers(0, 3))
    def draft(self, number: int, version: int) -> None:
        self._try(
            number,
            lambda view, who: leases.save_draft(
                self.connection, view.id, who, token=view.token, draft={"text": str(version)}, version=version, now=self.now
            ),
        )

    @rule(number=st.integers(0, 50))
    def skip(self, number: int) -> None:
        def act(view: leases.AssignmentView, who: int) -> None:
            leases.skip(self.connection, view.id, who, token=view.token, reason="unclear", now=self.now)
            self.skipped.add(view.id)

        self._try(number, act)

    @rule(number=st.integers(0, 50))
    def release(self, number: int) -> None:
        self._try(number, lambda view, who: leases.release(self.connection, view.id, who, token=view.token, now=self.now))

    @rule(number=st.integers(0, 4), withdrawn=st.booleans())
    def researchers_change_a_task(self, number: int, withdrawn: bool) -> None:
        change = changes.withdraw_task if withdrawn else changes.reopen_task
        try:
            change(self.connection, self.tasks[number], person_id=None, now=self.now)
        except ConflictError:
            assert not withdrawn

    def _try(self, number: int, act: Any) -> None:
        found = self._view(number)
        if found is not None:
            with suppress(ConflictError):
                act(found[1], found[0])

    @invariant()
    def places_are_kept(self) -> None:
        assert count_broken(self.connection) == []

    @invariant()
    def nothing_is_lost(self) -> None:
        stored = self.connection.execute(
            select(assignment.c.id, assignment.c.answer, assignment.c.late, demonstration.c.text)
            .select_from(assignment.outerjoin(demonstration, demonstration.c.assignment_id == assignment.c.id))
            .where(assignment.c.state == "answered")
        )
        found = {row.id: (row.answer["text"], not row.late, row.text) for row in stored}
        assert found == {id: (text, in_time, text) for id, (text, in_time) in self.acknowledged.items()}

    @invariant()
    def limits_hold(self) -> None:
        limited = dict(
            self.connection.execute(
                select(assignment.c.person_id, func.count())
                .select_from(assignment.join(task))
                .where(task.c.id.in_(self.tasks[:2]), assignment.c.state == "answered", assignment.c.late.is_(False))
                .group_by(assignment.c.person_id)
            ).all()
        )
        assert all(count <= 1 for count in limited.values())


class Undo(Exception):
    """Raised where a test's transaction ends."""


@contextmanager
def _rolled_back(database: Database) -> Iterator[Connection]:
    with suppress(Undo), database.write() as connection:
        yield connection
        raise Undo


def test_queue_invariants(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    machine = type("Machine", (QueueMachine,), {"database": database})
    run_state_machine_as_test(machine, settings=settings(max_examples=100, stateful_step_count=50, deadline=None))
    database.close()


# ---------------------------------------------------------------------------------------------------- at the same time


def test_many_at_once(database: Database) -> None:
    """Eight labelers in threads; some leases end while they work. Afterwards every task has its answers, each stored once."""
    with database.write() as connection:
        people = [add_person(connection, f"p-{number}") for number in range(8)]
        add_ranking_tasks(connection, 30, kind="demonstrate", wanted=2, lease_seconds=0.05)
    acknowledged: list[tuple[int, str]] = []
    problems: list[BaseException] = []
    answered = threading.Lock()

    def work(who: int) -> None:
        draw = Random(who)
        try:
            nothing = 0
            while nothing < 3:
                with database.write() as connection:
                    view = leases.claim(connection, who)
                if view is None:
                    nothing += 1
                    time.sleep(0.06)
                    continue
                nothing = 0
                if draw.random() < 0.2:
                    time.sleep(0.07)  # longer than the lease: somebody else may get the task
                text = f"{view.id} by {who}"
                with database.write() as connection:
                    done = leases.submit(connection, view.id, who, token=view.token, answer={"text": text}, seconds_spent=None)
                with answered:
                    acknowledged.append((view.id, text))
                assert done.late or not done.surplus
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    with database.read() as connection:
        assert count_broken(connection) == []
        stored = {row.id: row.answer["text"] for row in connection.execute(select(assignment)) if row.state == "answered"}
        assert stored == dict(acknowledged)
        assert len(acknowledged) == len(stored) >= 60
        assert set(connection.execute(select(task.c.state)).scalars()) == {"done"}
        submits = select(func.count()).select_from(event).where(event.c.action == "submit")
        assert connection.execute(submits).scalar_one() == len(stored)


def test_one_person_on_two_pages_gets_one_task(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 20)
    for _ in range(5):
        views: list[int] = []
        start = threading.Barrier(4)

        def work(views: list[int] = views, start: threading.Barrier = start) -> None:
            start.wait()
            with database.write() as connection:
                view = leases.claim(connection, ann)
                assert view is not None
                views.append(view.id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(views) == 4
        assert len(set(views)) == 1
        with database.write() as connection:
            view = leases.view_assignment(connection, views[0], ann)
            leases.submit(connection, view.id, ann, token=view.token, answer=answer_for(view), seconds_spent=None)


def test_the_same_answer_sent_twice_at_once(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1, kind="demonstrate")
        view = leases.claim(connection, ann)
        assert view is not None
    problems: list[BaseException] = []

    def send() -> None:
        try:
            with database.write() as connection:
                leases.submit(connection, view.id, ann, token=view.token, answer={"text": "same"}, seconds_spent=None)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with database.read() as connection:
        assert number_of(connection, demonstration) == 1
        assert connection.execute(select(task.c.answered)).scalar_one() == 1


def test_overlap_under_a_rush(postgres_url: str, tmp_path: Path) -> None:
    """Twelve people rush at one task that wants three answers, through two open databases as two servers would."""
    for where in (str(tmp_path / "heedful.db"), postgres_url):
        both = [open_database(where), open_database(where)]
        with both[0].write() as connection:
            people = [add_person(connection, f"p-{number}") for number in range(12)]
            add_ranking_tasks(connection, 1, wanted=3)
        got: list[int] = []
        start = threading.Barrier(12)

        def rush(who: int, both: list[Database] = both, got: list[int] = got, start: threading.Barrier = start) -> None:
            start.wait()
            with both[who % 2].write() as connection:
                if leases.claim(connection, who) is not None:
                    got.append(who)

        threads = [threading.Thread(target=rush, args=(who,)) for who in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        # On PostgreSQL a claim passes over a row that another is just taking: some places may be left, none is given twice.
        assert 1 <= len(got) <= 3
        with both[0].write() as connection:
            assert count_broken(connection) == []
            rest = [who for who in people if who not in got and leases.claim(connection, who) is not None]
            assert len(got) + len(rest) == 3
        for database in both:
            database.close()
