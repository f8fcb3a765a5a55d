"""PPO against the reward model with pretraining gradients, PPO-ptx (SPEC 3.5, 3.6); ``ptx_coefficient = 0`` is plain PPO.

One iteration: draw prompts, let the policy respond, let the reference and the reward model judge, turn scores and KL penalties
into advantages, then take one optimiser step of policy and value function for each minibatch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError, DataError
from heedful.functional import (
    clipped_policy_loss,
    clipped_value_loss,
    generalized_advantage_estimation,
    masked_mean,
    masked_whiten,
    rewards_with_kl,
)
from heedful.model import (
    Generation,
    MasterWeights,
    PackedBatch,
    Sampling,
    add_adapter,
    copy_sharing_base,
    generator,
    give_back_memory,
    pack,
    pack_documents,
    quick_check,
    request_seeds,
    set_residual_dropout,
    share_equal_tensors,
    update_average,
)
from heedful.model.fast.side_by_side import at_once, side_by_side
from heedful.model.readout import scalars, target_logprobs, target_logprobs_and_entropy
from heedful.ranks.batch_shares import own_indices, own_microbatches
from heedful.ranks.collectives import gather_in_order, gather_rows_in_order, sum_over_ranks, sums_over_ranks
from heedful.ranks.world import across_ranks
from heedful.training.checkpoint import CheckpointTimer
from heedful.training.config import PPOConfig
from heedful.training.optimizer import apply_gradients, make_optimizer
from heedful.training.pretraining_text import PretrainingText
from heedful.training.rollouts import Best, InFlight, Rollouts
from heedful.training.run import Run
from heedful.training.schedules import constant_after_warmup, epoch_order, set_learning_rate
from heedful.training.sharding import for_generation, frozen_copy, load_into, master_weights, save_whole, shard

# Iterations. Responses of ever new lengths leave holes in the heap; after each iteration it would cost 4 % of the time.
_GIVE_BACK_EVERY = 8


@across_ranks
def train_ppo(
    policy: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: PPOConfig,
    folder: Path,
    *,
    pretraining: PretrainingText | None = None,
    validation: Sequence[list[int]] = (),
    console: Console | None = None,
    title: str = "ppo",
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Train ``policy`` (the initial RL policy, changed in place); save and return the moving average of its weights.

    Models are fp32; with ``lora_rank`` they may be in the compute type (:func:`load_causal_model`), and policy and reward model
    may still be in main memory: they go to ``device`` when they share one base. The value function is ``reward_model`` itself,
    changed in place, and a frozen copy of it in the compute type gives the rewards (SPEC 3.5).
    prompts: token ids of unique prompts; each epoch over them has its own random order. validation: held-back prompts, scored
    where ``validate_every`` asks for it. The reference is a frozen copy of the policy as given. Under ``torchrun`` all models
    are sharded, the one that is returned too: the folder holds it whole. Raises CheckError, ConfigError, DataError,
    LostRankError, NumericalError, StorageError.
    """
    if not prompts:
        raise DataError("PPO has no prompts", expected="at least one prompt within the limit", got="none")
    if config.ptx_coefficient and pretraining is None:
        raise ConfigError(
            "PPO-ptx needs pretraining text",
            expected="text for ptx_coefficient > 0",
            got="none",
            next_step="add text, or set ptx_coefficient = 0 (plain PPO)",
        )
    if config.validate_every and not validation:
        raise DataError(
            "there is no prompt to validate on",
            expected="validation prompts for validate_every > 0",
            got="none within the limit",
            next_step="add prompts of the split valid, or set validate_every = 0",
        )
    generator(config.engine)  # refused before the first step where it cannot be had
    validation = validation[: config.num_validation_prompts]
    for model in (policy, reward_model):
        quick_check(model)
    run = Run(folder, config, title=title, console=console)
    if config.lora_rank:
        for model in (policy, reward_model):
            add_adapter(model, config.lora_rank, config.precision, seed=config.seed)
        share_equal_tensors(policy, reward_model)
        for model in (policy, reward_model):
            model.to(device or model.device)  # pyright: ignore[reportArgumentType]
    reference = frozen_copy(policy, config.precision)
    value_model, reward_model = reward_model, frozen_copy(reward_model, config.precision)
    average = copy_sharing_base(policy)
    for model in (policy, value_model):
        set_residual_dropout(model, 0.0)
    reference, reward_model = shard(reference, config.precision), shard(reward_model, config.precision)
    average = shard(average, "float32")  # never computed with
    policy_weights, value_weights = master_weights(policy, config), master_weights(value_model, config)
    policy_optimizer, value_optimizer = make_optimizer(policy, config), make_optimizer(value_model, config)
    result = average if config.average_decay else policy
    parts = {
        "policy": policy,
        "value": value_model,
        "average": average,
        "policy_optimizer": policy_optimizer,
        "value_optimizer": value_optimizer,
        "best": (best := Best()),
        "in_flight": (in_flight := InFlight()),
    }
    inputs = {"policy": policy, "reward_model": reward_model, "prompts": prompts, "text": pretraining, "validation": validation}
    state = run.resume(parts, **inputs)
    done = 0 if state is None else int(state["step"])
    for weights in (policy_weights, value_weights):
        weights.refresh()
        weights.train()
    text = _pretraining_batches(pretraining, config, skip=done) if config.ptx_coefficient and pretraining else None
    timer = CheckpointTimer(config.checkpoint_seconds)
    costs = policy.num_parameters(), value_model.num_parameters()

    with run.progress(config.iterations, done=done, unit="iterations") as progress:
        for iteration in range(done, config.iterations):
            warm = constant_after_warmup(iteration, warmup=config.warmup_iterations, start_share=config.warmup_start_share)
            set_learning_rate(policy_optimizer, config.learning_rate * warm)
            set_learning_rate(value_optimizer, config.value_learning_rate * warm)

            if in_flight.rollouts is None:
                batch = [prompts[i] for i in prompt_order(config.seed, iteration, config.batch_size, len(prompts))]
                compute = for_generation(policy_weights, config.precision)
                generations = _respond(compute, tokenizer, batch, config, iteration)
                del compute
                in_flight.rollouts = _judge(policy_weights, value_weights, reference, reward_model, batch, generations, config)
            rollouts, updates = in_flight.rollouts.to(policy.device), in_flight.updates
            if config.kl_limit is not None and (kl := _mean_kl(rollouts)) > config.kl_limit:
                run.log(iteration, {"kl": kl})
                run.stop_early(iteration, f"KL of {kl:.4g} nats per response is above kl_limit = {config.kl_limit:g}")
                break
            ptx = next(text) if text else None
            minibatches = [split for inner in range(config.inner_epochs) for split in _split(config, iteration, inner)]
            while len(updates) < len(minibatches):
                if timer.due() and in_flight.is_finite():  # a NaN would come back with it
                    run.save(iteration, parts)
                members, number = minibatches[len(updates)], len(updates) % config.minibatches
                metrics, value_metrics = side_by_side(
                    functools.partial(_policy_gradient, policy_weights, rollouts, members, config),
                    functools.partial(_value_update, value_weights, value_optimizer, rollouts, members, config),
                    costs=costs,
                    device=policy.device,
                )
                if ptx is not None:
                    # Into the same gradient buffer, before the one optimiser step (SPEC 3.6).
                    metrics["ptx_loss"] = _pretraining_gradient(policy_weights, ptx[number :: config.minibatches], config)
                metrics["gradient_norm"] = apply_gradients(policy_optimizer, policy, config.max_gradient_norm)
                policy_weights.refresh()
                updates.append(metrics | value_metrics)
            update_average(average, policy, config.average_decay)

            summary = _summary(rollouts, updates) | {"learning_rate": config.learning_rate * warm}
            if config.validates_after(iteration):
                summary["validation_reward"] = _validation_reward(result, reward_model, tokenizer, validation, config)
                if config.keep_best:
                    best.offer(iteration, summary["validation_reward"], result)
            run.log(iteration, summary)
            progress.advance(note=f"reward {summary['reward']:+.2f}  KL {summary['kl']:.2f}")
            if (iteration + 1) % config.samples_every == 0 or iteration + 1 == config.iterations:
                _show(run, tokenizer, iteration, rollouts)
            in_flight.clear()
            if (iteration + 1) % _GIVE_BACK_EVERY == 0:
                give_back_memory()
            if timer.due():
                run.save(iteration + 1, parts)
    if best.weights:
        run.console.print(
            f"{title}: best validation reward {best.reward:+.3f}, after iteration {best.iteration}: that model is the result",
            highlight=False,
        )
        load_into(result, best.weights)
    result.eval()
    save_whole(result, tokenizer, run.model_folder)
    run.finish()
    return result


def prompt_order(seed: int, iteration: int, batch_size: int, num_prompts: int) -> list[int]:
    """Indices of one iteration's prompts: consecutive parts of epochs, each a random order fixed by seed and epoch."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    orders = {epoch: epoch_order(seed, epoch, num_prompts) for epoch in {place // num_prompts for place in places}}
    return [int(orders[place // num_prompts][place % num_prompts]) for place in places]


def _respond(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], config: PPOConfig, iteration: int
) -> list[Generation]:
    seeds = request_seeds(config.seed, stream=f"rollouts {iteration}", count=len(prompts))
    return _generate(policy, tokenizer, prompts, seeds, config)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    seeds: list[int],
    config: PPOConfig,
) -> list[Generation]:
    """A response to each prompt, on all ranks; each rank generates its part of them."""
    own = own_indices([len(prompt) for prompt in prompts])
    own_prompts, own_seeds = [prompts[i] for i in own], [seeds[i] for i in own]
    generate = generator(config.engine)
    responses = generate(
        model, own_prompts, _sampling(tokenizer, config), own_seeds, batch_size=config.batch_size, tokenizer=tokenizer
    )
    return gather_in_order(zip(own, responses, strict=True))


def _sampling(tokenizer: PreTrainedTokenizerBase, config: PPOConfig) -> Sampling:
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return Sampling(max_tokens=config.max_response_tokens, temperature=config.temperature, stop_token=end)


@torch.no_grad()
def _validation_reward(
    model: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: PPOConfig,
) -> float:
    """Mean score of a model's responses to the validation prompts; the seeds are the same each time."""
    compute = frozen_copy(model, config.precision)
    rows = list(prompts)
    seeds = request_seeds(config.seed, stream="validation", count=len(rows))
    generations = _generate(compute, tokenizer, rows, seeds, config)
    summed = 0.0
    for members, factor in _microbatches(rows, generations, range(len(rows)), config):
        batch = _pack(rows, generations, members).to(compute.device)
        score = _without_end(scalars(reward_model, batch, batch.last), [generations[i] for i in members], config)
        summed += factor * float(score.sum())
    return sum_over_ranks(summed) / len(rows)


def _without_end(score: Tensor, generations: Sequence[Generation], config: PPOConfig) -> Tensor:
    """Scores with those of responses that did not reach end-of-text replaced, where ``missing_end_reward`` says so."""
    if config.missing_end_reward is None:
        return score
    finished = torch.tensor([g.finished for g in generations], device=score.device)
    return torch.where(finished, score, config.missing_end_reward)


@torch.no_grad()
def _judge(
    policy: MasterWeights,
    value: MasterWeights,
    reference: PreTrainedModel,
    reward_model: PreTrainedModel,
    prompts: list[list[int]],
    generations: list[Generation],
    config: PPOConfig,
) -> Rollouts:
    """Log-probs, values, scores and advantages of a batch of responses."""
    judge = functools.partial(_judged, policy.compute, value.compute, reference, reward_model, prompts, generations, config)
    device = policy.compute.device
    if at_once(device):
        halves = _halves([len(p) + len(g.tokens) for p, g in zip(prompts, generations, strict=True)])
        parts = side_by_side(lambda: judge(halves[0]), lambda: judge(halves[1]), costs=(1, 1), device=device)
    else:
        parts = (judge(range(len(prompts))),)
    # The whole batch on every rank: it is small, and all that follows is then as in one process.
    joined = {name: gather_rows_in_order([row for part in parts for row in part[name]], device) for name in parts[0]}
    score, mask = _without_end(joined["score"], generations, config), joined["mask"]
    rewards = rewards_with_kl(score, joined["logprobs"], joined["reference_logprobs"], mask, beta=config.kl_coefficient)
    advantages, returns = generalized_advantage_estimation(
        rewards, joined["values"], mask, gamma=config.discount, lam=config.gae_lambda
    )
    return Rollouts(
        prompts=prompts,
        generations=generations,
        mask=mask,
        logprobs=joined["logprobs"],
        reference_logprobs=joined["reference_logprobs"],
        values=joined["values"],
        score=score,
        advantages=masked_whiten(advantages, mask),
        returns=returns,
    )


def _judged(
    policy: PreTrainedModel,
    value: PreTrainedModel,
    reference: PreTrainedModel,
    reward_model: PreTrainedModel,
    prompts: list[list[int]],
    generations: list[Generation],
    config: PPOConfig,
    members: Sequence[int],
) -> dict[str, list[tuple[list[int], Tensor]]]:
    """Some episodes' log-probs, values, mask and score, this rank's part of them: indices, and their padded rows."""
    longest = max(len(g.tokens) for g in generations)
    names = ("logprobs", "reference_logprobs", "values", "mask", "score")
    columns: dict[str, list[tuple[list[int], Tensor]]] = {name: [] for name in names}
    for part, factor in _microbatches(prompts, generations, members, config):
        batch = _pack(prompts, generations, part).to(policy.device)
        padded = {
            "logprobs": batch.pad(target_logprobs(policy, batch, temperature=config.temperature)),
            "reference_logprobs": batch.pad(target_logprobs(reference, batch, temperature=config.temperature)),
            "values": batch.pad(scalars(value, batch, batch.predict_from)),
            "mask": batch.mask(),
        }
        score = scalars(reward_model, batch, batch.last)
        if not factor:
            continue
        for name, tensor in padded.items():
            columns[name].append((part, F.pad(tensor, (0, longest - tensor.shape[1]))))
        columns["score"].append((part, score))
    return columns


def _halves(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """All indices in two parts of nearly the same sum of lengths, each in order."""
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    first = [i for place, i in enumerate(by_length) if place % 4 in (0, 3)]
    return sorted(first), sorted(set(by_length) - set(first))


def _policy_gradient(weights: MasterWeights, rollouts: Rollouts, members: list[int], config: PPOConfig) -> dict[str, float]:
    """Add the gradient of one minibatch's clipped policy loss (mean over its tokens)."""
    count = sum(len(rollouts.generations[i].tokens) for i in members)
    sums: dict[str, float] = {}
    for part, factor in _microbatches(rollouts.prompts, rollouts.generations, members, config):
        batch = _pack(rollouts.prompts, rollouts.generations, part).to(weights.compute.device)
        logprobs, entropy = target_logprobs_and_entropy(weights.compute, batch, temperature=config.temperature)
        width = int(batch.lengths.max())
        rows = torch.tensor(part, device=logprobs.device)
        mask = rollouts.mask[rows, :width]
        loss, statistics = clipped_policy_loss(
            batch.pad(logprobs),
            rollouts.logprobs[rows, :width],
            rollouts.advantages[rows, :width],
            mask,
            clip_ratio=config.clip_ratio,
            normalizer=count,
        )
        (factor * loss).backward()
        weight = factor * len(batch.targets) / count
        _add(sums, "policy_loss", factor * loss.detach())
        _add(sums, "entropy", entropy.mean() * weight)
        _add(sums, "clip_fraction", statistics.clip_fraction * weight)
        _add(sums, "approximate_kl", statistics.approximate_kl * weight)
    return sums_over_ranks(sums)


def _value_gradient(weights: MasterWeights, rollouts: Rollouts, members: list[int], config: PPOConfig) -> dict[str, float]:
    """Add the gradient of one minibatch's clipped value loss (mean over its tokens)."""
    count = sum(len(rollouts.generations[i].tokens) for i in members)
    sums: dict[str, float] = {}
    for part, factor in _microbatches(rollouts.prompts, rollouts.generations, members, config):
        batch = _pack(rollouts.prompts, rollouts.generations, part).to(weights.compute.device)
        width = int(batch.lengths.max())
        rows = torch.tensor(part, device=rollouts.mask.device)
        loss, statistics = clipped_value_loss(
            batch.pad(scalars(weights.compute, batch, batch.predict_from)),
            rollouts.values[rows, :width],
            rollouts.returns[rows, :width],
            rollouts.mask[rows, :width],
            clip_range=config.value_clip,
            normalizer=count,
        )
        (factor * loss).backward()
        weight = factor * len(batch.targets) / count
        _add(sums, "value_loss", factor * loss.detach())
        _add(sums, "value_clip_fraction", statistics.clip_fraction * weight)
        _add(sums, "explained_variance", statistics.explained_variance * weight)
    return sums_over_ranks(sums)


def _value_update(
    weights: MasterWeights, optimizer: torch.optim.Optimizer, rollouts: Rollouts, members: list[int], config: PPOConfig
) -> dict[str, float]:
    """One optimiser step of the value function."""
    metrics = _value_gradient(weights, rollouts, members, config)
    metrics["value_gradient_norm"] = apply_gradients(optimizer, weights.master, config.max_gradient_norm)
    weights.refresh()
    return metrics


def _pretraining_gradient(weights: MasterWeights, sequences: Sequence[Any], config: PPOConfig) -> float:
    """Add gamma times the gradient of the pretraining loss (mean per token of the minibatch's sequences); returns the loss."""
    count = sum(len(s) - 1 for s in sequences)
    summed = 0.0
    for members, factor in own_microbatches([len(s) for s in sequences], tokens=config.tokens_per_microbatch):
        batch = pack_documents([sequences[i] for i in members]).to(weights.compute.device)
        loss = -target_logprobs(weights.compute, batch).sum() / count
        (factor * config.ptx_coefficient * loss).backward()
        summed += factor * float(loss.detach())
    return sum_over_ranks(summed)


def _pack(prompts: list[list[int]], generations: list[Generation], members: Sequence[int]) -> PackedBatch:
    return pack([prompts[i] for i in members], [generations[i].tokens for i in members])


def _microbatches(
    prompts: list[list[int]], generations: list[Generation], members: Sequence[int], config: PPOConfig
) -> list[tuple[list[int], float]]:
    """This rank's part of some episodes in microbatches, and the factor of each one's loss."""
    members = list(members)
    lengths = [len(prompts[i]) + len(generations[i].tokens) for i in members]
    parts = own_microbatches(lengths, tokens=config.tokens_per_microbatch)
    return [([members[j] for j in part], factor) for part, factor in parts]


def _split(config: PPOConfig, iteration: int, inner: int) -> list[list[int]]:
    """A random split of the batch into minibatches (SPEC 3.5), fixed by seed, iteration and inner epoch."""
    order = np.random.default_rng([config.seed, iteration, inner, 2]).permutation(config.batch_size)
    return [part.tolist() for part in np.split(order, config.minibatches)]


def _pretraining_batches(text: PretrainingText, config: PPOConfig, *, skip: int) -> Iterator[list[Any]]:
    """For each iteration ``ptx_examples_per_episode`` sequences an episode; the order depends on seed and epoch only."""
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


def _kl(rollouts: Rollouts) -> Tensor:
    """log(policy / initial policy) of each response token, nats, and 0 elsewhere: [episodes, longest response]."""
    return torch.where(rollouts.mask, rollouts.logprobs - rollouts.reference_logprobs, 0.0)


def _mean_kl(rollouts: Rollouts) -> float:
    """Mean over episodes of the sum over the response, nats."""
    return float(_kl(rollouts).sum(1).mean())


def _summary(rollouts: Rollouts, updates: list[dict[str, float]]) -> dict[str, float]:
    """An iteration's metrics: sums over a response are means over episodes; updates are averaged over the minibatches."""
    mask = rollouts.mask
    names = updates[0].keys()
    return {
        "reward": float(rollouts.score.mean()),
        "reward_deviation": float(rollouts.score.std()) if len(rollouts.score) > 1 else 0.0,
        "kl": _mean_kl(rollouts),
        "kl_per_token": float(masked_mean(_kl(rollouts), mask)),
        "length": float(mask.sum(1).float().mean()),
        "finished_share": sum(g.finished for g in rollouts.generations) / len(rollouts.generations),
        "return": float(rollouts.returns[:, 0].mean()),
        **{name: sum(u[name] for u in updates) / len(updates) for name in names},
    }


def _show(run: Run, tokenizer: PreTrainedTokenizerBase, iteration: int, rollouts: Rollouts) -> None:
    """Keep and print three samples with reward and KL."""
    kl = _kl(rollouts)
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


def _add(sums: dict[str, float], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
