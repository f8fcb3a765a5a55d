"""The configurations of the training steps. The defaults are the paper's for the 1.3B model (SPEC 3).

If the paper gives no value, the field says where the default comes from. ``heedful.presets`` has complete configurations for
other sizes and for the built-in miniature. This module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from heedful.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """Settings that all training steps have."""

    seed: int = 0
    """Seed of data order, dropout and sampling."""
    precision: Precision = "bfloat16"
    """Compute type of forward and backward passes; master weights are always float32 (SPEC 3.1)."""
    adam_beta1: float = 0.9
    """Adam's first moment decay (SPEC 3.1)."""
    adam_beta2: float = 0.95
    """Adam's second moment decay (SPEC 3.1)."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global norm (the paper is silent; GPT-3 used 1.0). 0 switches it off."""
    tokens_per_microbatch: int = 16_384
    """Most tokens in one forward and backward pass; gradients of larger batches are accumulated. It limits memory and changes
    the result only by rounding."""
    activation_checkpointing: bool = False
    """Keep only each layer's input and recompute the rest in the backward pass: less memory, one more forward pass."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints to resume from; all are removed when the training step is done."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep. If the newest is damaged, an older one is used."""
    validate_every: int = 0
    """Steps (PPO: iterations) between validations. 0: only when a model is kept and at the end; PPO then never validates."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard events (needs `heedful[tensorboard]`)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("checkpoint_seconds", "keep_checkpoints", "tokens_per_microbatch"),
            decays=("adam_beta1", "adam_beta2"),
        )

    def validates_after(self, step: int) -> bool:
        """Whether ``validate_every`` asks for a validation after ``step`` (from 0)."""
        return self.validate_every > 0 and (step + 1) % self.validate_every == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(StepConfig):
    """Language modelling on plain text, to make a base model (the paper starts from GPT-3, so these defaults are ours)."""

    num_tokens: int = 40_000_000
    """Tokens to train on. A shorter text is repeated, each time in another order."""
    batch_tokens: int = 8_192
    """Tokens per optimiser step."""
    context_length: int = 2_048
    """Longest sequence in tokens (SPEC 3.1); documents, joined by end-of-text, fill it."""
    shortest_context: int | None = None
    """If set, each sequence's limit is drawn at random from this to context_length, because short sequences train faster."""
    learning_rate: float = 6e-4
    """Peak learning rate (GPT-3 small's)."""
    final_learning_rate_share: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_share: float = 0.02
    """Share of the steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 0.1
    """Decoupled weight decay (GPT-3's)."""

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=("num_tokens", "batch_tokens", "context_length", "learning_rate"),
            shares=("final_learning_rate_share", "warmup_share"),
        )
        if self.context_length < 2:
            raise ConfigError(
                "PretrainConfig: context_length is out of range",
                expected="at least 2, because nothing predicts the first token",
                got=str(self.context_length),
            )
        if self.shortest_context is not None and not 2 <= self.shortest_context <= self.context_length:
            raise ConfigError(
                "PretrainConfig: shortest_context is out of range",
                expected=f"a number from 2 to context_length ({self.context_length:,})",
                got=str(self.shortest_context),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig(StepConfig):
    """Supervised fine-tuning on demonstrations (SPEC 3.2).

    With ``pretraining_share`` 0.1 it also makes the initial RL policy (SPEC 3.4).
    """

    epochs: int = 16
    """Passes over the demonstrations (SPEC 3.2: 16; SPEC 3.4: 2)."""
    learning_rate: float = 9.65e-6
    """Peak learning rate (SPEC 3.2, 1.3B and 6B)."""
    final_learning_rate_share: float = 0.1
    """The cosine ends at this share of the peak (SPEC 3.2); there is no warm-up."""
    batch_size: int = 32
    """Demonstrations per optimiser step (SPEC 3.2)."""
    residual_dropout: float = 0.2
    """Dropout on the residual branches (SPEC 3.2)."""
    pretraining_share: float = 0.0
    """Share of pretraining text to mix in (SPEC 3.4: 0.1)."""
    pretraining_share_of: Literal["examples", "loss"] = "examples"
    """What `pretraining_share` is a share of; the paper does not say (SPEC 3.4). examples: of a batch's examples. All tokens
    have the same weight, so long pretraining sequences can dominate the loss. loss: of the loss. It is then this share times
    the text's mean loss per token, plus the rest times the demonstrations'; the paper's presets use this. A batch has the same
    share of pretraining sequences either way, but with `loss` at least one."""
    candidates: int = 16
    """How many models to keep, evenly spaced over the epochs, for a choice by RM score. The last is always kept (SPEC 3.2)."""
    max_prompt_tokens: int = 1_024
    """Longest prompt in tokens; demonstrations with a longer one are left out and counted (SPEC 1.2)."""
    max_response_tokens: int = 1_024
    """Longest response in tokens; a longer one is cut and has no end-of-text (SPEC 3.1)."""
    lora_rank: int = 0
    """Rank of the adapters that are trained instead of the weights (needs `heedful[lora]`). 0: train all weights, as in the
    paper."""

    @property
    def epochs_kept(self) -> frozenset[int]:
        """The epochs (from 1) after which a candidate is kept."""
        return frozenset(round(self.epochs * (i + 1) / self.candidates) for i in range(self.candidates)) - {0}

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=("epochs", "learning_rate", "batch_size", "candidates", "max_prompt_tokens", "max_response_tokens"),
            shares=("final_learning_rate_share", "residual_dropout", "pretraining_share"),
        )
        if self.pretraining_share == 1:
            raise ConfigError(
                "SFTConfig: pretraining_share leaves no room for demonstrations",
                expected="a number from 0 to below 1",
                got="1",
                next_step="to train only on text, use `heedful pretrain`",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(StepConfig):
    """Reward model on K-way rankings (SPEC 3.3)."""

    epochs: int = 1
    """Passes over the rankings (SPEC 3.3: 1; very sensitive)."""
    learning_rate: float = 9e-6
    """Peak learning rate (SPEC 3.3)."""
    final_learning_rate_share: float = 0.1
    """The cosine ends at this share of the peak (SPEC 3.3)."""
    batch_size: int = 64
    """Prompts per optimiser step; all comparisons of a prompt are one batch element (SPEC 3.3)."""
    max_prompt_tokens: int = 1_024
    """Longest prompt in tokens; rankings with a longer one are left out and counted (SPEC 1.2)."""
    max_response_tokens: int = 1_024
    """Longest response in tokens; a longer one is cut and scored at its last token (SPEC 3.1)."""
    lora_rank: int = 0
    """Rank of the adapters that are trained instead of the weights (needs `heedful[lora]`). 0: train all weights, as in the
    paper."""

    fit_head: bool = False
    """Whether to fit the head to the rankings before training, with the model as it is (ours). The penalty is chosen by
    cross-validation. Better for few comparisons, and it needs no learning rate."""
    trained_layers: int | None = None
    """How many of the last layers learn, together with the final norm and the head; the other weights stay as they are (ours).
    None: all weights, as in the paper. 0: the fitted head alone, without any gradient step (needs fit_head)."""

    @property
    def gradient_epochs(self) -> int:
        """Passes over the rankings with gradient steps: none for a fitted head alone."""
        return 0 if self.trained_layers == 0 else self.epochs

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=("epochs", "learning_rate", "batch_size", "max_prompt_tokens", "max_response_tokens"),
            shares=("final_learning_rate_share",),
        )
        if self.trained_layers == 0 and not self.fit_head:
            raise ConfigError(
                "RewardConfig: with trained_layers = 0 nothing would learn",
                expected="fit_head = true, which fits the head, or trained_layers of at least 1",
                got="trained_layers = 0, fit_head = false",
                next_step="set fit_head = true",
            )
        if self.trained_layers is not None and self.lora_rank:
            raise ConfigError(
                "RewardConfig: trained_layers and lora_rank cannot be combined",
                expected="one of them: adapters are trained in all layers",
                got=f"trained_layers = {self.trained_layers}, lora_rank = {self.lora_rank}",
                next_step="leave trained_layers out, or set lora_rank = 0",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(StepConfig):
    """PPO against the reward model (SPEC 3.5), with pretraining gradients (PPO-ptx, SPEC 3.6) unless its coefficient is 0."""

    episodes: int = 256_000
    """Episodes in total; an episode is a prompt, one response and its reward (SPEC 3.5)."""
    batch_size: int = 512
    """Episodes per iteration (SPEC 3.5)."""
    minibatches: int = 8
    """Parts of a batch. Each part is one optimiser step, however many microbatches it needs (SPEC 3.5: 8 of 64 episodes)."""
    inner_epochs: int = 1
    """Passes over a batch (SPEC 3.5)."""
    learning_rate: float = 8.05e-6
    """The policy's peak learning rate: the largest that was stable without ptx in the paper's scan (SPEC 3.5)."""
    value_learning_rate: float = 9e-6
    """The value function's learning rate (SPEC 3.5)."""
    warmup_iterations: int = 10
    """Learning rates rise linearly over these iterations (SPEC 3.5)."""
    warmup_start_share: float = 0.1
    """Share of the peak at which the warm-up starts (SPEC 3.5)."""
    kl_coefficient: float = 0.02
    """beta: per-token penalty on log(policy / initial policy) (SPEC 3.5)."""
    clip_ratio: float = 0.2
    """Clip range of the policy's probability ratio (SPEC 3.5)."""
    value_clip: float = 0.2
    """Clip range of the value function's change (lm-human-preferences; the paper is silent)."""
    discount: float = 1.0
    """gamma_RL of generalized advantage estimation (SPEC 3.5: no discount)."""
    gae_lambda: float = 0.95
    """lambda of generalized advantage estimation (lm-human-preferences; the paper is silent)."""
    whiten_over: Literal["batch", "minibatch"] = "batch"
    """Over which tokens advantages get mean 0 and variance 1 (the paper is silent). batch: all tokens of the iteration, so an
    episode's advantage does not depend on its minibatch (ours). minibatch: as in lm-human-preferences."""
    whiten_rewards: bool = False
    """Scale the batch's rewards, including the KL penalty, to variance 1 and keep their mean (the paper is silent).
    lm-human-preferences does so by default, per minibatch. Ours is off by default, because the value function would have to
    learn another scale in each iteration."""
    temperature: float = 1.0
    """Sampling temperature of rollouts (SPEC 3.5)."""
    average_decay: float = 0.992
    """Decay per iteration of the moving average of the policy's weights. The average is the result (SPEC 3.5). 0: no
    average; the policy is the result."""
    ptx_coefficient: float = 27.8
    """gamma: weight of the pretraining loss (SPEC 3.6). 0 is plain PPO."""
    ptx_examples_per_episode: int = 8
    """Pretraining sequences per episode (SPEC 3.6). Each is learned once, whatever the number of inner epochs."""
    ptx_context_length: int = 2_048
    """Longest pretraining sequence in tokens."""
    missing_end_reward: float | None = None
    """Reward of a response that was cut before end-of-text. None: the reward model scores the cut text."""
    max_prompt_tokens: int = 1_024
    """Longest prompt in tokens; longer ones are left out and counted (SPEC 1.2)."""
    max_response_tokens: int = 1_024
    """Longest response in tokens (SPEC 3.1)."""
    samples_every: int = 20
    """Iterations between samples to print and save."""
    num_validation_prompts: int = 256
    """How many validation prompts to answer and score every `validate_every` iterations, with the same seeds each time."""
    keep_best: bool = False
    """Return the model with the best validation reward instead of the last one (needs `validate_every`)."""
    kl_limit: float | None = None
    """If an iteration's mean KL (nats per response) is higher, training stops before it learns from that iteration. None: no
    limit."""
    lora_rank: int = 0
    """Rank of the adapters that are trained instead of the weights (needs `heedful[lora]`). 0: train all weights, as in the
    paper."""
    engine: Literal["heedful", "vllm"] = "heedful"
    """What generates the rollouts: Heedful's own engine, or vLLM (needs `heedful[vllm]`; run on CPUs so far, not on a GPU)."""

    def __post_init__(self) -> None:
        StepConfig.__post_init__(self)
        check_fields(
            self,
            positive=(
                "episodes",
                "batch_size",
                "minibatches",
                "inner_epochs",
                "learning_rate",
                "value_learning_rate",
                "clip_ratio",
                "value_clip",
                "temperature",
                "ptx_examples_per_episode",
                "ptx_context_length",
                "max_prompt_tokens",
                "max_response_tokens",
                "samples_every",
                "num_validation_prompts",
            ),
            shares=("warmup_start_share", "gae_lambda", "discount"),
            decays=("average_decay",),
        )
        if self.batch_size % self.minibatches:
            raise ConfigError(
                "PPOConfig: batch_size is not a multiple of minibatches",
                expected="minibatches of equal size",
                got=f"batch_size = {self.batch_size}, minibatches = {self.minibatches}",
                next_step="change one of them",
            )

        updates = self.minibatches * self.inner_epochs
        if self.ptx_coefficient and self.batch_size * self.ptx_examples_per_episode < updates:
            raise ConfigError(
                "PPOConfig: there is too little pretraining text for the optimiser steps of an iteration",
                expected=f"a sequence for each of {updates} steps (minibatches * inner_epochs)",
                got=f"{self.batch_size * self.ptx_examples_per_episode} (batch_size * ptx_examples_per_episode)",
                next_step="raise ptx_examples_per_episode, or lower minibatches or inner_epochs",
            )
        if self.keep_best and not self.validate_every:
            raise ConfigError(
                "PPOConfig: keep_best needs validations",
                expected="validate_every of at least 1",
                got="validate_every = 0",
                next_step="set validate_every, for example to 10",
            )
        if self.kl_limit is not None and not self.kl_limit > 0:
            raise ConfigError("PPOConfig: kl_limit is out of range", expected="a number above 0", got=repr(self.kl_limit))

    @property
    def iterations(self) -> int:
        """Whole batches in ``episodes``, at least one."""
        return max(1, self.episodes // self.batch_size)


_MAY_BE_NEGATIVE = ("missing_end_reward",)
"""Fields that may be negative. All other numbers of a configuration must be 0 or more."""


def check_fields(
    config: Any, *, positive: tuple[str, ...] = (), shares: tuple[str, ...] = (), decays: tuple[str, ...] = ()
) -> None:
    """Raise ConfigError, with the field's name, if a number is out of range.

    Numbers must be finite and not negative; ``positive`` ones above 0, ``shares`` from 0 to 1, ``decays`` from 0 to below 1 (a
    moving average with decay 1 would never move). None is always in range.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            expected = "a finite number"
        elif field.name in positive and value <= 0:
            expected = "a number above 0"
        elif field.name in shares and not 0 <= value <= 1:
            expected = "a number from 0 to 1"
        elif field.name in decays and not 0 <= value < 1:
            expected = "a number from 0 to below 1"
        elif value < 0 and field.name not in _MAY_BE_NEGATIVE:
            expected = "0 or above"
        else:
            continue
        raise ConfigError(f"{type(config).__name__}: {field.name} is out of range", expected=expected, got=repr(value))
