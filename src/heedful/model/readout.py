"""What models say about packed sequences: log-probs of tokens, scalars at tokens, and one score per sequence.

All training, scoring and checking reads models through this module. A layout decides which tokens share a row
(:mod:`heedful.model.layouts`); the functions here turn the row's hidden states into numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from heedful.functional import chunked_token_logprobs, chunked_token_logprobs_and_entropy
from heedful.model.layouts import PackedBatch, pack, packed_hidden
from heedful.model.loading import unembedding
from heedful.model.scalar_models import scalar_head, scalar_offset
from heedful.ranks.batch_shares import own_microbatches
from heedful.ranks.collectives import gather_rows_in_order


def target_logprobs(model: PreTrainedModel, batch: PackedBatch, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target token of a batch, [targets], in nats and float32; gradients flow."""
    hidden = packed_hidden(model, batch, batch.predict_from)
    return chunked_token_logprobs(hidden, unembedding(model), batch.targets, temperature=temperature)


def target_logprobs_and_entropy(
    model: PreTrainedModel, batch: PackedBatch, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """:func:`target_logprobs`, and the entropy in nats of the distribution that each target was drawn from (no gradient)."""
    hidden = packed_hidden(model, batch, batch.predict_from)
    return chunked_token_logprobs_and_entropy(hidden, unembedding(model), batch.targets, temperature=temperature)


def scalars(model: PreTrainedModel, batch: PackedBatch, places: Tensor) -> Tensor:
    """The scalar head's output at some tokens of a batch's row, [places]; gradients flow.

    places: ``batch.predict_from`` for the value before each target token, ``batch.last`` for the reward of each sequence.
    The head computes in float32, because bfloat16 would round a reward to two or three digits.
    """
    hidden = packed_hidden(model, batch, places)
    return F.linear(hidden.float(), scalar_head(model).weight.float())[:, 0] + scalar_offset(model)


@torch.no_grad()
def score(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    tokens_per_microbatch: int = 16_384,
) -> Tensor:
    """Rewards [sequences], read at each sequence's last token. They depend neither on the order nor on the microbatches.

    Under ``torchrun`` each rank scores a part, and every rank returns all rewards.
    """
    scores: list[tuple[list[int], Tensor]] = []
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    for members, factor in own_microbatches(lengths, tokens=tokens_per_microbatch):
        batch = pack([prompts[i] for i in members], [responses[i] for i in members]).to(model.device)
        rewards = scalars(model, batch, batch.last)
        if factor:
            scores.append((members, rewards))
    return gather_rows_in_order(scores, model.device)
