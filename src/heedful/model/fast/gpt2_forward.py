"""GPT-2's forward pass without modules, for generation on a CPU; their overhead is half of a small model's decoding step.

Weights are packed once (:mod:`heedful.model.fast.packed_linear`) and GELU is part of the product. On another device, or with
another architecture or an altered module, a model runs through its Hugging Face class, which is the plain version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, GPT2Model, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

from heedful.functional.fast import kernels
from heedful.model.attention import Layout
from heedful.model.fast.last_layer import has_other_hooks
from heedful.model.fast.packed_linear import PackedLinear, can_pack

# The classes of modules that the forward pass below implements, besides the activation's, which the configuration names.
_WRITTEN_OUT = {
    *(GPT2Model, GPT2Block, GPT2Attention, GPT2MLP),
    *(Conv1D, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList),
}


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_1: tuple[Tensor, Tensor]
    queries_keys_values: PackedLinear
    attention_output: PackedLinear
    norm_2: tuple[Tensor, Tensor]
    expand: PackedLinear
    contract: PackedLinear


class GPT2Forward:
    """A copy of a GPT-2 model's weights, ready to run; make a new one when the weights have changed."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        body, config = cast(Any, model.transformer), model.config
        self.heads = config.n_head
        self.scaling = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        self.epsilon = config.layer_norm_epsilon
        self.tokens, self.positions = body.wte.weight.detach(), body.wpe.weight.detach()
        self.final_norm = _norm(body.ln_f)
        self.layers = [
            _Layer(
                norm_1=_norm(block.ln_1),
                queries_keys_values=_linear(block.attn.c_attn),
                attention_output=_linear(block.attn.c_proj),
                norm_2=_norm(block.ln_2),
                expand=_linear(block.mlp.c_fc, config.activation_function),
                contract=_linear(block.mlp.c_proj),
            )
            for block in body.h
        ]

    def __call__(self, tokens: Tensor, positions: Tensor, layout: Layout, wanted: Tensor | None = None) -> Tensor:
        """[rows] tokens and positions -> [rows, width] final hidden states (only of the rows ``wanted``, if given)."""
        hidden = F.embedding(tokens, self.tokens) + F.embedding(positions, self.positions)
        contracted: Tensor | None = None
        for number, layer in enumerate(self.layers):
            mixed = layer.queries_keys_values(_add_norm(hidden, contracted, layer.norm_1, self.epsilon))
            query, key, value = mixed.view(len(hidden), 3, self.heads, -1).unbind(1)
            attended = layout.attend(number, query, key, value, self.scaling).view(hidden.shape)
            if wanted is not None and number == len(self.layers) - 1:
                hidden, attended = hidden.index_select(0, wanted), attended.index_select(0, wanted)
            normed = _add_norm(hidden, layer.attention_output(attended), layer.norm_2, self.epsilon)
            contracted = layer.contract(layer.expand(normed))
        return _add_norm(hidden, contracted, self.final_norm, self.epsilon)


def gpt2_forward(model: PreTrainedModel) -> GPT2Forward | None:
    """This model's forward pass without modules, or None if it would differ from the model's; then its class must run."""
    if type(model) is not GPT2LMHeadModel or not can_pack(cast(Any, model.transformer).wte.weight):
        return None
    config = model.config
    if config.add_cross_attention or config.scale_attn_by_inverse_layer_idx or config.reorder_and_upcast_attn:
        return None
    # A module of another class (an adapter, for example) or with a hook computes something that its weights do not show.
    for module in model.modules():
        if has_other_hooks(module) or "forward" in vars(module):
            return None
    written_out = {*_WRITTEN_OUT, type(ACT2FN[config.activation_function])}
    if any(type(module) not in written_out for module in cast(Any, model.transformer).modules()):
        return None
    return GPT2Forward(model)


def _add_norm(hidden: Tensor, addend: Tensor | None, norm: tuple[Tensor, Tensor], epsilon: float) -> Tensor:
    """Add ``addend``, if there is one, to ``hidden`` [rows, width] in place, and return the layer norm of the sum."""
    if kernels.usable(hidden):
        return kernels.add_norm(hidden, addend, *norm, epsilon)
    if addend is not None:
        hidden.add_(addend)
    return F.layer_norm(hidden, hidden.shape[1:], *norm, epsilon)


def _norm(module: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return module.weight.detach(), module.bias.detach()


def _linear(module: Conv1D, activation: str | None = None) -> PackedLinear:
    return PackedLinear(module.weight.t(), module.bias, activation)
