"""The miniature's base models: tokenizer and GPT-2 models of three sizes, pretrained on the world's corpus.

The two smaller ones ship as weights in ``heedful/miniature/weights`` (bfloat16). They were made by

    python -m heedful.miniature.base --output pretrained text medium small

on CPU cores; ``large`` (13M) is the same recipe with more tokens. If the command is killed, run it again: it continues from its
last checkpoint. ``text`` alone makes the tokenizer and the encoded corpus; after that, two commands with different sizes may
run side by side.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.miniature.corpus import documents
from heedful.miniature.invented_world import World
from heedful.miniature.preparation import WORLD_SEED
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.saving import save_model
from heedful.model.scratch import new_gpt2, train_tokenizer
from heedful.training.config import PretrainConfig
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import PretrainingText, encode_documents

CORPUS_SEED = 1
VALIDATION_SEED = 2
VALIDATION_DOCUMENTS = 2_000
DOCUMENTS = 1_000_000
VOCABULARY_SIZE = 1_280
CONTEXT_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Size:
    """A base model's shape and its pretraining recipe."""

    layers: int
    width: int
    heads: int
    documents: int
    num_tokens: int
    learning_rate: float


SIZES = {
    "small": Size(layers=3, width=80, heads=4, documents=700_000, num_tokens=50_000_000, learning_rate=4e-3),
    "medium": Size(layers=4, width=160, heads=5, documents=1_000_000, num_tokens=52_000_000, learning_rate=3e-3),
    "large": Size(layers=8, width=384, heads=6, documents=2_000_000, num_tokens=300_000_000, learning_rate=1.5e-3),
}


def make_base_models(sizes: list[str], output: Path) -> None:
    """Pretrain base models into ``output`` (bfloat16, one tokenizer for all sizes).

    Interrupted work continues, and finished sizes are skipped.

    Checkpoints, metrics and the encoded corpus are in ``output/work``.
    """
    keep_large_temporaries()
    world = World(WORLD_SEED)
    tokenizer = shared_tokenizer(world, output / "tokenizer")
    validation = encode_documents(tokenizer, documents(world, seed=VALIDATION_SEED, count=VALIDATION_DOCUMENTS))
    longest = max([SIZES[name].documents for name in sizes if name in SIZES], default=DOCUMENTS)
    text = encoded_corpus(world, tokenizer, longest, output / "work")
    for name in sizes:
        if name not in SIZES or (output / name / "config.json").is_file():
            continue
        size = SIZES[name]
        own = first_documents(text, size.documents)
        model = new_gpt2(tokenizer, layers=size.layers, width=size.width, heads=size.heads, context_length=CONTEXT_LENGTH)
        print(
            f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{len(own.tokens):,} tokens of text, {size.num_tokens:,} to train on",
            flush=True,
        )
        config = PretrainConfig(
            num_tokens=size.num_tokens,
            batch_tokens=8_192,
            context_length=CONTEXT_LENGTH,
            shortest_context=48,
            learning_rate=size.learning_rate,
        )
        model = train_pretrain(model, tokenizer, own, config, output / "work" / name, validation=validation)
        save_model(model.bfloat16(), tokenizer, output / name)


def shared_tokenizer(world: World, folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of all base models. It is trained on the corpus unless its folder exists."""
    if not folder.is_dir():
        corpus = documents(world, seed=CORPUS_SEED, count=30_000)
        made = train_tokenizer(corpus, vocabulary_size=VOCABULARY_SIZE, context_length=CONTEXT_LENGTH)
        aside = folder.with_name(f"{folder.name}.{os.getpid()}")
        made.save_pretrained(aside)
        aside.rename(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def encoded_corpus(world: World, tokenizer: PreTrainedTokenizerBase, count: int, folder: Path) -> PretrainingText:
    """Return the corpus's first ``count`` documents as tokens. They are stored in ``folder``, because they take minutes."""
    for file in sorted(folder.glob("text-*.npz")):
        if int(file.stem.removeprefix("text-")) >= count:
            with np.load(file) as kept:
                return first_documents(PretrainingText(kept["tokens"], kept["offsets"]), count)
    text = encode_documents(tokenizer, documents(world, seed=CORPUS_SEED, count=count))
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"aside-{os.getpid()}.npz"
    np.savez(aside, tokens=text.tokens, offsets=text.offsets)
    aside.rename(folder / f"text-{count:09d}.npz")
    return text


def first_documents(text: PretrainingText, count: int) -> PretrainingText:
    """Return the text's first ``count`` documents."""
    offsets = text.offsets[: count + 1]
    return PretrainingText(text.tokens[: offsets[-1]], offsets)


def main() -> None:
    """Run ``python -m heedful.miniature.base``."""
    parser = argparse.ArgumentParser(
        prog="python -m heedful.miniature.base", description="Pretrain the miniature's base models."
    )
    parser.add_argument("sizes", nargs="+", choices=["text", *SIZES], help="what to make: the encoded corpus, or a base model")
    parser.add_argument("--output", type=Path, required=True, help="folder of the models, and of the work until they are done")
    arguments = parser.parse_args()
    make_base_models(arguments.sizes, arguments.output)


if __name__ == "__main__":
    main()
