"""How the ranks of a command end: with one error message, and rank 0 last."""

from __future__ import annotations

import os
import time

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from heedful.ranks.world import world

PATIENCE_SECONDS = 10.0
"""How long a failed rank waits for rank 0 to report the failure before it reports its own error."""
POLL_SECONDS = 0.05
END_KEY = "rank 0 ended"


def should_report_error() -> bool:
    """Whether this rank must print the error it ends with. May wait for rank 0 first.

    Rank 0 always prints. Another rank prints only if rank 0 does not end too.
    """
    if not dist.is_initialized():  # the ranks have not connected, so all have the same error
        if os.environ.get("RANK") == "0":
            return True
        time.sleep(1.0)  # torchrun stops all ranks as soon as one has ended, so rank 0 must print first
        return False
    if world().is_rank_zero:
        return True
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if store().check([END_KEY]):
                return False
            time.sleep(POLL_SECONDS)
    except dist.DistError:  # rank 0 ran the store and died without a message
        return True
    return True


def announce_end(exit_code: int) -> None:
    """Tell the other ranks that this rank is done or has printed its error.

    Rank 0 waits a moment for the others, because it may run the store that they read.
    """
    if not dist.is_initialized():
        return
    here = world()
    try:
        if not here.is_rank_zero:
            store().set(f"rank {here.rank} knows", "")
            return
        until = time.monotonic() + PATIENCE_SECONDS / 2
        store().set(END_KEY, str(exit_code))
        others = [f"rank {rank} knows" for rank in range(1, here.size)]
        while time.monotonic() < until and not store().check(others):
            time.sleep(POLL_SECONDS)
    except dist.DistError:
        return


def store() -> dist.Store:
    """The process group's store, with our own prefix."""
    return dist.PrefixStore("heedful", _get_default_store())
