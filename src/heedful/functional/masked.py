"""Mean, variance and whitening over the entries that count."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of ``values`` where ``mask`` is True, in float32 or float64; 0 if no entry counts."""
    # `where`, not `values * mask`, because NaN * 0 is NaN, in the value and in the gradient.
    return torch.where(mask, at_least_float32(values), 0.0).sum()


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of ``values`` over all entries where ``mask`` is True; 0 (with zero gradient) if no entry counts."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_variance(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Population variance (divided by the count n, not n - 1) of ``values`` where ``mask`` is True.

    OpenAI lm-human-preferences does the same (``tf.nn.moments``); TRL divides by n - 1. With one entry or none, it is 0.
    """
    # Mask before squaring; otherwise the gradient of a masked NaN's square is 0 * NaN.
    values = torch.where(mask, at_least_float32(values), 0.0)
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def masked_whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, shift_mean: bool = True
) -> Float[Tensor, "*shape"]:
    """Scale ``values`` to variance 1 and, with ``shift_mean``, to mean 0: ``(values - mean) / sqrt(variance + 1e-8)``.

    Without ``shift_mean`` (for rewards) the mean is added back after scaling, so it does not change. Entries outside the mask
    are 0. Source: ``utils.core.whiten`` of OpenAI lm-human-preferences. torchtune swaps the two cases of ``shift_mean``; ours
    follows the source.
    """
    values = torch.where(mask, at_least_float32(values), 0.0)
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_variance(values, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, 0.0)


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``values`` itself if it is float32 or float64; a float32 copy if it is in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
