"""What PPO has under way and must not lose in a kill: the rollouts that it is learning from, and the best model so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from heedful.model import Generation, trained_state


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One iteration's episodes. Tensors are right-padded [episodes, longest response]; mask is True at response tokens.

    logprobs: of the sampled tokens under the policy that drew them, computed by the layout that trains it. values: of the
    states before each token. score: the reward model's, [episodes]. advantages are whitened over all tokens of the batch.
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
        """The same with its tensors on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("prompts", "generations")}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


@dataclass(slots=True)
class InFlight:
    """An iteration that has begun: its rollouts, and the metrics of each minibatch that was learned from."""

    rollouts: Rollouts | None = None
    updates: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def is_finite(self) -> bool:
        """Whether nothing in it is NaN or infinite (a NaN among scores, values or log-probs is one among the advantages)."""
        if self.rollouts is None or not self.rollouts.advantages.isfinite().all():
            return False
        return all(math.isfinite(value) for update in self.updates for value in update.values())

    def clear(self) -> None:
        self.rollouts, self.updates = None, []

    def state_dict(self) -> dict[str, Any]:
        return {"rollouts": None if self.rollouts is None else asdict(self.rollouts), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.updates, rollouts = state_dict["updates"], state_dict["rollouts"]
        if rollouts is None:
            self.rollouts = None
        else:
            self.rollouts = Rollouts(**{**rollouts, "generations": [Generation(**g) for g in rollouts["generations"]]})


@dataclass(slots=True)
class Best:
    """The model with the highest validation reward so far: a copy of its weights in main memory (of its adapter)."""

    iteration: int = -1
    reward: float = -math.inf
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def offer(self, iteration: int, reward: float, model: PreTrainedModel) -> None:
        """Take this model where it is better than all before."""
        if reward > self.reward:
            self.iteration, self.reward = iteration, reward
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in trained_state(model).items()}

    def state_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)
