"""Examples for the self-check: random tokens, of lengths that reach every kernel and exceed the sliding window."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from heedful.model.context_window import context_window, rope_switch

_LARGEST_WINDOW = 8_192  # tokens; with a larger sliding window the check would take minutes, so none is tried


@dataclass(frozen=True, slots=True)
class Examples:
    """Prompts [groups] and the responses to each [groups][K], as token ids."""

    prompts: list[list[int]]
    responses: list[list[list[int]]]

    @property
    def firsts(self) -> Examples:
        """Each prompt with only its first response."""
        return Examples(self.prompts, [group[:1] for group in self.responses])

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """Each response with its prompt, (prompt, response)."""
        return [(p, r) for p, group in zip(self.prompts, self.responses, strict=True) for r in group]


def window_of(model: PreTrainedModel) -> int:
    """The model's context window in tokens; 2,048 if its configuration does not say."""
    return context_window(model) or 2_048


def examples_of(
    model: PreTrainedModel, prompts: Sequence[int], responses: Sequence[Sequence[int]], *, room: int | None = None
) -> Examples:
    """Random tokens of these lengths, cut to the context window (or room).

    The padding token is never among them, because plain transformers would read a score at another place.
    """
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
    """Short and long examples: long enough for the attention kernel of large blocks, and for the sliding window to matter."""
    short = short_examples(model)
    if window_of(model) < 700:
        return short
    long = examples_of(model, [520], [[6, 16]])
    return Examples([*short.prompts, *long.prompts], [*short.responses, *long.responses])


def short_examples(model: PreTrainedModel) -> Examples:
    """Short examples, from one token up, and one that exceeds the sliding window if there is one."""
    prompts, responses = [1, 7, 40], [[5], [1, 24, 9], [16, 3, 11, 2]]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 24 <= window_of(model):
        prompts, responses = [*prompts, window + 8], [*responses, [6, 16]]
    return examples_of(model, prompts, responses)


def examples_past_the_switch(model: PreTrainedModel) -> Examples | None:
    """A short sequence and one past the original window of scaled rotary positions.

    None if the rotary positions never change, or only past 8,192 tokens.
    """
    switch = rope_switch(model)
    if switch is None or switch > _LARGEST_WINDOW:
        return None
    # The short one comes last, because dynamic scaling keeps the frequencies of a long sequence until a shorter one comes.
    return examples_of(model, [switch, 5], [[4], [3]], room=switch + 4)


def decoding_prompts(model: PreTrainedModel) -> tuple[list[list[int]], int]:
    """Prompts, two of them equal, and how many tokens to generate: enough to exceed the sliding window, if there is one."""
    longest = max(1, min(40, window_of(model) - 17))
    lengths = [1, min(7, longest), longest]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 13 <= window_of(model):
        lengths.append(max(1, window - 4))  # the first generated tokens still see the whole prompt
    prompts = examples_of(model, lengths, [[1]] * len(lengths)).prompts
    return [*prompts, prompts[1]], 16
