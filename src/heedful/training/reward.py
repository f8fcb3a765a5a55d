"""The reward model: trained from the SFT model on K-way rankings; a prompt's comparisons are one batch element (SPEC 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.functional import ranking_loss
from heedful.model.doctor import quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.encoding import Example, RankedPrompt, unequal_weights
from heedful.model.lora import add_adapter
from heedful.model.precision import MasterWeights
from heedful.model.readout import scalars, score
from heedful.model.scalar_models import shift_scalar_model, train_last_layers
from heedful.ranks.collectives import gather_in_order, sums_over_ranks
from heedful.ranks.world import across_ranks
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import RewardConfig
from heedful.training.fitted_head import fitted_head, response_features, set_head
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.ranked_batches import pack_ranked, ranked_microbatches, rewards_by_labeler, rewards_by_prompt
from heedful.training.ranking_accuracy import accuracy_by
from heedful.training.run import Run
from heedful.training.schedules import cosine, epoch_order, set_learning_rate
from heedful.training.sharding import master_weights, save_gathered, whole


@dataclass(slots=True, kw_only=True)
class Training:
    """A reward run between two steps. ``parts`` are the objects whose state a checkpoint holds; ``done`` counts steps."""

    config: RewardConfig
    run: Run
    rankings: Sequence[RankedPrompt]
    validation: Sequence[RankedPrompt]
    weights: MasterWeights
    optimizer: torch.optim.Optimizer
    parts: dict[str, Any]
    done: int
    timer: CheckpointTimer

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the rankings."""
        return math.ceil(len(self.rankings) / self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.gradient_epochs


@across_ranks
def train_reward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[RankedPrompt],
    config: RewardConfig,
    folder: Path,
    *,
    validation: Sequence[RankedPrompt],
    demonstrations: Sequence[Example],
    console: Console | None = None,
) -> PreTrainedModel:
    """Train a scalar model (fp32, changed in place), shift it to give demonstrations a mean score of 0, save and return it.

    Each prompt is computed once for its K responses. Under ``torchrun`` the returned model is sharded and not shifted; the
    saved model is whole and shifted. Raises CheckError, ConfigError, LostRankError, NumericalError, StorageError.
    """
    quick_check(model)
    run = Run(folder, config, title="reward", console=console)
    training = prepare(model, rankings, validation, config, run)
    with run.progress(training.steps, done=training.done) as progress:
        for number in range(training.done, training.steps):
            loss, accuracy = step(training, number)
            progress.advance(note=f"loss {loss:.3f}  accuracy {accuracy:.0%}")
            record(training, number)
    return finish(training, tokenizer, demonstrations)


def prepare(
    model: PreTrainedModel,
    rankings: Sequence[RankedPrompt],
    validation: Sequence[RankedPrompt],
    config: RewardConfig,
    run: Run,
) -> Training:
    """Make the weights and the optimiser, and load the last checkpoint; if there is none, fit the head if it is to be."""
    set_residual_dropout(model, 0.0)
    if config.lora_rank:
        add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
    if config.trained_layers is not None:
        train_last_layers(model, config.trained_layers)
    weights = master_weights(model, config)
    optimizer = make_optimizer(model, config)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    state = run.resume(parts, model=model, rankings=rankings, **unequal_weights(rankings))
    if state is None and config.fit_head:
        _fit_head(weights, rankings, config, run)
    weights.refresh()
    weights.train()
    return Training(
        config=config,
        run=run,
        rankings=rankings,
        validation=validation,
        weights=weights,
        optimizer=optimizer,
        parts=parts,
        done=0 if state is None else int(state["step"]),
        timer=CheckpointTimer(config.checkpoint_seconds),
    )


def _fit_head(weights: MasterWeights, rankings: Sequence[RankedPrompt], config: RewardConfig, run: Run) -> None:
    """Fit the head to the rankings, with the other weights as they are."""
    run.console.print(f"reward: fitting the head to the rankings of {len(rankings):,} prompts", highlight=False)
    features = response_features(weights.compute, rankings, tokens_per_microbatch=config.tokens_per_microbatch)
    found = fitted_head(rankings, features, seed=config.seed)
    set_head(weights.master, found.head)
    metrics = {"head_loss": found.loss, "head_penalty": found.penalty}
    unseen = "" if found.unseen_loss is None else f", on unseen prompts {found.unseen_loss:.3f}"
    run.log(0, metrics if found.unseen_loss is None else {**metrics, "head_unseen_loss": found.unseen_loss})
    run.console.print(f"reward: head fitted, loss {found.loss:.3f}{unseen}, penalty {found.penalty:g}", highlight=False)


def step(training: Training, number: int) -> tuple[float, float]:
    """One optimiser step on one batch; returns its loss and accuracy."""
    config, weights = training.config, training.weights
    epoch, place = divmod(number, training.steps_per_epoch)
    order = epoch_order(config.seed, epoch, len(training.rankings))
    batch = [training.rankings[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
    rate = config.learning_rate * cosine(number, training.steps, final_share=config.final_learning_rate_share)
    set_learning_rate(training.optimizer, rate)
    loss, accuracy = accumulate_gradients(weights, batch, config)
    norm = apply_gradients(training.optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    training.run.log(number, {"loss": loss, "accuracy": accuracy, "gradient_norm": norm, "learning_rate": rate})
    return loss, accuracy


def record(training: Training, number: int) -> None:
    """After a step: validate if it is time, write a checkpoint if it is due."""
    if training.validation and training.config.validates_after(number):
        training.run.log(number, _validate(training))
    if training.timer.due():
        training.run.save(number + 1, training.parts)


def finish(training: Training, tokenizer: PreTrainedTokenizerBase, demonstrations: Sequence[Example]) -> PreTrainedModel:
    """Validate one last time, shift the scores so that demonstrations have a mean of 0, save and return the model."""
    run, weights = training.run, training.weights
    weights.compute.eval()
    if training.validation:
        metrics = _validate(training)
        run.log(training.steps, metrics)
        accuracy = metrics["validation_accuracy"]
        run.console.print(
            f"reward: accuracy on the rankings of {len(training.validation):,} unseen prompts {accuracy:.1%}", highlight=False
        )
    final = whole(weights.master)  # the model itself, or a sharded model's plain copy on rank 0
    if demonstrations:
        prompts, responses = [d.prompt for d in demonstrations], [d.response for d in demonstrations]
        tokens = training.config.tokens_per_microbatch
        mean = float(score(weights.compute, prompts, responses, tokens_per_microbatch=tokens).mean())
        if final is not None:
            shift_scalar_model(final, -mean)
        run.log(training.steps, {"demonstration_reward_before_shift": mean})
    weights.master.eval()
    save_gathered(final, tokenizer, run.model_folder)
    run.finish()
    return weights.master


@torch.no_grad()
def score_rankings(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], *, tokens_per_microbatch: int = 16_384
) -> list[list[float]]:
    """Rewards [prompts][K] of all responses, on all ranks. Each prompt is computed once."""
    scores: list[tuple[int, list[float]]] = []
    for indices, factor in ranked_microbatches(rankings, tokens_per_microbatch):
        members = [rankings[i] for i in indices]
        batch = pack_ranked(members).to(model.device)
        groups = rewards_by_prompt(scalars(model, batch, batch.last), members)
        if factor:
            scores += [(i, [float(r) for r in rewards]) for i, rewards in zip(indices, groups, strict=True)]
    return gather_in_order(scores)


@torch.no_grad()
def ranking_quality(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], tokens_per_microbatch: int
) -> tuple[float, float]:
    """Mean ranking loss per prompt, and the share of untied comparisons that the model orders as the labelers did."""
    return _quality(score_rankings(model, rankings, tokens_per_microbatch=tokens_per_microbatch), rankings)


def _validate(training: Training) -> dict[str, Any]:
    """Metrics on the validation rankings."""
    model, rankings, tokens = training.weights.compute, training.validation, training.config.tokens_per_microbatch
    scores = score_rankings(model, rankings, tokens_per_microbatch=tokens)
    loss, accuracy = _quality(scores, rankings)
    by_k, by_labeler = accuracy_by(
        (labeler, ranks, row)
        for r, row in zip(rankings, scores, strict=True)
        for labeler, ranks in zip(r.labelers, r.ranks, strict=True)
    )
    return {
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "validation_accuracy_by_k": by_k,
        "validation_accuracy_by_labeler": by_labeler,
    }


def _quality(scores: list[list[float]], rankings: Sequence[RankedPrompt]) -> tuple[float, float]:
    rewards = [torch.tensor(row) for row in scores]
    padded, ranks, weights = rewards_by_labeler(torch.cat(rewards), rankings)
    loss, statistics = ranking_loss(padded, ranks, ranks > 0, weights=weights)
    return float(loss), float(statistics.accuracy)


def accumulate_gradients(weights: MasterWeights, batch: Sequence[RankedPrompt], config: RewardConfig) -> tuple[float, float]:
    """Add up the gradients of the mean loss per prompt; returns that loss and the accuracy over the batch's comparisons."""
    sums = {"loss": 0.0, "correct": 0.0, "pairs": 0.0}
    for indices, factor in ranked_microbatches(batch, config.tokens_per_microbatch):
        members = [batch[i] for i in indices]
        packed = pack_ranked(members).to(weights.compute.device)
        rewards = scalars(weights.compute, packed, packed.last)
        padded, ranks, shares = rewards_by_labeler(rewards, members)
        loss, statistics = ranking_loss(padded, ranks, ranks > 0, weights=shares, normalizer=len(batch))
        (factor * loss).backward()
        count = factor * float(statistics.num_comparisons)
        sums["loss"] += factor * float(loss.detach())
        sums["correct"] += float(statistics.accuracy) * count
        sums["pairs"] += count
    sums = sums_over_ranks(sums)
    return sums["loss"], sums["correct"] / sums["pairs"]
