"""A reward model's head fitted to the rankings, with the rest of the model as it is (ours; the paper trains all weights).

The reward is linear in the head, so the ranking loss of SPEC 3.3 is convex in it: the best head can be computed, and no
learning rate is needed. On few comparisons that finds more than gradient steps from a random head do
(docs/results/smollm2.md). It is also a good start for training, because gradients of a random head change the model's layers
for nothing (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from heedful.functional import ranking_loss
from heedful.model.encoding import RankedPrompt
from heedful.model.layouts import packed_hidden
from heedful.ranks.collectives import broadcast, gather_in_order
from heedful.training.ranked_batches import pack_ranked, ranked_microbatches, rewards_by_labeler, rewards_by_prompt
from heedful.training.sharding import load_tensor

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Weights of the L2 penalty to choose from, strongest first."""
FOLDS = 5
"""Parts of the prompts in the cross-validation that chooses the penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head [width] in float32, and how it was found."""

    head: Tensor
    penalty: float
    """The chosen weight of the L2 penalty."""
    loss: float
    """The ranking loss, without the penalty, on the rankings that the head was fitted to."""
    unseen_loss: float | None
    """The ranking loss on prompts that the head was not fitted to (cross-validation). None if there is only one prompt."""


@torch.no_grad()
def response_features(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], *, tokens_per_microbatch: int = 16_384
) -> list[Tensor]:
    """The head's inputs for each prompt's responses, [K, width] in float32 in main memory. Each prompt is computed once.

    Under ``torchrun`` each rank computes a part, and every rank returns all of them.
    """
    found: list[tuple[int, Tensor]] = []
    for indices, factor in ranked_microbatches(rankings, tokens_per_microbatch) if rankings else ():
        members = [rankings[i] for i in indices]
        batch = pack_ranked(members).to(model.device)
        hidden = packed_hidden(model, batch, batch.last).float().cpu()
        if factor:
            found += list(zip(indices, rewards_by_prompt(hidden, members), strict=True))
    return gather_in_order(found)


def fitted_head(rankings: Sequence[RankedPrompt], features: Sequence[Tensor], *, seed: int = 0) -> FittedHead:
    """The head that minimises the ranking loss plus ``penalty / 2`` times the sum of its squared weights.

    features: each prompt's responses [K, width], as :func:`response_features` returns them. The loss is that of training: each
    prompt counts as its weight says, shared by its labelers. For the penalty, each feature counts in units of its standard
    deviation over all responses. The penalty is the one of :data:`PENALTIES` with the lowest loss on unseen prompts, in a
    cross-validation that never divides a prompt's rankings; ``seed`` draws its parts. Takes 8 bytes for each number of the
    features, in float64.
    """
    rows = torch.cat(list(features)).double()
    scale = rows.std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    rows /= scale
    places, ranks, weights = rewards_by_labeler(torch.arange(len(rows)), rankings)

    def loss(head: Tensor, weights: Tensor, normalizer: Tensor | None = None) -> Tensor:
        return ranking_loss((rows @ head)[places], ranks, ranks > 0, weights=weights, normalizer=normalizer)[0]

    def fit(start: Tensor, weights: Tensor, penalty: float) -> Tensor:
        return minimum(lambda head: loss(head, weights) + 0.5 * penalty * head.square().sum(), start)

    zero = torch.zeros(rows.shape[1], dtype=rows.dtype)
    parts = _parts(rankings, seed)
    heads = [zero] * len(parts)
    unseen: dict[float, float] = {}
    for penalty in PENALTIES if parts else ():
        heads = [fit(head, weights * ~part, penalty) for head, part in zip(heads, parts, strict=True)]
        unseen[penalty] = sum(float(loss(head, weights * part, weights.sum())) for head, part in zip(heads, parts, strict=True))
    penalty = min(unseen, key=unseen.__getitem__, default=PENALTIES[0])
    best = fit(zero, weights, penalty)
    return FittedHead(
        head=(best / scale).float(), penalty=penalty, loss=float(loss(best, weights)), unseen_loss=unseen.get(penalty)
    )


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth convex function of a vector is lowest, found by L-BFGS from ``start``."""
    point = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=1_000, tolerance_grad=1e-7, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach()


def set_head(model: PreTrainedModel, head: Tensor) -> None:
    """Replace a scalar model's head weights, in place; on all ranks with the head of rank 0."""
    load_tensor(model, "score.weight", broadcast(head)[None])


def _parts(rankings: Sequence[RankedPrompt], seed: int) -> list[Tensor]:
    """Which rankings [rankings] are in each part of the cross-validation. There are none for a single prompt."""
    numbers = {tokens: n for n, tokens in enumerate(dict.fromkeys(tuple(ranked.prompt) for ranked in rankings))}
    count = min(FOLDS, len(numbers))
    if count < 2:
        return []
    part_of = np.random.default_rng([seed, len(numbers)]).permutation(len(numbers)) % count
    own = [int(part_of[numbers[tuple(ranked.prompt)]]) for ranked in rankings for _ in ranked.ranks]
    return [torch.tensor([part == k for part in own]) for k in range(count)]
