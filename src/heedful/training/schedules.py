"""Schedules: learning rates as shares of the peak, and the order of each epoch."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray


def cosine(step: int, total: int, *, final_share: float, warmup: int = 0) -> float:
    """Share of the peak at ``step`` (from 0) of ``total``: linear warm-up, then a cosine to ``final_share`` (SPEC 3.2)."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def constant_after_warmup(iteration: int, *, warmup: int, start_share: float) -> float:
    """Share of the peak at ``iteration`` (from 0): from ``start_share`` linearly over ``warmup`` iterations to 1 (SPEC 3.5)."""
    if iteration >= warmup:
        return 1.0
    return start_share + (1 - start_share) * iteration / warmup


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all the optimizer's parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of an epoch. It depends only on seed and epoch, so a resumed run finds its place by counting."""
    return np.random.default_rng([seed, epoch]).permutation(count)
