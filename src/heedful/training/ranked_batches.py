"""Batches of ranked prompts: each prompt once with its responses, and one row of ranks for each of its labelers (SPEC 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heedful.model.encoding import RankedPrompt
from heedful.model.layouts import PackedBatch, pack_shared
from heedful.ranks.batch_shares import own_microbatches


def pack_ranked(members: Sequence[RankedPrompt]) -> PackedBatch:
    """Pack ranked prompts into one row; each prompt is computed once for its K responses."""
    return pack_shared([r.prompt for r in members], [r.responses for r in members])


def ranked_microbatches(rankings: Sequence[RankedPrompt], tokens: int) -> list[tuple[list[int], float]]:
    """This rank's part of the rankings in microbatches, each with a factor for its loss."""
    return own_microbatches([len(r.prompt) + sum(map(len, r.responses)) for r in rankings], tokens=tokens)


def rewards_by_prompt(rewards: Tensor, members: Sequence[RankedPrompt]) -> tuple[Tensor, ...]:
    """Rewards [responses] of a batch -> one tensor [K] per prompt."""
    return rewards.split([len(r.responses) for r in members])


def rewards_by_labeler(rewards: Tensor, members: Sequence[RankedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards [responses] -> rewards and ranks [rankings, largest K], 0 where there is no rank, and weights [rankings].

    Each of a prompt's labelers is one ranking with the same rewards. Together they have the prompt's weight.
    """
    rows, ranks, weights = [], [], []
    for row, member in zip(rewards_by_prompt(rewards, members), members, strict=True):
        rows += [row] * len(member.ranks)
        ranks += [torch.tensor(given, device=rewards.device) for given in member.ranks]
        weights += [member.weight / len(member.ranks)] * len(member.ranks)
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(ranks, batch_first=True), torch.tensor(weights, device=rewards.device)
