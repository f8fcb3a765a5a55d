"""GPT-2's forward pass written out, for generation on CPU: the modules' own overhead is half of a small model's decoding step.

Weights are packed once for oneDNN's products (otherwise they are packed again at each product) and GELU is part of the product.
A packed product gives the same bits for a row whatever the number of rows, in fp32 and in bf16, so a request's numbers do not
depend on the batch that it is in. Any other architecture, device or altered module runs through its Hugging Face class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, GPT2Model, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

from heedful.functional import kernels
from heedful.model.attention import Layout
from heedful.model.last_layer import has_other_hooks

# What the forward below computes; the activation's class is the configuration's.
_WRITTEN_OUT = {
    *(GPT2Model, GPT2Block, GPT2Attention, GPT2MLP),
    *(Conv1D, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList),
}
# oneDNN keeps half a megabyte for each number of rows that a product has had, for each of the model's products (docs/log.md):
# there are few such numbers, and none above this one.
_LARGEST_PIECE = 512
# transformers' names of the activations that oneDNN computes inside a product: its name, its variant.
_FUSED = {"gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "gelu_pytorch_tanh": ("gelu", "tanh"), "relu": ("relu", "")}


class PackedLinear:
    """x -> activation(x W' + b), with a copy of W packed once where oneDNN can. weight: [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> None:
        weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.packed = can_pack(weight)
        self.fused = _FUSED[activation] if activation in _FUSED and self.packed else ("none", "")
        self.activation: Callable[[Tensor], Tensor] | None = None
        if activation is not None and self.fused[0] == "none":
            self.activation = ACT2FN[activation]
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None) if self.packed else weight

    def __call__(self, rows: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        if self.packed:
            output = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, self.fused[0], [], self.fused[1])
        else:
            output = F.linear(rows, self.weight, self.bias)
        return output if self.activation is None else self.activation(output)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN holds this weight in its own layout (CPU; bf16 only where the processor multiplies it)."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def product_rows(count: int, *, step: int = 1) -> int:
    """The smallest number of rows, not below ``count``, that products are made of: at most an eighth more, or a step."""
    whole, rest = divmod(count, _LARGEST_PIECE)
    step = max(step, _power_above(rest) // 16, _power_above(count) // 32)
    return whole * _LARGEST_PIECE + -(-rest // step) * step


def _power_above(count: int) -> int:
    return 2 ** max(0, count - 1).bit_length()


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_1: tuple[Tensor, Tensor]
    queries_keys_values: PackedLinear
    attention_output: PackedLinear
    norm_2: tuple[Tensor, Tensor]
    expand: PackedLinear
    contract: PackedLinear


class GPT2Forward:
    """A copy of a GPT-2 model's weights, ready to run; make a new one after the weights changed."""

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
        """[rows] tokens and positions -> [rows, width] final hidden states (of the rows ``wanted``, where given)."""
        hidden = F.embedding(tokens, self.tokens) + F.embedding(positions, self.positions)
        width = hidden.shape[1]
        contracted: list[Tensor | None] = [None] * len(_pieces(hidden))
        for number, layer in enumerate(self.layers):
            mixed = [
                layer.queries_keys_values(_add_norm(rows, addend, layer.norm_1, self.epsilon))
                for rows, addend in zip(_pieces(hidden), contracted, strict=True)
            ]
            query, key, value = _joined(mixed).view(len(hidden), 3, self.heads, -1).unbind(1)
            attended = layout.attend(number, query, key, value, self.scaling).view(-1, width)
            if wanted is not None and number == len(self.layers) - 1:
                hidden, attended = hidden.index_select(0, wanted), attended.index_select(0, wanted)
            contracted = []
            for rows, seen in zip(_pieces(hidden), _pieces(attended), strict=True):
                normed = _add_norm(rows, layer.attention_output(seen), layer.norm_2, self.epsilon)
                contracted.append(layer.contract(layer.expand(normed)))
        pieces = zip(_pieces(hidden), contracted, strict=True)
        return _joined([_add_norm(rows, addend, self.final_norm, self.epsilon) for rows, addend in pieces])


def _pieces(rows: Tensor) -> tuple[Tensor, ...]:
    return (rows,) if len(rows) <= _LARGEST_PIECE else rows.split(_LARGEST_PIECE)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def gpt2_forward(model: PreTrainedModel) -> GPT2Forward | None:
    """The written-out forward of this model, or None where it would not be the model's own: then its class has to run."""
    if type(model) is not GPT2LMHeadModel or not can_pack(cast(Any, model.transformer).wte.weight):
        return None
    config = model.config
    if config.add_cross_attention or config.scale_attn_by_inverse_layer_idx or config.reorder_and_upcast_attn:
        return None
    # A module of another class (an adapter, say) or with a hook computes something else than the weights tell.
    for module in model.modules():
        if has_other_hooks(module) or "forward" in vars(module):
            return None
    written_out = {*_WRITTEN_OUT, type(ACT2FN[config.activation_function])}
    if any(type(module) not in written_out for module in cast(Any, model.transformer).modules()):
        return None
    return GPT2Forward(model)


def _add_norm(hidden: Tensor, addend: Tensor | None, norm: tuple[Tensor, Tensor], epsilon: float) -> Tensor:
    """Add to ``hidden`` [rows, width] in place, where there is something to add, and return its layer norm."""
    if kernels.usable(hidden):
        return kernels.add_norm(hidden, addend, *norm, epsilon)
    if addend is not None:
        hidden.add_(addend)
    return F.layer_norm(hidden, hidden.shape[1:], *norm, epsilon)


def _norm(module: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return module.weight.detach(), module.bias.detach()


def _linear(module: Conv1D, activation: str | None = None) -> PackedLinear:
    return PackedLinear(module.weight.t(), module.bias, activation)
