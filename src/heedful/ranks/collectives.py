"""Training steps under ``torchrun``: who this process is, which part of a batch is its own, and sums over all processes.

A training step is started once per GPU (a *rank*); each computes its part of every batch, and models, gradients and optimiser
state are sharded over the ranks (:mod:`heedful.training.sharding`). Losses are sums divided by the counts of the whole batch,
so the ranks' gradients add up to those of one process. One process is a world of size 1: nothing here then touches a network,
and each function returns what it was given.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.rendezvous import rendezvous

from heedful.errors import ConfigError, LostRankError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process's number among all that train together."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Rank 0: the one that writes logs and models, and talks to the user."""
        return self.rank == 0


def world() -> World:
    """The processes that train together; the first call under ``torchrun`` joins them (NCCL on GPUs, else gloo)."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(0, 1)
    _join()
    return World(dist.get_rank(), dist.get_world_size())


def across_ranks(train: Callable[P, R]) -> Callable[P, R]:
    """Let a training step run under ``torchrun``: it ends with LostRankError where another rank is lost."""

    @functools.wraps(train)
    def joined_training(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            world()
            return train(*args, **kwargs)
        except (RuntimeError, CheckpointException) as error:
            if not _is_lost(error):
                raise
            raise LostRankError(
                f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} lost the connection to another one",
                expected="all ranks at work until the step is done",
                got=str(error).strip().partition("\n")[0],
                next_step="look at the other ranks' messages for the cause; the same command goes on from the last checkpoint, "
                "and torchrun --max-restarts=3 does so by itself",
            ) from error

    return joined_training


def share(lengths: Sequence[int], *, tokens: int) -> list[tuple[list[int], float]]:
    """This rank's part of a batch in microbatches of at most ``tokens`` tokens: indices, and the factor of their loss.

    lengths: of the whole batch, the same on every rank. All ranks get equally many microbatches, since each forward pass
    gathers weights from all of them: a rank with fewer repeats its first one with the factor 0. Else the factor is 1.
    """
    here = world()
    if here.size == 1:
        return [(members, 1.0) for members in minibatches(lengths, tokens=tokens)]
    shares = [
        [[owned[j] for j in part] for part in minibatches([lengths[i] for i in owned], tokens=tokens)]
        for owned in _owned(lengths, here.size)
    ]
    mine = shares[here.rank]
    missing = max(map(len, shares)) - len(mine)
    filler = mine[0] if mine else [0]
    return [(members, 1.0) for members in mine] + [(filler, 0.0)] * missing


def own_indices(lengths: Sequence[int]) -> list[int]:
    """The indices of this rank's part of a batch, in order; the parts are alike in their sums of lengths."""
    here = world()
    return _owned(lengths, here.size)[here.rank]


def total(number: float) -> float:
    """The sum over all ranks."""
    return sum(everyone(number))


def totals(numbers: dict[str, float]) -> dict[str, float]:
    """Each number's sum over all ranks."""
    if world().size == 1:
        return numbers
    rows: list[dict[str, float]] = _gathered(numbers)
    names = {name: None for row in rows for name in row}
    return {name: sum(row.get(name, 0.0) for row in rows) for name in names}


def in_order(own: Iterable[tuple[int, T]]) -> list[T]:
    """What all ranks have of a batch, by index; each rank gives pairs of an index and a value (no GPU tensors)."""
    pairs = [pair for part in everyone(list(own)) for pair in part]
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


def rows_in_order(own: Iterable[tuple[Sequence[int], Tensor]], device: torch.device) -> Tensor:
    """Rows of all ranks' tensors by index; each rank gives pairs of indices and a tensor whose rows they are."""
    parts = [(list(indices), rows) for indices, rows in own]
    if world().size > 1:
        parts = [part for given in _gathered([(i, rows.cpu()) for i, rows in parts]) for part in given]
    joined = torch.cat([rows for _, rows in parts]).to(device)
    indices = [i for members, _ in parts for i in members]
    if indices == sorted(indices):
        return joined
    return joined[torch.tensor(np.argsort(indices), device=device)]


def agreed(value: Any) -> Any:
    """Rank 0's value, on all ranks."""
    if world().size == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def everyone(value: Any) -> list[Any]:
    """The values of all ranks."""
    return [value] if world().size == 1 else _gathered(value)


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if world().size > 1:
        _gathered(None)


def refuse_different(what: str, value: Any) -> None:
    """Raise ConfigError where the ranks do not hold the same."""
    if world().size == 1:
        return
    values = everyone(value)
    other = [rank for rank, theirs in enumerate(values) if theirs != values[0]]
    if other:
        raise ConfigError(
            f"the ranks were given different {what}",
            expected="the same on all ranks: they train one model on one batch together",
            got=f"rank {other[0]} has others than rank 0",
            next_step="load the same files on every machine, and make nothing at random without a seed",
        )


def set_seed(seed: int) -> None:
    """Seed torch's random numbers (dropout): rank 0's as in one process, each other rank's with its own stream."""
    rank = world().rank
    torch.manual_seed(seed if rank == 0 else int(np.random.SeedSequence([seed, rank]).generate_state(1)[0]))


def _join() -> None:
    """Become one of torchrun's ranks. Raises ConfigError where a restart would not work.

    torchrun keeps one store for all its restarts, so that a restarted rank would find the addresses of processes that are gone
    (torch 2.13). On one machine the number of the restart sets them apart. Machines count restarts differently: there torchrun
    must be told to make a new store each time.
    """
    environment = os.environ
    one_machine = int(environment.get("GROUP_WORLD_SIZE", "1")) == 1
    shared_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not one_machine and shared_store and int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise ConfigError(
            "torchrun cannot start the ranks of several machines again as it is set",
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
    atexit.register(_leave)


def _leave() -> None:
    """End the group and, with its last holder, gloo's threads.

    One that still puts its work away when Python has ended needs Python's lock for it, and aborts the process (SIGABRT).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # sharded models hold the group, in cycles


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * world().size
    dist.all_gather_object(values, value)
    return values


def minibatches(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Consecutive indices in groups of at most ``tokens`` tokens (a longer single one stands alone): for accumulation."""
    groups: list[list[int]] = []
    size = tokens + 1
    for i, length in enumerate(lengths):
        if size + length > tokens:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += length
    return groups


def _owned(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices for each rank: dealt out from the longest to the shortest, there and back."""
    owned: list[list[int]] = [[] for _ in range(size)]
    for place, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        turn, seat = divmod(place, size)
        owned[seat if turn % 2 == 0 else size - 1 - seat].append(i)
    return [sorted(indices) for indices in owned]


def _is_lost(error: BaseException) -> bool:
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "timed out", "nccl")
    return isinstance(error, dist.DistError) or (
        int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in text for sign in signs)
    )
