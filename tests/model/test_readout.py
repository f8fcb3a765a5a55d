"""What is read from packed sequences is what plain transformers says of each sequence alone."""

from __future__ import annotations

from typing import Any, cast

import torch
from tests.tiny import END, tiny_gpt2, tiny_llama
from torch import Tensor
from transformers import PreTrainedModel

from heedful.model.layouts import pack
from heedful.model.readout import scalars, score, target_logprobs, target_logprobs_and_entropy
from heedful.model.scalar_models import scalar_model_from_causal, shift_scalar_model

PROMPTS = [[1, 2, 3], [4], [5, 6]]
RESPONSES = [[7, 8], [9, 10, 11, END], [12]]


def plain_logits(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """Logits that predict each response token."""
    ids = torch.tensor([[*prompt, *response]])
    return cast(Any, model)(input_ids=ids).logits[0, len(prompt) - 1 : -1]


@torch.no_grad()
def test_logprobs_and_entropy_are_those_of_plain_transformers() -> None:
    model, plain = tiny_gpt2(), tiny_gpt2(heedful=False)
    batch = pack(PROMPTS, RESPONSES)
    for temperature in (1.0, 0.7):
        rows = [plain_logits(plain, p, r).div(temperature).log_softmax(-1) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
        want = torch.cat([row.gather(-1, torch.tensor(r)[:, None])[:, 0] for row, r in zip(rows, RESPONSES, strict=True)])
        entropy = -torch.cat([(row.exp() * row).sum(-1) for row in rows])
        torch.testing.assert_close(target_logprobs(model, batch, temperature=temperature), want, rtol=0, atol=1e-5)
        got = target_logprobs_and_entropy(model, batch, temperature=temperature)
        torch.testing.assert_close(got, (want, entropy), rtol=0, atol=1e-5)


@torch.no_grad()
def test_scalars_are_the_heads_outputs_with_the_constant_that_was_added() -> None:
    """Llama's final norm has no bias: the constant is kept beside the weights and plain transformers does not know it."""
    torch.manual_seed(0)
    model = scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=END)
    plain = scalar_model_from_causal(tiny_llama(heedful=False), pad_token_id=None, eos_token_id=END)
    plain.load_state_dict(model.state_dict())
    plain.set_attn_implementation("eager")
    shift_scalar_model(model, 2.5)
    batch = pack(PROMPTS, RESPONSES)
    rewards, values = scalars(model, batch, batch.last), scalars(model, batch, batch.predict_from)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = [*prompt, *response]
        want = [float(cast(Any, plain)(input_ids=torch.tensor([ids[: n + 1]])).logits[0, 0]) + 2.5 for n in range(len(ids))]
        torch.testing.assert_close(rewards[i], torch.tensor(want[-1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(values[batch.row == i], torch.tensor(want[len(prompt) - 1 : -1]), rtol=0, atol=1e-5)


def test_scores_come_in_the_order_of_the_sequences_whatever_the_microbatches() -> None:
    torch.manual_seed(0)
    model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    batch = pack(PROMPTS, RESPONSES)
    want = scalars(model, batch, batch.last).detach()
    for tokens in (1, 5, 16_384):
        got = score(model, PROMPTS, RESPONSES, tokens_per_microbatch=tokens)
        assert not got.requires_grad
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
