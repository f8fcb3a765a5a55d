"""``heedful evaluate people``: models answer, both groups of labelers judge, and an interrupted run ends as any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.align.small_project import SMALL, filled_in, read_rows, rows, run, set_config, write_rows
from tests.align.test_people import database_in, label
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer

from heedful.align import people_evaluation
from heedful.align.people_evaluation import Panels, evaluate_people
from heedful.align.who_labels import labelers_of
from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks.benchmark_run import Contestant
from heedful.labeling.exchange import asking
from heedful.labeling.exchange.asking import Task
from heedful.miniature.invented_world import World
from heedful.miniature.preparation import WORLD_SEED, base_model_folder, miniature_project
from heedful.miniature.tasks import prompts
from heedful.model.answering import Answerer
from heedful.project.data_folder import Records, record_to_json
from heedful.project.project import Project
from heedful.project.runs import records_in
from heedful.records import Prompt, Response

QUIET = Console(quiet=True)
PANELS = Panels(labelers_per_prompt=2, num_prompts=20)
SIZES = [Contestant(name=size, folder=base_model_folder(size)) for size in ("small", "medium")]


def miniature(folder: Path) -> Project:
    project = miniature_project(folder, seed=3)
    Records.of(prompts(World(WORLD_SEED), seed=5, count=24, split="test")).save(project.data)
    return project


def kept(folder: Path) -> dict[str, bytes]:
    names = ("responses.jsonl", "results.json", "report.html")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the miniature's panel."""
    torch.set_num_threads(1)
    project = miniature(tmp_path_factory.mktemp("whole") / "miniature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people_evaluation, "PROMPTS_AT_ONCE", 8)
        return evaluate_people(project, SIZES, PANELS, QUIET, baseline="small").folder


def test_both_groups_judge_every_prompt(judged: Path) -> None:
    results = json.loads((judged / "results.json").read_text())
    assert (results["labelers"], results["prompts"], results["judgements"]) == ("simulated", 20, 2 * 2 * 20)
    assert list(results["groups"]) == ["held_out", "training"]
    responses = {one.id: one for one in records_in(judged, "response")}
    groups = results["groups"]
    panel = labelers_of(Project.load(judged.parents[1])).groups
    for group in ("held_out", "training"):
        outcomes: list[float] = []
        for ranking in records_in(judged, "ranking"):
            if panel[ranking.labeler] == group:
                rank = {responses[id].model: rank for id, rank in zip(ranking.response_ids, ranking.ranks, strict=True)}
                outcomes.append(0.5 if rank["medium"] == rank["small"] else float(rank["medium"] < rank["small"]))
        (pair,) = groups[group]["against_baseline"]["pairs"]
        assert (pair["model"], pair["other"], pair["votes"]) == ("medium", "small", 40)
        assert pair["win_rate"]["two_way"]["value"] == pytest.approx(sum(outcomes) / 40, abs=1e-5)
        assert {one["model"] for one in groups[group]["ratings"]} == {"small", "medium"}
    assert "Simulated labelers" in (judged / "report.html").read_text()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_evaluation, "PROMPTS_AT_ONCE", 8)
    project = miniature(tmp_path / "miniature")
    answer, asked = Answerer.answer, list[str]()

    def stopping(self: Answerer, given: Sequence[Prompt], **options: Any) -> list[Response]:
        asked.append(options["name"])
        if len(asked) == 5:
            raise KeyboardInterrupt
        return answer(self, given, **options)

    monkeypatch.setattr(Answerer, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_people(project, SIZES, PANELS, QUIET, baseline="small")
    found = evaluate_people(project, SIZES[::-1], PANELS, QUIET, baseline="small")  # the order of the models changes nothing
    assert asked == ["medium"] * 3 + ["small"] * 4
    assert found.folder.name == "people-1"
    assert kept(found.folder) == kept(judged)
    again = evaluate_people(project, SIZES, PANELS, QUIET, baseline="medium")
    assert again.folder == found.folder
    assert asked == ["medium"] * 3 + ["small"] * 4


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A people's project of invented prompts, and two tiny models beside it."""
    for seed, name in enumerate(("base", "other")):
        plain(tiny_gpt2(seed=seed, scale=0.15)).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    folder = tmp_path / "mine"
    run("init", folder, "--base-model", tmp_path / "base")
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL.replace("prompts = 6\n", "prompts = 6\nlabelers_per_prompt = 1\n"))
    run("import", "heedful", write_rows(folder / "in.jsonl", rows()[0]), "--project", folder)
    return folder


def people(project: Path, *options: str) -> tuple[int, str]:
    models = [f"{name}={project.parent / name}" for name in ("base", "other")]
    return run("evaluate", "people", project, *models, *options)


def test_people_of_both_groups_are_asked_and_the_run_goes_on_when_they_are_done(project: Path) -> None:
    code, said = people(project)
    assert code == 0, said
    assert f"0 of 12 are rated (held-out labelers 0 of 6, training labelers 0 of 6): `heedful web {project}`" in said
    assert not (project / "runs" / "people-1" / "results.json").exists()
    assert label(project, {"eva": "held_out"}, count=4) == 4
    assert "4 of 12 are rated (held-out labelers 4 of 6" in people(project)[1]
    code, said = people(project, "--with-what-is-there")
    assert code == 0, said
    assert "4 of 12 judgements were there" in said
    assert "Not complete" in (project / "runs" / "people-1" / "report.html").read_text()
    assert label(project, {"fay": "held_out", "ann": "training"}) == 8
    code, said = people(project, "--baseline", "other")
    assert code == 0, said
    assert "held-out labelers: 6 votes" in said
    assert "training labelers: 6 votes" in said
    assert "are rated" not in said
    results = json.loads((project / "runs" / "people-1" / "results.json").read_text())
    assert (results["labelers"], results["judgements"], results["baseline"]) == ("people", 12, "other")
    assert {one["overall"]["two_way"]["count"] for one in results["groups"]["training"]["ratings"]} == {6}
    assert "Not complete" not in (project / "runs" / "people-1" / "report.html").read_text()


def test_what_training_labelers_say_here_trains_nothing(project: Path) -> None:
    people(project)
    opened = Project.load(project)
    prompt = Records.load(opened.data).prompts["train0"]
    ours = tuple(Response(id=f"collect-1-{i}", prompt_id=prompt.id, text=f"w{i}", model="sft") for i in range(2))
    collected = opened.runs / "collect-1"
    collected.mkdir()
    write_rows(collected / "responses.jsonl", map(record_to_json, ours))
    write_rows(collected / "stage.json", [{"done": True}])
    task = Task(kind="rank", phase="training", prompt=prompt, responses=ours, labelers={"training": 1})
    labelers_of(opened).ask([task], collected)
    label(project, {"eva": "held_out", "ann": "training"})
    people(project)
    labelers_of(opened).take()
    with database_in(project) as database, database.read() as connection:
        assert len(list(asking.rankings(connection, "training"))) == 7
    records = labelers_of(opened).known()
    assert [ranking.prompt_id for ranking in records.rankings.values()] == ["train0"]
    assert labelers_of(opened).unused(records) is None


def test_labelers_do_not_see_which_model_wrote_what(project: Path) -> None:
    people(project)
    shown = read_rows(project / "runs" / "people-1" / "responses.jsonl")
    assert len(shown) == 12
    assert not [row["id"] for row in shown if "base" in row["id"] or "other" in row["id"]]


def test_labelers_who_fill_in_files(project: Path) -> None:
    set_config(project, 'labelers = "people"', 'labelers = "files"')
    code, said = people(project, "--group", "held_out")
    tasks = project / "tasks" / "people-1.jsonl"
    assert code == 0, said
    assert f"0 of 6 are ranked: give each labeler a copy of {tasks}," in said
    done = filled_in(tasks, "eva")
    run("import", "heedful", write_rows(project / "some.jsonl", done[:2]), "--project", project)
    assert "2 of 6 are ranked" in people(project, "--group", "held_out")[1]
    run("import", "heedful", write_rows(project / "rest.jsonl", done[2:]), "--project", project)
    code, said = people(project, "--group", "held_out")
    assert code == 0, said
    assert "held-out labelers: 6 votes" in said
    assert "note: held-out labelers have rated nothing" in said


def test_what_cannot_be_compared_is_refused(project: Path) -> None:
    code, said = run("evaluate", "people", project, f"base={project.parent / 'base'}")
    assert code == 2
    assert "at least two models" in said
    code, said = people(project, "--baseline", "third")
    assert code == 2
    assert "one of base, other" in said
    assert people(project, "--labelers-per-prompt", "0")[0] == 2
    with pytest.raises(ConfigError, match="no such confidence"):
        evaluate_people(Project.load(project), SIZES, PANELS, QUIET, baseline="small", confidence=2)
    data = Records.load(Project.load(project).data)
    Records.of([one for one in data.prompts.values() if one.split != "test"]).save(Project.load(project).data)
    two = [Contestant(name=name, folder=project.parent / name) for name in ("base", "other")]
    with pytest.raises(DataError, match="no held-out prompt"):
        evaluate_people(Project.load(project), two, PANELS, QUIET, baseline="base")
