"""From the labeling database into a project without a file, and out again when a user takes something back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import a_key, answer_all, begin

from heedful.align.labeling_database import LabelingDatabase
from heedful.cli.labeling_verbs import StoreExport
from heedful.cli.prompt_verbs import PromptsImport
from heedful.errors import ConfigError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.usage import admission, consent, feedback
from heedful.labeling.usage.admission import Outcome
from heedful.project.project import Project, init_project
from heedful.prompts.withdrawing import apply_withdrawals


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return init_project(tmp_path / "mine", base_model="none")


@pytest.fixture
def database(project: Project) -> Iterator[Database]:
    database = open_database(project.folder / "labels.sqlite")
    yield database
    database.close()


def bring(project: Project) -> None:
    PromptsImport(format="api", project=project.folder).run(Console())


def export(project: Project) -> None:
    StoreExport(project=project.folder).run(Console())


def rows(project: Project, name: str) -> list[dict[str, Any]]:
    file = project.folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def request(database: Database, secret: str, text: str, scope: Any = "chat") -> None:
    admitted = admission.admit(database, secret, scope)
    asked = [{"role": "user", "content": text}] if scope == "chat" else text
    admission.finish(database, admitted, Outcome(status=200, model="m", request=asked, response=["ok"]))


def test_no_file_is_needed(project: Project, database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        _, secret = a_key(connection, me)
        _, production = a_key(connection, me, purpose="production")
        answer_all(connection, begin(connection, me, "Name a whale, please.", use_case="open_qa"), "The orca.")
        answer_all(connection, begin(connection, me, "Write to me: anna@example.org", training=False), "No.")
    request(database, secret, "Why is the sea salty?")
    request(database, secret, "Once upon a time", "completions")
    request(database, production, "A customer's secret")
    bring(project)
    found = {row["text"]: row for row in rows(project, "data/prompts.jsonl")}
    assert set(found) == {"Name a whale, please.\n", "Why is the sea salty?\n", "Once upon a time\n"}
    whale = found["Name a whale, please.\n"]
    assert (whale["user"], whale["source"], whale["use_case"]) == ("p-1", "customer", "open_qa")
    assert len(whale["metadata"]["usage"]) == 24
    before = (project.folder / "data/prompts.jsonl").read_bytes()
    bring(project)
    assert (project.folder / "data/prompts.jsonl").read_bytes() == before
    kept = "".join(file.read_text(errors="replace") for file in project.folder.rglob("*.jsonl"))
    assert "secret" not in kept
    assert "anna" not in kept


def test_other_formats_need_a_file_and_an_empty_database_is_no_error(
    project: Project, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="come from a file"):
        PromptsImport(format="chat", project=project.folder).run(Console())
    bring(project)
    assert "holds no requests or turns" in capsys.readouterr().out
    assert not (project.folder / "data/prompts.jsonl").exists()


def test_what_is_taken_back_leaves_the_records(project: Project, database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        key_id, secret = a_key(connection, me)
        view = answer_all(connection, begin(connection, me, "Name a whale, please."), "The orca.")
        kept = answer_all(connection, begin(connection, me, "What is the longest river of all?"), "The Nile.")
        for one in (view, kept):
            feedback.keep(connection, one.turns[0].answers[0].id, me, kind="edit", text=f"Edit: {one.turns[0].text}")
    request(database, secret, "Why is the sea salty?")
    bring(project)
    export(project)
    assert len(rows(project, "data/demonstrations.jsonl")) == 2
    run = project.runs / "sft-1"
    run.mkdir()
    (run / "stage.json").write_text("{}")
    (run / "samples.jsonl").write_text(json.dumps({"prompt": "Name a whale, please."}) + "\n")
    doubtful = project.runs / "sft-2"  # it does not say what it was given, and ended after the import
    doubtful.mkdir()
    (doubtful / "stage.json").write_text("{}")
    with database.write() as connection:
        consent.withdraw_turn(connection, view.turns[0].id, me)
        consent.withdraw_key(connection, key_id, me)
    report = apply_withdrawals(database, project)
    assert report.number == 2
    assert [path.name for path in report.runs] == ["sft-1", "sft-2"]
    assert report.erased["demonstrations"] == 1
    everything = "".join(file.read_text() for file in [*project.data.glob("*.jsonl"), project.folder / "labels.jsonl"])
    assert "whale" not in everything
    assert "orca" not in everything
    assert "salty" not in everything
    assert "longest river" in everything
    assert [row["text"] for row in rows(project, "data/demonstrations.jsonl")] == ["Edit: What is the longest river of all?"]
    with database.read() as connection:
        assert list(consent.pending(connection)) == []
        done = {one.key: one for one in consent.withdrawn_by(connection, me)}
    assert done[view.turns[0].key].report["runs"] == ["runs/sft-1", "runs/sft-2"]
    # Nothing comes back, and a second time there is nothing to do.
    bring(project)
    export(project)
    assert "whale" not in (project.data / "prompts.jsonl").read_text()
    assert apply_withdrawals(database, project).number == 0


def test_the_import_does_what_the_page_could_not(
    project: Project, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "Name a whale, please."), "The orca.")
        answer_all(connection, begin(connection, me, "What is the longest river of all?"), "The Nile.")
    bring(project)
    with database.write() as connection:
        consent.withdraw_turn(connection, view.turns[0].id, me)
    bring(project)
    assert "because users withdrew consent: 1 prompts" in capsys.readouterr().out
    assert [row["text"] for row in rows(project, "data/prompts.jsonl")] == ["What is the longest river of all?\n"]


def test_align_does_it_too(project: Project, database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "Name a whale, please."), "The orca.")
        answer_all(connection, begin(connection, me, "What is the longest river of all?"), "The Nile.")
    bring(project)
    with database.write() as connection:
        consent.withdraw_turn(connection, view.turns[0].id, me)
    LabelingDatabase(project).take()
    assert [row["text"] for row in rows(project, "data/prompts.jsonl")] == ["What is the longest river of all?\n"]
