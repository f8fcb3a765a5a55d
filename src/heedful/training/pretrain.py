"""Language-model pretraining on plain text. It makes the miniature's base models, and can make yours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model.doctor import quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.layouts import pack_documents
from heedful.model.precision import MasterWeights
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


@dataclass(slots=True, kw_only=True)
class Training:
    """A pretraining run between two steps. ``parts`` are the objects whose state a checkpoint holds; ``done`` counts steps."""

    config: PretrainConfig
    run: Run
    validation: PretrainingText | None
    weights: MasterWeights
    optimizer: torch.optim.Optimizer
    parts: dict[str, Any]
    done: int
    batches: Iterator[list[NDArray[np.int32]]]
    timer: CheckpointTimer

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, self.config.num_tokens // self.config.batch_tokens)


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

    Under ``torchrun`` the returned model is sharded; the saved model is whole.
    Raises CheckError, ConfigError (checkpoints of another run), LostRankError, NumericalError (loss not finite), StorageError.
    """
    quick_check(model)
    run = Run(folder, config, title="pretrain", console=console)
    training = prepare(model, text, validation, config, run)
    with run.progress(training.steps, done=training.done) as progress:
        for number in range(training.done, training.steps):
            loss = step(training, number)
            progress.advance(note=f"loss {loss:.3f}")
            record(training, number)
    return finish(training, tokenizer)


def prepare(
    model: PreTrainedModel, text: PretrainingText, validation: PretrainingText | None, config: PretrainConfig, run: Run
) -> Training:
    """Make the weights and the optimiser, and load the last checkpoint if there is one."""
    set_residual_dropout(model, 0.0)
    weights = master_weights(model, config)
    optimizer = make_optimizer(model, config, weight_decay=config.weight_decay)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    state = run.resume(parts, model=model, text=text)
    done = 0 if state is None else int(state["step"])
    weights.refresh()
    weights.train()
    return Training(
        config=config,
        run=run,
        validation=validation,
        weights=weights,
        optimizer=optimizer,
        parts=parts,
        done=done,
        batches=_batches(text, config, skip=done),
        timer=CheckpointTimer(config.checkpoint_seconds),
    )


def step(training: Training, number: int) -> float:
    """One optimiser step on one batch; returns its loss."""
    config, weights = training.config, training.weights
    warmup = round(config.warmup_share * training.steps)
    share = cosine(number, training.steps, final_share=config.final_learning_rate_share, warmup=warmup)
    rate = config.learning_rate * share
    set_learning_rate(training.optimizer, rate)
    loss = accumulate_gradients(weights, next(training.batches), config)
    norm = apply_gradients(training.optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    training.run.log(number, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
    return loss


def record(training: Training, number: int) -> None:
    """After a step: validate if it is time, write a checkpoint if it is due."""
    if training.validation is not None and training.config.validates_after(number):
        training.run.log(number, {"validation_loss": _validation_loss(training, training.validation)})
    if training.timer.due():
        training.run.save(number + 1, training.parts)


def finish(training: Training, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Validate one last time, save and return the model."""
    run, model = training.run, training.weights.master
    if training.validation is not None:
        loss = _validation_loss(training, training.validation)
        run.log(training.steps, {"validation_loss": loss})
        run.console.print(f"pretrain: validation loss {loss:.3f}", highlight=False)
    save_whole(model, tokenizer, run.model_folder)
    run.finish()
    return model


def _validation_loss(training: Training, text: PretrainingText) -> float:
    return text_loss(training.weights.compute, text, context_length=training.config.context_length)


@torch.no_grad()
def text_loss(model: PreTrainedModel, text: PretrainingText, *, context_length: int, max_sequences: int = 256) -> float:
    """Mean loss per predicted token, in nats, on the text's first sequences in the order of seed 0."""
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


def accumulate_gradients(weights: MasterWeights, sequences: list[NDArray[np.int32]], config: PretrainConfig) -> float:
    """Add up the gradients of a batch's mean loss per predicted token; returns that loss in nats."""
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
    """Endless batches of at least ``batch_tokens`` tokens; the order depends only on the seed. skip: batches to leave out."""
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
