"""Three rounds in seconds, with simulated labelers: killed at any point, they end with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from tests.align.small_miniature import few_data, make
from tests.align.small_project import heedful, read_rows, send_itself

from heedful.align import loop
from heedful.align.simulated import SimulatedLabelers
from heedful.miniature import preparation as miniature
from heedful.project.ended_rounds import ended_rounds

pytestmark = pytest.mark.skipif(
    not (miniature.WEIGHTS / "small" / "tokenizer.json").is_file(),
    reason="the miniature's weights are not made: python -m heedful.miniature.base small medium",
)


def rounds(processes: Any, folder: Path, last: int, before: Callable[[], None] | None = None) -> tuple[int, str]:
    ended = heedful(processes, "align", folder, "--round", last, before=partial(prepared, before))
    return ended.returncode, ended.stderr


def prepared(before: Callable[[], None] | None) -> None:
    few_data()
    if before is not None:
        before()


@pytest.fixture(scope="module")
def first(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after round 1, whose further rounds choose by disagreement."""
    folder = tmp_path_factory.mktemp("first")
    project = make(folder / "project", folder / "model", 'choose = "disagreement"\npolicy = "onwards"\nconfidence = 0.01\n')
    code, said = rounds(processes, project, 1)
    assert code == 0, said
    return project


@pytest.fixture(scope="module")
def whole(processes: Any, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after three rounds, without an interruption."""
    project = Path(shutil.copytree(first, tmp_path_factory.mktemp("whole") / "project"))
    code, said = rounds(processes, project, 3)
    assert code == 0, said
    return project


def written(project: Path) -> dict[str, Any]:
    """All that must not depend on an interruption: results, rounds, records, decisions, weights.

    The ids of rankings and tasks are the labeling database's, where a killed stage may have left its answers already.
    """
    names = ("rule.json", "choice.json", "decision.json", "responses.jsonl", "expected.jsonl", "model.safetensors")
    files = [project / "results.json", *sorted(project.glob("runs/round-*.json"))]
    files += sorted(path for name in names for path in project.glob(f"runs/*_[23]*/**/{name}"))
    found: dict[str, Any] = {str(path.relative_to(project)): path.read_bytes() for path in files}
    for file in sorted(project.glob("runs/collect_[23]-1/rankings.jsonl")):
        keys = ("prompt_id", "response_ids", "ranks", "labeler")
        found[str(file.relative_to(project))] = [[row[key] for key in keys] for row in read_rows(file)]
    for file in sorted(project.glob("runs/prompts_[23]-1/known.json")):
        known = json.loads(file.read_text())
        found[str(file.relative_to(project))] = {**known, "rankings": len(known["rankings"])}
    return found


def test_three_rounds(first: Path, whole: Path) -> None:
    results, before = (json.loads((project / "results.json").read_text()) for project in (whole, first))
    assert [row["number"] for row in results["rounds"]] == [2, 3]
    assert {key: value for key, value in results.items() if key != "rounds"} == before
    # Round 3 goes on from what round 2 left, whatever it decided.
    assert results["rounds"][1]["against"] == results["rounds"][0]["current"]
    assert results["rounds"][0]["choose"] == "disagreement"
    for row in [row for one in results["rounds"] for row in one["benchmarks"]]:
        assert row["drop_low"] <= row["drop"] + 1e-9
        assert row["drop"] <= row["drop_high"] + 1e-9
    assert [one.policy for one in ended_rounds(whole / "runs")[1:]] == [row["current"] for row in results["rounds"]]
    inputs = json.loads((whole / "runs" / "policy_3-1" / "stage.json").read_text())["inputs"]
    state = json.loads((whole / "runs" / f"{results['rounds'][0]['current']}-1" / "stage.json").read_text())
    assert inputs["initial"] == state["fingerprint"]  # onwards


def test_the_prompts_that_members_disagree_on_most_are_asked_about(whole: Path) -> None:
    choice = json.loads((whole / "runs" / "collect_2-1" / "choice.json").read_text())
    disputed = choice["disagreement"]
    assert (len(choice["chosen"]), len(disputed)) == (6, 12)
    rest = set(disputed) - set(choice["chosen"])
    assert min(disputed[name] for name in choice["chosen"]) >= max(disputed[name] for name in rest)
    assert len(set(disputed.values())) > 6
    asked = {row["prompt_id"] for row in read_rows(whole / "runs" / "collect_2-1" / "responses.jsonl")}
    assert {name for name in asked if "-train-" in name} == set(choice["chosen"])
    seeds = [
        json.loads((whole / "runs" / f"member_2_{i}-1" / "stage.json").read_text())["inputs"]["config"]["seed"] for i in (1, 2)
    ]
    assert seeds == [1, 2]


def test_no_prompt_is_asked_about_twice_and_no_held_out_user_trains(whole: Path) -> None:
    asked = [
        {row["prompt_id"] for row in read_rows(whole / "runs" / f"{name}-1" / "responses.jsonl")}
        for name in ("collect", "collect_2", "collect_3")
    ]
    assert sum(map(len, asked)) == len(set().union(*asked))
    assert not [name for name in set().union(*asked) if "-test-" in name]
    compared = {row["prompt_id"] for row in read_rows(whole / "runs" / "compare_3-1" / "responses.jsonl")}
    assert all("-test-" in name for name in compared)


def kill_when(name: str) -> None:
    """Let this process be killed when labelers have answered in a stage that is not done, or when a round is to be written."""
    ask, save = SimulatedLabelers.ask, loop.save_round

    def asked(self: Any, tasks: Any, folder: Path, **more: Any) -> None:
        ask(self, tasks, folder, **more)
        if folder.name.startswith(f"{name}-"):
            os.kill(os.getpid(), signal.SIGKILL)

    def saved(runs: Path, ended: Any) -> None:
        if f"round-{ended.number}" == name:
            os.kill(os.getpid(), signal.SIGKILL)
        save(runs, ended)

    cast(Any, SimulatedLabelers).ask = asked
    loop.save_round = saved


def kill_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def test_killed_and_continued_they_end_with_the_same_bytes(processes: Any, first: Path, whole: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(first, tmp_path / "project"))
    kills = (
        partial(kill_when, "collect_2"),
        partial(send_itself, signal.SIGKILL, "policy_2", 2, "log"),
        partial(kill_when, "round-2"),
        partial(send_itself, signal.SIGKILL, "reward_3", 0, "save"),
    )
    for kill in kills:
        code, said = rounds(processes, project, 3, kill)
        assert code == -signal.SIGKILL, said
    code, said = rounds(processes, project, 3)
    assert code == 0, said
    assert written(project) == written(whole)


@pytest.mark.long
def test_killed_at_many_moments_they_end_with_the_same_bytes(processes: Any, first: Path, whole: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(first, tmp_path / "project"))
    killed = 0
    for number in range(60):
        code, said = rounds(processes, project, 3, partial(kill_after, 0.3 + 0.37 * (number % 11)))
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        killed += 1
    assert rounds(processes, project, 3)[0] == 0
    assert killed > 3
    assert written(project) == written(whole)
