"""This process's rank under ``torchrun``, and how the ranks connect and disconnect.

``torchrun`` starts one process per GPU for a training step; each process is a *rank*. Without ``torchrun`` the process is a
world of size 1 and needs no network.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.rendezvous import rendezvous

from heedful.errors import ConfigError, LostRankError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank, and the number of ranks."""

    rank: int
    size: int

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes logs and models and prints messages."""
        return self.rank == 0


def world() -> World:
    """This process's rank and the number of ranks.

    Under ``torchrun`` the first call connects the ranks (NCCL on GPUs, gloo on CPUs). It raises ConfigError if torchrun could
    not restart them.
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(0, 1)
    _connect()
    return World(dist.get_rank(), dist.get_world_size())


def across_ranks(train: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that runs on all ranks: it connects them first, and raises LostRankError if one of them is lost."""

    @functools.wraps(train)
    def connected(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            world()
            return train(*args, **kwargs)
        except (RuntimeError, CheckpointException) as error:
            if not _is_lost_connection(error):
                raise
            raise LostRankError(
                f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} lost the connection to another rank",
                expected="all ranks running until the step is done",
                got=str(error).strip().partition("\n")[0],
                next_step="look for the cause in the other ranks' messages, then run the same command again: it continues from "
                "the last checkpoint (torchrun --max-restarts=3 does this by itself)",
            ) from error

    return connected


def set_seed(seed: int) -> None:
    """Seed torch's random numbers (for dropout). Rank 0 gets the seed itself, every other rank its own stream."""
    rank = world().rank
    torch.manual_seed(seed if rank == 0 else int(np.random.SeedSequence([seed, rank]).generate_state(1)[0]))


def _connect() -> None:
    """Connect to torchrun's other ranks. Raises ConfigError if a restart could not work.

    torchrun keeps one store for all its restarts, so a restarted rank would find the addresses of dead processes (torch 2.13).
    On one machine, a prefix with the number of the restart prevents that. Several machines count restarts differently, so there
    torchrun must be told to make a new store for each restart.
    """
    environment = os.environ
    one_machine = int(environment.get("GROUP_WORLD_SIZE", "1")) == 1
    shared_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not one_machine and shared_store and int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise ConfigError(
            "torchrun cannot restart ranks on several machines with these settings",
            expected="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment on every machine",
            got=f"--max-restarts={environment['TORCHELASTIC_MAX_RESTARTS']} with a store that outlives a restart",
            next_step="export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, or leave --max-restarts out",
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(rendezvous("env://"))
    if one_machine:
        store = dist.PrefixStore(f"start {environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    atexit.register(_disconnect)


def _disconnect() -> None:
    """Destroy the process group and free everything that refers to it, so that gloo's threads stop.

    A gloo thread that is still cleaning up when Python has exited needs Python's lock, and aborts the process (SIGABRT).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # sharded models refer to the group in reference cycles


def _is_lost_connection(error: BaseException) -> bool:
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "timed out", "nccl")
    return isinstance(error, dist.DistError) or (
        int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in text for sign in signs)
    )
