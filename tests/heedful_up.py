"""``heedful up`` in a process of its own, until the test has done with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"


@contextmanager
def heedful_up(*arguments: str, folder: Path, seconds: float) -> Iterator[dict[str, str]]:
    """The addresses that it names: ``models``, ``application`` and ``join``. One signal must end it, and well.

    ``seconds``: it is killed if the test takes longer.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "heedful.cli", "up", *arguments, "--port", "0"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(seconds, process.kill)
    guard.start()
    try:
        said = ""
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if "stop it with Ctrl-C" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        found = {
            "models": re.search(r"the models answer at (\S+)", said),
            "application": re.search(r"the labeling application is at (\S+)", said),
            "join": re.search(r"(http\S+/join/\S+)", said),
        }
        assert all(found.values()), said
        yield {name: match[1] for name, match in found.items() if match is not None}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0
    finally:
        guard.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
