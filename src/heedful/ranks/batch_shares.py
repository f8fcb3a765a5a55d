"""Each rank's part of a batch, in microbatches.

Losses are divided by the counts of the whole batch, so the ranks' gradients add up to the gradient that one process computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from heedful.ranks.world import world


def own_microbatches(lengths: Sequence[int], *, tokens: int) -> list[tuple[list[int], float]]:
    """This rank's part of a batch, in microbatches of at most ``tokens`` tokens. Each is its indices and a factor for its loss.

    lengths: of the whole batch's sequences, in tokens, the same on every rank. A sequence with more than ``tokens`` tokens is a
    microbatch by itself. Every rank gets the same number of microbatches, because each forward pass gathers weights from all
    ranks. A rank with fewer microbatches repeats its first one with factor 0; all others have factor 1.
    """
    here = world()
    if here.size == 1:
        return [(members, 1.0) for members in split_by_tokens(lengths, tokens=tokens)]
    shares = [
        [[owned[j] for j in part] for part in split_by_tokens([lengths[i] for i in owned], tokens=tokens)]
        for owned in _indices_by_rank(lengths, here.size)
    ]
    mine = shares[here.rank]
    missing = max(map(len, shares)) - len(mine)
    filler = mine[0] if mine else [0]
    return [(members, 1.0) for members in mine] + [(filler, 0.0)] * missing


def own_indices(lengths: Sequence[int]) -> list[int]:
    """The indices of this rank's part of a batch, in order. The sums of lengths are similar on all ranks."""
    here = world()
    return _indices_by_rank(lengths, here.size)[here.rank]


def split_by_tokens(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Split the indices, in order, into groups of at most ``tokens`` tokens. A longer sequence is a group by itself."""
    groups: list[list[int]] = []
    size = tokens + 1
    for i, length in enumerate(lengths):
        if size + length > tokens:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += length
    return groups


def _indices_by_rank(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices for each rank, dealt from longest to shortest: from the first rank to the last, then back, and so on."""
    owned: list[list[int]] = [[] for _ in range(size)]
    for place, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        turn, seat = divmod(place, size)
        owned[seat if turn % 2 == 0 else size - 1 - seat].append(i)
    return [sorted(indices) for indices in owned]
