"""Attention over padding-free rows: one function, registered with transformers as ``"heedful"``.

A model that uses it gets one row of tokens (batch size 1) that holds many sequences, or prompts with several responses. A
layout says which tokens attend to which. So everything outside attention (embeddings, projections, norms) computes no padding
and no shared prompt twice. Layouts are built in :mod:`heedful.model.layouts`; the engine has its own for prefill and cached
decoding (:mod:`heedful.model.engine.slots`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from heedful.errors import ModelError
from heedful.model.context_window import refuse_sequences_past_the_switch
from heedful.model.fast.explicit_attention import explicit_attention
from heedful.model.fast.fused_modules import fuse
from heedful.model.fast.last_layer import compute_only_what_is_read, note_rows

ATTENTION_NAME = "heedful"
# Up to this many keys the score matrix is so small that two batched products beat the blocked kernel (on a CPU by 5x).
_LARGEST_EXPLICIT_BLOCK = 512


class Layout(Protocol):
    """Says how the tokens of a row attend to each other."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[tokens, heads, head width] for query, [tokens, key heads, head width] for key and value -> like query."""
        ...

    def within(self, window: int) -> Layout:
        """The layout of layers that see ``window`` positions: the token itself and the ``window - 1`` before it."""
        ...


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """A dense batch of attention problems cut from a row. Only here is there padding.

    query_index: [blocks, queries] indices of tokens in the row; padding has index 0, and its output is never read.
    key_index: [blocks, keys] the same for keys; padding is masked out.
    mask: [blocks or 1, 1, queries, keys], True where a query sees a key.
    """

    query_index: Tensor
    key_index: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> AttentionBlock:
        return AttentionBlock(self.query_index.to(device), self.key_index.to(device), self.mask.to(device))

    def within(self, window: int, positions: Tensor) -> AttentionBlock:
        """The block without keys ``window`` or more positions before the query. positions: [tokens] of the row."""
        # Sequences that see themselves: columns differ by as much as positions.
        if self.query_index.shape == self.key_index.shape:
            column = torch.arange(self.query_index.shape[1], device=self.mask.device)
            near = (column[:, None] - column < window)[None, None]
        else:
            near = (positions[self.query_index][:, :, None] - positions[self.key_index][:, None, :] < window)[:, None]
        # No query is left without a key (its gradient would be NaN): real ones see themselves, padding has position 0.
        return AttentionBlock(self.query_index, self.key_index, self.mask & near)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Rows [tokens, heads, width] -> flattened block outputs [blocks * queries, heads, width]."""
        blocks, queries = self.query_index.shape
        keys = self.key_index.shape[1]
        query_rows = _gather(query, self.query_index)
        key_rows, value_rows = _gather(key, self.key_index), _gather(value, self.key_index)
        if key_rows.shape[1] != query_rows.shape[1]:  # grouped-query attention: several query heads share a key head
            repeats = query_rows.shape[1] // key_rows.shape[1]
            key_rows, value_rows = key_rows.repeat_interleave(repeats, 1), value_rows.repeat_interleave(repeats, 1)
        if keys <= _LARGEST_EXPLICIT_BLOCK and query.device.type == "cpu":
            output = explicit_attention(query_rows, key_rows, value_rows, self.mask, scaling)
        else:
            output = F.scaled_dot_product_attention(query_rows, key_rows, value_rows, attn_mask=self.mask, scale=scaling)
        return output.transpose(1, 2).reshape(blocks * queries, *query.shape[1:])


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Attention over a row as a few dense blocks.

    output_index: [tokens] where each token is in the blocks' concatenated outputs.
    positions: [tokens] each token's position in its own sequence; needed if a layer has a sliding window.
    rows_read: indices of the tokens the last layer must output, each once (None: all;
    :mod:`heedful.model.fast.last_layer`).
    """

    blocks: tuple[AttentionBlock, ...]
    output_index: Tensor
    positions: Tensor | None = None
    rows_read: Tensor | None = None
    _windowed: dict[int, BlockLayout] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device | str) -> BlockLayout:
        positions = None if self.positions is None else self.positions.to(device)
        rows = None if self.rows_read is None else self.rows_read.to(device)
        return BlockLayout(tuple(block.to(device) for block in self.blocks), self.output_index.to(device), positions, rows)

    def reading(self, rows: Tensor) -> BlockLayout:
        """The same layout, but the last layer must output only ``rows``."""
        return replace(self, rows_read=rows, _windowed={})

    def within(self, window: int) -> BlockLayout:
        """The layout of layers that see ``window`` positions: the token itself and the ``window - 1`` before it."""
        if window not in self._windowed:
            if self.positions is None:
                raise ValueError("a layout without positions cannot attend within a sliding window")
            blocks = self.blocks
            if int(self.positions.max()) >= window:
                blocks = tuple(block.within(window, self.positions) for block in blocks)
            self._windowed[window] = BlockLayout(blocks, self.output_index, self.positions, self.rows_read)
        return self._windowed[window]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        del layer
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        outputs = [block.attend(query, key, value, scaling) for block in self.blocks]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).index_select(0, self.output_index)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """[tokens, heads, width], [blocks, length] -> [blocks, heads, length, width]."""
    return rows.index_select(0, index.reshape(-1)).view(*index.shape, *rows.shape[1:]).transpose(1, 2)


def _heedful_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, heads, tokens, width] in, [1, tokens, heads, width] out.

    Attention dropout is ignored, because the paper uses only residual dropout (SPEC 3.2). Raises ValueError without a layout,
    ModelError if a layer asks for more than softmax attention.
    """
    del attention_mask, dropout
    if layout is None:
        raise ValueError(
            "a model with heedful attention was called without a layout; call heedful.model.packed_hidden(model, batch), "
            "or model.set_attn_implementation('sdpa') to use it as a plain transformers model"
        )
    _refuse_more_than_softmax(module, more)
    if sliding_window is not None:
        layout = layout.within(sliding_window)
    note_rows(module, getattr(layout, "rows_read", None))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # tensor[0], not squeeze(0): its gradient is a dense copy, which the products before it read faster than a view.
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    return layout.attend(layer, rows[0], rows[1], rows[2], scale).unsqueeze(0), None


# Arguments with which transformers' models ask an attention function for more than softmax(scaling * Q K') V.
_MORE_THAN_SOFTMAX = {"softcap": "capped scores", "s_aux": "attention sinks", "position_bias": "a position bias"}


def _refuse_more_than_softmax(module: nn.Module, arguments: dict[str, Any]) -> None:
    for name, meaning in _MORE_THAN_SOFTMAX.items():
        if arguments.get(name) is not None:
            raise ModelError(
                "this architecture is not supported yet",
                expected="plain softmax attention",
                got=f"{meaning} ({name}) in {type(module).__name__}",
                next_step="use a model of another family: docs/families.md lists them",
            )


AttentionInterface.register(ATTENTION_NAME, _heedful_attention)


def use_heedful_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a loaded model to the registered attention function (in place; returned for chaining). Raises ModelError."""
    switchable = isinstance(model, PreTrainedModel) and model._can_set_attn_implementation()
    if switchable:  # otherwise transformers would only warn and then ignore the layouts
        model.set_attn_implementation(ATTENTION_NAME)
    if not switchable or model.config._attn_implementation != ATTENTION_NAME:
        raise ModelError(
            "this architecture is not supported",
            expected="a model whose attention goes through transformers' AttentionInterface",
            got=type(model).__name__,
            next_step="use a model of another family: docs/families.md lists them",
        )
    refuse_sequences_past_the_switch(model, ATTENTION_NAME)
    compute_only_what_is_read(model)
    fuse(model)
    return model
