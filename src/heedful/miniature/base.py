"""The miniature's base models: tokenizer and GPT-2 models of three sizes, pretrained on the world's corpus.

The two smaller ones ship as weights in ``heedful/miniature/weights`` (bfloat16). They were made by

    python -m heedful.miniature.base small medium

on two CPU cores; ``large`` (13M) is the same recipe with more tokens.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from heedful.errors import UserError
from heedful.miniature.corpus import documents
from heedful.miniature.world import World
from heedful.model import keep_large_temporaries, save_model, use_heedful_attention
from heedful.training.config import PretrainConfig
from heedful.training.data import encode_documents
from heedful.training.pretrain import train_pretrain

WORLD_SEED = 0
CORPUS_SEED = 1
VALIDATION_SEED = 2
VOCABULARY_SIZE = 1_280
CONTEXT_LENGTH = 256
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Size:
    """A base model's shape and the recipe it is pretrained with."""

    layers: int
    width: int
    heads: int
    documents: int
    num_tokens: int
    learning_rate: float


SIZES = {
    "small": Size(layers=3, width=80, heads=4, documents=600_000, num_tokens=40_000_000, learning_rate=4e-3),
    "medium": Size(layers=4, width=160, heads=5, documents=600_000, num_tokens=45_000_000, learning_rate=3e-3),
    "large": Size(layers=8, width=384, heads=6, documents=2_000_000, num_tokens=300_000_000, learning_rate=1.5e-3),
}


def train_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's and GPT-3's (SPEC 3.1), trained on the corpus; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(world, seed=CORPUS_SEED, count=30_000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def new_model(size: Size, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> PreTrainedModel:
    """A GPT-2 model with random weights, in fp32 with Heedful's attention."""
    config = GPT2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        n_positions=CONTEXT_LENGTH,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        # The exact GELU: on CPU torch computes it five times faster than GPT-2's tanh approximation.
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return use_heedful_attention(GPT2LMHeadModel(config))


def base_model_folder(size: str) -> Path:
    """Where a size's shipped weights are. Raises UserError for a size that does not ship."""
    folder = WEIGHTS / size
    if not (folder / "config.json").is_file():
        shipped = sorted(path.name for path in WEIGHTS.iterdir()) if WEIGHTS.is_dir() else []
        raise UserError(
            f"the miniature's {size} base model does not ship with the package",
            expected=f"one of {', '.join(shipped)}",
            got=size,
            next_step=f"make it: python -m heedful.miniature.base {size}",
        )
    return folder


def make_base_models(sizes: list[str], output: Path = WEIGHTS) -> None:
    """Pretrain base models and put them where the package ships them (bfloat16, one tokenizer for all sizes)."""
    keep_large_temporaries()
    world = World(WORLD_SEED)
    shared = output / "tokenizer"
    if shared.is_dir():
        tokenizer: PreTrainedTokenizerBase = load_shared_tokenizer(shared)
    else:
        tokenizer = train_tokenizer(world)
        tokenizer.save_pretrained(shared)
    validation = encode_documents(tokenizer, documents(world, seed=VALIDATION_SEED, count=2_000))
    for name in sizes:
        size = SIZES[name]
        text = encode_documents(tokenizer, documents(world, seed=CORPUS_SEED, count=size.documents))
        model = new_model(size, tokenizer)
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
        save_model(model.to(torch.bfloat16), tokenizer, output / name)


def load_shared_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast.from_pretrained(folder)


if __name__ == "__main__":
    make_base_models(sys.argv[1:] or ["small", "medium"])
