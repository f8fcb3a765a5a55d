"""The work for every contender: model sizes, random data with a fixed seed, and the useful FLOP of that work.

Models and tokenizer are saved as Hugging Face folders and the data as JSON, so that each side loads the same weights and tokens
with its own tools in its own process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.model import save_model, scalar_model_from_causal
from heedful.model.scratch import new_gpt2

VOCABULARY, CONTEXT = 8_192, 320
END, PADDING = 0, 1
PROMPT_TOKENS, RESPONSE_TOKENS = (16, 128), (8, 64)
MEAN_STOP = 36
"""Responses that may stop end about once in this many tokens: the mean of 8 to 64."""


@dataclass(frozen=True, slots=True)
class Size:
    """A GPT-2 style model: layers, width, heads. The other fields are for models of another style (:func:`size_of`).

    block: weights of a layer. keys_and_values: those of them that make keys and values. attended: width of all heads together.
    """

    layers: int
    width: int
    heads: int
    block: int = 0
    keys_and_values: int = 0
    attended: int = 0
    vocabulary: int = VOCABULARY

    def __post_init__(self) -> None:
        for name, value in (("block", 12 * self.width**2), ("keys_and_values", 2 * self.width**2), ("attended", self.width)):
            if not getattr(self, name):
                object.__setattr__(self, name, value)


def size_of(config: dict[str, Any]) -> Size:
    """The size of a decoder with gated feed-forward blocks, of its config.json."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    key_heads = config.get("num_key_value_heads") or heads
    keys_and_values = 2 * width * head_width * key_heads
    block = 2 * width * head_width * heads + keys_and_values + 3 * width * config["intermediate_size"]
    layers, vocabulary = config["num_hidden_layers"], config["vocab_size"]
    return Size(layers, width, heads, block, keys_and_values, heads * head_width, vocabulary)


SIZES = {"XS": Size(2, 128, 4), "S": Size(4, 256, 4), "M": Size(8, 512, 8), "1.3B": Size(24, 2048, 16)}


def save_models(size: Size, folder: Path) -> None:
    """``folder/policy`` (causal) and ``folder/reward`` (one label), random weights.

    The final norm's gain makes logits of about unit deviation, so that losses of the same batch agree only if positions,
    masks and weights do. Its bias points along end-of-text's embedding: about one token in MEAN_STOP ends a response.
    """
    tokenizer = _tokenizer()
    model = new_gpt2(tokenizer, layers=size.layers, width=size.width, heads=size.heads, context_length=CONTEXT, seed=1)
    with torch.no_grad():
        embedding = model.get_parameter("transformer.wte.weight")
        model.get_parameter("transformer.ln_f.weight").fill_(1 / (float(embedding.std()) * size.width**0.5))
        end = embedding[END]
        shift = float(np.log(VOCABULARY / MEAN_STOP))  # the other logits' variance adds to both sides of the softmax
        model.get_parameter("transformer.ln_f.bias").add_(end * (shift / end.square().sum()))
    save_model(model, tokenizer, folder / "policy")
    with torch.no_grad():  # scores of about unit deviation
        model.get_parameter("transformer.ln_f.weight").fill_(1.0)
    torch.manual_seed(2)
    save_model(scalar_model_from_causal(model, pad_token_id=PADDING, eos_token_id=END), tokenizer, folder / "reward")


def examples(count: int, *, seed: int = 3, response_tokens: tuple[int, int] = RESPONSE_TOKENS) -> list[dict[str, list[int]]]:
    """Demonstrations: a prompt and a response that ends with end-of-text, lengths uniform in their ranges."""
    rng = np.random.default_rng(seed)
    return [
        {"prompt": _tokens(rng, PROMPT_TOKENS), "response": [*_tokens(rng, response_tokens)[:-1], END]} for _ in range(count)
    ]


def rankings(count: int, k: int, *, seed: int = 4) -> list[dict[str, Any]]:
    """Prompts with K responses each, ranked without ties."""
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt": _tokens(rng, PROMPT_TOKENS),
            "responses": [[*_tokens(rng, RESPONSE_TOKENS)[:-1], END] for _ in range(k)],
            "ranks": (1 + rng.permutation(k)).tolist(),
        }
        for _ in range(count)
    ]


def prompts(count: int, *, seed: int = 5) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [_tokens(rng, PROMPT_TOKENS) for _ in range(count)]


def pairs(ranked: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """All comparisons of some rankings, as pairs for a pairwise reward trainer."""
    rows: list[dict[str, list[int]]] = []
    for ranking in ranked:
        for i, j in combinations(range(len(ranking["ranks"])), 2):
            better, worse = (i, j) if ranking["ranks"][i] < ranking["ranks"][j] else (j, i)
            rows.append(
                {
                    "chosen_ids": ranking["prompt"] + ranking["responses"][better],
                    "rejected_ids": ranking["prompt"] + ranking["responses"][worse],
                }
            )
    return rows


def write(folder: Path, **data: Any) -> None:
    for name, rows in data.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")


def forward_flop(size: Size, *, tokens: int, attended: int, read: int, attended_by_read: int, unembedded: int = 0) -> float:
    """Multiplications and additions of one forward pass that the result needs: no padding, nothing computed twice.

    tokens: through the blocks. attended: pairs of query and key. read: tokens of which the last layer must compute more than
    keys and values. attended_by_read: pairs whose query is such a token. unembedded: positions whose logits are needed.
    """
    others, keys_and_values, whole = size.layers - 1, 2 * size.keys_and_values, 2 * size.block
    blocks = others * whole * tokens + keys_and_values * tokens + (whole - keys_and_values) * read
    attention = 4 * size.attended * (others * attended + attended_by_read)
    return blocks + attention + 2 * size.width * size.vocabulary * unembedded


def sft_flop(size: Size, rows: list[dict[str, list[int]]]) -> float:
    """One training step's useful FLOP (three times the forward pass): only response tokens need logits."""
    lengths = [(len(r["prompt"]), len(r["response"])) for r in rows]
    return 3 * _of_responses(size, lengths)


def reward_flop(size: Size, ranked: list[dict[str, Any]]) -> float:
    """One training step's useful FLOP: each prompt once, each response once, a score at the end of each response."""
    tokens = attended = read = attended_by_read = 0
    for ranking in ranked:
        p = len(ranking["prompt"])
        tokens += p + sum(map(len, ranking["responses"]))
        attended += p * (p + 1) // 2 + sum(len(r) * p + len(r) * (len(r) + 1) // 2 for r in ranking["responses"])
        read += len(ranking["responses"])
        attended_by_read += sum(p + len(r) for r in ranking["responses"])
    return 3 * forward_flop(size, tokens=tokens, attended=attended, read=read, attended_by_read=attended_by_read)


def generation_flop(size: Size, lengths: list[tuple[int, int]]) -> float:
    """Useful FLOP for (prompt, new tokens) lengths: every token through the blocks once, logits for the new ones."""
    return _of_responses(size, lengths)


def _of_responses(size: Size, lengths: list[tuple[int, int]]) -> float:
    """A forward pass over prompts and responses (pairs of lengths), each response token predicted from the one before it."""
    return forward_flop(
        size,
        tokens=sum(p + n for p, n in lengths),
        attended=sum((p + n) * (p + n + 1) // 2 for p, n in lengths),
        read=sum(n for _, n in lengths),
        attended_by_read=sum(n * p + n * (n - 1) // 2 for p, n in lengths),
        unembedded=sum(n for _, n in lengths),
    )


def _tokens(rng: np.random.Generator, bounds: tuple[int, int]) -> list[int]:
    return rng.integers(2, VOCABULARY, rng.integers(bounds[0], bounds[1] + 1)).tolist()


def _tokenizer() -> PreTrainedTokenizerBase:
    words = {"<|endoftext|>": END, "<|padding|>": PADDING} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|padding|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
