"""Residual dropout for any architecture (SPEC 3.2: 0.2).

It is applied to what attention and feed-forward blocks add to the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from heedful.errors import ModelError

# In Gemma 2 and 3 and OLMo 2 a norm follows each branch, and the norm's output joins the residual stream.
_POST_NORM_NAMES = ("post_attention_layernorm", "post_feedforward_layernorm")
ATTENTION_NAMES = ("attn", "self_attn", "attention", "self_attention")
_FEED_FORWARD_NAMES = ("mlp", "feed_forward", "ffn", "fc2")


def set_residual_dropout(model: PreTrainedModel, probability: float) -> None:
    """Set residual dropout to ``probability`` and all other dropout of the model to zero.

    Dropout is active only in ``model.train()`` mode. Calling this again replaces the earlier setting. Raises ModelError if
    the model's layers or their branches are not found.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # OPT and others store a number and call F.dropout
            if isinstance(value, float) and ("dropout" in name or name == "layerdrop"):
                setattr(module, name, 0.0)
    for layer in decoder_layers(model):
        for branch in _branches(layer):
            state: dict[str, Any] = branch.__dict__
            if "heedful_dropout_hook" in state:
                state.pop("heedful_dropout_hook").remove()
            if probability > 0:
                state["heedful_dropout_hook"] = branch.register_forward_hook(_drop(probability))


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Run the block without dropout, and restore the model's mode afterwards."""
    training = model.training
    if training:  # only then, because setting the mode walks through all modules
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks. Raises ModelError if they cannot be found."""
    body = model.base_model
    for owner in (body, getattr(body, "decoder", None)):
        for name in ("h", "layers", "blocks"):
            layers = getattr(owner, name, None)
            if isinstance(layers, nn.ModuleList):
                return layers
    raise ModelError(
        "the model's layers were not found",
        expected="a decoder with a list of layers named h, layers or blocks",
        got=type(model).__name__,
        next_step="set residual_dropout = 0 in the configuration, or report the architecture",
    )


def _branches(layer: nn.Module) -> list[nn.Module]:
    """The two modules of a layer whose outputs are added to the residual stream."""
    if hasattr(layer, _POST_NORM_NAMES[1]):
        return [_child(layer, (name,)) for name in _POST_NORM_NAMES]
    return [_child(layer, ATTENTION_NAMES), _child(layer, _FEED_FORWARD_NAMES)]


def _child(layer: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name in names:
        child = getattr(layer, name, None)
        if isinstance(child, nn.Module):
            return child
    raise ModelError(
        "a layer's residual branches were not found",
        expected=f"a submodule named {' or '.join(names)}",
        got=", ".join(name for name, _ in layer.named_children()),
        next_step="set residual_dropout = 0 in the configuration, or report the architecture",
    )


def _drop(probability: float):
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        del inputs
        if not module.training:
            return output
        if isinstance(output, Tensor):
            return F.dropout(output, probability)
        return (F.dropout(output[0], probability), *output[1:])

    return hook
