from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import task, task_response
from heedful.labeling.queue import items, task_making
from heedful.labeling.queue.task_making import Choice, Plan
from heedful.records import Prompt, Response

NUM_OUTPUTS = {"p0": 0, "p1": 3, "p4": 4, "p9": 9, "p12": 12}


@pytest.fixture
def stored(database: Database) -> Database:
    with database.write() as connection:
        prompts = [
            Prompt(id=id, turns=turns_of(f"Question {id}?"), split="valid" if id == "p9" else "train", use_case="open_qa")
            for id in NUM_OUTPUTS
        ]
        prompts.append(Prompt(id="mail", turns=turns_of("Write to me@x.org"), split="test", metadata={"needs_review": True}))
        items.add_prompts(connection, prompts)
        items.add_responses(
            connection,
            [
                Response(id=f"{id}-{k:02}", prompt_id=id, text=f"{k}", model="a" if k % 2 else "b")
                for id, count in NUM_OUTPUTS.items()
                for k in range(count)
            ],
        )
    return database


def fitting(database: Database, kind: Any = "rank", **choice: Any) -> list[str]:
    with database.read() as connection:
        return task_making.fitting_prompts(connection, kind, "training", Choice(**choice))


def made(database: Database, *, kind: Any = "rank", tasks: int = 10, prompts: list[str] | None = None, **more: Any) -> int:
    plan = Plan(name="new", kind=kind, phase="training", tasks=tasks, choice=more.pop("choice", Choice()))
    with database.write() as connection:
        ids = fitting(database, kind) if prompts is None else prompts
        return task_making.make_tasks(connection, plan, ids, by=None, seed=3, **more).tasks


def test_a_ranking_needs_so_many_outputs(stored: Database) -> None:
    assert fitting(stored) == ["p12", "p4", "p9"]
    assert fitting(stored, smallest_k=3) == ["p1", "p12", "p4", "p9"]
    assert fitting(stored, model="a") == ["p12", "p9"]  # 6 and 4 of them are its own
    assert fitting(stored, split="valid") == ["p9"]
    assert fitting(stored, use_case="chat") == []


def test_training_takes_prompts_of_the_split_test_only_on_request(stored: Database) -> None:
    assert sorted(fitting(stored, "demonstrate")) == sorted(NUM_OUTPUTS)
    assert fitting(stored, "demonstrate", split="test") == ["mail"]
    with stored.read() as connection:
        assert "mail" in task_making.fitting_prompts(connection, "demonstrate", "evaluation", Choice())


def test_at_most_nine_are_drawn_and_all_belong_to_the_prompt(stored: Database) -> None:
    assert made(stored) == 3
    with stored.read() as connection:
        rows = connection.execute(
            select(task.c.prompt_id, task_response.c.response_id).select_from(task.join(task_response))
        ).all()
    shown: dict[str, set[str]] = {}
    for row in rows:
        shown.setdefault(row.prompt_id, set()).add(row.response_id)
    assert {id: len(ids) for id, ids in shown.items()} == {"p4": 4, "p9": 9, "p12": 9}
    assert all(response_id.startswith(f"{id}-") for id, ids in shown.items() for response_id in ids)
    assert shown["p12"] != {f"p12-{k:02}" for k in range(9)}  # drawn, not cut


def test_no_prompt_twice_but_when_asked(stored: Database) -> None:
    assert made(stored, tasks=2) == 2
    assert len(fitting(stored)) == 1
    assert len(fitting(stored, fresh=False)) == 3
    assert len(fitting(stored, "rate")) == 3  # another kind is another thing


def test_personal_data_is_reviewed_where_the_pipeline_found_some(stored: Database) -> None:
    assert fitting(stored, "review_personal_data") == ["mail"]
    assert made(stored, kind="review_personal_data", about=lambda text: {"findings": [{"kind": "email", "text": text}]}) == 1
    with stored.read() as connection:
        payload = connection.execute(select(task.c.payload)).scalar_one()
    assert payload == {"findings": [{"kind": "email", "text": "Write to me@x.org"}]}


def test_what_no_batch_can_be_made_of(stored: Database) -> None:
    with pytest.raises(DataError, match="no prompt fits"):
        made(stored, prompts=[])
    with pytest.raises(DataError, match="is not valid"):
        made(stored, prompts=["p9"], tasks=0)
    for choice in (Choice(smallest_k=5, largest_k=4), Choice(largest_k=10)):
        with pytest.raises(DataError, match="is not valid"):
            made(stored, prompts=["p9"], choice=choice)
    with stored.read() as connection:
        assert task_making.all_batches(connection) == []


def test_what_a_batch_shows(stored: Database) -> None:
    made(stored)
    with stored.read() as connection:
        [found] = task_making.all_batches(connection)
        assert task_making.get_batch(connection, found.id) == found
        assert task_making.models(connection) == ["a", "b"]
    assert (found.name, found.kind, found.tasks, found.size) == ("new", "rank", {"open": 3}, 3)
