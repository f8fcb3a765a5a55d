"""The plan of SFT, reward model and PPO: memory per GPU, operations, time, and what to change if a step does not fit.

It is computed only from the model's sizes and the settings (docs/planning.md has the formulae); nothing is loaded or
downloaded. The time on a CPU is based on a measurement of its speed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heedful.errors import ConfigError
from heedful.planning.compute import Lengths, Work, ppo_work, reward_work, sft_work
from heedful.planning.cpu_speed import CpuSpeed
from heedful.planning.memory import Memory, compute_bytes, peak, ppo_memory, reward_memory, sft_memory
from heedful.planning.shapes import Shape
from heedful.planning.text_lengths import LimitAdvice, TextLengths
from heedful.presets import Preset
from heedful.training.config import PPOConfig, StepConfig

GB = 1e9
FULL_CONTEXT = 2_048
"""The context window of the paper's models (SPEC 3.1). The paper's compute figures count every sequence at this length."""
DEMONSTRATIONS = 12_725
"""Number of demonstrations in the paper (SPEC 1.4: 11,295 by labelers and 1,430 by customers)."""
SMALL = "small PPO-ptx"
"""The step of a project's small model. Its reward model is the base model's."""
_MOST_GPUS = 65_536
UTILIZATION = {"gpu": 0.4, "cpu": 0.65}
"""Default share that training reaches of the operations per second in a GPU's data sheet, or of those measured in a CPU's
matrix products (docs/planning.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU's data sheet: bytes of memory, dense bf16 operations per second, bytes per second of memory bandwidth."""

    memory: float
    flops: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(memory=80 * GB, flops=312e12, bandwidth=2.04e12),
    "h100": Gpu(memory=80 * GB, flops=989e12, bandwidth=3.35e12),
    "h200": Gpu(memory=141 * GB, flops=989e12, bandwidth=4.8e12),
}
"""From NVIDIA's data sheets of the SXM versions. The few GB more that a card has are left to CUDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a plan assumes besides the model and the settings."""

    gpus: int
    """Number of GPUs; 0: this machine's CPU and memory."""
    gpu: str
    utilization: float
    """Share that training reaches of the operations per second in a GPU's data sheet, or of those measured on a CPU."""
    cpu: CpuSpeed | None = None
    """This machine's speed, if the plan is for a CPU. None: no time is estimated."""
    lengths: Lengths
    demonstrations: int
    rankings: int
    responses: float
    """Mean number of responses in a ranking, K (SPEC 2.3: 4 to 9)."""
    skip_sft: bool = False
    """Whether the base model is the SFT model."""

    @property
    def memory(self) -> float:
        """Bytes of memory of one GPU, or of this machine."""
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if self.gpus == 0 else GPUS[self.gpu].memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step: memory per GPU at each moment, operations counted in both ways, and seconds (None if not estimated)."""

    step: str
    moments: Mapping[str, Memory]
    true: Work
    full_context: Work
    seconds: float | None
    advice: str | None
    """What to change if the step does not fit; None if it fits."""

    @property
    def peak(self) -> Memory:
        """The moment that needs the most memory."""
        return max(self.moments.values(), key=lambda memory: memory.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedSetting:
    """A setting that depends on the model's size, and where its value comes from."""

    name: str
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of all steps for one model."""

    policy: Shape
    reward: Shape
    assumptions: Assumptions
    steps: tuple[StepPlan, ...]
    settings: tuple[SizedSetting, ...] = ()
    """The settings that depend on the model's size."""
    lengths: TextLengths | None = None
    """Lengths of a project's texts."""
    limits: LimitAdvice | None = None
    """What a project's limits do to its texts."""

    @property
    def verdict(self) -> str:
        """One line: what fits, what does not, and what to change."""
        a = self.assumptions
        where = "this machine's memory" if a.gpus == 0 else f"{a.gpus} × {a.gpu}"
        where += f" ({a.memory / GB:.0f} GB{' each' if a.gpus > 1 else ''})"
        fits = [s.step for s in self.steps if s.advice is None]
        rest = [f"{s.step} needs {s.peak.total / GB:,.1f} GB: {s.advice}" for s in self.steps if s.advice is not None]
        if not rest:
            return f"All steps fit {where}."
        return f"{', '.join(fits) or 'Nothing'} fit{'' if len(fits) > 1 else 's'} {where}; " + "; ".join(rest) + "."


def make_plan(policy: Shape, reward: Shape, preset: Preset, assumptions: Assumptions, small: Shape | None = None) -> Plan:
    """Plan SFT, reward model and PPO, and PPO-ptx of a project's small model.

    Raises ConfigError if an assumption or a limit is out of range.
    """
    _check(policy, preset, assumptions)
    a, lengths = assumptions, assumptions.lengths
    full = Lengths(prompt=0, response=min(FULL_CONTEXT, policy.context))
    largest_k = preset.collect.largest_k
    sft_memory_at: _MemoryAt = lambda config, gpus: sft_memory(policy, config, gpus=gpus)  # noqa: E731
    reward_memory_at: _MemoryAt = lambda config, gpus: reward_memory(reward, config, responses=largest_k, gpus=gpus)  # noqa: E731

    sft = [sft_work(policy, preset.sft, some, demonstrations=a.demonstrations) for some in (lengths, full)]
    ranked: dict[str, Any] = {"rankings": a.rankings, "responses": a.responses}
    rm = [reward_work(reward, preset.reward, some, **ranked) for some in (lengths, full)]
    sft_step = _step("SFT", preset.sft, sft_memory_at, sft[0], sft[1], _seconds(sft[0], a), a)
    return Plan(
        policy=policy,
        reward=reward,
        assumptions=a,
        steps=(
            *(() if a.skip_sft else (sft_step,)),
            _step("reward model", preset.reward, reward_memory_at, rm[0], rm[1], _seconds(rm[0], a), a),
            _ppo_step("PPO-ptx" if preset.ppo.ptx_coefficient else "PPO", policy, reward, preset.ppo, full, a),
            *(() if small is None else (_ppo_step(SMALL, small, reward, preset.small_model.ppo(preset.ppo), full, a),)),
        ),
    )


def _ppo_step(name: str, policy: Shape, reward: Shape, config: PPOConfig, full: Lengths, a: Assumptions) -> StepPlan:
    true, counted = (
        ppo_work(policy, reward, config, some, pretraining_length=text)
        for some, text in ((a.lengths, config.ptx_context_length), (full, full.sequence))
    )
    seconds, decoding = _seconds(true.total, a), _decoding_seconds(policy, config, a)
    if seconds is not None and decoding is not None:
        rollouts = _seconds(true.rollouts, a)
        assert rollouts is not None
        seconds += max(0.0, decoding - rollouts)
    memory_at: _MemoryAt = lambda config, gpus: ppo_memory(policy, reward, config, gpus=gpus)  # noqa: E731
    return _step(name, config, memory_at, true.total, counted.total, seconds, a)


_MemoryAt = Callable[[Any, int], dict[str, Memory]]


def _step(
    name: str, config: StepConfig, memory_at: _MemoryAt, true: Work, full: Work, seconds: float | None, a: Assumptions
) -> StepPlan:
    moments = memory_at(config, a.gpus)
    advice = None if peak(moments) <= a.memory else _advice(config, memory_at, a)
    return StepPlan(step=name, moments=moments, true=true, full_context=full, seconds=seconds, advice=advice)


def _advice(config: StepConfig, memory_at: _MemoryAt, a: Assumptions) -> str:
    """What makes a step fit: the smallest change to microbatches, then to the number of GPUs, or something else."""

    def fits(tokens: int, gpus: int) -> bool:
        return peak(memory_at(replace(config, tokens_per_microbatch=tokens), gpus)) <= a.memory

    sizes = [config.tokens_per_microbatch >> i for i in range(1, 24) if config.tokens_per_microbatch >> i]
    for tokens in sizes:
        if fits(tokens, a.gpus):
            return f"set tokens_per_microbatch = {tokens}"
    if a.gpus == 0:
        return "use a GPU, a smaller model, or shorter max_prompt_tokens and max_response_tokens"
    if getattr(config, "lora_rank", 0):  # adapters train on one GPU only
        return "use a GPU with more memory, or shorter max_prompt_tokens and max_response_tokens"
    enough = _fewest_gpus(lambda gpus: fits(1, gpus), a.gpus)
    if enough is not None:
        tokens = next(size for size in (config.tokens_per_microbatch, *sizes) if fits(size, enough))
        smaller = "" if tokens == config.tokens_per_microbatch else f" and set tokens_per_microbatch = {tokens}"
        return f"use {enough:,} GPUs{smaller}"
    return "no number of GPUs is enough: shorten max_prompt_tokens and max_response_tokens, or use GPUs with more memory"


def _fewest_gpus(fits: Callable[[int], bool], more_than: int) -> int | None:
    """The fewest GPUs above ``more_than`` on which the step fits. With more GPUs, each never needs more memory."""
    low, high = more_than, more_than * 2
    while not fits(high):
        low, high = high, high * 2
        if high > _MOST_GPUS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _seconds(work: Work, a: Assumptions) -> float | None:
    speed = _speed(a)
    return None if speed is None else work.flops / (speed.flops * a.utilization)


def _speed(a: Assumptions) -> CpuSpeed | None:
    """The speed of all GPUs together from their data sheet, or of the CPU as measured (None if it was not)."""
    if a.gpus == 0:
        return a.cpu
    return CpuSpeed(flops=a.gpus * GPUS[a.gpu].flops, bandwidth=a.gpus * GPUS[a.gpu].bandwidth)


def _decoding_seconds(policy: Shape, config: PPOConfig, a: Assumptions) -> float | None:
    """Seconds for the rollouts if memory bandwidth is the limit: each step reads all weights, and all earlier keys and values.

    A batch takes as many steps as its longest response has tokens. Weights and cache are split over the GPUs.
    """
    speed = _speed(a)
    if speed is None:
        return None
    size = compute_bytes(config.precision)
    weights = policy.parameters * size * config.max_response_tokens
    seen = a.lengths.prompt + a.lengths.response / 2
    per_token = 2 * policy.layers * policy.key_width * size
    cache = config.batch_size * a.lengths.response * seen * per_token
    return config.iterations * (weights + cache) / speed.bandwidth


def _check(policy: Shape, preset: Preset, a: Assumptions) -> None:
    longest = preset.sft.max_prompt_tokens + preset.sft.max_response_tokens
    problems = (
        (a.gpus < 0, "--gpus is out of range", "0 (this machine's CPU) or more", str(a.gpus)),
        (
            a.gpus > 1 and preset.ppo.lora_rank > 0,
            "adapters (LoRA) are trained on one GPU",
            "--gpus 1 with --lora-rank above 0",
            f"--gpus {a.gpus}",
        ),
        (not 0 < a.utilization <= 1, "--utilization is out of range", "a share above 0 and up to 1", str(a.utilization)),
        (min(a.lengths.prompt, a.lengths.response) <= 0, "a mean length is out of range", "tokens above 0", str(a.lengths)),
        (min(a.demonstrations, a.rankings) <= 0, "there is no data to plan for", "a number above 0", "0 or less"),
        (
            longest > policy.context,
            "prompt and response do not fit the model's context window",
            f"at most {policy.context:,} tokens together",
            f"{longest:,} (the preset's max_prompt_tokens and max_response_tokens)",
        ),
    )
    for wrong, message, expected, got in problems:
        if wrong:
            raise ConfigError(message, expected=expected, got=got, next_step="see `heedful plan --help`")
