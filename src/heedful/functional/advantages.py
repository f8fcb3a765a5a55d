"""Rewards and advantages of PPO's episodes (SPEC 3.5). No function here has a gradient.

Tensors are [rows, tokens], one episode per row. ``mask`` is True at the tokens that the policy chose, **including the
end-of-text token**: one unbroken run per row, with padding after it (and before it, if the caller keeps the prompt).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heedful.functional.masked import at_least_float32


@torch.no_grad()
def per_token_kl_penalty(
    logprobs: Float[Tensor, "*shape"],
    reference_logprobs: Float[Tensor, "*shape"],
    *,
    beta: float,
    mask: Bool[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """Reward of each token for staying close to the initial policy: ``-beta * (logprob - reference_logprob)``, 0 if masked.

    Negative (a cost) if the token is likelier under the policy than under the reference (SPEC 3.5, beta = 0.02). Summed over a
    response, it is minus beta times the usual one-sample estimate of the KL divergence.
    """
    return torch.where(mask, -beta * (at_least_float32(logprobs) - at_least_float32(reference_logprobs)), 0.0)


@torch.no_grad()
def rewards_with_kl(
    scores: Float[Tensor, " rows"],
    logprobs: Float[Tensor, "rows tokens"],
    reference_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    beta: float,
) -> Float[Tensor, "rows tokens"]:
    """Per-token KL penalty, plus the reward model's score at the last token of the response (SPEC 3.5).

    The last token is the last True in the row: the end-of-text token if the model produced one, else the token at the length
    limit. One token later, the score would fall on padding and never reach an advantage. A row without any True (no episode)
    gets zeros, and its score is ignored, even if it is NaN.
    """
    rewards = per_token_kl_penalty(logprobs, reference_logprobs, beta=beta, mask=mask)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(dim=1, keepdim=True) if mask.shape[1] else positions[None]
    return torch.where(mask & (positions == last), rewards + scores[:, None].to(rewards.dtype), rewards)


@torch.no_grad()
def generalized_advantage_estimation(
    rewards: Float[Tensor, "rows tokens"],
    values: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
    """Advantages and returns of each token, GAE(gamma, lam).

    ``A_t = delta_t + gamma * lam * A_{t+1}``, ``delta_t = r_t + gamma * V_{t+1} - V_t``, ``R_t = A_t + V_t``.

    ``values[:, t]`` is the value *before* token t is chosen. The episode ends with the last True of the row: the value
    after it is 0, whatever the padding contains. This also holds for a response cut at the length limit (a bandit's episode is
    over either way, SPEC 3.5; gamma = 1). At gamma = lam = 1 the advantage is the sum of the remaining rewards minus the
    value. Both results are 0 outside the mask. They are not whitened; see ``masked_whiten``. Source: ``PPOTrainer.loss`` of
    OpenAI lm-human-preferences.
    """
    rewards = torch.where(mask, at_least_float32(rewards), 0.0)
    values = torch.where(mask, at_least_float32(values), 0.0)
    next_values = torch.cat([values[:, 1:], values.new_zeros(values.shape[0], 1)], dim=1) if values.shape[1] else values
    # Deltas of padding after the response are 0, so its last token receives nothing from there. Padding before it is zeroed
    # below.
    deltas = rewards + gamma * next_values - values
    advantages = torch.empty_like(deltas)
    advantage = deltas.new_zeros(deltas.shape[0])
    for t in reversed(range(deltas.shape[1])):
        advantage = torch.add(deltas[:, t], advantage, alpha=gamma * lam)
        advantages[:, t] = advantage
    advantages = torch.where(mask, advantages, 0.0)
    return advantages, advantages + values
