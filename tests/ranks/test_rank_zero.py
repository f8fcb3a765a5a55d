"""What rank 0 does for all ranks: its result reaches them as JSON."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from heedful.ranks import rank_zero
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import World


class FakeStore:
    """The process group's store, with every key already set to one value."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def check(self, keys: list[str]) -> bool:
        return True

    def get(self, key: str) -> bytes:
        return self.value


class RunsCode:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def wait_as_rank_one(monkeypatch: pytest.MonkeyPatch, stored: bytes) -> Any:
    monkeypatch.setattr(rank_zero, "world", lambda: World(1, 2))
    monkeypatch.setattr(rank_zero, "store", lambda: FakeStore(stored))
    return on_rank_zero(lambda: pytest.fail("only rank 0 does this"))


def test_the_others_read_rank_zeros_result_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait_as_rank_one(monkeypatch, b'["a", 1.5, {"done": true}]') == ["a", 1.5, {"done": True}]


def test_what_a_stranger_writes_into_the_store_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = pickle.dumps(RunsCode(tmp_path / "attacked"))
    pickle.loads(attack)
    assert (tmp_path / "attacked").exists()  # unpickling it would
    (tmp_path / "attacked").unlink()
    with pytest.raises(UnicodeDecodeError):
        wait_as_rank_one(monkeypatch, attack)
    assert not (tmp_path / "attacked").exists()


def test_a_result_that_json_cannot_hold_is_refused_in_one_process_too() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        on_rank_zero(lambda: Path("a"))
    assert on_rank_zero(lambda: ("a", 0.1)) == ["a", 0.1]
