"""For tests that an algorithm is quick: :func:`takes_less_than`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def takes_less_than(seconds: float, work: Callable[[], Result], tries: int = 3) -> Result:
    """Run ``work`` until one of ``tries`` runs stays below the limit, and return its result.

    It counts the processor time of this thread alone, without garbage collection: what other tests left in memory, other
    threads and a busy machine do not count. The limit has to be many times what the work needs, and far below what the slow
    algorithm would take.
    """
    spent: list[float] = []
    for _ in range(tries):
        gc.collect()
        gc.disable()
        try:
            began = time.thread_time()
            result = work()
            spent.append(time.thread_time() - began)
        finally:
            gc.enable()
        if spent[-1] < seconds:
            return result
    raise AssertionError(f"expected less than {seconds} s of processor time; got {', '.join(f'{s:.2f}' for s in spent)} s")
