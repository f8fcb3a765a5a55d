from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.labeling.labeling import add_person, answer_for

from heedful import cli
from heedful.conversation import turns_of
from heedful.labeling.database.connection import open_database
from heedful.labeling.queue import leases
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.project import Project, init_project
from heedful.records import Prompt, Response


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a ranking task that waits for people."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    project = init_project(tmp_path / "mine", base_model="model")
    write_jsonl(project.data / "prompts.jsonl", [record_to_json(Prompt(id="p", turns=turns_of("Hi")))])
    outputs = [Response(id=f"r{k}", prompt_id="p", text=str(k)) for k in range(4)]
    write_jsonl(project.data / "responses.jsonl", map(record_to_json, outputs))
    write_jsonl(project.tasks / "ranking.jsonl", [{"prompt_id": "p", "response_ids": [r.id for r in outputs]}])
    return project


def store(capsys: pytest.CaptureFixture[str], *arguments: object, exit_code: int = 0) -> str:
    """Run ``heedful store``; what it said."""
    try:
        cli.main(["store", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == exit_code, said
    return said.out + said.err


def answer_one(project: Project) -> None:
    database = open_database(project.folder / "labels.sqlite")
    with database.write() as connection:
        ann = add_person(connection, "labeler-1")
        view = leases.claim(connection, ann)
        assert view is not None
        leases.submit(connection, view.id, ann, token=view.token, answer=answer_for(view), seconds_spent=4.0)
    database.close()


def test_from_a_project_to_labelers_and_back(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--project", project.folder)
    assert "no labeling database" in store(capsys, "export", *where, exit_code=2)
    assert "1 prompts, 4 responses, 1 tasks in 'mine: ranking'" in store(capsys, "import", *where)
    assert "0 prompts, 0 responses, no new tasks" in store(capsys, "import", *where)
    assert "no answers to export" in store(capsys, "export", *where)
    answer_one(project)
    assert "1 ranking, 4 rating" in store(capsys, "export", *where).replace("s", "")
    assert "added       nothing" in store(capsys, "export", *where)
    [ranking] = Records.load(project.data).rankings.values()
    assert (ranking.labeler, ranking.response_ids, ranking.ranks) == ("labeler-1", ("r0", "r1", "r2", "r3"), (1, 2, 2, 3))


def test_backup_check_restore_and_copy(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    store(capsys, "import")
    answer_one(project)
    assert "every answer's rows" in store(capsys, "check")
    assert "bytes" in store(capsys, "backup", "saved/monday.sqlite")
    with closing(sqlite3.connect("labels.sqlite")) as other:
        other.execute("DELETE FROM ranking")
        other.commit()
    assert "1 rows of its answer are missing" in store(capsys, "check", exit_code=1)
    assert "--overwrite" in store(capsys, "restore", "saved/monday.sqlite", exit_code=2)
    store(capsys, "restore", "saved/monday.sqlite", "--overwrite")
    store(capsys, "check")
    assert "checksums" in store(capsys, "copy", "labels.sqlite", "other.sqlite")
    monkeypatch.setenv("DATABASE_URL", "other.sqlite")
    store(capsys, "check")
    assert "no labeling database" in store(capsys, "check", "--database", "none.sqlite", exit_code=2)
    assert not Path("none.sqlite").exists()
