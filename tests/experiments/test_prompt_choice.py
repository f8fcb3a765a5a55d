"""Random prompts against those that reward models disagree on: the same budget, and accuracies by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_miniature import few_data, make
from tests.align.small_project import heedful, run

from heedful.experiments.prompt_choice import Arm, in_words, right_by_prompt, summary
from heedful.miniature import preparation as miniature
from heedful.records import Ranking


def ranking(prompt: str, ranks: tuple[int, ...]) -> Ranking:
    ids = tuple(f"{prompt}{i}" for i in range(len(ranks)))
    return Ranking(id=f"r-{prompt}", prompt_id=prompt, response_ids=ids, ranks=ranks, labeler="a")


def test_what_scores_order_as_labelers_did_by_hand() -> None:
    scores = {"p0": 3.0, "p1": 2.0, "p2": 2.0, "q0": 0.0, "q1": 1.0}
    # p: 0 before 1 (right), 0 before 2 (right), 1 before 2 (equal scores: half). q: 0 before 1 (wrong). A tie counts nothing.
    assert right_by_prompt([ranking("p", (1, 2, 3)), ranking("q", (1, 2))], scores) == {"p": (2.5, 3), "q": (0.0, 1)}
    assert right_by_prompt([ranking("p", (1, 1, 2))], scores) == {"p": (1.5, 2)}
    assert right_by_prompt([ranking("z", (1, 2))], scores) == {"z": (0.0, 0)}  # never scored: too long


def test_differences_are_paired_by_prompt_and_averaged_over_seeds() -> None:
    measured = [ranking("p", (1, 2, 3)), ranking("q", (1, 2))]
    rights: dict[Arm, Any] = {
        "round 1 alone": (10, [{"p": (1.0, 3), "q": (0.0, 1)}, {"p": (1.0, 3), "q": (0.0, 1)}]),
        "random": (12, [{"p": (2.0, 3), "q": (0.0, 1)}, {"p": (2.0, 3), "q": (1.0, 1)}]),
        "disagreement": (12, [{"p": (3.0, 3), "q": (1.0, 1)}, {"p": (3.0, 3), "q": (1.0, 1)}]),
    }
    found = summary("mine", 2, rights, measured)
    assert [arm["accuracy"]["value"] for arm in found["arms"]] == pytest.approx([1 / 4, 2.5 / 4, 1.0])
    assert found["arms"][1]["by_seed"] == pytest.approx([2 / 4, 3 / 4])
    assert [pair["difference"]["value"] for pair in found["compared"]] == pytest.approx([1.5 / 4, 1.5 / 4])
    said = in_words(found)
    assert "disagreement against random: +37.5 points" in said
    assert "it orders more comparisons as labelers do" in said


@pytest.mark.skipif(
    not (miniature.WEIGHTS / "small" / "tokenizer.json").is_file(),
    reason="the miniature's weights are not made: python -m heedful.miniature.base small medium",
)
def test_both_ways_get_the_same_number_and_the_project_stays_as_it_was(processes: Any, tmp_path: Path) -> None:
    project = make(tmp_path / "project", tmp_path / "model")
    code, said = run("experiment", "prompt-choice", project)
    assert (code, "round 1 is not over" in said) == (2, True)
    assert heedful(processes, "align", project, before=few_data).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file() and path.name != ".lock"}
    done = heedful(processes, "experiment", "prompt-choice", project, "--seeds", 2, before=few_data)
    assert done.returncode == 0, done.stderr
    assert "disagreement against random:" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads((project / "experiments" / "prompt-choice" / "results.json").read_text())
    assert {arm["way"]: arm["rankings"] for arm in found["arms"]} == {"round 1 alone": 8, "random": 14, "disagreement": 14}
    assert all(len(arm["by_seed"]) == 2 for arm in found["arms"])
    assert found["measured_prompts"] > 0
    chosen = [
        {row["prompt_id"] for row in map(json.loads, path.read_text().splitlines()) if "-train-" in row["prompt_id"]}
        for path in sorted((project / "experiments" / "prompt-choice" / "runs").glob("collect_2-*/responses.jsonl"))
    ]
    labelled = [
        {json.loads(line)["id"] for line in path.read_text().splitlines()} for path in project.rglob("collect*/rankings.jsonl")
    ]
    assert len(labelled) == 3
    assert len(set.union(*labelled)) == sum(map(len, labelled)), "an answer has the id of another one and takes its place"
    assert [len(one) for one in chosen] == [6, 6]
    assert chosen[0] != chosen[1]


def test_people_are_not_asked_twice(tmp_path: Path) -> None:
    project = tmp_path / "mine"
    run("init", project, "--base-model", "none")
    code, said = run("experiment", "prompt-choice", project)
    assert (code, "simulated labelers" in said) == (2, True)
