"""Gold: what researchers answered in screening, mixed in among tasks for training and evaluation."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from tests.labeling.labels_by_hand import NOW, Labels

from heedful.errors import DataError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import event, person, task, task_response
from heedful.labeling.quality import gold_items
from heedful.labeling.queue import changes, task_making
from heedful.labeling.queue.task_making import Choice, Made, Plan

NUM_PROMPTS = 8


@pytest.fixture
def stored(database: Database) -> Database:
    """Eight prompts with four outputs in a batch of screening; a researcher ranked those of the first three."""
    with database.write() as connection:
        make = Labels(connection)
        rex = make.person("rex", role="researcher")
        screening = make.batch(phase="screening", name="Known")
        for number in range(NUM_PROMPTS):
            task_id = make.task(screening, make.prompt(f"q{number}"), num_outputs=4)
            if number < 3:
                make.rank(task_id, rex, "0", "1", "23")
    return database


def plan(**more: Any) -> Plan:
    values: dict[str, Any] = {"name": "new", "kind": "rank", "phase": "training", "tasks": 5, "gold": 2}
    return Plan(**(values | more))


def made(database: Database, *, seed: int = 3, **more: Any) -> Made:
    of = plan(**more)
    with database.write() as connection:
        ids = task_making.fitting_prompts(connection, of.kind, of.phase, of.choice)
        return task_making.make_tasks(connection, of, ids, by=None, seed=seed)


def test_gold_tasks_are_like_all_others_but_for_the_known_answer(stored: Database) -> None:
    done = made(stored)
    assert (done.tasks, done.gold) == (5, 2)
    with stored.read() as connection:
        rows = connection.execute(select(task).where(task.c.batch_id == done.batch_id)).mappings().all()
        shown = connection.execute(
            select(task_response.c.task_id, task_response.c.response_id)
            .join(task, task.c.id == task_response.c.task_id)
            .where(task.c.batch_id == done.batch_id)
        ).all()
        assert task_making.get_batch(connection, done.batch_id).gold == 2
        [after] = connection.execute(select(event.c.after).where(event.c.action == "add_tasks")).scalars()
    assert (after["tasks"], after["gold"]) == (5, 2)
    known = {row["prompt_id"]: row["gold"]["groups"] for row in rows if row["gold"] is not None}
    assert len(known) == 2
    assert set(known) <= {"q0", "q1", "q2"}
    for id, groups in known.items():
        assert groups == [[f"{id}.0"], [f"{id}.1"], [f"{id}.2", f"{id}.3"]]
    for row in rows:
        outputs = {response_id for task_id, response_id in shown if task_id == row["id"]}
        assert outputs == {f"{row['prompt_id']}.{place}" for place in range(4)}
    own = ("id", "prompt_id", "gold", "shuffle")
    assert len({str({name: value for name, value in row.items() if name not in own}) for row in rows}) == 1


def test_a_gold_task_shows_the_outputs_that_its_answer_is_about(stored: Database) -> None:
    with stored.write() as connection:
        make = Labels(connection)
        make.rank(make.task(make.batch(phase="screening"), "q7", num_outputs=3), make.person("sue", role="admin"), "0", "12")
    for seed in range(5):  # three of q7's four outputs are drawn, other ones each time
        done = made(stored, seed=seed, tasks=8, gold=1, choice=Choice(fresh=False, smallest_k=3, largest_k=3))
        of_gold = task_response.join(task, task.c.id == task_response.c.task_id)
        with stored.read() as connection:
            shown = connection.execute(
                select(task_response.c.response_id)
                .select_from(of_gold)
                .where(task.c.batch_id == done.batch_id, task.c.gold.is_not(None))
            ).scalars()
            assert set(shown) == {"q7.0", "q7.1", "q7.2"}


def test_a_gold_task_s_number_does_not_tell(stored: Database) -> None:
    places: set[int] = set()
    for seed in range(12):
        done = made(stored, seed=seed, tasks=8, gold=1, choice=Choice(fresh=False))
        with stored.read() as connection:
            of_batch = select(task.c.gold).where(task.c.batch_id == done.batch_id).order_by(task.c.id)
            places.add([known is not None for known in connection.execute(of_batch).scalars()].index(True))
    assert len(places) > 3


def test_what_is_known_and_what_would_give_a_gold_task_away(stored: Database) -> None:
    with stored.write() as connection:
        make = Labels(connection)
        sue, ann = make.person("sue", role="admin"), make.person("ann")
        carl = make.person("carl", group="candidate")
        other, flags = make.batch(phase="screening"), make.batch("flag_sensitive", phase="screening")
        # q0: another researcher's newer answer. q1: a candidate was given the prompt. q2: withdrawn.
        make.rank(1, sue, "3", "012", at=NOW)
        make.assignment(make.task(flags, "q1"), carl, "released")
        changes.withdraw_task(connection, 3, person_id=None)
        # q3: a labeler's. q4: of another kind. q5: fewer outputs than the prompt has. q6: in another batch.
        make.rank(4, ann, "0", "123")
        make.answer(make.task(flags, "q4"), sue, {"sensitive": True})
        make.rank(make.task(other, "q5", num_outputs=3), sue, "0", "1", "2")
        make.rank(make.task(other, "q6", num_outputs=4), sue, "0", "1", "2", "3")
    ids = [f"q{number}" for number in range(NUM_PROMPTS)]

    def fitting(prompt_ids: list[str] = ids, **more: Any) -> dict[str, gold_items.Known]:
        with stored.read() as connection:
            return task_making.fitting_gold(connection, plan(**more), prompt_ids)

    assert set(fitting()) == {"q0", "q6"}
    assert fitting()["q0"].answer["groups"][0] == ["q0.3"]
    assert set(fitting(["q6", "q7"])) == {"q6"}
    assert set(fitting(gold_batch_id=1)) == {"q0"}
    assert set(fitting(choice=Choice(smallest_k=3, largest_k=3))) == {"q5"}
    assert fitting(choice=Choice(model="another")) == {}
    assert set(fitting(kind="flag_sensitive")) == {"q4"}
    assert fitting(kind="demonstrate") == {}
    assert fitting(phase="screening") == {}
    with stored.read() as connection:
        assert gold_items.batches_of_answers(connection, "rank") == [(2, "A batch"), (1, "Known")]


def test_no_more_gold_than_there_is_and_none_twice(stored: Database) -> None:
    done = made(stored, gold=5)
    assert (done.tasks, done.gold) == (5, 3)
    with pytest.raises(DataError, match="there is no gold"):
        made(stored, tasks=1, gold=1)
    assert made(stored, gold=0) == Made(batch_id=done.batch_id + 1, tasks=3, gold=0)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"gold": 6}, "the number of gold tasks is not valid"),
        ({"gold": -1}, "the number of gold tasks is not valid"),
        ({"kind": "demonstrate"}, "gold in a batch of this kind is not valid"),
        ({"phase": "screening", "choice": Choice(fresh=False)}, "gold in a batch of this phase is not valid"),
        ({"gold_batch_id": 99}, "there is no gold"),
        ({"phase": "evaluation", "choice": Choice(largest_k=5, model="another")}, "no prompt fits"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_made(stored: Database, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        made(stored, **more)
    with stored.read() as connection:
        assert [found.name for found in task_making.all_batches(connection)] == ["Known"]


def test_a_candidate_who_became_a_user_measures_nobody(stored: Database) -> None:
    """Only researchers' and admins' answers in screening are known answers, whatever role a candidate has later."""
    with stored.write() as connection:
        make = Labels(connection)
        candidate = make.person("cara", group="candidate")
        make.rank(make.task(make.batch(phase="screening"), "q7", num_outputs=4), candidate, "3", "2", "1", "0")
        connection.execute(person.update().where(person.c.id == candidate).values(role="user", group_name="training"))
    done = made(stored, tasks=8, gold=8, choice=Choice(fresh=False))
    with stored.read() as connection:
        rows = connection.execute(select(task.c.prompt_id).where(task.c.batch_id == done.batch_id, task.c.gold.is_not(None)))
        assert set(rows.scalars()) == {"q0", "q1", "q2"}
