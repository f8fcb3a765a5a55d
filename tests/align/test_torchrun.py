"""``heedful align`` and ``heedful pretrain`` on two ranks (gloo, CPU): the results of one, one voice, and no work lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.align import command_ranks
from tests.align.small_project import (
    SMALL,
    filled_in,
    read_rows,
    rows,
    run,
    set_config,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from tests.align.test_alternatives import NAMES, ON, SMALL_ALTERNATIVES
from tests.ports import free_port

ROUNDED = 2e-5
"""Results have six digits: numbers that are nearly the same may be rounded to neighbours."""

Heedful = Callable[..., list[tuple[int, str]]]


def started(processes: Any, target: Callable[..., None], *arguments: Any, size: int, more: tuple[Any, ...] = ()) -> None:
    """``target(*arguments, rank, size, port, *more)`` in a process for each rank."""
    port = free_port()
    workers = [processes.Process(target=target, args=(*arguments, rank, size, port, *more)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        if worker.exitcode is None:
            worker.kill()


@pytest.fixture
def heedful(processes: Any, tmp_path: Path) -> Heedful:
    """Run the command on ranks: each one's exit code and what it said; -1 and nothing where it was killed."""

    def ranks(*arguments: object, size: int = 2, trouble: str | None = None) -> list[tuple[int, str]]:
        said = tmp_path / "said"
        ends = [Path(f"{said}.rank-{rank}") for rank in range(size)]
        for end in ends:
            end.unlink(missing_ok=True)
        started(processes, command_ranks.work, [str(a) for a in arguments], str(said), size=size, more=(trouble,))
        texts = [end.read_text() if end.exists() else "-1\n" for end in ends]
        return [(int(code), text) for code, _, text in (text.partition("\n") for text in texts)]

    return ranks


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process: ``done``, with a report; ``start``: its data before rankings; ``trained``: it before PPO."""
    folder = tmp_path_factory.mktemp("projects")
    base, project = write_base_model(folder / "base"), folder / "done"
    prompts, demonstrations = rows()
    run("init", project, "--base-model", base)
    with (project / "heedful.toml").open("a") as file:
        # Without dropout: each rank has its own random numbers for it.
        file.write(SMALL.replace("epochs = 2\n", "epochs = 2\nresidual_dropout = 0.0\n"))
    set_config(project, 'labelers = "people"', 'labelers = "files"')
    write_pretraining_text(project)
    run("import", "heedful", write_rows(folder / "prompts.jsonl", prompts), "--project", project)
    run("import", "heedful", write_rows(folder / "answers.jsonl", demonstrations), "--project", project)
    shutil.copytree(project, folder / "start")
    assert run("align", project)[0] == 0
    rank(project)
    assert run("align", project)[0] == 0
    later = shutil.ignore_patterns("ppo*", "evaluate*", "results.json", "report.html", "timings.json")
    shutil.copytree(project, folder / "trained", ignore=later)
    return folder


def rank(project: Path) -> None:
    """People rank the outputs."""
    filled = write_rows(project / "bob.jsonl", filled_in(project / "tasks" / "ranking.jsonl", "bob"))
    assert run("import", "heedful", filled, "--project", project)[0] == 0


def copied(project: Path, folder: Path) -> Path:
    return Path(shutil.copytree(project, folder))


def assert_near(ours: Any, theirs: Any, *, within: float, where: str = "") -> None:
    """The same JSON, numbers within ``within``.

    Explained variance is a mean over microbatches, and ranks have others.
    """
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs.keys() - {"explained_variance"}:
            assert_near(ours[key], theirs[key], within=within, where=f"{where}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_near(a, b, within=within, where=f"{where}/{i}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=within), where
    else:
        assert ours == theirs, where


def results(project: Path) -> Any:
    return json.loads((project / "results.json").read_text()) | {"project": ""}


def test_two_ranks_come_to_the_results_of_one(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    """From the first stage, over people's rankings, to the report; rank 1 says nothing, and each stage has one folder."""
    project = copied(projects / "start", tmp_path / "mine")
    (code, said), other = heedful("align", project)
    assert (code, other) == (0, (0, "")), said
    assert said.count("waiting for rankings: 13 ranking tasks wait") == 1
    ours, theirs = read_rows(project / "tasks" / "ranking.jsonl"), read_rows(projects / "done" / "tasks" / "ranking.jsonl")
    assert [task["responses"] for task in ours] == [task["responses"] for task in theirs]
    rank(project)
    (code, said), other = heedful("align", project)
    assert (code, other) == (0, (0, "")), said
    assert "sft: done before" in said
    assert said.count("report: ") == 1
    assert_near(results(project), results(projects / "done"), within=ROUNDED)
    assert {path.name for path in (project / "runs").iterdir()} == {p.name for p in (projects / "done" / "runs").iterdir()}
    assert "2 ranks" in json.loads((project / "timings.json").read_text())["machine"]
    before = (project / "results.json").read_bytes()
    (code, said), other = heedful("align", project)
    assert said.count("done before") == 8
    assert (code, other) == (0, (0, ""))
    assert (project / "results.json").read_bytes() == before


def test_alternatives_on_two_ranks_come_to_the_results_of_one(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    """DPO, expert iteration, cloning and best of n, up to the report."""
    one, two = (copied(projects / "done", tmp_path / name) for name in ("one", "two"))
    for project in (one, two):
        with (project / "heedful.toml").open("a") as file:
            file.write(SMALL_ALTERNATIVES.replace("[cloning]\n", "[cloning]\nresidual_dropout = 0.0\n") + ON)
    assert run("align", one)[0] == 0
    (code, said), other = heedful("align", two)
    assert (code, other) == (0, (0, "")), said
    assert {path.name for path in (two / "runs").iterdir()} == {path.name for path in (one / "runs").iterdir()}
    assert {f"{name}-1" for name in NAMES} <= {path.name for path in (two / "runs").iterdir()}
    assert [row["model"] for row in results(two)["alternatives"]["rows"]][-4:] == list(NAMES)
    assert_near(results(two), results(one), within=ROUNDED)


def test_after_a_lost_rank_the_same_command_goes_on(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    project = copied(projects / "trained", tmp_path / "mine")
    (code, said), lost = heedful("align", project, trouble="kill_the_last")
    assert lost == (-1, "")
    assert code == 1
    assert said.count("rank 0 of 2 lost the connection to another rank") == 1
    (code, said), other = heedful("align", project)
    assert (code, other) == (0, (0, "")), said
    assert "ppo_ptx: continuing at step" in said
    assert_near(results(project), results(projects / "done"), within=ROUNDED)


@pytest.mark.long
def test_torchrun_starts_the_command_again_after_a_rank_was_lost(projects: Path, tmp_path: Path) -> None:
    project = copied(projects / "trained", tmp_path / "mine")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "-m", "tests.align.command_ranks", "align", str(project)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "exitcode: -9" in ended.stderr
    assert "ppo_ptx: continuing at step" in ended.stderr
    assert_near(results(project), results(projects / "done"), within=ROUNDED)


def test_an_interrupt_ends_all_ranks_with_one_message(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    (code, said), other = heedful("align", copied(projects / "trained", tmp_path / "mine"), trouble="interrupt")
    assert (code, other) == (130, (130, ""))
    assert said.count("interrupted: run the same command again") == 1


def test_what_rank_0_cannot_do_ends_all_with_one_message(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    (code, said), other = heedful("align", copied(projects / "start", tmp_path / "mine"), trouble="first_rank_cannot_write")
    assert (code, other) == (1, (1, ""))
    assert said.count("error: no room") == 1


def test_what_another_rank_cannot_do_is_told_by_it(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    first, (code, said) = heedful("align", copied(projects / "start", tmp_path / "mine"), trouble="another_rank_cannot_read")
    assert code == 2
    assert said.startswith("error: rank 1: this rank's disk is bad")
    assert first[0] == 1
    assert "lost the connection" in first[1]


def test_a_mistake_in_heedful_has_one_traceback(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    (code, said), other = heedful("align", copied(projects / "start", tmp_path / "mine"), trouble="mistake")
    assert (code, other) == (1, (1, ""))
    assert said.count("ZeroDivisionError: a mistake in Heedful") == 1


def test_mistakes_of_the_user_are_told_once(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    project = copied(projects / "start", tmp_path / "mine")
    for arguments, message in (
        (("status", project), "heedful status works in one process"),
        (("align", "--no-such-option"), "no-such-option"),
        (("align", tmp_path / "nowhere"), "error:"),
    ):
        (code, said), other = heedful(*arguments)
        assert (code, other) == (2, (2, "")), said
        assert message in said
    set_config(project, "\n[sft]\nepochs", "\n[sft]\nlora_rank = 2\nepochs")
    (code, said), other = heedful("align", project)
    assert (code, other) == (2, (2, ""))
    assert said.count("adapters (LoRA) cannot be trained under torchrun yet") == 1
    assert [path.name for path in (project / "runs").glob("*")] in ([], [".lock"])


def test_pretraining_on_two_ranks_gives_the_losses_of_one(heedful: Heedful, projects: Path, tmp_path: Path) -> None:
    small = "--layers 1 --width 16 --heads 2 --vocabulary 300 --context-length 32 --num-tokens 2000 --batch-tokens 200"
    text, losses = projects / "done" / "data" / "pretraining", []
    for size in (1, 2):
        output = tmp_path / str(size)
        ends = heedful("pretrain", text, "--output", output, *small.split(), size=size)
        assert [code for code, _ in ends] == [0] * size
        assert all(said == "" for _, said in ends[1:])
        losses.append([row["loss"] for row in read_rows(output / "metrics.jsonl") if "loss" in row])
        assert (output / "model" / "tokenizer.json").is_file()
    assert len(losses[0]) == 10
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)  # the command's precision is bfloat16


def test_rank_0_may_work_longer_than_a_collective_waits(processes: Any, tmp_path: Path) -> None:
    started(processes, command_ranks.wait_long, str(tmp_path / "said"), size=2)
    assert [(tmp_path / f"said.rank-{rank}").read_text() for rank in range(2)] == ["rank 0's"] * 2
