from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, insert, select
from tests.labeling.labeling import add_person, add_ranking_tasks, answer_for
from tests.prompts.test_forgetting import filled

from heedful.conversation import turns_of
from heedful.errors import MissingError, StorageError
from heedful.labeling.database import connection as connection_module
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.erasing import forget_owner, leave_no_bytes
from heedful.labeling.database.tables import (
    assignment,
    event,
    metadata,
    problem,
    prompt,
    ranking,
    rating,
    response,
    superseded_answer,
    task,
)
from heedful.labeling.people import problems
from heedful.labeling.queue import items, leases, reopening
from heedful.labeling.queue.kinds import TaskKind
from heedful.prompts.forgetting import forget_owner as forget_everywhere
from heedful.records import Prompt, Response

SECRET = "My neighbour Zebulon Quist owes me forty crowns: write to him"


def labelled(database: Database) -> None:
    """Prompts of two owners, ranked, demonstrated and asked about by two labelers; one is being worked on."""
    with database.write() as connection:
        kim, lou = add_person(connection, "kim"), add_person(connection, "lou")
        for owner, text in (("ada", SECRET), ("bob", "Name a tree")):
            items.add_prompts(connection, [Prompt(id=f"p-{owner}", turns=turns_of(text), user=owner)])
            outputs = [Response(id=f"r-{owner}-{k}", prompt_id=f"p-{owner}", text=f"{text} {k}") for k in range(4)]
            items.add_responses(connection, outputs)
            kinds: list[tuple[TaskKind, list[str]]] = [("rank", [r.id for r in outputs]), ("demonstrate", [])]
            for kind, shown in kinds:
                batch_id = items.make_batch(
                    connection, name=f"{kind} {owner}", kind=kind, phase="training", overlap=2, lease_seconds=100
                )
                items.add_tasks(connection, batch_id, [items.NewTask(prompt_id=f"p-{owner}", response_ids=shown)], seed=0)
        while (view := leases.claim(connection, kim)) is not None:
            assert view.prompt is not None
            answer = {"text": f"So: {view.prompt.text}"} if view.kind == "demonstrate" else answer_for(view)
            leases.submit(connection, view.id, kim, token=view.token, answer=answer, seconds_spent=9.0)
            asked = {"person_id": kim, "task_id": view.task_id, "text": f"{view.prompt.text}?", "created": 0.0}
            connection.execute(insert(problem).values(**asked))
        for kind in ("demonstrate", "rank"):
            begun = leases.claim(connection, lou, kind=kind)
            assert begun is not None
            assert begun.prompt is not None
            draft = {"text": f"{begun.prompt.text}, dear sir"}
            leases.save_draft(connection, begun.id, lou, token=begun.token, draft=draft, version=1)


def held(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {t.name: connection.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}


def test_everything_of_one_owner_goes_and_nothing_else(database: Database) -> None:
    labelled(database)
    before = held(database)
    erased = forget_owner(database, "ada")
    after = held(database)
    assert erased == {
        "prompt": 1,
        "response": 4,
        "task": 2,
        "task_response": 4,
        "ranking": 1,
        "rating": 4,
        "demonstration": 1,
    } | {
        "problem": 2,
        "assignment": erased["assignment"],
    }
    assert {name: before[name] - after[name] for name in erased} == erased
    with database.read() as connection:
        assert connection.execute(select(prompt.c.owner)).scalars().all() == ["bob"]
        for table, key in ((ranking, "prompt_id"), (rating, "prompt_id"), (response, "prompt_id"), (task, "prompt_id")):
            assert set(connection.execute(select(table.c[key])).scalars()) == {"p-bob"}
        assert connection.execute(select(func.count()).select_from(assignment)).scalar_one() >= 2
        told = connection.execute(select(event.c.subject_id).where(event.c.action == "forget")).scalars().all()
        assert told == ["p-ada"]
    assert forget_owner(database, "ada") == {}
    assert forget_owner(database, "nobody") == {}


def test_the_database_is_whole_afterwards(database: Database) -> None:
    labelled(database)
    forget_owner(database, "ada")
    assert not maintenance.check(database).problems


def holding(folder: Path) -> list[str]:
    """The files that hold the secret, searched byte by byte."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and b"Zebulon" in path.read_bytes()
    )


def test_no_byte_of_the_text_is_left_in_the_files(tmp_path: Path) -> None:
    database = open_database(tmp_path / "labels.sqlite")
    labelled(database)
    assert holding(tmp_path)
    forget_owner(database, "ada")
    leave_no_bytes(database)
    assert holding(tmp_path) == []
    database.close()


def test_a_first_answer_that_was_corrected_is_erased_too(database: Database) -> None:
    with database.write() as connection:
        kim = add_person(connection, "kim")
        items.add_prompts(connection, [Prompt(id="p", turns=turns_of("Hello"), user="ada")])
        batch_id = items.make_batch(connection, name="write", kind="demonstrate", phase="training")
        items.add_tasks(connection, batch_id, [items.NewTask(prompt_id="p")])
        view = leases.claim(connection, kim)
        assert view is not None
        leases.submit(connection, view.id, kim, token=view.token, answer={"text": SECRET}, seconds_spent=None)
        reopening.correct(connection, view.id, kim)
        assert connection.execute(select(superseded_answer.c.answer)).scalars().all() == [{"text": SECRET}]
    assert forget_owner(database, "ada") == {"prompt": 1, "task": 1, "assignment": 1, "superseded_answer": 1}
    assert held(database)["superseded_answer"] == 0


def test_reasons_and_questions_are_in_no_event(database: Database) -> None:
    """Nothing erases events."""
    with database.write() as connection:
        kim = add_person(connection, "kim")
        add_ranking_tasks(connection, 2)
        for act in ("ask", "skip"):
            view = leases.claim(connection, kim)
            assert view is not None
            if act == "ask":
                number = problems.ask(connection, kim, f"{SECRET}?", task_id=view.task_id)
                problems.answer(connection, number, f"{SECRET}!", answered_by=kim)
            else:
                leases.skip(connection, view.id, kim, token=view.token, reason=SECRET)
        told = connection.execute(select(event.c.before, event.c.after)).all()
    assert len(told) >= 6
    assert "Zebulon" not in repr(told)


def test_backups_are_erased_and_what_is_no_backup_is_named(tmp_path: Path) -> None:
    project = filled(tmp_path)
    database = open_database(tmp_path / "labels.sqlite")
    labelled(database)
    maintenance.backup(database, tmp_path / "backups" / "monday.sqlite")
    maintenance.backup(database, tmp_path / "labels.sqlite.before-restore")
    (tmp_path / "backups" / "notes.txt").write_text("Zebulon called\n" * 100)
    report = forget_everywhere(project, "ada", database=database)
    assert report.erased["prompt (its backups)"] == 2
    assert [path.name for path in report.files] == ["notes.txt"]
    assert holding(tmp_path) == ["backups/notes.txt"]
    assert not maintenance.check(database).problems
    database.close()


def test_a_reader_that_keeps_the_log_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next try succeeds, though no row is left to erase."""
    monkeypatch.setattr(connection_module, "REWRITE_SECONDS", 0.1)
    project = filled(tmp_path)
    database = open_database(tmp_path / "labels.sqlite")
    labelled(database)
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(prompt)).scalar_one() == 2
        with pytest.raises(StorageError, match="another process"):
            forget_everywhere(project, "ada", database=database)
    forget_everywhere(project, "ada", database=database)
    assert holding(tmp_path) == []
    database.close()


def test_the_prompt_pipeline_forgets_here_too(tmp_path: Path) -> None:
    project = filled(tmp_path)
    database = open_database(tmp_path / "labels.sqlite")
    labelled(database)
    report = forget_everywhere(project, "ada", database=database)  # an owner of the database alone
    assert report.erased["prompt (labeling database)"] == 1
    with pytest.raises(MissingError, match="this owner has no data here"):
        forget_everywhere(project, "carl", database=database)
    database.close()
