"""PPO's validation reward, and the model with the best one so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model.engine.sampling import request_seeds
from heedful.model.lora import trained_state
from heedful.model.readout import scalars
from heedful.ranks.collectives import sum_over_ranks
from heedful.training.config import PPOConfig
from heedful.training.rollouts import episode_microbatches, generate, pack_episodes, replace_unfinished
from heedful.training.sharding import frozen_copy


@dataclass(slots=True)
class Best:
    """The model with the highest validation reward so far: a copy of its weights (or its adapter) in main memory."""

    iteration: int = -1
    reward: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def offer(self, iteration: int, reward: float, model: PreTrainedModel) -> None:
        """Keep this model if its reward is higher than all before."""
        if reward > self.reward:
            self.iteration, self.reward = iteration, reward
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in trained_state(model).items()}

    def state_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


@torch.no_grad()
def validation_reward(
    model: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: PPOConfig,
) -> float:
    """Mean score of a model's responses to the validation prompts. The seeds are the same each time."""
    compute = frozen_copy(model, config.precision)
    rows = list(prompts)
    seeds = request_seeds(config.seed, stream="validation", count=len(rows))
    generations = generate(compute, tokenizer, rows, seeds, config)
    summed = 0.0
    for members, factor in episode_microbatches(rows, generations, range(len(rows)), config):
        batch = pack_episodes(rows, generations, members).to(compute.device)
        score = scalars(reward_model, batch, batch.last)
        summed += factor * float(replace_unfinished(score, [generations[i] for i in members], config).sum())
    return sum_over_ranks(summed) / len(rows)
