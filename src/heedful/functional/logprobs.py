"""Log-probabilities of given tokens, from logits or directly from the final hidden states."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from heedful.functional.fast import kernels
from heedful.functional.masked import at_least_float32

_ROW_GRID = 64


def token_logprobs(logits: Float[Tensor, "*tokens vocabulary"], tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens"]:
    """``log_softmax(logits)[token]`` in nats; the softmax is computed in float32 or float64.

    ``logits[t]`` must predict ``tokens[t]``: nothing is shifted here.
    """
    # Not `logit - logsumexp`, which loses precision for large logits.
    return torch.log_softmax(at_least_float32(logits), dim=-1).gather(-1, tokens[..., None]).squeeze(-1)


def chunked_token_logprobs(
    hidden: Float[Tensor, "tokens width"],
    unembedding_weight: Float[Tensor, "vocabulary width"],
    tokens: Int[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    bias: Float[Tensor, " vocabulary"] | None = None,
) -> Float[Tensor, " tokens"]:
    """Log-probability of ``tokens[t]`` under ``softmax((hidden[t] @ weight.T + bias) / temperature)``, in nats.

    The whole [tokens, vocabulary] tensor never exists: ``chunk`` rows of it are computed at a time, and again in the backward
    pass. So it takes about ``chunk * vocabulary * 4`` bytes of memory (1.5 times as much in bf16, twice with entropy).
    Gradients flow into hidden, weight and bias.

    Matrix products run in the type of ``hidden`` (under autocast, in autocast's type). Softmax, the result and the sum of
    the weight's gradient over chunks are in float32 or float64. To save time, pass only the rows you need, without prompts
    and padding. A row with NaN spoils the weight's gradient even if its result is masked later.
    """
    return _logprobs_and_entropy(hidden, unembedding_weight, bias, tokens, temperature, chunk, False)[0]


def chunked_token_logprobs_and_entropy(
    hidden: Float[Tensor, "tokens width"],
    unembedding_weight: Float[Tensor, "vocabulary width"],
    tokens: Int[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    bias: Float[Tensor, " vocabulary"] | None = None,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """``chunked_token_logprobs``, and the entropy, in nats, of the distribution that each token was chosen from.

    The entropy carries no gradient: PPO only logs it.
    """
    return _logprobs_and_entropy(hidden, unembedding_weight, bias, tokens, temperature, chunk, True)


def _logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float, chunk: int, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    device = hidden.device.type
    # Fix the type now, because autocast may be in another state in the backward pass.
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    # On a CPU, each new shape of a product compiles a kernel that stays in memory. Rounding up the last chunk gives few shapes.
    count, filler = len(tokens), -len(tokens) % _ROW_GRID if device == "cpu" else 0
    if filler:
        hidden, tokens = F.pad(hidden, (0, 0, 0, filler)), F.pad(tokens, (0, filler))
    with torch.autocast(device, enabled=False):
        result = cast(Any, _ChunkedLogprobs).apply(
            hidden, weight, bias, tokens, 1.0 / temperature, chunk, with_entropy, compute
        )
    logprobs, entropies = cast(tuple[Tensor, Tensor], result)
    return logprobs[:count], entropies[:count]


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities whose backward pass recomputes the logits, except those of the last chunk if they are still there.

    With D = softmax - onehot(token) and s = -grad / temperature: d hidden = s * (D @ W), d W = D.T @ (s * hidden), d bias =
    D.T @ s. Because s scales [chunk, width] tensors instead of D, a [chunk, vocabulary] tensor takes only one product and one
    fused softmax pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        scale: float,
        chunk: int,
        with_entropy: bool,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, tokens)
        ctx.scale, ctx.chunk, ctx.compute = scale, chunk, compute
        logits = _ChunkedLogits(hidden, weight, bias, scale, chunk, compute)
        logprobs = torch.empty(tokens.shape, dtype=logits.statistics_dtype, device=hidden.device)
        entropies = torch.empty_like(logprobs) if with_entropy else logprobs.new_empty(0)
        scratch = torch.empty_like(logits.block) if with_entropy and not logits.in_one_pass else logprobs
        for start in range(0, len(tokens), chunk):
            rows = slice(start, min(start + chunk, len(tokens)))
            if logits.in_one_pass:
                logprobs[rows], entropy = kernels.token_statistics(logits.products(rows), tokens[rows], scale)
                if with_entropy:
                    entropies[rows] = entropy
                continue
            block = logits.rows(rows)
            torch.log_softmax(block, dim=-1, out=block)
            logprobs[rows] = block.gather(1, tokens[rows, None]).squeeze(1)
            if with_entropy:
                probabilities = torch.exp(block, out=scratch[: len(block)])
                entropies[rows] = -probabilities.mul_(block.clamp_(min=-1e4)).sum(dim=-1)  # 0 * -inf counts as 0
        # Keep the last chunk's logits. The backward pass begins with them, and nothing overwrites them before that.
        ctx.kept = logits if logits.in_one_pass and any(ctx.needs_input_grad[:3]) else None
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_logprobs: Tensor, _grad_entropies: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens = cast(tuple[Tensor, Tensor, Tensor | None, Tensor], ctx.saved_tensors)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            kept, ctx.kept = ctx.kept, None  # overwritten below, so a second backward pass must not find them
            logits = kept or _ChunkedLogits(hidden, weight, bias, ctx.scale, ctx.chunk, ctx.compute)
            accumulate = logits.statistics_dtype
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=accumulate) if needs_weight else None
            product = torch.empty_like(logits.weight) if needs_weight and ctx.compute != accumulate else logits.weight
            grad_bias = torch.zeros_like(bias, dtype=accumulate) if bias is not None and needs_bias else None
            for start in reversed(range(0, len(tokens), ctx.chunk)):
                rows = slice(start, min(start + ctx.chunk, len(tokens)))
                if logits.in_one_pass:
                    products = logits.product[: rows.stop - start] if kept else logits.products(rows)
                    kept = None
                    block = kernels.softmax_less_token_(products, tokens[rows], ctx.scale)
                else:
                    block = logits.rows(rows)
                    torch.softmax(block, dim=-1, out=block)
                    block.scatter_add_(1, tokens[rows, None], block.new_full((1, 1), -1.0).expand(len(block), 1))
                scales = (grad_logprobs[rows] * -ctx.scale).to(accumulate)[:, None]
                if grad_bias is not None:
                    grad_bias += (block.T @ scales).squeeze(1)
                if not logits.in_one_pass:
                    block = logits.in_compute_dtype(block)
                if grad_hidden is not None:
                    grad_hidden[rows] = (block @ logits.weight) * scales
                if grad_weight is not None:
                    scaled = (hidden[rows] * scales).to(ctx.compute)
                    if ctx.compute == accumulate:
                        grad_weight.addmm_(block.T, scaled)
                    else:
                        grad_weight += torch.mm(block.T, scaled, out=product)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            *(None,) * 5,
        )


class _ChunkedLogits:
    """Logits of a range of rows, in one buffer for all chunks, because new memory pages would cost as much as the product."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, chunk: int, compute: torch.dtype
    ) -> None:
        self.hidden, self.weight, self.bias, self.scale = hidden.to(compute), weight.to(compute), bias, scale
        self.statistics_dtype = torch.float32 if compute in (torch.bfloat16, torch.float16) else compute
        size = (min(chunk, len(hidden)), len(weight))
        self.product = torch.empty(size, dtype=compute, device=hidden.device)
        # If True, the statistics come straight from the products, without a float32 copy.
        self.in_one_pass = bias is None and compute == torch.bfloat16 and kernels.usable(self.product)
        one_type = compute == self.statistics_dtype or self.in_one_pass
        self.block = self.product if one_type else torch.empty_like(self.product, dtype=self.statistics_dtype)

    def products(self, rows: slice) -> Tensor:
        """Unscaled logits [rows, vocabulary], without bias, in the matrix products' type; valid until the next call."""
        return torch.mm(self.hidden[rows], self.weight.T, out=self.product[: rows.stop - rows.start])

    def rows(self, rows: slice) -> Tensor:
        """Logits [rows, vocabulary] with bias, scaled, in the statistics' type; valid until the next call."""
        product = self.products(rows)
        block = self.block[: len(product)]
        if block is not product:
            block.copy_(product)
        if self.bias is not None:
            block += self.bias
        if self.scale != 1.0:
            block *= self.scale
        return block

    def in_compute_dtype(self, block: Tensor) -> Tensor:
        """The tensor that ``rows`` returned, possibly changed in place, in the matrix products' type."""
        if self.block is self.product:
            return block
        return self.product[: len(block)].copy_(block)
