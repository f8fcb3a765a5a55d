"""Attention of packed rows, as ranges that see each other: compiled loops on a CPU, dense blocks everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from heedful.functional.fast import kernels
from heedful.model.attention import AttentionBlock, BlockLayout
from heedful.model.fast import last_layer
from heedful.model.fast.grid import on_grid

_LENGTH_GRID = 16

# Sequences are sorted by length and cut into blocks such that padding inside a block stays under this share.
_LARGEST_PADDING = 0.25
_SMALLEST_BLOCK = 16

# The compiled loops hold a group's keys and values several times in fp32.
_LONGEST_IN_LOOPS = 8_192

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class RangesLayout:
    """A packed row as groups: a context that sees itself causally, and branches that see all of it and themselves causally.

    positions: [tokens] each token's position in its own sequence. context_start, context_lengths: [groups] a prompt, or a whole
    sequence where nothing is shared. start, lengths, group: [branches] the responses of shared prompts, in the groups' order.
    rows_read: the tokens that are read after the last layer, each once (None: all; :mod:`heedful.model.fast.last_layer`).
    """

    positions: Tensor
    context_start: np.ndarray
    context_lengths: np.ndarray
    start: np.ndarray = field(default_factory=lambda: _NONE)
    lengths: np.ndarray = field(default_factory=lambda: _NONE)
    group: np.ndarray = field(default_factory=lambda: _NONE)
    window: int | None = None
    rows_read: Tensor | None = None
    # What depends neither on the window nor on the rows that are read: made once for all layouts of a row.
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def reading(self, rows: Tensor) -> RangesLayout:
        """The same layout, of which only some rows are read after the last layer."""
        return replace(self, rows_read=rows)

    def within(self, window: int) -> RangesLayout:
        """The layout of layers that see ``window`` positions: the token itself and the ``window - 1`` before it."""
        return replace(self, window=window)

    def to(self, device: torch.device | str) -> RangesLayout | BlockLayout:
        """On another device than the CPU: the blocks."""
        if torch.device(device).type == "cpu":
            return self
        blocks = self.blocks if self.rows_read is None else self.blocks.reading(self.rows_read)
        return blocks.to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[tokens, heads, head width] in and out."""
        if not (kernels.usable(query) and self._longest <= _LONGEST_IN_LOOPS):
            blocks = self.blocks if self.window is None else self.blocks.within(self.window)
            return blocks.attend(layer, query, key, value, scaling)
        # The rows of the last layer are told once in a pass, all rows in every other layer.
        whole = last_layer.rows_read() is None
        ranges = self._once("ranges", lambda: self._ranges(None)) if whole else self._ranges(self.rows_read)
        return cast(Tensor, _PackedAttention.apply(query, key, value, ranges, self.window, scaling))

    @property
    def blocks(self) -> BlockLayout:
        """The same as dense blocks."""
        return self._once("blocks", lambda: _in_blocks(self))

    @property
    def _longest(self) -> int:
        branch = int(self.lengths.max()) if len(self.lengths) else 0
        return int(self.context_lengths.max()) + branch

    def _ranges(self, rows: Tensor | None) -> kernels.Ranges:
        """What the compiled loops are told; only queries among ``rows`` are wanted (None: all)."""
        wanted = None if rows is None else rows.numpy()
        counts = np.bincount(self.group, minlength=len(self.context_start))
        return kernels.Ranges(
            _with_wanted(self.context_start, self.context_lengths, wanted),
            _with_wanted(self.start, self.lengths, wanted),
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        )

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class _PackedAttention(torch.autograd.Function):
    """The compiled loops: nothing but the inputs is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, ranges: kernels.Ranges, window: int | None, scaling: float
    ) -> Tensor:
        query, key, value = kernels.dense_rows(query), kernels.dense_rows(key), kernels.dense_rows(value)
        ctx.save_for_backward(query, key, value)
        ctx.more = (ranges, window, scaling)
        return kernels.packed_attention(query, key, value, *ctx.more)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        return *kernels.packed_attention_backward(gradients[0], *ctx.saved_tensors, *ctx.more), None, None, None


def _with_wanted(start: np.ndarray, lengths: np.ndarray, wanted: np.ndarray | None) -> Tensor:
    """[ranges, 4]: first row, length, and the queries from the first to after the last that is among ``wanted`` (sorted)."""
    first, last = np.zeros_like(lengths), lengths
    if wanted is not None:
        after, end = np.searchsorted(wanted, start), np.searchsorted(wanted, start + lengths)
        some = end > after
        first = np.where(some, wanted[np.minimum(after, len(wanted) - 1)] - start, 0)
        last = np.where(some, wanted[end - 1] + 1 - start, 0)
    return torch.from_numpy(np.stack([start, lengths, first, last], axis=1).astype(np.int64))


def _in_blocks(ranges: RangesLayout) -> BlockLayout:
    """Contexts of similar length in blocks that see themselves, branches in blocks that see their context too."""
    positions, start, lengths, group = ranges.positions, ranges.start, ranges.lengths, ranges.group
    prompt_start, prompt_lengths = ranges.context_start, ranges.context_lengths
    output_index = np.zeros(len(positions), dtype=np.int64)
    blocks: list[AttentionBlock] = []
    offset = 0
    for members in _buckets(prompt_lengths):
        longest = _on_length_grid(int(prompt_lengths[members].max()))
        index, real = _ranges(prompt_start[members], prompt_lengths[members], longest)
        blocks.append(AttentionBlock(torch.from_numpy(index), torch.from_numpy(index), _causal(longest)))
        output_index[index[real]] = offset + np.flatnonzero(real)
        offset += real.size
    for members in _buckets(prompt_lengths[group] + lengths):
        longest = _on_length_grid(int(lengths[members].max()))
        longest_prompt = _on_length_grid(int(prompt_lengths[group[members]].max()))
        own, real = _ranges(start[members], lengths[members], longest)
        prompt, prompt_real = _ranges(prompt_start[group[members]], prompt_lengths[group[members]], longest_prompt)
        mask = torch.cat(
            [
                torch.from_numpy(prompt_real)[:, None, None, :].expand(-1, 1, longest, -1),
                _causal(longest).expand(len(own), 1, -1, -1),
            ],
            dim=-1,
        )
        keys = torch.from_numpy(np.concatenate([prompt, own], axis=1))
        blocks.append(AttentionBlock(torch.from_numpy(own), keys, mask))
        output_index[own[real]] = offset + np.flatnonzero(real)
        offset += real.size
    return BlockLayout(tuple(blocks), torch.from_numpy(output_index), positions)


def _causal(length: int) -> Tensor:
    """Right padding needs no mask of its own: under a causal mask no real query sees a key after itself."""
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def _on_length_grid(length: int) -> int:
    return -(-length // _LENGTH_GRID) * _LENGTH_GRID


def _ranges(start: np.ndarray, lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Row positions [n, longest] of n ranges, 0 where padded, and [n, longest] True where real; n is rounded up to the grid."""
    extra = on_grid(len(start)) - len(start)
    start, lengths = np.pad(start, (0, extra)), np.pad(lengths, (0, extra))
    offsets = np.arange(longest)
    real = offsets < lengths[:, None]
    return np.where(real, start[:, None] + offsets, 0).astype(np.int64), real


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """Indices grouped such that similar lengths share a block: little padding, few blocks."""
    order = np.argsort(-lengths, kind="stable")
    buckets: list[np.ndarray] = []
    first = 0
    for i in range(1, len(order) + 1):
        at_end = i == len(order)
        if at_end or (i - first >= _SMALLEST_BLOCK and lengths[order[i]] < (1 - 2 * _LARGEST_PADDING) * lengths[order[first]]):
            buckets.append(order[first:i])
            first = i
    return buckets
