"""``heedful experiment`` on a miniature whose earlier stages count as done: variants, what is reused, figures, costs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_project import run
from tests.evaluate.benchmarks.data_sets import write_data_sets
from tests.experiments.finished import finished_miniature

from heedful.presets import miniature

OWN_KL = miniature().ppo.kl_coefficient


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_miniature(tmp_path_factory.mktemp("projects") / "miniature").folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "mine")
    return tmp_path / "mine"


def experiment(project: Path, name: str, *more: object) -> tuple[dict[str, Any], str]:
    code, said = run("experiment", name, project, "--prompts", 2, "--samples", 2, *more)
    assert code == 0, said
    return json.loads((project / "experiments" / name / "results.json").read_text()), said


def stages(project: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(project.glob(f"experiments/runs/{name}-*/stage.json"))]


def test_kl_sweep_then_gamma_sweep_share_what_they_can(project: Path) -> None:
    found, said = experiment(project, "kl", "--values", OWN_KL, 1.0)
    assert [(p["series"], p["value"]) for p in found["points"]] == [("PPO", OWN_KL), ("PPO", 1.0)]
    trained = stages(project, "ppo")
    assert [one["inputs"]["config"]["kl_coefficient"] for one in trained] == [OWN_KL, 1.0]
    assert {one["inputs"]["config"]["ptx_coefficient"] for one in trained} == {0.0}
    for point in found["points"]:
        assert {"win_rate", "likert", "reward", "kl", "benchmarks", "text_loss", "length"} <= set(point["measures"])
        assert 0 <= point["measures"]["win_rate"]["low"] <= point["measures"]["win_rate"]["value"] <= 1
        assert 1 <= point["measures"]["likert"]["value"] <= 7
    assert found["panels"] == ["benchmarks", "text_loss", "reward", "win_rate"]
    assert set(found["base"]) == {"benchmarks", "text_loss"}
    assert "policy 2 of 2" in said
    assert "ppo-1, ppo-2" in said  # both at the same time, as the project says

    page = (project / "experiments" / "kl" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "Simulated labelers" in page
    rows = list(csv.DictReader((project / "experiments" / "kl" / "results.csv").open()))
    assert [float(row["reward"]) for row in rows] == [p["measures"]["reward"]["value"] for p in found["points"]]

    # Again: nothing is done twice, and the files are the same.
    before = {path: path.stat().st_mtime_ns for path in project.glob("experiments/runs/*/stage.json")}
    again, _ = experiment(project, "kl", "--values", OWN_KL, 1.0)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in project.glob("experiments/runs/*/stage.json")} == before

    code, said = run("experiment", "kl", project, "--values", OWN_KL, 0.5, "--plan")
    assert (code, "1 of 2 stages to train" in said) == (0, True)

    # Gamma 0 with the project's own beta is the first policy of the KL sweep.
    gamma, _ = experiment(project, "gamma", "--values", 0, 1)
    assert [p["folder"] for p in gamma["points"]] == ["experiments/runs/ppo-1", "experiments/runs/ppo_ptx-1"]
    assert len(stages(project, "ppo")) == 2


def test_public_benchmarks_of_rounds_are_in_the_figure(project: Path) -> None:
    """They stand beside the win rates, with answers kept; without the setting nothing of it is there."""
    write_data_sets(project / "data" / "benchmarks", rows=3)
    with (project / "heedful.toml").open("a") as file:
        file.write("\n[rounds]\nbenchmarks = { squad_v2 = 3.0, wmt15_fr_en = 2.0 }\n")
    found, _ = experiment(project, "kl", "--values", 0.25)
    assert found["panels"] == ["benchmarks", "squad_v2", "wmt15_fr_en", "text_loss", "reward", "win_rate"]
    assert set(found["base"]) == {"benchmarks", "squad_v2", "wmt15_fr_en", "text_loss"}
    columns = (project / "experiments" / "kl" / "results.csv").read_text().splitlines()[0].split(",")
    assert {"squad_v2", "squad_v2_low", "wmt15_fr_en"} <= set(columns)
    (point,) = found["points"]
    assert 0 <= point["measures"]["squad_v2"]["value"] <= 1
    (policy, base) = sorted(project.glob("experiments/runs/measure-*/answers/policy/squad_v2.zero-shot.jsonl"))
    assert all(len(path.read_text().splitlines()) == 2 for path in (policy, base))  # benchmark_items
    assert (project / "experiments" / "kl" / "report.html").read_text().count("<svg") == 6

    (project / "data" / "benchmarks" / "squad_v2" / "dev-v2.0.json").unlink()
    for arguments in (["kl", project, "--values", 0.5], ["labeler-groups", project, "--seeds", 1]):
        code, said = run("experiment", *arguments)
        assert (code, "there are no data for SQuADv2" in said) == (2, True), said
    assert not stages(project, "labeler_group_reward")


def test_the_projects_own_policy_is_used(project: Path) -> None:
    found, _ = experiment(project, "kl", "--values", 0.25, "--seeds", 2)
    assert [p["seed"] for p in found["points"]] == [0, 1]
    assert [one["inputs"]["config"]["seed"] for one in stages(project, "ppo")] == [0, 1]
    # As if `heedful align` had trained the first.
    shutil.move(project / "experiments" / "runs" / "ppo-1", project / "runs" / "ppo-1")
    found, _ = experiment(project, "kl", "--values", 0.25)
    assert [p["folder"] for p in found["points"]] == ["runs/ppo-1"]


def test_the_initial_policy_is_varied(project: Path) -> None:
    found, _ = experiment(project, "initial-mix", "--values", 0.5)
    assert [(p["series"], p["value"]) for p in found["points"]] == [("1 epoch", 0.5), ("2 epochs", 0.5)]
    mixed = [one["inputs"]["config"] for one in stages(project, "initial_policy")]
    assert [(one["epochs"], one["pretraining_share"]) for one in mixed] == [(1, 0.5), (2, 0.5)]
    # Each policy started from its own initial policy.
    starts = [one["inputs"]["initial"] for one in stages(project, "ppo_ptx")]
    assert starts == [one["fingerprint"] for one in stages(project, "initial_policy")]


def test_divergence_is_a_result(project: Path) -> None:
    found, said = experiment(project, "learning-rate", "--values", 1e-4, 1e38)
    assert [(p["series"], p["value"], "diverged" in p, p["measures"] == {}) for p in found["points"]] == [
        ("PPO", 1e-4, False, False),
        ("PPO", 1e38, True, True),
        ("PPO-ptx", 1e-4, False, False),
        ("PPO-ptx", 1e38, True, True),
    ]
    assert found["best"]["value"] == 1e-4
    assert "diverged" in said
    assert "diverged" in (project / "experiments" / "learning-rate" / "report.html").read_text()


def test_over_optimisation_has_the_start_and_best_of_n(project: Path) -> None:
    found, _ = experiment(project, "over-optimisation", "--values", 8, 16)
    by_series = {s: [p for p in found["points"] if p["series"] == s] for s in ("PPO", "best of n")}
    assert [p["value"] for p in by_series["best of n"]] == [1, 2, 4, 8, 16]
    rewards = [p["measures"]["reward"]["value"] for p in by_series["best of n"]]
    assert rewards == sorted(rewards)
    assert by_series["best of n"][0]["measures"]["kl"]["value"] == 0
    start = next(p for p in by_series["PPO"] if p["value"] == 0)
    assert start["measures"]["kl"]["value"] == 0  # the initial policy beside itself
    assert [p["value"] for p in by_series["PPO"]] == [8, 16, 0]
    assert found["best"] is not None
    # A shorter run is the longer one stopped earlier.
    short, long = (
        [json.loads(line) for line in (project / f"experiments/runs/ppo-{n}/metrics.jsonl").read_text().splitlines()]
        for n in (1, 2)
    )
    assert len(short) == 1
    assert len(long) == 2
    assert {k: v for k, v in short[0].items() if k != "seconds"} == {k: v for k, v in long[0].items() if k != "seconds"}


def test_plan_trains_nothing(project: Path) -> None:
    code, said = run("experiment", "initial-mix", project, "--values", 0.5, "--plan")
    assert code == 0, said
    assert "4 of 4 stages to train" in said
    assert "unknown: 2" in said  # the project has no run of PPO-ptx to go by
    assert not (project / "experiments").exists()


def test_labeler_groups(project: Path) -> None:
    said = run("experiment", "labeler-groups", project, "--seeds", 1, "--plan")[1]
    assert "5 of 5 reward models to train" in said
    code, said = run("experiment", "labeler-groups", project, "--seeds", 1)
    assert code == 0, said
    found = json.loads((project / "experiments" / "labeler-groups" / "results.json").read_text())
    assert [fold["left_out"] for fold in found["folds"]] == [0, 1, 2, 3, 4]
    # Five labelers, each ranked all 12 training and 6 validation prompts; ties make fewer pairs.
    assert sorted(name for fold in found["folds"] for name in fold["labelers"]) == [f"labeler-{n:02d}" for n in range(1, 6)]
    assert all(fold["training_rankings"] == 48 for fold in found["folds"])
    assert all(fold["within_pairs"] > 2 * fold["across_pairs"] > 0 for fold in found["folds"])
    mean = sum(fold["across"] for fold in found["folds"]) / 5
    assert found["across"]["mean"] == pytest.approx(mean, abs=1e-5)
    assert found["paper"]["across"]["mean"] == 0.696
    assert "the paper: 69.6 ± 0.9 %" in said
    taught = [json.loads((project / f"experiments/runs/labeler_group_reward-{n}/stage.json").read_text()) for n in range(1, 6)]
    assert len({one["inputs"]["rankings"] for one in taught}) == 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gama"], "did you mean gamma?"),
        ([], "which experiment?"),
        (["gamma", "--seeds", 0], "needs a seed"),
        (["gamma", "--values", -1], "pretraining coefficient (gamma) is out of range"),
        (["batch-size", "--values", 6], "not a multiple of the minibatch"),
        (["minibatch-size", "--values", 3], "a divisor of batch_size = 8"),
        (["pretraining-ratio", "--values", 1.5], "whole number"),
        (["labeler-groups", "--episodes", 3], "trains reward models"),
        (["kl", "--prompts", 0], "at least 1 prompt"),
    ],
)
def test_mistakes(project: Path, arguments: list[Any], complaint: str) -> None:
    name, *more = arguments or [None]
    code, said = run("experiment", *([name, project] if name else []), *more)
    assert (code, complaint in said) == (2, True), said
    assert not list(project.glob("experiments/runs/ppo*"))


def test_a_project_that_was_not_aligned(project: Path) -> None:
    shutil.rmtree(project / "runs" / "reward-1")
    code, said = run("experiment", "kl", project)
    assert code == 2
    assert "the stage reward has not run yet" in said
