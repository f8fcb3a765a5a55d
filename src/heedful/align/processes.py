"""Run stages side by side, each in its own process.

With small models, several processes with one thread each are faster than one process with several threads, which wait for
each other at every small operation (docs/log.md).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from heedful.errors import HeedfulError
from heedful.model.fast.allocator import give_back_memory, keep_large_temporaries
from heedful.model.inference import first_device
from heedful.project.project import Project
from heedful.ranks.world import world

Call = Callable[..., None]
"""A picklable function that takes ``console``."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost."""

    seconds: float
    """Wall-clock time."""
    processor_seconds: float
    """Processor time of all its threads."""


@dataclass(slots=True)
class _Apart:
    """What all calls in other processes have cost so far."""

    processor_seconds: float = 0.0
    memory_bytes: int = 0
    """The most that this process and those of the calls have held at the same time."""


_APART = _Apart()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_at_once(project: Project) -> int:
    """How many of the project's stages may run at the same time here: one on a GPU or under torchrun."""
    return min(project.processes, cores()) if first_device().type == "cpu" and world().size == 1 else 1


def processor_time() -> float:
    """Processor seconds of this process and of its calls in other processes, all threads together."""
    return time.process_time() + _APART.processor_seconds


def peak_memory() -> int:
    """The most memory, in bytes, that this process has held, or it and its calls in other processes together."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, _APART.memory_bytes)


def run_in_processes(calls: Mapping[str, Call], *, processes: int, labelled: bool = False) -> Iterator[tuple[str, Cost]]:
    """Start ``calls`` in the given order, ``processes`` at a time, each with its share of the threads.

    labelled: every line that a call prints begins with its name.
    Yields the name and cost of each call when it ends. If a call fails, the others are stopped (their checkpoints stay) and its
    error is raised. If a process is killed, as the system does when memory runs out, HeedfulError is raised.
    """
    at_once = min(processes, len(calls))
    context = _context()
    gc.collect()
    give_back_memory()  # for the other processes, while this one waits
    waiting = list(calls.items())
    running: dict[Future[tuple[float, float]], tuple[str, ProcessPoolExecutor]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name, call = waiting.pop(0)
                # Each call has its own pool of one process, so its memory is freed when it ends.
                pool = ProcessPoolExecutor(
                    1, context, initializer=_prepare, initargs=(max(1, torch.get_num_threads() // at_once),)
                )
                running[pool.submit(_do, call, name if labelled else None)] = name, pool
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            others = [process for _, pool in running.values() for process in pool._processes or ()]
            held = sum(memory_of(process) for process in (os.getpid(), *others))
            _APART.memory_bytes = max(_APART.memory_bytes, held)
            # Successes come first, so that they are recorded before a failure is raised.
            for future in sorted(done, key=lambda one: one.exception() is not None):
                cost = Cost(*future.result())
                name, pool = running.pop(future)
                pool.shutdown(wait=True)
                _APART.processor_seconds += cost.processor_seconds
                yield name, cost
    except BrokenProcessPool:
        raise HeedfulError(
            "a process that ran a stage was killed",
            expected="a process that ends on its own",
            got=f"one of {', '.join(calls)} is gone (out of memory?)",
            next_step="run it again (stages continue from checkpoints), with processes = 1 in heedful.toml to need less memory",
        ) from None
    finally:
        for _, pool in running.values():  # empty unless there was an error
            for process in list((pool._processes or {}).values()):  # terminate_workers() comes with Python 3.14
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


def import_ahead() -> None:
    """Start importing what :func:`run_in_processes` will need, in the background."""
    _context()
    forkserver.ensure_running()


def _context() -> BaseContext:
    """A context that forks new processes from a server that has imported everything (which takes seconds) but computed nothing.

    A fork of this process would inherit torch's thread pools without their threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["heedful.align.steps", "transformers.models.gpt2.modeling_gpt2"])
    return context


def memory_of(process: int) -> int:
    """Bytes of memory that a process holds now, without mapped files; 0 if unknown."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


class _Labelled(Console):
    """A console whose lines begin with a label."""

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(**options)
        self.label = label

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(Text(self.label), *objects, **options)


def _do(call: Call, label: str | None) -> tuple[float, float]:
    """Do a call; returns wall-clock seconds and processor seconds."""
    start, busy = time.monotonic(), time.process_time()
    # Not a terminal, where two progress bars would overwrite each other. Plain lines begin with the stage's name.
    plain: dict[str, Any] = {"force_terminal": False, "width": 160}
    call(console=Console(**plain) if label is None else _Labelled(label, **plain))
    return time.monotonic() - start, time.process_time() - busy


def _prepare(threads: int) -> None:
    """Set up a new process: give it its share of the cores, let it clean up on SIGTERM, and end it when its parent ends."""
    torch.set_num_threads(threads)
    keep_large_temporaries()
    # Ctrl-C reaches all processes of a terminal. The parent handles it, and ends this process with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        # The parent was killed. If align is started again, no old process may still write to the run folders.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)
