"""The engine's tensors: a model's weights and cache, and one new token at a time for every request that has a slot.

The runner only computes. The scheduler decides which requests get slots and when a response is finished
(:mod:`heedful.model.engine.scheduler`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from heedful.model.dropout import evaluating
from heedful.model.engine.sampling import SEED_MASK, Drawing, Likeliest, Sampling
from heedful.model.engine.slots import DecodeLayout, PrefillLayout, Slots, groups_of, worth_merging
from heedful.model.fast.gpt2_forward import gpt2_forward
from heedful.model.fast.packed_linear import PackedLinear, product_rows
from heedful.model.layouts import pack
from heedful.model.loading import unembedding

_TOKENS_PER_PREFILL = 16_384
# On a CPU more at once is not faster, and the hidden states would take more memory than a small model's weights.
_TOKENS_PER_PREFILL_ON_CPU = 512
# Prompts have many tokens, so a grid of row counts that is coarser than decoding's wastes little.
_PREFILL_STEP = 32


@dataclass(slots=True)
class Request:
    """A request and its unfinished response: tokens drawn so far, their log-probs, and the likeliest tokens if requested."""

    number: int
    sampling: Sampling
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[Likeliest] = field(default_factory=list)


Drawn = tuple[Request, int, float]
"""A request, its new token, and that token's log-prob. The caller adds both to the request before the next call."""


@dataclass(slots=True)
class _Group:
    """Requests and their slots, row by row."""

    requests: list[Request]
    slots: Slots


class Runner:
    """Decodes the requests that hold slots. It holds copies of some of the model's weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._forward = gpt2_forward(model)
        self._head = PackedLinear(unembedding(model))
        self._groups: list[_Group] = []
        # For the rows of all groups, one group after another: the last token drawn, and how to draw the next one.
        self._last_tokens = torch.empty(0)
        self._drawing: Drawing | None = None

    @property
    def num_requests(self) -> int:
        """Requests that hold a slot."""
        return sum(len(group.requests) for group in self._groups)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[tuple[int, ...]], requests: Sequence[list[Request]]) -> list[Drawn]:
        """Give slots to new requests, compute each prompt once for all its requests, and draw their first tokens.

        :meth:`remove` must follow, with the requests that are already finished.
        """
        drawn: list[Drawn] = []
        with evaluating(self._model):
            for members in groups_of([len(prompt) for prompt in prompts], self._bytes_per_token):
                drawn += self._prefill_group([prompts[i] for i in members], [requests[i] for i in members])
        return drawn

    @torch.no_grad()
    def decode(self) -> list[Drawn]:
        """Decode one more token for each request; :meth:`advance` must follow, with the requests that are finished now."""
        if self._drawing is None:
            self._prepare()
        assert self._drawing is not None
        groups = [group.slots for group in self._groups]
        positions = groups[0].positions if len(groups) == 1 else torch.cat([slots.positions for slots in groups])
        count = len(positions)
        tokens, positions = self._filled(self._last_tokens), self._filled(positions)
        layout = DecodeLayout(groups)
        with evaluating(self._model):
            if self._forward is not None:
                hidden = self._forward(tokens, positions, layout)
            else:
                output = self._model.base_model(
                    input_ids=tokens[None], position_ids=positions[None], use_cache=False, layout=layout
                )
                hidden = output.last_hidden_state[0]
        logits = self._head(hidden)
        self._last_tokens, logprobs = self._drawing.draw(logits[:count])
        token_list, logprob_list = self._last_tokens.tolist(), logprobs.tolist()
        drawn: list[Drawn] = []
        first = 0
        for group in self._groups:
            drawn += zip(group.requests, token_list[first:], logprob_list[first:], strict=False)
            first += group.slots.rows
        return drawn

    @torch.no_grad()
    def advance(self, finished: set[int]) -> None:
        """Make room in the cache for the tokens just decoded, and free the slots of finished requests (by number)."""
        if not finished:
            for group in self._groups:
                group.slots.advance()
            return
        # Only the requests that stay need room in the cache for a new token, so the finished ones leave first.
        for group in self._groups:
            group.slots.lengths = [length + 1 for length in group.slots.lengths]
        self.remove(finished)

    @torch.no_grad()
    def remove(self, numbers: set[int]) -> None:
        """Free the slots of these requests; numbers without a slot are ignored."""
        for group in self._groups:
            gone = {row for row, request in enumerate(group.requests) if request.number in numbers}
            if gone and len(gone) < len(group.requests):
                order = group.slots.remove(gone)
                group.requests = [group.requests[row] for row in order]
            elif gone:
                group.requests = []
        self._groups = [group for group in self._groups if group.requests]
        self._merge()
        self._drawing = None

    def _prefill_group(self, prompts: list[tuple[int, ...]], requests: list[list[Request]]) -> list[Drawn]:
        slots = Slots([len(prompt) for prompt in prompts])
        hidden = self._prompts_hidden(prompts, slots)
        prompt_of = [i for i, members in enumerate(requests) for _ in members]
        if len(prompt_of) > len(prompts):
            slots.repeat(prompt_of)
        index = torch.tensor([*prompt_of, *[0] * (slots.rows - len(prompt_of))], device=hidden.device)
        logits = self._head(self._filled(hidden)).index_select(0, index)
        group = _Group([request for members in requests for request in members], slots)
        tokens, logprobs = _drawing([group], hidden.device).draw(logits)
        self._groups.append(group)
        return list(zip(group.requests, tokens.tolist(), logprobs.tolist(), strict=False))

    def _prompts_hidden(self, prompts: list[tuple[int, ...]], slots: Slots) -> Tensor:
        """Write the prompts' keys and values into the slots; returns the hidden state of each last token [prompts, width]."""
        device = self._model.device
        most = _TOKENS_PER_PREFILL_ON_CPU if device.type == "cpu" else _TOKENS_PER_PREFILL
        prefill_rows = partial(self._size, step=_PREFILL_STEP)
        hidden: list[Tensor] = []
        first = 0
        while first < len(prompts):
            end, size = first, 0
            while end < len(prompts) and (end == first or size + len(prompts[end]) <= most):
                size += len(prompts[end])
                end += 1
            # A packed sequence needs a response: a dummy token. The first decoded token overwrites its cache entry.
            batch = pack(prompts[first:end], [[0]] * (end - first), size=prefill_rows).to(device)
            lengths = torch.tensor([len(p) + 1 for p in prompts[first:end]])
            rows = torch.repeat_interleave(torch.arange(first, end), lengths).to(device)
            layout = PrefillLayout(batch.layout, batch.positions, slots, rows)
            wanted = batch.last - 1
            if self._forward is not None:
                hidden.append(self._forward(batch.tokens, batch.positions, layout, self._filled(wanted))[: len(wanted)])
            else:
                output = self._model.base_model(
                    input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False, layout=layout
                )
                hidden.append(output.last_hidden_state[0][wanted])
            first = end
        return torch.cat(hidden)

    def _size(self, count: int, *, step: int = 1) -> int:
        """How many rows to compute if ``count`` are needed: oneDNN's and torch's products get few different numbers of rows."""
        compiled = self._forward is not None and self._head.compiled
        return count if compiled else product_rows(count, step=step)

    def _filled(self, rows: Tensor) -> Tensor:
        """Pad the rows with zeros to the number of rows to compute."""
        extra = self._size(len(rows)) - len(rows)
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, extra)) if extra else rows

    def _merge(self) -> None:
        """Join groups that are cheaper to decode together than apart."""
        if len(self._groups) < 2:
            return
        self._groups.sort(key=lambda group: -group.slots.length)
        merged = self._groups[:1]
        for group in self._groups[1:]:
            if worth_merging(merged[-1].slots, group.slots, self._bytes_per_token):
                merged[-1].slots.absorb(group.slots)
                merged[-1].requests += group.requests
            else:
                merged.append(group)
        self._groups = merged

    def _prepare(self) -> None:
        """Rebuild the tensors that depend on which requests hold slots."""
        device = self._model.device
        last_tokens: list[int] = []
        for group in self._groups:
            group.slots.prepare()
            last_tokens += [request.tokens[-1] for request in group.requests]
            last_tokens += [0] * (group.slots.rows - len(group.requests))
        self._last_tokens = torch.tensor(last_tokens, device=device)
        self._drawing = _drawing(self._groups, device)

    @property
    def _bytes_per_token(self) -> int:
        """Size of one token's keys and values in one layer, in bytes."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * heads * width * self._model.dtype.itemsize


def _drawing(groups: Iterable[_Group], device: torch.device) -> Drawing:
    """How to draw each row's next token. Unused rows are drawn too, without bias, penalties or a stop."""
    samplings: list[Sampling] = []
    seeds: list[int] = []
    steps: list[int] = []
    histories: list[list[int]] = []
    likeliest: list[list[Likeliest]] = []
    plain = Sampling(max_tokens=1)
    for group in groups:
        filler = group.slots.rows - len(group.requests)
        samplings += [request.sampling for request in group.requests] + [plain] * filler
        seeds += [request.seed & SEED_MASK for request in group.requests] + [0] * filler
        steps += [len(request.tokens) for request in group.requests] + [0] * filler
        histories += [request.tokens for request in group.requests] + [[]] * filler
        likeliest += [request.likeliest for request in group.requests] + [[]] * filler
    at = torch.tensor(seeds, device=device), torch.tensor(steps, device=device)
    return Drawing(samplings, *at, histories, likeliest)
