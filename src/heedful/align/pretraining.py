"""``heedful pretrain``: a base model from nothing but text, where there is none to start from."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from heedful.errors import DataError
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.scratch import new_gpt2, tokenizer_from_json, tokenizer_json, train_tokenizer
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import across_ranks
from heedful.training.config import PretrainConfig
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import encode_documents, read_documents

VALIDATION_EVERY = 50
"""One document in this many is held out from training to measure the loss on."""


@across_ranks
def pretrain_from_text(
    text: Path, output: Path, config: PretrainConfig, *, layers: int, width: int, heads: int, vocabulary: int, console: Console
) -> Path:
    """Train tokenizer and model on the documents of ``text``; returns the model's folder. Raises DataError, MissingError."""
    keep_large_temporaries()
    documents = [d for d in read_documents(text) if d.strip()]
    if not documents:
        raise DataError(
            "there is no pretraining text", expected="at least one document that is not empty", got="none", where=text
        )
    train = [d for i, d in enumerate(documents) if i % VALIDATION_EVERY != VALIDATION_EVERY - 1]
    validation = documents[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    trained = on_rank_zero(
        lambda: tokenizer_json(train_tokenizer(train, vocabulary_size=vocabulary, context_length=config.context_length))
    )
    tokenizer = tokenizer_from_json(trained, context_length=config.context_length)
    encoded = encode_documents(tokenizer, train)
    model = new_gpt2(tokenizer, layers=layers, width=width, heads=heads, context_length=config.context_length, seed=config.seed)
    console.print(
        f"{len(documents):,} documents, {len(encoded.tokens):,} tokens of {len(tokenizer):,} kinds; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters",
        highlight=False,
    )
    held_out = encode_documents(tokenizer, validation) if validation else None
    train_pretrain(model, tokenizer, encoded, config, output, validation=held_out, console=console)
    return output / "model"
