"""What the self-check compares a model on: random tokens of lengths that reach every kernel and pass the sliding window."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from heedful.model.context_window import context_window, rope_switch

_LARGEST_WINDOW = 8_192  # a sliding window beyond this is not tried: the check would take minutes


@dataclass(frozen=True, slots=True)
class Examples:
    """Prompts [groups] and each one's responses [groups][K], token ids."""

    prompts: list[list[int]]
    responses: list[list[list[int]]]

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        return [(p, r) for p, group in zip(self.prompts, self.responses, strict=True) for r in group]


def window_of(model: PreTrainedModel) -> int:
    """Tokens that the model can see; 2,048 if its configuration does not say."""
    return context_window(model) or 2_048


def examples_of(
    model: PreTrainedModel, prompts: Sequence[int], responses: Sequence[Sequence[int]], *, room: int | None = None
) -> Examples:
    """Random tokens of these lengths, cut to the context window (or room). The padding token would move a score: left out."""
    rng = random.Random(0)
    rows = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    vocabulary = [t for t in range(min(rows, model.config.vocab_size)) if t != model.config.pad_token_id]
    room = room or window_of(model)

    def draw(length: int, most: int) -> list[int]:
        return [rng.choice(vocabulary) for _ in range(max(1, min(length, most)))]

    prompt_tokens = [draw(length, room - 1) for length in prompts]
    groups = [
        [draw(length, room - len(prompt)) for length in lengths]
        for prompt, lengths in zip(prompt_tokens, responses, strict=True)
    ]
    return Examples(prompt_tokens, groups)


def full_examples(model: PreTrainedModel) -> Examples:
    """Short and long ones: past the size at which attention takes another kernel, and past the sliding window."""
    prompts, responses = [1, 7, 40], [[5], [1, 24, 9], [16, 3, 11, 2]]
    if window_of(model) >= 700:
        prompts, responses = [*prompts, 560], [*responses, [30, 70]]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 24 <= window_of(model):
        prompts, responses = [*prompts, window + 8], [*responses, [6, 16]]
    return examples_of(model, prompts, responses)


def examples_past_the_switch(model: PreTrainedModel) -> Examples | None:
    """A short sequence beside one past LongRoPE's original window; None for a model without such a switch."""
    switch, window = rope_switch(model), getattr(model.config, "max_position_embeddings", None) or 0
    if switch is None or switch > _LARGEST_WINDOW or switch + 4 > window:
        return None
    return examples_of(model, [5, switch], [[3], [4]], room=window)


def decoding_prompts(model: PreTrainedModel) -> tuple[list[list[int]], int]:
    """Prompts, two of them equal, and how many tokens to generate: past the sliding window, where there is one."""
    longest = max(1, min(40, window_of(model) - 17))
    lengths = [1, min(7, longest), longest]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 13 <= window_of(model):
        lengths.append(max(1, window - 4))  # its first tokens see all of it
    prompts = examples_of(model, lengths, [[1]] * len(lengths)).prompts
    return [*prompts, prompts[1]], 16
