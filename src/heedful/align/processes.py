"""Stages side by side, each in a process of its own.

With small models several processes with one thread each do more work than one process with several threads, which wait for
each other at every small operation (docs/log.md).
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch
from rich.console import Console

from heedful.errors import HeedfulError
from heedful.model import keep_large_temporaries

Call = Callable[..., None]
"""A picklable function that takes ``console``."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost."""

    seconds: float
    process: int
    peak_memory_bytes: int
    """Of its process, which may have done other calls before."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory that this process has held, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_in_processes(calls: Mapping[str, Call], *, processes: int) -> Iterator[tuple[str, Cost]]:
    """Do ``calls``, ``processes`` at a time in the given order, each with its share of the cores; yields names as they end.

    Raises what the first failing call raised, after those that run have been stopped (their checkpoints stay), and
    HeedfulError where a process was killed, as the system does when memory runs out.
    """
    threads = max(1, cores() // processes)
    # "spawn": a forked child would inherit torch's thread pools without their threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(calls)), mp_context=context, initializer=_prepare, initargs=(threads,))
    try:
        futures = {pool.submit(_do, call): name for name, call in calls.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise HeedfulError(
            "a process that ran a stage was killed",
            expected="a process that ends by itself",
            got=f"one of {', '.join(calls)} is gone (out of memory?)",
            next_step="run it again (stages continue from checkpoints), with processes = 1 in heedful.toml to need less memory",
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):  # terminate_workers() comes with Python 3.14
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _do(call: Call) -> Cost:
    start = time.monotonic()
    # No terminal: two progress bars on the same lines would be unreadable, and each line begins with its stage's name.
    call(console=Console(force_terminal=False, width=160))
    return Cost(time.monotonic() - start, os.getpid(), peak_memory())


def _prepare(threads: int) -> None:
    """In a new process: its share of the cores, an end by SIGTERM that lets a stage clean up, and no life of its own."""
    torch.set_num_threads(threads)
    keep_large_temporaries()
    # Ctrl-C reaches all processes of a terminal: the first one decides, and ends these with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        # The first process was killed: whoever starts align again must be alone in the run folders.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)
