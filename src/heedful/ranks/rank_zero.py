"""Run something on rank 0 while the other ranks wait, however long it takes.

The collectives of gloo and NCCL give up after a few minutes. The functions here ask the process group's store instead: a small
server that torchrun or rank 0 runs. If rank 0 fails, the waiting ranks end with its exit code. If a rank is lost, torchrun
notices, or the connection to the store breaks. Values go through the store as JSON, because anyone who can reach its port can
write to it, and unpickling would let them run code.

Rank 0 may run the store, and may exit right after. So each function ends with a barrier, at which all ranks arrive within one
poll of each other: rank 0 leaves when the others have read what they waited for.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from heedful.ranks.collectives import barrier
from heedful.ranks.ending import END_KEY, POLL_SECONDS, store
from heedful.ranks.world import world

T = TypeVar("T")

_calls = itertools.count()  # all ranks make the same calls in the same order, so the number names the call


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 only; returns its result on all ranks.

    The result must be plain JSON: tuples would come back as lists, and paths fail. In one process it goes through JSON too, so
    a result that ranks cannot share fails there as well.
    """
    here = world()
    if here.size == 1:
        return json.loads(json.dumps(action()))
    key = f"result {next(_calls)}"
    if here.is_rank_zero:
        store().set(key, json.dumps(action()))
    _wait_for(store(), key)
    result = json.loads(store().get(key))
    barrier()
    return result


def barrier_without_timeout() -> None:
    """Wait until every rank has called this function, however long that takes."""
    here = world()
    if here.size == 1:
        return
    key = f"barrier {next(_calls)}"
    if store().add(f"{key}: ranks", 1) == here.size:
        store().set(key, "")
    _wait_for(store(), key)
    barrier()


def _wait_for(shared: dist.Store, key: str) -> None:
    pause = POLL_SECONDS / 64  # most waits are short: rank 0 writes a line or a small file
    while not shared.check([key]):
        if shared.check([END_KEY]):
            code = int(shared.get(END_KEY))
            sys.exit(code)
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)
