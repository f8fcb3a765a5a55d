"""Scores automatic benchmarks (SPEC 4.2, 4.3): choices by mean log-probability per token, completions by greedy decoding."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.evaluate.results import Benchmark as BenchmarkResult
from heedful.evaluate.results import BenchmarkScore
from heedful.model.end_tokens import end_tokens, spoken_tokens
from heedful.model.engine.sampling import Sampling
from heedful.model.engine.scheduler import generate
from heedful.model.layouts import pack_shared
from heedful.model.readout import target_logprobs
from heedful.model.template import decode_after, encode, encode_after
from heedful.statistics import bootstrap_mean


class Item(Protocol):
    """One question; the context ends without a space and each choice begins with one."""

    @property
    def context(self) -> str: ...
    @property
    def choices(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> int | None: ...
    @property
    def accepted(self) -> tuple[str, ...]: ...


class Benchmark(Protocol):
    """Items of one ability, scored as its kind says."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def items(self) -> tuple[Item, ...]: ...
    @property
    def kind(self) -> Literal["choice", "completion", "bias"]: ...


METRICS = {"choice": "accuracy", "completion": "exact match", "bias": "entropy (bits)"}
_MAX_COMPLETION_TOKENS = 24
_ITEMS_PER_BATCH = 64


def score_items(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark) -> list[float]:
    """Score each item: 1 or 0 if there is a right answer, the entropy in bits for paired bias."""
    if benchmark.kind == "completion":
        return _complete(model, tokenizer, benchmark.items)
    bias = benchmark.kind == "bias"
    scores = choice_logprobs(model, tokenizer, benchmark.items, per_token=not bias)
    if bias:
        return [_entropy(row) for row in scores]
    return [float(row.index(max(row)) == item.answer) for row, item in zip(scores, benchmark.items, strict=True)]


def benchmark_result(benchmark: Benchmark, scores: Sequence[tuple[str, Sequence[float]]], *, seed: int = 0) -> BenchmarkResult:
    """Make the results section of a benchmark from each model's item scores, with bootstrap intervals over items."""
    rows: list[BenchmarkScore] = []
    for model, values in scores:
        estimate = bootstrap_mean(list(values), seed=seed)
        rows.append({"model": model, "score": estimate.value, "low": estimate.low, "high": estimate.high})
    return {
        "name": benchmark.name,
        "description": benchmark.description,
        "metric": METRICS[benchmark.kind],
        "num_items": len(benchmark.items),
        "scores": rows,
    }


@torch.no_grad()
def choice_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, per_token: bool = True
) -> list[list[float]]:
    """Return each choice's log-probability after its context: mean per token, or total. The context is computed once.

    The paper says that the choice with the *lowest* average wins; it means the highest (SPEC 8).
    """
    found: list[list[float]] = []
    for first in range(0, len(items), _ITEMS_PER_BATCH):
        part = items[first : first + _ITEMS_PER_BATCH]
        contexts = encode(tokenizer, [item.context for item in part])
        choices = [encode_after(tokenizer, [item.context] * len(item.choices), item.choices) for item in part]
        batch = pack_shared(contexts, choices).to(model.device)
        logprobs = target_logprobs(model, batch)
        sums = torch.zeros(batch.num_sequences, device=logprobs.device).index_add_(0, batch.row, logprobs.float())
        values = (sums / batch.lengths if per_token else sums).tolist()
        place = 0
        for item in part:
            found.append(values[place : place + len(item.choices)])
            place += len(item.choices)
    return found


def _complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> list[float]:
    ends = end_tokens(model, tokenizer)
    sampling = Sampling(max_tokens=_MAX_COMPLETION_TOKENS, temperature=0.0, stop_tokens=ends)
    contexts = encode(tokenizer, [item.context for item in items])
    generations = generate(model, contexts, sampling, [0] * len(items))
    scores: list[float] = []
    texts = decode_after(tokenizer, contexts, [spoken_tokens(generation.tokens, ends) for generation in generations])
    for item, text in zip(items, texts, strict=True):
        accepted = {_normalised(answer) for answer in item.accepted}
        scores.append(float(_normalised(text.split("\n")[0]) in accepted))
    return scores


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


def _entropy(logprobs: Sequence[float]) -> float:
    """Return H = -sum P log2 P over the choices, with P proportional to each one's total probability (SPEC 4.3, D.1)."""
    largest = max(logprobs)
    weights = [math.exp(value - largest) for value in logprobs]
    total = sum(weights)
    return -sum(w / total * math.log2(w / total) for w in weights if w > 0)
