"""Floating-point operations of each step, in petaflop/s-days, counted in two ways (section 5.1 of the paper).

*full context*: every sequence counts as a whole context window (2,048 tokens), including pretraining examples and each response
of a ranking. This gives the paper's 4.9 (SFT) and 60 (PPO-ptx) petaflop/s-days at 175B.
*true*: only the tokens that are computed count, with their mean lengths, and a ranked prompt once for its K responses.
"""

from __future__ import annotations

from dataclasses import dataclass

from heedful.planning.memory import trained_part
from heedful.planning.shapes import Shape
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig

PETAFLOPS_DAY = 1e15 * 86_400
BACKWARD = 2
"""Operations of a backward pass, relative to the forward pass: it computes two products for each product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean lengths in tokens; a response includes its end-of-text."""

    prompt: float
    response: float

    @property
    def sequence(self) -> float:
        """Mean length of prompt and response together."""
        return self.prompt + self.response


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An amount of work: tokens (counted once for each forward pass through a model) and operations."""

    tokens: float
    flops: float

    @property
    def petaflops_days(self) -> float:
        """The operations in petaflop/s-days."""
        return self.flops / PETAFLOPS_DAY

    def __add__(self, other: Work) -> Work:
        return Work(tokens=self.tokens + other.tokens, flops=self.flops + other.flops)

    def __mul__(self, times: float) -> Work:
        return Work(tokens=self.tokens * times, flops=self.flops * times)


def forward(shape: Shape, length: float, *, predicted: float = 0.0, before: float = 0.0) -> Work:
    """One forward pass over ``length`` tokens of a sequence; ``predicted`` of them also go through the unembedding.

    Each token costs two operations per parameter of the blocks. For each pair of a query and a key, attention multiplies with
    the key and the value: 4 * attention width operations per layer. ``before`` tokens are attended to but computed elsewhere
    (a shared prompt).
    """
    pairs = length * before + length * length / 2
    products = 2 * length * shape.layers * shape.block_parameters + 2 * predicted * shape.unembedding
    return Work(tokens=length, flops=products + 4 * shape.layers * shape.attention_width * pairs)


def training_pass(work: Work) -> Work:
    """A forward pass and its backward pass."""
    return Work(tokens=work.tokens, flops=work.flops * (1 + BACKWARD))


def sft_work(shape: Shape, config: SFTConfig, lengths: Lengths, *, demonstrations: int) -> Work:
    """All epochs over the demonstrations (SPEC 3.2)."""
    one = training_pass(forward(shape, lengths.sequence, predicted=lengths.response))
    return one * (config.epochs * demonstrations)


def reward_work(shape: Shape, config: RewardConfig, lengths: Lengths, *, rankings: int, responses: float) -> Work:
    """All epochs over the rankings; a prompt is computed once for its K responses (SPEC 3.3).

    With ``fit_head``, one more forward pass. With ``trained_layers``, the backward pass goes through these layers only.
    """

    def one(part: Shape) -> Work:
        return forward(part, lengths.prompt) + forward(part, lengths.response, before=lengths.prompt) * responses

    passes = config.gradient_epochs + config.fit_head
    forwards, learned = one(shape) * (passes * rankings), one(trained_part(shape, config)) * (config.gradient_epochs * rankings)
    return Work(tokens=forwards.tokens, flops=forwards.flops + BACKWARD * learned.flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOWork:
    """The parts of PPO: generating responses; forward passes of the four models; updates; pretraining gradients."""

    rollouts: Work
    judging: Work
    updates: Work
    pretraining: Work

    @property
    def total(self) -> Work:
        """The sum of all parts."""
        return self.rollouts + self.judging + self.updates + self.pretraining


def ppo_work(policy: Shape, reward: Shape, config: PPOConfig, lengths: Lengths, *, pretraining_length: float) -> PPOWork:
    """All episodes, with pretraining gradients unless their coefficient is 0 (SPEC 3.5, 3.6)."""
    episodes = config.iterations * config.batch_size
    of_policy = forward(policy, lengths.sequence, predicted=lengths.response)
    of_scalar = forward(reward, lengths.sequence)
    examples = config.ptx_examples_per_episode if config.ptx_coefficient else 0
    text = training_pass(forward(policy, pretraining_length, predicted=pretraining_length))
    return PPOWork(
        rollouts=of_policy * episodes,
        judging=(of_policy * 2 + of_scalar * 2) * episodes,
        updates=(training_pass(of_policy) + training_pass(of_scalar)) * (episodes * config.inner_epochs),
        # All inner epochs together use the pretraining batch once.
        pretraining=text * (episodes * examples),
    )
