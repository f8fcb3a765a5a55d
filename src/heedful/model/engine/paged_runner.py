"""The engine's tensors for models that run as one compiled pass: weights, pages of keys and values, one new token at a time.

The scheduler uses it in place of :class:`heedful.model.engine.runner.Runner`, which runs all other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from heedful.functional.fast.decoder import PAGE, Decoder
from heedful.model.engine.page_pool import Pages
from heedful.model.engine.runner import Drawn, Request
from heedful.model.engine.sampling import SEED_MASK, Drawing
from heedful.model.fast.rotary_decoder import rotary_decoder

# More tokens at once are not faster, and their intermediate results would no longer fit the processor's caches.
_TOKENS_PER_PREFILL = 512


@dataclass(slots=True)
class _Sequence:
    """A request, its pages, and how many tokens they hold."""

    request: Request
    pages: list[int]
    length: int


class PagedRunner:
    """Decodes the requests that hold slots."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._pages = Pages(decoder.page_bytes)
        self._sequences: list[_Sequence] = []
        # Prompts that are partly computed: their pages, and how many tokens are done.
        self._begun: dict[tuple[int, ...], tuple[list[int], int]] = {}
        # For each sequence: the last token drawn, its position, the sequence's number and pages, how to draw the next token.
        self._last_tokens = self._positions = self._numbers = self._table = torch.empty(0, dtype=torch.int64)
        self._drawing: Drawing | None = None

    @property
    def num_requests(self) -> int:
        """Requests that hold a slot."""
        return len(self._sequences)

    def begin(self, prompt: tuple[int, ...], most: int) -> int:
        """Compute up to ``most`` more tokens of a prompt ahead of its prefill; returns how many tokens are left, at least 1.

        This does not change results: a token's numbers do not depend on how many tokens are computed with it.
        """
        pages, done = self._begun.get(prompt) or (self._pages.take(-(-len(prompt) // PAGE)), 0)
        end = min(done + most, len(prompt) - 1)
        if end > done:
            self._compute([prompt[:end]], [pages], [done], draw=False)
        self._begun[prompt] = pages, max(end, done)
        return len(prompt) - self._begun[prompt][1]

    def forget_begun(self) -> None:
        """Free the pages of partly computed prompts, whose requests are gone."""
        for pages, _ in self._begun.values():
            self._pages.give_back(pages)
        self._begun.clear()

    def prefill(self, prompts: Sequence[tuple[int, ...]], requests: Sequence[list[Request]]) -> list[Drawn]:
        """Compute each prompt once for all its requests, and draw their first tokens.

        :meth:`remove` must follow, with the requests that are already finished.
        """
        held = [self._begun.pop(prompt, None) for prompt in prompts]
        pages = [self._pages.take(-(-len(p) // PAGE)) if one is None else one[0] for p, one in zip(prompts, held, strict=True)]
        logits = self._compute(prompts, pages, [0 if one is None else one[1] for one in held])
        prompt_of = [i for i, members in enumerate(requests) for _ in members]
        if len(prompt_of) > len(prompts):
            logits = logits.index_select(0, torch.tensor(prompt_of))
        joined: list[_Sequence] = []
        for prompt, own, members in zip(prompts, pages, requests, strict=True):
            parts = [own, *(self._pages.share(own, len(prompt)) for _ in members[1:])]
            joined += [_Sequence(request, part, len(prompt)) for request, part in zip(members, parts, strict=True)]
        tokens, logprobs = _drawing(joined).draw(logits)
        self._sequences += joined
        self._drawing = None
        return list(zip([s.request for s in joined], tokens.tolist(), logprobs.tolist(), strict=True))

    def decode(self) -> list[Drawn]:
        """Decode one more token for each request; :meth:`advance` must follow, with the requests that are finished now."""
        if self._drawing is None:
            self._prepare()
        assert self._drawing is not None
        self._make_room()
        logits = self._decoder(self._last_tokens, self._positions, self._numbers, self._table)
        self._last_tokens, logprobs = self._drawing.draw(logits)
        requests = [sequence.request for sequence in self._sequences]
        return list(zip(requests, self._last_tokens.tolist(), logprobs.tolist(), strict=True))

    def advance(self, finished: set[int]) -> None:
        """Count the tokens just decoded, and free the slots of finished requests (by number)."""
        for sequence in self._sequences:
            sequence.length += 1
        self._positions += 1
        if finished:
            self.remove(finished)

    def remove(self, numbers: set[int]) -> None:
        """Free the slots of these requests; numbers without a slot are ignored."""
        gone = [sequence for sequence in self._sequences if sequence.request.number in numbers]
        if gone:
            self._sequences = [sequence for sequence in self._sequences if sequence.request.number not in numbers]
            for sequence in gone:
                self._pages.give_back(sequence.pages)
            self._drawing = None

    def _compute(
        self, prompts: Sequence[tuple[int, ...]], pages: list[list[int]], done: list[int], *, draw: bool = True
    ) -> Tensor:
        """Put the prompts' keys and values into their pages; the first ``done`` tokens of each are there already.

        Returns the logits after each prompt [prompts, vocabulary], or [0, vocabulary] if ``draw`` is False.
        """
        lengths = torch.tensor([len(prompt) - first for prompt, first in zip(prompts, done, strict=True)])
        ends = lengths.cumsum(0)
        tokens = torch.tensor([token for prompt, first in zip(prompts, done, strict=True) for token in prompt[first:]])
        numbers = torch.repeat_interleave(torch.arange(len(prompts)), lengths)
        positions = torch.arange(len(tokens)) + (torch.tensor(done) - ends + lengths)[numbers]
        table = _page_table(pages)
        logits: list[Tensor] = []
        for first in range(0, len(tokens), _TOKENS_PER_PREFILL):
            part = slice(first, first + _TOKENS_PER_PREFILL)
            wanted = ends - 1 - first
            wanted = wanted[(wanted >= 0) & (wanted < len(tokens[part]))][: None if draw else 0]
            logits.append(self._decoder(tokens[part], positions[part], numbers[part], table, wanted))
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _prepare(self) -> None:
        """Rebuild the tensors that depend on which requests hold slots."""
        self._last_tokens = torch.tensor([sequence.request.tokens[-1] for sequence in self._sequences])
        self._positions = torch.tensor([sequence.length for sequence in self._sequences])
        self._numbers = torch.arange(len(self._sequences))
        self._table = _page_table([sequence.pages for sequence in self._sequences])
        self._drawing = _drawing(self._sequences)

    def _make_room(self) -> None:
        """Give a new page to each sequence whose pages are full."""
        for row, sequence in enumerate(self._sequences):
            if sequence.length == len(sequence.pages) * PAGE:
                sequence.pages += self._pages.take(1)
                if len(sequence.pages) > self._table.shape[1]:
                    self._table = _page_table([sequence.pages for sequence in self._sequences])
                self._table[row, len(sequence.pages) - 1] = sequence.pages[-1]


def paged_runner(model: PreTrainedModel) -> PagedRunner | None:
    """A runner for this model as one compiled pass, or None if the model's own class must run."""
    decoder = rotary_decoder(model)
    return None if decoder is None else PagedRunner(decoder)


def _page_table(pages: Sequence[Sequence[int]]) -> Tensor:
    """[sequences, most pages], padded with zeros."""
    most = max(map(len, pages))
    return torch.tensor([[*row, *[0] * (most - len(row))] for row in pages])


def _drawing(sequences: Sequence[_Sequence]) -> Drawing:
    seeds = torch.tensor([sequence.request.seed & SEED_MASK for sequence in sequences])
    steps = torch.tensor([len(sequence.request.tokens) for sequence in sequences])
    requests = [sequence.request for sequence in sequences]
    histories, likeliest = [request.tokens for request in requests], [request.likeliest for request in requests]
    return Drawing([request.sampling for request in requests], seeds, steps, histories, likeliest)
