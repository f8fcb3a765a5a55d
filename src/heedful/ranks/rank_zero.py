"""What rank 0 does alone while the others wait, however long it takes, and how all ranks end with one message.

The collectives of gloo and NCCL give up after minutes. Whoever waits here asks the store of the process group (a small server
that torchrun or rank 0 keeps) instead: a process that is lost is seen by torchrun, or by the connection to the store. In one
process nothing here touches a network.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from heedful.ranks.collectives import world

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long a rank that failed waits for rank 0's message about the same failure before it gives its own."""
_LOOK_SECONDS = 0.05
_ENDED = "rank 0 ended"
_turns = itertools.count()  # all ranks come to the same places in the same order


def by_first_rank(action: Callable[[], T]) -> T:
    """What ``action`` returns on rank 0 (picklable), on all ranks. Where rank 0 fails, the others end with its exit code."""
    here = world()
    if here.size == 1:
        return action()
    store, key = _store(), f"done {next(_turns)}"
    if here.leads:
        value = action()
        cast(Any, store).set(key, pickle.dumps(value))  # bytes too, whatever its annotation says
        return value
    _wait_for(store, key)
    return pickle.loads(store.get(key))


def meet() -> None:
    """Go on when every rank is here, however long that takes."""
    here = world()
    if here.size == 1:
        return
    store, key = _store(), f"met {next(_turns)}"
    if store.add(f"{key}: ranks", 1) == here.size:
        store.set(key, "")
    _wait_for(store, key)


def speaks() -> bool:
    """Whether this rank, which ends with an error, has to tell: rank 0, or one whose error rank 0 does not have as well."""
    if not dist.is_initialized():  # the ranks have not come together: each has the same error
        if leads := os.environ.get("RANK") == "0":
            return leads
        time.sleep(1.0)  # torchrun ends the others as soon as one has ended
        return leads
    here = world()
    if here.leads:
        return True
    try:
        store, until = _store(), time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if store.check([_ENDED]):
                return False
            time.sleep(_LOOK_SECONDS)
    except dist.DistError:  # rank 0 kept the store, and is gone without a word
        return True
    return True


def ended(exit_code: int) -> None:
    """This rank is done, or has told why it ends. Rank 0 lets the others know, and stays a moment: it may keep the store."""
    if not dist.is_initialized():
        return
    here = world()
    try:
        store, until = _store(), time.monotonic() + PATIENCE_SECONDS / 2
        if not here.leads:
            store.set(f"rank {here.rank} knows", "")
            return
        store.set(_ENDED, str(exit_code))
        others = [f"rank {rank} knows" for rank in range(1, here.size)]
        while time.monotonic() < until and not store.check(others):
            time.sleep(_LOOK_SECONDS)
    except dist.DistError:
        return


def _wait_for(store: dist.Store, key: str) -> None:
    while not store.check([key]):
        if store.check([_ENDED]):
            code = int(store.get(_ENDED))
            sys.exit(code)
        time.sleep(_LOOK_SECONDS)


def _store() -> dist.Store:
    return dist.PrefixStore("heedful", _get_default_store())
