"""Attention over packed rows as ranges that see each other, in compiled loops on a CPU.

The plain version, which runs everywhere else, is :mod:`heedful.model.dense_blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from heedful.functional.fast import kernels
from heedful.model.attention import BlockLayout
from heedful.model.dense_blocks import dense_blocks
from heedful.model.fast import last_layer

# In tokens; the compiled loops hold a group's keys and values several times in fp32, so memory limits their length.
_LONGEST_IN_LOOPS = 8_192

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class RangesLayout:
    """A packed row as groups: a context that sees itself causally, and branches that see all of it and themselves causally.

    positions: [tokens] each token's position in its own sequence.
    context_start, context_lengths: [groups] of the prompts, or of whole sequences if nothing is shared.
    start, lengths, group: [branches] of the responses to shared prompts, in the groups' order.
    window: a token sees itself and the ``window - 1`` positions before it (None: all positions before it).
    rows_read: indices of the tokens the last layer must output, each once (None: all;
    :mod:`heedful.model.fast.last_layer`).
    """

    positions: Tensor
    context_start: np.ndarray
    context_lengths: np.ndarray
    start: np.ndarray = field(default_factory=lambda: _NONE)
    lengths: np.ndarray = field(default_factory=lambda: _NONE)
    group: np.ndarray = field(default_factory=lambda: _NONE)
    window: int | None = None
    rows_read: Tensor | None = None
    # Computed once and shared by all layouts of a row: they depend neither on the window nor on the rows read.
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def reading(self, rows: Tensor) -> RangesLayout:
        """The same layout, but the last layer must output only ``rows``."""
        return replace(self, rows_read=rows)

    def within(self, window: int) -> RangesLayout:
        """The layout of layers that see ``window`` positions: the token itself and the ``window - 1`` before it."""
        return replace(self, window=window)

    def to(self, device: torch.device | str) -> RangesLayout | BlockLayout:
        """The layout itself on a CPU, dense blocks on any other device."""
        if torch.device(device).type == "cpu":
            return self
        blocks = self.blocks if self.rows_read is None else self.blocks.reading(self.rows_read)
        return blocks.to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query: [tokens, heads, head width]; key, value: [tokens, key heads, head width]. Returns a tensor like query."""
        if not (kernels.usable(query) and self._longest <= _LONGEST_IN_LOOPS):
            blocks = self.blocks if self.window is None else self.blocks.within(self.window)
            return blocks.attend(layer, query, key, value, scaling)
        # Only the last layer, which calls this once per pass, computes some rows. All other layers share the full ranges.
        whole = last_layer.rows_read() is None
        ranges = self._once("ranges", lambda: self._ranges(None)) if whole else self._ranges(self.rows_read)
        return cast(Tensor, _PackedAttention.apply(query, key, value, ranges, self.window, scaling))

    @property
    def blocks(self) -> BlockLayout:
        """The same layout as dense blocks, without the window."""
        contexts, branches = (self.context_start, self.context_lengths), (self.start, self.lengths, self.group)
        return self._once("blocks", lambda: dense_blocks(self.positions, *contexts, *branches))

    @property
    def _longest(self) -> int:
        branch = int(self.lengths.max()) if len(self.lengths) else 0
        return int(self.context_lengths.max()) + branch

    def _ranges(self, rows: Tensor | None) -> kernels.Ranges:
        """The ranges for the compiled loops, which compute only the queries from each range's first to last of ``rows``."""
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
    """The compiled loops; only the inputs are kept for the backward pass."""

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
    """[ranges, 4]: first row, length, first wanted query, and one past the last wanted query.

    Queries count from the range's first row. wanted: sorted rows (None: all).
    """
    first, last = np.zeros_like(lengths), lengths
    if wanted is not None:
        after, end = np.searchsorted(wanted, start), np.searchsorted(wanted, start + lengths)
        some = end > after
        first = np.where(some, wanted[np.minimum(after, len(wanted) - 1)] - start, 0)
        last = np.where(some, wanted[end - 1] + 1 - start, 0)
    return torch.from_numpy(np.stack([start, lengths, first, last], axis=1).astype(np.int64))
