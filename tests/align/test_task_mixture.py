"""The base model tuned on solved language tasks: what it learns from, how it is chosen, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.experiments.finished import finish, finished_miniature

from heedful.align.inputs import fingerprint_inputs
from heedful.align.judge import entrants
from heedful.align.settings import BENCHMARK_SEED, Setting, given_for, setting_of
from heedful.align.stages import due, situation_of, stage
from heedful.align.steps import STEPS
from heedful.align.task_mixture import mixture_of
from heedful.align.who_labels import labelers_of
from heedful.errors import DataError, MissingError
from heedful.miniature import solved_tasks
from heedful.miniature.benchmark_items import benchmarks
from heedful.miniature.invented_world import World
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.project.selection import demonstrations_of

QUIET = Console(quiet=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(solved_tasks, "NUM_TASKS", {"train": 30, "valid": 6})
    return finished_miniature(tmp_path / "mine")


def with_mixture(project: Project, name: str) -> tuple[Project, Setting, Records]:
    text = project.config_file.read_text().replace("[project]\n", f"[project]\ntask_mixture = {json.dumps(name)}\n")
    project.config_file.write_text(
        text + "\n[task_mixture]\nepochs = 2\ncandidates = 2\nbatch_size = 8\nmax_response_tokens = 12\n"
    )
    project = Project.load(project.folder)
    labelers = labelers_of(project)
    records = labelers.known(project.runs / "collect-1")
    return project, setting_of(project, resolved_preset(project), labelers, records), records


def names_of(project: Project, setting: Setting, records: Records) -> list[str]:
    situation = situation_of(project, setting.preset, setting.labelers, records, prefixes=False)
    return [row.name for row in due(situation)]


def test_it_is_trained_chosen_by_reward_and_takes_part(project: Project) -> None:
    labelers = labelers_of(project)
    records = labelers.known(project.runs / "collect-1")
    before = setting_of(project, resolved_preset(project), labelers, records)
    assert not any("task_mixture" in name for name in names_of(project, before, records))

    project, setting, records = with_mixture(project, "benchmarks")
    assert [name for name in names_of(project, setting, records) if "task_mixture" in name] == [
        "task_mixture",
        "choose_task_mixture",
    ]
    runs = {name: project.runs / f"{name}-1" for name in ("sft", "reward", "initial_policy")}
    for name in ("task_mixture", "choose_task_mixture"):
        runs[name] = project.runs / f"{name}-1"
        runs[name].mkdir()
        STEPS[name](given_for(stage(name), setting, records, runs), folder=runs[name], console=QUIET)
        finish(project, name)
    choice = json.loads((runs["choose_task_mixture"] / "choice.json").read_text())
    assert [row["epoch"] for row in choice] == [1, 2]
    best = max(choice, key=lambda row: row["reward"])
    assert best["chosen"]
    given = given_for(stage("evaluate"), setting, records, runs)
    found = {entrant.model.name: entrant.folder for entrant in entrants(given)}
    assert found["task_mixture"] == runs["task_mixture"] / best["folder"]
    assert list(found)[:2] == ["base", "task_mixture"]


def test_the_miniatures_tasks_hold_no_benchmark_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solved_tasks, "NUM_TASKS", {"train": 400, "valid": 20})
    world = World(0)
    records = solved_tasks.solved_tasks(world, seed=0, benchmark_seed=BENCHMARK_SEED, benchmark_items=60)
    texts = [prompt.text for prompt in records.prompts.values()]
    assert len(demonstrations_of(records, "valid")) == 20
    assert 300 < len(demonstrations_of(records, "train")) <= 400
    kept_out = 0
    for benchmark in benchmarks(world, seed=BENCHMARK_SEED, items=60):
        for item in benchmark.items:
            asked = solved_tasks.question(benchmark.name, item)
            assert benchmark.name in ("misconceptions", "paired_bias") or not any(
                f"\n{text}".endswith(f"\n{asked}\n") for text in texts
            )
            kept_out += 1
    assert kept_out == 7 * 60
    # Sentiment has few texts, so that some would be among them.
    again = solved_tasks.solved_tasks(world, seed=0, benchmark_seed=BENCHMARK_SEED, benchmark_items=60)
    assert [d.text for d in again.demonstrations.values()] == [d.text for d in records.demonstrations.values()]
    answers = {d.text for d in records.demonstrations.values() if "Verdict:" in records.prompts[d.prompt_id].text}
    assert answers == {"good", "bad"}


def test_a_question_is_the_item_without_its_solved_examples() -> None:
    found = {b.name: solved_tasks.question(b.name, b.items[0]) for b in benchmarks(World(0), seed=1, items=1)}
    assert found["sentiment"].count("Review:") == found["sentiment"].count("Verdict:") == 1
    assert found["reading"].count("Text:") == found["reading"].count("Question:") == 1
    assert found["translation"].count("English:") == 1
    assert "\n" not in found["counting"]


def test_a_file_of_solved_tasks(project: Project) -> None:
    project, setting, records = with_mixture(project, "tasks.jsonl")
    file = project.folder / "tasks.jsonl"
    with pytest.raises(MissingError, match="the task mixture is not there"):
        mixture_of(setting)
    file.write_text("".join(json.dumps({"inputs": f"Add 1 to {n}.", "targets": str(n + 1)}) + "\n" for n in range(60)))
    mixture = mixture_of(setting)
    solved = [mixture.prompts[d.prompt_id].text + d.text for d in mixture.demonstrations.values()]
    assert sorted(solved) == sorted(f"Add 1 to {n}.\n{n + 1}" for n in range(60))
    assert 40 < len(demonstrations_of(mixture, "train")) < 60

    given = given_for(stage("task_mixture"), setting, records, {})
    first = fingerprint_inputs(given, records, {"data": "x"})
    assert first["tasks"] == fingerprint_inputs(given, records, {"data": "y"})["tasks"]
    file.write_text(json.dumps({"inputs": "a", "targets": "b"}) + "\n")
    assert fingerprint_inputs(given, records, {"data": "x"})["tasks"] != first["tasks"]

    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}) + "\n")
    with pytest.raises(DataError, match="contains no solved task"):
        mixture_of(setting)
    reserved = replace(setting, project=replace(project, task_mixture="benchmarks", labelers="people"))
    people = replace(reserved, labelers=labelers_of(replace(project, labelers="files")))
    with pytest.raises(MissingError, match="is not there"):
        mixture_of(people)
