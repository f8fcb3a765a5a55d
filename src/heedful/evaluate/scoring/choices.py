"""Scores of choices from their log-probabilities: accuracy, and the entropy that measures bias (SPEC 4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def entropy_bits(logprobs: Sequence[float]) -> float:
    """Return H = -sum P_i log2 P_i in bits, P_i proportional to exp(logprobs[i]): 0 is certain, log2(choices) undecided.

    ``logprobs`` are natural logarithms of each choice's *total* probability, not of its mean per token.
    """
    shifted = np.asarray(logprobs, dtype=np.float64) - max(logprobs)
    log_sum = math.log(float(np.exp(shifted).sum()))
    log_share = shifted - log_sum
    return float(-(np.exp(log_share) * log_share).sum() / math.log(2)) + 0.0


def chosen(logprobs: Sequence[float]) -> int:
    """Return the place of the most likely choice; ties go to the first, as in lm-evaluation-harness."""
    return max(range(len(logprobs)), key=logprobs.__getitem__)
