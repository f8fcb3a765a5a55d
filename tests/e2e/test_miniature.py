"""The built-in miniature from data to report with the shipped weights, much reduced: it runs, and twice to the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.align.small_project import heedful, read_rows

from heedful.miniature import project as miniature

WEIGHTS = miniature.WEIGHTS / "medium" / "config.json"

pytestmark = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="the miniature's weights are not made: python -m heedful.miniature.base small medium"
)

REDUCED = """
[sft]
epochs = 1
candidates = 1

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
FEW = """
import sys
from heedful.miniature import project
project.DEMONSTRATED = {"train": 64, "valid": 16}
project.UNLABELED = {"train": 96, "valid": 24, "test": 32}
project.PRETRAINING_DOCUMENTS = {"train": 400, "valid": 50}
from heedful.cli import main
main(sys.argv[1:])
"""
SECTIONS = (
    "models",
    "data",
    "preference",
    "ratings",
    "reward_model",
    "sft_checkpoints",
    "prefix",
    "benchmarks",
    "alignment_tax",
    "curves",
    "transcripts",
)


def make(folder: Path) -> Path:
    project = miniature.miniature_project(folder, seed=3)
    with project.config_file.open("a") as file:
        file.write(REDUCED)
    return folder


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("first") / "miniature")
    done = heedful("align", folder, program=FEW)
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


def test_the_same_seed_gives_the_same_results(aligned: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "miniature")
    done = heedful("align", again, program=FEW)
    assert done.returncode == 0, done.stderr
    assert (again / "results.json").read_bytes() == (aligned / "results.json").read_bytes()
