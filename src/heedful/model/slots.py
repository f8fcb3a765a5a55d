"""The engine's key-value cache: slots, one per unfinished request, in groups of similar length.

A group's keys and values are dense tensors [slots, key heads, length, head width] that are used whole in a batched product: CPU
products copy a slice of a tensor before they use it. So live slots come first, a freed one is filled with the last one, and
numbers of slots and lengths lie on a grid (each new shape costs a new kernel, docs/log.md). Reading the cache is what decoding
many requests costs; two groups are kept apart where one of the length of both would read much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from heedful.model.layouts import PackedBatch, on_grid

_LENGTH_GRID = 32
# Attention over one more group takes as long as reading about this many bytes of one layer's cache.
_GROUP_BYTES = 2**20


class Slots:
    """One group: the cache of ``count`` requests, whose row i holds ``lengths[i]`` tokens. Rows from ``count`` on are unused."""

    def __init__(self, lengths: Sequence[int], spare: int = 1) -> None:
        self.lengths = list(lengths)
        self.length = on_length_grid(max(lengths) + spare)
        self.rows = on_grid(len(lengths))
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        # Of the token that is decoded next: its position [rows], its place in keys.view(-1, head width) [rows * heads], and 0
        # where it sees a key [rows, 1, length].
        self.positions = torch.empty(0)
        self.places = torch.empty(0)
        self.mask = torch.empty(0)

    @property
    def count(self) -> int:
        return len(self.lengths)

    def layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; zeros at first (what is masked is multiplied by 0, so it must be finite)."""
        if layer == len(self.keys):
            shape = (self.rows, like.shape[1], self.length, like.shape[2])
            self.keys.append(like.new_zeros(shape))
            self.values.append(like.new_zeros(shape))
        return self.keys[layer], self.values[layer]

    def repeat(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the old row ``rows[i]``: the samples of one prompt share what was computed once."""
        self.lengths = [self.lengths[row] for row in rows]
        self.rows = on_grid(len(rows))
        index = torch.tensor([*rows, *[0] * (self.rows - len(rows))], device=self.keys[0].device)
        self.keys = [keys.index_select(0, index) for keys in self.keys]
        self.values = [values.index_select(0, index) for values in self.values]

    def remove(self, gone: set[int]) -> list[int]:
        """Free some rows; returns for each row that is left which one it was."""
        count = self.count - len(gone)
        order = list(range(count))
        movers = [row for row in range(count, self.count) if row not in gone]
        holes = [row for row in range(count) if row in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            to, from_ = (torch.tensor(rows, device=self.keys[0].device) for rows in (holes, movers))
            for tensor in (*self.keys, *self.values):
                tensor.index_copy_(0, to, tensor.index_select(0, from_))
        self.lengths = [self.lengths[row] for row in order]
        self.rows = on_grid(count)
        self.keys = [keys[: self.rows] for keys in self.keys]
        self.values = [values[: self.rows] for values in self.values]
        return order

    def absorb(self, other: Slots) -> None:
        """Take over another group's rows, after one's own."""
        self.length = max(self.length, other.length)
        lengths = self.lengths + other.lengths
        self.rows = on_grid(len(lengths))
        filler = self.rows - len(lengths)
        for own, others in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (left, right) in enumerate(zip(own, others, strict=True)):
                parts = [left[: self.count], right[: other.count]]
                parts = [F.pad(part, (0, 0, 0, self.length - part.shape[2])) for part in parts]
                own[layer] = torch.cat([*parts, parts[0].new_zeros(filler, *parts[0].shape[1:])])
        self.lengths = lengths

    def prepare(self) -> None:
        """Make what the next decoded token needs, after rows have come or gone."""
        device, heads = self.keys[0].device, self.keys[0].shape[1]
        # An unused row decodes from position 0 on: it never gets ahead of a row in use.
        self.positions = torch.tensor(self.lengths + [0] * (self.rows - self.count), device=device)
        self._grow()
        rows = torch.arange(self.rows * heads, device=device) * self.length
        self.places = rows + self.positions.repeat_interleave(heads)
        hidden = torch.arange(self.length, device=device) > self.positions[:, None]
        dtype = self.keys[0].dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min / 2)
        self.mask = mask[:, None]

    def advance(self) -> None:
        """Every row holds one token more."""
        self.lengths = [length + 1 for length in self.lengths]
        if max(self.lengths) >= self.length:
            self.prepare()
            return
        self.positions.add_(1)
        self.places.add_(1)
        self.mask[torch.arange(self.rows, device=self.mask.device), 0, self.positions] = 0

    def _grow(self) -> None:
        length = on_length_grid(max(self.lengths) + 1)
        if length > self.length:
            extra = length - self.length
            self.keys = [F.pad(keys, (0, 0, 0, extra)) for keys in self.keys]
            self.values = [F.pad(values, (0, 0, 0, extra)) for values in self.values]
            self.length = length

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """One new token for each row: it joins the cache and attends to it up to itself."""
        keys, values = self.keys[layer], self.values[layer]
        rows, heads, length, width = keys.shape
        keys.view(-1, width).index_copy_(0, self.places, key.reshape(-1, width))
        values.view(-1, width).index_copy_(0, self.places, value.reshape(-1, width))
        # Query heads that share a key head are the rows of one product.
        grouped = (query * scaling).reshape(rows * heads, -1, width)
        scores = torch.bmm(grouped, keys.view(-1, length, width).transpose(1, 2))
        scores.view(rows, -1, length).add_(self.mask)
        return torch.bmm(scores.softmax(-1), values.view(-1, length, width)).view(rows, -1, width)


def on_length_grid(length: int) -> int:
    """The smallest length of the cache's grid that is not below ``length``."""
    return -(-length // _LENGTH_GRID) * _LENGTH_GRID


def groups_of(lengths: Sequence[int], bytes_per_token: int) -> list[list[int]]:
    """Indices of prompts, longest first, cut where one group would read more than another group costs.

    bytes_per_token: size of one token's keys and values in one layer.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    waste = 0
    for i in order:
        waste += (on_length_grid(lengths[groups[-1][0]] + 1) - on_length_grid(lengths[i] + 1)) * bytes_per_token if groups else 0
        if not groups or waste > _GROUP_BYTES:
            groups.append([])
            waste = 0
        groups[-1].append(i)
    return groups


def worth_merging(left: Slots, right: Slots, bytes_per_token: int) -> bool:
    """Whether reading both at the longer one's length costs less than one group more."""
    shorter = min(left, right, key=lambda slots: slots.length)
    return abs(left.length - right.length) * shorter.count * bytes_per_token <= _GROUP_BYTES


@dataclass(frozen=True, slots=True)
class PrefillLayout:
    """A packed row's attention that also writes its keys and values to a group's slots. rows: [tokens] whose token it is."""

    batch: PackedBatch
    slots: Slots
    rows: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[tokens, heads, head width] in and out."""
        keys, values = self.slots.layer(layer, key)
        real = len(self.rows)  # the row's end is filler
        positions = self.batch.positions[:real]
        keys[self.rows, :, positions] = key[:real]
        values[self.rows, :, positions] = value[:real]
        return self.batch.layout.attend(layer, query, key, value, scaling)


@dataclass(frozen=True, slots=True)
class DecodeLayout:
    """One new token for each row of several groups, one group after the other; rows behind them are filler."""

    groups: Sequence[Slots]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[rows, heads, head width] in and out."""
        outputs: list[Tensor] = []
        first = 0
        for slots in self.groups:
            part = slice(first, first + slots.rows)
            outputs.append(slots.attend(layer, query[part], key[part], value[part], scaling))
            first += slots.rows
        if first < len(query):
            outputs.append(query.new_zeros(len(query) - first, *query.shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
