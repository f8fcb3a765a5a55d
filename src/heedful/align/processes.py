"""Stages side by side, each in a process of its own.

With small models several processes with one thread each do more work than one process with several threads, which wait for
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

import torch
from rich.console import Console

from heedful.errors import HeedfulError
from heedful.model.fast.allocator import give_back_memory, keep_large_temporaries

Call = Callable[..., None]
"""A picklable function that takes ``console``."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost."""

    seconds: float
    memory_bytes: int
    """Most memory of this process and all beside it at one moment, as far as the calls have come."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory that this process has held, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_in_processes(calls: Mapping[str, Call], *, processes: int) -> Iterator[tuple[str, Cost]]:
    """Do ``calls``, ``processes`` at a time in the given order, each with its share of the threads; yields names as they end.

    Raises what the first failing call raised, after those that run have been stopped (their checkpoints stay), and
    HeedfulError where a process was killed, as the system does when memory runs out.
    """
    at_once = min(processes, len(calls))
    context = _context()
    gc.collect()
    give_back_memory()  # the others need what this process will not use while it waits
    waiting = list(calls.items())
    running: dict[Future[float], tuple[str, ProcessPoolExecutor]] = {}
    most = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name, call = waiting.pop(0)
                # A pool of one for each call: its memory goes with its process.
                pool = ProcessPoolExecutor(
                    1, context, initializer=_prepare, initargs=(max(1, torch.get_num_threads() // at_once),)
                )
                running[pool.submit(_do, call)] = name, pool
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            others = [process for _, pool in running.values() for process in pool._processes or ()]
            most = max(most, sum(memory_of(process) for process in (os.getpid(), *others)))
            # What has succeeded first: it is marked as done before what failed beside it is raised.
            for future in sorted(done, key=lambda one: one.exception() is not None):
                seconds = future.result()
                name, pool = running.pop(future)
                pool.shutdown(wait=True)
                yield name, Cost(seconds, most)
    except BrokenProcessPool:
        raise HeedfulError(
            "a process that ran a stage was killed",
            expected="a process that ends by itself",
            got=f"one of {', '.join(calls)} is gone (out of memory?)",
            next_step="run it again (stages continue from checkpoints), with processes = 1 in heedful.toml to need less memory",
        ) from None
    finally:
        for _, pool in running.values():  # none is left but after an error
            for process in list((pool._processes or {}).values()):  # terminate_workers() comes with Python 3.14
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


def import_ahead() -> None:
    """Begin to import what :func:`run_in_processes` will need, beside what this process does until then."""
    _context()
    forkserver.ensure_running()


def _context() -> BaseContext:
    """New processes are forked from a server that has imported all and computed nothing: importing takes seconds.

    A fork of this process would inherit torch's thread pools without their threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["heedful.align.steps", "transformers.models.gpt2.modeling_gpt2"])
    return context


def memory_of(process: int) -> int:
    """The memory that a process holds now, bytes, without what it shares with files; 0 where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _do(call: Call) -> float:
    start = time.monotonic()
    # No terminal: two progress bars on the same lines would be unreadable, and each line begins with its stage's name.
    call(console=Console(force_terminal=False, width=160))
    return time.monotonic() - start


def _prepare(threads: int) -> None:
    """In a new process: its share of the cores, an end by SIGTERM that lets a stage clean up, and no life of its own."""
    torch.set_num_threads(threads)
    keep_large_temporaries()
    # Ctrl-C reaches all processes of a terminal: the first one decides, and ends these with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        # The first process was killed: whoever starts align again must be alone in the run folders.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)
