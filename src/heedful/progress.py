"""Progress of long work: on a terminal a bar with the time left, elsewhere a plain line after each tenth. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_LINES = 10  # progress lines of a step if the output is not a terminal


class ProgressLine:
    """Progress of one long piece of work."""

    def __init__(self, progress: Progress | None, task: Any, title: str, total: int, unit: str, console: Console) -> None:
        self._progress, self._task = progress, task
        self._title, self._total, self._unit, self._console = title, total, unit, console
        self._done = 0
        self._printed = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if self._progress is not None:
            self._progress.update(self._task, advance=amount, note=note)
        elif self._done * _PLAIN_LINES // max(1, self._total) > self._printed:
            self._printed = self._done * _PLAIN_LINES // max(1, self._total)
            self._console.print(f"{self._title}: {self._done:,}/{self._total:,} {self._unit}  {note}", highlight=False)


@contextmanager
def progress_line(
    title: str, total: int, *, done: int = 0, unit: str = "steps", console: Console | None = None
) -> Iterator[ProgressLine]:
    """On a terminal a bar with the time left, elsewhere a plain line after each tenth."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        line = ProgressLine(None, None, title, total, unit, console)
        line._done = done
        line._printed = done * _PLAIN_LINES // max(1, total)
        yield line
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
        yield ProgressLine(progress, task, title, total, unit, console)
