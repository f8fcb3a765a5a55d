"""PPO against the reward model with pretraining gradients, PPO-ptx (SPEC 3.5, 3.6); ``ptx_coefficient = 0`` is plain PPO.

:func:`step` is the algorithm, :func:`prepare` makes the models, and :mod:`heedful.training.rollouts` makes the rollouts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError, DataError
from heedful.functional import masked_mean
from heedful.model.doctor import quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.engine.vllm_engine import generator
from heedful.model.fast.allocator import give_back_memory
from heedful.model.fast.side_by_side import side_by_side
from heedful.model.inference import first_device
from heedful.model.lora import add_adapter, copy_sharing_base, share_equal_tensors
from heedful.model.precision import MasterWeights, update_average
from heedful.ranks.world import across_ranks
from heedful.training.best_model import Best, validation_reward
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import PPOConfig
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.ppo_gradients import policy_gradient, pretraining_gradient, value_gradient
from heedful.training.pretraining_text import PretrainingText
from heedful.training.rollouts import InFlight, Models, Rollouts, judge, respond, with_advantages
from heedful.training.run import Run
from heedful.training.schedules import constant_after_warmup, epoch_order, set_learning_rate
from heedful.training.sharding import for_generation, frozen_copy, load_into, master_weights, save_whole, shard

# Iterations. Responses of new lengths leave holes in the heap; closing them after each iteration would cost 4 % of the time.
_GIVE_BACK_EVERY = 8


@dataclass(frozen=True, slots=True)
class PPOData:
    """What PPO learns from.

    prompts: token ids of unique prompts. pretraining: text for PPO-ptx. validation: token ids of held-out prompts for
    ``validate_every``.
    """

    prompts: Sequence[list[int]]
    pretraining: PretrainingText | None = None
    validation: Sequence[list[int]] = ()


@dataclass(slots=True, kw_only=True)
class Training:
    """A PPO run between two iterations. ``parts`` are the objects whose state a checkpoint holds; ``done`` counts them."""

    config: PPOConfig
    run: Run
    tokenizer: PreTrainedTokenizerBase
    data: PPOData
    models: Models
    average: PreTrainedModel
    policy_optimizer: torch.optim.Optimizer
    value_optimizer: torch.optim.Optimizer
    in_flight: InFlight
    best: Best
    parts: dict[str, Any]
    done: int
    text: Iterator[list[Any]] | None
    timer: CheckpointTimer

    @property
    def result(self) -> PreTrainedModel:
        """The model that the run returns: the moving average, or the policy if there is no average."""
        return self.average if self.config.average_decay else self.models.policy.master


@across_ranks
def train_ppo(
    policy: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PPOData,
    config: PPOConfig,
    folder: Path,
    *,
    console: Console | None = None,
    title: str = "ppo",
) -> PreTrainedModel:
    """Train ``policy`` (the initial RL policy, changed in place); save and return the result (:func:`finish`).

    The result is the moving average of the policy's weights, or the policy itself if ``average_decay`` is 0. Models are fp32.
    With ``lora_rank`` they may be in the compute type (:func:`load_causal_model`) and in main memory: they move to the first
    GPU once they share one base. The value function is ``reward_model`` itself, changed in place; a frozen copy of it in the
    compute type gives the rewards (SPEC 3.5). The reference is a frozen copy of the policy as given. Under ``torchrun`` all
    models are sharded, also the returned one; the saved model is whole. Raises CheckError, ConfigError, DataError,
    LostRankError, NumericalError, StorageError.
    """
    _require_data(data, config)
    generator(config.engine)  # if vLLM is missing, raise now, not after making the models
    for model in (policy, reward_model):
        quick_check(model)
    run = Run(folder, config, title=title, console=console)
    training = prepare(policy, reward_model, tokenizer, data, config, run)
    with run.progress(config.iterations, done=training.done, unit="iterations") as progress:
        for iteration in range(training.done, config.iterations):
            metrics = step(training, iteration)
            if metrics is None:
                break
            progress.advance(note=f"reward {metrics['reward']:+.2f}  KL {metrics['kl']:.2f}")
    return finish(training)


def prepare(
    policy: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PPOData,
    config: PPOConfig,
    run: Run,
) -> Training:
    """Make the four models, the average and the optimisers, and load the last checkpoint if there is one."""
    if config.lora_rank:
        for model in (policy, reward_model):
            add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
        share_equal_tensors(policy, reward_model)
        for model in (policy, reward_model):
            model.to(first_device())  # pyright: ignore[reportArgumentType]
    reference = frozen_copy(policy, config.precision)
    value_model, reward_model = reward_model, frozen_copy(reward_model, config.precision)
    average = copy_sharing_base(policy)
    for model in (policy, value_model):
        set_residual_dropout(model, 0.0)
    reference, reward_model = shard(reference, config.precision), shard(reward_model, config.precision)
    average = shard(average, "float32")  # it never runs, so it needs no compute type
    models = Models(master_weights(policy, config), master_weights(value_model, config), reference, reward_model)
    parts = {
        "policy": policy,
        "value": value_model,
        "average": average,
        "policy_optimizer": (policy_optimizer := make_optimizer(policy, config)),
        "value_optimizer": (value_optimizer := make_optimizer(value_model, config)),
        "best": (best := Best()),
        "in_flight": (in_flight := InFlight()),
    }
    validation = data.validation[: config.num_validation_prompts]
    inputs = {"policy": policy, "reward_model": reward_model, "prompts": data.prompts, "text": data.pretraining}
    state = run.resume(parts, **inputs, validation=validation)
    done = 0 if state is None else int(state["step"])
    for weights in (models.policy, models.value):
        weights.refresh()
        weights.train()
    text = data.pretraining if config.ptx_coefficient else None
    return Training(
        config=config,
        run=run,
        tokenizer=tokenizer,
        data=PPOData(data.prompts, data.pretraining, validation),
        models=models,
        average=average,
        policy_optimizer=policy_optimizer,
        value_optimizer=value_optimizer,
        in_flight=in_flight,
        best=best,
        parts=parts,
        done=done,
        text=None if text is None else pretraining_batches(text, config, skip=done),
        timer=CheckpointTimer(config.checkpoint_seconds),
    )


def step(training: Training, iteration: int) -> dict[str, float] | None:
    """One iteration: respond, judge, advantages, update, average, record. Returns its metrics, or None to stop at ``kl_limit``.

    An interrupted iteration continues with the rollouts and updates in its checkpoint.
    """
    config, models, in_flight = training.config, training.models, training.in_flight
    _set_learning_rates(training, iteration)
    if in_flight.rollouts is None:
        order = prompt_order(config.seed, iteration, config.batch_size, len(training.data.prompts))
        prompts = [training.data.prompts[i] for i in order]
        responses = respond(for_generation(models.policy, config.precision), training.tokenizer, prompts, config, iteration)
        judged = judge(models, prompts, responses, config)
        in_flight.rollouts = with_advantages(prompts, responses, judged, config)
    rollouts = in_flight.rollouts.to(models.policy.master.device)
    if config.kl_limit is not None and rollouts.mean_kl() > config.kl_limit:
        _stop_at_kl_limit(training.run, iteration, rollouts.mean_kl(), config.kl_limit)
        return None

    text = next(training.text) if training.text else None
    minibatches = [part for inner in range(config.inner_epochs) for part in split_batch(config, iteration, inner)]
    while (number := len(in_flight.updates)) < len(minibatches):
        if training.timer.due() and in_flight.is_finite():  # a NaN would come back with the checkpoint
            training.run.save(iteration, training.parts)
        # Each text is learned once per iteration, whatever the number of passes over the episodes.
        sequences = None if text is None else text[number :: len(minibatches)]
        in_flight.updates.append(update(training, rollouts, minibatches[number], sequences))
    update_average(training.average, models.policy.master, config.average_decay)

    metrics = record(training, iteration, rollouts)
    in_flight.clear()
    if (iteration + 1) % _GIVE_BACK_EVERY == 0:
        give_back_memory()
    if training.timer.due():
        training.run.save(iteration + 1, training.parts)
    return metrics


def update(
    training: Training, rollouts: Rollouts, members: list[int], sequences: Sequence[Any] | None = None
) -> dict[str, float]:
    """One optimiser step of the policy and one of the value function, on one minibatch; returns its metrics.

    members: the minibatch's episodes. sequences: its pretraining text for PPO-ptx.
    """
    config, policy, value = training.config, training.models.policy, training.models.value
    metrics, value_metrics = side_by_side(
        functools.partial(policy_gradient, policy, rollouts, members, config),
        functools.partial(_update_value, value, training.value_optimizer, rollouts, members, config),
        costs=(policy.master.num_parameters(), value.master.num_parameters()),
        device=policy.master.device,
    )
    if sequences is not None:
        # It goes into the same gradient buffer, before the one optimiser step (SPEC 3.6).
        metrics["ptx_loss"] = pretraining_gradient(policy, sequences, config)
    metrics["gradient_norm"] = apply_gradients(training.policy_optimizer, policy.master, config.max_gradient_norm)
    policy.refresh()
    return metrics | value_metrics


def record(training: Training, iteration: int, rollouts: Rollouts) -> dict[str, float]:
    """Validate, keep the best model, log the iteration's metrics and samples; returns the metrics."""
    config = training.config
    metrics = _summary(rollouts, training.in_flight.updates)
    metrics["learning_rate"] = config.learning_rate * _warmup(config, iteration)
    if config.validates_after(iteration):
        metrics["validation_reward"] = validation_reward(
            training.result, training.models.reward_model, training.tokenizer, training.data.validation, config
        )
        if config.keep_best:
            training.best.offer(iteration, metrics["validation_reward"], training.result)
    training.run.log(iteration, metrics)
    if (iteration + 1) % config.samples_every == 0 or iteration + 1 == config.iterations:
        _show_samples(training.run, training.tokenizer, iteration, rollouts)
    return metrics


def finish(training: Training) -> PreTrainedModel:
    """Save and return the result: the best model if ``keep_best`` found one, else the last."""
    run, best, result = training.run, training.best, training.result
    if best.weights:
        run.console.print(
            f"{run.title}: the result is the model after iteration {best.iteration}, with the best validation reward "
            f"({best.reward:+.3f})",
            highlight=False,
        )
        load_into(result, best.weights)
    result.eval()
    save_whole(result, training.tokenizer, run.model_folder)
    run.finish()
    return result


def _update_value(
    weights: MasterWeights, optimizer: torch.optim.Optimizer, rollouts: Rollouts, members: list[int], config: PPOConfig
) -> dict[str, float]:
    """One optimiser step of the value function."""
    metrics = value_gradient(weights, rollouts, members, config)
    metrics["value_gradient_norm"] = apply_gradients(optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    return metrics


# ---------------------------------------------------------------- the order of prompts, minibatches and text


def prompt_order(seed: int, iteration: int, batch_size: int, num_prompts: int) -> list[int]:
    """Indices of one iteration's prompts: the next part of an epoch. Seed and epoch determine each epoch's random order."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    orders = {epoch: epoch_order(seed, epoch, num_prompts) for epoch in {place // num_prompts for place in places}}
    return [int(orders[place // num_prompts][place % num_prompts]) for place in places]


def split_batch(config: PPOConfig, iteration: int, inner: int) -> list[list[int]]:
    """A random split of the batch into minibatches (SPEC 3.5), determined by seed, iteration and inner epoch."""
    order = np.random.default_rng([config.seed, iteration, inner, 2]).permutation(config.batch_size)
    return [part.tolist() for part in np.split(order, config.minibatches)]


def pretraining_batches(text: PretrainingText, config: PPOConfig, *, skip: int) -> Iterator[list[Any]]:
    """For each iteration, ``ptx_examples_per_episode`` sequences per episode; the order depends only on the seed.

    skip: iterations to leave out.
    """
    needed = config.ptx_examples_per_episode * config.batch_size
    batch: list[Any] = []
    number, epoch = 0, 0
    while True:
        rng = np.random.default_rng([config.seed, epoch, 3])
        for sequence in text.sequences(context_length=config.ptx_context_length, rng=rng):
            batch.append(sequence)
            if len(batch) == needed:
                if number >= skip:
                    yield batch
                batch, number = [], number + 1
        epoch += 1


# ---------------------------------------------------------------- small parts of a step


def _require_data(data: PPOData, config: PPOConfig) -> None:
    if not data.prompts:
        raise DataError("PPO has no prompts", expected="at least one prompt within the limit", got="none")
    if config.ptx_coefficient and data.pretraining is None:
        raise ConfigError(
            "PPO-ptx needs pretraining text",
            expected="text for ptx_coefficient > 0",
            got="none",
            next_step="add text, or set ptx_coefficient = 0 (plain PPO)",
        )
    if config.validate_every and not data.validation:
        raise DataError(
            "there is no prompt to validate on",
            expected="validation prompts for validate_every > 0",
            got="none within the limit",
            next_step="add prompts of the split valid, or set validate_every = 0",
        )


def _warmup(config: PPOConfig, iteration: int) -> float:
    return constant_after_warmup(iteration, warmup=config.warmup_iterations, start_share=config.warmup_start_share)


def _set_learning_rates(training: Training, iteration: int) -> None:
    config, warm = training.config, _warmup(training.config, iteration)
    set_learning_rate(training.policy_optimizer, config.learning_rate * warm)
    set_learning_rate(training.value_optimizer, config.value_learning_rate * warm)


def _stop_at_kl_limit(run: Run, iteration: int, kl: float, limit: float) -> None:
    run.log(iteration, {"kl": kl})
    run.stop_early(iteration, f"KL of {kl:.4g} nats per response is above kl_limit = {limit:g}")


def _summary(rollouts: Rollouts, updates: list[dict[str, float]]) -> dict[str, float]:
    """An iteration's metrics: those of its rollouts, and the means of its updates' metrics."""
    mask = rollouts.mask
    names = updates[0].keys()
    return {
        "reward": float(rollouts.score.mean()),
        "reward_deviation": float(rollouts.score.std()) if len(rollouts.score) > 1 else 0.0,
        "kl": rollouts.mean_kl(),
        "kl_per_token": float(masked_mean(rollouts.kl(), mask)),
        "length": float(mask.sum(1).float().mean()),
        "finished_share": sum(g.finished for g in rollouts.generations) / len(rollouts.generations),
        "return": float(rollouts.returns[:, 0].mean()),
        **{name: sum(u[name] for u in updates) / len(updates) for name in names},
    }


def _show_samples(run: Run, tokenizer: PreTrainedTokenizerBase, iteration: int, rollouts: Rollouts) -> None:
    """Save and print three samples with reward and KL."""
    kl = rollouts.kl()
    rows: list[dict[str, Any]] = []
    for i in range(min(3, len(rollouts.prompts))):
        rows.append(
            {
                "prompt": tokenizer.decode(rollouts.prompts[i]),
                "response": tokenizer.decode(rollouts.generations[i].tokens, skip_special_tokens=True),
                "reward": round(float(rollouts.score[i]), 3),
                "kl": round(float(kl[i].sum()), 3),
                "finished": rollouts.generations[i].finished,
            }
        )
    run.samples(iteration, rows)
    for row in rows:
        run.console.print(
            f"  {str(row['prompt']).strip()!r} -> {row['response']!r}  (reward {row['reward']:+.2f}, KL {row['kl']:.2f})",
            highlight=False,
            markup=False,
        )
