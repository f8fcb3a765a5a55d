from __future__ import annotations

import errno
import itertools
import json
import math
import os
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.training.interrupting import quiet

from heedful import __version__
from heedful.errors import ConfigError, NumericalError, StorageError
from heedful.training import run as run_module
from heedful.training.config import RewardConfig, SFTConfig
from heedful.training.run import Run, progress_line


def make(folder: Path, **settings: Any) -> Run:
    return Run(folder, SFTConfig(**settings), title="sft", console=quiet())


def test_the_resolved_configuration_is_written(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "sft-1", seed=5)
    written = json.loads((tmp_path / "runs" / "sft-1" / "config.json").read_text())
    assert written["seed"] == 5
    assert written["learning_rate"] == 9.65e-6
    assert (written["step"], written["heedful"]) == ("sft", __version__)


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log(0, {"loss": 1.5, "learning_rate": 9.65e-6})
    run.log(1, {"loss": 1.25})
    assert run.metrics() == [{"step": 0, "loss": 1.5, "learning_rate": 9.65e-6}, {"step": 1, "loss": 1.25}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_stops_the_run_with_its_name(value: float, tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(NumericalError, match="gradient_norm is not a finite number at step 3") as caught:
        run.log(3, {"loss": 1.0, "gradient_norm": value})
    assert caught.value.exit_code == 1
    assert "learning rate" in str(caught.value)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line == {"step": 3, "loss": 1.0, "gradient_norm": str(value)}


def test_resume_cuts_what_will_be_made_again(tmp_path: Path) -> None:
    """... and a line that a kill left half written."""
    run = make(tmp_path)
    for step in range(5):
        run.log(step, {"loss": float(step)})
        run.samples(step, [{"response": "a"}])
    run.save(3, more=[1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    again = make(tmp_path)
    state = again.resume()
    assert state is not None
    assert (state["step"], state["more"]) == (3, [1, 2])
    assert [row["step"] for row in again.metrics()] == [0, 1, 2]
    assert [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [0, 1, 2]
    again.finish()
    assert make(tmp_path).resume() is None
    assert again.metrics() == []  # a run without a checkpoint begins anew


def test_parts_and_the_random_generator_are_put_back(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    run = make(tmp_path)
    run.resume({"model": model})
    run.save(1, {"model": model})
    drawn = torch.rand(3)
    other = torch.nn.Linear(3, 2)
    make(tmp_path).resume({"model": other})
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(torch.rand(3), drawn)


def test_a_line_that_a_kill_left_half_written_is_cut_without_a_checkpoint_after_it(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in range(3):
        run.log(step, {"loss": float(step)})
    run.save(4)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 1.0}')  # whole, but for its end: the next line would be added to it
    again = make(tmp_path)
    again.resume()
    again.log(3, {"loss": 2.0})
    assert [(row["step"], row["loss"]) for row in again.metrics()] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 2.0)]


def test_the_logs_are_on_disk_before_the_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could leave a checkpoint whose earlier lines are missing."""
    run = make(tmp_path)
    run.log(0, {"loss": 1.0})
    synced: list[str] = []
    monkeypatch.setattr(run_module.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    run.save(1)
    assert synced[0] == str(tmp_path / "metrics.jsonl")
    assert "state.pt" in synced[1] or "SHA256SUMS" in synced[1]


@pytest.mark.parametrize(
    ("changed", "inputs", "named"),
    [
        ({"learning_rate": 1e-4}, {}, "learning_rate = 0.0001"),
        ({"residual_dropout": 0.3, "seed": 4}, {}, "residual_dropout = 0.3"),
        ({}, {"examples": [1, 3]}, "examples = "),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    changed: dict[str, Any], inputs: dict[str, Any], named: str, tmp_path: Path
) -> None:
    run = make(tmp_path)
    run.resume(examples=[1, 2])
    run.log(0, {"loss": 1.0})
    run.save(1)
    with pytest.raises(ConfigError, match="checkpoints of another run") as caught:
        make(tmp_path, **changed).resume(**{"examples": [1, 2], **inputs})
    assert caught.value.exit_code == 2
    assert named in str(caught.value)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert "give another folder" in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 9.65e-6  # nothing was touched
    assert len(run.metrics()) == 1
    state = make(tmp_path).resume(examples=[1, 2])
    assert state is not None


def test_a_checkpoint_from_before_a_setting_existed_is_continued_with_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    older = {key: value for key, value in run._identity["configuration"].items() if key != "pretraining_share_of"}
    monkeypatch.setitem(run._identity, "configuration", older)
    run.save(1)
    assert make(tmp_path).resume() is not None
    with pytest.raises(ConfigError, match="pretraining_share_of = loss"):
        make(tmp_path, pretraining_share_of="loss").resume()


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    make(tmp_path).save(1)
    with pytest.raises(ConfigError, match="checkpoints of another run"):
        Run(tmp_path, RewardConfig(), title="reward", console=quiet()).resume()


def test_what_changes_nothing_that_is_learned_may_change(tmp_path: Path) -> None:
    make(tmp_path).save(1)
    state = make(tmp_path, checkpoint_seconds=5.0, keep_checkpoints=9, tokens_per_microbatch=10).resume()
    assert state is not None
    assert json.loads((tmp_path / "config.json").read_text())["keep_checkpoints"] == 9


def test_a_damaged_checkpoint_is_said_and_the_metrics_go_back_with_it(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in range(4):
        run.log(step, {"loss": float(step)})
        run.save(step + 1)
    (tmp_path / "checkpoints" / "step-4" / "state.pt").write_bytes(b"")
    text = StringIO()
    again = Run(tmp_path, SFTConfig(), title="sft", console=Console(file=text, width=300))
    state = again.resume()
    assert state is not None
    assert state["step"] == 3
    assert [row["step"] for row in again.metrics()] == [0, 1, 2]
    assert "step-4 is damaged" in text.getvalue()
    assert "continuing at step 3" in text.getvalue()


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    for left in (".aside-model-abc", "candidates/.aside-epoch-1-abc", "checkpoints/.aside-step-3-abc"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "half").write_text("")
    assert make(tmp_path).resume() is None
    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


def test_several_numbers_of_one_metric(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log(0, {"accuracy_by_k": {"4": 0.5, "9": 0.75}})
    assert run.metrics() == [{"step": 0, "accuracy_by_k": {"4": 0.5, "9": 0.75}}]
    with pytest.raises(NumericalError, match="accuracy_by_k/9"):
        run.log(1, {"accuracy_by_k": {"4": 0.5, "9": math.nan}})


def test_why_a_run_was_stopped_is_kept_until_it_begins_again(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.stop_early(7, "KL")
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 7, "reason": "KL"}
    make(tmp_path).resume()
    assert not (tmp_path / "stopped.json").exists()


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert make(tmp_path).resume() is None


def test_a_folder_or_log_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        make(tmp_path / "file" / "run")
    run = make(tmp_path / "run")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module, "open", full, raising=False)
    with pytest.raises(StorageError, match="No space left"):
        run.log(0, {"loss": 1.0})


def lines(total: int, *, done: int = 0, at_a_time: int = 1) -> list[str]:
    text = StringIO()
    with progress_line("sft", total, done=done, console=Console(file=text, width=200)) as line:
        for _ in range((total - done) // at_a_time):
            line.advance(at_a_time, note="loss 1.000")
    return text.getvalue().splitlines()


def test_where_the_output_is_no_terminal_a_plain_line_every_tenth_of_the_way() -> None:
    assert [line.split()[1] for line in lines(50)] == [f"{n}/50" for n in range(5, 51, 5)]
    assert lines(50)[-1].split() == ["sft:", "50/50", "steps", "loss", "1.000"]
    assert [line.split()[1] for line in lines(50, done=24)] == [f"{n}/50" for n in range(25, 51, 5)]
    assert len(lines(3)) == 3
    assert len(lines(2_000, at_a_time=500)) == 4
    assert not any("\x1b" in line for line in lines(20))


def test_a_plain_line_says_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of fifty steps were done before. Each line stands for five steps, and the clock says three seconds more for each."""
    monkeypatch.setattr("heedful.progress.time", SimpleNamespace(monotonic=partial(next, itertools.count(100, 3))))
    said = [line.split() for line in lines(50, done=10, at_a_time=5)]
    assert said[0] == ["sft:", "15/50", "steps,", "0:00:21", "left", "loss", "1.000"]
    assert said[-2][:5] == ["sft:", "45/50", "steps,", "0:00:03", "left"]
    assert "left" not in said[-1]


def test_on_a_terminal_a_bar() -> None:
    text = StringIO()
    with progress_line("sft", 4, console=Console(file=text, force_terminal=True, width=120)) as line:
        for _ in range(4):
            line.advance(note="loss 1.000")
    assert "\x1b" in text.getvalue()
    assert "4/4" in text.getvalue()


def test_tensorboard_when_asked(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    run = make(tmp_path, tensorboard=True)
    run.log(0, {"loss": 1.5})
    run.log(1, {"loss": 0.5})
    run.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("sft/loss")] == [(0, 1.5), (1, 0.5)]


def test_tensorboard_has_each_step_once_after_a_kill(tmp_path: Path) -> None:
    """Killed after step 3, its checkpoint is of step 2: what was written before it is there, the rest is written again."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    run = make(tmp_path, tensorboard=True)
    run.resume()
    for step in range(4):
        run.log(step, {"loss": float(step)})
        if step == 1:
            run.save(2)
            saved = {file: file.read_bytes() for file in (tmp_path / "tensorboard").iterdir()}
    run._events.flush()
    for killed in (False, True):
        if killed:  # what a kill loses: all that was not flushed when the checkpoint was written
            for file, content in saved.items():
                file.write_bytes(content)
        again = make(tmp_path, tensorboard=True)
        again.resume()
        for step in range(2, 5):
            again.log(step, {"loss": 10.0 + step})
        again._events.flush()
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        found = [(e.step, e.value) for e in events.Scalars("sft/loss")]
        assert found == [(0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]


def test_no_tensorboard_unless_asked(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log(0, {"loss": 1.5})
    run.finish()
    assert not (tmp_path / "tensorboard").exists()
