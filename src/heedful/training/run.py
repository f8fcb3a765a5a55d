"""A run folder: config.json, metrics.jsonl, samples.jsonl, checkpoint.pt while it runs, and model/ when it is done."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from heedful import __version__
from heedful.errors import NumericalError, StorageError
from heedful.training.checkpoint import STATE_FILE, load_state, save_state

_PLAIN_LINES = 10  # progress lines of a step where the output is not a terminal


class Run:
    """One step's folder. Metrics are appended as they come; a resumed run drops those after its checkpoint."""

    def __init__(self, folder: Path, config: Any, *, title: str, console: Console | None = None) -> None:
        self.folder, self.title = Path(folder), title
        self.console = console or Console(stderr=True)
        self._tensorboard: Any = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            resolved = {"heedful": __version__, "step": title, **asdict(config)}
            (self.folder / "config.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError("the run folder cannot be written", got=str(error), where=folder) from error
        if config.tensorboard:
            self._tensorboard = _tensorboard_writer(self.folder)

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint, or None; metrics and samples after it are cut off, because they will be made again."""
        state = load_state(self.folder / STATE_FILE)
        done = -1 if state is None else int(state["step"])
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.folder / name
            if path.is_file():
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) < done]
                path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        if state is not None:
            self.console.print(f"{self.title}: continuing at step {done}")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint; ``state["step"]`` is the number of steps that are done."""
        save_state(self.folder / STATE_FILE, state)

    def finish(self) -> None:
        """The model is saved: the checkpoint is not needed any more."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        if self._tensorboard is not None:
            self._tensorboard.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl. Raises NumericalError where the loss or another metric is NaN or infinite."""
        row = {"step": step, **{name: _number(value) for name, value in metrics.items()}}
        self._append("metrics.jsonl", [row])
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise NumericalError(
                f"{self.title}: {', '.join(bad)} is not a finite number at step {step}",
                expected="finite numbers",
                got=", ".join(f"{name} = {metrics[name]}" for name in bad),
                where=self.folder / "metrics.jsonl",
                next_step="lower the learning rate, or look for broken examples in the data; the last checkpoint is untouched",
            )
        if self._tensorboard is not None:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(f"{self.title}/{name}", value, step)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    @contextmanager
    def progress(self, total: int, *, done: int = 0, unit: str = "steps") -> Iterator[ProgressLine]:
        """A bar with time left on a terminal, else a plain line every tenth of the way."""
        with progress_line(self.title, total, done=done, unit=unit, console=self.console) as line:
            yield line

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        try:
            with open(self.folder / name, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except OSError as error:
            raise StorageError(
                "a run's log cannot be written",
                got=str(error),
                where=self.folder / name,
                next_step="free some space, run again",
            ) from error


class ProgressLine:
    """Progress of one long piece of work."""

    def __init__(self, progress: Progress | None, task: Any, title: str, total: int, unit: str, console: Console) -> None:
        self._progress, self._task = progress, task
        self._title, self._total, self._unit, self._console = title, total, unit, console
        self._done = 0
        self._printed = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if self._progress is not None:
            self._progress.update(self._task, advance=amount, note=note)
        elif self._done * _PLAIN_LINES // max(1, self._total) > self._printed:
            self._printed = self._done * _PLAIN_LINES // max(1, self._total)
            self._console.print(f"{self._title}: {self._done:,}/{self._total:,} {self._unit}  {note}", highlight=False)


@contextmanager
def progress_line(
    title: str, total: int, *, done: int = 0, unit: str = "steps", console: Console | None = None
) -> Iterator[ProgressLine]:
    """A progress bar with time left on a terminal, else a plain line every tenth of the way."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        line = ProgressLine(None, None, title, total, unit, console)
        line._done = done
        line._printed = done * _PLAIN_LINES // max(1, total)
        yield line
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield ProgressLine(progress, task, title, total, unit, console)


def _number(value: float) -> float | str:
    """Seven digits, so that a learning rate of 9e-6 is not rounded off. JSON has no NaN: it is written as text."""
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # a line cut by a kill: dropped


def _tensorboard_writer(folder: Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        from heedful.errors import ConfigError

        raise ConfigError(
            "TensorBoard is not installed", expected="the package tensorboard", next_step="pip install 'heedful[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
