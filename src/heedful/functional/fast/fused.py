"""Root-mean-square norm, gated activation and rotation by position, each in one compiled pass (``fused.cpp``).

They are for training and scoring on a CPU. For the backward pass each keeps little more than its inputs, while torch's
operations keep several intermediate results, some of them in fp32. Arithmetic is in fp32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from heedful.functional.fast import kernels

GATES = ("silu", "gelu_tanh")
"""Activations of :func:`gated`, in the order of ``fused.cpp``."""


def usable(*tensors: Tensor) -> bool:
    """Whether these functions support the tensors: all must be on a CPU and of one type, fp32 or bf16."""
    return kernels.usable(tensors[0]) and all(t.dtype == tensors[0].dtype and t.device == tensors[0].device for t in tensors)


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """hidden / sqrt(mean(hidden^2) + epsilon) * (offset + weight), over the last dimension.

    hidden: [..., width]; weight: [width]. With offset 0 the quotient is rounded before it is multiplied (Llama); with another
    offset only the result is rounded (Gemma).
    """
    return cast(Any, _RmsNorm).apply(hidden, weight, epsilon, offset)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up, elementwise; the activation is one of :data:`GATES`."""
    return cast(Any, _Gated).apply(gate, up, activation)


def rotated(rows: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate each head by its token's position: its halves a and b become a cos - b sin and b cos + a sin.

    rows: [tokens, heads, width]; cosines, sines: [tokens, width]. No gradient flows to cosines and sines.
    """
    return cast(Any, _Rotated).apply(rows, cosines, sines)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        hidden, weight = hidden.contiguous(), weight.contiguous()
        width = hidden.shape[-1]
        rows = hidden.numel() // width
        output, scales = torch.empty_like(hidden), hidden.new_empty(rows, dtype=torch.float32)
        kernels.function(f"rms_norm_{kernels.kind(hidden)}")(
            *(rows, width, hidden.data_ptr(), weight.data_ptr(), offset, epsilon, output.data_ptr(), scales.data_ptr())
        )
        ctx.save_for_backward(hidden, weight, scales)
        ctx.offset = offset
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, scales = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_hidden, to_weight = torch.empty_like(hidden), weight.new_empty(weight.shape, dtype=torch.float32)
        kernels.function(f"rms_norm_backward_{kernels.kind(hidden)}")(
            *(len(scales), hidden.shape[-1], gradient.data_ptr(), hidden.data_ptr(), weight.data_ptr(), ctx.offset),
            *(scales.data_ptr(), to_hidden.data_ptr(), to_weight.data_ptr()),
        )
        return to_hidden, to_weight.to(weight.dtype), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        output = torch.empty_like(gate)
        ctx.tanh = GATES.index(activation)
        kernels.function(f"gated_{kernels.kind(gate)}")(
            *(gate.numel(), ctx.tanh, gate.data_ptr(), up.data_ptr(), output.data_ptr())
        )
        ctx.save_for_backward(gate, up)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        kernels.function(f"gated_backward_{kernels.kind(gate)}")(
            *(gate.numel(), ctx.tanh, gradient.data_ptr(), gate.data_ptr(), up.data_ptr()),
            *(to_gate.data_ptr(), to_up.data_ptr()),
        )
        return to_gate, to_up, None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        cosines, sines = cosines.contiguous(), sines.contiguous()
        ctx.save_for_backward(cosines, sines)
        return _rotate(rows, cosines, sines, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = cast(tuple[Tensor, Tensor], ctx.saved_tensors)
        return _rotate(gradients[0], cosines, sines, -1.0), None, None


def _rotate(rows: Tensor, cosines: Tensor, sines: Tensor, sign: float) -> Tensor:
    rows = kernels.dense_rows(rows)
    output = rows.new_empty(rows.shape)
    kernels.function(f"rotate_{kernels.kind(rows)}")(
        *(*rows.shape, rows.data_ptr(), rows.stride(0), cosines.data_ptr(), sines.data_ptr(), sign, output.data_ptr())
    )
    return output
