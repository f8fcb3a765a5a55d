"""The gradients of PPO's three losses on one minibatch: clipped policy, clipped value, and pretraining text (SPEC 3.5, 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from heedful.functional import clipped_policy_loss, clipped_value_loss, masked_whiten
from heedful.model.layouts import pack_documents
from heedful.model.precision import MasterWeights
from heedful.model.readout import scalars, target_logprobs, target_logprobs_and_entropy
from heedful.ranks.batch_shares import own_microbatches
from heedful.ranks.collectives import sum_over_ranks, sums_over_ranks
from heedful.training.config import PPOConfig
from heedful.training.rollouts import Rollouts, episode_microbatches, pack_episodes


def policy_gradient(weights: MasterWeights, rollouts: Rollouts, members: list[int], config: PPOConfig) -> dict[str, float]:
    """Add the gradient of one minibatch's clipped policy loss (mean over its response tokens); returns loss and statistics."""
    count = sum(len(rollouts.generations[i].tokens) for i in members)
    advantages = minibatch_advantages(rollouts, members, config)
    sums: dict[str, float] = {}
    for part, factor in episode_microbatches(rollouts.prompts, rollouts.generations, members, config):
        batch = pack_episodes(rollouts.prompts, rollouts.generations, part).to(weights.compute.device)
        logprobs, entropy = target_logprobs_and_entropy(weights.compute, batch, temperature=config.temperature)
        width = int(batch.lengths.max())
        rows = torch.tensor(part, device=logprobs.device)
        loss, statistics = clipped_policy_loss(
            batch.pad(logprobs),
            rollouts.logprobs[rows, :width],
            advantages[rows, :width],
            rollouts.mask[rows, :width],
            clip_ratio=config.clip_ratio,
            normalizer=count,
        )
        (factor * loss).backward()
        weight = factor * len(batch.targets) / count
        _add(sums, "policy_loss", factor * loss.detach())
        _add(sums, "entropy", entropy.mean() * weight)
        _add(sums, "clip_fraction", statistics.clip_fraction * weight)
        _add(sums, "approximate_kl", statistics.approximate_kl * weight)
    return sums_over_ranks(sums)


def value_gradient(weights: MasterWeights, rollouts: Rollouts, members: list[int], config: PPOConfig) -> dict[str, float]:
    """Add the gradient of one minibatch's clipped value loss (mean over its response tokens); returns loss and statistics."""
    count = sum(len(rollouts.generations[i].tokens) for i in members)
    sums: dict[str, float] = {}
    for part, factor in episode_microbatches(rollouts.prompts, rollouts.generations, members, config):
        batch = pack_episodes(rollouts.prompts, rollouts.generations, part).to(weights.compute.device)
        width = int(batch.lengths.max())
        rows = torch.tensor(part, device=rollouts.mask.device)
        loss, statistics = clipped_value_loss(
            batch.pad(scalars(weights.compute, batch, batch.predict_from)),
            rollouts.values[rows, :width],
            rollouts.returns[rows, :width],
            rollouts.mask[rows, :width],
            clip_range=config.value_clip,
            normalizer=count,
        )
        (factor * loss).backward()
        weight = factor * len(batch.targets) / count
        _add(sums, "value_loss", factor * loss.detach())
        _add(sums, "value_clip_fraction", statistics.clip_fraction * weight)
        _add(sums, "explained_variance", statistics.explained_variance * weight)
    return sums_over_ranks(sums)


def pretraining_gradient(weights: MasterWeights, sequences: Sequence[Any], config: PPOConfig) -> float:
    """Add gamma times the gradient of the pretraining loss (mean per token of the minibatch's sequences); returns the loss."""
    count = sum(len(s) - 1 for s in sequences)
    summed = 0.0
    for members, factor in own_microbatches([len(s) for s in sequences], tokens=config.tokens_per_microbatch):
        batch = pack_documents([sequences[i] for i in members]).to(weights.compute.device)
        loss = -target_logprobs(weights.compute, batch).sum() / count
        (factor * config.ptx_coefficient * loss).backward()
        summed += factor * float(loss.detach())
    return sum_over_ranks(summed)


def _add(sums: dict[str, float], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)


def minibatch_advantages(rollouts: Rollouts, members: list[int], config: PPOConfig) -> Tensor:
    """The batch's advantages, with this minibatch's rows whitened over the batch or over the minibatch (``whiten_over``)."""
    if config.whiten_over == "batch":
        return rollouts.advantages
    rows = torch.tensor(members, device=rollouts.mask.device)
    advantages = rollouts.advantages.clone()
    advantages[rows] = masked_whiten(rollouts.advantages[rows], rollouts.mask[rows])
    return advantages
