"""The miniature's base models: tokenizer and GPT-2 models of four sizes, pretrained on the world's corpus.

The three smaller ones ship as weights in ``heedful/miniature/weights`` (bfloat16). They were made by

    python -m heedful.miniature.base --output pretrained text medium small tiny

on CPU cores; ``large`` (13M) is the same recipe with more tokens, and ``reward_start`` is *medium*, trained further on
proof-readers' pages (:mod:`heedful.miniature.proofreading`). If the command is killed, run it again: it continues from its last
checkpoint. ``text`` alone makes the tokenizer and the encoded corpus; after that, two commands with different sizes may run
side by side.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.miniature.corpus import documents
from heedful.miniature.invented_world import World
from heedful.miniature.preparation import WORLD_SEED, base_model_folder
from heedful.miniature.proofreading import Written, context_of, make_slip, pages, read_draft
from heedful.model.end_tokens import end_tokens, spoken_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.scheduler import generate
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import policy_for_inference
from heedful.model.loading import load_causal_model, load_tokenizer
from heedful.model.saving import save_model
from heedful.model.scratch import new_gpt2, train_tokenizer
from heedful.model.template import decode_after, encode
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
    "tiny": Size(layers=2, width=48, heads=3, documents=700_000, num_tokens=50_000_000, learning_rate=5e-3),
    "small": Size(layers=3, width=80, heads=4, documents=700_000, num_tokens=50_000_000, learning_rate=4e-3),
    "medium": Size(layers=4, width=160, heads=5, documents=1_000_000, num_tokens=52_000_000, learning_rate=3e-3),
    "large": Size(layers=8, width=384, heads=6, documents=2_000_000, num_tokens=300_000_000, learning_rate=1.5e-3),
}


REWARD_START = "reward_start"
"""*medium*, trained further on proof-readers' pages: where the reward model starts (SPEC C.2)."""
WRITTEN_SLIPS = 6_000
"""Slips for which *medium* writes drafts."""
DRAFT_TEMPERATURES = (1.0, 1.4)
"""The second makes more faults."""
MAX_DRAFT_TOKENS = 72
REWARD_START_DOCUMENTS = 30_000
"""Proof-readers' pages that the reward model's start is trained on."""
REWARD_START_TOKENS = 4_000_000
"""Tokens of them that it is trained on."""
REWARD_START_RATE = 1.5e-3
"""Its peak learning rate, half of *medium*'s."""


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


def make_reward_start(output: Path) -> None:
    """Train *medium* (of ``output``, or else the shipped one) further on proof-readers' pages, into ``output/reward_start``.

    What was interrupted continues; if it is there, it is not made again.
    """
    if (output / REWARD_START / "config.json").is_file():
        return
    keep_large_temporaries()
    world = World(WORLD_SEED)
    start = output / "medium" if (output / "medium" / "config.json").is_file() else base_model_folder("medium")
    tokenizer = load_tokenizer(start)

    def write(count: int) -> Iterator[str]:
        return pages(world, seed=CORPUS_SEED, count=count, written=written_drafts(world, start))

    text = kept_text(tokenizer, output / "work" / "pages", REWARD_START_DOCUMENTS, write)
    config = PretrainConfig(
        num_tokens=REWARD_START_TOKENS,
        batch_tokens=8_192,
        context_length=CONTEXT_LENGTH,
        shortest_context=160,
        learning_rate=REWARD_START_RATE,
    )
    validation = encode_documents(tokenizer, pages(world, seed=VALIDATION_SEED, count=VALIDATION_DOCUMENTS))
    model = load_causal_model(start)
    model = train_pretrain(model, tokenizer, text, config, output / "work" / REWARD_START, validation=validation)
    save_model(model.bfloat16(), tokenizer, output / REWARD_START)


def written_drafts(world: World, folder: Path) -> list[Written]:
    """Slips, and drafts of each by the base model in ``folder``, one at each temperature."""
    rng = random.Random(f"slips {world.seed}")
    slips = [slip for slip in (make_slip(world, rng) for _ in range(WRITTEN_SLIPS)) if context_of(slip) is not None]
    model, tokenizer = policy_for_inference(folder, "bfloat16")
    ends = end_tokens(model, tokenizer)
    contexts = encode(tokenizer, [str(context_of(slip)) for slip in slips])
    drafts: list[list[str]] = []
    for temperature in DRAFT_TEMPERATURES:
        sampling = Sampling(max_tokens=MAX_DRAFT_TOKENS, temperature=temperature, stop_tokens=ends)
        seeds = request_seeds(0, stream=f"drafts {temperature}", count=len(contexts))
        generations = generate(model, contexts, sampling, seeds)
        texts = decode_after(tokenizer, contexts, [spoken_tokens(generation.tokens, ends) for generation in generations])
        drafts.append([read_draft(slip, text) for slip, text in zip(slips, texts, strict=True)])
    return list(zip(slips, zip(*drafts, strict=True), strict=True))


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
    return kept_text(tokenizer, folder, count, lambda count: documents(world, seed=CORPUS_SEED, count=count))


def kept_text(
    tokenizer: PreTrainedTokenizerBase, folder: Path, count: int, write: Callable[[int], Iterator[str]]
) -> PretrainingText:
    """Return the first ``count`` documents that ``write`` makes, as tokens: those stored in ``folder``, if there are enough."""
    for file in sorted(folder.glob("text-*.npz")):
        if int(file.stem.removeprefix("text-")) >= count:
            with np.load(file) as kept:
                return first_documents(PretrainingText(kept["tokens"], kept["offsets"]), count)
    text = encode_documents(tokenizer, write(count))
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
    parser.add_argument(
        "sizes", nargs="+", choices=["text", *SIZES, REWARD_START], help="what to make: the encoded corpus, or a model"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the models, and of the work until they are done")
    arguments = parser.parse_args()
    sizes = [name for name in arguments.sizes if name != REWARD_START]
    if sizes:
        make_base_models(sizes, arguments.output)
    if REWARD_START in arguments.sizes:
        make_reward_start(arguments.output)


if __name__ == "__main__":
    main()
