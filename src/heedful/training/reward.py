"""The reward model: from the SFT model, on K-way rankings, all comparisons of a prompt in one batch element (SPEC 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.functional import ranking_loss
from heedful.model import (
    MasterWeights,
    PackedBatch,
    add_adapter,
    pack_shared,
    quick_check,
    set_residual_dropout,
    shift_scalar_model,
)
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.readout import scalars, score
from heedful.ranks.batch_shares import own_microbatches
from heedful.ranks.collectives import gather_in_order, sums_over_ranks
from heedful.ranks.world import across_ranks
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import RewardConfig
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.ranking_accuracy import accuracy_by
from heedful.training.run import Run
from heedful.training.schedules import cosine, epoch_order, set_learning_rate
from heedful.training.sharding import master_weights, save_gathered, whole


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
    """Train a scalar model (fp32, changed in place), shift it so that demonstrations score 0 on average, save and return it.

    Each prompt is computed once for its K responses. Under ``torchrun`` the model that is returned is sharded: the folder holds
    it whole. Raises CheckError, LostRankError, NumericalError, StorageError.
    """
    quick_check(model)
    run = Run(folder, config, title="reward", console=console)
    steps_per_epoch = math.ceil(len(rankings) / config.batch_size)
    steps = steps_per_epoch * config.epochs
    set_residual_dropout(model, 0.0)
    if config.lora_rank:
        add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
    weights = master_weights(model, config)
    optimizer = make_optimizer(model, config)
    parts = {"model": model, "optimizer": optimizer}
    state = run.resume(parts, model=model, rankings=rankings)
    done = 0 if state is None else int(state["step"])
    weights.refresh()
    weights.train()
    timer = CheckpointTimer(config.checkpoint_seconds)
    with run.progress(steps, done=done) as progress:
        for step in range(done, steps):
            epoch, place = divmod(step, steps_per_epoch)
            order = epoch_order(config.seed, epoch, len(rankings))
            batch = [rankings[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
            rate = config.learning_rate * cosine(step, steps, final_share=config.final_learning_rate_share)
            set_learning_rate(optimizer, rate)
            loss, accuracy = _accumulate(weights, batch, config)
            norm = apply_gradients(optimizer, model, config.max_gradient_norm)
            weights.refresh()
            run.log(step, {"loss": loss, "accuracy": accuracy, "gradient_norm": norm, "learning_rate": rate})
            progress.advance(note=f"loss {loss:.3f}  accuracy {accuracy:.0%}")
            if validation and config.validates_after(step):
                run.log(step, _validate(weights.compute, validation, config))
            if timer.due():
                run.save(step + 1, parts)
    weights.compute.eval()
    if validation:
        metrics = _validate(weights.compute, validation, config)
        run.log(steps, metrics)
        accuracy = metrics["validation_accuracy"]
        run.console.print(
            f"reward: accuracy on the rankings of {len(validation):,} unseen prompts {accuracy:.1%}", highlight=False
        )
    final = whole(model)  # the model itself, or what rank 0 gathers of it
    if demonstrations:
        prompts, responses = [d.prompt for d in demonstrations], [d.response for d in demonstrations]
        mean = float(score(weights.compute, prompts, responses, tokens_per_microbatch=config.tokens_per_microbatch).mean())
        if final is not None:
            shift_scalar_model(final, -mean)
        run.log(steps, {"demonstration_reward_before_shift": mean})
    model.eval()
    save_gathered(final, tokenizer, run.model_folder)
    run.finish()
    return model


@torch.no_grad()
def score_rankings(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], *, tokens_per_microbatch: int = 16_384
) -> list[list[float]]:
    """Rewards of all responses of each ranking, each prompt computed once."""
    scores: list[tuple[int, list[float]]] = []
    for indices, factor in _microbatches(rankings, tokens_per_microbatch):
        members = [rankings[i] for i in indices]
        batch = _pack(members).to(model.device)
        groups = _grouped(scalars(model, batch, batch.last), members)
        if factor:
            scores += [(i, [float(r) for r in rewards]) for i, rewards in zip(indices, groups, strict=True)]
    return gather_in_order(scores)


@torch.no_grad()
def ranking_quality(
    model: PreTrainedModel, rankings: Sequence[RankedPrompt], tokens_per_microbatch: int
) -> tuple[float, float]:
    """Mean ranking loss per prompt, and the share of untied pairs that the model orders as the labeler did."""
    return _quality(score_rankings(model, rankings, tokens_per_microbatch=tokens_per_microbatch), rankings)


def _validate(model: PreTrainedModel, rankings: Sequence[RankedPrompt], config: RewardConfig) -> dict[str, Any]:
    """A row of metrics on unseen rankings."""
    scores = score_rankings(model, rankings, tokens_per_microbatch=config.tokens_per_microbatch)
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
    padded, ranks, weights = _by_labeler(torch.cat(rewards), rankings)
    loss, statistics = ranking_loss(padded, ranks, ranks > 0, weights=weights)
    return float(loss), float(statistics.accuracy)


def _accumulate(weights: MasterWeights, batch: Sequence[RankedPrompt], config: RewardConfig) -> tuple[float, float]:
    """Add up the gradients of the mean loss per prompt; returns it and the accuracy over the batch's comparisons."""
    sums = {"loss": 0.0, "correct": 0.0, "pairs": 0.0}
    for indices, factor in _microbatches(batch, config.tokens_per_microbatch):
        members = [batch[i] for i in indices]
        packed = _pack(members).to(weights.compute.device)
        rewards = scalars(weights.compute, packed, packed.last)
        padded, ranks, shares = _by_labeler(rewards, members)
        loss, statistics = ranking_loss(padded, ranks, ranks > 0, weights=shares, normalizer=len(batch))
        (factor * loss).backward()
        count = factor * float(statistics.num_comparisons)
        sums["loss"] += factor * float(loss.detach())
        sums["correct"] += float(statistics.accuracy) * count
        sums["pairs"] += count
    sums = sums_over_ranks(sums)
    return sums["loss"], sums["correct"] / sums["pairs"]


def _pack(members: Sequence[RankedPrompt]) -> PackedBatch:
    return pack_shared([r.prompt for r in members], [r.responses for r in members])


def _microbatches(rankings: Sequence[RankedPrompt], tokens: int) -> list[tuple[list[int], float]]:
    return own_microbatches([len(r.prompt) + sum(map(len, r.responses)) for r in rankings], tokens=tokens)


def _grouped(rewards: Tensor, members: Sequence[RankedPrompt]) -> tuple[Tensor, ...]:
    return rewards.split([len(r.responses) for r in members])


def _by_labeler(rewards: Tensor, members: Sequence[RankedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards [responses] -> rewards and ranks [rankings, largest K], 0 where there is no rank, and weights [rankings].

    A prompt's rewards are computed once and compared as each of its labelers ranked them; together they weigh 1.
    """
    rows, ranks, weights = [], [], []
    for row, member in zip(_grouped(rewards, members), members, strict=True):
        rows += [row] * len(member.ranks)
        ranks += [torch.tensor(given, device=rewards.device) for given in member.ranks]
        weights += [1 / len(member.ranks)] * len(member.ranks)
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(ranks, batch_first=True), torch.tensor(weights, device=rewards.device)
