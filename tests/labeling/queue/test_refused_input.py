"""What one database would refuse is refused before either sees it, with the same words on both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select
from tests.labeling.labeling import add_person, add_ranking_tasks, number_of

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.labeling.console import explorer
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import prompt, response, task
from heedful.labeling.exchange import labels
from heedful.labeling.queue import changes, items, leases
from heedful.project.files import write_jsonl
from heedful.project.project import init_project
from heedful.records import Prompt, Response

HI = turns_of("Hi")
BROKEN: dict[str, Callable[[Connection], Any]] = {
    "NUL in a prompt": lambda c: items.add_prompts(c, [Prompt(id="p", turns=turns_of("a\x00b"))]),
    "NUL in an id": lambda c: items.add_prompts(c, [Prompt(id="p\x00", turns=HI)]),
    "NUL in metadata": lambda c: items.add_prompts(c, [Prompt(id="p", turns=HI, metadata={"a": {"b": "\x00"}})]),
    "NaN in metadata": lambda c: items.add_prompts(c, [Prompt(id="p", turns=HI, metadata={"a": float("nan")})]),
    "a long id": lambda c: items.add_prompts(c, [Prompt(id="p" * 201, turns=HI)]),
    "a long language": lambda c: items.add_prompts(c, [Prompt(id="p", turns=HI, language="x" * 21)]),
    "NUL in a response": lambda c: items.add_responses(c, [Response(id="r", prompt_id="new-0", text="a\x00b")]),
    "NUL in a model": lambda c: items.add_responses(c, [Response(id="r", prompt_id="new-0", text="a", model="\x00")]),
    "12 digits of overlap": lambda c: make_batch(c, overlap=123_456_789_012),
    "12 digits of priority": lambda c: make_batch(c, priority=-123_456_789_012),
    "12 digits of limit": lambda c: make_batch(c, per_labeler_limit=123_456_789_012),
    "an endless lease": lambda c: make_batch(c, lease_seconds=float("inf")),
    "NUL in a name": lambda c: make_batch(c, name="a\x00b"),
    "12 digits of wanted": lambda c: add_task(c, "demonstrate", wanted=123_456_789_012),
    "12 digits of a new priority": lambda c: changes.set_priority(c, 1, 123_456_789_012, person_id=None),
    "topics that are a number": lambda c: add_task(c, "self_assess", payload={"topics": 7}),
    "no topics": lambda c: add_task(c, "self_assess", payload={}),
    "topics that are lists": lambda c: add_task(c, "self_assess", payload={"topics": [["a"]]}),
    "an unknown style": lambda c: add_task(c, "write_prompt", payload={"style": ["few_shot"]}),
    "findings without places": lambda c: add_task(c, "review_personal_data", payload={"findings": [{"start": "a"}]}),
    "NUL in a payload": lambda c: add_task(c, "demonstrate", payload={"a": "\x00"}),
    "NUL in gold": lambda c: add_task(c, "demonstrate", gold={"text": "\x00"}),
    "2^63 as a draft's version": lambda c: save_draft(c, 2**63),
    "NUL in a search": lambda c: explorer.page(c, explorer.Search(text="\x00")),
    "NUL in a labeler's name": lambda c: explorer.page(c, explorer.Search(kind="ranking", labeler="\x00")),
    "2^63 as a batch": lambda c: explorer.page(c, explorer.Search(batch_id=2**63)),
}


def make_batch(connection: Connection, **rules: Any) -> int:
    usual: dict[str, Any] = {"name": "new", "kind": "rank", "phase": "training"}
    return items.make_batch(connection, **(usual | rules))


def add_task(connection: Connection, kind: Any, **about: Any) -> None:
    batch_id = items.make_batch(connection, name="new", kind=kind, phase="training")
    prompt_id = None if kind in ("self_assess", "write_prompt") else "new-0"
    items.add_tasks(connection, batch_id, [items.NewTask(prompt_id=prompt_id, **about)])


def save_draft(connection: Connection, version: int) -> None:
    ann = add_person(connection, "ann")
    view = leases.claim(connection, ann)
    assert view is not None
    leases.save_draft(connection, view.id, ann, token=view.token, draft={}, version=version)


@pytest.mark.parametrize("what", BROKEN)
def test_refused_on_both(database: Database, what: str) -> None:
    with database.write() as connection:
        add_ranking_tasks(connection, 1, name="new")
    with pytest.raises(DataError), database.write() as connection:
        BROKEN[what](connection)
    with database.read() as connection:
        assert [number_of(connection, table) for table in (prompt, response, task)] == [1, 4, 1]


def test_topics_that_are_stored_broken_do_not_stop_a_labeler(database: Database) -> None:
    """Older versions took them: the answer is refused in words."""
    with database.write() as connection:
        can = add_person(connection, "can", group="candidate")
        batch_id = items.make_batch(connection, name="new", kind="self_assess", phase="screening")
        items.add_tasks(connection, batch_id, [items.NewTask(payload={"topics": ["a"]})])
        connection.execute(task.update().values(payload={"topics": 7}))
        view = leases.claim(connection, can)
        assert view is not None
        with pytest.raises(DataError, match="topics"):
            leases.submit(connection, view.id, can, token=view.token, answer={"topics": ["a"]}, seconds_spent=None)


def test_a_broken_row_of_a_project_is_named_by_file_and_line(database: Database, tmp_path: Path) -> None:
    project = init_project(tmp_path / "mine", base_model="model")
    write_jsonl(project.data / "prompts.jsonl", [{"id": "p", "text": "Hi"}])
    write_jsonl(project.data / "responses.jsonl", [{"id": f"r{n}", "prompt_id": "p", "text": "x\x00" * n} for n in range(2)])
    with pytest.raises(DataError) as caught, database.write() as connection:
        labels.import_project(connection, project)
    assert caught.value.where == f"{project.data / 'responses.jsonl'}:2"
    with database.read() as connection:
        assert connection.execute(select(prompt)).all() == []
