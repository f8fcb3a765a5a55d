"""Generation by continuous batching: requests join and leave at any step, each with its own sampling and its own seed.

A prompt is computed once for all its samples, without padding. Every step decodes one token for each unfinished request; a
finished one frees its slot of the cache at once (:mod:`heedful.model.engine.slots`). A request's random numbers depend on its
own seed and position only (:mod:`heedful.model.engine.sampling`), so its text does not depend on who else is in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import UserError
from heedful.model.engine.sampling import SEED_MASK, Drawing, Sampling
from heedful.model.engine.slots import DecodeLayout, PrefillLayout, Slots, groups_of, worth_merging
from heedful.model.fast.gpt2_forward import gpt2_forward
from heedful.model.fast.packed_linear import PackedLinear, product_rows
from heedful.model.layouts import pack
from heedful.model.loading import unembedding

_TOKENS_PER_PREFILL = 16_384
# More at a time are not faster on a CPU, and their hidden states would take more memory than a small model's weights.
_TOKENS_PER_PREFILL_ON_CPU = 512
# Prompts are long enough for coarser numbers of rows than decoding's.
_PREFILL_STEP = 32
# A full engine admits again when this share of its slots is free: prompts are cheaper to compute together.
_ADMIT_AT = 0.25


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated for one request.

    tokens: token ids, the stop token included where it was reached. logprobs: of these tokens under the model's own
    distribution, softmax of its logits, whatever temperature, top-k, top-p and bias they were drawn with. finished: the stop
    token or a stop string was reached. stop: the stop string that was reached (the response's text ends before it).
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool
    stop: str | None = None


@dataclass(slots=True)
class _Request:
    number: int
    sampling: Sampling
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Group:
    """Requests and their slots, row by row."""

    requests: list[_Request]
    slots: Slots


class Engine:
    """Generates for requests that come and go. It holds a copy of the model's weights: make a new one after an update.

    slots: how many requests are decoded at the same time. tokenizer: needed by requests with stop strings.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int = 512, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self._model, self._tokenizer, self._num_slots = model, tokenizer, slots
        self._forward = gpt2_forward(model)
        self._head = PackedLinear(unembedding(model))
        self._waiting: deque[tuple[tuple[int, ...], list[_Request]]] = deque()
        self._groups: list[_Group] = []
        self._next_number = 0
        # Of the rows of all groups, one group after the other: the last drawn token, and how to draw the next.
        self._drawn = torch.empty(0)
        self._drawing: Drawing | None = None

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or are being decoded."""
        return sum(len(requests) for _, requests in self._waiting) + self._num_live

    @property
    def _num_live(self) -> int:
        return sum(len(group.requests) for group in self._groups)

    def submit(self, prompt: Sequence[int], sampling: Sampling, seeds: Sequence[int]) -> list[int]:
        """Ask for one response per seed to a prompt, which is computed once; returns the requests' numbers.

        More seeds than slots are served in turns, with the prompt computed once in each. Raises ValueError (no token, no
        tokenizer for stop strings), UserError where prompt and max_tokens together pass the model's context window.
        """
        if sampling.stop and self._tokenizer is None:
            raise ValueError("stop strings need the tokenizer: give it to the engine")
        check_fits(self._model, prompt, sampling)
        numbers = list(range(self._next_number, self._next_number + len(seeds)))
        self._next_number += len(seeds)
        requests = [_Request(number, sampling, seed) for number, seed in zip(numbers, seeds, strict=True)]
        for first in range(0, len(requests), self._num_slots):
            self._waiting.append((tuple(prompt), requests[first : first + self._num_slots]))
        return numbers

    def cancel(self, number: int) -> None:
        """Let a request leave without a result; one that has finished, or never was, is ignored."""
        for _, requests in self._waiting:
            requests[:] = [request for request in requests if request.number != number]
        self._waiting = deque(entry for entry in self._waiting if entry[1])
        self._leave({number})

    @torch.no_grad()
    def step(self) -> list[tuple[int, Generation]]:
        """Admit waiting requests, decode one token for each unfinished one, and return those that finished by number."""
        training = self._model.training
        if training:  # asked first: to set the mode walks through all modules
            self._model.eval()
        try:
            return (self._decode() if self._groups else []) + self._admit()
        finally:
            if training:
                self._model.train()

    # ------------------------------------------------------------ decoding

    def _decode(self) -> list[tuple[int, Generation]]:
        if self._drawing is None:
            self._prepare()
        assert self._drawing is not None
        groups = [group.slots for group in self._groups]
        positions = groups[0].positions if len(groups) == 1 else torch.cat([slots.positions for slots in groups])
        count = len(positions)
        tokens, positions = self._filled(self._drawn), self._filled(positions)
        layout = DecodeLayout(groups)
        if self._forward is not None:
            hidden = self._forward(tokens, positions, layout)
        else:
            output = self._model.base_model(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, layout=layout
            )
            hidden = output.last_hidden_state[0]
        logits = self._head(hidden)
        self._drawn, logprobs = self._drawing.draw(logits[:count])
        drawn_list, logprob_list = self._drawn.tolist(), logprobs.tolist()
        finished: list[tuple[int, Generation]] = []
        first = 0
        for group in self._groups:
            finished += self._record(group.requests, drawn_list[first:], logprob_list[first:])
            first += group.slots.rows
        if finished:
            # Those that stay need their new token's place in the cache only after the others have left.
            for group in self._groups:
                group.slots.lengths = [length + 1 for length in group.slots.lengths]
            self._leave({number for number, _ in finished})
        else:
            for slots in groups:
                slots.advance()
        return finished

    def _record(self, requests: list[_Request], drawn: list[int], logprobs: list[float]) -> list[tuple[int, Generation]]:
        finished: list[tuple[int, Generation]] = []
        for request, token, logprob in zip(requests, drawn, logprobs, strict=False):
            request.tokens.append(token)
            request.logprobs.append(logprob)
            sampling = request.sampling
            stop = self._stop_string(request) if sampling.stop else None
            if token == sampling.stop_token or stop is not None:
                finished.append((request.number, Generation(request.tokens, request.logprobs, True, stop)))
            elif len(request.tokens) == sampling.max_tokens:
                finished.append((request.number, Generation(request.tokens, request.logprobs, False)))
        return finished

    def _stop_string(self, request: _Request) -> str | None:
        """The stop string that the last token completed."""
        assert self._tokenizer is not None
        # A character is at most four tokens of a byte-level vocabulary; four more keep the start's decoding out of it.
        tail = 4 * max(map(len, request.sampling.stop)) + 4
        text = str(self._tokenizer.decode(request.tokens[-tail:], skip_special_tokens=True))
        return next((stop for stop in request.sampling.stop if stop in text), None)

    # ------------------------------------------------------------ joining and leaving

    def _admit(self) -> list[tuple[int, Generation]]:
        """Compute waiting prompts and draw their first tokens."""
        free = self._num_slots - self._num_live
        if not self._waiting or (self._groups and free < _ADMIT_AT * self._num_slots):
            return []
        admitted: dict[tuple[int, ...], list[_Request]] = {}
        while self._waiting and len(self._waiting[0][1]) <= free:
            prompt, requests = self._waiting.popleft()
            admitted.setdefault(prompt, []).extend(requests)
            free -= len(requests)
        prompts = list(admitted)
        finished: list[tuple[int, Generation]] = []
        cuts = groups_of([len(prompt) for prompt in prompts], self._bytes_per_token)
        for members in cuts:
            finished += self._prefill([prompts[i] for i in members], [admitted[prompts[i]] for i in members])
        self._leave({number for number, _ in finished})
        self._merge()
        return finished

    def _prefill(self, prompts: list[tuple[int, ...]], requests: list[list[_Request]]) -> list[tuple[int, Generation]]:
        slots = Slots([len(prompt) for prompt in prompts])
        hidden = self._prompts_hidden(prompts, slots)
        sample_of = [i for i, members in enumerate(requests) for _ in members]
        if len(sample_of) > len(prompts):
            slots.repeat(sample_of)
        index = torch.tensor([*sample_of, *[0] * (slots.rows - len(sample_of))], device=hidden.device)
        logits = self._head(self._filled(hidden)).index_select(0, index)
        group = _Group([request for members in requests for request in members], slots)
        drawn, logprobs = _drawing([group], hidden.device).draw(logits)
        self._groups.append(group)
        self._drawing = None
        return self._record(group.requests, drawn.tolist(), logprobs.tolist())

    def _prompts_hidden(self, prompts: list[tuple[int, ...]], slots: Slots) -> Tensor:
        """Fill the slots with the prompts and return the hidden state of each one's last token [prompts, width]."""
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
            # Packed sequences end with a response: a dummy token whose cache entry the first decoded token overwrites.
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
        """How many rows are computed where ``count`` are wanted: the model's own products are kept few in number."""
        compiled = self._forward is not None and self._head.compiled
        return count if compiled else product_rows(count, step=step)

    def _filled(self, rows: Tensor) -> Tensor:
        """Rows and behind them zeros, up to a number that products are made of."""
        extra = self._size(len(rows)) - len(rows)
        return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, extra)) if extra else rows

    def _leave(self, numbers: set[int]) -> None:
        """Free the slots of these requests."""
        if not numbers:
            return
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

    def _merge(self) -> None:
        """Let groups become one where keeping them apart costs more than it saves."""
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
        self._drawing = None

    def _prepare(self) -> None:
        """Rebuild what depends on which requests are live."""
        device = self._model.device
        drawn: list[int] = []
        for group in self._groups:
            group.slots.prepare()
            drawn += [request.tokens[-1] for request in group.requests] + [0] * (group.slots.rows - len(group.requests))
        self._drawn = torch.tensor(drawn, device=device)
        self._drawing = _drawing(self._groups, device)

    @property
    def _bytes_per_token(self) -> int:
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * heads * width * self._model.dtype.itemsize


def check_fits(model: PreTrainedModel, prompt: Sequence[int], sampling: Sampling) -> None:
    """Raise ValueError for an empty prompt, UserError where it and max_tokens together pass the model's context window."""
    if len(prompt) == 0:
        raise ValueError("a prompt is empty")
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and len(prompt) + sampling.max_tokens > window:
        raise UserError(
            "prompt and response do not fit the model's context window",
            expected=f"at most {window} tokens together",
            got=f"a prompt of {len(prompt)} and up to {sampling.max_tokens} new tokens",
            next_step="lower the limits max_prompt_tokens or max_response_tokens",
        )


def _drawing(groups: Iterable[_Group], device: torch.device) -> Drawing:
    """How each row's next token is drawn; unused rows like any other."""
    samplings: list[Sampling] = []
    seeds: list[int] = []
    steps: list[int] = []
    plain = Sampling(max_tokens=1)
    for group in groups:
        filler = group.slots.rows - len(group.requests)
        samplings += [request.sampling for request in group.requests] + [plain] * filler
        seeds += [request.seed & SEED_MASK for request in group.requests] + [0] * filler
        steps += [len(request.tokens) for request in group.requests] + [0] * filler
    return Drawing(samplings, torch.tensor(seeds, device=device), torch.tensor(steps, device=device))


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    batch_size: int = 512,
    advance: Callable[[int], None] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Generation]:
    """Sample one response to each prompt, in order; a prompt that occurs several times is computed once.

    prompts: token ids, none empty. seeds: one per prompt. batch_size: how many requests are decoded at the same time. advance:
    called with the number of requests that just finished. tokenizer: needed for stop strings.
    Raises UserError where prompt and max_tokens together pass the model's context window.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"expected a seed for each of {len(prompts)} prompts, got {len(seeds)}")
    engine = Engine(model, slots=batch_size, tokenizer=tokenizer)
    samples: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        samples.setdefault(tuple(prompt), []).append(i)
    place: dict[int, int] = {}
    # Similar lengths are decoded together, so that short prompts do not drag a long cache along.
    for prompt in sorted(samples, key=len, reverse=True):
        members = samples[prompt]
        numbers = engine.submit(prompt, sampling, [seeds[i] for i in members])
        place.update(zip(numbers, members, strict=True))
    results: list[Generation | None] = [None] * len(prompts)
    while engine.num_unfinished:
        finished = engine.step()
        for number, generation in finished:
            results[place[number]] = generation
        if advance is not None and finished:
            advance(len(finished))
    return [result for result in results if result is not None]
