"""Language-model pretraining on plain text: how the base models of the miniature are made, or your own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model import (
    MasterWeights,
    pack_documents,
    quick_check,
    set_residual_dropout,
)
from heedful.model.readout import target_logprobs
from heedful.ranks.batch_shares import own_microbatches
from heedful.ranks.collectives import sum_over_ranks
from heedful.ranks.world import across_ranks
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import PretrainConfig
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.pretraining_text import PretrainingText
from heedful.training.run import Run
from heedful.training.schedules import cosine, set_learning_rate
from heedful.training.sharding import master_weights, save_whole


@across_ranks
def train_pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: PretrainingText,
    config: PretrainConfig,
    folder: Path,
    *,
    validation: PretrainingText | None = None,
    console: Console | None = None,
) -> PreTrainedModel:
    """Train ``model`` (fp32, changed in place) on ``text``, save it to ``folder/model`` and return it.

    Under ``torchrun`` the model that is returned is sharded: the folder holds it whole.
    Raises CheckError, LostRankError, NumericalError (loss not finite), StorageError (disk full).
    """
    quick_check(model)
    run = Run(folder, config, title="pretrain", console=console)
    steps = max(1, config.num_tokens // config.batch_tokens)
    set_residual_dropout(model, 0.0)
    weights = master_weights(model, config)
    optimizer = make_optimizer(model, config, weight_decay=config.weight_decay)
    parts = {"model": model, "optimizer": optimizer}
    state = run.resume(parts, model=model, text=text)
    done = 0 if state is None else int(state["step"])
    weights.refresh()
    weights.train()
    batches = _batches(text, config, skip=done)
    timer = CheckpointTimer(config.checkpoint_seconds)
    warmup = round(config.warmup_share * steps)
    with run.progress(steps, done=done) as progress:
        for step in range(done, steps):
            rate = config.learning_rate * cosine(step, steps, final_share=config.final_learning_rate_share, warmup=warmup)
            set_learning_rate(optimizer, rate)
            loss = _accumulate(weights, next(batches), config)
            norm = apply_gradients(optimizer, model, config.max_gradient_norm)
            weights.refresh()
            run.log(step, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
            progress.advance(note=f"loss {loss:.3f}")
            if validation is not None and config.validates_after(step):
                run.log(step, {"validation_loss": text_loss(weights.compute, validation, context_length=config.context_length)})
            if timer.due():
                run.save(step + 1, parts)
    if validation is not None:
        loss = text_loss(weights.compute, validation, context_length=config.context_length)
        run.log(steps, {"validation_loss": loss})
        run.console.print(f"pretrain: validation loss {loss:.3f}", highlight=False)
    save_whole(model, tokenizer, run.model_folder)
    run.finish()
    return model


@torch.no_grad()
def text_loss(model: PreTrainedModel, text: PretrainingText, *, context_length: int, max_sequences: int = 256) -> float:
    """Mean loss per token (nats) on a text's first sequences, in the order of seed 0."""
    training = model.training
    model.eval()
    sequences = list(_first(text.sequences(context_length=context_length, rng=np.random.default_rng(0)), max_sequences))
    loss, count = 0.0, sum(len(s) - 1 for s in sequences)
    for first in range(0, len(sequences), 32):
        part = sequences[first : first + 32]
        for members, factor in own_microbatches([len(s) for s in part], tokens=sum(len(s) for s in part)):
            batch = pack_documents([list(part[i]) for i in members]).to(model.device)
            logprobs = target_logprobs(model, batch)
            loss -= factor * float(logprobs.sum())
    model.train(training)
    return sum_over_ranks(loss) / count


def _accumulate(weights: MasterWeights, sequences: list[NDArray[np.int32]], config: PretrainConfig) -> float:
    """Add up the gradients of the mean loss per token over a batch; returns that loss."""
    count = sum(len(s) - 1 for s in sequences)
    summed = 0.0
    for members, factor in own_microbatches([len(s) for s in sequences], tokens=config.tokens_per_microbatch):
        documents = [sequences[i] for i in members]
        batch = pack_documents(documents).to(weights.compute.device)  # pyright: ignore[reportArgumentType]
        logprobs = target_logprobs(weights.compute, batch)
        loss = factor * -logprobs.sum() / count
        loss.backward()
        summed += float(loss.detach())
    return sum_over_ranks(summed)


def _batches(text: PretrainingText, config: PretrainConfig, *, skip: int) -> Iterator[list[NDArray[np.int32]]]:
    """Endless batches of about ``batch_tokens`` tokens; the order depends on seed and epoch only."""
    batch: list[NDArray[np.int32]] = []
    size, number, epoch = 0, 0, 0
    while True:
        rng = np.random.default_rng([config.seed, epoch])
        for sequence in text.sequences(context_length=config.context_length, rng=rng, shortest=config.shortest_context):
            batch.append(sequence)
            size += len(sequence)
            if size >= config.batch_tokens:
                if number >= skip:
                    yield batch
                batch, size, number = [], 0, number + 1
        epoch += 1


def _first(items: Iterator[Any], count: int) -> Iterator[Any]:
    for _, item in zip(range(count), items, strict=False):
        yield item
