"""Supervised fine-tuning on demonstrations (SPEC 3.2), also with pretraining text for the initial RL policy (SPEC 3.4)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError
from heedful.model.doctor import quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.encoding import Example, unequal_weights
from heedful.model.layouts import pack
from heedful.model.lora import add_adapter
from heedful.model.precision import MasterWeights
from heedful.model.readout import target_logprobs
from heedful.ranks.batch_shares import own_microbatches
from heedful.ranks.collectives import sum_over_ranks
from heedful.ranks.world import across_ranks, set_seed
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import SFTConfig
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.pretraining_text import PretrainingText
from heedful.training.run import Run
from heedful.training.schedules import cosine, epoch_order, set_learning_rate
from heedful.training.sharding import master_weights, save_whole


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model kept during training: its folder, its number of epochs, and its validation losses (nats per token)."""

    folder: Path
    epoch: int
    validation_loss: float
    pretraining_loss: float | None


CANDIDATES_FILE = "candidates.json"


def candidates_in(folder: Path) -> list[Candidate]:
    """The candidates of the finished run in a folder."""
    rows = json.loads((folder / CANDIDATES_FILE).read_text(encoding="utf-8"))
    return [Candidate(**{**row, "folder": folder / row["folder"]}) for row in rows]


@dataclass(frozen=True, slots=True)
class SFTData:
    """The data that SFT trains and validates on; ``pretraining`` is mixed in by ``pretraining_share`` (SPEC 3.4).

    context_length: longest sequence of pretraining text, in tokens.
    """

    examples: Sequence[Example]
    validation: Sequence[Example]
    pretraining: PretrainingText | None = None
    pretraining_validation: PretrainingText | None = None
    context_length: int = 2_048


@dataclass(slots=True, kw_only=True)
class Training:
    """An SFT run between two steps. ``parts`` are the objects whose state a checkpoint holds; ``done`` counts steps."""

    config: SFTConfig
    run: Run
    tokenizer: PreTrainedTokenizerBase
    data: SFTData
    weights: MasterWeights
    optimizer: torch.optim.Optimizer
    candidates: list[Candidate]
    parts: dict[str, Any]
    done: int
    text: list[list[Example]] | None
    timer: CheckpointTimer
    validation_loss: float | None
    """The last measured one, in nats per token."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the demonstrations."""
        return math.ceil(len(self.data.examples) / self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs


@across_ranks
def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: SFTData,
    config: SFTConfig,
    folder: Path,
    *,
    console: Console | None = None,
    title: str = "sft",
) -> list[Candidate]:
    """Train ``model`` (fp32, changed in place) on the responses; keep candidates in ``folder/candidates/epoch-N``, return them.

    The caller chooses among them: by RM score (SPEC 3.2) or by loss on both validation sets (SPEC 3.4, :func:`lowest_losses`).
    The loss is the mean over all response tokens of a batch. For pretraining sequences, every token except the first counts
    as a response token, or the text has its share of the loss (``pretraining_share_of``). The last model is saved to
    ``folder/model``. Raises CheckError, ConfigError, LostRankError, NumericalError, StorageError.
    """
    if config.pretraining_share and data.pretraining is None:
        raise ConfigError(
            "pretraining text is needed",
            expected="text to mix in",
            got="none",
            next_step="set pretraining_share = 0 or add text",
        )
    quick_check(model)
    run = Run(folder, config, title=title, console=console)
    training = prepare(model, tokenizer, data, config, run)
    validate_before(training)
    with run.progress(training.steps, done=training.done) as progress:
        for number in range(training.done, training.steps):
            loss = step(training, number)
            progress.advance(note=f"loss {loss:.3f}{_shown(training.validation_loss)}")
            record(training, number)
    return finish(training)


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: SFTData, config: SFTConfig, run: Run) -> Training:
    """Make the weights and the optimiser, and load the last checkpoint if there is one."""
    if config.lora_rank:
        add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
    weights = master_weights(model, config)
    set_residual_dropout(weights.compute, config.residual_dropout)
    optimizer = make_optimizer(model, config)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    inputs = {"model": model, "examples": data.examples, "text": data.pretraining, "context_length": data.context_length}
    inputs |= unequal_weights(data.examples)
    candidates: list[Candidate] = []
    done = 0
    if state := run.resume(parts, **inputs):
        # By name only: the run folder may have moved, or the working directory may have changed.
        candidates = [Candidate(run.folder / "candidates" / Path(c[0]).name, *c[1:]) for c in state["candidates"]]
        done = int(state["step"])
    else:
        set_seed(config.seed)
    weights.refresh()
    training = Training(
        config=config,
        run=run,
        tokenizer=tokenizer,
        data=data,
        weights=weights,
        optimizer=optimizer,
        candidates=candidates,
        parts=parts,
        done=done,
        text=None,
        timer=CheckpointTimer(config.checkpoint_seconds),
        validation_loss=None,
    )
    if data.pretraining is not None:
        training.text = pretraining_batches(data.pretraining, config, training.steps, data.context_length)
    return training


def validate_before(training: Training) -> None:
    """Measure the validation loss of the model as given, which training has to improve on.

    A resumed run takes the last loss from its metrics instead.
    """
    if training.done == 0:
        training.run.log(0, {"epoch": 0.0, **_losses(*_validate(training))})
    else:
        measured = [row["validation_loss"] for row in training.run.metrics() if "validation_loss" in row]
        training.validation_loss = measured[-1] if measured else None


def loss_before_training(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """The validation loss of the model as given, from the lines of metrics.jsonl; None if an older version started the run."""
    return next((row["validation_loss"] for row in metrics if row.get("epoch") == 0), None)


def step(training: Training, number: int) -> float:
    """One optimiser step on one batch; returns its loss."""
    config, weights, examples = training.config, training.weights, training.data.examples
    epoch, place = divmod(number, training.steps_per_epoch)
    order = epoch_order(config.seed, epoch, len(examples))
    batch = [examples[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
    text = [] if training.text is None else training.text[number]
    rate = config.learning_rate * cosine(number, training.steps, final_share=config.final_learning_rate_share)
    set_learning_rate(training.optimizer, rate)
    weights.train()
    loss = mixed_gradients(weights, batch, text, config)
    norm = apply_gradients(training.optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    training.run.log(number, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
    return loss


def record(training: Training, number: int) -> None:
    """After a step: keep a candidate at the end of some epochs, validate if it is time, write a checkpoint if it is due."""
    config, run = training.config, training.run
    epoch, place = divmod(number, training.steps_per_epoch)
    if place == training.steps_per_epoch - 1 and epoch + 1 in config.epochs_kept:
        folder = run.folder / "candidates" / f"epoch-{epoch + 1}"
        save_whole(training.weights.master, training.tokenizer, folder)
        losses = _validate(training)
        training.candidates.append(Candidate(folder, epoch + 1, *losses))
        run.log(number, {"epoch": float(epoch + 1), **_losses(*losses)})
    elif config.validates_after(number):
        run.log(number, _losses(*_validate(training)))
    if training.timer.due():
        kept = [(str(c.folder), c.epoch, c.validation_loss, c.pretraining_loss) for c in training.candidates]
        run.save(number + 1, training.parts, candidates=kept)


def finish(training: Training) -> list[Candidate]:
    """Write the list of candidates and the last model; returns the candidates."""
    run = training.run
    before, after = loss_before_training(run.metrics()), training.validation_loss
    if before is not None and after is not None:
        run.console.print(f"{run.title}: validation loss {before:.3f} before training, {after:.3f} after", highlight=False)
    rows = [{**asdict(c), "folder": str(c.folder.relative_to(run.folder))} for c in training.candidates]
    run.write(CANDIDATES_FILE, rows)  # before the model, so that if the model exists, everything else does too
    save_whole(training.weights.master, training.tokenizer, run.model_folder)
    run.finish()
    return training.candidates


@torch.no_grad()
def demonstration_loss(model: PreTrainedModel, examples: Sequence[Example], *, tokens_per_microbatch: int = 16_384) -> float:
    """Mean loss per response token, in nats."""
    training = model.training
    model.eval()
    loss = sum(-factor * float(logprobs.sum()) for logprobs, factor in _logprobs(model, examples, tokens_per_microbatch))
    model.train(training)
    return sum_over_ranks(loss) / sum(len(e.response) for e in examples)


def lowest_losses(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the lowest sum of demonstration and pretraining validation loss (SPEC 3.4)."""
    return min(candidates, key=lambda c: c.validation_loss + (c.pretraining_loss or 0.0))


def mixed_gradients(weights: MasterWeights, batch: Sequence[Example], text: Sequence[Example], config: SFTConfig) -> float:
    """Add up the gradients of the loss on demonstrations and pretraining text; returns that loss.

    The loss is one mean over the target tokens of both, or a weighted sum of the mean of each (``pretraining_share_of``).
    """
    if text and config.pretraining_share_of == "loss":
        share = config.pretraining_share
        demonstrated = accumulate_gradients(weights, batch, config, share=1 - share)
        return demonstrated + accumulate_gradients(weights, text, config, share=share)
    return accumulate_gradients(weights, [*batch, *text], config)


def accumulate_gradients(weights: MasterWeights, batch: Sequence[Example], config: SFTConfig, *, share: float = 1.0) -> float:
    """Add up the gradients of ``share`` times the batch's mean loss per target token; returns that loss.

    An example's weight multiplies its loss but not its number of tokens: the other examples count as much as without it.
    """
    count = sum(len(e.response) for e in batch)
    summed = 0.0
    for logprobs, factor in _logprobs(weights.compute, batch, config.tokens_per_microbatch, weighted=True):
        loss = share * factor * -logprobs.sum() / count
        loss.backward()
        summed += float(loss.detach())
    return sum_over_ranks(summed)


def _logprobs(
    model: PreTrainedModel, examples: Sequence[Example], tokens: int, *, weighted: bool = False
) -> Iterator[tuple[torch.Tensor, float]]:
    """Log-probs of all response tokens of this rank's examples, one microbatch at a time, and the factor for its loss.

    weighted: each log-prob times the weight of its example.
    """
    for members, factor in own_microbatches([len(e.prompt) + len(e.response) for e in examples], tokens=tokens):
        batch = pack([examples[i].prompt for i in members], [examples[i].response for i in members]).to(model.device)
        logprobs = target_logprobs(model, batch)
        weights = [examples[i].weight for i in members] if weighted else []
        if any(weight != 1 for weight in weights):
            lengths = torch.tensor([len(examples[i].response) for i in members])
            logprobs = logprobs * torch.tensor(weights).repeat_interleave(lengths).to(logprobs)
        yield logprobs, factor


def _validate(training: Training) -> tuple[float, float | None]:
    """Loss on validation demonstrations, and on validation text if there is any, in nats per token."""
    model, data, tokens = training.weights.compute, training.data, training.config.tokens_per_microbatch
    loss = demonstration_loss(model, data.validation, tokens_per_microbatch=tokens)
    text_loss = None
    if data.pretraining_validation is not None:
        sequences = data.pretraining_validation.sequences(context_length=data.context_length, rng=np.random.default_rng(0))
        text = [Example(list(s[:1]), list(s[1:])) for _, s in zip(range(128), sequences, strict=False)]
        text_loss = demonstration_loss(model, text, tokens_per_microbatch=tokens)
    training.validation_loss = loss
    return loss, text_loss


def _losses(validation_loss: float, pretraining_loss: float | None) -> dict[str, float]:
    """The losses as metrics."""
    return {"validation_loss": validation_loss} | ({} if pretraining_loss is None else {"pretraining_loss": pretraining_loss})


def _shown(validation_loss: float | None) -> str:
    """The validation loss for the progress line."""
    return "" if validation_loss is None else f"  validation {validation_loss:.3f}"


def pretraining_batches(text: PretrainingText, config: SFTConfig, steps: int, context_length: int) -> list[list[Example]]:
    """For each step, the pretraining sequences that make up ``pretraining_share`` of its examples; the seed determines them.

    If ``pretraining_share`` is a share of the loss, every batch has at least one sequence.
    """
    per_step = config.batch_size * config.pretraining_share / (1 - config.pretraining_share)
    if config.pretraining_share_of == "loss":
        per_step = max(1.0, per_step)
    needed = math.ceil(per_step * steps)
    sequences: list[Example] = []
    epoch = 0
    while len(sequences) < needed:
        rng = np.random.default_rng([config.seed, epoch, 1])
        for sequence in text.sequences(context_length=context_length, rng=rng):
            sequences.append(Example(list(sequence[:1]), list(sequence[1:])))
            if len(sequences) == needed:
                break
        epoch += 1
    return [sequences[math.floor(per_step * i) : math.floor(per_step * (i + 1))] for i in range(steps)]
