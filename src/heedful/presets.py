"""Complete configurations: the paper's for its three sizes, ours for any size, the built-in miniature's, and a project's own.

No torch here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from heedful.errors import ConfigError
from heedful.planning.rates_by_size import Sized, values_by_size
from heedful.project.data_folder import Records
from heedful.project.project import Project, config_from_mapping
from heedful.project.refusals import Refusals, apart, refusals_in
from heedful.project.structure import nearest
from heedful.training.alternatives_config import (
    AlternativesConfig,
    BestOfNConfig,
    DPOConfig,
    ExpertIterationConfig,
    GroupRewardConfig,
)
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig, check_fields

PaperSize = Literal["1.3B", "6B", "175B"]
SECTIONS = (
    "sft",
    "initial_policy",
    "task_mixture",
    "reward",
    "ppo",
    "collect",
    "evaluate",
    "rounds",
    "alternatives",
    "dpo",
    "expert_iteration",
    "cloning",
    "best_of_n",
    "reward_by_group",
    "refusals",
    "small_model",
)
"""The tables of heedful.toml besides [project]: the fields of a Preset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """Ranking tasks: how many, from which outputs (SPEC 2.3)."""

    prompts: int = 33_207
    """Training prompts with ranked outputs (SPEC 1.4, Table 6: 6,623 + 26,584)."""
    validation_prompts: int = 17_887
    """Validation prompts with ranked outputs (SPEC 1.4, Table 6: 3,488 + 14,399)."""
    smallest_k: int = 4
    """Fewest outputs per prompt (SPEC 2.3)."""
    largest_k: int = 9
    """Most outputs per prompt (SPEC 2.3)."""
    labelers_per_prompt: int = 1
    """Labelers who rank the outputs of each training prompt (ours). People rank validation prompts as often; for simulated
    labelers see `agreement_labelers`. The reward model computes the outputs once for all labelers."""
    temperature: float = 1.0
    """Sampling temperature of the outputs (ours)."""
    other_models_share: float = 0.25
    """Share of a prompt's outputs that come from earlier SFT candidates; the last candidate writes the rest (the paper's come
    mostly from SFT policies, SPEC 3.8; the share is ours)."""
    max_response_tokens: int | None = None
    """Longest output, in tokens (ours). None: as `[sft]` says."""
    agreement_labelers: int = 2
    """Simulated labelers of each group who rank the outputs of each validation prompt, to measure their agreement (SPEC
    2.4)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=(
                "prompts",
                "validation_prompts",
                "smallest_k",
                "labelers_per_prompt",
                "agreement_labelers",
                "max_response_tokens",
            ),
            shares=("other_models_share",),
        )
        if not 2 <= self.smallest_k <= self.largest_k:
            raise ConfigError(
                "CollectConfig: smallest_k and largest_k are out of range",
                expected="2 <= smallest_k <= largest_k: one output alone cannot be ranked",
                got=f"{self.smallest_k} and {self.largest_k}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Evaluation by labelers and benchmarks (SPEC 4)."""

    prompts: int = 1_000
    """Held-out users' prompts that all models answer (ours)."""
    labelers_per_prompt: int = 2
    """Labelers who judge each prompt's outputs (ours): from each group if simulated, otherwise from the held-out group."""
    temperature: float = 1.0
    """Sampling temperature of all models (ours; benchmarks use 0, SPEC 4.2)."""
    benchmark_items: int = 500
    """Items of each benchmark."""
    max_response_tokens: int | None = None
    """Longest response of all models, in tokens (ours). None: as `[sft]` says. Changing it trains nothing again."""
    choice_prompts: int = 500
    """Validation prompts used to choose the SFT checkpoint and the few-shot prefix by RM score (SPEC 3.2, 3.7)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("prompts", "labelers_per_prompt", "benchmark_items", "choice_prompts", "max_response_tokens"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """Further rounds of feedback, `heedful align PROJECT --round 2` and so on (SPEC 3.8). What is not here is as in round 1."""

    prompts: int = 6_000
    """Training prompts of each further round whose outputs labelers rank (ours)."""
    validation_prompts: int = 600
    """Validation prompts of each further round whose outputs labelers rank (ours)."""
    choose: Literal["random", "disagreement"] = "random"
    """Which training prompts labelers get: any, or those on whose outputs an ensemble of reward models disagrees most
    (ours)."""
    prompts_sampled: int = 2
    """With `disagreement`: how many times as many prompts are answered as labelers get (ours)."""
    ensemble: int = 3
    """With `disagreement`: reward models, which differ in the first weights of the head and in the order of the data (ours)."""
    sft_share: float = 0.6
    """Share of the outputs to rank that SFT models write; the policy of the last round writes the rest. The paper's comparisons
    come mostly from SFT policies and some from PPO policies (SPEC 3.8); the share is ours."""
    policy: Literal["fresh", "onwards"] = "fresh"
    """Where PPO starts in each further round: fresh from an initial policy (trained again if there are new demonstrations), or
    onwards from the policy of the last round (the paper does not say)."""
    confidence: float = 0.95
    """Confidence of the interval in the rule: a new policy is accepted only if the whole interval of its win rate against the
    last round's policy is above 50 % (ours)."""
    largest_drop: float = 2.0
    """The most that any of the miniature's benchmarks may fall below the last round's policy, in points (hundredths of the
    score), for a new policy to be accepted (ours). A drop whose 95 % interval holds 0 may be chance and does not count."""
    benchmarks: dict[str, float] = field(default_factory=dict[str, float])
    """Public benchmarks in the rule, and how many points each may fall below the last round's policy for a new policy to be
    accepted: `benchmarks = {squad_v2 = 3.0, "drop.few-shot" = 3.0}`. `[evaluate] benchmark_items` items of each are asked. A
    drop whose 95 % interval holds 0 may be chance and does not count."""
    benchmark_data: str = "data/benchmarks"
    """Folder with their data, absolute or relative to the project, as `heedful evaluate benchmarks --data` reads it."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("prompts", "validation_prompts", "prompts_sampled"),
            shares=("sft_share",),
        )
        if self.ensemble < 2:
            raise ConfigError(
                "RoundsConfig: ensemble is out of range",
                expected="2 or more: one reward model agrees with itself",
                got=str(self.ensemble),
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(
                "RoundsConfig: confidence is out of range",
                expected="a number between 0 and 1, such as 0.95",
                got=repr(self.confidence),
            )
        for name, points in self.benchmarks.items():
            if not 0 <= points < math.inf:
                raise ConfigError(
                    f"RoundsConfig: benchmarks: {name} is out of range",
                    expected="how many points it may fall: 0 or above",
                    got=repr(points),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsConfig:
    """What the model declines (SPEC 7): docs/refusals.md."""

    policy: str | None = None
    """The policy file, with a table for each category: absolute or relative to the project. None: nothing is declined or
    measured, and marked prompts are not used."""
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """How much each example of a category counts in the losses, beside any other (ours): `weights = {medical = 2, sales = 0}`.
    1 where none is given. 0: models do not learn the category, but the check still measures it."""
    answers: int = 3
    """The SFT model's answers to each marked training prompt, which are compared with the refusal (ours)."""

    def __post_init__(self) -> None:
        check_fields(self, positive=("answers",))
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(
                    f"RefusalsConfig: weights: {name} is out of range",
                    expected="a finite number of 0 or above",
                    got=repr(weight),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallModelConfig:
    """How the training of `[project] small_model` differs from the base model's. None: it does not."""

    learning_rate: float | None = None
    """Learning rate of its policy in PPO-ptx (ours). None: that of `[ppo]`."""
    episodes: int | None = None
    """Episodes of its PPO-ptx run (ours). None: those of `[ppo]`."""
    initial_learning_rate: float | None = None
    """Learning rate of its initial policy (ours). None: that of `[initial_policy]`."""

    def __post_init__(self) -> None:
        check_fields(self, positive=("learning_rate", "episodes", "initial_learning_rate"))

    def initial_policy(self, config: SFTConfig) -> SFTConfig:
        """The settings of its initial policy, from those of the base model's."""
        return config if self.initial_learning_rate is None else replace(config, learning_rate=self.initial_learning_rate)

    def ppo(self, config: PPOConfig) -> PPOConfig:
        """The settings of its PPO-ptx run, from those of the base model's."""
        own = {"learning_rate": self.learning_rate, "episodes": self.episodes}
        return replace(config, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The longest texts of all stages, in one place: `[sft]`, `[initial_policy]`, `[reward]` and `[ppo]` follow it."""

    max_prompt_tokens: int | None = None
    """Longest prompt in tokens; longer ones are left out and counted. None: as the preset says."""
    max_response_tokens: int | None = None
    """Longest response in tokens. None: as the preset says."""

    def __post_init__(self) -> None:
        check_fields(self, positive=("max_prompt_tokens", "max_response_tokens"))

    def given(self) -> dict[str, int]:
        """The limits that are set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


LIMITED = ("sft", "initial_policy", "task_mixture", "reward", "ppo")
"""The tables that follow ``[limits]`` where they do not say otherwise; those of the alternatives to PPO do too."""
_TRAINED = ("dpo", "expert_iteration", "cloning")
"""The alternatives to PPO that are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One configuration for each stage; ``ppo`` is PPO-ptx, and plain PPO is the same with ``ptx_coefficient`` 0."""

    sft: SFTConfig
    initial_policy: SFTConfig
    task_mixture: SFTConfig
    reward: RewardConfig
    ppo: PPOConfig
    collect: CollectConfig
    evaluate: EvaluateConfig
    rounds: RoundsConfig
    alternatives: AlternativesConfig = field(default_factory=AlternativesConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    expert_iteration: ExpertIterationConfig = field(default_factory=ExpertIterationConfig)
    cloning: SFTConfig = field(default_factory=lambda: SFTConfig(epochs=1, candidates=1))
    best_of_n: BestOfNConfig = field(default_factory=BestOfNConfig)
    reward_by_group: GroupRewardConfig = field(default_factory=GroupRewardConfig)
    refusals: RefusalsConfig = field(default_factory=RefusalsConfig)
    small_model: SmallModelConfig = field(default_factory=SmallModelConfig)

    def __post_init__(self) -> None:
        if self.rounds.choose == "disagreement" and self.reward.trained_layers == 0:
            raise ConfigError(
                '[rounds] choose = "disagreement" needs reward models that differ',
                expected="[reward] trained_layers of at least 1, or none",
                got="trained_layers = 0: the head fitted to the same rankings is the same in each",
                next_step='set [reward] trained_layers, or [rounds] choose = "random"',
            )

    def answering(self, table: Literal["collect", "evaluate"]) -> SFTConfig:
        """SFT's limits and precision, which models answer under, with the table's own ``max_response_tokens`` if it has one."""
        own: int | None = getattr(self, table).max_response_tokens
        return self.sft if own is None else replace(self.sft, max_response_tokens=own)


def paper(size: PaperSize = "1.3B") -> Preset:
    """The paper's constants for one size (SPEC 3.2-3.6). Raises ConfigError for another size.

    The policy's learning rate in PPO is our choice. At 1.3B and 6B the paper scans 2.55e-6 to 2.55e-5 and says that rates above
    8.05e-6 diverge without ptx; we use 8.05e-6. At 175B it tried 2.55e-6 and 3.74e-6 and does not say which one it kept; we use
    the smaller one. The initial policy's 10 % of pretraining data are a share of the loss (the paper does not say of what).
    """
    sft_rates = {"1.3B": 9.65e-6, "6B": 9.65e-6, "175B": 5.03e-6}
    initial_rates = {"1.3B": 5e-6, "6B": 1.04e-5, "175B": 2.45e-6}
    policy_rates = {"1.3B": 8.05e-6, "6B": 8.05e-6, "175B": 2.55e-6}
    if size not in sft_rates:
        raise ConfigError("there is no such preset", expected="paper-1.3B, paper-6B or paper-175B", got=f"paper-{size}")
    batch = 8 if size == "175B" else 32
    sft = SFTConfig(learning_rate=sft_rates[size], batch_size=batch)
    return Preset(
        sft=sft,
        initial_policy=SFTConfig(
            epochs=2,
            learning_rate=initial_rates[size],
            batch_size=batch,
            pretraining_share=0.1,
            pretraining_share_of="loss",
            residual_dropout=0.2,
            candidates=2,
        ),
        # SPEC 3.7: batch 64; at 175B rates of 4e-6 and 6e-6 were tried. There were about a million examples; after how many the
        # paper compared checkpoints it does not say.
        task_mixture=SFTConfig(epochs=2, learning_rate=6e-6, batch_size=64, candidates=2),
        reward=RewardConfig(),
        ppo=PPOConfig(learning_rate=policy_rates[size], value_learning_rate=5e-6 if size == "175B" else 9e-6),
        collect=CollectConfig(),
        evaluate=EvaluateConfig(),
        rounds=RoundsConfig(),
    )


def with_alternatives(chosen: Preset) -> Preset:
    """The preset with settings of the alternatives to PPO that fit its other settings (SPEC 7 has none; these are ours).

    Expert iteration and cloning learn as SFT does; cloning makes one pass over what people preferred. DPO's learning rate is an
    eighth of PPO's: at 1.3B that is 1e-6, as in Rafailov et al. 2023.
    """
    sft, ppo = chosen.sft, chosen.ppo
    common: dict[str, Any] = {
        "seed": sft.seed,
        "tokens_per_microbatch": sft.tokens_per_microbatch,
        "lora_rank": sft.lora_rank,
        "max_prompt_tokens": sft.max_prompt_tokens,
        "max_response_tokens": sft.max_response_tokens,
    }
    rate = float(f"{ppo.learning_rate / 8:.3g}")
    return replace(
        chosen,
        dpo=DPOConfig(learning_rate=rate, **common),
        expert_iteration=ExpertIterationConfig(learning_rate=sft.learning_rate, batch_size=sft.batch_size, **common),
        cloning=replace(sft, epochs=1, candidates=1, residual_dropout=0.0),
    )


_SIZED = re.compile(r"(\d+(?:\.\d+)?)([MB])(-lora)?")
_SMALLEST = 1e6
_PRESETS = "miniature, paper-1.3B, paper-6B, paper-175B, or a number of parameters such as 0.5B, 7B or 7B-lora"


def sized(parameters: float, *, lora: bool = False) -> Preset:
    """The paper's settings, with learning rates and batch sizes for a model with this many parameters.

    lora: adapters are trained instead of the weights.
    """
    chosen = paper("1.3B")
    parts = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    for (table, key), found in values_by_size(parameters, lora=lora).items():
        kind = type(getattr(parts[table], key))
        parts[table] = replace(parts[table], **{key: kind(found.value)})
    # The task mixture is trained as SFT is: the paper has no rates of it for other sizes.
    sft: SFTConfig = parts["sft"]
    parts["task_mixture"] = replace(
        parts["task_mixture"],
        learning_rate=sft.learning_rate,
        residual_dropout=sft.residual_dropout,
        lora_rank=sft.lora_rank,
    )
    return Preset(**parts)


def sized_name(parameters: float, *, lora: bool = False) -> str:
    """The name of the preset for a model with this many parameters: 0.135B, 7.24B-lora."""
    return f"{max(parameters, _SMALLEST) / 1e9:.3g}B" + ("-lora" if lora else "")


def sources(name: str) -> dict[tuple[str, str], Sized]:
    """(table, key) -> value and source of what a preset by size chooses for the size; empty for other presets."""
    found = _SIZED.fullmatch(name)
    return {} if found is None else values_by_size(_parameters(found), lora=found[3] is not None)


def _parameters(found: re.Match[str]) -> float:
    parameters = float(found[1]) * {"M": 1e6, "B": 1e9}[found[2]]
    if parameters < _SMALLEST:
        raise ConfigError("there is no such preset", expected="at least 1M parameters", got=found[0])
    return parameters


def miniature(seed: int = 0) -> Preset:
    """The built-in miniature on two CPU cores: the same steps for models of 0.35M and 1.5M parameters.

    Learning rates suit small models, there are fewer episodes, and texts are short. Comments below explain all other
    differences from the paper.
    """
    limits: dict[str, Any] = {"max_prompt_tokens": 128, "max_response_tokens": 72}
    common: dict[str, Any] = {"seed": seed, "tokens_per_microbatch": 32_768}
    return Preset(
        sft=SFTConfig(epochs=16, learning_rate=1e-3, batch_size=32, residual_dropout=0.1, candidates=4, **limits, **common),
        # As many epochs as SFT: two epochs of 150 demonstrations are 10 steps, too few for a policy to start PPO from. The last
        # model is kept: the losses, which the paper chooses by after two epochs, would choose the first quarter, and labelers
        # like what PPO makes of that one less (docs/log.md).
        initial_policy=SFTConfig(
            epochs=16,
            learning_rate=1e-3,
            batch_size=32,
            pretraining_share=0.1,
            pretraining_share_of="loss",
            residual_dropout=0.1,
            candidates=1,
            **limits,
            **common,
        ),
        task_mixture=SFTConfig(
            epochs=2, learning_rate=1e-3, batch_size=32, residual_dropout=0.1, candidates=2, **limits, **common
        ),
        # Two epochs, not the paper's one: a model of this size still learns in the second (docs/log.md).
        reward=RewardConfig(epochs=2, learning_rate=4e-4, batch_size=16, **limits, **common),
        ppo=PPOConfig(
            episodes=24_576,
            # Two passes over each batch, in as many optimiser steps of twice as many episodes each: with so few episodes,
            # the policy learns more from each and drifts less (docs/log.md).
            batch_size=256,
            minibatches=4,
            inner_epochs=2,
            learning_rate=3e-4,
            value_learning_rate=1e-3,
            warmup_iterations=5,
            average_decay=0.95,
            # Two epochs of rankings make reward differences large: with 0.12 the policy drifts away from the outputs that the
            # reward model knows, and labelers like it less (docs/log.md).
            kl_coefficient=0.18,
            # One pretraining sequence per episode instead of eight, at 30 times the paper's learning rates: with 27.8 it would
            # undo the fine-tuning. With 80 tokens most reading passages were cut before their questions (docs/log.md).
            ptx_coefficient=0.5,
            ptx_examples_per_episode=1,
            ptx_context_length=160,
            samples_every=20,
            **limits,
            **common,
        ),
        # Two labelers per prompt: with so few prompts, one labeler's noise hides too much; a third helps less than more
        # prompts do (docs/log.md).
        collect=CollectConfig(prompts=20_000, validation_prompts=500, labelers_per_prompt=2, other_models_share=0.3),
        evaluate=EvaluateConfig(prompts=1_000, labelers_per_prompt=2, benchmark_items=200, choice_prompts=128),
        rounds=RoundsConfig(prompts=3_000, validation_prompts=150),
        # A third of the episodes: it is compared with the base model, far below both.
        small_model=SmallModelConfig(episodes=8_192),
        # The best of four points on validation prompts. At 1e-4 with beta 0.1 DPO loses to SFT (docs/log.md).
        dpo=DPOConfig(learning_rate=3e-5, beta=0.5, batch_size=32, **limits, **common),
        expert_iteration=ExpertIterationConfig(samples=8, learning_rate=3e-4, **limits, **common),
        cloning=SFTConfig(epochs=1, learning_rate=3e-4, residual_dropout=0.0, candidates=1, **limits, **common),
    )


def preset(name: str, *, seed: int = 0) -> Preset:
    """A preset by name: ``miniature``, ``paper-1.3B``, ``paper-6B``, ``paper-175B``, or by size: ``0.135B``, ``7B-lora``.

    Raises ConfigError.
    """
    if name == "miniature":
        return miniature(seed)
    if name.startswith("paper-"):
        chosen = paper(name.removeprefix("paper-"))  # pyright: ignore[reportArgumentType]
    elif found := _SIZED.fullmatch(name):
        chosen = sized(_parameters(found), lora=found[3] is not None)
    else:
        raise ConfigError("there is no such preset", expected=_PRESETS, got=name)
    seeded = ("sft", "initial_policy", "task_mixture", "reward", "ppo")
    chosen = replace(chosen, **{name: replace(getattr(chosen, name), seed=seed) for name in seeded})
    return with_alternatives(chosen)


def resolved_preset(project: Project) -> Preset:
    """The project's preset, overridden by its heedful.toml. Raises ConfigError for unknown tables or keys."""
    try:
        chosen = preset(project.preset, seed=project.seed)
    except ConfigError as error:
        where = f"{project.config_file} [project]"
        raise ConfigError(error.message, expected=error.expected, got=error.got, where=where, next_step="correct it") from None
    tables = ("limits", *SECTIONS)
    for name in project.settings:
        if name not in tables:
            close = nearest(name, tables)
            raise ConfigError(
                f"heedful.toml has an unknown table [{name}]",
                expected="[project] or " + ", ".join(f"[{s}]" for s in tables),
                got=f"[{name}]",
                where=project.config_file,
                next_step=f"did you mean [{close}]?" if close else "remove it",
            )
    limits = config_from_mapping(Limits, project.settings.get("limits", {}), f"{project.config_file} [limits]").given()
    parts: dict[str, Any] = {}
    for name in SECTIONS:
        given = project.settings.get(name, {})
        base = getattr(chosen, name)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{name} is not a table", expected=f"[{name}]", got=repr(given), where=project.config_file)
        given = {key: _newer_word(name, key, value) for key, value in given.items()}
        values = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        if "engine" in values:
            values["engine"] = project.engine
        parts[name] = config_from_mapping(
            type(base),
            {**values, **(limits if name in (*LIMITED, *_TRAINED) else {}), **given},
            f"{project.config_file} [{name}]",
        )
    return Preset(**parts)


def records_and_refusals(project: Project, preset: Preset, everything: Records) -> tuple[Records, Refusals | None]:
    """The project's records without marked prompts, and what its model declines; None without a policy.

    Raises ConfigError for simulated labelers, who have no marked prompts, and as :func:`heedful.project.refusals.refusals_in`.
    """
    records, marked = apart(everything)
    config = preset.refusals
    if config.policy is None:
        return records, None
    if project.labelers == "simulated":
        raise ConfigError(
            "simulated labelers have no refusals",
            expected="a project whose prompts are people's, for [refusals] policy",
            got='labelers = "simulated"',
            where=project.config_file,
            next_step="take policy out of [refusals]",
        )
    path = project.folder / Path(config.policy).expanduser()
    return records, refusals_in(path, config.weights, marked, data=project.data, config=project.config_file)


def _newer_word(table: str, key: str, value: object) -> object:
    """A value of heedful.toml, in today's word if an older version had another one."""
    return "fresh" if (table, key, value) == ("rounds", "policy", "anew") else value


_SHOWN = {
    "sft": ("epochs", "learning_rate", "batch_size"),
    "initial_policy": ("epochs", "learning_rate", "pretraining_share"),
    "reward": ("learning_rate", "batch_size"),
    "ppo": ("episodes", "learning_rate", "value_learning_rate", "kl_coefficient", "ptx_coefficient"),
    "collect": ("prompts", "smallest_k", "largest_k"),
    "evaluate": ("prompts", "choice_prompts"),
}
"""What a new heedful.toml shows of each table, besides what the preset chooses for the size."""

_HINTS = {
    "reward": (
        "#   With few comparisons (one or two thousand, say), these two lines did better on a small chat model:",
        "#   fit_head = true",
        "#   trained_layers = 3",
    )
}


def tables_as_comments(name: str) -> str:
    """The tables of a new heedful.toml, commented out: a preset's values, and where those for the size come from."""
    chosen, found = preset(name), sources(name)
    lines: list[str] = []
    for table, keys in _SHOWN.items():
        config = getattr(chosen, table)
        lines += ["", f"# [{table}]"]
        for key in dict.fromkeys((*keys, *(k for t, k in found if t == table))):
            value = getattr(config, key)
            lines.append(f"# {key} = {f'{value:_}' if isinstance(value, int) else repr(value)}")
            if (table, key) in found:
                lines.append(f"#   {found[table, key].source}")
        lines += _HINTS.get(table, ())
    return "\n".join(lines[1:]) + "\n"
