"""Progress of long work with the time left: a bar on a terminal, elsewhere a plain line after each tenth. No torch here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_LINES = 10  # progress lines of a step if the output is not a terminal


class ProgressLine:
    """Progress of one long piece of work."""

    def __init__(
        self, progress: Progress | None, task: Any, title: str, total: int, done: int, unit: str, console: Console
    ) -> None:
        self._progress, self._task = progress, task
        self._title, self._total, self._unit, self._console = title, total, unit, console
        self._done, self._done_before, self._started = done, done, time.monotonic()
        self._printed = done * _PLAIN_LINES // max(1, total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if self._progress is not None:
            self._progress.update(self._task, advance=amount, note=note)
        elif self._done * _PLAIN_LINES // max(1, self._total) > self._printed:
            self._printed = self._done * _PLAIN_LINES // max(1, self._total)
            said = f"{self._title}: {self._done:,}/{self._total:,} {self._unit}{self._left()}  {note}"
            self._console.print(said, highlight=False)

    def _left(self) -> str:
        """The time left, if the rest is as fast as what was done in this process."""
        left = self._total - self._done
        if left <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / (self._done - self._done_before) * left
        return f", {timedelta(seconds=round(seconds))} left"


@contextmanager
def progress_line(
    title: str, total: int, *, done: int = 0, unit: str = "steps", console: Console | None = None
) -> Iterator[ProgressLine]:
    """A bar on a terminal, elsewhere a plain line after each tenth; both with the time left."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLine(None, None, title, total, done, unit, console)
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
        yield ProgressLine(progress, task, title, total, done, unit, console)
