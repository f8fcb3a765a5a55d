"""Draw tokens: temperature, top-k, top-p, logit bias, penalties, and random numbers for each request.

A token is drawn by inverting the cumulative distribution at one uniform random number. That number depends only on the
request's seed and on the token's position in the response. Rows never mix, so the rest of the batch does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from heedful.functional.fast import kernels

_LOG2_E = math.log2(math.e)
_NUCLEUS = 256  # top-p tries this many likeliest tokens first, and sorts the whole vocabulary only if these are too few
_NUMBERS_AHEAD = 32  # uniform numbers are made for this many steps at once
_CHUNK_NUMBERS = 2**20  # logits held in fp32 at the same time
SEED_MASK = 2**63 - 1  # the bits used of a request's seed

Likeliest = list[tuple[int, float]]
"""The likeliest tokens at one place with their log-probs under the model's own distribution, likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a response is sampled and where it ends.

    max_tokens: at most this many new tokens. temperature: logits are divided by it; 0 takes the likeliest token. The paper
    samples rollouts at 1 (SPEC 3.5). logit_bias: added to the logits of these token ids, before the temperature. top_k: keep
    only the k likeliest tokens. top_p: then keep a token only if the tokens likelier than it have a probability below top_p
    together. Both also keep tokens as likely as the last one kept. presence_penalty: subtracted from the logits of tokens
    that the response already contains. frequency_penalty: subtracted once for each time it contains them. top_logprobs: return
    this many likeliest tokens with each token drawn, and their log-probs. stop_tokens: the response ends with the first of
    these that is drawn (:mod:`heedful.model.end_tokens`). stop: the response ends with the token that completes one of these
    strings. Raises ValueError if a value is out of range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    stop_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be over 0 and at most 1, got {self.top_p}")
        if not (math.isfinite(self.presence_penalty) and math.isfinite(self.frequency_penalty)):
            raise ValueError("penalties must be finite numbers")
        if self.top_logprobs < 0:
            raise ValueError(f"top_logprobs must be 0 or more, got {self.top_logprobs}")
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")

    @property
    def is_plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution, unchanged."""
        return self._drawn_by == _PLAIN

    @property
    def penalised(self) -> bool:
        """Whether the tokens drawn so far change how the next one is drawn."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def _drawn_by(self) -> tuple[object, ...]:
        """All settings that decide how a token is drawn."""
        penalties = (self.presence_penalty, self.frequency_penalty)
        return self.temperature, self.top_k, self.top_p, *penalties, tuple(sorted(self.logit_bias.items()))


_PLAIN = (1, None, 1, 0, 0, ())


class Drawing:
    """Draws one token for each row. Make a new one when the rows' requests change.

    samplings: one per row. seeds, steps: [rows] int64, the request's seed and the number of tokens drawn so far. histories: the
    tokens that each row has drawn; the caller adds each new one before the next draw (only penalties read them). likeliest: one
    list per row; each draw appends the likeliest tokens and their log-probs if the row's sampling asks for them.
    """

    def __init__(
        self,
        samplings: Sequence[Sampling],
        seeds: Tensor,
        steps: Tensor,
        histories: Sequence[Sequence[int]] = (),
        likeliest: Sequence[list[Likeliest]] = (),
    ) -> None:
        self._seeds, self._steps = seeds, steps
        self._numbers: list[Tensor] = []
        # Rows grouped by how they are drawn. None: from the model's own distribution, unchanged.
        ways = {id(sampling): sampling._drawn_by for sampling in {id(sampling): sampling for sampling in samplings}.values()}
        kinds: dict[tuple[object, ...], list[int]] = {}
        for row, sampling in enumerate(samplings):
            kinds.setdefault(ways[id(sampling)], []).append(row)
        self._kinds: list[tuple[Sampling | None, Tensor, list[Sequence[int]]]] = []
        for rows in kinds.values():
            sampling = samplings[rows[0]]
            read = [histories[row] for row in rows] if sampling.penalised else []
            self._kinds.append((None if sampling.is_plain else sampling, torch.tensor(rows, device=seeds.device), read))
        asking = [row for row, sampling in enumerate(samplings) if sampling.top_logprobs]
        self._asking = torch.tensor(asking, device=seeds.device)
        self._answers = [(samplings[row].top_logprobs, likeliest[row]) for row in asking]

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, vocabulary] -> each row's next token [rows] and its log-prob [rows] under the model's own distribution.

        The log-probs are those of softmax(logits): before bias, temperature, top-k and top-p.
        """
        if not self._numbers:
            ahead = torch.arange(_NUMBERS_AHEAD, device=self._seeds.device)[:, None]
            self._numbers = list(uniform(self._seeds, self._steps + ahead).flip(0))
            self._steps = self._steps + _NUMBERS_AHEAD
        numbers = self._numbers.pop()
        if self._answers:
            self._answer(logits[self._asking])
        if len(self._kinds) == 1:
            sampling, _, histories = self._kinds[0]
            return _draw(logits, numbers, sampling, histories)
        tokens, logprobs = torch.empty_like(self._seeds), torch.empty(len(logits), device=logits.device)
        for sampling, rows, histories in self._kinds:
            tokens[rows], logprobs[rows] = _draw(logits[rows], numbers[rows], sampling, histories)
        return tokens, logprobs

    def _answer(self, logits: Tensor) -> None:
        """Append the likeliest tokens to the lists of the rows that ask for them. logits: of those rows."""
        most = min(max(count for count, _ in self._answers), logits.shape[1])
        values, tokens = torch.log_softmax(logits.float(), -1).topk(most)
        for (count, answer), row, ids in zip(self._answers, values.tolist(), tokens.tolist(), strict=True):
            answer.append(list(zip(ids, row, strict=True))[:count])


def _draw(
    logits: Tensor, numbers: Tensor, sampling: Sampling | None, histories: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Tokens and log-probs of rows that are all drawn in the same way; None: from the model's own distribution."""
    if sampling is None and kernels.usable(logits):
        return kernels.draw(logits, numbers)
    rows, vocabulary = logits.shape
    chunk = max(16, _CHUNK_NUMBERS // vocabulary)
    if rows <= chunk:
        return _draw_chunk(logits, numbers, sampling, histories)
    places = [slice(i, i + chunk) for i in range(0, rows, chunk)]
    parts = [_draw_chunk(logits[place], numbers[place], sampling, histories[place]) for place in places]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _draw_chunk(
    logits: Tensor, numbers: Tensor, sampling: Sampling | None, histories: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    scores = _padded(logits)
    highest = scores.amax(-1, keepdim=True)
    # On a CPU exp2 is four to six times faster than exp or softmax (docs/log.md).
    weights = torch.sub(scores, highest).mul_(_LOG2_E).exp2_()
    sums = _blocks(weights).sum(-1)
    cumulative = sums.cumsum(-1, dtype=torch.float64)
    log_total = cumulative[:, -1].log()
    if sampling is None:
        drawn = _invert(weights, sums, cumulative, numbers)
    else:
        changed = scores.clone()
        if sampling.logit_bias:
            biased = torch.tensor(list(sampling.logit_bias), device=logits.device)
            changed[:, biased] += torch.tensor(list(sampling.logit_bias.values()), device=logits.device)
        for row, history in enumerate(histories):
            seen, times = torch.tensor(history, dtype=torch.int64, device=logits.device).unique(return_counts=True)
            changed[row, seen] -= sampling.presence_penalty + sampling.frequency_penalty * times
        if sampling.temperature == 0:
            drawn = _argmax(changed)
        else:
            filtered = _filtered(changed, sampling)
            sums = _blocks(filtered).sum(-1)
            drawn = _invert(filtered, sums, sums.cumsum(-1, dtype=torch.float64), numbers)
    taken = scores.gather(-1, drawn[:, None]).sub_(highest)[:, 0]
    return drawn, (taken - log_total).float()


def _block(vocabulary: int) -> int:
    """Length of the blocks that the vocabulary is split into: about its square root."""
    return 2 ** (vocabulary.bit_length() // 2)


def _padded(logits: Tensor) -> Tensor:
    """fp32 [rows, vocabulary rounded up to whole blocks]; the filler is never drawn."""
    rows, vocabulary = logits.shape
    block = _block(vocabulary)
    if vocabulary % block == 0:
        return logits.float()
    padded = torch.full((rows, -(-vocabulary // block) * block), -math.inf, device=logits.device)
    padded[:, :vocabulary] = logits
    return padded


def _blocks(rows: Tensor) -> Tensor:
    return rows.view(len(rows), -1, _block(rows.shape[1]))


def _argmax(scores: Tensor) -> Tensor:
    """Index of the first maximum. On a CPU, torch's own argmax over a long row takes twenty times as long."""
    blocks = _blocks(scores)
    best = blocks.amax(-1).argmax(-1)
    rows = torch.arange(len(scores), device=scores.device)
    return best * blocks.shape[2] + blocks[rows, best].argmax(-1)


def _filtered(scores: Tensor, sampling: Sampling) -> Tensor:
    """Unnormalised probabilities after temperature, top-k and top-p; 0 for excluded tokens."""
    weights = torch.sub(scores, scores.amax(-1, keepdim=True)).mul_(_LOG2_E / sampling.temperature).exp2_()
    if sampling.top_k is not None and sampling.top_k < weights.shape[1]:
        least = weights.topk(sampling.top_k).values[:, -1:]
        weights.masked_fill_(weights < least, 0.0)
    if sampling.top_p < 1:
        total = weights.sum(-1, keepdim=True, dtype=torch.float64)
        likeliest = weights.topk(min(_NUCLEUS, weights.shape[1])).values
        if bool((likeliest.sum(-1, keepdim=True, dtype=torch.float64) < sampling.top_p * total).any()):
            likeliest = weights.sort(-1, descending=True).values
        before = likeliest.double().cumsum(-1) - likeliest
        kept = (before < sampling.top_p * total).sum(-1, keepdim=True)
        weights.masked_fill_(weights < likeliest.gather(-1, kept - 1), 0.0)
    return weights


def _invert(weights: Tensor, sums: Tensor, cumulative: Tensor, numbers: Tensor) -> Tensor:
    """The token at which the cumulative distribution exceeds a uniform number: first find its block, then its place in it.

    weights: [rows, vocabulary] unnormalised; sums, cumulative: [rows, blocks]; numbers: [rows] in [0, 1 - 2**-53], float64.
    Such a number times a sum is below the sum even after rounding, so the result is always a possible token.
    """
    length = _block(weights.shape[1])
    target = (numbers * cumulative[:, -1])[:, None]
    block = torch.searchsorted(cumulative, target, right=True)
    # How far into the block, as a share of it, also at most 1 - 2**-53. If rounding raised the cumulative sum by more than a
    # small block's own sum, the share would be below 0 and find the block's first token even if that one is impossible.
    share = (1 - (cumulative.gather(-1, block) - target) / sums.gather(-1, block)).clamp_(min=0)
    index = block.unsqueeze(-1).expand(-1, -1, length)
    inner = _blocks(weights).gather(1, index)[:, 0].cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inner, share * inner[:, -1:], right=True)
    return (block * length + place)[:, 0]


_GAMMA = 0x9E3779B97F4A7C15 - 2**64


def uniform(seeds: Tensor, step: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, that depend only on (seed, step): output of the SplitMix64 generator at that step.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    # int64 arithmetic wraps around like the generator's uint64; only the logical right shift must be written out.
    state = seeds + (torch.as_tensor(step, dtype=torch.int64, device=seeds.device) + 1) * _GAMMA
    state = (state ^ _shift(state, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ _shift(state, 27)) * (0x94D049BB133111EB - 2**64)
    state = state ^ _shift(state, 31)
    return _shift(state, 11).to(torch.float64) * 2.0**-53


def _shift(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def request_seeds(seed: int, *, stream: str, count: int) -> list[int]:
    """``count`` seeds for one purpose (``stream``), independent of the seeds of all other streams."""
    entropy = [seed, *stream.encode()]
    return np.random.SeedSequence(entropy).generate_state(count, dtype=np.uint64).astype(np.int64).tolist()
