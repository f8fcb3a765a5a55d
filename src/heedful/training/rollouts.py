"""PPO's rollouts: the policy responds to prompts, the four models judge the responses, and scores become advantages."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.functional import generalized_advantage_estimation, masked_whiten, rewards_with_kl
from heedful.model.end_tokens import end_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.scheduler import Generation
from heedful.model.engine.vllm_engine import generator
from heedful.model.fast.side_by_side import at_once, side_by_side
from heedful.model.layouts import PackedBatch, pack
from heedful.model.precision import MasterWeights
from heedful.model.readout import scalars, target_logprobs
from heedful.ranks.batch_shares import own_indices, own_microbatches
from heedful.ranks.collectives import gather_in_order, gather_rows_in_order
from heedful.training.config import PPOConfig


@dataclass(frozen=True, slots=True)
class Models:
    """PPO's four models. Policy and value function are trained; the reference and the reward model never change."""

    policy: MasterWeights
    value: MasterWeights
    reference: PreTrainedModel
    reward_model: PreTrainedModel


@dataclass(frozen=True, slots=True)
class Judged:
    """What the models compute for a batch of responses. Tensors are as in :class:`Rollouts`."""

    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    score: Tensor


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One iteration's episodes. Tensors are right-padded [episodes, longest response]; mask is True at response tokens.

    logprobs: of the sampled tokens under the policy that sampled them, in nats, computed as in training. values: of the state
    before each token. score: [episodes] the reward model's. advantages: whitened over all tokens of the batch, unless
    each minibatch whitens its own (``whiten_over``).
    """

    prompts: list[list[int]]
    generations: list[Generation]
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    score: Tensor
    advantages: Tensor
    returns: Tensor

    def to(self, device: torch.device) -> Rollouts:
        """The same rollouts with their tensors on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("prompts", "generations")}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def kl(self) -> Tensor:
        """log(policy / initial policy) of each response token in nats, 0 elsewhere: [episodes, longest response]."""
        return torch.where(self.mask, self.logprobs - self.reference_logprobs, 0.0)

    def mean_kl(self) -> float:
        """KL summed over each response, then averaged over episodes, in nats."""
        return float(self.kl().sum(1).mean())


@dataclass(slots=True)
class InFlight:
    """A started iteration: its rollouts, and the metrics of each update so far."""

    rollouts: Rollouts | None = None
    updates: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def is_finite(self) -> bool:
        """Whether all numbers are finite (a NaN among scores, values or log-probs reaches the advantages)."""
        if self.rollouts is None or not self.rollouts.advantages.isfinite().all():
            return False
        return all(math.isfinite(value) for update in self.updates for value in update.values())

    def clear(self) -> None:
        """Forget the iteration, because it is finished."""
        self.rollouts, self.updates = None, []

    def state_dict(self) -> dict[str, Any]:
        return {"rollouts": None if self.rollouts is None else asdict(self.rollouts), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.updates, rollouts = state_dict["updates"], state_dict["rollouts"]
        if rollouts is None:
            self.rollouts = None
        else:
            self.rollouts = Rollouts(**{**rollouts, "generations": [Generation(**g) for g in rollouts["generations"]]})


def respond(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], config: PPOConfig, iteration: int
) -> list[Generation]:
    """The policy's response to each prompt of an iteration. Each request has its own seed."""
    seeds = request_seeds(config.seed, stream=f"rollouts {iteration}", count=len(prompts))
    return generate(policy, tokenizer, prompts, seeds, config)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    seeds: list[int],
    config: PPOConfig,
) -> list[Generation]:
    """A response to each prompt. Each rank generates its part, and all ranks return all responses."""
    own = own_indices([len(prompt) for prompt in prompts])
    own_prompts, own_seeds = [prompts[i] for i in own], [seeds[i] for i in own]
    responses = generator(config.engine)(
        model, own_prompts, sampling(model, tokenizer, config), own_seeds, batch_size=config.batch_size, tokenizer=tokenizer
    )
    return gather_in_order(zip(own, responses, strict=True))


def sampling(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PPOConfig) -> Sampling:
    """How rollouts are sampled (SPEC 3.5)."""
    ends = end_tokens(model, tokenizer)
    return Sampling(max_tokens=config.max_response_tokens, temperature=config.temperature, stop_tokens=ends)


@torch.no_grad()
def judge(models: Models, prompts: list[list[int]], generations: list[Generation], config: PPOConfig) -> Judged:
    """Log-probs, values and scores of a batch of responses; all ranks return all of them."""
    columns = functools.partial(_judge_some, models, prompts, generations, config)
    device = models.policy.compute.device
    if at_once(device):
        first, second = halves([len(p) + len(g.tokens) for p, g in zip(prompts, generations, strict=True)])
        parts = side_by_side(lambda: columns(first), lambda: columns(second), costs=(1, 1), device=device)
    else:
        parts = (columns(range(len(prompts))),)
    # Every rank gets the whole batch. It is small, and then everything after this is the same as in one process.
    whole = {name: gather_rows_in_order([row for part in parts for row in part[name]], device) for name in parts[0]}
    return Judged(**{**whole, "score": replace_unfinished(whole["score"], generations, config)})


def with_advantages(prompts: list[list[int]], generations: list[Generation], judged: Judged, config: PPOConfig) -> Rollouts:
    """Rollouts to learn from: rewards with a KL penalty on every token, then generalized advantages (SPEC 3.5)."""
    rewards = rewards_with_kl(judged.score, judged.logprobs, judged.reference_logprobs, judged.mask, beta=config.kl_coefficient)
    if config.whiten_rewards:
        rewards = masked_whiten(rewards, judged.mask, shift_mean=False)
    advantages, returns = generalized_advantage_estimation(
        rewards, judged.values, judged.mask, gamma=config.discount, lam=config.gae_lambda
    )
    return Rollouts(
        prompts=prompts,
        generations=generations,
        mask=judged.mask,
        logprobs=judged.logprobs,
        reference_logprobs=judged.reference_logprobs,
        values=judged.values,
        score=judged.score,
        advantages=masked_whiten(advantages, judged.mask) if config.whiten_over == "batch" else advantages,
        returns=returns,
    )


def replace_unfinished(score: Tensor, generations: Sequence[Generation], config: PPOConfig) -> Tensor:
    """The scores, but ``missing_end_reward``, if set, for responses that were cut before end-of-text."""
    if config.missing_end_reward is None:
        return score
    finished = torch.tensor([g.finished for g in generations], device=score.device)
    return torch.where(finished, score, config.missing_end_reward)


def pack_episodes(prompts: list[list[int]], generations: list[Generation], members: Sequence[int]) -> PackedBatch:
    """Some episodes, packed into one row."""
    return pack([prompts[i] for i in members], [generations[i].tokens for i in members])


def episode_microbatches(
    prompts: list[list[int]], generations: list[Generation], members: Sequence[int], config: PPOConfig
) -> list[tuple[list[int], float]]:
    """This rank's part of some episodes in microbatches, each with a factor for its loss (:func:`own_microbatches`)."""
    members = list(members)
    lengths = [len(prompts[i]) + len(generations[i].tokens) for i in members]
    parts = own_microbatches(lengths, tokens=config.tokens_per_microbatch)
    return [([members[j] for j in part], factor) for part, factor in parts]


def halves(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split all indices into two parts with nearly the same sum of lengths, each in order."""
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    first = [i for place, i in enumerate(by_length) if place % 4 in (0, 3)]
    return sorted(first), sorted(set(by_length) - set(first))


def _judge_some(
    models: Models, prompts: list[list[int]], generations: list[Generation], config: PPOConfig, members: Sequence[int]
) -> dict[str, list[tuple[list[int], Tensor]]]:
    """Columns of :class:`Judged` for this rank's part of some episodes, as pairs of indices and their padded rows."""
    longest = max(len(g.tokens) for g in generations)
    columns: dict[str, list[tuple[list[int], Tensor]]] = {f.name: [] for f in fields(Judged)}
    for part, factor in episode_microbatches(prompts, generations, members, config):
        batch = pack_episodes(prompts, generations, part).to(models.policy.compute.device)
        padded = {
            "logprobs": batch.pad(target_logprobs(models.policy.compute, batch, temperature=config.temperature)),
            "reference_logprobs": batch.pad(target_logprobs(models.reference, batch, temperature=config.temperature)),
            "values": batch.pad(scalars(models.value.compute, batch, batch.predict_from)),
            "mask": batch.mask(),
        }
        score = scalars(models.reward_model, batch, batch.last)
        if not factor:
            continue
        for name, tensor in padded.items():
            columns[name].append((part, F.pad(tensor, (0, longest - tensor.shape[1]))))
        columns["score"].append((part, score))
    return columns
