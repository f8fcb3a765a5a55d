"""Run two computations at once on a CPU, each on half of the threads.

The threads of one operator wait for each other at every operator; threads that compute separate models do not. On two cores, a
PPO step of small models takes an eighth less time (docs/log.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from heedful.ranks.world import world

A = TypeVar("A")
B = TypeVar("B")


# If one of the two costs more than this share of the sum, half of the threads would be idle much of the time.
_LARGEST_SHARE = 0.6


def at_once(device: torch.device) -> bool:
    """Whether two computations can run at once on a device: on a CPU, with at least two threads, and not under ``torchrun``."""
    return device.type == "cpu" and world().size == 1 and torch.get_num_threads() > 1


def side_by_side(
    first: Callable[[], A], second: Callable[[], B], *, costs: tuple[float, float], device: torch.device
) -> tuple[A, B]:
    """The results of two independent computations. If either raises an error, it is raised again when both have ended.

    costs: of the two, in any unit. They run one after the other if one costs much more than the other, or if :func:`at_once`
    is False (under ``torchrun`` all ranks must communicate in the same order).
    """
    if not at_once(device) or max(costs) > _LARGEST_SHARE * sum(costs):
        return first(), second()
    threads = torch.get_num_threads()
    gradients = torch.is_grad_enabled()  # each thread has its own setting

    def other() -> B:
        torch.set_num_threads(threads // 2)
        with torch.set_grad_enabled(gradients):
            return second()

    torch.set_num_threads(threads // 2)
    try:
        there = _helper().submit(other)
        try:
            here = first()
        finally:
            wait([there])
        return here, there.result()
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="heedful-side")
