"""Direct preference optimization: a policy learns directly from the rankings, without a reward model and without sampling.

Rafailov et al. 2023 show that a policy implies the reward ``beta * log(pi / pi_ref)``, so the reward model's ranking loss can
train the policy. All comparisons of a prompt are one batch element, as in the reward model (SPEC 3.3): the loss of a prompt is
the mean over its pairs, for K responses and any number of labelers. If ``tie_threshold`` is above 0, ties count too, by the
model of Rao and Kupper, which Chen et al. 2024 (arXiv 2409.17431) apply to this loss.

The reference is the model as given. Its log-probs are computed once, before the first step, and kept in the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.functional import implicit_rewards, ranking_loss
from heedful.model.doctor import quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.encoding import RankedPrompt, unequal_weights
from heedful.model.layouts import PackedBatch
from heedful.model.lora import add_adapter
from heedful.model.precision import MasterWeights
from heedful.model.readout import target_logprobs
from heedful.ranks.collectives import gather_in_order, sums_over_ranks
from heedful.ranks.world import across_ranks
from heedful.training.alternatives_config import DPOConfig
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.ranked_batches import pack_ranked, ranked_microbatches, rewards_by_labeler, rewards_by_prompt
from heedful.training.run import Run
from heedful.training.schedules import cosine, epoch_order, set_learning_rate
from heedful.training.sharding import master_weights, save_whole

Logprobs = list[list[float]]
"""[prompts][K] log-prob of each response, summed over its tokens, in nats."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Log-probs of all responses under the model as given."""

    training: Logprobs
    validation: Logprobs


@dataclass(slots=True, kw_only=True)
class Training:
    """A DPO run between two steps. ``parts`` are the objects whose state a checkpoint holds; ``done`` counts steps."""

    config: DPOConfig
    run: Run
    rankings: Sequence[RankedPrompt]
    validation: Sequence[RankedPrompt]
    reference: Reference
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
        return self.steps_per_epoch * self.config.epochs

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        self.run.save(step, self.parts, reference=[self.reference.training, self.reference.validation])


@across_ranks
def train_dpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[RankedPrompt],
    config: DPOConfig,
    folder: Path,
    *,
    validation: Sequence[RankedPrompt],
    console: Console | None = None,
    title: str = "dpo",
) -> PreTrainedModel:
    """Train ``model`` (the reference, fp32, changed in place), save it to ``folder/model`` and return it.

    Each prompt is computed once for its K responses. Under ``torchrun`` the returned model is sharded; the saved model is
    whole. Raises CheckError, ConfigError, LostRankError, NumericalError, StorageError.
    """
    quick_check(model)
    run = Run(folder, config, title=title, console=console)
    training = prepare(model, rankings, validation, config, run)
    with run.progress(training.steps, done=training.done) as progress:
        for number in range(training.done, training.steps):
            loss, accuracy = step(training, number)
            progress.advance(note=f"loss {loss:.3f}  accuracy {accuracy:.0%}")
            record(training, number)
    return finish(training, tokenizer)


def prepare(
    model: PreTrainedModel,
    rankings: Sequence[RankedPrompt],
    validation: Sequence[RankedPrompt],
    config: DPOConfig,
    run: Run,
) -> Training:
    """Make the weights and the optimiser. Load the last checkpoint if there is one, else compute the reference's log-probs."""
    set_residual_dropout(model, 0.0)
    if config.lora_rank:
        add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
    weights = master_weights(model, config)
    optimizer = make_optimizer(model, config)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    state = run.resume(parts, model=model, rankings=rankings, validation=validation, **unequal_weights(rankings))
    weights.refresh()
    weights.train()
    if state is None:
        run.console.print(f"{run.title}: log-probs of the reference", highlight=False)
        reference = Reference(*(response_logprobs(weights.compute, rows, config) for rows in (rankings, validation)))
    else:
        reference = Reference(*state["reference"])
    training = Training(
        config=config,
        run=run,
        rankings=rankings,
        validation=validation,
        reference=reference,
        weights=weights,
        optimizer=optimizer,
        parts=parts,
        done=0 if state is None else int(state["step"]),
        timer=CheckpointTimer(config.checkpoint_seconds),
    )
    if state is None:
        training.save(0)  # saves the reference's log-probs, so a restart need not compute them again
    return training


def step(training: Training, number: int) -> tuple[float, float]:
    """One optimiser step on one batch; returns its loss and accuracy."""
    config, weights = training.config, training.weights
    epoch, place = divmod(number, training.steps_per_epoch)
    order = epoch_order(config.seed, epoch, len(training.rankings))
    chosen = order[place * config.batch_size : (place + 1) * config.batch_size]
    batch, reference = [training.rankings[i] for i in chosen], [training.reference.training[i] for i in chosen]
    warmup = round(config.warmup_share * training.steps)
    share = cosine(number, training.steps, final_share=config.final_learning_rate_share, warmup=warmup)
    set_learning_rate(training.optimizer, config.learning_rate * share)
    metrics = accumulate_gradients(weights, batch, reference, config)
    norm = apply_gradients(training.optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    training.run.log(number, {**metrics, "gradient_norm": norm, "learning_rate": config.learning_rate * share})
    return metrics["loss"], metrics["accuracy"]


def record(training: Training, number: int) -> None:
    """After a step: validate if it is time, write a checkpoint if it is due."""
    if training.validation and training.config.validates_after(number):
        training.run.log(number, _validate(training))
    if training.timer.due():
        training.save(number + 1)


def finish(training: Training, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Validate one last time, save and return the model."""
    run, weights = training.run, training.weights
    weights.compute.eval()
    if training.validation:
        metrics = _validate(training)
        run.log(training.steps, metrics)
        accuracy = metrics["validation_accuracy"]
        run.console.print(
            f"{run.title}: orders {accuracy:.1%} of the comparisons of {len(training.validation):,} unseen prompts right",
            highlight=False,
        )
    weights.master.eval()
    save_whole(weights.master, tokenizer, run.model_folder)
    run.finish()
    return weights.master


def accumulate_gradients(
    weights: MasterWeights, batch: Sequence[RankedPrompt], reference: Logprobs, config: DPOConfig
) -> dict[str, float]:
    """Add up the gradients of the mean loss per prompt; returns the loss and statistics of the batch.

    ``accuracy``: share of untied comparisons that the implicit rewards order as people did. ``margin``: mean difference between
    the implicit rewards of the preferred and the other response. ``log_ratio``: mean of log(policy / reference) over the
    responses, in nats. If it is far below 0, all ranked responses have become unlikely, the preferred ones too.
    """
    sums: dict[str, float] = dict.fromkeys(("loss", "correct", "margin", "pairs", "log_ratio", "responses"), 0.0)
    for indices, factor in ranked_microbatches(batch, config.tokens_per_microbatch):
        members = [batch[i] for i in indices]
        packed = pack_ranked(members).to(weights.compute.device)
        logprobs = _summed_logprobs(weights.compute, packed)
        known = torch.tensor([value for i in indices for value in reference[i]], device=logprobs.device)
        padded, ranks, shares = rewards_by_labeler(implicit_rewards(logprobs, known, beta=config.beta), members)
        loss, statistics = ranking_loss(
            padded, ranks, ranks > 0, weights=shares, normalizer=len(batch), tie_threshold=config.tie_threshold
        )
        (factor * loss).backward()
        pairs = factor * float(statistics.num_comparisons)
        sums["loss"] += factor * float(loss.detach())
        sums["correct"] += float(statistics.accuracy) * pairs
        sums["margin"] += float(statistics.margin) * pairs
        sums["pairs"] += pairs
        sums["log_ratio"] += factor * float((logprobs.detach() - known).sum())
        sums["responses"] += factor * len(known)
    sums = sums_over_ranks(sums)
    pairs = max(sums["pairs"], 1.0)  # 0 if the batch has only ties
    return {
        "loss": sums["loss"],
        "accuracy": sums["correct"] / pairs,
        "margin": sums["margin"] / pairs,
        "log_ratio": sums["log_ratio"] / sums["responses"],
    }


@torch.no_grad()
def response_logprobs(model: PreTrainedModel, rankings: Sequence[RankedPrompt], config: DPOConfig) -> Logprobs:
    """Log-prob of each response to each prompt, in nats, on all ranks. Each prompt is computed once."""
    found: list[tuple[int, list[float]]] = []
    for indices, factor in ranked_microbatches(rankings, config.tokens_per_microbatch) if rankings else ():
        members = [rankings[i] for i in indices]
        groups = rewards_by_prompt(_summed_logprobs(model, pack_ranked(members).to(model.device)), members)
        if factor:
            found += [(i, [float(value) for value in group]) for i, group in zip(indices, groups, strict=True)]
    return gather_in_order(found)


def _summed_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Log-prob of each response of a batch, [responses], in nats."""
    return batch.pad(target_logprobs(model, batch)).sum(dim=1)


def _validate(training: Training) -> dict[str, float]:
    """Metrics on the validation rankings."""
    config, rankings, known = training.config, training.validation, training.reference.validation
    now = response_logprobs(training.weights.compute, rankings, config)
    flat, reference = (torch.tensor([value for row in rows for value in row]) for rows in (now, known))
    padded, ranks, shares = rewards_by_labeler(implicit_rewards(flat, reference, beta=config.beta), rankings)
    loss, statistics = ranking_loss(padded, ranks, ranks > 0, weights=shares, tie_threshold=config.tie_threshold)
    return {"validation_loss": float(loss), "validation_accuracy": float(statistics.accuracy)}
