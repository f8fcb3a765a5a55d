from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_gpt2

from heedful.errors import StorageError
from heedful.training import checkpoint
from heedful.training.checkpoint import CheckpointTimer, load_state, save_state


def test_a_state_comes_back(tmp_path: Path) -> None:
    model = tiny_gpt2()
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "new" / "checkpoint.pt"
    state = {"step": 7, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    save_state(path, state)
    again = load_state(path)
    assert again is not None
    assert again["step"] == 7
    assert all(torch.equal(again["model"][name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(again["rng"], state["rng"])
    assert os.listdir(path.parent) == ["checkpoint.pt"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "checkpoint.pt") is None


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed"), OSError()]
)
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_leftovers(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"step": 1})

    def half(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(StorageError) as caught:
        save_state(path, {"step": 2})
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    assert load_state(path) == {"step": 1}


def test_an_interruption_while_writing_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"step": 1})

    def interrupted(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"step": 2})
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    assert load_state(path) == {"step": 1}


def test_it_is_on_disk_before_it_takes_the_old_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    save_state(tmp_path / "checkpoint.pt", {"step": 1})
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the folder


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_file_says_so(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"step": 1, "weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(StorageError, match="damaged") as caught:
        load_state(path)
    assert "delete it" in str(caught.value)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"step": os.system}, path)
    with pytest.raises(StorageError):
        load_state(path)


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
