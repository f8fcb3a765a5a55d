"""What a run needs to continue after a kill: folders ``checkpoints/step-N`` that hold the state and its checksum.

A checkpoint is written aside, flushed to the disk and renamed, so it is there whole or not at all. It is verified by its
checksum before it is read (`sha256sum --check SHA256SUMS` in its folder does the same), and where it is damaged the one before
it takes its place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from heedful.errors import StorageError
from heedful.model import ASIDE, write_folder
from heedful.training.data import PretrainingText

CHECKPOINTS = "checkpoints"
STATE_FILE, CHECKSUM_FILE = "state.pt", "SHA256SUMS"


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int) -> None:
    """Write ``state`` to ``folder/step-N``, N being ``state["step"]``; then remove all but the ``keep`` newest checkpoints.

    A kill at any moment leaves the old checkpoints or the new one, all of them whole. Raises StorageError (disk full); then
    the previous checkpoints are untouched.
    """

    def write(aside: Path) -> None:
        try:
            with open(aside / STATE_FILE, "wb") as file:
                torch.save(dict(state), file)
        except RuntimeError as error:
            # torch.save reports a failing disk as an error of its zip writer; what the system said is that error's context.
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
        (aside / CHECKSUM_FILE).write_text(f"{_checksum(aside / STATE_FILE)}  {STATE_FILE}\n", encoding="ascii")

    write_folder(folder / f"step-{state['step']}", write)
    for old in _newest_first(folder)[keep:]:
        _remove(old)


def load_checkpoint(folder: Path, *, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint's state, or None where there is none.

    Where the newest is damaged, ``say`` tells so, it is removed, and the one before it is taken. Raises StorageError where all
    are damaged; then they are left as they are.
    """
    damaged: list[tuple[Path, Exception]] = []
    for path in _newest_first(folder):
        try:
            state = _read(path)
        except Exception as error:  # torch.load raises nearly anything for a damaged file
            damaged.append((path, error))
            continue
        for newer, error in damaged:
            say(f"{newer.name} is damaged ({_first_line(error)}): going back to {path.name}")
            _remove(newer)
        return state
    if damaged:
        path, error = damaged[0]
        raise StorageError(
            "the checkpoint is damaged, and there is no other" if len(damaged) == 1 else "all checkpoints are damaged",
            expected="a checkpoint as this version of Heedful wrote it",
            got=_first_line(error),
            where=path,
            next_step=f"delete {folder} to start this step again",
        )
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints at once: a kill on the way leaves none that is half removed."""
    if folder.is_dir():
        _remove(folder)


def digest(value: Any) -> str:
    """Identifies what a step is given: a model's weights, examples, text; equal values give equal digests in any process."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:16]


def random_state() -> dict[str, Any]:
    """The states of torch's global random generators. Numpy's need none: each is made from the seed and a place in the run."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back. A run that goes on with another number of GPUs keeps the new ones' own states."""
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


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


def _newest_first(folder: Path) -> list[Path]:
    numbered = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*") if path.name[5:].isdigit()}
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _read(path: Path) -> dict[str, Any]:
    expected = (path / CHECKSUM_FILE).read_text(encoding="ascii").split(maxsplit=1)[0]
    if _checksum(path / STATE_FILE) != expected:
        raise ValueError("its checksum is another")
    return torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Remove a folder: first by its name, so that what a kill leaves of it is taken for nothing else."""
    aside = folder.with_name(f"{ASIDE}{folder.name}-removed")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _parts(value: Any) -> Iterable[bytes]:
    if isinstance(value, torch.nn.Module):
        for name, tensor in value.state_dict().items():
            yield name.encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, PretrainingText):
        yield value.tokens.tobytes()
        yield value.offsets.tobytes()
    elif isinstance(value, list | tuple):
        for item in value:
            yield repr(item).encode()
    else:
        yield repr(value).encode()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
