"""Products with a weight that was packed once, for generation on CPU, where few rows at a time meet every weight of a model.

A packed product gives the same bits for a row whatever the number of rows, in fp32 and in bf16, so a request's numbers do not
depend on the batch that it is in. Products are those of :func:`heedful.functional.fast.kernels.packed_product` where they can
be had, else oneDNN's, else torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

from heedful.functional.fast import kernels

# transformers' names of the activations that are computed inside a product: our name, oneDNN's name and variant.
_FUSED = {
    "gelu": ("gelu", "gelu", "none"),
    "gelu_new": ("gelu_tanh", "gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu_tanh", "gelu", "tanh"),
    "relu": ("relu", "relu", ""),
}


class PackedLinear:
    """x -> activation(x W' + b), with a copy of W packed once where that can be. weight: [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> None:
        weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._outputs = len(weight)
        self.compiled, self._onednn = kernels.can_pack(weight), False
        self._fused = _FUSED.get(activation or "", ("none", "none", ""))
        if self.compiled:
            self._weight = kernels.pack_weight(weight)
        elif can_pack(weight):
            self._onednn, self._weight = True, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        else:
            self._weight = weight
        inside = activation in _FUSED and (self.compiled or self._onednn)
        self._activation: Callable[[Tensor], Tensor] | None = None if activation is None or inside else ACT2FN[activation]

    def __call__(self, rows: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        if self.compiled:
            output = kernels.packed_product(rows, self._weight, self._outputs, self._bias, self._fused[0])
        elif self._onednn:
            output = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, self._fused[1], [], self._fused[2])
        else:
            output = F.linear(rows, self._weight, self._bias)
        return output if self._activation is None else self._activation(output)


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
    """The smallest number of rows, not below ``count``, that oneDNN's products are made of: at most an eighth more, or a step.

    It keeps half a megabyte for each number of rows that a product has had, for each of the model's products (docs/log.md).
    """
    step = max(step, 2 ** max(0, count - 1).bit_length() // 16)
    return -(-count // step) * step
