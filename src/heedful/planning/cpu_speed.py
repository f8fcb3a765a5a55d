"""Measure this machine's CPU speed, in about a second, with matrix products as wide as the model's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from heedful.planning.shapes import Shape
from heedful.training.config import Precision

ROWS = 2_048
"""Tokens in the measured product."""
_COPIED_BYTES = 128 * 2**20
_COPY_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpeed:
    """Operations per second in matrix products, and bytes per second read from or written to memory."""

    flops: float
    bandwidth: float


def measured_speed(
    shape: Shape, precision: Precision, *, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> CpuSpeed:
    """Multiply tokens by a feed-forward layer of the model, and copy memory, for ``seconds`` in total."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(ROWS, shape.width, generator=generator).to(dtype)
    weights = torch.randn(shape.width, shape.feed_forward_width, generator=generator).to(dtype)
    product = torch.empty(ROWS, shape.feed_forward_width, dtype=dtype)
    block = torch.ones(_COPIED_BYTES, dtype=torch.uint8)
    copy = torch.empty_like(block)
    per_product = _seconds_each(lambda: torch.mm(tokens, weights, out=product), seconds * (1 - _COPY_SHARE), clock)
    per_copy = _seconds_each(lambda: copy.copy_(block), seconds * _COPY_SHARE, clock)
    return CpuSpeed(
        flops=2 * ROWS * shape.width * shape.feed_forward_width / per_product,
        bandwidth=2 * _COPIED_BYTES / per_copy,  # read and written
    )


def _seconds_each(work: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Mean seconds per call, over as many calls as fit into ``seconds``, after one call to warm up."""
    work()
    start, calls = clock(), 0
    while calls == 0 or clock() - start < seconds:
        work()
        calls += 1
    return (clock() - start) / calls
