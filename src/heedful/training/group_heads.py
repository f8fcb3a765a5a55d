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
from transformers import PreTrainedModel

from heedful.errors import DataError
from heedful.functional import ranking_loss
from heedful.model.encoding import RankedPrompt
from heedful.model.layouts import packed_hidden
from heedful.model.scalar_models import scalar_head
from heedful.ranks.collectives import gather_in_order
from heedful.training.ranked_batches import pack_ranked, ranked_microbatches, rewards_by_labeler, rewards_by_prompt


@torch.no_grad()
def response_features(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], *, tokens_per_microbatch: int = 16_384
) -> list[Tensor]:
    """The head's inputs for each prompt's responses, [K, width] in float32 in main memory. Each prompt is computed once."""
    found: list[tuple[int, Tensor]] = []
    for indices, factor in ranked_microbatches(rankings, tokens_per_microbatch) if rankings else ():
        members = [rankings[i] for i in indices]
        batch = pack_ranked(members).to(model.device)
        hidden = packed_hidden(model, batch, batch.last).float().cpu()
        if factor:
            found += list(zip(indices, rewards_by_prompt(hidden, members), strict=True))
    return gather_in_order(found)


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
    head = start.detach().float().cpu().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([head], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = ranking_loss((rows @ head)[places], ranks, ranks > 0, weights=weights)
        change = rows @ (head - start.cpu())
        total = loss + 0.5 * pull * change.var(correction=0)
        total.backward()
        return total

    optimizer.step(closure)
    return head.detach()


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


def set_head(model: PreTrainedModel, head: Tensor) -> None:
    """Replace a scalar model's head weights, in place."""
    with torch.no_grad():
        weight = scalar_head(model).weight
        weight.copy_(head[None].to(weight))
