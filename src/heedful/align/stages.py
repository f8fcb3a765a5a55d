"""The table of stages: what each stage needs and makes, when a project has it, and what it asks labelers for.

``heedful align`` runs the stages in this order, ``status`` lists them, and ``sweep`` takes a step's inputs from here. What a
stage does is in :mod:`heedful.align.steps`. This module does not import torch.

Further rounds of rankings (SPEC 3.8) are further rows, which :mod:`heedful.align.rounds` makes: ``collect_2`` needs ``{"sft":
"sft", "policy": "ppo_ptx"}`` and asks for rankings, then come ``reward_2``, ``policy_2`` and so on. Most of their steps are
functions of the first round, because a step looks up its inputs by the keys of ``needs``, not by stage names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from heedful.evaluate import lineup
from heedful.evaluate.lineup import Contender
from heedful.presets import Preset
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.project.refusals import Refusals
from heedful.project.runs import newest_done, stage_state
from heedful.project.selection import training_rankings
from heedful.training.alternatives_config import Alternative

if TYPE_CHECKING:
    from heedful.align.who_labels import Labelers

Input = Literal[
    "seed",
    "base_model",
    "small_model",
    "reward_start",
    "pretraining_text",
    "prompts",
    "demonstrations",
    "rankings",
    "prefixes",
    "solved_tasks",
    "evaluation_prompts",
    "rule_benchmarks",
    "models",
    "choosing",
    "answers",
    "refusals",
    "refusal_prompts",
    "held_out_refusals",
]
"""Inputs that come from the project, not from one stage. ``models``: all that the evaluation compares. ``evaluation_prompts``:
the prompts that they answer, and the limits on prompts and answers. ``choosing``: how a further round chooses what labelers
rank. ``answers``: people's judgements of a further round's policies. ``refusals``: what training takes from the policy and the
marked prompts; ``refusal_prompts``: the same without weights; ``held_out_refusals``: the marked prompts of the check."""

Asked = Literal["demonstrations", "rankings", "evaluation by people"]
"""What a stage asks labelers for."""

INPUT_MODELS: Mapping[Input, Contender] = {"base_model": lineup.BASE, "small_model": lineup.BASE_SMALL}
"""Given models that take part in the evaluation unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The facts about a project that decide which stages it has."""

    data_is_invented: bool
    """Whether the labelers invent prompts and demonstrations, and rank in every run."""
    answers_at_once: bool
    """Whether labelers answer immediately, so that nothing ever waits for them."""
    small_model: bool
    """Whether heedful.toml names a small model."""
    text: bool
    """Whether PPO-ptx can be trained: there is pretraining text, or its coefficient is 0."""
    prefixes: bool
    """Whether there are candidate few-shot prefixes for the base model."""
    demonstrations: bool
    """Whether there are demonstrations."""
    rankings: bool
    """Whether there are rankings of training prompts, of the phase training."""
    task_mixture: bool
    """Whether there is a mixture of solved tasks to tune the base model on."""
    skip_sft: bool
    """Whether the base model is the SFT model (skip_sft in heedful.toml)."""
    one_candidate: bool
    """Whether SFT keeps only one model."""
    asked_by_template: bool
    """Whether the project uses a chat template, so that the base model needs no few-shot prefix."""
    policy_repeats_sft: bool
    """Whether the initial policy would be trained exactly like the SFT model."""
    alternatives: tuple[Alternative, ...] = ()
    """The alternatives to PPO that heedful.toml names."""
    groups: tuple[str, ...] = ()
    """The groups of labelers to which heedful.toml gives weights."""
    refusals: bool = False
    """Whether a category of the policy of refusals is on and has marked prompts to train on."""
    refusal_check: bool = False
    """Whether there are held-out prompts that are marked with a category of the policy."""


def _always_there(_: Situation) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One row of the table."""

    name: str
    """The stage's name; its folders are ``runs/<name>-<n>/``."""
    needs: Mapping[str, str | None]
    """The inputs of its fingerprint: key -> an earlier stage, an Input, or None for an input left out on purpose."""
    config: str | None = None
    """The table of heedful.toml with its settings."""
    small_model: bool = False
    """Whether it trains ``small_model``: the table ``[small_model]`` says what differs."""
    makes: Contender | None = None
    """The model that it adds to the evaluation."""
    asks: Asked | None = None
    """What it asks labelers for."""
    left_out: Callable[[Situation], str | None] = _always_there
    """Returns why a project does without it, in words (empty: the reason is obvious), or None if the project has it."""
    otherwise: str | None = None
    """The earlier stage or Input whose model is used if this stage is left out."""
    beside: str | None = None
    """The stage that it runs beside. If that one waits for people or is left out, it runs at its own place in the table."""
    apart: bool = True
    """Whether it may run in its own process, which frees its memory when it ends. Stages that start processes may not."""
    measure: tuple[str, Literal["lower", "higher"]] | None = None
    """The number by which a sweep of this stage compares trials, and whether lower or higher is better."""
    round: int = 1
    """The round that it belongs to."""
    reads_rankings: bool = False
    """Whether it reads the rankings that its round began with. (The fingerprint of the round's first stage covers them.)"""
    more_seed: int = 0
    """Added to the seed in its settings, so that the reward models of an ensemble differ."""


def _not_invented(situation: Situation) -> str | None:
    return None if situation.data_is_invented else ""


def _needs_no_demonstrations(situation: Situation) -> str | None:
    if situation.data_is_invented:
        return ""
    if situation.demonstrations:
        return "there are demonstrations"
    return _GIVEN if situation.skip_sft else None


def _sft_is_given(situation: Situation) -> str | None:
    return _GIVEN if situation.skip_sft else None


def _has_rankings(situation: Situation) -> str | None:
    return "there are rankings" if situation.rankings and not situation.data_is_invented else None


def _no_checkpoint_to_choose(situation: Situation) -> str | None:
    if situation.skip_sft:
        return _GIVEN
    return "SFT keeps one model (candidates and epochs in [sft])" if situation.one_candidate else None


def _no_prefix_to_choose(situation: Situation) -> str | None:
    if situation.asked_by_template:
        return "with a chat template the base model needs no few-shot prefix"
    return None if situation.prefixes else "a few-shot prefix needs three short demonstrations of training prompts"


def _no_task_mixture(situation: Situation) -> str | None:
    return None if situation.task_mixture else ""


def _no_policy_to_train(situation: Situation) -> str | None:
    if situation.skip_sft:
        return f"{_GIVEN}, and PPO starts from it"
    if situation.policy_repeats_sft:
        return "without pretraining text it would repeat SFT step for step, so PPO starts from SFT's model"
    return None


def _no_small_policy(situation: Situation) -> str | None:
    if not situation.small_model:
        return ""
    return "skip_sft in heedful.toml: PPO starts from small_model as it is" if situation.skip_sft else None


def _no_text(situation: Situation) -> str | None:
    return None if situation.text else "there is no pretraining text"


def _no_small_model_or_text(situation: Situation) -> str | None:
    return _no_text(situation) if situation.small_model else ""


def _no_groups(situation: Situation) -> str | None:
    return None if situation.groups else ""


def _no_dpo(situation: Situation) -> str | None:
    return None if "dpo" in situation.alternatives else ""


def _no_expert_iteration(situation: Situation) -> str | None:
    return None if "expert_iteration" in situation.alternatives else ""


def _no_cloning(situation: Situation) -> str | None:
    return None if "cloning" in situation.alternatives else ""


def _no_best_of_n(situation: Situation) -> str | None:
    return None if "best_of_n" in situation.alternatives else ""


def _no_refusals(situation: Situation) -> str | None:
    return None if situation.refusals else ""


def _no_refusal_check(situation: Situation) -> str | None:
    return None if situation.refusal_check else ""


_GIVEN = "the base model is the SFT model (skip_sft in heedful.toml)"
_REFUSALS: Mapping[str, str | None] = {"refusals": "refusals", "compared": "refusal_comparisons"}
"""What a stage that learns from rankings needs besides."""
_BY_REWARD: tuple[str, Literal["higher"]] = ("validation_reward", "higher")

STAGES: tuple[Stage, ...] = (
    Stage(name="data", needs={"seed": "seed"}, left_out=_not_invented, apart=False),
    Stage(
        name="demonstrate",
        needs={"prompts": "prompts"},
        asks="demonstrations",
        left_out=_needs_no_demonstrations,
        apart=False,
    ),
    Stage(
        name="sft",
        needs={"base": "base_model", "data": "demonstrations", "refusals": "refusals"},
        config="sft",
        left_out=_sft_is_given,
        otherwise="base_model",
        apart=False,
        measure=("validation_loss", "lower"),
    ),
    Stage(name="collect", needs={"sft": "sft"}, config="collect", asks="rankings", left_out=_has_rankings, apart=False),
    # Refusals against models' answers to marked prompts (SPEC 7); without marked prompts nothing stands for them.
    Stage(
        name="refusal_comparisons",
        needs={"sft": "sft", "base": "base_model", "refusals": "refusal_prompts"},
        left_out=_no_refusals,
        otherwise="sft",
        beside="collect",
    ),
    Stage(
        name="reward",
        needs={"sft": "sft", "start": "reward_start", "rankings": "rankings", **_REFUSALS},
        config="reward",
        measure=("validation_accuracy", "higher"),
    ),
    # If heedful.toml gives groups of labelers weights, policies learn from this model (SPEC 7).
    Stage(
        name="reward_by_group",
        needs={"reward": "reward", "rankings": "rankings"},
        config="reward_by_group",
        left_out=_no_groups,
        otherwise="reward",
    ),
    Stage(
        name="choose_sft",
        needs={"sft": "sft", "reward": "reward"},
        config="evaluate",
        makes=lineup.SFT,
        left_out=_no_checkpoint_to_choose,
    ),
    Stage(
        name="choose_prefix",
        needs={"base": "base_model", "data": "demonstrations", "reward": "reward", "prefixes": "prefixes"},
        config="evaluate",
        makes=lineup.PROMPTED_BASE,
        left_out=_no_prefix_to_choose,
        beside="choose_sft",
    ),
    Stage(
        name="task_mixture",
        needs={"base": "base_model", "tasks": "solved_tasks"},
        config="task_mixture",
        left_out=_no_task_mixture,
        beside="collect",
    ),
    Stage(
        name="choose_task_mixture",
        needs={"sft": "task_mixture", "reward": "reward"},
        config="evaluate",
        makes=lineup.TASK_MIXTURE,
        left_out=_no_task_mixture,
    ),
    Stage(
        name="initial_policy",
        needs={"base": "base_model", "data": "demonstrations", "text": "pretraining_text", "refusals": "refusals"},
        config="initial_policy",
        left_out=_no_policy_to_train,
        otherwise="sft",
        beside="collect",
    ),
    Stage(
        name="initial_policy_small",
        needs={"base": "small_model", "data": "demonstrations", "text": "pretraining_text", "refusals": "refusals"},
        config="initial_policy",
        small_model=True,
        left_out=_no_small_policy,
        otherwise="small_model",
        beside="initial_policy",
    ),
    Stage(
        name="ppo",
        needs={"initial": "initial_policy", "reward": "reward_by_group", "text": None, "refusals": "refusals"},
        config="ppo",
        makes=lineup.PPO,
        measure=_BY_REWARD,
    ),
    Stage(
        name="ppo_ptx",
        needs={
            "initial": "initial_policy",
            "reward": "reward_by_group",
            "text": "pretraining_text",
            "refusals": "refusals",
        },
        config="ppo",
        makes=lineup.PPO_PTX,
        left_out=_no_text,
        beside="ppo",
        measure=_BY_REWARD,
    ),
    Stage(
        name="ppo_ptx_small",
        needs={
            "initial": "initial_policy_small",
            "reward": "reward_by_group",
            "text": "pretraining_text",
            "refusals": "refusals",
        },
        config="ppo",
        small_model=True,
        makes=lineup.PPO_PTX_SMALL,
        left_out=_no_small_model_or_text,
        beside="ppo",
    ),
    # Alternatives to PPO on the same data (SPEC 7). Like the reward model, all start from the SFT model.
    Stage(
        name="dpo",
        needs={"sft": "sft", "rankings": "rankings", **_REFUSALS},
        config="dpo",
        makes=lineup.DPO,
        left_out=_no_dpo,
        beside="ppo",
    ),
    Stage(
        name="expert_iteration",
        needs={"sft": "sft", "reward": "reward_by_group", "refusals": "refusals"},
        config="expert_iteration",
        makes=lineup.EXPERT_ITERATION,
        left_out=_no_expert_iteration,
        beside="ppo",
    ),
    Stage(
        name="cloning",
        needs={"sft": "sft", "rankings": "rankings", **_REFUSALS},
        config="cloning",
        makes=lineup.CLONING,
        left_out=_no_cloning,
        beside="ppo",
    ),
    Stage(
        name="best_of_n",
        needs={"sft": "sft", "reward": "reward_by_group", "prompts": "evaluation_prompts"},
        config="best_of_n",
        makes=lineup.BEST_OF_N,
        left_out=_no_best_of_n,
        beside="ppo",
    ),
    Stage(
        name="refusal_check",
        needs={"models": "models", "prompts": "held_out_refusals"},
        left_out=_no_refusal_check,
    ),
    Stage(name="evaluate", needs={"models": "models"}, config="evaluate", asks="evaluation by people", apart=False),
)


def stage(name: str) -> Stage:
    """The row with this name."""
    return next(row for row in STAGES if row.name == name)


def due(situation: Situation, rows: Iterable[Stage] = STAGES) -> list[Stage]:
    """The stages that a project has, in order."""
    return [row for row in rows if row.left_out(situation) is None]


def left_out(situation: Situation) -> dict[str, str]:
    """Name of a stage -> why the project does without it, if the reason is not obvious.

    Stages that ask people are not included, because they may have asked before.
    """
    reasons = {row.name: row.left_out(situation) for row in STAGES if row.asks is None}
    return {name: reason for name, reason in reasons.items() if reason}


def met_by(need: str, done: Collection[str]) -> str:
    """The finished stage or the Input that meets a need, taking the place of stages that were left out."""
    names = {row.name: row for row in STAGES}
    while need in names and need not in done and (other := names[need].otherwise) is not None:
        need = other
    return need


def next_group(situation: Situation, done: Collection[str], rows: Iterable[Stage] = STAGES) -> list[Stage]:
    """The next stage that is not done, and those that run beside it; empty if all are done."""
    left = [row for row in due(situation, rows) if row.name not in done]
    group = left[:1]
    # People can begin to rank at once; they need not wait for a policy that only later stages use.
    if group and (group[0].asks is None or situation.answers_at_once):
        for row in left[1:]:
            if row.beside in [other.name for other in group]:
                group.append(row)
    return group


def config_of(row: Stage, preset: Preset) -> Any:
    """A stage's settings. A PPO stage without pretraining text gets the ptx coefficient 0."""
    if row.config is None:
        return None
    config = getattr(preset, row.config)
    if row.small_model:
        config = getattr(preset.small_model, row.config)(config)
    if row.more_seed:
        config = replace(config, seed=config.seed + row.more_seed)
    if row.config == "collect" and row.round > 1:
        config = replace(config, prompts=preset.rounds.prompts, validation_prompts=preset.rounds.validation_prompts)
    without_text = "text" in row.needs and row.needs["text"] is None
    return replace(config, ptx_coefficient=0.0) if without_text else config


def situation_of(
    project: Project,
    preset: Preset,
    labelers: Labelers,
    records: Records,
    *,
    prefixes: bool,
    refusals: Refusals | None = None,
) -> Situation:
    """The situation of a project. ``prefixes``: whether it has candidate few-shot prefixes."""
    has_text = labelers.invents_data or project.pretraining_text.exists()
    return Situation(
        data_is_invented=labelers.invents_data,
        answers_at_once=labelers.answers_at_once,
        small_model=project.small_model is not None,
        text=has_text or not preset.ppo.ptx_coefficient,
        prefixes=prefixes,
        demonstrations=bool(records.demonstrations),
        rankings=bool(training_rankings(records, "train")),
        task_mixture=project.task_mixture is not None,
        skip_sft=project.skip_sft,
        one_candidate=len(preset.sft.epochs_kept) == 1 and not _done_before(project, "choose_sft"),
        asked_by_template=project.template != "plain" and not _done_before(project, "choose_prefix"),
        policy_repeats_sft=_repeats_sft(preset, has_text) and not _done_before(project, "initial_policy"),
        alternatives=preset.alternatives.run,
        groups=tuple(preset.reward_by_group.members),
        refusals=refusals is not None and bool(refusals.training_prompts()),
        refusal_check=refusals is not None and bool(refusals.held_out_prompts()),
    )


def _repeats_sft(preset: Preset, has_text: bool) -> bool:
    """Whether the initial policy would be trained with SFT's settings and on SFT's data."""
    policy = preset.initial_policy
    if has_text and policy.pretraining_share:
        return False
    without_text = {"pretraining_share": 0.0, "pretraining_share_of": preset.sft.pretraining_share_of}
    return replace(policy, **without_text) == preset.sft


def _done_before(project: Project, name: str) -> bool:
    """Whether an older version ran a stage that this version leaves out. It is then kept, with all that was made from it."""
    folder = newest_done(project.runs, name)
    if folder is None:
        return False
    return ("template" in stage_state(folder).get("inputs", {})) == (project.template != "plain")


def makers(rows: Iterable[Stage] = STAGES) -> Mapping[str, Stage]:
    """Name of a model in the evaluation -> the stage that makes it."""
    return {row.makes.name: row for row in rows if row.makes is not None}
