"""Checkpoints, from which a killed run continues: folders ``checkpoints/step-N`` with the state and its checksum.

A checkpoint is written under another name, flushed to disk and renamed, so it is complete or absent. Its checksum is verified
before it is read (`sha256sum --check SHA256SUMS` in its folder does the same). If it is damaged, the one before it is used.
Under ``torchrun`` all ranks write and verify one checkpoint together; any number of ranks can read it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException

from heedful.errors import StorageError
from heedful.model.saving import ASIDE, write_folder
from heedful.ranks.collectives import all_gather, barrier, broadcast
from heedful.ranks.world import world
from heedful.training.pretraining_text import PretrainingText
from heedful.training.sharding import read_sharded, whole_tensor, write_sharded

CHECKPOINTS = "checkpoints"
STATE_FILE, CHECKSUM_FILE = "state.pt", "SHA256SUMS"
_ZIP_WRITER = ("PytorchStreamWriter", "inline_container")  # errors of torch's zip writer contain one of these


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int, say: Callable[[str], None] = warnings.warn) -> None:
    """Write ``state`` to ``folder/step-N``, where N is ``state["step"]``; then remove all but the ``keep`` newest checkpoints.

    A kill at any moment leaves only complete checkpoints, old or new. Raises StorageError (a full disk, no permission), with
    the previous checkpoints untouched. KeyboardInterrupt passes through. If an old checkpoint cannot be removed, nothing is
    lost, so ``say`` just reports it.
    """

    if world().size > 1:
        _save_together(folder, state, keep=keep, say=say)
        return

    def write(aside: Path) -> None:
        try:
            with open(aside / STATE_FILE, "wb") as file:
                torch.save(dict(state), file)
        except RuntimeError as error:
            cause = _what_stopped(error)
            if cause is error:
                raise
            raise cause from None
        (aside / CHECKSUM_FILE).write_text(f"{_checksum(aside / STATE_FILE)}  {STATE_FILE}\n", encoding="ascii")

    write_folder(folder / f"step-{state['step']}", write)
    _prune(folder, keep, say)


def load_checkpoint(folder: Path, *, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint's state, or None if there is no checkpoint.

    If the newest is damaged, ``say`` reports it, it is removed, and the one before it is read. Raises StorageError if all are
    damaged, and then removes none.
    """
    damaged: list[tuple[Path, str]] = []
    for path in broadcast(_newest_first(folder)):
        state, problem = _try_to_read(path)
        if problem is not None:
            damaged.append((path, problem))
            continue
        for newer, problem in damaged:
            say(f"{newer.name} is damaged ({problem}): going back to {path.name}")
            if world().is_rank_zero:
                _remove(newer, say)
        barrier()
        return state
    if damaged:
        path, problem = damaged[0]
        raise StorageError(
            "the checkpoint is damaged, and there is no other" if len(damaged) == 1 else "all checkpoints are damaged",
            expected="a checkpoint as this version of Heedful wrote it",
            got=problem,
            where=path,
            next_step=f"delete {folder} to start this step again",
        )
    return None


def remove_checkpoints(folder: Path, *, say: Callable[[str], None] = warnings.warn) -> None:
    """Remove all checkpoints at once, so that a kill leaves none half removed. ``say`` reports a failure."""
    if world().is_rank_zero and folder.is_dir():
        _remove(folder, say)


def digest(value: Any) -> str:
    """A digest of a run's input (a model's weights, examples, text). Equal values have equal digests in any process."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:16]


def random_state() -> dict[str, Any]:
    """The states of torch's global random generators. Numpy's need no saving: they are made from the seed where needed."""
    if not torch.cuda.is_available():
        cuda = []
    elif world().size > 1:  # each rank has one GPU
        cuda = [torch.cuda.get_rng_state()]
    else:
        cuda = torch.cuda.get_rng_state_all()
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the random generators. If the number of GPUs has changed, the GPUs keep their current states."""
    torch.set_rng_state(state["cpu"])
    if world().size > 1:
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"][0])
    elif len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


class CheckpointTimer:
    """Says when the next checkpoint is due."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.last = clock()

    def due(self) -> bool:
        """Whether the seconds have passed, on all ranks alike; if so, start counting again."""
        if not broadcast(self.clock() - self.last >= self.seconds):  # rank 0's clock decides
            return False
        self.last = self.clock()
        return True


def _newest_first(folder: Path) -> list[Path]:
    numbered = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*") if path.name[5:].isdigit()}
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def _save_together(folder: Path, state: Mapping[str, Any], *, keep: int, say: Callable[[str], None]) -> None:
    """All ranks write their shards into one folder; rank 0 then adds the checksums, renames the folder and prunes."""

    def write(aside: Path) -> None:
        write_part(broadcast(aside))

    def write_part(aside: Path) -> None:
        try:
            write_sharded(aside, state)
        except CheckpointException as error:
            cause = _first_failure(error)
            if cause is error:
                raise
            raise cause from None
        # Each rank computes the checksums of its own files, because another machine may not see all of them yet.
        own = [file for file in aside.iterdir() if file.name.startswith(f"__{world().rank}_")]
        if world().is_rank_zero:
            own += [file for file in aside.iterdir() if not file.name.startswith("__")]
        sums = sorted(line for lines in all_gather([f"{_checksum(file)}  {file.name}\n" for file in own]) for line in lines)
        if world().is_rank_zero:
            (aside / CHECKSUM_FILE).write_text("".join(sums), encoding="ascii")

    if world().is_rank_zero:
        write_folder(folder / f"step-{state['step']}", write)
        _prune(folder, keep, say)
    else:
        write_part(broadcast(None))
    barrier()


def _prune(folder: Path, keep: int, say: Callable[[str], None]) -> None:
    for old in _newest_first(folder)[keep:]:
        _remove(old, say)


def _try_to_read(path: Path) -> tuple[dict[str, Any], None] | tuple[None, str]:
    """A checkpoint's state, or the problem that any rank found. Each rank verifies a part of the files."""
    for step in (_verify, _read):
        state, problem = None, None
        try:
            state = step(path)
        except (Exception, CheckpointException) as error:  # for a damaged file, torch.load raises nearly anything
            problem = _first_line(error)
        problems = [text for text in all_gather(problem) if text is not None]
        if problems:
            return None, problems[0]
    assert state is not None
    return state, None


def _verify(path: Path) -> None:
    lines = (path / CHECKSUM_FILE).read_text(encoding="ascii").splitlines()
    if not lines:
        raise ValueError("it has no checksums")
    for line in lines[world().rank :: world().size]:
        expected, name = line.split(maxsplit=1)
        if _checksum(path / name) != expected:
            raise ValueError("its checksum does not match")


def _read(path: Path) -> dict[str, Any]:
    if not (path / STATE_FILE).exists():
        return read_sharded(path)
    # One process wrote it. Under torchrun each rank takes only its own shards, so it maps the file instead of reading it all.
    return torch.load(path / STATE_FILE, map_location="cpu", weights_only=True, mmap=world().size > 1)


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path, say: Callable[[str], None]) -> None:
    """Remove a folder: rename it first, so that a half-removed folder is never read as a checkpoint."""
    aside = folder.with_name(f"{ASIDE}{folder.name}-removed")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(folder, aside)
    except OSError as error:
        say(f"{folder} could not be removed ({error.strerror or error}): it does no harm, delete it when you can")
        return
    shutil.rmtree(aside, ignore_errors=True)


def _parts(value: Any) -> Iterable[bytes | memoryview]:
    if isinstance(value, torch.nn.Module):
        for name, tensor in value.state_dict().items():
            yield name.encode()
            yield whole_tensor(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, PretrainingText):
        yield value.tokens.tobytes()
        yield value.offsets.tobytes()
    elif isinstance(value, list | tuple):
        for item in value:
            yield repr(item).encode()
    else:
        yield repr(value).encode()


def _what_stopped(error: RuntimeError) -> BaseException:
    """The error that really stopped torch.save, whose zip writer reports every failure as its own error.

    The real one (an interruption, a disk error) is in the chain of contexts. Any other error is a bug and is returned as it is.
    """
    found = error.__context__
    while found is not None:
        if isinstance(found, OSError | MemoryError | KeyboardInterrupt | SystemExit):
            return found
        found = found.__context__
    if any(name in str(error) for name in _ZIP_WRITER):
        return OSError(str(error))
    return error


def _first_failure(error: CheckpointException) -> BaseException:
    """The interruption or disk error that really stopped the ranks, which torch wraps; else the error itself."""
    failures = [failure for failure, _ in error.failures.values()]
    stopped = [failure for failure in failures if isinstance(failure, KeyboardInterrupt)]
    # A ConnectionError is an OSError, but it means that a rank has ended, not that the disk failed.
    refused = [failure for failure in failures if isinstance(failure, OSError) and not isinstance(failure, ConnectionError)]
    return next(iter([*stopped, *refused]), error)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
