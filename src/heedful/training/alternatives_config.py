"""The configurations of the alternatives to PPO on the same data (SPEC 7). This module does not import torch.

The paper does not specify them, so their defaults come from other papers or are ours; each field says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from heedful.errors import ConfigError
from heedful.training.config import StepConfig, check_fields

Alternative = Literal["dpo", "expert_iteration", "cloning", "best_of_n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativesConfig:
    """Which alternatives to PPO a project trains and compares. An alternative that is not named here costs nothing."""

    run: tuple[Alternative, ...] = ()
    """Any of `dpo`, `expert_iteration`, `cloning` and `best_of_n`."""

    def __post_init__(self) -> None:
        if len(set(self.run)) < len(self.run):
            raise ConfigError("an alternative is named twice", expected="each alternative once in run", got=str(list(self.run)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOConfig(StepConfig):
    """Direct preference optimization on the reward model's rankings, an alternative to PPO (SPEC 7).

    The defaults are those of Rafailov et al. 2023 (appendix B); ties are as in Chen et al. 2024.
    """

    epochs: int = 1
    """Passes over the rankings."""
    learning_rate: float = 1e-6
    """Peak learning rate (Rafailov et al. 2023)."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises linearly from zero (Rafailov et al. 2023: 150 steps)."""
    final_learning_rate_share: float = 0.1
    """After the warm-up a cosine ends at this share of the peak (ours, as in SPEC 3.3)."""
    batch_size: int = 64
    """Prompts per optimiser step; all comparisons of a prompt are one batch element, as in SPEC 3.3."""
    beta: float = 0.1
    """Reward per nat of log(policy / reference) (Rafailov et al. 2023). A small beta lets the policy go far from its
    reference."""
    tie_threshold: float = 0.0
    """How close two rewards are if people see a tie: log(nu) in Rao and Kupper 1967. 0: ties are dropped, as in SPEC 3.3. Chen
    et al. 2024 use 1.0986 (nu = 3)."""
    max_prompt_tokens: int = 1_024
    """Longest prompt in tokens; rankings with a longer one are left out and counted (SPEC 1.2)."""
    max_response_tokens: int = 1_024
    """Longest response in tokens; a longer one is cut (SPEC 3.1)."""
    lora_rank: int = 0
    """Rank of the adapters that are trained instead of the weights (needs `heedful[lora]`). 0: train all weights."""

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=("epochs", "learning_rate", "batch_size", "beta", "max_prompt_tokens", "max_response_tokens"),
            shares=("warmup_share", "final_learning_rate_share"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertIterationConfig(StepConfig):
    """Expert iteration: in each round the policy answers, and learns the answers with the highest reward (SPEC 7).

    Known as RAFT (Dong et al. 2023) and, with other choices, as ReST (Gulcehre et al. 2023).
    """

    rounds: int = 3
    """How often the policy answers and learns (ours)."""
    prompts: int = 2_048
    """Training prompts per round, drawn at random; all of them if there are fewer (Dong et al. 2023)."""
    samples: int = 16
    """Answers to each prompt; the policy learns the one with the highest reward (ours)."""
    temperature: float = 1.0
    """Sampling temperature of the answers (SPEC 3.5)."""
    epochs: int = 1
    """Passes over a round's best answers (ours)."""
    learning_rate: float = 9.65e-6
    """Peak learning rate of each round (SPEC 3.2)."""
    final_learning_rate_share: float = 0.1
    """In each round the cosine ends at this share of the peak (SPEC 3.2)."""
    batch_size: int = 32
    """Answers per optimiser step (SPEC 3.2)."""
    max_prompt_tokens: int = 1_024
    """Longest prompt in tokens; longer ones are left out and counted (SPEC 1.2)."""
    max_response_tokens: int = 1_024
    """Longest answer in tokens; the policy does not learn answers that were cut (SPEC 3.1)."""
    lora_rank: int = 0
    """Rank of the adapters that are trained instead of the weights (needs `heedful[lora]`). 0: train all weights."""
    engine: Literal["heedful", "vllm"] = "heedful"
    """What generates the answers: Heedful's own engine, or vLLM (needs `heedful[vllm]`; run on CPUs so far, not on a GPU)."""

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=(
                "rounds",
                "prompts",
                "temperature",
                "epochs",
                "learning_rate",
                "batch_size",
                "max_prompt_tokens",
                "max_response_tokens",
            ),
            shares=("final_learning_rate_share",),
        )
        _check_samples("ExpertIterationConfig", self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNConfig:
    """Best of n as a policy: the SFT model answers several times, and the reward model chooses (SPEC 7)."""

    samples: int = 16
    """n: answers to each prompt (ours)."""
    temperature: float = 1.0
    """Sampling temperature of the answers (ours)."""

    def __post_init__(self) -> None:
        check_fields(self, positive=("temperature",))
        _check_samples("BestOfNConfig", self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRewardConfig:
    """A reward model in which you decide how much each group of labelers counts (SPEC 7)."""

    members: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Names of the groups and the pseudonyms of their labelers: `members = {young = ["ann", "bob"], old = ["cem"]}`. Empty: one
    reward model for all labelers."""
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """How much each group's reward counts: `weights = {young = 1.0, old = 2.0}`. Only their ratios matter."""
    pull: float = 0.01
    """How strongly a group's rewards are pulled to those of all labelers: the loss includes this times half the variance of
    their difference."""

    def __post_init__(self) -> None:
        check_fields(self)
        if set(self.members) != set(self.weights):
            raise ConfigError(
                "GroupRewardConfig: members and weights name different groups",
                expected="a weight for each group",
                got=f"members of {sorted(self.members)}, weights of {sorted(self.weights)}",
            )
        values = list(self.weights.values())
        if values and not (all(math.isfinite(v) and v >= 0 for v in values) and sum(values) > 0):
            raise ConfigError(
                "GroupRewardConfig: weights are out of range",
                expected="finite numbers of at least 0, one of them above 0",
                got=str(self.weights),
            )
        names = [name for members in self.members.values() for name in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                "GroupRewardConfig: a labeler is in two groups", expected="each labeler in one group", got=", ".join(twice)
            )


def _check_samples(name: str, samples: int) -> None:
    if samples < 2:
        raise ConfigError(
            f"{name}: samples is out of range", expected="at least 2: with one answer there is no choice", got=str(samples)
        )
