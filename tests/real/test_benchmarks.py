"""Real benchmark data through the tasks, end to end on a small model; the numbers of rows are counted by other code."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.align.small_project import run
from tests.evaluate.benchmarks.test_benchmark_run import write_model
from tests.real.test_import import pytestmark, real  # noqa: F401  (pytestmark marks this file too)

from heedful.evaluate.benchmarks.series import series_of
from heedful.evaluate.benchmarks.task_table import Setting, task_named
from heedful.evaluate.benchmarks.toxicity import AGREEMENT, toxicity

PLACES = {
    "truthfulqa/TruthfulQA.csv": "truthfulqa/TruthfulQA.csv",
    "crows_pairs/crows_pairs_anonymized.csv": "crows_pairs/crows_pairs_anonymized.csv",
    "winogender/all_sentences.tsv": "winogender/all_sentences.tsv",
    "rte/val.jsonl": "sst2_rte/rte_val.jsonl",
    "rte/train.jsonl": "sst2_rte/rte_train.jsonl",
    "sst/dev.txt": "sst2_rte/sst2_dev.txt",
    "sst/train.txt": "sst2_rte/sst2_train.txt",
    "hellaswag/val.jsonl": "mosaic_gauntlet/hellaswag_small.jsonl",
    "arc_easy/test.jsonl": "mosaic_gauntlet/arc_easy.jsonl",
    "arc_challenge/test.jsonl": "mosaic_gauntlet/arc_challenge.jsonl",
    "boolq/val.jsonl": "mosaic_gauntlet/boolq.jsonl",
    "winograd/winograd_wsc.jsonl": "mosaic_gauntlet/winograd_wsc.jsonl",
}
"""Where a task looks for its file, and where it is among the real data."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for place, name in PLACES.items():
        path = real(name)
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(path.resolve())
    return folder


@pytest.mark.parametrize(
    ("task", "setting", "count"),
    [
        ("winogender", "basic", 120),
        ("crows_pairs", "biased", 1508),
        ("truthfulqa", "qa", 813),  # this copy is older than the paper's 817
        ("rte", "few-shot", 277),
        ("sst", "few-shot", 872),
        ("hellaswag", "zero-shot", 4),
        ("arc_easy", "zero-shot", 2376),
        ("arc_challenge", "zero-shot", 1172),
        ("boolq", "zero-shot", 3270),
        ("winograd", "zero-shot", 273),
    ],
)
def test_every_row_becomes_an_item(data: Path, task: str, setting: Setting, count: int) -> None:
    assert len(series_of(task_named(task), setting, data).items) == count


def test_prompts_of_real_rows(data: Path) -> None:
    with real("truthfulqa/TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for item, row in zip(series_of(task_named("truthfulqa"), "instruction", data).items, rows, strict=True):
        assert item.prompt.endswith(f"\n\nQ: {row['Question']}\nA:")
        assert item.facts["right"][0] in row["Correct Answers"]
    sst = series_of(task_named("sst"), "zero-shot", data).items
    lines = real("sst2_rte/sst2_dev.txt").read_text(encoding="utf-8").splitlines()
    assert [item.answer for item in sst] == [int(line[0]) for line in lines]
    pairs = series_of(task_named("winogender"), "basic", data).items
    differing = [sum(a != b for a, b in zip(*(sentence.split() for _, sentence in item.pairs), strict=True)) for item in pairs]
    assert set(differing) == {1}


def test_runs_end_to_end(data: Path, tmp_path: Path) -> None:
    """HEEDFUL_REAL_MODEL is measured beside a random model if it is there: it must be better where chance says so."""
    models = [f"random={write_model(tmp_path / 'random', 0)}"]
    folder = os.environ.get("HEEDFUL_REAL_MODEL")
    if folder:
        models.append(f"real={folder}")
    limit = 40 if folder else 8
    arguments = ("evaluate", "benchmarks", *models, "--data", data, "--out", tmp_path / "out", "--limit", limit)
    code, said = run(*arguments, "--settings", "zero-shot", "basic", "qa")
    assert code == 0, said
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {one["task"] for one in found["series"]} == {place.split("/")[0] for place in PLACES}
    scores = {(s["model"], s["series"]): s["estimate"]["value"] for s in found["scores"]}
    assert all(0 <= value <= 1 for (_, series), value in scores.items() if not series.startswith("truthfulqa"))
    if folder:
        assert scores["real", "arc_easy.zero-shot"] > scores["random", "arc_easy.zero-shot"]
        assert scores["real", "winograd.zero-shot"] > 0.5
    shutil.rmtree(tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- toxicity


def perspective() -> tuple[list[str], np.ndarray[Any, Any]]:
    with real("perspective_scores/scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([float(row["toxicity"]) for row in rows])


def test_the_scorer_agrees_with_perspective_as_is_printed() -> None:
    """Pearson and AUC by their definitions, on texts with released scores."""
    pytest.importorskip("profanity_check", reason="alt-profanity-check (extra eval) is not installed")
    texts, released = perspective()
    scores = np.array(toxicity(texts))
    toxic = released >= 0.5
    wins = (scores[toxic][:, None] > scores[~toxic]).mean() + 0.5 * (scores[toxic][:, None] == scores[~toxic]).mean()
    assert (len(texts), int(toxic.sum())) == (AGREEMENT.num_texts, AGREEMENT.num_toxic)
    assert float(np.corrcoef(scores, released)[0, 1]) == pytest.approx(AGREEMENT.pearson, abs=0.005)
    assert float(wins) == pytest.approx(AGREEMENT.auc, abs=0.005)
