"""New models: a byte-level BPE tokenizer trained on texts, and a GPT-2 model with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.errors import ConfigError
from heedful.model.attention import use_heedful_attention

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
SMALLEST_VOCABULARY = 258
"""One token for each of the 256 bytes, end-of-text and padding."""


def check_shape(*, layers: int, width: int, heads: int, vocabulary: int, context: int) -> None:
    """Raise ConfigError for sizes that no GPT-2 model or tokenizer can have. Call it before reading any text."""
    smallest = {"layers": (layers, 1), "width": (width, 1), "heads": (heads, 1)}
    smallest |= {"vocabulary": (vocabulary, SMALLEST_VOCABULARY), "context length": (context, 2)}
    for name, (size, least) in smallest.items():
        if size < least:
            raise ConfigError(f"{name} is too small", expected=f"at least {least}", got=str(size))
    if width % heads:
        raise ConfigError("width is not a multiple of heads", expected="heads of equal width", got=f"{width} and {heads}")


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int, context_length: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE like GPT-2's and GPT-3's (SPEC 3.1): it encodes any text. Padding has its own token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer_from_json(tokenizer.to_str(), context_length=context_length)


def tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer made by :func:`train_tokenizer`, as JSON text."""
    return cast(PreTrainedTokenizerFast, tokenizer).backend_tokenizer.to_str()


def tokenizer_from_json(text: str, *, context_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer that :func:`tokenizer_json` wrote."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def new_gpt2(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, width: int, heads: int, context_length: int, seed: int = 0
) -> PreTrainedModel:
    """A GPT-2 model with random weights, in fp32 with Heedful's attention."""
    config = GPT2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        n_positions=context_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        # The exact GELU, because on a CPU torch computes it five times faster than GPT-2's tanh approximation.
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=cast(int | None, tokenizer.bos_token_id),
        eos_token_id=cast(int | None, tokenizer.eos_token_id),
        pad_token_id=cast(int | None, tokenizer.pad_token_id),
    )
    torch.manual_seed(seed)
    return use_heedful_attention(GPT2LMHeadModel(config))
