from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_gpt2
from torch.distributed.checkpoint import CheckpointException

from heedful.errors import StorageError
from heedful.model.encoding import Example
from heedful.training import checkpoint
from heedful.training.checkpoint import (
    CheckpointTimer,
    digest,
    load_checkpoint,
    random_state,
    remove_checkpoints,
    save_checkpoint,
    set_random_state,
)
from heedful.training.pretraining_text import PretrainingText


def save(folder: Path, step: int, keep: int = 2, **more: Any) -> None:
    save_checkpoint(folder, {"step": step, "weights": torch.full((3_000,), float(step)), **more}, keep=keep)


def load(folder: Path, said: list[str] | None = None) -> dict[str, Any] | None:
    return load_checkpoint(folder, say=([] if said is None else said).append)


def step_of(folder: Path, said: list[str] | None = None) -> int | None:
    state = load(folder, said)
    return None if state is None else state["step"]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_state_comes_back(tmp_path: Path) -> None:
    model = tiny_gpt2()
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "new" / "checkpoints"
    save(folder, 7, model=model.state_dict(), optimizer=optimizer.state_dict(), random=random_state())
    again = load(folder)
    assert again is not None
    assert again["step"] == 7
    assert all(torch.equal(again["model"][name], weight) for name, weight in model.state_dict().items())
    assert names(folder) == ["step-7"]
    assert names(folder / "step-7") == ["SHA256SUMS", "state.pt"]


def test_the_random_generators_come_back() -> None:
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)


def test_the_checksum_file_is_one_that_everybody_can_check(tmp_path: Path) -> None:
    save(tmp_path, 3)
    check = ["sha256sum", "--check", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "step-3", capture_output=True, check=False).returncode == 0


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "checkpoints") is None
    remove_checkpoints(tmp_path / "checkpoints")


def test_the_newest_ones_are_kept_by_number(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step-10", "step-11", "step-9"]
    assert step_of(tmp_path) == 11
    save(tmp_path, 12, keep=1)
    assert names(tmp_path) == ["step-12"]


def test_a_step_that_is_saved_again_takes_its_own_place(tmp_path: Path) -> None:
    save(tmp_path, 4, minibatch=1)
    save(tmp_path, 4, minibatch=2)
    state = load(tmp_path)
    assert state is not None
    assert state["minibatch"] == 2
    assert names(tmp_path) == ["step-4"]


def test_all_are_removed_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    remove_checkpoints(folder)
    assert names(tmp_path) == []


# ---------------------------------------------------------------- a disk that is full, an interruption


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system really refuses to let a file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_leaves_the_previous_checkpoint_and_no_leftovers(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with no_file_above(5_000), pytest.raises(StorageError) as caught:
        save(tmp_path, 2)
    assert str(tmp_path / "step-2") in str(caught.value)
    assert "File too large" in str(caught.value)
    assert "the last checkpoint is untouched" in str(caught.value)
    assert names(tmp_path) == ["step-1"]
    assert step_of(tmp_path) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed"), OSError()]
)
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_leftovers(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def half(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(StorageError):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-1"]
    assert step_of(tmp_path) == 1


def test_an_interruption_while_writing_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def interrupted(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-1"]
    assert step_of(tmp_path) == 1


class Refusing:
    """A file whose second piece is not written: something happens instead."""

    def __init__(self, path: Path, happens: Callable[[], None]) -> None:
        self.file, self.happens, self.pieces = path.open("wb"), happens, 0

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, piece: Any) -> int:
        self.pieces += 1
        if self.pieces == 2:
            self.happens()
        return self.file.write(piece)

    def flush(self) -> None:
        self.file.flush()


def raising(error: BaseException) -> Callable[[], None]:
    def happens() -> None:
        raise error

    return happens


@pytest.mark.parametrize(
    ("happens", "expected", "said"),
    [
        # torch's zip writer makes an error of its own of everything that happens while it writes.
        (partial(signal.raise_signal, signal.SIGINT), KeyboardInterrupt, ""),
        (raising(OSError(errno.ENOSPC, "No space left on device")), StorageError, "the disk refused to write"),
        (raising(PermissionError(errno.EACCES, "Permission denied")), StorageError, "writing is not permitted here"),
        (raising(OSError(errno.EROFS, "Read-only file system")), StorageError, "writing is not permitted here"),
        (raising(MemoryError("no room")), MemoryError, "no room"),
    ],
    ids=["interruption", "full disk", "permission", "read-only", "memory"],
)
def test_what_stops_torch_while_it_writes_keeps_its_name(
    happens: Callable[[], None], expected: type[BaseException], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(checkpoint, "open", lambda path, mode: Refusing(path, happens), raising=False)
    try:
        with pytest.raises(expected) as caught:
            save(tmp_path, 2)
    finally:
        signal.signal(signal.SIGINT, before)
        monkeypatch.undo()
    assert said in str(caught.value)
    assert names(tmp_path) == ["step-1"]
    assert step_of(tmp_path) == 1


def test_a_bug_while_a_checkpoint_is_written_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def breaks(state: Any, file: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(checkpoint.torch, "save", breaks)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        save(tmp_path, 2)
    assert not isinstance(caught.value, StorageError)
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], KeyboardInterrupt),
        ([ValueError("a bug"), OSError(errno.ENOSPC, "full")], OSError),
        ([ValueError("a bug")], CheckpointException),
        ([ConnectionResetError("peer")], CheckpointException),  # a lost rank: who called explains it
    ],
)
def test_ranks_that_are_stopped_while_they_write_say_by_what(
    failures: list[BaseException], expected: type[BaseException]
) -> None:
    wrapped = CheckpointException("write", {rank: (failure, None) for rank, failure in enumerate(failures)})  # type: ignore[arg-type]
    assert type(checkpoint._first_failure(wrapped)) is expected


def test_it_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "rename", lambda *paths: (done.append("rename"), rename(*paths)))
    save(tmp_path, 1)
    assert done == ["fsync", "fsync", "fsync", "rename", "fsync"]  # state, checksum, folder, its name, the folder above


def test_one_that_cannot_be_removed_is_said_and_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    rename = os.rename

    def refuses(old: Any, new: Any) -> None:
        if str(new).endswith("-removed"):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuses)
    said: list[str] = []
    save_checkpoint(tmp_path, {"step": 2}, keep=1, say=said.append)
    assert len(said) == 1
    assert str(tmp_path / "step-1") in said[0]
    assert "Permission denied" in said[0]
    assert step_of(tmp_path) == 2
    remove_checkpoints(tmp_path, say=said.append)
    assert len(said) == 2


# ---------------------------------------------------------------- damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def flip(path: Path) -> None:
    """One bit in the middle of the weights: torch reads such a file without a word."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


DAMAGE = [cut, flip, empty, gone]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_last_good_one_is_used_where_the_newest_is_damaged(damage: Any, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    damage(tmp_path / "step-3" / "state.pt")
    damage(tmp_path / "step-2" / "state.pt")
    said: list[str] = []
    assert step_of(tmp_path, said) == 1
    assert [line.partition(" is damaged (")[0] for line in said] == ["step-3", "step-2"]
    assert all(line.endswith("): going back to step-1") for line in said)
    assert names(tmp_path) == ["step-1"]  # else the damaged ones would count as the newest ones that are kept
    said.clear()
    assert step_of(tmp_path, said) == 1
    assert said == []


def test_a_flipped_bit_is_not_seen_by_torch_itself(tmp_path: Path) -> None:
    """Why there is a checksum."""
    save(tmp_path, 1)
    flip(tmp_path / "step-1" / "state.pt")
    assert not torch.load(tmp_path / "step-1" / "state.pt", weights_only=True)["weights"].eq(1.0).all()


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_all_are_damaged_it_says_so_and_leaves_them(damage: Any, tmp_path: Path) -> None:
    save(tmp_path, 1)
    damage(tmp_path / "step-1" / "state.pt")
    with pytest.raises(StorageError, match="damaged") as caught:
        load(tmp_path)
    assert f"delete {tmp_path} to start this step again" in str(caught.value)
    assert names(tmp_path) == ["step-1"]


def test_a_damaged_checksum_file_is_damage_too(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "step-2" / "SHA256SUMS").write_bytes(b"")
    said: list[str] = []
    assert step_of(tmp_path, said) == 1
    assert len(said) == 1


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 1, "evil": os.system}, keep=1)
    with pytest.raises(StorageError):
        load(tmp_path)


# ---------------------------------------------------------------- what identifies a run


def test_digests_tell_values_apart() -> None:
    def text(*tokens: int) -> PretrainingText:
        return PretrainingText(np.array(tokens * 2_000, dtype=np.int32), np.array([0, 2_000 * len(tokens)]))

    model = tiny_gpt2()
    values = [model, [Example([1], [2, 3])], [Example([1, 2], [3])], [[1, 2], [3]], text(1, 2), text(1, 3), None, 5]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(value) for value in values]
    assert digest(tiny_gpt2()) == digests[0]
    with torch.no_grad():
        model.get_parameter("transformer.h.1.mlp.c_fc.weight")[5, 7] += 1e-6
    assert digest(model) != digests[0]


# ---------------------------------------------------------------- time


def test_the_timer_is_due_when_its_seconds_have_passed() -> None:
    now = [100.0]
    timer = CheckpointTimer(60, clock=lambda: now[0])
    assert not timer.due()
    now[0] = 159.9
    assert not timer.due()
    now[0] = 160.0
    assert timer.due()
    assert not timer.due()
    now[0] = 300.0
    assert timer.due()
