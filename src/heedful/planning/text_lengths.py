"""How long a project's texts are, in tokens; what its limits leave out; and which limits would fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from heedful.model.template import Template, prompt_tokens, response_tokens
from heedful.project.data_folder import Records
from heedful.project.selection import may_train
from heedful.records import Prompt

MOST_TEXTS = 5_000
"""If there are more texts of a kind, this many are sampled and measured."""
PERCENTILES = (50, 90, 99)
_GRID = 32
_TOLERATED = 0.01
"""If a larger share of texts would be left out or cut, other limits are proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLengths:
    """Lengths in tokens, ascending, by kind of text. A response includes its end-of-text. A kind without texts is empty."""

    prompts: tuple[int, ...]
    demonstrations: tuple[int, ...]
    outputs: tuple[int, ...]
    """Of model outputs that were ranked."""

    @property
    def responses(self) -> tuple[int, ...]:
        """Demonstrations and outputs (not sorted)."""
        return self.demonstrations + self.outputs

    def kinds(self) -> dict[str, tuple[int, ...]]:
        """The kinds that have texts."""
        found = {"prompts": self.prompts, "demonstrations": self.demonstrations, "ranked outputs": self.outputs}
        return {name: lengths for name, lengths in found.items() if lengths}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitAdvice:
    """What the current limits do to the texts, one sentence each, and what to set instead (empty: no change)."""

    effects: tuple[str, ...]
    proposal: str = ""


def text_lengths(tokenizer: PreTrainedTokenizerBase, records: Records, template: Template) -> TextLengths:
    """Lengths of the training prompts, and of the demonstrations and ranked outputs that may be trained on."""
    prompts = [prompt for prompt in records.prompts.values() if prompt.split == "train"]
    demonstrated = [(records.prompts[d.prompt_id], d.text) for d in records.demonstrations.values() if may_train(d)]
    ranked = {i for ranking in records.rankings.values() if may_train(ranking) for i in ranking.response_ids}
    outputs = [(records.prompts[r.prompt_id], r.text) for r in records.responses.values() if r.id in ranked]

    def answers(pairs: Sequence[tuple[Prompt, str]]) -> tuple[int, ...]:
        some = _sample(pairs)
        rows = response_tokens(tokenizer, [prompt for prompt, _ in some], [text for _, text in some], template)
        return tuple(sorted(len(row) + 1 for row in rows))

    return TextLengths(
        prompts=tuple(sorted(len(row) for row in prompt_tokens(tokenizer, _sample(prompts), template))),
        demonstrations=answers(demonstrated),
        outputs=answers(outputs),
    )


def percentile(lengths: Sequence[int], percent: float) -> int:
    """The smallest length that at least this many percent of the texts do not exceed. ``lengths``: sorted and not empty."""
    return lengths[max(0, math.ceil(len(lengths) * percent / 100) - 1)]


def limit_advice(lengths: TextLengths, *, max_prompt_tokens: int, max_response_tokens: int, window: int) -> LimitAdvice:
    """What these limits do to the texts. Proposes other limits if too many texts are affected or the window is too small.

    window: the model's context window, in tokens.
    """
    left_out, cut = _share_above(lengths.prompts, max_prompt_tokens), _share_above(lengths.responses, max_response_tokens)
    effects: list[str] = []
    if lengths.prompts:
        effects.append(f"max_prompt_tokens = {max_prompt_tokens:,} leaves out {left_out:.1%} of prompts")
    if lengths.responses:
        effects.append(f"max_response_tokens = {max_response_tokens:,} cuts {cut:.1%} of demonstrations and outputs")
    too_long = max_prompt_tokens + max_response_tokens > window
    if too_long:
        together = max_prompt_tokens + max_response_tokens
        effects.append(f"together they allow {together:,} tokens; the model's context window has {window:,}")
    if not too_long and max(left_out, cut) <= _TOLERATED:
        return LimitAdvice(effects=tuple(effects))
    prompt, response = fitting_limits(lengths, window, max_prompt_tokens, max_response_tokens)
    if (prompt, response) == (max_prompt_tokens, max_response_tokens):
        effects.append("the context window has no room for higher limits")
        return LimitAdvice(effects=tuple(effects))
    loses = f"leaves out {_share_above(lengths.prompts, prompt):.1%} of prompts"
    if lengths.responses:
        loses += f" and cuts {_share_above(lengths.responses, response):.1%} of demonstrations and outputs"
    proposal = f"set max_prompt_tokens = {prompt} and max_response_tokens = {response} under [limits]: that {loses}"
    return LimitAdvice(effects=tuple(effects), proposal=proposal)


def fitting_limits(lengths: TextLengths, window: int, prompt_now: int, response_now: int) -> tuple[int, int]:
    """(max_prompt_tokens, max_response_tokens) that fit 99 % of the texts, as far as the context window has room.

    If both do not fit, the response limit is reduced first, down to half of the window. Without texts the limits do not change.
    """
    prompt = _on_grid(percentile(lengths.prompts, 99)) if lengths.prompts else prompt_now
    response = _on_grid(percentile(lengths.responses, 99)) if lengths.responses else response_now
    if prompt + response <= window:
        return prompt, response
    response = min(response, max(window - prompt, window // 2))
    return min(prompt, window - response), response


def mean(lengths: Sequence[int], limit: int) -> float | None:
    """Mean length of texts after cutting them at a limit; None without texts."""
    return float(np.minimum(lengths, limit).mean()) if lengths else None


def _share_above(lengths: Sequence[int], limit: int) -> float:
    return sum(length > limit for length in lengths) / len(lengths) if lengths else 0.0


def _on_grid(length: int) -> int:
    return -(-length // _GRID) * _GRID


def _sample(items: Sequence[Any]) -> list[Any]:
    if len(items) <= MOST_TEXTS:
        return list(items)
    chosen = np.random.default_rng(0).choice(len(items), size=MOST_TEXTS, replace=False)
    return [items[i] for i in sorted(chosen)]
