"""Operations that all ranks do at the same time: wait, broadcast, gather, add up. In one process, they need no communication.

Every rank must call these functions in the same order. A rank that waits here gives up after a few minutes, or when another
rank is lost. For longer waits see :mod:`heedful.ranks.rank_zero`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from heedful.errors import ConfigError
from heedful.ranks.world import world

T = TypeVar("T")


def barrier() -> None:
    """Wait until every rank has called this function."""
    if world().size > 1:
        all_gather(None)


def broadcast(value: Any) -> Any:
    """Rank 0's value, on all ranks."""
    if world().size == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def all_gather(value: Any) -> list[Any]:
    """The values of all ranks, in order of rank, on all ranks."""
    if world().size == 1:
        return [value]
    values: list[Any] = [None] * world().size
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(number: float) -> float:
    """The sum of all ranks' numbers."""
    return sum(all_gather(number))


def sums_over_ranks(numbers: dict[str, float]) -> dict[str, float]:
    """The sum over all ranks of each named number."""
    if world().size == 1:
        return numbers
    rows: list[dict[str, float]] = all_gather(numbers)
    names = {name: None for row in rows for name in row}
    return {name: sum(row.get(name, 0.0) for row in rows) for name in names}


def gather_in_order(own: Iterable[tuple[int, T]]) -> list[T]:
    """The values of a whole batch, in order of their indices. own: this rank's pairs of index and value (no GPU tensors)."""
    pairs = [pair for part in all_gather(list(own)) for pair in part]
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


def gather_rows_in_order(own: Iterable[tuple[Sequence[int], Tensor]], device: torch.device) -> Tensor:
    """The rows of a whole batch, in order, as one tensor. own: this rank's pairs of indices and a tensor of their rows."""
    parts = [(list(indices), rows) for indices, rows in own]
    if world().size > 1:
        parts = [part for given in all_gather([(i, rows.cpu()) for i, rows in parts]) for part in given]
    joined = torch.cat([rows for _, rows in parts]).to(device)
    indices = [i for members, _ in parts for i in members]
    if indices == sorted(indices):
        return joined
    return joined[torch.tensor(np.argsort(indices), device=device)]


def require_same(what: str, value: Any) -> None:
    """Raise ConfigError if the ranks have different values."""
    if world().size == 1:
        return
    values = all_gather(value)
    different = [rank for rank, theirs in enumerate(values) if theirs != values[0]]
    if different:
        raise ConfigError(
            f"the ranks were given different {what}",
            expected="the same on all ranks, which train one model on one batch together",
            got=f"rank {different[0]} was given other {what} than rank 0",
            next_step="load the same files on every machine, and set a seed wherever random numbers are used",
        )
