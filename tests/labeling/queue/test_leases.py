from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text, update
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for, count_broken, number_of, rank_answer

from heedful.errors import ConflictError, DataError, MissingError, RefusedError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    batch,
    demonstration,
    event,
    instruction,
    person,
    ranking,
    rating,
    task,
)
from heedful.labeling.queue import changes, items, leases
from heedful.labeling.queue.claims import candidate_query
from heedful.labeling.queue.kinds import KINDS, WITH_OUTPUTS, Phase


def claimed(connection: Connection, person_id: int, **options: Any) -> leases.AssignmentView:
    view = leases.claim(connection, person_id, **options)
    assert view is not None
    return view


def submitted(connection: Connection, view: leases.AssignmentView, person_id: int, *, now: float) -> leases.Submitted:
    return leases.submit(connection, view.id, person_id, token=view.token, answer=answer_for(view), seconds_spent=12.5, now=now)


def test_a_ranking_from_claim_to_rows(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        version = insert(instruction).values(
            kind="rank", phase="training", version=3, markdown="# How", change_note="", created=0.0
        )
        instruction_id = connection.execute(version.returning(instruction.c.id)).scalar_one()
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=1.0)
        shown = [output.id for output in view.outputs]
        assert leases.submit(
            connection, view.id, ann, token=view.token, answer=rank_answer(shown), seconds_spent=9.0, now=2.0
        ) == leases.Submitted(late=False, surplus=False)
    with database.read() as connection:
        row = connection.execute(select(ranking)).one()
        order = ["first-0-a", "first-0-b", "first-0-c", "first-0-d"]
        assert (row.response_ids, row.ranks, row.person_id, row.created) == (order, [1, 2, 2, 3], ann, 2.0)
        ratings = connection.execute(select(rating.c.response_id, rating.c.overall).order_by(rating.c.id)).all()
        assert [tuple(one) for one in ratings] == [(id, 4) for id in order]
        kept = connection.execute(select(assignment)).one()
        assert kept.answer == rank_answer(shown)
        assert (kept.state, kept.instruction_id, kept.seconds_spent, kept.shown_order) == (
            "answered",
            instruction_id,
            9.0,
            shown,
        )
        assert connection.execute(select(task.c.state)).scalar_one() == "done"
        actions = connection.execute(select(event.c.action).order_by(event.c.id)).scalars().all()
        assert actions == ["make_batch", "add_tasks", "claim", "submit"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_kept_raw_and_as_rows(tmp_path: Path, kind: Any) -> None:
    database = open_database(tmp_path / "heedful.db")
    with database.write() as connection:
        add_person(connection, "researcher", role="researcher")
        screening = kind in ("flag_sensitive", "score_demonstration", "self_assess")
        who = add_person(connection, "ann", group="candidate" if screening else "training")
        who = 1 if kind == "score_demonstration" else who
        phase = "screening" if screening else "training"
        if kind in ("write_prompt", "self_assess"):
            batch_id = items.make_batch(connection, name="b", kind=kind, phase=phase)
            payload = {"topics": ["religion"]} if kind == "self_assess" else {"style": "few_shot"}
            items.add_tasks(connection, batch_id, [items.NewTask(payload=payload)])
        else:
            add_ranking_tasks(connection, 1, kind=kind, phase=phase)
        view = claimed(connection, who, now=1.0)
        assert len(view.outputs) == (4 if kind in WITH_OUTPUTS else 0)
        submitted(connection, view, who, now=2.0)
        assert connection.execute(select(assignment.c.answer)).scalar_one() == answer_for(view)
        rows = {t.name: number_of(connection, t) for t in (demonstration, ranking, rating, annotation)}
        expected = {"demonstration": 0, "ranking": 0, "rating": 0, "annotation": 0}
        expected |= {
            "demonstrate": {"demonstration": 1},
            "rank": {"ranking": 1, "rating": 4},
            "rate": {"rating": 4},
            "toxicity": {"annotation": 5},
        }.get(kind, {"annotation": 1})
        assert rows == expected
    database.close()


def test_no_model_and_no_gold_is_shown(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        connection.execute(task.update().values(gold={"groups": "the-secret-gold"}))
        assert "secret" not in repr(claimed(connection, ann))


def test_a_running_lease_comes_back(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 5)
        first = claimed(connection, ann, now=0.0)
        again = claimed(connection, ann, now=50.0)
        assert (again.id, again.token, again.outputs) == (first.id, first.token, first.outputs)
        assert again.expires == 150.0
        assert count_broken(connection) == []


def test_overlap_is_filled_and_not_exceeded(database: Database) -> None:
    with database.write() as connection:
        people = [add_person(connection, f"p-{number}") for number in range(4)]
        add_ranking_tasks(connection, 1, wanted=3)
        views = [leases.claim(connection, who, now=0.0) for who in people]
        assert [view is not None for view in views] == [True, True, True, False]
        for who, view in zip(people[:2], views[:2], strict=True):
            assert view is not None
            submitted(connection, view, who, now=1.0)
        assert leases.claim(connection, people[3], now=2.0) is None
        assert leases.claim(connection, people[0], now=2.0) is None  # answered it
        assert count_broken(connection) == []


def test_expired_is_given_back_by_a_claim_and_never_by_looking(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        lost = claimed(connection, ann, now=0.0)
    with database.read() as connection:
        assert [waits.count for waits in leases.waiting(connection, bob, 99.0)] == []
        assert [waits.count for waits in leases.waiting(connection, bob, 100.0)] == [1]
        assert leases.view_assignment(connection, lost.id, ann).state == "leased"
        events_before = number_of(connection, event)
        assert leases.current_assignments(connection, ann, now=200.0) == []
        assert number_of(connection, event) == events_before
    with database.write() as connection:
        assert claimed(connection, bob, now=100.0).task_id == lost.task_id
        assert leases.view_assignment(connection, lost.id, ann).state == "expired"
        assert count_broken(connection) == []


def test_late_answer_to_what_is_still_wanted(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        leases.give_back_expired(connection, now=101.0)
        assert submitted(connection, view, ann, now=102.0) == leases.Submitted(late=True, surplus=False)
        assert leases.claim(connection, bob, now=103.0) is None
        assert count_broken(connection) == []


def test_late_by_a_moment_though_nobody_took_the_lease(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 2)
        view = claimed(connection, ann, now=0.0)
        assert submitted(connection, view, ann, now=100.0) == leases.Submitted(late=True, surplus=False)
        view = claimed(connection, ann, now=200.0)
        assert submitted(connection, view, ann, now=299.9) == leases.Submitted(late=False, surplus=False)
        assert count_broken(connection) == []


def test_late_and_surplus_is_kept(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        lost = claimed(connection, ann, now=0.0)
        view = claimed(connection, bob, now=101.0)
        submitted(connection, view, bob, now=102.0)
        assert submitted(connection, lost, ann, now=103.0) == leases.Submitted(late=True, surplus=True)
        assert number_of(connection, ranking) == 2
        assert count_broken(connection) == []


def test_a_late_answer_and_the_next_lease_never_both_count(database: Database) -> None:
    """Whoever holds the task has the place: the late answer is kept as surplus, also if it comes first."""
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        lost = claimed(connection, ann, now=0.0)
        view = claimed(connection, bob, now=101.0)
        assert submitted(connection, lost, ann, now=102.0) == leases.Submitted(late=True, surplus=True)
        assert count_broken(connection) == []
        assert submitted(connection, view, bob, now=103.0) == leases.Submitted(late=False, surplus=False)
        assert count_broken(connection) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("training", "held_out"), ("held_out", "training"), ("candidate", "training"), ("training", "candidate")],
)
def test_who_is_moved_gives_no_more_answers_of_the_old_phase(database: Database, before: str, after: str) -> None:
    phases: dict[str, Phase] = {"training": "training", "held_out": "evaluation", "candidate": "screening"}
    with database.write() as connection:
        ann = add_person(connection, "ann", group=before)
        add_ranking_tasks(connection, 1, phase=phases[before])
        view = claimed(connection, ann, now=0.0)
        connection.execute(update(person).where(person.c.id == ann).values(group_name=after))
        assert leases.current_assignments(connection, ann, now=1.0) == []
        with pytest.raises(ConflictError, match="moved to another group"):
            submitted(connection, view, ann, now=1.0)
        with pytest.raises(ConflictError, match="moved to another group"):
            leases.save_draft(connection, view.id, ann, token=view.token, draft={}, version=1, now=1.0)
        assert number_of(connection, ranking) == 0
        leases.release(connection, view.id, ann, token=view.token, now=2.0)
        assert count_broken(connection) == []


def test_answer_to_a_withdrawn_task_is_kept_as_surplus(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        [task_id] = add_ranking_tasks(connection, 1, wanted=2)
        view = claimed(connection, ann, now=0.0)
        changes.withdraw_task(connection, task_id, person_id=None)
        assert leases.claim(connection, bob, now=1.0) is None
        assert submitted(connection, view, ann, now=2.0) == leases.Submitted(late=False, surplus=True)
        assert count_broken(connection) == []
        changes.reopen_task(connection, task_id, person_id=None)
        assert claimed(connection, bob, now=3.0).task_id == task_id


def test_submit_twice(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1, kind="demonstrate")
        view = claimed(connection, ann, now=0.0)
        first = submitted(connection, view, ann, now=1.0)
        events_before = number_of(connection, event)
        assert submitted(connection, view, ann, now=500.0) == first
        assert (number_of(connection, demonstration), number_of(connection, event)) == (1, events_before)
        with pytest.raises(ConflictError, match="another answer to this task"):
            leases.submit(connection, view.id, ann, token=view.token, answer={"text": "other"}, seconds_spent=1, now=2.0)
        with pytest.raises(ConflictError, match="answered this task already"):
            leases.save_draft(connection, view.id, ann, token=view.token, draft={}, version=9, now=2.0)
        with pytest.raises(ConflictError, match="answered this task already"):
            leases.skip(connection, view.id, ann, token=view.token, reason="unclear", now=2.0)


def test_nobody_elses(database: Database) -> None:
    """What is another's and what is not there are told in the same words."""
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        said: list[str] = []
        for id, who in ((view.id, bob), (view.id + 1, ann)):
            for act in (
                lambda id=id, who=who: leases.view_assignment(connection, id, who),
                lambda id=id, who=who: leases.save_draft(connection, id, who, token=view.token, draft={}, version=1),
                lambda id=id, who=who: leases.submit(
                    connection, id, who, token=view.token, answer=answer_for(view), seconds_spent=None
                ),
                lambda id=id, who=who: leases.skip(connection, id, who, token=view.token, reason="x"),
                lambda id=id, who=who: leases.release(connection, id, who, token=view.token),
            ):
                with pytest.raises(MissingError) as caught:
                    act()
                said.append(str(caught.value).replace(str(id), "N"))
        assert len(set(said)) == 1
        assert leases.view_assignment(connection, view.id, ann).state == "leased"


def test_wrong_token(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        for token in ("", "other", "ü\ud800"):
            with pytest.raises(ConflictError, match="out of date"):
                leases.submit(connection, view.id, ann, token=token, answer=answer_for(view), seconds_spent=None)
        anew = claimed(connection, ann, now=200.0)
        assert (anew.id, anew.outputs) == (view.id, view.outputs)
        assert anew.token != view.token
        with pytest.raises(ConflictError, match="out of date"):
            submitted(connection, view, ann, now=201.0)
        submitted(connection, anew, ann, now=202.0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_spent_are_checked(tmp_path: Path, seconds: float) -> None:
    database = open_database(tmp_path / "heedful.db")
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann)
        with pytest.raises(DataError, match="time spent"):
            leases.submit(connection, view.id, ann, token=view.token, answer=answer_for(view), seconds_spent=seconds)
    database.close()


# ---------------------------------------------------------------------------------------------------- drafts


def test_draft_renews_the_lease(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        saved = leases.save_draft(connection, view.id, ann, token=view.token, draft={"groups": []}, version=0, now=60.0)
        assert saved == leases.SavedDraft(version=1, saved=60.0, expires=160.0)
        shown = leases.view_assignment(connection, view.id, ann)
        assert (shown.draft, shown.draft_version, shown.expires) == ({"groups": []}, 1, 160.0)
        assert submitted(connection, view, ann, now=159.0).late is False


def test_drafts_of_two_pages(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)

        def save(draft: dict[str, Any], version: int) -> int:
            return leases.save_draft(connection, view.id, ann, token=view.token, draft=draft, version=version, now=1.0).version

        assert save({"a": 1}, 0) == 1
        assert save({"a": 1}, 0) == 1  # the reply was lost, the page sends it again
        assert save({"a": 2}, 1) == 2
        with pytest.raises(ConflictError, match="newer draft"):
            save({"b": 1}, 1)
        assert save({"a": 3}, 7) == 7  # a page that was offline and counted on
        assert leases.view_assignment(connection, view.id, ann).draft == {"a": 3}


def test_draft_after_the_lease_takes_the_task_up_again(database: Database) -> None:
    with database.write() as connection:
        ann, bob, eve = (add_person(connection, name) for name in ("ann", "bob", "eve"))
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        leases.give_back_expired(connection, now=101.0)
        leases.save_draft(connection, view.id, ann, token=view.token, draft={"a": 1}, version=0, now=102.0)
        assert leases.claim(connection, bob, now=103.0) is None
        assert count_broken(connection) == []
        taken = claimed(connection, bob, now=203.0)
        saved = leases.save_draft(connection, view.id, ann, token=view.token, draft={"a": 2}, version=1, now=204.0)
        assert (saved.version, saved.expires) == (2, 202.0)  # kept, but the task is bob's now
        assert leases.view_assignment(connection, view.id, ann).state == "expired"
        leases.release(connection, taken.id, bob, token=taken.token, now=205.0)
        assert leases.claim(connection, eve, now=206.0) is not None
        assert count_broken(connection) == []


def test_what_was_begun_comes_before_new_work(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 50)
        view = claimed(connection, ann, now=0.0)
        leases.save_draft(connection, view.id, ann, token=view.token, draft={"a": 1}, version=0, now=1.0)
        changes.set_priority(connection, view.batch_id, 5, person_id=None)
        add_ranking_tasks(connection, 3, name="urgent", priority=9)
        again = claimed(connection, ann, now=500.0)
        assert (again.id, again.draft) == (view.id, {"a": 1})


# ---------------------------------------------------------------------------------------------------- skips


def test_skip(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann, now=0.0)
        with pytest.raises(DataError, match="reason"):
            leases.skip(connection, view.id, ann, token=view.token, reason="  ", now=1.0)
        for _ in range(2):
            leases.skip(connection, view.id, ann, token=view.token, reason="I cannot tell what is asked.", now=1.0)
        assert leases.claim(connection, ann, now=2.0) is None
        assert claimed(connection, bob, now=2.0).task_id == view.task_id
        assert connection.execute(select(task.c.skipped)).scalar_one() == 1
        with pytest.raises(ConflictError, match="skipped"):
            submitted(connection, view, ann, now=3.0)
        assert count_broken(connection) == []


def test_what_many_skip_is_set_aside(database: Database) -> None:
    with database.write() as connection:
        people = [add_person(connection, f"p-{number}") for number in range(5)]
        [task_id] = add_ranking_tasks(connection, 1, wanted=2)
        for who in people[:3]:
            view = claimed(connection, who, now=0.0)
            leases.skip(connection, view.id, who, token=view.token, reason="unclear", now=1.0)
        assert connection.execute(select(task.c.state)).scalar_one() == "set_aside"
        assert leases.claim(connection, people[3], now=2.0) is None
        changes.reopen_task(connection, task_id, person_id=None)
        assert claimed(connection, people[3], now=3.0).task_id == task_id
        with pytest.raises(ConflictError, match="cannot be reopened"):
            changes.reopen_task(connection, task_id, person_id=None)
        assert count_broken(connection) == []


def test_screening_is_never_set_aside(database: Database) -> None:
    with database.write() as connection:
        people = [add_person(connection, f"p-{number}", group="candidate") for number in range(4)]
        add_ranking_tasks(connection, 1, wanted=9, phase="screening")
        for who in people[:3]:
            view = claimed(connection, who, now=0.0)
            leases.skip(connection, view.id, who, token=view.token, reason="unclear", now=1.0)
        assert leases.claim(connection, people[3], now=2.0) is not None


# ---------------------------------------------------------------------------------------------------- who gets what


@pytest.mark.parametrize(
    ("role", "group", "expected"),
    [
        ("labeler", "training", {("rank", "training")}),
        ("labeler", "held_out", {("rank", "evaluation")}),
        ("labeler", "candidate", {("rank", "screening"), ("self_assess", "screening")}),
        ("researcher", "training", {("rank", "screening"), ("score_demonstration", "screening")}),
        ("admin", "training", {("rank", "screening"), ("score_demonstration", "screening")}),
    ],
)
def test_phases_are_kept_apart(database: Database, role: str, group: str, expected: set[tuple[str, str]]) -> None:
    with database.write() as connection:
        who = add_person(connection, "who", role=role, group=group)
        for phase in ("training", "evaluation", "screening"):
            add_ranking_tasks(connection, 1, phase=phase, name=phase)
        add_ranking_tasks(connection, 1, kind="score_demonstration", phase="screening", name="scores")
        batch_id = items.make_batch(connection, name="self", kind="self_assess", phase="screening")
        items.add_tasks(connection, batch_id, [items.NewTask(payload={"topics": ["a"]})])
        waits = {(one.kind, one.phase) for one in leases.waiting(connection, who, 0.0)}
        got: set[tuple[str, str]] = set()
        while (view := leases.claim(connection, who, now=0.0)) is not None:
            got.add((view.kind, view.phase))
            submitted(connection, view, who, now=0.0)
        assert got == waits == expected


def test_disabled_people_get_nothing(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1)
        view = claimed(connection, ann)
        connection.execute(person.update().values(disabled=1.0))
        with pytest.raises(RefusedError, match="disabled"):
            leases.claim(connection, ann)
        with pytest.raises(RefusedError, match="disabled"):
            leases.submit(connection, view.id, ann, token=view.token, answer=answer_for(view), seconds_spent=None)
        assert leases.waiting(connection, ann) == []
        with pytest.raises(MissingError, match="no such person"):
            leases.claim(connection, 99)


def test_priority(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 5, name="later")
        urgent = add_ranking_tasks(connection, 3, name="urgent", priority=2)
        got: list[int] = []
        for _ in range(3):
            view = claimed(connection, ann, now=0.0)
            got.append(view.task_id)
            submitted(connection, view, ann, now=0.0)
        assert sorted(got) == urgent
        assert claimed(connection, ann, now=0.0).batch_name == "later"


def test_batches_of_one_priority_are_mixed(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        for name in ("a", "b"):
            add_ranking_tasks(connection, 20, name=name)
        connection.execute(text("UPDATE task SET shuffle = (id * 7919 % 100) / 100.0"))
        got: list[str] = []
        for _ in range(20):
            view = claimed(connection, ann, now=0.0)
            got.append(view.batch_name)
            submitted(connection, view, ann, now=0.0)
        assert 5 <= got.count("a") <= 15


def test_kind_and_batch_can_be_chosen(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 1, name="rank")
        [task_id] = add_ranking_tasks(connection, 1, name="write", kind="demonstrate")
        assert claimed(connection, ann, kind="demonstrate", now=0.0).task_id == task_id
        other = claimed(connection, ann, kind="rank", now=0.0)
        assert other.kind == "rank"
        assert claimed(connection, ann, batch_id=other.batch_id, now=0.0).id == other.id
        assert len(leases.current_assignments(connection, ann, now=1.0)) == 2


def test_limits(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann", daily_limit=4)
        add_ranking_tasks(connection, 9, name="few", per_labeler_limit=3, priority=1)
        add_ranking_tasks(connection, 9, name="many")
        assert [(one.batch_name, one.count) for one in leases.waiting(connection, ann, 0.0)] == [("few", 3), ("many", 9)]
        got: list[str] = []
        while (view := leases.claim(connection, ann, now=0.0)) is not None:
            got.append(view.batch_name)
            submitted(connection, view, ann, now=0.0)
        assert got == ["few", "few", "few", "many"]
        assert leases.waiting(connection, ann, 10.0) == []
        assert leases.answers_left_today(connection, ann, now=86_399.0) == 0
        assert leases.answers_left_today(connection, ann, now=86_400.0) == 4
        assert claimed(connection, ann, now=86_401.0).batch_name == "many"


def test_closed_batches_are_not_served(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 3)
        view = claimed(connection, ann, now=0.0)
        changes.close_batch(connection, view.batch_id, person_id=None, closed=True)
        assert leases.claim(connection, bob, now=0.0) is None
        assert leases.waiting(connection, bob, 0.0) == []
        submitted(connection, view, ann, now=1.0)
        changes.close_batch(connection, view.batch_id, person_id=None, closed=False)
        assert leases.claim(connection, bob, now=0.0) is not None


def test_waiting_is_what_claims_give(database: Database) -> None:
    with database.write() as connection:
        ann, bob = add_person(connection, "ann"), add_person(connection, "bob")
        add_ranking_tasks(connection, 6, wanted=2)
        add_ranking_tasks(connection, 4, name="other", kind="demonstrate")
        at_bob = claimed(connection, bob, kind="demonstrate", now=0.0)
        first = claimed(connection, ann, kind="rank", now=0.0)
        leases.skip(connection, first.id, ann, token=first.token, reason="no", now=0.0)
        assert [(one.kind, one.count) for one in leases.waiting(connection, ann, 1.0)] == [("rank", 5), ("demonstrate", 3)]
        assert [(one.kind, one.count) for one in leases.waiting(connection, bob, 1.0)] == [("rank", 6), ("demonstrate", 3)]
        leases.release(connection, at_bob.id, bob, token=at_bob.token)
        number = 0
        while (view := leases.claim(connection, ann, now=2.0)) is not None:
            submitted(connection, view, ann, now=2.0)
            number += 1
        assert number == 5 + 4
        assert leases.waiting(connection, ann, 3.0) == []


def test_history(database: Database) -> None:
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 3)
        for at in (1.0, 2.0, 3.0):
            submitted(connection, claimed(connection, ann, now=at), ann, now=at)
        assert [one.answered for one in leases.own_answers(connection, ann, limit=2)] == [3.0, 2.0]
        assert [one.answered for one in leases.own_answers(connection, ann, before=2.0)] == [1.0]


def test_outputs_are_shown_in_random_order(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    with database.write() as connection:
        add_ranking_tasks(connection, 1, wanted=30, outputs=7)
        orders: set[tuple[str, ...]] = set()
        for number in range(30):
            view = claimed(connection, add_person(connection, f"p-{number}"), now=0.0)
            orders.add(tuple(output.id for output in view.outputs))
        assert len({frozenset(order) for order in orders}) == 1
        assert len(orders) > 20  # of 5,040: two equal ones among 30 are rare
    database.close()


# ---------------------------------------------------------------------------------------------------- speed


def test_claims_read_an_index_and_sort_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "heedful.db")
    with database.write() as connection:
        add_ranking_tasks(connection, 3)
        compiled = candidate_query(1, 1).compile(connection, compile_kwargs={"literal_binds": True})
        plan = [row[-1] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))]
        assert "SEARCH task USING INDEX ix_task_service (batch_id=? AND state=?)" in plan
        assert not any("SCAN" in line or "TEMP B-TREE" in line for line in plan)
    database.close()


def test_claims_of_a_large_queue(tmp_path: Path) -> None:
    """20,000 tasks of which the person has answered none: a claim touches few rows whatever their number."""
    database = open_database(tmp_path / "heedful.db")
    steps = 0
    with database.write() as connection:
        ann = add_person(connection, "ann")
        for name in ("a", "b"):
            batch_id = items.make_batch(connection, name=name, kind="write_prompt", phase="training")
            items.add_tasks(connection, batch_id, [items.NewTask()] * 10_000, seed=1)
        raw = connection.connection.driver_connection

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        assert raw is not None
        raw.set_progress_handler(count, 1000)  # virtual-machine instructions of SQLite
        claimed(connection, ann)
        raw.set_progress_handler(None, 0)
    assert steps <= 5
    database.close()


def test_batch_row_is_of_the_kind(database: Database) -> None:
    with database.write() as connection:
        add_ranking_tasks(connection, 1)
        with pytest.raises(DataError, match="kind one of"):
            items.make_batch(connection, name="x", kind="sing", phase="training")  # pyright: ignore[reportArgumentType]
        batch_id = connection.execute(select(batch.c.id)).scalar_one()
        for new, problem in (
            (items.NewTask(prompt_id="first-0"), "outputs to show"),
            (items.NewTask(prompt_id="first-0", response_ids=["first-0-a"] * 2), "each output once"),
        ):
            with pytest.raises(DataError, match=problem):
                items.add_tasks(connection, batch_id, [new])
        with pytest.raises(MissingError, match="no such response"):
            items.add_tasks(connection, batch_id, [items.NewTask(prompt_id="first-0", response_ids=["x"])])
        with pytest.raises(MissingError, match="no such prompt"):
            items.add_tasks(connection, batch_id, [items.NewTask(prompt_id="x", response_ids=["first-0-a"])])
