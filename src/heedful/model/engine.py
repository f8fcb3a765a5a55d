"""Generation with a KV cache: requests of different lengths in one batch, each with its own seed.

Prompts are prefilled without padding; every step decodes one token for each unfinished request; finished requests leave the
batch. A request's random numbers depend on its own seed and position only, so its text does not depend on who else is in the
batch (up to the rounding of matrix products of another shape).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from heedful.errors import UserError
from heedful.model.attention import Layout
from heedful.model.layouts import PackedBatch, on_grid, pack
from heedful.model.loading import unembedding

# The cache is compacted when this share of its rows has finished: copying it at each finish costs more than the idle rows.
_COMPACT_AT = 0.3
_TOKENS_PER_PREFILL = 16_384
_LENGTH_GRID = 32  # a step attends to the cache up to the next multiple: a new length costs a new kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; the paper samples rollouts at 1 (SPEC 3.5)."""

    max_tokens: int
    temperature: float = 1.0
    stop_token: int | None = None
    """Generation ends after this token (normally end-of-text); it is part of the generation."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated for one request.

    tokens: token ids, the stop token included where it was reached. logprobs: of these tokens under the distribution they were
    drawn from (temperature included; at temperature 0, under temperature 1). finished: the stop token was reached.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    batch_size: int = 512,
    advance: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Sample one continuation for each prompt, in order.

    prompts: token ids, none empty. seeds: one per prompt. advance: called with the number of requests that just finished.
    Raises UserError where prompt and max_tokens together pass the model's context window.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"expected a seed for each of {len(prompts)} prompts, got {len(seeds)}")
    if sampling.max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {sampling.max_tokens}")
    longest = max((len(prompt) for prompt in prompts), default=0)
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and longest + sampling.max_tokens > window:
        raise UserError(
            "prompt and response do not fit the model's context window",
            expected=f"at most {window} tokens together",
            got=f"a prompt of {longest} and up to {sampling.max_tokens} new tokens",
            next_step="lower the limits max_prompt_tokens or max_response_tokens",
        )
    training = model.training
    model.eval()
    # Similar lengths share a batch, so that short prompts do not drag a long cache along.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    results: list[Generation | None] = [None] * len(prompts)
    for first in range(0, len(order), batch_size):
        members = order[first : first + batch_size]
        generations = _generate_batch(model, [prompts[i] for i in members], sampling, [seeds[i] for i in members], advance)
        for i, generation in zip(members, generations, strict=True):
            results[i] = generation
    model.train(training)
    return [result for result in results if result is not None]


def _generate_batch(
    model: PreTrainedModel,
    prompts: list[Sequence[int]],
    sampling: Sampling,
    seeds: list[int],
    advance: Callable[[int], None] | None,
) -> list[Generation]:
    device = model.device
    weight = unembedding(model)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    cache = _Cache(len(prompts), int(lengths.max()) + 1)
    hidden = _prefill(model, prompts, cache)

    alive = torch.arange(len(prompts), device=device)  # which request each cache row belongs to
    row_seeds = torch.tensor([seed & (2**63 - 1) for seed in seeds], dtype=torch.int64, device=device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens = torch.zeros(len(prompts), sampling.max_tokens, dtype=torch.int64, device=device)
    logprobs = torch.zeros(len(prompts), sampling.max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.int64, device=device)
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    for step in range(sampling.max_tokens):
        drawn, drawn_logprobs = _draw(hidden @ weight.T, sampling.temperature, row_seeds, step)
        rows = alive[running]
        tokens[rows, step] = drawn[running]
        logprobs[rows, step] = drawn_logprobs[running]
        counts[rows] += 1
        if sampling.stop_token is not None:
            stopped = running & (drawn == sampling.stop_token)
            finished[alive[stopped]] = True
            running &= ~stopped
            if advance is not None and (number := int(stopped.sum())):
                advance(number)
        num_running = int(running.sum())
        if num_running == 0 or step == sampling.max_tokens - 1:
            break
        if num_running < (1 - _COMPACT_AT) * len(running):
            # Rows are kept in numbers of the grid (a new shape costs a new kernel): some finished ones may stay along.
            keep = torch.argsort(~running, stable=True)[: on_grid(num_running)]
            cache.keep(keep)
            alive, row_seeds, drawn, lengths = alive[keep], row_seeds[keep], drawn[keep], lengths[keep]
            running = running[keep]
        cache.reserve(int(lengths.max()) + step + 1)
        layout = _DecodeLayout(cache, lengths + step)
        hidden = model.base_model(
            input_ids=drawn[None], position_ids=(lengths + step)[None], use_cache=False, layout=layout
        ).last_hidden_state[0]
    if advance is not None and (number := int((~finished).sum())):
        advance(number)
    token_rows, logprob_rows = tokens.tolist(), logprobs.tolist()
    return [
        Generation(token_rows[i][:count], logprob_rows[i][:count], is_finished)
        for i, (count, is_finished) in enumerate(zip(counts.tolist(), finished.tolist(), strict=True))
    ]


def _prefill(model: PreTrainedModel, prompts: list[Sequence[int]], cache: _Cache) -> Tensor:
    """Fill the cache with the prompts and return the hidden state of each one's last token [prompts, width]."""
    hidden: list[Tensor] = []
    first = 0
    while first < len(prompts):
        end, size = first, 0
        while end < len(prompts) and (end == first or size + len(prompts[end]) <= _TOKENS_PER_PREFILL):
            size += len(prompts[end])
            end += 1
        # Packed sequences end with a response: a dummy token whose cache entry the first decoded token overwrites.
        batch = pack(prompts[first:end], [[0]] * (end - first)).to(model.device)
        lengths = torch.tensor([len(p) + 1 for p in prompts[first:end]])
        rows = torch.repeat_interleave(torch.arange(first, end), lengths).to(model.device)
        output = model.base_model(
            input_ids=batch.tokens[None],
            position_ids=batch.positions[None],
            use_cache=False,
            layout=_PrefillLayout(batch, cache, rows),
        )
        hidden.append(output.last_hidden_state[0][batch.last - 1])
        first = end
    return torch.cat(hidden)


class _Cache:
    """Keys and values of every layer: [rows, key heads, length, head width], allocated at first use.

    The length grows by whole steps of a grid, so that a layer's tensors are used whole: a product with a slice of them would
    copy the slice at each step.
    """

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, -(-length // _LENGTH_GRID) * _LENGTH_GRID
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            shape = (self.rows, like.shape[1], self.length, like.shape[2])
            self.keys[layer] = like.new_zeros(shape)
            self.values[layer] = like.new_zeros(shape)
        return self.keys[layer], self.values[layer]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions."""
        if length <= self.length:
            return
        extra = -(-length // _LENGTH_GRID) * _LENGTH_GRID - self.length
        for tensors in (self.keys, self.values):
            for layer in tensors:
                tensors[layer] = F.pad(tensors[layer], (0, 0, 0, extra))
        self.length += extra

    def keep(self, rows: Tensor) -> None:
        for layer in self.keys:
            self.keys[layer] = self.keys[layer].index_select(0, rows)
            self.values[layer] = self.values[layer].index_select(0, rows)
        self.rows = len(rows)


@dataclass(frozen=True, slots=True)
class _PrefillLayout:
    """A packed row's attention that also writes its keys and values to the cache."""

    batch: PackedBatch
    cache: _Cache
    rows: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys, values = self.cache.layer(layer, key)
        real = len(self.rows)  # the row's end is filler
        keys[self.rows, :, self.batch.positions[:real]] = key[:real]
        values[self.rows, :, self.batch.positions[:real]] = value[:real]
        inner: Layout = self.batch.layout
        return inner.attend(layer, query, key, value, scaling)


@dataclass(frozen=True, slots=True)
class _DecodeLayout:
    """One new token for each cache row: it attends to the row's cache up to its own position [rows]."""

    cache: _Cache
    positions: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys, values = self.cache.layer(layer, key)
        rows = torch.arange(len(self.positions), device=query.device)
        keys[rows, :, self.positions] = key
        values[rows, :, self.positions] = value
        repeats = query.shape[1] // key.shape[1]
        grouped = query.view(query.shape[0], key.shape[1], repeats, query.shape[2]) * scaling
        scores = torch.matmul(grouped, keys.transpose(-1, -2))
        hidden = torch.arange(keys.shape[2], device=query.device) > self.positions[:, None]
        scores = scores.masked_fill(hidden[:, None, None, :], torch.finfo(scores.dtype).min)
        return torch.matmul(scores.softmax(-1), values).view_as(query)


def _draw(logits: Tensor, temperature: float, seeds: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """[rows, vocabulary] -> tokens [rows] and their log-probs [rows], by inverting the cumulative distribution."""
    logits = logits.float()
    if temperature == 0:
        drawn = logits.argmax(-1)
        logprobs = logits.log_softmax(-1)
    else:
        logprobs = (logits / temperature if temperature != 1 else logits).log_softmax(-1)
        cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
        threshold = uniform(seeds, step) * cumulative[:, -1]
        drawn = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return drawn, logprobs.gather(-1, drawn[:, None])[:, 0]


def uniform(seeds: Tensor, step: int) -> Tensor:
    """Numbers in [0, 1) that depend on (seed, step) alone: the SplitMix64 generator's output at that step, float64.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    # int64 arithmetic wraps as the generator's uint64 does; only its logical right shift has to be spelled out.
    state = seeds + (((step + 1) * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63)
    state = (state ^ _shift(state, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ _shift(state, 27)) * (0x94D049BB133111EB - 2**64)
    state = state ^ _shift(state, 31)
    return _shift(state, 11).to(torch.float64) * 2.0**-53


def _shift(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def request_seeds(seed: int, *, stream: str, count: int) -> list[int]:
    """``count`` seeds for one purpose (``stream``), independent of other streams and of their counts."""
    entropy = [seed, *stream.encode()]
    return np.random.SeedSequence(entropy).generate_state(count, dtype=np.uint64).astype(np.int64).tolist()
