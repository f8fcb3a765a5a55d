"""Scores the responses of rankings with a reward model. Each prompt is computed once for all its responses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import DataError
from heedful.evaluate.reward_rankings import RankedRecords
from heedful.model.chat_template import Template
from heedful.model.context_window import context_window
from heedful.model.encoding import encode_response
from heedful.model.end_tokens import response_end
from heedful.model.layouts import pack_shared
from heedful.model.readout import scalars
from heedful.model.template import prompt_tokens, response_tokens
from heedful.progress import progress_line
from heedful.ranks.batch_shares import own_microbatches

_TOKENS_AT_A_TIME = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The reward model's scores."""

    by_response: dict[str, float]
    cut: tuple[str, ...]
    """Responses over the limit: they are scored at their last token within it."""
    too_long: tuple[str, ...]
    """Prompts over the limit: their responses have no score."""


def score_ranked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: RankedRecords,
    *,
    template: Template,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    console: Console | None = None,
) -> Scores:
    """Score all ranked responses. Without limits, prompt and response share the model's context window.

    Raises DataError if every prompt is too long.
    """
    names: dict[str, dict[str, None]] = {}
    for ranking in given.rankings:
        names.setdefault(ranking.prompt_id, {}).update(dict.fromkeys(ranking.response_ids))
    window, end = context_window(model), response_end(tokenizer, template)
    rows, kept, cut, too_long = [], [], [], []
    tokens_of = prompt_tokens(tokenizer, [given.prompts[name] for name in names], template)
    for (prompt_id, own), before in zip(names.items(), tokens_of, strict=True):
        limits = [max_response_tokens, None if window is None else window - len(before)]
        room = min((limit for limit in limits if limit is not None), default=None)
        if (max_prompt_tokens is not None and len(before) > max_prompt_tokens) or (room is not None and room < 1):
            too_long.append(prompt_id)
            continue
        answers = [given.responses[name] for name in own]
        texts = response_tokens(tokenizer, [given.prompts[prompt_id]] * len(own), [one.text for one in answers], template)
        after: list[list[int]] = []
        for one, ids in zip(answers, texts, strict=True):
            most = len(ids) + 1 if room is None else room
            row, is_cut = encode_response(ids, end=end, finished=one.finished, max_tokens=most)
            after.append(row)
            if is_cut:
                cut.append(one.id)
        rows.append((before, after))
        kept.append(list(own))
    if not kept:
        raise DataError(
            "no prompt can be scored",
            expected=f"prompts within {max_prompt_tokens or window:,} tokens",
            got=f"{len(too_long):,} longer ones, such as {too_long[0]!r}",
            next_step="give a larger --max-prompt-tokens, or a model with a longer context window",
        )
    return Scores(by_response=_scored(model, rows, kept, console), cut=tuple(cut), too_long=tuple(too_long))


@torch.no_grad()
def _scored(
    model: PreTrainedModel,
    rows: list[tuple[list[int], list[list[int]]]],
    names: list[list[str]],
    console: Console | None,
) -> dict[str, float]:
    """Return scores by response. Each row holds a prompt's tokens and those of its responses."""
    found: dict[str, float] = {}
    lengths = [len(before) + sum(map(len, after)) for before, after in rows]
    with progress_line("scoring", len(rows), unit="prompts", console=console) as progress:
        for members, _ in own_microbatches(lengths, tokens=_TOKENS_AT_A_TIME):
            batch = pack_shared([rows[i][0] for i in members], [rows[i][1] for i in members]).to(model.device)
            rewards = scalars(model, batch, batch.last).tolist()
            found.update(zip([name for i in members for name in names[i]], rewards, strict=True))
            progress.advance(len(members))
    return found
