"""Every benchmark, in every setting, end to end on a base model of the miniature."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tests.align.small_project import run
from tests.evaluate.benchmarks.data_sets import write_data_sets

from heedful.evaluate.benchmarks.task_table import TASKS
from heedful.miniature.preparation import base_model_folder


def test_every_benchmark_in_every_setting(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data, out = write_data_sets(tmp_path / "data", rows=3), tmp_path / "out"
    model = base_model_folder("small")
    code, said = run("evaluate", "benchmarks", f"small={model}", "--data", data, "--out", out, "--precision", "float32")
    assert code == 0, said
    results = json.loads((out / "results.json").read_text())
    wanted = {f"{task.name}.{setting}" for task in TASKS if task.in_paper for setting in task.settings}
    assert {one["name"] for one in results["series"]} == wanted
    for score in results["scores"]:
        judged = not score["series"].startswith("truthfulqa")  # it has no judge here
        assert (score["estimate"]["value"] is not None and score["num_unscored"] == 0) == judged, score
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert {row["series"] for row in timings} == wanted
    assert all(row["seconds"] >= 0 and row["peak_memory_bytes"] > 2**20 for row in timings)
