"""Behaviour cloning on a subset of the comparisons (SPEC 7): supervised fine-tuning on what people preferred, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from heedful.model.encoding import Example, RankedPrompt


def preferred_examples(rankings: Sequence[RankedPrompt]) -> list[Example]:
    """Each prompt with the response that its labelers liked best, as an example for :func:`heedful.training.sft.train_sft`."""
    return [Example(r.prompt, r.responses[preferred(r)]) for r in rankings]


def preferred(ranked: RankedPrompt) -> int:
    """The place of the response that wins most of its comparisons, a tie counting half; of equal ones the first.

    A response's share of wins is taken over all its comparisons with all labelers, so one that was shown to only some labelers
    has no disadvantage.
    """
    shares: list[float] = []
    for i in range(len(ranked.responses)):
        against = [(ranks[i], other) for ranks in ranked.ranks if ranks[i] for j, other in enumerate(ranks) if other and j != i]
        wins = [1.0 if own < other else 0.5 if own == other else 0.0 for own, other in against]
        shares.append(sum(wins) / len(wins) if wins else 0.0)
    return max(range(len(shares)), key=shares.__getitem__)
