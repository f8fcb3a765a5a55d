"""``heedful pretrain``: make a base model from plain text, if you have none."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from heedful.errors import ConfigError, DataError
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.scratch import check_shape, new_gpt2, tokenizer_from_json, tokenizer_json, train_tokenizer
from heedful.project.lock import alone_in
from heedful.project.text_encoding import UTF8, check_encoding
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import across_ranks, world
from heedful.training.checkpoint import CHECKPOINTS
from heedful.training.config import PretrainConfig
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import encode_documents, pretraining_files, read_documents

VALIDATION_EVERY = 50
"""One in this many documents is held out from training, to measure the loss on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of the model to make."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    """Number of tokens of the tokenizer."""


@across_ranks
def pretrain_from_text(
    text: Path, output: Path, config: PretrainConfig, shape: Shape, *, encoding: str = UTF8, console: Console
) -> Path:
    """Train a tokenizer and a model on the documents in ``text``; returns the model's folder.

    Whatever is certain to fail is refused before training. Raises ConfigError, DataError, MissingError, BusyError if another
    process trains into the same folder, and what :func:`train_pretrain` raises.
    """
    check_encoding(encoding, "--encoding")
    check_shape(
        layers=shape.layers, width=shape.width, heads=shape.heads, vocabulary=shape.vocabulary, context=config.context_length
    )
    on_rank_zero(lambda: _check_folders(output, text))
    with alone_in(output) if world().is_rank_zero else nullcontext():
        return _pretrain(text, output, config, shape, encoding, console)


def _check_folders(output: Path, text: Path) -> None:
    """Refuse missing text, a finished run's folder (its model would be replaced), and a folder inside the text's folder."""
    pretraining_files(text)
    if output.exists() and not output.is_dir():
        raise ConfigError("the run needs a folder", expected="a new folder, or an unfinished run's", got="a file", where=output)
    if text.is_dir() and output.resolve().is_relative_to(text.resolve()):
        raise ConfigError(
            "the run's folder is in the folder of the text",
            expected="a folder elsewhere: a run writes .jsonl files, which the next run would read as text",
            got=str(output),
            where=text,
        )
    if (output / "model").exists() and not (output / CHECKPOINTS).exists():
        raise ConfigError(
            "there is a model in this folder already",
            expected="a new folder, or an unfinished run's",
            got=f"a finished run: its model is {output / 'model'}",
            where=output,
            next_step="give another folder, or delete this one to train the model again",
        )


def _pretrain(text: Path, output: Path, config: PretrainConfig, shape: Shape, encoding: str, console: Console) -> Path:
    keep_large_temporaries()
    documents = [d for d in read_documents(text, encoding=encoding) if d.strip()]
    if not documents:
        raise DataError(
            "there is no pretraining text", expected="at least one document that is not empty", got="none", where=text
        )
    train = [d for i, d in enumerate(documents) if i % VALIDATION_EVERY != VALIDATION_EVERY - 1]
    validation = documents[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    length = config.context_length
    trained = on_rank_zero(
        lambda: tokenizer_json(train_tokenizer(train, vocabulary_size=shape.vocabulary, context_length=length))
    )
    tokenizer = tokenizer_from_json(trained, context_length=length)
    encoded = encode_documents(tokenizer, train)
    model = new_gpt2(
        tokenizer, layers=shape.layers, width=shape.width, heads=shape.heads, context_length=length, seed=config.seed
    )
    console.print(
        f"{len(documents):,} documents, {len(encoded.tokens):,} tokens of {len(tokenizer):,} kinds; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters",
        highlight=False,
    )
    held_out = encode_documents(tokenizer, validation) if validation else None
    train_pretrain(model, tokenizer, encoded, config, output, validation=held_out, console=console)
    return output / "model"
