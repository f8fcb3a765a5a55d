"""Behaviour cloning on a subset of the comparisons (SPEC 7): supervised fine-tuning on the responses that people preferred."""

from __future__ import annotations

from collections.abc import Sequence

from heedful.model.encoding import Example, RankedPrompt


def preferred_examples(rankings: Sequence[RankedPrompt]) -> list[Example]:
    """Each prompt with the response that its labelers preferred, as an example for :func:`heedful.training.sft.train_sft`."""
    return [Example(r.prompt, r.responses[preferred(r)], r.weight) for r in rankings]


def preferred(ranked: RankedPrompt) -> int:
    """The index of the response that wins the largest share of its comparisons; the first if several are equal.

    A tie counts as half a win. The share is over a response's comparisons by all labelers, so a response that only some
    labelers saw has no disadvantage.
    """
    shares: list[float] = []
    for i in range(len(ranked.responses)):
        against = [(ranks[i], other) for ranks in ranked.ranks if ranks[i] for j, other in enumerate(ranks) if other and j != i]
        wins = [1.0 if own < other else 0.5 if own == other else 0.0 for own, other in against]
        shares.append(sum(wins) / len(wins) if wins else 0.0)
    return max(range(len(shares)), key=shares.__getitem__)
