"""A run folder: config.json, metrics.jsonl, samples.jsonl, checkpoints/ while it runs, and model/ when it is done.

Under ``torchrun`` every rank has a Run of the same folder. Only rank 0 writes logs and prints; all ranks write checkpoints
together.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from heedful import __version__
from heedful.errors import ConfigError, NumericalError, StorageError
from heedful.model.saving import remove_leftovers
from heedful.progress import ProgressLine, progress_line
from heedful.project.files import write_atomically
from heedful.ranks.collectives import all_gather, barrier, require_same
from heedful.ranks.world import set_seed, world
from heedful.training.checkpoint import (
    CHECKPOINTS,
    digest,
    load_checkpoint,
    random_state,
    remove_checkpoints,
    save_checkpoint,
    set_random_state,
)
from heedful.training.sharding import load_into, state_of

# Fields that may change before a run continues, because they affect what it learns only by rounding.
_MAY_CHANGE = (
    "checkpoint_seconds",
    "keep_checkpoints",
    "tensorboard",
    "samples_every",
    "tokens_per_microbatch",
    "activation_checkpointing",
)


class Stateful(Protocol):
    """A model, an optimiser or another object whose state can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run:
    """One run's folder. Metrics are appended; a resumed run drops those after its checkpoint."""

    def __init__(self, folder: Path, config: Any, *, title: str, console: Console | None = None) -> None:
        self.folder, self.title, self.config = Path(folder), title, config
        self._leads = world().is_rank_zero
        self.console = (console or Console(stderr=True)) if self._leads else Console(quiet=True)
        self._identity = {"configuration": {"step": type(config).__name__, **asdict(config)}, "inputs": {}}
        self._tensorboard = _tensorboard_writer() if config.tensorboard and self._leads else None
        self._events: Any = None
        self._purge_from: int | None = None
        if not self._leads:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._checkpoints.exists():  # else only after resume() has compared it with the checkpoint's
                self._write_configuration()
        except OSError as error:
            raise StorageError("the run folder cannot be written", got=str(error), where=folder) from error

    @property
    def model_folder(self) -> Path:
        """Where the finished model is saved."""
        return self.folder / "model"

    def resume(self, parts: Mapping[str, Stateful] | None = None, **inputs: Any) -> dict[str, Any] | None:
        """Load the last checkpoint's states into ``parts`` and the random generators; returns the checkpoint, or None.

        inputs: everything else that determines the run's outcome, by name: the model as given, examples, text. Metrics and
        samples after the checkpoint are cut off (without a checkpoint, all of them), because the run will produce them again.
        Raises ConfigError if the checkpoint was made with another configuration or other inputs, or if the ranks' differ;
        StorageError if all checkpoints are damaged.
        """
        if self._leads:
            remove_leftovers(self.folder)
        barrier()
        self._identity["inputs"] = {name: digest(value) for name, value in inputs.items()}
        require_same("configurations or data", self._identity)
        state = load_checkpoint(self._checkpoints, say=self._say)
        done = 0
        if state is not None:
            self._refuse_another(state["identity"])
            for name, part in (parts or {}).items():
                load_into(part, state[name])
            done = int(state["step"])
            rank, others = world().rank, state.get("random_of_other_ranks", [])
            if rank <= len(others):
                set_random_state([state["random"], *others][rank])
            else:  # fewer ranks wrote the checkpoint
                set_seed(self.config.seed + done)
        if self._leads:
            self._write_configuration()
            (self.folder / "stopped.json").unlink(missing_ok=True)
            for path in self._logs:
                _cut(path, done)
        self._purge_from = done  # from this step on, TensorBoard drops the events of an interrupted run
        if state is not None:
            self.console.print(f"{self.title}: continuing at step {done}")
        return state

    def save(self, step: int, parts: Mapping[str, Stateful] | None = None, **more: Any) -> None:
        """Write a checkpoint after ``step`` steps: the states of ``parts`` and of the random generators, and ``more``.

        The logs are flushed to disk first, so that a checkpoint never has more steps than the logs. Raises StorageError.
        """
        try:
            for path in self._logs if self._leads else ():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise StorageError("a run's log cannot be written", got=str(error), where=self.folder) from error
        if self._events is not None:
            self._events.flush()
        states = {name: state_of(part) for name, part in (parts or {}).items()}
        own, *others = all_gather(random_state())
        more |= {"random_of_other_ranks": others} if others else {}
        state = {"step": step, "identity": self._identity, "random": own, **states, **more}
        save_checkpoint(self._checkpoints, state, keep=self.config.keep_checkpoints, say=self._say)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file with the run's outcome and flush it to disk. Raises StorageError."""
        if not self._leads:
            return
        try:
            with open(self.folder / name, "w", encoding="utf-8") as file:
                file.write(json.dumps(value, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError("a run's outcome cannot be written", got=str(error), where=self.folder / name) from error

    def finish(self) -> None:
        """Remove the checkpoints; call it when the model is saved."""
        remove_checkpoints(self._checkpoints, say=self._say)
        if self._events is not None:
            self._events.close()

    def stop_early(self, step: int, reason: str) -> None:
        """Print why the run ends before its last step, and write it to ``stopped.json``."""
        self.console.print(f"{self.title}: stopped at step {step}: {reason}", markup=False, highlight=False)
        if self._leads:
            write_atomically(self.folder / "stopped.json", json.dumps({"step": step, "reason": reason}, indent=2) + "\n")

    def log(self, step: int, metrics: Mapping[str, float | Mapping[str, float]]) -> None:
        """Append one line to metrics.jsonl. A metric is a number, or several named numbers.

        Raises NumericalError if a metric is NaN or infinite.
        """
        row = {"step": step, **{name: _written(value) for name, value in metrics.items()}}
        self._append("metrics.jsonl", [row])
        numbers = dict(_flat(metrics))
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise NumericalError(
                f"{self.title}: {', '.join(bad)} is not a finite number at step {step}",
                expected="finite numbers",
                got=", ".join(f"{name} = {numbers[name]}" for name in bad),
                where=self.folder / "metrics.jsonl",
                next_step="lower the learning rate, or look for broken examples in the data; the last checkpoint is untouched",
            )
        if self._tensorboard is not None:
            if self._events is None:
                self._events = self._tensorboard(str(self.folder / "tensorboard"), purge_step=self._purge_from)
            for name, value in numbers.items():
                self._events.add_scalar(f"{self.title}/{name}", value, step)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl. Raises StorageError."""
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    @contextmanager
    def progress(self, total: int, *, done: int = 0, unit: str = "steps") -> Iterator[ProgressLine]:
        """A progress bar with the time left; without a terminal, plain lines."""
        with progress_line(self.title, total, done=done, unit=unit, console=self.console) as line:
            yield line

    def _say(self, text: str) -> None:
        self.console.print(f"{self.title}: {text}", markup=False, highlight=False)

    @property
    def _checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def _logs(self) -> list[Path]:
        return [path for name in ("metrics.jsonl", "samples.jsonl") if (path := self.folder / name).is_file()]

    def _write_configuration(self) -> None:
        resolved = {"heedful": __version__, "step": self.title, **asdict(self.config)}
        (self.folder / "config.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")

    def _refuse_another(self, made_with: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ConfigError if a checkpoint was made with another configuration or other inputs than this run has."""
        # Before a setting existed, runs behaved like its default. So an older checkpoint counts as made with the default.
        defaults = {field.name: field.default for field in fields(self.config)}
        was = {**defaults, **made_with["configuration"], **made_with["inputs"]}
        now = {**self._identity["configuration"], **self._identity["inputs"]}
        other = [name for name in {**was, **now} if was.get(name) != now.get(name) and name not in _MAY_CHANGE]
        if other:
            raise ConfigError(
                f"{self.title}: there are checkpoints of another run in this folder",
                expected=", ".join(f"{name} = {was.get(name)}" for name in other),
                got=", ".join(f"{name} = {now.get(name)}" for name in other),
                where=self._checkpoints,
                next_step="use the checkpoints' settings and data, give another folder, or delete them to start again",
            )

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        if not self._leads:
            return
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


def _written(value: float | Mapping[str, float]) -> Any:
    if isinstance(value, Mapping):
        return {name: _number(number) for name, number in value.items()}
    return _number(value)


def _number(value: float) -> float | str:
    """The number with seven significant digits. JSON has no NaN and no infinity, so these become text."""
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


def _flat(metrics: Mapping[str, float | Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", number) for key, number in value.items())
        else:
            yield name, value


def _cut(path: Path, done: int) -> None:
    """Cut a log before the first line that belongs to step ``done`` or later or is incomplete."""
    kept = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _step_of(line) >= done:
                break
            kept += len(line)
    os.truncate(path, kept)


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # not one of our lines, so cut it


def _tensorboard_writer() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed", expected="the package tensorboard", next_step="pip install 'heedful[tensorboard]'"
        ) from error
    return SummaryWriter
