"""A reward head for each group of labelers, combined into one reward model with weights that you choose (SPEC 7).

Groups of labelers have different preferences, and one reward model averages over them. Here the reward model's body does not
change, and each group gets its own head, fitted to its own rankings. Heads are linear, so the weighted mean of the groups'
rewards is itself a head: the combined model is an ordinary reward model, and changing the weights needs no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from heedful.errors import DataError
from heedful.functional import ranking_loss
from heedful.model.encoding import RankedPrompt
from heedful.training.fitted_head import minimum
from heedful.training.ranked_batches import rewards_by_labeler


def of_group(
    rankings: Sequence[RankedPrompt], features: Sequence[Tensor], members: Sequence[str]
) -> tuple[list[RankedPrompt], list[Tensor]]:
    """The rankings by these labelers (``members``), and the features of the prompts that they ranked."""
    kept: list[tuple[RankedPrompt, Tensor]] = []
    for ranked, rows in zip(rankings, features, strict=True):
        places = [i for i, labeler in enumerate(ranked.labelers) if labeler in members]
        if places:
            own = replace(
                ranked,
                labelers=tuple([ranked.labelers[i] for i in places]),
                ranks=tuple([ranked.ranks[i] for i in places]),
            )
            kept.append((own, rows))
    return [own for own, _ in kept], [rows for _, rows in kept]


def fit_head(start: Tensor, rankings: Sequence[RankedPrompt], features: Sequence[Tensor], *, pull: float) -> Tensor:
    """The head [width] that fits some rankings best, found by L-BFGS (the problem is convex).

    The loss is the reward model's, plus ``pull`` times half the variance of the difference from the rewards of the head
    ``start``. Raises DataError if there are no rankings.
    """
    if not rankings:
        raise DataError("a group of labelers has no ranking", expected="at least one comparison by its labelers", got="none")
    rows = torch.cat(list(features))
    places, ranks, weights = rewards_by_labeler(torch.arange(len(rows)), rankings)
    start = start.detach().float().cpu()

    def loss(head: Tensor) -> Tensor:
        lost, _ = ranking_loss((rows @ head)[places], ranks, ranks > 0, weights=weights)
        return lost + 0.5 * pull * (rows @ (head - start)).var(correction=0)

    return minimum(loss, start)


def head_accuracy(head: Tensor, rankings: Sequence[RankedPrompt], features: Sequence[Tensor]) -> tuple[float, int]:
    """Share of untied comparisons that a head orders as the labelers did, and the number of these comparisons."""
    rows = torch.cat(list(features))
    places, ranks, weights = rewards_by_labeler(torch.arange(len(rows)), rankings)
    _, statistics = ranking_loss((rows @ head)[places], ranks, ranks > 0, weights=weights)
    return float(statistics.accuracy), int(statistics.num_comparisons)


def combined_head(heads: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted mean of the groups' heads."""
    total = sum(weights.values())
    return torch.stack([weights[name] / total * head for name, head in heads.items()]).sum(0)
