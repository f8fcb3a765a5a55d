"""The norm, gate and rotation in compiled loops: values and gradients of torch's own operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from heedful.functional.fast import fused, kernels

pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="no C++ compiler on this machine")

Function = Callable[..., Tensor]
SHAPES = [(1, 8), (3, 5, 33), (700, 100)]  # the last is shared out among threads


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function: Function, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients in this type, for the same output gradient."""
    leaves = [tensor.to(dtype).clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    output.backward(numbers(*output.shape, seed=9).bfloat16().to(dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_same(ours: Function, theirs: Function, *inputs: Tensor) -> None:
    """fp32: to rounding. bf16: as near to the double-precision result as torch's bf16, or within a rounding of it."""
    inputs_16 = [tensor.bfloat16().float() for tensor in inputs]
    exact = results(theirs, inputs_16, torch.float64)
    for found, expected in zip(results(ours, inputs_16, torch.float32), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    coarse = results(theirs, inputs_16, torch.bfloat16)
    for found, torchs, expected in zip(results(ours, inputs_16, torch.bfloat16), coarse, exact, strict=True):
        assert found.dtype == torch.bfloat16
        own, other = ((t.double() - expected).abs().max() for t in (found, torchs))
        assert own <= other + expected.abs().max() / 256


def plain_norm(offset: float) -> Function:
    def norm(hidden: Tensor, weight: Tensor) -> Tensor:
        module = (GemmaRMSNorm if offset else LlamaRMSNorm)(len(weight), eps=1e-6)
        if hidden.dtype == torch.float64:  # the classes round to fp32
            return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * (offset + weight)
        del module.weight
        module.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
        return module(hidden)

    return norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["llama", "gemma"])
def test_norm(shape: tuple[int, ...], offset: float) -> None:
    assert_same(
        lambda hidden, weight: fused.rms_norm(hidden, weight, 1e-6, offset),
        plain_norm(offset),
        3 * numbers(*shape, seed=0),
        1 + 0.3 * numbers(shape[-1], seed=1),
    )


def test_norm_rounds_as_the_class_does() -> None:
    hidden, weight = numbers(64, 96, seed=0).bfloat16(), numbers(96, seed=1).bfloat16()
    for offset in (0.0, 1.0):
        differs = fused.rms_norm(hidden, weight, 1e-6, offset) != plain_norm(offset)(hidden, weight)
        assert differs.float().mean() < 0.002  # the sums' order may move a number across a rounding


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", fused.GATES)
def test_gate(shape: tuple[int, ...], activation: str) -> None:
    plain = {"silu": F.silu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}[activation]
    gate = 4 * numbers(*shape, seed=0)
    gate.view(-1)[:4] = torch.tensor([0.0, -60.0, 60.0, -0.01])
    assert_same(
        lambda gate, up: fused.gated(gate, up, activation), lambda gate, up: plain(gate) * up, gate, numbers(*shape, seed=1)
    )


@pytest.mark.parametrize("tokens", [1, 5, 700])
@pytest.mark.parametrize("heads", [1, 3])
def test_rotation(tokens: int, heads: int) -> None:
    """Both halves of cosines and sines differ here, which no model has: the gradient must be right for any."""
    cosines, sines = numbers(tokens, 32, seed=1).bfloat16(), numbers(tokens, 32, seed=2).bfloat16()

    def plain(rows: Tensor) -> Tensor:
        query = rows.transpose(0, 1).unsqueeze(0)
        turned, _ = apply_rotary_pos_emb(query, query, cosines.to(rows.dtype)[None], sines.to(rows.dtype)[None])
        return turned[0].transpose(0, 1)

    def ours(rows: Tensor) -> Tensor:
        return fused.rotated(rows, cosines.to(rows.dtype), sines.to(rows.dtype))

    assert_same(ours, plain, numbers(tokens, heads, 32, seed=0))


def test_rows_that_lie_apart_are_read_where_they_are() -> None:
    joined = numbers(6, 3, 4, 8, seed=0)
    cosines, sines = numbers(6, 8, seed=1), numbers(6, 8, seed=2)
    for part in (joined[:, 1], joined[:, 1].transpose(0, 1).contiguous().transpose(0, 1)):
        expected = fused.rotated(joined[:, 1].clone(), cosines, sines)
        assert torch.equal(fused.rotated(part, cosines, sines), expected)
    hidden = numbers(4, 6, 8, seed=3).transpose(0, 1)
    weight = numbers(8, seed=4)
    assert torch.equal(fused.rms_norm(hidden, weight, 1e-6), fused.rms_norm(hidden.contiguous(), weight, 1e-6))
    assert torch.equal(fused.gated(hidden, hidden, "silu"), fused.gated(hidden.contiguous(), hidden.contiguous(), "silu"))


def test_a_row_does_not_depend_on_the_others() -> None:
    hidden, weight = numbers(2_000, 96, seed=0).bfloat16(), numbers(96, seed=1).bfloat16()
    together = fused.rms_norm(hidden, weight, 1e-6)
    assert torch.equal(together[1_234:1_235], fused.rms_norm(hidden[1_234:1_235], weight, 1e-6))


def test_the_weights_gradient_has_the_same_bits_again() -> None:
    hidden, weight = numbers(2_000, 96, seed=0), numbers(96, seed=1)

    def gradient() -> Tensor:
        return results(lambda hidden, weight: fused.rms_norm(hidden, weight, 1e-6), [hidden, weight], torch.float32)[2]

    assert torch.equal(gradient(), gradient())


def test_threads_share_the_rows_and_lose_none() -> None:
    hidden, weight = numbers(2_000, 96, seed=0), numbers(96, seed=1)
    before = torch.get_num_threads()

    def with_threads(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        return results(lambda hidden, weight: fused.rms_norm(hidden, weight, 1e-6), [hidden, weight], torch.float32)

    try:
        for one, two in zip(with_threads(1), with_threads(2), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_only_tensors_of_one_kind_are_taken() -> None:
    one = torch.zeros(2)
    assert fused.usable(one, one)
    assert fused.usable(one.bfloat16())
    assert not fused.usable(one, one.bfloat16())
    assert not fused.usable(one.half())
    assert not fused.usable(one.double())
