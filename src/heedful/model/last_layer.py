"""The last layer computes only what is read of it.

After a model's last attention a token matters only where something is read from it: a prompt's tokens are there to be attended
to, and a reward is read at one token of a response. So the last layer's attention puts out, and its feed-forward block takes in,
no other rows of a packed batch. With 4 layers that is a fifth of a reward model's matrix products, and nobody sees a difference
(tests/model/test_last_layer.py).
"""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heedful.errors import ModelError
from heedful.model.dropout import ATTENTION_NAMES, decoder_layers

_OUTPUT_PROJECTIONS = ("c_proj", "o_proj", "dense", "out_proj")


class _Current(threading.local):
    """The rows that the layer at work is read at, and the shape they were taken from; each thread computes its own."""

    rows: Tensor | None = None
    shape: torch.Size


_current = _Current()


def rows_read() -> Tensor | None:
    """The rows of which the layer at work is to compute more than keys and values; None: all."""
    return _current.rows


def compute_only_what_is_read(model: PreTrainedModel) -> None:
    """Prepare a model, in place, for layouts that say which rows are read (``layout.rows``); all others run as before.

    A model whose last layer is not known by its parts' names computes all rows.
    """
    try:
        layer = decoder_layers(model)[-1]
    except ModelError:
        return
    parts = [_output_projection(layer), _feed_forward(layer)]
    if vars(layer).get("heedful_reads_rows") or None in parts:
        return
    vars(layer)["heedful_reads_rows"] = True
    # Plain functions that keep nothing: copies of a model share them, and checkpointed activations are computed anew with them.
    layer.register_forward_pre_hook(_remember_rows, with_kwargs=True)
    layer.register_forward_hook(_forget_rows, always_call=True)
    for first, last in cast(list[tuple[nn.Module, nn.Module]], parts):
        first.register_forward_pre_hook(_take)
        last.register_forward_hook(_put_back)


def _output_projection(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    for name in ATTENTION_NAMES:
        for output in _OUTPUT_PROJECTIONS:
            projection = getattr(getattr(layer, name, None), output, None)
            if isinstance(projection, nn.Module):
                return projection, projection
    return None


def _feed_forward(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The first and the last module of the feed-forward block: OPT has no module that holds both."""
    for first, last in (("mlp", "mlp"), ("fc1", "fc2")):
        if isinstance(getattr(layer, first, None), nn.Module):
            return getattr(layer, first), getattr(layer, last)
    return None


def _remember_rows(layer: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
    del layer, inputs
    _current.rows = getattr(named.get("layout"), "rows", None)


def _forget_rows(layer: nn.Module, inputs: Any, output: Any) -> None:
    del layer, inputs, output
    _current.rows = None


def _take(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    del module
    if _current.rows is None:
        return None
    hidden = inputs[0]
    _current.shape = hidden.shape
    rows = cast(Tensor, _Take.apply(hidden.reshape(-1, hidden.shape[-1]), _current.rows))
    return (rows.view(*[1] * (hidden.dim() - 2), *rows.shape), *inputs[1:])


def _put_back(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
    del module, inputs
    if _current.rows is None:
        return None
    width, before = output.shape[-1], _current.shape[:-1]
    full = cast(Tensor, _Put.apply(output.reshape(-1, width), _current.rows, before.numel()))
    return full.view(*before, width)


class _Take(torch.autograd.Function):
    """Some rows, each at most once: unlike ``index_select``'s, the gradient needs no sums."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = hidden.shape[0]
        return hidden.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _spread(gradients[0], rows, ctx.count), None


class _Put(torch.autograd.Function):
    """The rows at their places among ``count``, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rows: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _spread(hidden, rows, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0].index_select(0, rows), None, None


def _spread(hidden: Tensor, rows: Tensor, count: int) -> Tensor:
    return hidden.new_zeros(count, hidden.shape[1]).index_copy_(0, rows, hidden)
