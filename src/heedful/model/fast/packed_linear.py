"""Products with a weight that is packed once, for generation on a CPU, which multiplies a few rows by every weight.

A packed product gives a row the same bits whatever the number of rows, in fp32 and in bf16, so a request's numbers do not
depend on its batch. It is :func:`heedful.functional.fast.kernels.packed_product` if the processor can run it, else oneDNN's
product, else torch's. The plain version is ``torch.nn.functional.linear``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

from heedful.functional.fast import kernels

# Activations that are computed inside a product: transformers' name -> our name, oneDNN's name and its variant.
_FUSED = {
    "gelu": ("gelu", "gelu", "none"),
    "gelu_new": ("gelu_tanh", "gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu_tanh", "gelu", "tanh"),
    "relu": ("relu", "relu", ""),
}


class PackedLinear:
    """x -> activation(x W' + b), with a packed copy of W if possible. weight: [out, in]."""

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
    """Whether oneDNN can hold this weight in its own layout (CPU only; bf16 only if the processor supports it)."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def product_rows(count: int, *, step: int = 1) -> int:
    """``count`` rounded up to a grid for oneDNN's products: at most an eighth more, or one step.

    oneDNN keeps half a megabyte for each number of rows that it has seen, and for each of the model's products (docs/log.md).
    """
    step = max(step, 2 ** max(0, count - 1).bit_length() // 16)
    return -(-count // step) * step
