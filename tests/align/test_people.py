"""One flow with people: align puts its tasks into the labeling database, labelers answer there, align goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from tests.align.small_project import (
    SMALL,
    read_rows,
    rows,
    run,
    set_config,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from tests.labeling.labeling import add_person, answer_for

from heedful.align.who_labels import labelers_of
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import batch, ranking, task, task_response
from heedful.labeling.exchange import asking
from heedful.labeling.queue.claims import claim
from heedful.labeling.queue.leases import submit
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.project.runs import records_in
from heedful.project.selection import digest_of_rankings
from heedful.records import Prompt, Response


@contextmanager
def database_in(project: Path) -> Iterator[Database]:
    database = open_database(project / "labels.sqlite")
    yield database
    database.close()


def label(project: Path, names: dict[str, str], count: int | None = None) -> int:
    """Labelers (name -> group) answer ``count`` tasks in turn, or all that they are served; how many they answered."""
    answered = 0
    with database_in(project) as database:
        with database.write() as connection:
            ids = [add_person(connection, name, group=group) for name, group in names.items()]
        working = list(ids)
        while working and answered != count:
            person = working.pop(0)
            with database.write() as connection:
                view = claim(connection, person)
                if view is not None:
                    submit(connection, view.id, person, token=view.token, answer=answer_for(view), seconds_spent=1.0)
                    working.append(person)
                    answered += 1
    return answered


def number_of_tasks(project: Path) -> int:
    with database_in(project) as database, database.read() as connection:
        return connection.execute(select(func.count()).select_from(task)).scalar_one()


def ids_in(project: Path, file: str) -> list[str]:
    return [row["id"] for row in read_rows(project / "runs" / file)]


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A people's project that was aligned as far as its ranking tasks; what align said."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    prompts, demonstrations = rows()
    base = write_base_model(tmp_path_factory.mktemp("models") / "base")
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL.replace("prompts = 6\n", "prompts = 6\nlabelers_per_prompt = 1\n"))
    write_pretraining_text(folder)
    run("import", "heedful", write_rows(folder / "in.jsonl", [*prompts, *demonstrations]), "--project", folder)
    code, said = run("align", folder)
    assert code == 0, said
    return folder, said


@pytest.fixture
def project(waiting: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(waiting[0], tmp_path / "mine"))


def test_align_puts_its_tasks_there_once_and_says_what_to_do(waiting: tuple[Path, str], project: Path) -> None:
    original, said = waiting
    assert f"waiting for rankings: 13 ranking tasks wait: `heedful web {original}`" in said
    assert "next: 13 ranking tasks wait: `heedful web" in run("status", project)[1]
    assert number_of_tasks(project) == 13
    assert run("align", project)[0] == 0
    assert number_of_tasks(project) == 13
    with database_in(project) as database, database.read() as connection:
        assert connection.execute(select(batch.c.name, batch.c.phase)).all() == [("mine: collect-1", "training")]
        shown = [row.id for row in asking.stored_responses(connection, set(ids_in(project, "collect-1/responses.jsonl")))]
    assert len(shown) > 30
    assert not [id for id in shown if "sft" in id]
    assert not (project / "tasks" / "ranking.jsonl").exists()


def test_tasks_of_a_killed_align_are_not_doubled(project: Path) -> None:
    with database_in(project) as database, database.write() as connection:
        last = connection.execute(select(func.max(task.c.id))).scalar_one()
        for table, column in ((task_response, task_response.c.task_id), (task, task.c.id)):
            connection.execute(table.delete().where(column > last - 5))
    assert number_of_tasks(project) == 8
    assert "13 ranking tasks wait" in run("align", project)[1]
    assert number_of_tasks(project) == 13


def test_people_rank_and_align_trains_on_exactly_their_rankings(project: Path) -> None:
    assert label(project, {"ada": "training", "ben": "training", "eva": "held_out"}) == 13
    said = run("status", project)[1]
    assert "answers that wait to be used: 13 rankings" in said
    assert "next: all 13 ranking tasks are answered: run `heedful align" in said
    code, said = run("align", project)
    assert code == 0, said
    assert f"report: {project / 'report.html'}" in said
    used = ids_in(project, "collect-1/rankings.jsonl")
    with database_in(project) as database, database.read() as connection:
        assert sorted(used) == sorted(connection.execute(select(ranking.c.id)).scalars())
    assert len(used) == 13
    ratings = read_rows(project / "runs" / "collect-1" / "ratings.jsonl")
    assert len(ratings) == len(read_rows(project / "runs" / "collect-1" / "responses.jsonl"))
    results = json.loads((project / "results.json").read_text())
    assert (results["labelers"], results["data"]["rankings"], "preference" in results) == ("people", 10, False)
    records = labelers_of(Project.load(project)).known()
    state = json.loads((project / "runs" / "reward-1" / "stage.json").read_text())
    assert state["inputs"]["rankings"] == digest_of_rankings(records)
    assert "6 evaluation tasks wait: `heedful web" in said
    status = run("status", project)[1]
    assert "wait to be used" not in status
    assert "for its win rates 6 evaluation tasks wait" in status
    # Again: nothing is done again.
    stages = {path.parent.name: path.stat().st_mtime_ns for path in project.glob("runs/*/stage.json")}
    assert run("align", project)[0] == 0
    assert {path.parent.name: path.stat().st_mtime_ns for path in project.glob("runs/*/stage.json")} == stages

    # The held-out labeler judges the evaluation: the report gets win rates, and nothing is trained again.
    assert label(project, {"fay": "held_out", "gus": "training"}) == 6
    assert "6 rankings of the evaluation" in run("status", project)[1]
    code, said = run("align", project)
    assert code == 0, said
    assert {path.parent.name: path.stat().st_mtime_ns for path in project.glob("runs/*/stage.json")} == stages
    rates = json.loads((project / "results.json").read_text())["preference"]["win_rates"]
    assert {row["group"] for row in rates} == {"held_out"}
    assert len(ids_in(project, "evaluate-1/rankings.jsonl")) == 6
    assert set(ids_in(project, "collect-1/rankings.jsonl")) == set(used)
    assert "done: the report is" in run("status", project)[1]

    # What was exported and imported is the same rankings again: nothing is used twice.
    assert run("store", "export", "--project", project)[0] == 0
    assert run("align", project)[0] == 0
    assert {path.parent.name: path.stat().st_mtime_ns for path in project.glob("runs/*/stage.json")} == stages


def test_people_are_not_asked_again_what_was_answered_in_files(project: Path, tmp_path: Path) -> None:
    """Older projects sent their tasks as files, and imported what came back."""
    responses = read_rows(project / "runs" / "collect-1" / "responses.jsonl")
    of_prompt: dict[str, list[str]] = {}
    for row in responses:
        of_prompt.setdefault(row["prompt_id"], []).append(row["id"])
    answered = dict(list(of_prompt.items())[:5])
    filled = [
        {"kind": "ranking", "prompt_id": prompt_id, "response_ids": ids, "ranks": [*range(1, len(ids) + 1)], "labeler": "ann"}
        for prompt_id, ids in answered.items()
    ]
    with (project / "data" / "responses.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in responses)
    assert run("import", "heedful", write_rows(tmp_path / "filled.jsonl", filled), "--project", project)[0] == 0
    labelers = labelers_of(Project.load(project))
    folder = project / "runs" / "collect-1"
    (project / "labels.sqlite").unlink()
    tasks = [
        asking.Task(kind="rank", phase="training", prompt=prompt, responses=tuple(shown), labelers={})
        for prompt, shown in shown_in(project)
    ]
    assert labelers.ask(tasks, folder) == f"{13 - 5} ranking tasks wait: `heedful web {project}`"
    assert number_of_tasks(project) == 13 - 5


def shown_in(project: Path) -> Iterator[tuple[Prompt, list[Response]]]:
    records = Records.load(project / "data")
    found: dict[str, list[Response]] = {}
    for response in records_in(project / "runs" / "collect-1", "response"):
        found.setdefault(response.prompt_id, []).append(response)
    for prompt_id, responses in found.items():
        yield records.prompts[prompt_id], responses


def test_partial_answers_wait_unless_the_user_says_so(project: Path) -> None:
    set_config(project, "episodes = 32", "episodes = 16")  # three times PPO: what it learns is of no concern here
    assert label(project, {"ada": "training"}, count=9) == 9
    code, said = run("align", project)
    assert code == 0
    assert "9 of 13 ranking tasks are done" in said
    assert f"with the answers so far: `heedful align {project} --with-what-is-there`" in said
    assert not (project / "runs" / "collect-1" / "rankings.jsonl").exists()
    code, said = run("align", project, "--with-what-is-there")
    assert code == 0, said
    assert len(ids_in(project, "collect-1/rankings.jsonl")) == 9
    before = json.loads((project / "runs" / "reward-1" / "stage.json").read_text())["fingerprint"]
    # More answers came, but tasks still wait: the same data as before. All answered: all are used.
    assert label(project, {"ben": "training"}, count=2) == 2
    assert "answers that wait to be used: 2 rankings" in run("status", project)[1]
    assert run("align", project)[0] == 0
    assert not (project / "runs" / "reward-2").exists()
    assert label(project, {"cem": "training"}) == 2
    assert run("align", project)[0] == 0
    assert len(ids_in(project, "collect-1/rankings.jsonl")) == 13
    assert json.loads((project / "runs" / "reward-2" / "stage.json").read_text())["fingerprint"] != before


def test_tasks_that_nobody_could_answer_are_said(project: Path) -> None:
    with database_in(project) as database, database.write() as connection:
        connection.execute(update(task).values(state="withdrawn"))
    code, said = run("align", project)
    assert code == 0
    assert "all 13 ranking tasks were set aside or withdrawn without an answer" in said


def test_demonstrations_are_asked_for_the_same_way(waiting: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    prompts, _ = rows()
    base = Project.load(waiting[0]).base_model
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    run("import", "heedful", write_rows(tmp_path / "in.jsonl", prompts), "--project", folder)
    assert "no demonstrations: import some with `heedful import FORMAT FILE" in run("status", folder)[1]
    code, said = run("align", folder)
    assert code == 0, said
    assert "waiting for demonstrations: 30 demonstration tasks wait: `heedful web" in said  # of train and valid, not of test
    assert label(folder, {"ada": "training"}, count=20) == 20
    assert "20 of 30 demonstration tasks are done" in run("align", folder)[1]
    code, said = run("align", folder, "--with-what-is-there")
    assert code == 0, said
    assert "waiting for rankings: 13 ranking tasks wait" in said
    assert len(ids_in(folder, "demonstrate-1/demonstrations.jsonl")) == 20
    records = labelers_of(Project.load(folder)).known()
    assert len(records.demonstrations) == 20
    assert not Records.load(folder / "data").demonstrations


def test_the_database_may_be_elsewhere(project: Path, tmp_path: Path) -> None:
    shutil.move(project / "labels.sqlite", tmp_path / "elsewhere.sqlite")
    set_config(project, "[project]", f'[project]\ndatabase = "{tmp_path / "elsewhere.sqlite"}"')
    assert "13 ranking tasks wait" in run("align", project)[1]
    assert not (project / "labels.sqlite").exists()
