"""The table of experiments: which policies each one trains, what it measures, and what the paper found. No torch here.

An experiment changes a few settings of the stages that ``heedful align`` has done. A *variant* is one of its policies: a point
in the figure. Variants with the project's own settings are not trained again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from heedful.errors import ConfigError
from heedful.presets import Preset
from heedful.project.structure import nearest
from heedful.training.config import PPOConfig

PolicyStage = Literal["ppo", "ppo_ptx"]
PLAIN, MIXED = "PPO", "PPO-ptx"
MEASURES: Mapping[str, str] = {
    "win_rate": "expected win rate against SFT",
    "likert": "expected overall quality, 1 to 7",
    "faultless": "share of faultless answers",
    "reward": "mean reward",
    "held_out_reward": "mean reward by a held-out reward model",
    "benchmarks": "mean score of the benchmarks",
    "text_loss": "loss on pretraining text, nats per token",
    "kl": "KL from the initial policy, nats per response",
    "length": "tokens per response",
}
"""Measures of a policy, and their titles in figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One policy to train."""

    stage: PolicyStage
    series: str
    """The line of the figure that it belongs to."""
    value: float
    """Its x value."""
    ppo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of ``[ppo]`` that differ from the project's."""
    initial_policy: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of ``[initial_policy]`` that differ from the project's; if any, another initial policy is trained first."""
    seed: int = 0
    """Added to the project's seed."""


Variants = Callable[[Preset, Sequence[float]], list[Variant]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One row of the table."""

    name: str
    title: str
    source: str
    """Where it is in the paper."""
    paper: str
    """What the paper found."""
    x: str
    """The meaning of the values, as a label for the x axis."""
    panels: tuple[str, ...]
    """The measures to draw, one plot each; measures that a project lacks are left out."""
    grid: Callable[[Preset], list[float]]
    """The default values, given a project's settings."""
    variants: Variants
    seeds: int = 1
    x_measure: str | None = None
    """If set, the x axis is this measure instead of the value."""
    logarithmic: bool = True


def _multiples(field_name: str, *factors: float) -> Callable[[Preset], list[float]]:
    """Multiples of the project's setting in ``[ppo]``, or of the paper's if that is 0; integers if the setting is one."""

    def values(preset: Preset) -> list[float]:
        own = getattr(preset.ppo, field_name) or getattr(PPOConfig(), field_name)
        found = [own * factor for factor in factors]
        if isinstance(own, int):
            return sorted({float(max(1, round(value))) for value in found})
        return [float(f"{value:.6g}") for value in found]

    return values


def _fixed(*values: float) -> Callable[[Preset], list[float]]:
    return lambda preset: list(values)


def _of(stage: PolicyStage, field_name: str) -> Variants:
    """One line: a setting of ``[ppo]`` for each value."""

    def variants(preset: Preset, values: Sequence[float]) -> list[Variant]:
        whole = isinstance(getattr(preset.ppo, field_name), int)
        series = PLAIN if stage == "ppo" else MIXED
        return [
            Variant(stage=stage, series=series, value=value, ppo={field_name: _whole(value, field_name) if whole else value})
            for value in values
        ]

    return variants


def _whole(value: float, what: str) -> int:
    if value != round(value) or value < 1:
        raise ConfigError(f"{what} is a whole number", expected="1 or more", got=f"{value:g}")
    return int(value)


def _gamma(preset: Preset, values: Sequence[float]) -> list[Variant]:
    """At 0 the variant is the stage ``ppo``, which most projects have done already."""
    mixed = _of("ppo_ptx", "ptx_coefficient")(preset, values)
    return [replace(one, stage="ppo", ppo={}) if one.value == 0 else one for one in mixed]


def _learning_rates(preset: Preset, values: Sequence[float]) -> list[Variant]:
    return _of("ppo", "learning_rate")(preset, values) + _of("ppo_ptx", "learning_rate")(preset, values)


def _initial_mix(preset: Preset, values: Sequence[float]) -> list[Variant]:
    """Shares of pretraining text, each with the project's epochs and with half of them (the paper: two and one)."""
    epochs = preset.initial_policy.epochs
    found: list[Variant] = []
    for number in sorted({max(1, epochs // 2), epochs}):
        kept = min(number, preset.initial_policy.candidates)
        for value in values:
            own = {"pretraining_share": value, "epochs": number, "candidates": kept}
            series = f"{number} epoch{'' if number == 1 else 's'}"
            found.append(Variant(stage="ppo_ptx", series=series, value=value, initial_policy=own))
    return found


def _batches(preset: Preset, values: Sequence[float]) -> list[Variant]:
    """Episodes per iteration; the minibatch size (64 in the paper) and the number of episodes stay the same."""
    size = preset.ppo.batch_size // preset.ppo.minibatches
    found: list[Variant] = []
    for value in values:
        batch = _whole(value, "batch_size")
        if batch % size and batch > size:
            raise ConfigError("the batch is not a multiple of the minibatch", expected=f"multiples of {size}", got=str(batch))
        own = {"batch_size": batch, "minibatches": max(1, batch // size)}
        found.append(Variant(stage="ppo_ptx", series=MIXED, value=value, ppo=own))
    return found


def _minibatches(preset: Preset, values: Sequence[float]) -> list[Variant]:
    """Episodes per optimiser step."""
    found: list[Variant] = []
    for value in values:
        size = _whole(value, "the size of a minibatch")
        if preset.ppo.batch_size % size:
            raise ConfigError(
                "the batch is not a multiple of the minibatch",
                expected=f"a divisor of batch_size = {preset.ppo.batch_size}",
                got=str(size),
            )
        own = {"minibatches": preset.ppo.batch_size // size}
        found.append(Variant(stage="ppo_ptx", series=MIXED, value=value, ppo=own))
    return found


def _minibatch_sizes(preset: Preset) -> list[float]:
    """A quarter, half, one and two times the project's own size, as far as they divide the batch."""
    own = preset.ppo.batch_size // preset.ppo.minibatches
    sizes = {own // 4, own // 2, own, 2 * own}
    return [float(size) for size in sorted(sizes) if size >= 1 and preset.ppo.batch_size % size == 0]


def _batch_sizes(preset: Preset) -> list[float]:
    """From one minibatch up to twice the project's own batch."""
    size, own = preset.ppo.batch_size // preset.ppo.minibatches, preset.ppo.batch_size
    return [
        float(value) for value in sorted({max(size, own // 4 // size * size), max(size, own // 2 // size * size), own, 2 * own})
    ]


def _episodes(*shares: float) -> Callable[[Preset], list[float]]:
    """Shares of the project's episodes, in whole batches."""

    def values(preset: Preset) -> list[float]:
        own = preset.ppo
        counts = {max(1, round(own.iterations * share)) * own.batch_size for share in shares if share != 1}
        return sorted(float(count) for count in counts | ({own.episodes} if 1 in shares else set()))

    return values


def _both_lengths(preset: Preset, values: Sequence[float]) -> list[Variant]:
    return _of("ppo", "episodes")(preset, values) + _of("ppo_ptx", "episodes")(preset, values)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="gamma",
        title="Pretraining coefficient: does PPO-ptx undo the alignment tax?",
        source="figure 33",
        paper="At 1.3B, a coefficient of at least 20 recovers the regressions on SQuADv2 and DROP.",
        x="pretraining coefficient (gamma)",
        panels=("benchmarks", "text_loss", "reward", "win_rate"),
        grid=_multiples("ptx_coefficient", 0, 0.1, 0.3, 1, 3),
        variants=_gamma,
    ),
    Experiment(
        name="kl",
        title="KL coefficient without pretraining gradients: can it undo the alignment tax?",
        source="figure 34",
        paper="Even 100 times the KL coefficient does not recover the regressions.",
        x="KL coefficient (beta)",
        panels=("benchmarks", "text_loss", "reward", "win_rate"),
        grid=_multiples("kl_coefficient", 0.1, 1, 10, 100),
        variants=_of("ppo", "kl_coefficient"),
    ),
    Experiment(
        name="likert",
        title="KL coefficient and the overall quality that labelers see",
        source="figure 36",
        paper="0 and 2 are both worse; the best are 0.01 and 0.02.",
        x="KL coefficient (beta)",
        panels=("likert", "win_rate", "held_out_reward", "reward", "kl"),
        grid=_multiples("kl_coefficient", 0, 0.1, 0.5, 1, 10, 100),
        variants=_of("ppo_ptx", "kl_coefficient"),
    ),
    Experiment(
        name="longer-training",
        title="Longer training: does it help, or does it cost abilities?",
        source="figure 35",
        paper="Three seeds; the paper's text gives no numbers for the figure.",
        x="episodes",
        panels=("win_rate", "held_out_reward", "reward", "benchmarks", "text_loss", "kl"),
        grid=_episodes(0.5, 1, 2),
        variants=_both_lengths,
        seeds=3,
    ),
    Experiment(
        name="initial-mix",
        title="Pretraining text in the initial policy",
        source="figure 37",
        paper="Shares of 0, 10 and 50 %, with one and two epochs; it took 10 % and two epochs.",
        x="share of pretraining text",
        panels=("win_rate", "held_out_reward", "reward", "benchmarks", "text_loss"),
        grid=_fixed(0, 0.1, 0.5),
        variants=_initial_mix,
        logarithmic=False,
    ),
    Experiment(
        name="learning-rate",
        title="Learning rate of the policy, with and without pretraining gradients",
        source="figure 38",
        paper="From 2.55e-6 to 2.55e-5: without pretraining gradients everything above 8.05e-6 diverges.",
        x="learning rate",
        panels=("win_rate", "held_out_reward", "reward", "kl", "benchmarks"),
        grid=_multiples("learning_rate", 0.316, 1, 3.16, 10),
        variants=_learning_rates,
    ),
    Experiment(
        name="pretraining-ratio",
        title="Pretraining examples for each episode",
        source="appendix E.11",
        paper="It tried 4, 8 and 32 examples for each episode, and took 8.",
        x="pretraining examples per episode",
        panels=("benchmarks", "text_loss", "win_rate", "held_out_reward", "reward"),
        grid=_multiples("ptx_examples_per_episode", 0.5, 1, 2, 4),
        variants=_of("ppo_ptx", "ptx_examples_per_episode"),
    ),
    Experiment(
        name="batch-size",
        title="Episodes per iteration",
        source="appendix E.11",
        paper="It tried batches from 64 to 1,024 episodes, and took 512.",
        x="episodes per iteration",
        panels=("win_rate", "held_out_reward", "reward", "benchmarks", "kl"),
        grid=_batch_sizes,
        variants=_batches,
    ),
    Experiment(
        name="minibatch-size",
        title="Episodes per optimiser step",
        source="appendix E.11",
        paper="It tried minibatches from 8 to 64 episodes, and took 64.",
        x="episodes per optimiser step",
        panels=("win_rate", "held_out_reward", "reward", "benchmarks", "kl"),
        grid=_minibatch_sizes,
        variants=_minibatches,
    ),
    Experiment(
        name="over-optimisation",
        title="Over-optimisation: the true quality while the reward rises",
        source="a figure of Gao et al. 2022, arXiv 2210.10760",
        paper="Not in the paper. Gao et al.: as KL grows, the reward goes on rising while the true quality turns.",
        x="square root of KL from the initial policy, nats per response",
        panels=("win_rate", "held_out_reward", "reward"),
        grid=_episodes(0.125, 0.25, 0.5, 1),
        variants=_of("ppo", "episodes"),
        x_measure="kl",
    ),
)
LABELER_GROUPS = "labeler-groups"
"""Trains reward models and no policy (:mod:`heedful.experiments.labeler_groups`)."""
PROMPT_CHOICE = "prompt-choice"
"""Trains reward models and no policy (:mod:`heedful.experiments.prompt_choice`)."""
SUMMARIES: Mapping[str, str] = {
    **{one.name: f"{one.title} ({one.source})" for one in EXPERIMENTS},
    LABELER_GROUPS: "Does a reward model generalize to labelers it never saw? (appendix E.2)",
    PROMPT_CHOICE: "Are rankings worth more where reward models disagree than at random? (ours; simulated labelers)",
}
"""Name -> its line in ``heedful experiment --list``."""


def experiment_named(name: str) -> Experiment:
    """The row with this name. Raises ConfigError, with the nearest name."""
    found = next((one for one in EXPERIMENTS if one.name == name), None)
    if found is not None:
        return found
    close = nearest(name, SUMMARIES)
    raise ConfigError(
        f"there is no experiment {name!r}",
        expected=", ".join(SUMMARIES),
        got=name,
        next_step=f"did you mean {close}?" if close else "see `heedful experiment --list`",
    )


def planned_variants(
    experiment: Experiment,
    preset: Preset,
    *,
    values: Sequence[float] = (),
    episodes: int | None = None,
    seeds: int | None = None,
) -> tuple[Preset, list[Variant]]:
    """The settings that count as the project's own, and all policies of an experiment; seeds of a value are adjacent.

    values: replace the grid. episodes: of every policy, instead of the project's number. Raises ConfigError.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError("an experiment needs a seed", expected="at least 1", got=str(seeds))
    if wrong := [value for value in values if not (math.isfinite(value) and value >= 0)]:
        raise ConfigError(f"{experiment.x} is out of range", expected="0 or more", got=f"{wrong[0]:g}")
    if episodes is not None:
        preset = replace(preset, ppo=replace(preset.ppo, episodes=episodes))
    chosen = sorted(set(values)) if values else experiment.grid(preset)
    found: list[Variant] = []
    for one in experiment.variants(preset, chosen):
        replace(preset.ppo, **one.ppo)  # raises for a value out of range, before anything is trained
        replace(preset.initial_policy, **one.initial_policy)
        found += [replace(one, seed=seed) for seed in range(seeds or experiment.seeds)]
    return preset, found
