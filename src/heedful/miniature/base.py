"""The miniature's base models: tokenizer and GPT-2 models of three sizes, pretrained on the world's corpus.

The two smaller ones ship as weights in ``heedful/miniature/weights`` (bfloat16). They were made by

    python -m heedful.miniature.base small medium

on two CPU cores; ``large`` (13M) is the same recipe with more tokens.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.miniature.corpus import documents
from heedful.miniature.invented_world import World
from heedful.miniature.preparation import WEIGHTS, WORLD_SEED
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.saving import save_model
from heedful.model.scratch import new_gpt2, train_tokenizer
from heedful.training.config import PretrainConfig
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import encode_documents

CORPUS_SEED = 1
VALIDATION_SEED = 2
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
    "medium": Size(layers=4, width=160, heads=5, documents=1_000_000, num_tokens=72_000_000, learning_rate=3e-3),
    "large": Size(layers=8, width=384, heads=6, documents=2_000_000, num_tokens=300_000_000, learning_rate=1.5e-3),
}


def make_base_models(sizes: list[str], output: Path = WEIGHTS) -> None:
    """Pretrain base models into the folder that the package ships (bfloat16, one tokenizer for all sizes)."""
    keep_large_temporaries()
    world = World(WORLD_SEED)
    shared = output / "tokenizer"
    if shared.is_dir():
        tokenizer: PreTrainedTokenizerBase = load_shared_tokenizer(shared)
    else:
        corpus = documents(world, seed=CORPUS_SEED, count=30_000)
        tokenizer = train_tokenizer(corpus, vocabulary_size=VOCABULARY_SIZE, context_length=CONTEXT_LENGTH)
        tokenizer.save_pretrained(shared)
    validation = encode_documents(tokenizer, documents(world, seed=VALIDATION_SEED, count=2_000))
    for name in sizes:
        size = SIZES[name]
        text = encode_documents(tokenizer, documents(world, seed=CORPUS_SEED, count=size.documents))
        model = new_gpt2(tokenizer, layers=size.layers, width=size.width, heads=size.heads, context_length=CONTEXT_LENGTH)
        print(
            f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{len(text.tokens):,} tokens of text, {size.num_tokens:,} to train on",
            flush=True,
        )
        config = PretrainConfig(
            num_tokens=size.num_tokens,
            batch_tokens=8_192,
            context_length=CONTEXT_LENGTH,
            shortest_context=48,
            learning_rate=size.learning_rate,
        )
        folder = Path("runs") / f"base-{name}"
        model = train_pretrain(model, tokenizer, text, config, folder, validation=validation)
        save_model(model.bfloat16(), tokenizer, output / name)


def load_shared_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that all base models share, from its folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


if __name__ == "__main__":
    make_base_models(sys.argv[1:] or ["small", "medium"])
