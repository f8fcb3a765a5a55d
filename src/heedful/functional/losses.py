"""The losses of the three steps: language modelling (SPEC 3.2), ranking (SPEC 3.3), clipped policy and value (SPEC 3.5).

Each loss is a sum divided by the number of entries, or by ``normalizer`` if it is given. Under gradient accumulation, pass the
whole minibatch's count with every microbatch. The summed gradients then equal those of one large batch, however unevenly its
tokens or prompts are spread. (Averaging the microbatches' own means is a known trap.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heedful.functional.masked import at_least_float32, masked_mean, masked_sum, masked_variance


class RankingStatistics(NamedTuple):
    """Statistics of a ranking loss, without gradient."""

    accuracy: Float[Tensor, ""]
    """Share of the untied comparisons in which the preferred response has the higher reward; equal rewards count half."""
    num_comparisons: Int[Tensor, ""]
    """Untied pairs."""
    num_prompts: Int[Tensor, ""]
    """Rows with at least one pair that counts: an untied pair, or any pair if ``tie_threshold`` is above 0."""
    margin: Float[Tensor, ""]
    """Mean of preferred minus other reward over the comparisons."""


class PolicyStatistics(NamedTuple):
    """What PPO logs about a policy update: means over the tokens where the mask is True, without gradient."""

    clip_fraction: Float[Tensor, ""]
    """Share of tokens at which the clipped loss is larger; such a token has no gradient."""
    approximate_kl: Float[Tensor, ""]
    """``0.5 * mean((logprob - old_logprob)^2)``, nats per token, as lm-human-preferences logs it."""
    mean_ratio: Float[Tensor, ""]
    """Mean of pi / pi_old. It is 1 in the first minibatch after sampling, unless sampling and training compute differently."""


class ValueStatistics(NamedTuple):
    """What PPO logs about a value update: means over the tokens where the mask is True, without gradient."""

    clip_fraction: Float[Tensor, ""]
    """Share of tokens at which the clipped error is larger."""
    error: Float[Tensor, ""]
    """Mean squared error of the unclipped values (no factor 0.5)."""
    explained_variance: Float[Tensor, ""]
    """``1 - error / variance(returns)``: 1 is perfect, 0 is no better than the mean return. 0 if the returns do not vary."""


def language_model_loss(
    logprobs: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, normalizer: Tensor | float | None = None
) -> Float[Tensor, ""]:
    """Mean negative log-probability, in nats per token, of the tokens where ``mask`` is True (SPEC 3.2, 3.6).

    ``logprobs[..., t]`` is the log-probability of token t itself: the caller has already shifted. The sum is divided by the
    number of True entries, or by ``normalizer``. If no entry is True, the loss and its gradient are 0.
    """
    return -_mean(logprobs, mask, normalizer)


def ranking_loss(
    rewards: Float[Tensor, "prompts k"],
    ranks: Int[Tensor, "prompts k"],
    mask: Bool[Tensor, "prompts k"],
    *,
    weights: Float[Tensor, "prompts"] | None = None,
    normalizer: Tensor | float | None = None,
    tie_threshold: float = 0.0,
) -> tuple[Float[Tensor, ""], RankingStatistics]:
    """K-way comparison loss of the reward model (SPEC 3.3): for each prompt the mean of ``-log sigmoid(r_w - r_l)``.

    ``rewards[p, i]``: scalar reward of response i to prompt p. ``ranks[p, i]``: its rank in a weak order; 1 is best, equal
    ranks are ties. ``mask[p, i]``: True for a response, False for padding up to the largest K. The loss of a prompt is the
    mean over its untied pairs, and the result is the mean over the prompts that have any. So every such prompt has the same
    weight, whatever its K, and a prompt with K = 1 or only ties adds nothing to loss, gradient or count. Without any
    comparison, loss and gradient are 0.

    SPEC 3.3 writes 1/C(K,2) and says that ties are dropped, but not whether the divisor still counts them. Without ties
    there is no difference. With ties we divide by the number of remaining comparisons: dividing by C(K,2) would give a prompt
    less weight, the more ties its labeler gave. ``weights`` (default 1) multiply the rows' losses: a prompt ranked by n
    labelers is n rows of the same rewards with weight 1/n, and the mean divides by the sum of the weights of rows that count.
    ``normalizer`` replaces that sum (gradient accumulation).

    With ``tie_threshold`` t > 0 (in units of reward) ties count too, as in the model of Rao and Kupper (1967)::

        P(i better than j) = sigmoid(r_i - r_j - t)
        P(tie)             = (exp(2t) - 1) * sigmoid(r_i - r_j - t) * sigmoid(r_j - r_i - t)

    The loss of a prompt is then the mean of ``-log P`` over all its pairs, and a prompt with only ties counts like any other.
    """
    rewards = torch.where(mask, at_least_float32(rewards), 0.0)
    preferred = (ranks[:, :, None] < ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    differences = rewards[:, :, None] - rewards[:, None, :]
    comparisons = preferred.sum(dim=(1, 2))
    if tie_threshold > 0:
        pair_losses, counted = _losses_with_ties(differences, preferred, ranks, mask, tie_threshold)
    else:
        pair_losses, counted = torch.where(preferred, -F.logsigmoid(differences), 0.0), comparisons
    prompt_losses = pair_losses.sum(dim=(1, 2)) / counted.clamp(min=1)
    num_prompts = (counted > 0).sum()
    weights = torch.ones_like(prompt_losses) if weights is None else weights.to(prompt_losses.dtype)
    if normalizer is None:
        # With no comparison at all, both sums are 0, and so is the loss.
        normalizer = (weights * (counted > 0)).sum().clamp(min=torch.finfo(weights.dtype).tiny)
    loss = (weights * prompt_losses).sum() / normalizer
    with torch.no_grad():
        correct = (differences > 0).to(differences.dtype) + 0.5 * (differences == 0).to(differences.dtype)
        statistics = RankingStatistics(
            accuracy=masked_mean(correct, preferred),
            num_comparisons=comparisons.sum(),
            num_prompts=num_prompts,
            margin=masked_mean(differences, preferred),
        )
    return loss, statistics


def _losses_with_ties(
    differences: Tensor, preferred: Tensor, ranks: Tensor, mask: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """``-log P`` of each pair [prompts, k, k], 0 where no pair counts, and the number of pairs [prompts]."""
    both = mask[:, :, None] & mask[:, None, :]
    tied = ((ranks[:, :, None] == ranks[:, None, :]) & both).triu(diagonal=1)
    decided = -F.logsigmoid(differences - threshold)
    undecided = F.softplus(threshold - differences) + F.softplus(threshold + differences)
    undecided = undecided - math.log(math.expm1(2 * threshold))
    losses = torch.where(preferred, decided, torch.where(tied, undecided, 0.0))
    return losses, (preferred | tied).sum(dim=(1, 2))


def implicit_rewards(
    logprobs: Float[Tensor, "*responses"], reference_logprobs: Float[Tensor, "*responses"], *, beta: float
) -> Float[Tensor, "*responses"]:
    """``beta * (log pi(y|x) - log pi_ref(y|x))``, the reward that a policy implies (Rafailov et al. 2023, section 4).

    ``logprobs``: of whole responses, summed over their tokens. No gradient flows into ``reference_logprobs``.
    :func:`ranking_loss` of these rewards is the loss of direct preference optimization (for K = 2, equation 7 of that paper).
    """
    return beta * (at_least_float32(logprobs) - at_least_float32(reference_logprobs).detach())


def clipped_policy_loss(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    clip_ratio: float,
    normalizer: Tensor | float | None = None,
) -> tuple[Float[Tensor, ""], PolicyStatistics]:
    """PPO's clipped surrogate: mean over tokens of ``max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c))`` (SPEC 3.5).

    ``ratio = exp(logprobs - old_logprobs)``; ``old_logprobs`` are those of the policy that sampled the response. The gradient
    flows only into ``logprobs``. ``mask`` is True at response tokens, including the end-of-text token. Source:
    ``PPOTrainer.loss`` of OpenAI lm-human-preferences, where all responses have the same length; here the mean is over the
    tokens where ``mask`` is True.
    """
    # The gradient of a masked entry is 0 times its value, so NaN if that is NaN. `where` keeps it from reaching `logprobs`.
    log_ratio = torch.where(mask, at_least_float32(logprobs) - at_least_float32(old_logprobs).detach(), 0.0)
    advantages = at_least_float32(advantages).detach()
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    loss = _mean(torch.maximum(unclipped, clipped), mask, normalizer)
    with torch.no_grad():
        statistics = PolicyStatistics(
            clip_fraction=masked_mean((clipped > unclipped).to(ratio.dtype), mask),
            approximate_kl=0.5 * masked_mean(log_ratio.square(), mask),
            mean_ratio=masked_mean(ratio, mask),
        )
    return loss, statistics


def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    clip_range: float,
    normalizer: Tensor | float | None = None,
) -> tuple[Float[Tensor, ""], ValueStatistics]:
    """Half the mean over tokens of ``max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)`` (SPEC 3.5).

    The gradient flows only into ``values``. ``mask`` is the same as the policy loss's: values belong to the positions that
    *choose* the response's tokens. Source: ``PPOTrainer.loss`` of OpenAI lm-human-preferences.
    """
    values = torch.where(mask, at_least_float32(values), 0.0)  # blocks gradients of masked entries, as above
    old_values, returns = at_least_float32(old_values).detach(), at_least_float32(returns).detach()
    clipped_values = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    unclipped, clipped = (values - returns).square(), (clipped_values - returns).square()
    loss = 0.5 * _mean(torch.maximum(unclipped, clipped), mask, normalizer)
    with torch.no_grad():
        error, variance = masked_mean(unclipped, mask), masked_variance(returns, mask)
        statistics = ValueStatistics(
            clip_fraction=masked_mean((clipped > unclipped).to(values.dtype), mask),
            error=error,
            explained_variance=torch.where(variance > 0, 1.0 - error / variance, 0.0),
        )
    return loss, statistics


def _mean(values: Tensor, mask: Tensor, normalizer: Tensor | float | None) -> Tensor:
    return masked_mean(values, mask) if normalizer is None else masked_sum(values, mask) / normalizer
