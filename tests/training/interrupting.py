"""Ways to stop a run in the middle, as Ctrl-C or a kill would."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from rich.console import Console


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def every(number: int) -> type:
    """A CheckpointTimer that is due at every ``number``-th question."""

    class Timer:
        def __init__(self, seconds: float) -> None:
            self.asked = 0

        def due(self) -> bool:
            self.asked += 1
            return self.asked % number == 0

    return Timer


def interrupted_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its ``call``-th call (from 1) raises KeyboardInterrupt instead."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapper
