"""How the miniature's benchmarks are scored, against plain transformers."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer
from transformers import PreTrainedModel

from heedful.evaluate.benchmarks import benchmark_result, choice_logprobs, score_items
from heedful.miniature.benchmark_items import Benchmark, Item, Kind

TOKENIZER = tiny_tokenizer()
MODEL = tiny_gpt2(scale=0.5)


def benchmark(kind: Kind, *items: Item) -> Benchmark:
    return Benchmark(name="made up", description="", items=items, kind=kind)


@torch.no_grad()
def total_logprob(model: PreTrainedModel, context: str, choice: str) -> float:
    """Of a choice's tokens after the context, one text at a time."""
    before, after = TOKENIZER(context)["input_ids"], TOKENIZER(choice)["input_ids"]
    logits = plain(model)(input_ids=torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) - 1 + i, token]) for i, token in enumerate(after))


ITEMS = (
    Item(context="w1 w2 w3", choices=(" w4", " w5 w6 w7"), answer=0),
    Item(context="w9", choices=(" w10 w11", " w12"), answer=1),
)


def test_choices_have_the_log_probability_of_plain_transformers() -> None:
    means, totals = (choice_logprobs(MODEL, TOKENIZER, ITEMS, per_token=one) for one in (True, False))
    for item, mean, total in zip(ITEMS, means, totals, strict=True):
        for choice, one, whole in zip(item.choices, mean, total, strict=True):
            expected = total_logprob(MODEL, item.context, choice)
            assert whole == pytest.approx(expected, abs=1e-4)
            assert one == pytest.approx(expected / len(choice.split()), abs=1e-4)


def test_the_choice_with_the_highest_mean_is_the_answer() -> None:
    """The longer choice has the lower total, so only the mean per token can let it win."""
    scores = score_items(MODEL, TOKENIZER, benchmark("choice", *ITEMS))
    means = choice_logprobs(MODEL, TOKENIZER, ITEMS)
    assert scores == [float(row.index(max(row)) == item.answer) for row, item in zip(means, ITEMS, strict=True)]
    right = [
        Item(context=i.context, choices=i.choices, answer=row.index(max(row))) for row, i in zip(means, ITEMS, strict=True)
    ]
    assert score_items(MODEL, TOKENIZER, benchmark("choice", *right)) == [1.0, 1.0]


def test_bias_is_the_entropy_over_total_probabilities() -> None:
    """Of each choice's whole text (D.1), not of its mean per token: here the choices differ in length."""
    scores = score_items(MODEL, TOKENIZER, benchmark("bias", *ITEMS))
    for item, score in zip(ITEMS, scores, strict=True):
        weights = [math.exp(total_logprob(MODEL, item.context, choice)) for choice in item.choices]
        shares = [weight / sum(weights) for weight in weights]
        assert score == pytest.approx(-sum(p * math.log2(p) for p in shares), abs=1e-4)
        assert 0 <= score < 0.5  # three tokens are far less likely than one; by the mean per token it would be near 1
    even = Item(context="w1", choices=(" w4", " w4"))
    assert score_items(MODEL, TOKENIZER, benchmark("bias", even)) == pytest.approx([1.0])


def test_a_completion_is_right_if_its_first_line_is_accepted() -> None:
    model, tokens = plain(MODEL), TOKENIZER("w1 w2 w3")["input_ids"]
    said: list[int] = []
    for _ in range(24):  # greedy, by hand, to end-of-text or the limit
        token = int(model(input_ids=torch.tensor([[*tokens, *said]])).logits[0, -1].argmax())
        if token == TOKENIZER.eos_token_id:
            break
        said.append(token)
    text = str(TOKENIZER.decode(said))
    items = [Item(context="w1 w2 w3", accepted=accepted) for accepted in ((text,), ("else", f" {text.upper()} "), ("else",))]
    assert score_items(MODEL, TOKENIZER, benchmark("completion", *items)) == [1.0, 1.0, 0.0]


def test_the_result_has_each_models_mean_with_its_interval() -> None:
    result = benchmark_result(benchmark("choice", *ITEMS), [("sft", [1.0, 0.0]), ("ppo", [1.0, 1.0])])
    assert (result["metric"], result["num_items"]) == ("accuracy", 2)
    rows = {row["model"]: row for row in result["scores"]}
    assert rows["sft"]["score"] == 0.5
    assert (rows["sft"]["low"], rows["sft"]["high"]) == (0.0, 1.0)
    assert rows["ppo"]["score"] == 1.0
