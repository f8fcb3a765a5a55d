"""Chunked log-probabilities against full logits, in value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from heedful.functional import chunked_token_logprobs, chunked_token_logprobs_and_entropy, token_logprobs


def inputs(dtype: torch.dtype, tokens: int = 23, width: int = 12, vocabulary: int = 31) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "hidden": draw(tokens, width).requires_grad_(),
        "weight": draw(vocabulary, width).requires_grad_(),
        "bias": draw(vocabulary).requires_grad_(),
        "tokens": torch.randint(vocabulary, (tokens,), generator=generator),
        "grad": torch.randn(tokens, generator=generator, dtype=torch.float64),
    }


def full(case: dict[str, Tensor], temperature: float, with_bias: bool) -> list[Tensor]:
    """Value and gradients by the definition, in float64 with all logits at once."""
    leaves = [case[name].detach().double().requires_grad_() for name in ("hidden", "weight", "bias")]
    logits = (leaves[0] @ leaves[1].T + (leaves[2] if with_bias else 0.0)) / temperature
    logprobs = torch.log_softmax(logits, -1)[torch.arange(len(case["tokens"])), case["tokens"]]
    leaves = leaves if with_bias else leaves[:2]
    return [logprobs.detach(), *torch.autograd.grad((logprobs * case["grad"]).sum(), leaves)]


def chunked(case: dict[str, Tensor], temperature: float, with_bias: bool, chunk: int) -> list[Tensor]:
    leaves = [case["hidden"], case["weight"], *([case["bias"]] if with_bias else [])]
    bias = case["bias"] if with_bias else None
    logprobs = chunked_token_logprobs(
        case["hidden"], case["weight"], case["tokens"], temperature=temperature, chunk=chunk, bias=bias
    )
    return [logprobs.detach(), *torch.autograd.grad((logprobs * case["grad"]).sum(), leaves)]


def test_token_logprobs_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [1000.0, 1000.0]])
    assert token_logprobs(logits, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    # [rows, tokens, vocabulary] and half precision: the softmax is in float32
    result = token_logprobs(logits[None].bfloat16(), torch.tensor([[0, 1]]))
    assert result.dtype == torch.float32
    assert result[0].tolist() == pytest.approx([math.log(0.25), math.log(0.5)], abs=1e-2)


@pytest.mark.parametrize("chunk", [1, 7, 23, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_equal_full_logits(chunk: int, temperature: float, with_bias: bool) -> None:
    case = inputs(torch.float64)
    for got, expected in zip(chunked(case, temperature, with_bias, chunk), full(case, temperature, with_bias), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_is_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    """bf16 has 8 bits: an error of 2^-9 of the largest logit (about 8 here) is what the product's rounding alone gives."""
    case = inputs(dtype)
    got = chunked(case, 0.7, True, 10)
    assert got[0].dtype == torch.float32
    assert [g.dtype for g in got[1:]] == [dtype] * 3
    for ours, expected in zip(got, full(case, 0.7, True), strict=True):
        assert ((ours - expected).abs().max() / expected.abs().max()).item() < tolerance


def test_bfloat16_softmax_statistics_are_in_float32() -> None:
    """30,000 equal logits: a sum in bf16 stops growing at 256."""
    hidden, weight = torch.zeros(2, 4, dtype=torch.bfloat16), torch.zeros(30_000, 4, dtype=torch.bfloat16)
    logprobs = chunked_token_logprobs(hidden, weight, torch.tensor([0, 5]))
    assert logprobs.tolist() == pytest.approx([-math.log(30_000)] * 2, abs=1e-5)


def test_weight_gradient_is_summed_over_chunks_in_float32() -> None:
    """512 chunks that each add 1/2 (two tokens, the other one always chosen): a sum in bf16 would stop at 128."""
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    chunked_token_logprobs(hidden, weight, torch.zeros(512, dtype=torch.long), chunk=1).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [256.0, -256.0]


def test_autocast_and_float32_master_weights() -> None:
    """Under autocast the products run in bf16, as the model's do; gradients come back in the weights' own float32."""
    case = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = chunked(case, 1.0, False, 10)
    halved = case | {"hidden": case["hidden"].detach().bfloat16().requires_grad_()}
    mixed = chunked(halved, 1.0, False, 10)
    assert [g.dtype for g in under_autocast] == [torch.float32] * 3
    assert mixed[2].dtype == torch.float32
    assert torch.equal(under_autocast[0], mixed[0])
    for ours, expected in zip(under_autocast, full(case, 1.0, False), strict=True):
        assert 1e-6 < ((ours - expected).abs().max() / expected.abs().max()).item() < 2e-2


def test_gradcheck() -> None:
    case = inputs(torch.float64, tokens=5, width=3, vocabulary=4)
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_token_logprobs(h, w, case["tokens"], bias=b, temperature=1.3, chunk=2),
        (case["hidden"], case["weight"], case["bias"]),
    )


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_only_what_needs_a_gradient_gets_one(frozen: str) -> None:
    case = inputs(torch.float64)
    expected = dict(zip(("hidden", "weight"), full(case, 1.0, False)[1:], strict=True))
    case[frozen] = case[frozen].detach()
    learned = "weight" if frozen == "hidden" else "hidden"
    logprobs = chunked_token_logprobs(case["hidden"], case["weight"], case["tokens"], chunk=4)
    (gradient,) = torch.autograd.grad((logprobs * case["grad"]).sum(), [case[learned]])
    torch.testing.assert_close(gradient, expected[learned], atol=1e-12, rtol=1e-12)


def test_entropy() -> None:
    case = inputs(torch.float64)
    logprobs, entropy = chunked_token_logprobs_and_entropy(
        case["hidden"], case["weight"], case["tokens"], temperature=0.7, chunk=4
    )
    logits = (case["hidden"] @ case["weight"].T / 0.7).detach()
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-10, rtol=0)
    assert logprobs.requires_grad
    assert not entropy.requires_grad
    torch.testing.assert_close(logprobs.detach(), full(case, 0.7, False)[0])


def test_entropy_of_even_and_forbidden_tokens() -> None:
    """Four tokens equally likely, the fifth impossible: 2 bits, and no NaN from 0 * -inf."""
    bias = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf])
    logprobs, entropy = chunked_token_logprobs_and_entropy(
        torch.zeros(1, 2), torch.zeros(5, 2, requires_grad=True), torch.tensor([2]), bias=bias
    )
    assert entropy.tolist() == pytest.approx([math.log(4)])
    assert logprobs.tolist() == pytest.approx([-math.log(4)])


def test_no_tokens() -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    logprobs = chunked_token_logprobs(torch.zeros(0, 2), weight, torch.zeros(0, dtype=torch.long))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_the_tokens_by_vocabulary_tensor_never_exists() -> None:
    """No tensor of more than a few chunks' size is kept or made: watched at every operator, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(result) if isinstance(x, Tensor)]
            self.numel = max([self.numel, *sizes])
            return result

    hidden, weight = torch.randn(512, 4, requires_grad=True), torch.randn(300, 4, requires_grad=True)
    tokens = torch.zeros(512, dtype=torch.long)
    with Largest() as chunks:
        chunked_token_logprobs_and_entropy(hidden, weight, tokens, chunk=16)[0].sum().backward()
    with Largest() as everything:
        token_logprobs(hidden @ weight.T, tokens).sum().backward()
    assert everything.numel == 512 * 300
    assert chunks.numel <= 16 * 300
