"""The built-in miniature from data to report with the shipped weights, much reduced: it runs, and twice to the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.align.small_project import heedful, read_rows, run, stages_copied_from_one

from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import assignment, batch, person, task
from heedful.labeling.exchange import labels
from heedful.miniature import preparation as miniature
from heedful.project.data_folder import Kind, Record, Records, record_from_json

WEIGHTS = miniature.WEIGHTS / "medium" / "config.json"

pytestmark = pytest.mark.skipif(
    not WEIGHTS.is_file(),
    reason="the miniature's weights are not made: see heedful.miniature.base",
)

REDUCED = """
[sft]
epochs = 2
candidates = 2

[initial_policy]
epochs = 1
candidates = 1

[ppo]
episodes = 64
batch_size = 32
minibatches = 2

[collect]
prompts = 24
validation_prompts = 12

[evaluate]
prompts = 24
labelers_per_prompt = 1
benchmark_items = 8
choice_prompts = 8
"""
SECTIONS = (
    "models",
    "data",
    "preference",
    "expected_preference",
    "ratings",
    "closed_domain_hallucination",
    "reward_model",
    "sft_checkpoints",
    "prefix",
    "benchmarks",
    "alignment_tax",
    "curves",
    "transcripts",
)


def fewer_data() -> None:
    """Let this process make a miniature of few prompts and documents."""
    stages_copied_from_one()
    miniature.DEMONSTRATED = {"train": 64, "valid": 16}
    miniature.UNLABELED = {"train": 96, "valid": 24, "test": 32}
    miniature.PRETRAINING_DOCUMENTS = {"train": 400, "valid": 50}


def make(folder: Path) -> Path:
    project = miniature.miniature_project(folder, seed=3)
    with project.config_file.open("a") as file:
        file.write(REDUCED)
    return folder


@pytest.fixture(scope="module")
def aligned(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("first") / "miniature")
    done = heedful(processes, "align", folder, before=fewer_data)
    assert done.returncode == 0, done.stderr
    return folder


def test_results_have_every_section(aligned: Path) -> None:
    results = json.loads((aligned / "results.json").read_text())
    assert [name for name in SECTIONS if not results.get(name)] == []
    assert [m["name"] for m in results["models"]] == [
        "base",
        "prompted_base",
        "sft",
        "ppo",
        "ppo_ptx",
        "base_small",
        "ppo_ptx_small",
    ]
    assert (results["labelers"], results["seed"]) == ("simulated", 3)
    assert {row["group"] for row in results["preference"]["win_rates"]} == {"held_out", "training"}
    assert len(results["curves"]["ppo_ptx"]) == 2
    assert "agreement" in results["reward_model"]


def test_everything_is_marked_simulated(aligned: Path) -> None:
    assert "simulated" in (aligned / "report.html").read_text().lower()
    assert all(row["metadata"]["simulated"] for row in read_rows(aligned / "data" / "demonstrations.jsonl"))


def test_the_labeling_database_holds_all_that_simulated_labelers_did(aligned: Path) -> None:
    database = open_database(aligned / "labels.sqlite")
    assert maintenance.check(database).problems == []
    with database.read() as connection:
        rows = connection.execute(
            select(batch.c.name, task.c.kind, person.c.group_name, task.c.phase, func.count())
            .select_from(assignment.join(task).join(batch).join(person, assignment.c.person_id == person.c.id))
            .where(assignment.c.state == "answered", person.c.simulated)
            .group_by(batch.c.name, task.c.kind, person.c.group_name, task.c.phase)
        )
        assert {tuple(row) for row in rows} == {
            ("data-1: training", "demonstrate", "training", "training", 64 + 16),
            ("collect-1: training", "rank", "training", "training", 24 * 2 + 12 * 2),
            ("collect-1: evaluation", "rank", "held_out", "evaluation", 12 * 2),
            ("evaluate-1: evaluation", "rank", "held_out", "evaluation", 24),
            ("evaluate-1: training", "rank", "training", "training", 24),
        }
        assert connection.execute(select(func.count()).select_from(person)).scalar_one() == 18
        kept: list[Record] = [*labels.stored_demonstrations(connection), *labels.stored_rankings(connection)]
        rated = list(labels.stored_ratings(connection))
    database.close()
    trained_from = [*records_in(aligned / "data", "demonstration"), *records_in(aligned / "runs" / "collect-1", "ranking")]
    assert kept == trained_from + records_in(aligned / "runs" / "evaluate-1", "ranking")
    assert rated == records_in(aligned / "runs" / "collect-1", "rating") + records_in(aligned / "runs" / "evaluate-1", "rating")


def records_in(folder: Path, kind: Kind) -> list[Record]:
    return [record_from_json(kind, row, where=str(folder)) for row in read_rows(folder / f"{kind}s.jsonl")]


def test_exporting_gives_what_was_trained_from_and_changes_no_number(aligned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "miniature"
    shutil.copytree(aligned, folder)
    before = Records.load(folder / "data")
    code, said = run("store", "export", "--project", folder)
    assert code == 0, said
    assert "rejected           0" in said
    after = Records.load(folder / "data")
    assert (after.prompts, after.demonstrations) == (before.prompts, before.demonstrations)
    collected, judged = (records_in(folder / "runs" / name, "ranking") for name in ("collect-1", "evaluate-1"))
    assert list(after.rankings.values()) == collected + judged
    # Whoever takes this data for people's trains on what was trained on here, and on no held-out labeler's answer.
    trained_on = [r for r in after.rankings.values() if r.phase == "training"]
    assert {r.metadata["group"] for r in trained_on} == {"training"}
    of_train = [r for r in after.rankings.values() if after.prompts[r.prompt_id].split == "train"]
    assert of_train == [r for r in trained_on if r in collected and after.prompts[r.prompt_id].split == "train"] != []
    code, said = run("align", folder)
    assert code == 0, said
    assert said.count("done before") == 12
    assert (folder / "results.json").read_bytes() == (aligned / "results.json").read_bytes()


@pytest.mark.long
def test_the_same_seed_gives_the_same_results(aligned: Path, processes: Any, tmp_path: Path) -> None:
    again = make(tmp_path / "miniature")
    done = heedful(processes, "align", again, before=fewer_data)
    assert done.returncode == 0, done.stderr
    assert (again / "results.json").read_bytes() == (aligned / "results.json").read_bytes()
