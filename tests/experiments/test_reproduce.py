"""``heedful reproduce``, much reduced: from bare base models to results, and again without doing anything twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.align.small_project import heedful, run, send_itself

from heedful.align import controls
from heedful.errors import ConfigError
from heedful.experiments import reproduction
from heedful.experiments.catalogue import experiment_named, planned_variants
from heedful.experiments.experiment_run import Wanted
from heedful.experiments.reproduction import Extent
from heedful.miniature import preparation, solved_tasks
from heedful.presets import miniature, resolved_preset

TINY = Extent(
    name="quick",
    tables="""
[sft]
epochs = 1
candidates = 1
max_response_tokens = 16

[initial_policy]
epochs = 1
candidates = 1
max_response_tokens = 16

[task_mixture]
epochs = 1
candidates = 1
max_response_tokens = 16

[reward]
epochs = 1

[ppo]
episodes = 16
batch_size = 16
minibatches = 2
max_response_tokens = 16

[collect]
prompts = 6
validation_prompts = 6
smallest_k = 2
largest_k = 3

[evaluate]
prompts = 6
labelers_per_prompt = 1
benchmark_items = 2
choice_prompts = 2
""",
    experiments={"kl": Wanted(values=(miniature().ppo.kl_coefficient,), prompts=3, samples=1)},
    labeler_seeds=0,
)


def reduce() -> None:
    """Let this process make a reproduction of few prompts and documents, one stage after the other."""
    preparation.DEMONSTRATED = {"train": 12, "valid": 4}
    preparation.UNLABELED = {"train": 16, "valid": 8, "test": 8}
    preparation.PRETRAINING_DOCUMENTS = {"train": 60, "valid": 10}
    solved_tasks.NUM_TASKS = {"train": 20, "valid": 5}
    controls.NUM_PROMPTS, controls.SAMPLES, controls.BEST_OF = 4, 2, (1, 2)
    reproduction.QUICK = TINY
    reproduction.PROCESSES = 1
    reproduction.shipped_sizes = lambda: ["small"]  # each further size takes as long again


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {
        (module, name): getattr(module, name)
        for module, names in (
            (preparation, ("DEMONSTRATED", "UNLABELED", "PRETRAINING_DOCUMENTS")),
            (solved_tasks, ("NUM_TASKS",)),
            (controls, ("NUM_PROMPTS", "SAMPLES", "BEST_OF")),
            (reproduction, ("QUICK", "PROCESSES", "shipped_sizes")),
        )
        for name in names
    }
    for (module, name), value in before.items():
        monkeypatch.setattr(module, name, value)  # so that it is put back
    reduce()


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "results.json").read_text())


def test_from_base_models_to_results(reduced: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mini"
    code, said = run("reproduce", folder, "--quick")
    assert code == 0, said
    assert "part 2 of 2: experiment kl on the small model" in said
    found = results_of(folder)
    rows = {(row["size"], row["model"]): row for row in found["figure_1"]["rows"]}
    models = ("base", "prompted_base", "task_mixture", "sft", "ppo", "ppo_ptx")
    assert list(rows) == [("small", model) for model in models]
    assert rows["small", "sft"]["win_rate"] == 0.5
    assert found["figure_1"]["num_prompts"] == 6
    assert found["experiments"]["kl"]["points"][0]["folder"] == "runs/ppo-1"  # the project's own policy
    page = (folder / "results" / "reproduction.md").read_text()
    for image in ("figure-1.svg", "kl-benchmarks.svg", "kl-win-rate.svg"):
        assert f"({image})" in page
        assert (folder / "results" / image).read_text().startswith("<svg")
    assert "heedful reproduce --quick" in page

    before = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    stages = {path: path.stat().st_mtime_ns for path in folder.rglob("stage.json")}
    code, said = run("reproduce", folder, "--quick")
    assert code == 0, said
    assert {path: path.read_bytes() for path in (folder / "results").iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("stage.json")} == stages

    with pytest.raises(ConfigError, match="another reproduction"):
        reproduction.reproduce(folder, TINY, 1, Console(quiet=True))


@pytest.mark.long
def test_killed_it_ends_with_the_same_results(reduced: None, tmp_path: Path, processes: Any) -> None:
    code, said = run("reproduce", tmp_path / "whole", "--quick")
    assert code == 0, said
    folder = tmp_path / "killed"
    kills = (("sft", 0, "log"), ("reward", 0, "log"), ("task_mixture", 0, "save"), ("ppo_ptx", 0, "log"), ("ppo", 0, "save"))
    for title, last, where in kills:

        def before(title: str = title, last: int = last, where: str = where) -> None:
            reduce()
            send_itself(signal.SIGKILL, title, last, where)

        ended = heedful(processes, "reproduce", folder, "--quick", before=before)
        assert ended.returncode == -signal.SIGKILL, (title, ended.stderr[-2_000:])
    ended = heedful(processes, "reproduce", folder, "--quick", before=reduce)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    assert _without_times(results_of(folder)) == _without_times(results_of(tmp_path / "whole"))


def _without_times(results: dict[str, Any]) -> dict[str, Any]:
    for found in results["experiments"].values():
        for point in found["points"]:
            del point["seconds"]
        found["best"] = None
    return results


def test_each_size_is_a_project_and_the_largest_model_starts_the_reward_models(tmp_path: Path) -> None:
    sizes = reproduction.shipped_sizes()
    assert sizes == ["tiny", "small", "medium"]
    for size in sizes:
        project = reproduction._project(tmp_path, size, sizes, reproduction.FULL, 3)
        assert (project.seed, project.task_mixture, project.small_model) == (3, "benchmarks", None)
        assert Path(project.base_model).name == size
        assert project.reward_start == (None if size == sizes[-1] else str(preparation.base_model_folder(sizes[-1])))


@pytest.mark.parametrize("extent", [reproduction.QUICK, reproduction.FULL], ids=lambda one: one.name)
def test_every_part_can_be_planned(extent: Extent, tmp_path: Path) -> None:
    sizes = reproduction.shipped_sizes()
    preset = resolved_preset(reproduction._project(tmp_path, sizes[0], sizes, extent, 0))
    for name, wanted in extent.experiments.items():
        assert planned_variants(experiment_named(name), preset, values=wanted.values)[1]


def test_there_must_be_base_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "WEIGHTS", tmp_path)
    code, said = run("reproduce", tmp_path / "mini", "--quick")
    assert (code, "no base model ships" in said) == (2, True)
