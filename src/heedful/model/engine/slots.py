"""The engine's key-value cache: slots, one per unfinished request, in groups of similar length.

A group's keys and values are dense tensors [slots, key heads, length, head width]. A batched product reads them whole, because
on a CPU a product would first copy a slice of them. So live slots come first, and when a slot is freed, the last one moves into
it. Numbers of slots and lengths are rounded up to a grid, because each new shape costs a new kernel (docs/log.md). With many
requests, most of the cost of decoding is reading the cache. So two groups stay apart if one joint group, as long as the longer
one, would read much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from heedful.functional.fast import kernels
from heedful.model.attention import Layout
from heedful.model.fast.grid import on_grid

_LENGTH_GRID = 32
# One more group costs about as much time as reading this many bytes of one layer's cache.
_GROUP_BYTES = 2**20


class Slots:
    """One group: the cache of ``count`` requests. Row i holds ``lengths[i]`` tokens; rows from ``count`` on are unused.

    A row holds each token at its position in the request, whatever else is in the group. So sums over the keys have the same
    order, and the same bits, in every batch.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.length = on_length_grid(max(lengths) + 1)
        self.rows = on_grid(len(lengths))
        # One tensor per layer: [keys and values, rows and then freed rows, key heads, length, head width].
        self._cache: list[Tensor] = []
        self._views: list[tuple[Tensor, Tensor, Tensor]] = []
        # For the next token: its position [rows]; its places in a layer's cache viewed as [cells, head width]; an additive mask
        # [rows, 1, length], 0 where it sees a key; and such a mask for each sliding window that rows have outgrown.
        self.positions = torch.empty(0)
        self._places = torch.empty(0)
        self._mask = torch.empty(0)
        self._window_masks: dict[int, Tensor] = {}
        self._row_numbers = torch.empty(0)
        # Addresses of each layer's keys and values if the compiled loop is used; then places, masks and views are not.
        self._addresses: list[tuple[int, int]] = []

    @property
    def count(self) -> int:
        """Number of requests in this group."""
        return len(self.lengths)

    @property
    def leaves_filler(self) -> bool:
        """Whether :meth:`attend` accepts filler rows after the group's own."""
        return bool(self._addresses)

    def write_prompts(self, layer: int, rows: Tensor, positions: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the keys and values [tokens, key heads, head width] of prompts at (row, position) [tokens]."""
        if layer == len(self._cache):
            # Zeros, because masked entries are multiplied by 0 and must be finite.
            self._cache.append(key.new_zeros(2, self.rows, key.shape[1], self.length, key.shape[2]))
        self._cache[layer][0][rows, :, positions] = key
        self._cache[layer][1][rows, :, positions] = value

    def repeat(self, rows: Sequence[int]) -> None:
        """Make row i a copy of the old row ``rows[i]``, because a prompt is computed once for all its samples."""
        self.lengths = [self.lengths[row] for row in rows]
        self.rows = on_grid(len(rows))
        index = torch.tensor([*rows, *[0] * (self.rows - len(rows))], device=self._cache[0].device)
        self._cache = [cache.index_select(1, index) for cache in self._cache]

    def remove(self, gone: set[int]) -> list[int]:
        """Free the rows ``gone``; returns the old index of each remaining row."""
        count = self.count - len(gone)
        order = list(range(count))
        movers = [row for row in range(count, self.count) if row not in gone]
        holes = [row for row in range(count) if row in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            for cache in self._cache:
                cache[:, hole].copy_(cache[:, mover])
        self.lengths = [self.lengths[row] for row in order]
        self.rows = on_grid(count)
        return order

    def absorb(self, other: Slots) -> None:
        """Append another group's rows to this one's."""
        self.length = max(self.length, other.length)
        lengths = self.lengths + other.lengths
        self.rows = on_grid(len(lengths))
        for layer, (left, right) in enumerate(zip(self._cache, other._cache, strict=True)):
            joined = left.new_zeros(2, self.rows, left.shape[2], self.length, left.shape[4])
            joined[:, : self.count, :, : left.shape[3]] = left[:, : self.count]
            joined[:, self.count : len(lengths), :, : right.shape[3]] = right[:, : other.count]
            self._cache[layer] = joined
        self.lengths = lengths

    def prepare(self) -> None:
        """Prepare for the next decoded token after rows have joined or left, or when the length is used up."""
        length = on_length_grid(max(self.lengths) + 1)
        if length > self.length:
            extra = length - self.length
            for layer, cache in enumerate(self._cache):  # one at a time, to avoid a second copy of the whole cache
                self._cache[layer] = F.pad(cache[:, : self.rows], (0, 0, 0, extra))
            self.length = length
        _, capacity, heads, _, width = self._cache[0].shape
        device, dtype = self._cache[0].device, self._cache[0].dtype
        # An unused row decodes from position 0, so it never gets longer than a row in use.
        self.positions = torch.tensor(self.lengths + [0] * (self.rows - self.count), device=device)
        if kernels.usable(self._cache[0]) and kernels.fits(width):
            self._addresses = [(cache[0].data_ptr(), cache[1].data_ptr()) for cache in self._cache]
            return
        self._row_numbers = torch.arange(self.rows, device=device)
        # In the order of a token's keys and values: [rows, keys and values, heads].
        first = self._row_numbers[:, None, None] + torch.tensor([0, capacity], device=device)[:, None]
        cells = (first * heads + torch.arange(heads, device=device)) * self.length
        self._places = (cells + self.positions[:, None, None]).view(-1)
        hidden = torch.arange(self.length, device=device) > self.positions[:, None]
        self._mask = torch.zeros(self.rows, 1, self.length, dtype=dtype, device=device)
        self._mask.masked_fill_(hidden[:, None], _hidden(dtype))
        self._window_masks = {}
        self._views = []
        for cache in self._cache:
            keys, values = (part[: self.rows].view(-1, self.length, width) for part in cache)
            self._views.append((cache.view(-1, width), keys.transpose(1, 2), values))

    def advance(self) -> None:
        """Count one more token in every row."""
        self.lengths = [length + 1 for length in self.lengths]
        if max(self.lengths) >= self.length:
            self.prepare()
            return
        self.positions.add_(1)
        if self._addresses:
            return
        self._places.add_(1)
        self._mask[self._row_numbers, 0, self.positions] = 0
        self._window_masks = {}

    def _mask_within(self, window: int | None) -> Tensor:
        """Additive mask [rows, 1, length], 0 where a row's next token sees a key: all up to itself, or the last ``window``."""
        if window is None or max(self.lengths) < window:
            return self._mask
        if window not in self._window_masks:
            gone = torch.arange(self.length, device=self.positions.device) <= self.positions[:, None] - window
            self._window_masks[window] = self._mask.masked_fill(gone[:, None], _hidden(self._mask.dtype))
        return self._window_masks[window]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """Add one new token per row to the cache; it attends to all tokens up to itself, or to the last ``window``.

        query: [rows, heads, head width]; key, value: [rows, key heads, head width]. Returns a tensor like query.
        """
        if self._addresses:
            return kernels.attend(query, key, value, self._addresses[layer], self.length, self.positions, scaling, window)
        cells, keys, values = self._views[layer]
        rows, heads, width = key.shape
        cells.index_copy_(0, self._places, torch.stack((key, value), 1).view(-1, width))
        # Query heads that share a key head become the rows of one product.
        scores = torch.bmm((query * scaling).reshape(rows * heads, -1, width), keys)
        scores.view(rows, -1, self.length).add_(self._mask_within(window))
        return torch.bmm(scores.softmax(-1), values).view(rows, -1, width)


def _hidden(dtype: torch.dtype) -> float:
    """The number to add to a key's score so that its softmax weight is exactly 0."""
    return torch.finfo(dtype).min / 2


def on_length_grid(length: int) -> int:
    """``length`` rounded up to the cache's grid."""
    return -(-length // _LENGTH_GRID) * _LENGTH_GRID


def groups_of(lengths: Sequence[int], bytes_per_token: int) -> list[list[int]]:
    """Indices of prompts, longest first, in groups. A new group begins where reading the longer cache would cost more.

    bytes_per_token: size of one token's keys and values in one layer.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    waste = 0
    for i in order:
        waste += (
            (on_length_grid(lengths[groups[-1][0]] + 1) - on_length_grid(lengths[i] + 1)) * bytes_per_token if groups else 0
        )
        if not groups or waste > _GROUP_BYTES:
            groups.append([])
            waste = 0
        groups[-1].append(i)
    return groups


def worth_merging(left: Slots, right: Slots, bytes_per_token: int) -> bool:
    """Whether reading both groups at the longer one's length costs no more than keeping two groups."""
    shorter = min(left, right, key=lambda slots: slots.length)
    return abs(left.length - right.length) * shorter.count * bytes_per_token <= _GROUP_BYTES


@dataclass(frozen=True, slots=True)
class PrefillLayout:
    """Attention over a packed row that also writes its keys and values to a group's slots.

    positions: [tokens] each token's position in its own sequence. rows: [real tokens] the slot of each; filler follows them.
    """

    layout: Layout
    positions: Tensor
    slots: Slots
    rows: Tensor

    def within(self, window: int) -> PrefillLayout:
        """The same for layers with a sliding window. Slots get all keys and values; decoding hides those outside the window."""
        return replace(self, layout=self.layout.within(window))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query: [tokens, heads, head width]; key, value: [tokens, key heads, head width]. Returns a tensor like query."""
        real = len(self.rows)  # filler follows
        self.slots.write_prompts(layer, self.rows, self.positions[:real], key[:real], value[:real])
        return self.layout.attend(layer, query, key, value, scaling)


@dataclass(frozen=True, slots=True)
class DecodeLayout:
    """One new token for each row of several groups, one group after another; rows after theirs are filler."""

    groups: Sequence[Slots]
    window: int | None = None

    def within(self, window: int) -> DecodeLayout:
        """Hide keys that are ``window`` or more positions before the new token; they stay in the cache."""
        return DecodeLayout(self.groups, window)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query: [rows, heads, head width]; key, value: [rows, key heads, head width]. Returns a tensor like query."""
        if len(self.groups) == 1 and (self.groups[0].rows == len(query) or self.groups[0].leaves_filler):
            return self.groups[0].attend(layer, query, key, value, scaling, self.window)
        outputs: list[Tensor] = []
        first = 0
        for slots in self.groups:
            part = slice(first, first + slots.rows)
            outputs.append(slots.attend(layer, query[part], key[part], value[part], scaling, self.window))
            first += slots.rows
        if first < len(query):
            outputs.append(query.new_zeros(len(query) - first, *query.shape[1:]))
        return torch.cat(outputs)
