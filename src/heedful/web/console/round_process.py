"""Run a round of feedback beside the application: ``heedful align PROJECT --round N`` in a process of its own."""

from __future__ import annotations

import atexit
import subprocess
import sys
from pathlib import Path

from heedful.errors import ConflictError

LOG_FILE = "rounds.log"
"""The process's output, in the folder of runs."""
_SHOWN_BYTES = 4_000


class RoundProcess:
    """Runs at most one process, which ends with the application. A new start continues the round from its checkpoints."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.project / "runs" / LOG_FILE

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether the last process ended with an error."""
        return self._process is not None and self._process.poll() not in (None, 0)

    def start(self, number: int) -> None:
        """Start round ``number``, or continue it. Raises ConflictError if a round is running."""
        if self.is_running:
            raise ConflictError("a round is already running", next_step="wait until it is over")
        self.log.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "heedful.cli", "align", str(self.project), "--round", str(number)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the process; its checkpoints are kept."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            self._process.wait()

    def last_lines(self, count: int = 12) -> list[str]:
        """The last lines of its output."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _SHOWN_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]
