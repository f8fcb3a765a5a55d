"""Simulated labelers' work goes through the project's labeling database and comes out as it went in."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import func, select

from heedful.align import collect
from heedful.align.settings import given_for, setting_of
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import assignment, batch, demonstration, person, task
from heedful.labeling.exchange import labels
from heedful.labeling.exchange.asking import Task
from heedful.labeling.queue.recording import Work
from heedful.miniature import preparation as miniature
from heedful.miniature.good_answers import answer
from heedful.miniature.invented_world import World
from heedful.miniature.panel import Panel
from heedful.miniature.preparation import miniature_project
from heedful.miniature.tasks import prompts
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.records import Prompt, Response

WORLD = World(0)
PANEL = Panel(WORLD, seed=3)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return miniature_project(tmp_path / "miniature", seed=3)


def outputs(chosen: list[Prompt]) -> list[Response]:
    draw = random.Random(0)
    return [
        Response(id=f"output-{p.id}-{i}", prompt_id=p.id, text=answer(WORLD, draw, dict(p.metadata)) * (i % 3), model="sft")
        for p in chosen
        for i in range(4 + len(p.text) % 5)
    ]


def test_what_the_panel_says_is_what_is_read_and_what_is_kept(project: Project) -> None:
    chosen = prompts(WORLD, seed=1, count=12, split="valid")
    responses = outputs(chosen)
    works: list[Work] = []
    tasks: list[Task] = []
    for prompt in chosen:
        shown = tuple(r for r in responses if r.prompt_id == prompt.id)
        tasks.append(
            Task(kind="rank", phase="training", prompt=prompt, responses=shown, labelers={"training": 2, "held_out": 2})
        )
        for group in ("training", "held_out"):
            works += PANEL.assess(prompt, shown, group=group, labelers=2)
    with SimulatedLabelers(project, PANEL).recorded(tasks, run="collect-1") as answers:
        rankings, ratings = list(answers.rankings()), list(answers.ratings())
    assert [(r.labeler, r.prompt_id, r.response_ids) for r in rankings] == [
        (work.labeler, work.prompt_id, work.response_ids) for work in works
    ]
    said = iter(ratings)
    for work, ranking in zip(works, rankings, strict=True):
        forms = {id: next(said) for id in work.response_ids}
        assert {id: {"overall": r.overall, "flags": r.flags} for id, r in forms.items()} == work.answer["ratings"]
        assert {r.labeler for r in forms.values()} == {work.labeler}
        rank_of = dict(zip(ranking.response_ids, ranking.ranks, strict=True))
        assert [{rank_of[id] for id in group} for group in work.answer["groups"]] == [
            {rank} for rank in range(1, 1 + max(ranking.ranks))
        ]
    database = open_database(project.folder / "labels.sqlite")
    assert maintenance.check(database).problems == []
    with database.read() as connection:
        assert list(labels.stored_rankings(connection)) == rankings
        assert list(labels.stored_ratings(connection)) == ratings
        assert set(connection.execute(select(person.c.simulated)).scalars()) == {True}
    database.close()


def test_a_run_that_is_interrupted_leaves_nothing_behind(project: Project) -> None:
    [prompt] = prompts(WORLD, seed=1, count=1, split="train")

    def interrupted() -> None:
        asked = Task(kind="demonstrate", phase="training", prompt=prompt, labelers={"training": 1})
        with SimulatedLabelers(project, PANEL).recorded([asked], run="data-1") as answers:
            assert len(list(answers.demonstrations())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    database = open_database(project.folder / "labels.sqlite")
    assert not any(maintenance.check(database).counts[name] for name in ("person", "prompt", "task", "demonstration"))
    database.close()


def asked_and_killed(folder: Path, tasks: list[Task]) -> None:
    """In a process of its own: the stage's answers are stored, and then it is killed before it is marked as done."""
    SimulatedLabelers(Project.load(folder), PANEL).ask(tasks, folder / "runs" / "collect-1")
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_a_kill_the_answers_are_not_recorded_again(processes: Any, project: Project) -> None:
    chosen = prompts(WORLD, seed=1, count=3, split="train")
    labelers = SimulatedLabelers(project, PANEL)

    def tasks(salt: str) -> list[Task]:
        named = labelers.named([replace(one, text=one.text + salt) for one in outputs(chosen)], "collect-1")
        shown = {p.id: tuple(r for r in named if r.prompt_id == p.id) for p in chosen}
        return [Task(kind="rank", phase="training", prompt=p, responses=shown[p.id], labelers={"training": 2}) for p in chosen]

    def recorded() -> tuple[int, int]:
        database = open_database(project.folder / "labels.sqlite")
        with database.read() as connection:
            found = [connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (batch, assignment)]
        database.close()
        return found[0], found[1]

    folder = project.runs / "collect-1"
    killed = processes.Process(target=asked_and_killed, args=(project.folder, tasks("")))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.keys() >= {"rankings.jsonl", "ratings.jsonl"}
    assert recorded() == (1, 6)
    labelers.ask(tasks(""), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert recorded() == (1, 6)
    # Answers whose transaction was lost, and those to other outputs, are of no use.
    (project.folder / "labels.sqlite").unlink()
    labelers.ask(tasks(""), folder)
    assert recorded() == (1, 6)
    labelers.ask(tasks(" More."), folder)
    assert recorded() == (2, 12)


def test_the_miniatures_demonstrations_are_training_labelers_work(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniature, "DEMONSTRATED", {"train": 30, "valid": 6})
    monkeypatch.setattr(miniature, "UNLABELED", {"train": 10, "valid": 2, "test": 3})
    monkeypatch.setattr(miniature, "PRETRAINING_DOCUMENTS", {"train": 4, "valid": 1})
    preset, labelers, folder = resolved_preset(project), SimulatedLabelers(project, PANEL), project.runs / "data-1"
    given = given_for(stage("data"), setting_of(project, preset, labelers, Records()), Records(), {})
    collect.data(given, folder=folder, console=Console(quiet=True))
    records = Records.load(project.data)
    assert len(records.prompts) == 51
    written = list(records.demonstrations.values())
    assert {(d.prompt_id, d.labeler, d.text) for d in written} == {
        (work.prompt_id, work.labeler, work.answer["text"])
        for work in map(PANEL.demonstrate, [p for p in records.prompts.values() if p.id in {d.prompt_id for d in written}])
    }
    assert [records.prompts[d.prompt_id].split for d in written] == ["train"] * 30 + ["valid"] * 6
    assert {(d.metadata["group"], d.metadata["simulated"], d.metadata["instruction_version"]) for d in written} == {
        ("training", True, 1)
    }
    assert all(d.metadata["seconds_spent"] > 1 for d in written)
    database = open_database(project.folder / "labels.sqlite")
    with database.read() as connection:
        assert list(labels.stored_demonstrations(connection)) == written
        query = select(task.c.kind, task.c.phase, task.c.state).select_from(
            task.join(assignment).join(demonstration, demonstration.c.assignment_id == assignment.c.id)
        )
        assert set(map(tuple, connection.execute(query))) == {("demonstrate", "training", "done")}
    database.close()


def test_outputs_of_other_content_have_other_ids(project: Project) -> None:
    one = Response(id="output-p-0", prompt_id="p", text="Yes.", model="sft")
    others = [replace(one, text="No."), replace(one, model="sft epoch 1"), replace(one, finished=False)]
    ids = [r.id for r in SimulatedLabelers(project, PANEL).named([one, *others, one], "collect-1")]
    assert len(set(ids)) == 4
    assert ids[0] == ids[4]
    assert ids[0].startswith("output-p-0-")
