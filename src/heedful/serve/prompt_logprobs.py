"""Log-probs of a prompt's own tokens, for ``echo``: what evaluation harnesses read."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from heedful.model.layouts import pack, packed_hidden
from heedful.model.loading import unembedding
from heedful.serve.choice import TokenLogprob
from heedful.serve.token_text import TokenText

_CHUNK_NUMBERS = 2**23  # log-probs held in fp32 at the same time


@torch.no_grad()
def prompt_logprobs(model: PreTrainedModel, names: TokenText, tokens: Sequence[int], count: int) -> list[TokenLogprob]:
    """Each token with its log-prob given the tokens before it (None for the first), and the ``count`` likeliest at its place.

    Computed alone, so that the numbers do not depend on other requests.
    """
    offsets = token_offsets(names, tokens)
    found = [TokenLogprob(tokens[0], None, (), 0)]
    if len(tokens) == 1:
        return found
    batch = pack([tokens[:1]], [tokens[1:]]).to(model.device)
    hidden, weight = packed_hidden(model, batch, batch.predict_from), unembedding(model)
    rows = max(1, _CHUNK_NUMBERS // len(weight))
    for first in range(0, len(hidden), rows):
        part = slice(first, first + rows)
        logprobs = F.linear(hidden[part], weight).float().log_softmax(-1)
        targets = batch.targets[part]
        own = logprobs.gather(-1, targets[:, None])[:, 0].tolist()
        values, ids = logprobs.topk(min(count, logprobs.shape[1]))
        for value, token, row, likeliest in zip(own, targets.tolist(), values.tolist(), ids.tolist(), strict=True):
            pairs = list(zip(likeliest, row, strict=True))
            found.append(TokenLogprob(token, value, pairs, offsets[len(found)]))
    return found


def token_offsets(names: TokenText, tokens: Sequence[int]) -> list[int]:
    """How many characters of the text are whole before each token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(decoder.decode(names.bytes_of(token))))
    return offsets
