"""``heedful sweep``: grids, trials that are done once, kills, divergence, and the best by each step's own measure."""

from __future__ import annotations

import json
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_project import (
    SMALL,
    filled_in,
    heedful,
    read_rows,
    rows,
    run,
    send_itself,
    set_config,
    write_base_model,
    write_pretraining_text,
    write_rows,
)

from heedful.align.trials import grid, trial_configs
from heedful.errors import ConfigError
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig

# ------------------------------------------------------------------------------------------- grids


def test_grids_by_hand() -> None:
    assert grid(1e-6, 1e-4, 3, "geometric") == [1e-6, 1e-5, 1e-4]
    assert grid(0, 2, 5, "linear") == [0, 0.5, 1, 1.5, 2]
    assert grid(2.0, 2.0, 1, "geometric") == [2.0]
    # The paper's scan of the policy's learning rate (SPEC 3.5), here with five values: ratios of 10 ** (1 / 4).
    assert grid(2.55e-6, 2.55e-5, 5, "geometric") == pytest.approx([2.55e-6 * 10 ** (i / 4) for i in range(5)], rel=1e-7)


@pytest.mark.parametrize(
    ("low", "high", "number", "spacing"),
    [(1, 2, 0, "linear"), (2, 1, 3, "linear"), (1, 2, 1, "linear"), (0, 1, 3, "geometric")],
)
def test_grids_that_cannot_be(low: float, high: float, number: int, spacing: Any) -> None:
    with pytest.raises(ConfigError):
        grid(low, high, number, spacing)


def test_configurations_of_trials() -> None:
    configs = trial_configs(SFTConfig(), "sft", "learning_rate", [1e-4, 1e-5, 1e-4])
    assert list(configs) == [1e-5, 1e-4]
    assert [c.learning_rate for c in configs.values()] == [1e-5, 1e-4]  # type: ignore[attr-defined]
    epochs = trial_configs(RewardConfig(), "reward", "epochs", grid(1, 4, 6, "geometric"))
    assert list(epochs) == [1, 2, 3, 4]
    assert all(type(value) is int for value in epochs)
    assert list(trial_configs(PPOConfig(), "ppo", "missing_end_reward", [-1.0])) == [-1.0]


@pytest.mark.parametrize(
    ("field", "values", "complaint"),
    [
        ("learning_rte", [1.0], "did you mean learning_rate"),
        ("precision", [1.0], "precision is not a number"),
        ("tensorboard", [1.0], "tensorboard is not a number"),
        ("learning_rate", [], "the grid is empty"),
        ("learning_rate", [0.0], "learning_rate is out of range"),
        ("learning_rate", [float("nan")], "not a finite number"),
        ("minibatches", [3.0], "not a multiple of minibatches"),
    ],
)
def test_configurations_that_cannot_be(field: str, values: list[float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        trial_configs(PPOConfig(), "ppo", field, values)


# ------------------------------------------------------------------------------------------- a project


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A people's project with all stages done. Its own runs are only read here."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    prompts, demonstrations = rows()
    base = write_base_model(tmp_path_factory.mktemp("models") / "base")
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    set_config(folder, 'labelers = "people"', 'labelers = "files"')
    write_pretraining_text(folder)
    run("import", "heedful", write_rows(folder / "in.jsonl", [*prompts, *demonstrations]), "--project", folder)
    run("align", folder)
    answered = write_rows(folder / "bob.jsonl", filled_in(folder / "tasks" / "ranking.jsonl", "bob"))
    run("import", "heedful", answered, "--project", folder)
    code, said = run("align", folder)
    assert code == 0, said
    return folder


@pytest.fixture
def project(aligned: Path, tmp_path: Path) -> Path:
    shutil.copytree(aligned, tmp_path / "mine", ignore=shutil.ignore_patterns("sweeps"))
    return tmp_path / "mine"


def results(project: Path, name: str) -> dict[str, Any]:
    return json.loads((project / "sweeps" / name / "results.json").read_text())


def times(project: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in project.glob("sweeps/*/*/stage.json")}


def test_sft_by_validation_loss(project: Path) -> None:
    arguments = ("sweep", "sft", "learning_rate", "--project", project)
    code, said = run(*arguments, "--low", 1e-3, "--high", 1e-1, "--trials", 3)
    assert code == 0, said
    found = results(project, "sft-learning_rate")
    assert [trial["value"] for trial in found["trials"]] == [1e-3, 1e-2, 1e-1]
    losses = {}
    for trial in found["trials"]:
        folder = project / trial["folder"]
        assert json.loads((folder / "config.json").read_text())["learning_rate"] == trial["value"]
        # The first was measured before training.
        lines = [row for row in read_rows(folder / "metrics.jsonl") if "validation_loss" in row][1:]
        losses[trial["value"]] = min(row["validation_loss"] for row in lines)
        assert trial["metrics"]["validation_loss"] == pytest.approx(losses[trial["value"]], rel=1e-5)
    best = min(losses, key=losses.__getitem__)
    assert found["best"]["value"] == best
    assert len(set(losses.values())) == 3
    assert re.search(rf"best: learning_rate = {best:.3g}, validation loss", said)
    # The project's own stages are as they were.
    assert not list((project / "runs").glob("sft-2"))

    # Again: nothing is trained. A wider grid: only the new value is.
    before = times(project)
    code, said = run(*arguments, "--low", 1e-3, "--high", 1e-1, "--trials", 3)
    assert (code, said.count("done before")) == (0, 3)
    assert times(project) == before
    run(*arguments, "--values", 1e-3, 1e-2, 3e-2, 1e-1)
    assert {path for path in times(project) if path not in before} == {project / "sweeps/sft-learning_rate/sft-4/stage.json"}
    assert {path: time for path, time in times(project).items() if path in before} == before
    assert [trial["value"] for trial in results(project, "sft-learning_rate")["trials"]] == [1e-3, 1e-2, 3e-2, 1e-1]

    # A changed demonstration: all trials are done again, in new folders.
    more = {"kind": "demonstration", "prompt_id": "train0", "text": "w9 w7", "labeler": "eve"}
    run("import", "heedful", write_rows(project / "more.jsonl", [more]), "--project", project)
    run(*arguments, "--values", 1e-2)
    assert results(project, "sft-learning_rate")["best"]["folder"] == "sweeps/sft-learning_rate/sft-5"


def test_reward_by_accuracy(project: Path) -> None:
    code, said = run("sweep", "reward", "epochs", "--values", 1, 3, "--project", project)
    assert code == 0, said
    found = results(project, "reward-epochs")
    accuracies = []
    for trial in found["trials"]:
        last = read_rows(project / trial["folder"] / "metrics.jsonl")
        accuracies.append(next(row["validation_accuracy"] for row in last if "validation_accuracy" in row))
    assert [trial["metrics"]["validation_accuracy"] for trial in found["trials"]] == accuracies
    assert found["best"]["metrics"]["validation_accuracy"] == max(accuracies)
    # The project's own setting gives the project's own reward model.
    own = read_rows(project / "runs" / "reward-1" / "metrics.jsonl")
    assert next(row["validation_accuracy"] for row in own if "validation_accuracy" in row) == accuracies[0]


def test_ppo_by_validation_reward(project: Path) -> None:
    code, said = run("sweep", "ppo_ptx", "learning_rate", "--values", 1e-3, 3e-2, "--project", project)
    assert code == 0, said
    found = results(project, "ppo_ptx-learning_rate")
    rewards = [trial["metrics"]["validation_reward"] for trial in found["trials"]]
    assert found["best"]["metrics"]["validation_reward"] == max(rewards)
    assert rewards[0] != rewards[1]
    assert {"validation_reward", "training_reward", "kl"} == set(found["trials"][0]["metrics"])
    code, said = run("sweep", "ppo_ptx", "learning_rate", "--values", 1e-3, 3e-2, "--project", project)
    assert said.count("done before") == 4  # two trials, each with its validation
    page = (project / "sweeps" / "ppo_ptx-learning_rate" / "report.html").read_text()
    assert page.count("<svg ") == 1
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert f"{max(rewards):.4g}" in page

    # Plain PPO needs no text and has its own folder.
    shutil.rmtree(project / "data" / "pretraining")
    code, said = run("sweep", "ppo", "learning_rate", "--values", 1e-3, "--project", project)
    assert code == 0, said
    assert results(project, "ppo-learning_rate")["best"]["value"] == 1e-3
    code, said = run("sweep", "ppo_ptx", "learning_rate", "--values", 1e-3, "--project", project)
    assert (code, "PPO-ptx needs pretraining text" in said) == (2, True)


def test_a_trial_that_diverges_is_a_result(project: Path) -> None:
    code, said = run("sweep", "sft", "learning_rate", "--values", 1e-2, 1e30, "--project", project)
    assert code == 0, said
    good, bad = results(project, "sft-learning_rate")["trials"]
    assert (good["value"], "diverged" in good) == (1e-2, False)
    assert "not a finite number" in bad["diverged"]
    assert bad["metrics"] == {}
    assert results(project, "sft-learning_rate")["best"] == good
    assert not list((project / bad["folder"]).glob("checkpoints"))
    assert "diverged" in (project / "sweeps" / "sft-learning_rate" / "report.html").read_text()
    code, said = run("sweep", "sft", "learning_rate", "--values", 1e30, "--project", project)
    assert (code, "every trial diverged" in said, "done before" in said) == (0, True, True)
    assert results(project, "sft-learning_rate")["best"] is None


@pytest.mark.long
def test_killed_and_run_again_it_is_as_never_killed(project: Path, processes: Any, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "other")
    arguments = ("sweep", "sft", "learning_rate", "--values", 1e-2, 3e-2)
    killed = heedful(processes, *arguments, "--project", project, before=partial(send_itself, signal.SIGKILL, "sft", 3, "log"))
    assert killed.returncode == -signal.SIGKILL
    assert list(project.glob("sweeps/*/sft-1/checkpoints/step-*"))
    assert not (project / "sweeps" / "sft-learning_rate" / "results.json").exists()
    again = heedful(processes, *arguments, "--project", project)
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stderr
    whole = heedful(processes, *arguments, "--project", tmp_path / "other")
    assert whole.returncode == 0, whole.stderr
    for name in ("sft-1", "sft-2"):
        one, other = (folder / "sweeps" / "sft-learning_rate" / name for folder in (project, tmp_path / "other"))
        assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    both = [results(folder, "sft-learning_rate") for folder in (project, tmp_path / "other")]
    for found in both:
        for trial in (*found["trials"], found["best"]):
            trial.pop("seconds")
    assert both[0] == both[1]


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pretrain", "learning_rate", "--values", "1"], "invalid choice 'pretrain'"),
        (["sft", "learning_rte", "--values", "1"], "did you mean learning_rate"),
        (["sft", "precision", "--values", "1"], "precision is not a number"),
        (["sft", "learning_rate"], "the grid is empty"),
        (["sft", "learning_rate", "--low", "1", "--high", "2", "--trials", "0"], "the grid is empty"),
        (["sft", "learning_rate", "--low", "1"], "this is not a grid"),
        (["sft", "learning_rate", "--low", "1", "--high", "2", "--values", "1"], "this is not a grid"),
        (["sft", "learning_rate", "--values", "many"], "--values"),
        (["sft", "learning_rate", "--values", "-1"], "learning_rate is out of range"),
    ],
)
def test_mistakes_are_one_message(aligned: Path, arguments: list[str], complaint: str) -> None:
    code, said = run("sweep", *arguments, "--project", aligned)
    assert (code, complaint in said) == (2, True), said
    assert "Traceback" not in said
    assert not (aligned / "sweeps").exists()


def test_earlier_stages_that_are_missing(project: Path) -> None:
    shutil.rmtree(project / "runs" / "reward-1")
    code, said = run("sweep", "ppo", "learning_rate", "--values", 1, "--project", project)
    assert (code, "the stage reward has not run yet" in said) == (2, True)
    assert f"run `heedful align {project}` first" in said


def test_without_validation_data_there_is_nothing_to_compare(project: Path) -> None:
    file = project / "data" / "demonstrations.jsonl"
    write_rows(file, [row for row in read_rows(file) if not row["prompt_id"].startswith("valid")])
    code, said = run("sweep", "sft", "learning_rate", "--values", 1, "--project", project)
    assert (code, "there are no validation demonstrations" in said) == (2, True)
