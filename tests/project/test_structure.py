from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from heedful.errors import ConfigError
from heedful.project.project import config_from_mapping
from heedful.project.structure import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    warmup_iterations: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    learning_rate: float
    batch_size: int = 8
    dropout: float | None = None
    mode: Literal["ppo", "ptx"] = "ptx"
    betas: tuple[float, float] = (0.9, 0.95)
    sizes: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    folder: Path = Path()
    shares: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("batch_size is too small", expected="1 or more", got=str(self.batch_size))


GOOD: dict[str, Any] = {"learning_rate": 1e-5}


def test_a_whole_mapping_becomes_the_dataclass() -> None:
    made = config_from_mapping(
        Loop,
        {
            "learning_rate": 1,
            "batch_size": 4,
            "dropout": 0.1,
            "mode": "ppo",
            "betas": [0.9, 0.99],
            "sizes": [1, 2, 3],
            "names": ["a"],
            "folder": "data",
            "shares": {"x": 0.5},
            "schedule": {"warmup_iterations": 3},
        },
        "f.toml",
    )
    assert made == Loop(
        learning_rate=1.0,
        batch_size=4,
        dropout=0.1,
        mode="ppo",
        betas=(0.9, 0.99),
        sizes=(1, 2, 3),
        names=["a"],
        folder=Path("data"),
        shares={"x": 0.5},
        schedule=Schedule(warmup_iterations=3),
    )
    assert isinstance(made.learning_rate, float)
    assert config_from_mapping(Loop, GOOD, "f.toml") == Loop(learning_rate=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lerning_rate": 1.0}, ["'lerning_rate' is not a key", "did you mean 'learning_rate'?", "f.toml"]),
        ({"zzz": 1}, ["'zzz' is not a key", "remove 'zzz'"]),
        ({"schedule": {"warmup": 1}}, ["'schedule.warmup' is not a key", "warmup_iterations"]),
        ({"schedule": {"warmup_iterations": "1"}}, ["'schedule.warmup_iterations'", "int", "'1' (str)"]),
        ({"schedule": 3}, ["'schedule'", "Schedule", "3 (int)"]),
        ({"batch_size": "8"}, ["'batch_size'", "int", "'8' (str)"]),
        ({"batch_size": 8.0}, ["'batch_size'", "8.0 (float)"]),
        ({"batch_size": True}, ["'batch_size'", "True (bool)"]),
        ({"learning_rate": "1e-5"}, ["'learning_rate'", "float", "(str)"]),
        ({"dropout": "x"}, ["'dropout'", "float or nothing"]),
        ({"mode": "dpo"}, ["'mode'", "one of 'ppo', 'ptx'", "'dpo'"]),
        ({"betas": [0.9]}, ["'betas'", "tuple[float, float]"]),
        ({"sizes": "123"}, ["'sizes'", "a list of int", "'123' (str)"]),
        ({"names": "abc"}, ["'names'", "list[str]"]),
        ({"names": [1]}, ["'names'", "[1] (list)"]),
        ({"folder": 3}, ["'folder'", "Path", "3 (int)"]),
        ({"shares": [1]}, ["'shares'", "Mapping[str, float]"]),
        ({"shares": {"x": "y"}}, ["'shares'"]),
        ({"batch_size": 0}, ["batch_size is too small", "1 or more", "f.toml"]),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(wrong: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(Loop, GOOD | wrong, "f.toml")
    for word in [*words, "f.toml"]:
        assert word in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="lacks 'learning_rate'"):
        config_from_mapping(Loop, {}, "f.toml")


def test_what_is_no_table_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"\[1\] \(list\)"):
        config_from_mapping(Loop, [1], "f.toml")


def test_what_is_printed_cannot_command_a_terminal() -> None:
    assert printable("a\tb\nc ü 写") == "a\tb\nc ü 写"
    assert printable("\x1b[2J\x07\r\x9b1m\u202e\ud83d") == r"\x1b[2J\x07\r\x9b1m\u202e\ud83d"
