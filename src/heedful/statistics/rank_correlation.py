"""Kendall's tau-b between weak orders, which may have ties (Kendall 1945): 1 same order, 0 unrelated, -1 reversed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from heedful.records import Ranking
from heedful.statistics.comparisons import Comparisons, comparisons
from heedful.statistics.intervals import Estimate, FloatArray, IntArray, bootstrap, ratio

_BLOCK = 2**22
"""Largest number of judgements in one dense table."""


def kendall_tau_b(rankings: Sequence[Ranking], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean tau-b over every two labelers who ranked the same prompt; the interval is over prompts.

    Of the pairs of responses that both ranked, C are ordered alike, D are ordered in opposite ways, and labeler a did not tie
    T(a)::

        tau-b = (C - D) / sqrt(T(a) T(b))

    If one of the two tied everything, tau-b is undefined, and the two are left out at this prompt. ``count`` is the number of
    tau-b in the mean.
    """
    judged = comparisons(rankings)
    everyone = np.ones(len(judged.labelers), dtype=np.bool_)
    sums, meetings = _by_prompt_and_labeler(judged, everyone)
    rows = np.stack([sums.sum(axis=1), meetings.sum(axis=1)], axis=1)[:, None, :] / 2
    return bootstrap(rows, ratio, counts=[round(float(rows[..., 1].sum()))], confidence=confidence, seed=seed)[0]


def labeler_tau_b(
    rankings: Sequence[Ranking],
    references: Collection[str] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Each labeler's mean tau-b with any other labeler at a common prompt, or only with ``references`` (the researchers).

    Labelers without a common prompt and the references themselves are left out.
    """
    judged = comparisons(rankings)
    others = np.ones(len(judged.labelers), np.bool_) if references is None else np.isin(judged.labelers, list(references))
    sums, meetings = _by_prompt_and_labeler(judged, others)
    counts = meetings.sum(axis=0).astype(np.int64)
    estimates = bootstrap(np.stack([sums, meetings], axis=2), ratio, counts=counts, confidence=confidence, seed=seed)
    return {
        name: estimate
        for name, estimate in zip(judged.labelers, estimates, strict=True)
        if estimate.count and name not in (references or ())
    }


def _by_prompt_and_labeler(judged: Comparisons, others: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Sum and number of each labeler's tau-b with the labelers ``others``, both (prompts, labelers)."""
    num_labelers = len(judged.labelers)
    sums, meetings = (np.zeros((len(judged.prompts), num_labelers)) for _ in range(2))
    # Prompts with the same numbers of responses and of labelers form one dense table: (prompts, labelers present, pairs).
    order = np.argsort(judged.pair_prompt[judged.pair], kind="stable")
    pair, labeler, sign = judged.pair[order], judged.labeler[order], judged.sign[order]
    prompt = judged.pair_prompt[pair]
    present, slot_of_row = np.unique(prompt * num_labelers + labeler, return_inverse=True)
    num_present = np.bincount(present // max(num_labelers, 1), minlength=len(judged.prompts))
    first_present = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_present)])
    slot = slot_of_row - first_present[prompt]
    row_starts = np.searchsorted(prompt, np.arange(len(judged.prompts) + 1))
    for width, depth in np.unique(np.stack([judged.num_pairs, num_present], axis=1), axis=0).tolist():
        alike = np.flatnonzero((judged.num_pairs == width) & (num_present == depth))
        if depth < 2 or width < 1:
            continue
        block = max(1, _BLOCK // (depth * width))
        for some in np.split(alike, range(block, len(alike), block)):
            rows = _ranges(row_starts[some], row_starts[some + 1])
            place = np.repeat(np.arange(len(some)), row_starts[some + 1] - row_starts[some])
            table = np.zeros((2, len(some), depth, width), dtype=np.float32)
            local = pair[rows] - judged.pair_starts[prompt[rows]]
            table[0, place, slot[rows], local] = sign[rows]
            table[1, place, slot[rows], local] = 1
            tau = _tau_b(table[0], table[1])
            names = present[first_present[some][:, None] + np.arange(depth)] % num_labelers
            counted = ~np.isnan(tau) & others[names][:, None, :]
            sums[some[:, None], names] = np.where(counted, tau, 0).sum(axis=2)
            meetings[some[:, None], names] = counted.sum(axis=2)
    return sums, meetings


def _tau_b(sign: npt.NDArray[np.float32], judged: npt.NDArray[np.float32]) -> FloatArray:
    """Tau-b of every two labelers at each prompt, (prompts, labelers, labelers); NaN on the diagonal and where undefined."""
    concordance = sign @ sign.transpose(0, 2, 1)
    untied = np.abs(sign) @ judged.transpose(0, 2, 1)  # [a, b]: pairs that a did not tie and b judged too
    product = (untied * untied.transpose(0, 2, 1)).astype(np.float64)
    tau = np.divide(concordance, np.sqrt(product), out=np.full(product.shape, math.nan), where=product > 0)
    return np.where(np.eye(tau.shape[1], dtype=np.bool_), math.nan, tau)


def _ranges(starts: IntArray, stops: IntArray) -> IntArray:
    """Every ``range(start, stop)``, concatenated."""
    lengths = stops - starts
    return np.arange(int(lengths.sum())) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
