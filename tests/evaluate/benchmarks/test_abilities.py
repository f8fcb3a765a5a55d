"""Scoring of the miniature's built-in benchmarks, with models whose log-probabilities are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer

from heedful.evaluate.benchmarks.abilities import METRICS, benchmark_result, choice_logprobs, score_items

TOKENIZER = tiny_tokenizer()


@dataclass(frozen=True)
class One:
    context: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Some:
    items: tuple[One, ...]
    kind: Any
    name: str = "some"
    description: str = "items of one kind"


CHOICES = (One("w1 w2", (" w3", " w4 w5 w6"), 0), One("w7", (" w8 w9", " w10"), 1), One("w2 w3 w4", (" w5", " w6", " w7"), 2))


def means(item: One) -> list[float]:
    """By the plain model, one choice at a time."""
    found: list[float] = []
    for choice in item.choices:
        head, tail = TOKENIZER(item.context)["input_ids"], TOKENIZER(choice)["input_ids"]
        logits = plain(tiny_gpt2())(torch.tensor([[*head, *tail]])).logits[0, len(head) - 1 : -1].detach()
        found.append(float(torch.log_softmax(logits, -1).gather(1, torch.tensor(tail)[:, None]).mean()))
    return found


def test_choices_have_their_mean_log_probability_per_token() -> None:
    found = choice_logprobs(tiny_gpt2(), TOKENIZER, CHOICES)
    for row, item in zip(found, CHOICES, strict=True):
        assert row == pytest.approx(means(item), abs=1e-5)


def test_the_likeliest_choice_per_token_counts() -> None:
    best = [row.index(max(row)) for row in map(means, CHOICES)]
    right = Some(tuple(replace(item, answer=place) for item, place in zip(CHOICES, best, strict=True)), "choice")
    assert score_items(tiny_gpt2(), TOKENIZER, right) == [1, 1, 1]
    wrong = Some(tuple(replace(item, answer=1 - min(1, place)) for item, place in zip(CHOICES, best, strict=True)), "choice")
    assert score_items(tiny_gpt2(), TOKENIZER, wrong) == [0, 0, 0]


def test_bias_is_the_entropy_of_the_choices() -> None:
    items = Some((One("w1", (" w2", " w2")), *CHOICES[:2]), "bias")
    same, *others = score_items(tiny_gpt2(), TOKENIZER, items)
    assert same == pytest.approx(1)
    assert all(0 <= score < 1 for score in others)


def test_bias_counts_the_total_probability_of_each_choice() -> None:
    """D.1: the whole text's, not the mean per token. The second choice has three tokens, so it is far less likely."""
    item = CHOICES[0]
    totals = [mean * len(choice.split()) for mean, choice in zip(means(item), item.choices, strict=True)]
    weights = [math.exp(total) for total in totals]
    shares = [weight / sum(weights) for weight in weights]
    expected = -sum(share * math.log2(share) for share in shares)
    assert score_items(tiny_gpt2(), TOKENIZER, Some((item,), "bias")) == pytest.approx([expected], abs=1e-4)
    even = [math.exp(mean) for mean in means(item)]
    per_token = -sum(one / sum(even) * math.log2(one / sum(even)) for one in even)
    assert abs(per_token - expected) > 0.1


def test_completions_are_compared_after_normalisation() -> None:
    from heedful.evaluate.benchmarks import abilities

    assert abilities._normalised(" CAFE\u0301 ") == abilities._normalised("café")
    model = tiny_gpt2()
    items = Some((One("w1 w2 w3", accepted=("nothing like it",)),), "completion")
    assert score_items(model, TOKENIZER, items) == [0]


def test_results_have_an_interval_for_each_model() -> None:
    benchmark = Some(CHOICES, "choice")
    result = benchmark_result(benchmark, [("base", [1, 0, 1]), ("sft", [1, 1, 1])])
    assert (result["name"], result["metric"], result["num_items"]) == ("some", METRICS["choice"], 3)
    base, sft = result["scores"]
    assert base["score"] == pytest.approx(2 / 3)
    assert base["low"] <= base["score"] <= base["high"]
    assert (sft["low"], sft["high"]) == (1, 1)
