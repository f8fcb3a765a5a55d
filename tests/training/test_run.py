from __future__ import annotations

import errno
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.training.interrupting import quiet

from heedful import __version__
from heedful.errors import NumericalError, StorageError
from heedful.training import run as run_module
from heedful.training.config import SFTConfig
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
    run.save({"step": 3})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    again = make(tmp_path)
    assert again.resume() == {"step": 3}
    assert [row["step"] for row in again.metrics()] == [0, 1, 2]
    assert [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [0, 1, 2]
    again.finish()
    assert make(tmp_path).resume() is None
    assert again.metrics() == []  # a run without a checkpoint begins anew


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


def test_no_tensorboard_unless_asked(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.log(0, {"loss": 1.5})
    run.finish()
    assert not (tmp_path / "tensorboard").exists()
