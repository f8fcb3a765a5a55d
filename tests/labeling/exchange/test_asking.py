"""Tasks that align puts to people: added once, in short transactions; answers of simulated labelers are not people's."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select
from tests.labeling.labeling import add_person, answer_for

from heedful.conversation import turns_of
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import person, task
from heedful.labeling.exchange import asking
from heedful.labeling.queue.claims import claim
from heedful.labeling.queue.leases import submit
from heedful.records import Prompt, Response


def ranking_task(number: int, *, people: int = 1) -> asking.Task:
    prompt = Prompt(id=f"p{number}", turns=turns_of(f"Ask {number}."))
    responses = tuple(Response(id=f"r{number}-{i}", prompt_id=prompt.id, text=f"Say {i}.", model="sft") for i in range(3))
    return asking.Task(
        kind="rank", phase="training", prompt=prompt, responses=responses, labelers={"training": 1}, people=people
    )


def test_labelers_work_between_short_transactions_and_nothing_is_added_twice(tmp_path: Path) -> None:
    ours, theirs = open_database(tmp_path / "labels.sqlite"), open_database(tmp_path / "labels.sqlite")
    with theirs.write() as connection:
        ada = add_person(connection, "ada")
    seen: list[int] = []

    def labeler_at_work(_: float) -> None:
        with theirs.write() as connection:  # the lock is free in every pause
            seen.append(connection.execute(select(func.count()).select_from(task)).scalar_one())
            view = claim(connection, ada)
            assert view is not None
            submit(connection, view.id, ada, token=view.token, answer=answer_for(view), seconds_spent=1.0)

    tasks = [ranking_task(number) for number in range(3 * asking.TASKS_AT_ONCE)]
    assert asking.add_tasks(ours, tasks[:30], name="mine: collect-1", pause=labeler_at_work) == 30
    assert asking.add_tasks(ours, tasks, name="mine: collect-1", pause=labeler_at_work) == len(tasks) - 30
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= asking.TASKS_AT_ONCE
    assert seen[-1] == len(tasks)
    about = [one.responses[0].id for one in tasks]
    with ours.read() as connection:
        assert asking.progress(connection, about, "rank", "training") == asking.Progress(45, len(seen), 45 - len(seen))
        assert asking.progress(connection, about, "rank", "evaluation") == asking.Progress(45, 0, 45)
        assert len(list(asking.rankings(connection, "training"))) == len(seen)
        assert list(asking.rankings(connection, "evaluation")) == []
    with theirs.write() as connection:
        connection.execute(person.update().values(simulated=True))
    with ours.read() as connection:
        assert list(asking.rankings(connection, "training")) == []
        assert list(asking.ratings(connection, "training")) == []
    ours.close()
    theirs.close()


def test_a_task_is_open_until_as_many_people_answered_as_it_wants(tmp_path: Path) -> None:
    database = open_database(tmp_path / "labels.sqlite")
    asking.add_tasks(database, [ranking_task(1, people=2)], name="mine: collect-1")
    for name, still_open in (("ada", 1), ("ben", 0)):
        with database.write() as connection:
            who = add_person(connection, name)
            view = claim(connection, who)
            assert view is not None
            submit(connection, view.id, who, token=view.token, answer=answer_for(view), seconds_spent=1.0)
        with database.read() as connection:
            assert asking.progress(connection, ["r1-0"], "rank", "training") == asking.Progress(1, 1, still_open)
    database.close()
