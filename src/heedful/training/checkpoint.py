"""What a run needs to continue after a kill: one file, written aside, fsynced and renamed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from heedful.errors import StorageError

STATE_FILE = "checkpoint.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state: all of it or nothing. Raises StorageError; then the previous checkpoint is untouched."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        # torch.save reports a failing disk as a RuntimeError of its zip writer; what the system said is that error's context.
        if isinstance(error, OSError | RuntimeError):
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise StorageError(
                "a checkpoint could not be written",
                expected="room on the disk",
                got=str(cause).partition("\n")[0] or type(cause).__name__,
                where=path,
                next_step="free some space and run the same command again: the previous checkpoint is untouched",
            ) from error
        raise


def load_state(path: Path) -> dict[str, Any] | None:
    """The state at ``path``, or None where there is none. Raises StorageError where it is damaged."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StorageError(
            "a checkpoint is damaged",
            expected="a file written by this version of Heedful",
            got=str(error).partition("\n")[0] or type(error).__name__,
            where=path,
            next_step="delete it to start this step again",
        ) from error


class CheckpointTimer:
    """Says when the next checkpoint is due."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.last = clock()

    def due(self) -> bool:
        if self.clock() - self.last < self.seconds:
            return False
        self.last = self.clock()
        return True
