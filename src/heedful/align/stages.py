"""The one table of stages: what each needs and makes, when a project has it, and what it asks people for. No torch here.

``heedful align`` does the stages in this order, ``status`` lists them, ``sweep`` takes a step's inputs from here. What a stage
does is in :mod:`heedful.align.steps`.

Further rounds of rankings (SPEC 3.8) are further rows: a ``collect_2`` that needs ``{"sft": "sft", "policy": "ppo_ptx"}`` and
asks for rankings, then a ``reward_2``, a ``ppo_ptx_2`` and so on, each on the condition that the project wants two rounds.
Their steps are the functions of the first round: a step looks up its inputs by the keys of ``needs``, not by stage names.
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
from heedful.project.selection import training_rankings

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
    "models",
]
"""What comes from the project and not from one stage. ``models``: all that the evaluation compares."""

Asked = Literal["demonstrations", "rankings", "evaluation by people"]
"""What labelers are asked for."""

INPUT_MODELS: Mapping[Input, Contender] = {"base_model": lineup.BASE, "small_model": lineup.BASE_SMALL}
"""Models that take part in the evaluation as they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What of a project decides which stages it has."""

    data_is_invented: bool
    """The labelers invent prompts and demonstrations, and rank in every run."""
    answers_at_once: bool
    """No answer ever waits."""
    small_model: bool
    text: bool
    """There is pretraining text, or the coefficient of PPO-ptx is 0: PPO-ptx can be trained."""
    prefixes: bool
    """There are candidate few-shot prefixes for the base model."""
    demonstrations: bool
    rankings: bool
    """Rankings of training prompts, of the phase training."""


def _always(_: Situation) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One row of the table."""

    name: str
    """Also of its folders, ``runs/<name>-<n>/``."""
    needs: Mapping[str, str | None]
    """The inputs of its fingerprint: key -> an earlier stage, an Input, or None for an input left out on purpose."""
    config: str | None = None
    """The table of heedful.toml with its settings."""
    makes: Contender | None = None
    """The model that it adds to the evaluation."""
    asks: Asked | None = None
    """What labelers are asked for."""
    when: Callable[[Situation], bool] = _always
    """Whether a project has it."""
    beside: str | None = None
    """The stage that it runs beside. If that one waits for people, or is not due, it runs at its own place in the table."""
    apart: bool = True
    """With several processes: in one of its own, which gives its memory back."""
    measure: tuple[str, Literal["lower", "higher"]] | None = None
    """A sweep of this stage compares trials by this number; the better ones are lower or higher."""


def _invented(situation: Situation) -> bool:
    return situation.data_is_invented


def _no_demonstrations(situation: Situation) -> bool:
    return not situation.data_is_invented and not situation.demonstrations


def _collects(situation: Situation) -> bool:
    return situation.data_is_invented or not situation.rankings


def _has_prefixes(situation: Situation) -> bool:
    return situation.prefixes


def _small(situation: Situation) -> bool:
    return situation.small_model


def _text(situation: Situation) -> bool:
    return situation.text


def _small_and_text(situation: Situation) -> bool:
    return situation.small_model and situation.text


_BY_REWARD: tuple[str, Literal["higher"]] = ("validation_reward", "higher")

STAGES: tuple[Stage, ...] = (
    Stage(name="data", needs={"seed": "seed"}, when=_invented, apart=False),
    Stage(name="demonstrate", needs={"prompts": "prompts"}, asks="demonstrations", when=_no_demonstrations, apart=False),
    Stage(
        name="sft",
        needs={"base": "base_model", "data": "demonstrations"},
        config="sft",
        apart=False,
        measure=("validation_loss", "lower"),
    ),
    Stage(name="collect", needs={"sft": "sft"}, config="collect", asks="rankings", when=_collects),
    Stage(
        name="reward",
        needs={"sft": "sft", "start": "reward_start", "rankings": "rankings"},
        config="reward",
        measure=("validation_accuracy", "higher"),
    ),
    Stage(name="choose_sft", needs={"sft": "sft", "reward": "reward"}, config="evaluate", makes=lineup.SFT),
    Stage(
        name="choose_prefix",
        needs={"base": "base_model", "data": "demonstrations", "reward": "reward", "prefixes": "prefixes"},
        config="evaluate",
        makes=lineup.PROMPTED_BASE,
        when=_has_prefixes,
        beside="choose_sft",
    ),
    Stage(
        name="initial_policy",
        needs={"base": "base_model", "data": "demonstrations", "text": "pretraining_text"},
        config="initial_policy",
        beside="collect",
    ),
    Stage(
        name="initial_policy_small",
        needs={"base": "small_model", "data": "demonstrations", "text": "pretraining_text"},
        config="initial_policy",
        when=_small,
        beside="initial_policy",
    ),
    Stage(
        name="ppo",
        needs={"initial": "initial_policy", "reward": "reward", "text": None},
        config="ppo",
        makes=lineup.PPO,
        measure=_BY_REWARD,
    ),
    Stage(
        name="ppo_ptx",
        needs={"initial": "initial_policy", "reward": "reward", "text": "pretraining_text"},
        config="ppo",
        makes=lineup.PPO_PTX,
        when=_text,
        beside="ppo",
        measure=_BY_REWARD,
    ),
    Stage(
        name="ppo_ptx_small",
        needs={"initial": "initial_policy_small", "reward": "reward", "text": "pretraining_text"},
        config="ppo",
        makes=lineup.PPO_PTX_SMALL,
        when=_small_and_text,
        beside="ppo",
    ),
    Stage(name="evaluate", needs={"models": "models"}, config="evaluate", asks="evaluation by people", apart=False),
)


def stage(name: str) -> Stage:
    """The row with this name."""
    return next(row for row in STAGES if row.name == name)


def due(situation: Situation) -> list[Stage]:
    """The stages that a project has, in order."""
    return [row for row in STAGES if row.when(situation)]


def next_group(situation: Situation, done: Collection[str]) -> list[Stage]:
    """The next stage that is not done, and those that run beside it; empty when all are done."""
    left = [row for row in due(situation) if row.name not in done]
    group = left[:1]
    # People who have to rank now should not wait for a policy that is needed later.
    if group and (group[0].asks is None or situation.answers_at_once):
        for row in left[1:]:
            if row.beside in [other.name for other in group]:
                group.append(row)
    return group


def config_of(row: Stage, preset: Preset) -> Any:
    """A stage's settings. A PPO stage that leaves the pretraining text out has the ptx coefficient 0."""
    if row.config is None:
        return None
    config = getattr(preset, row.config)
    without_text = "text" in row.needs and row.needs["text"] is None
    return replace(config, ptx_coefficient=0.0) if without_text else config


def situation_of(project: Project, preset: Preset, labelers: Labelers, records: Records, *, prefixes: bool) -> Situation:
    """How a project stands. ``prefixes``: whether it has candidate few-shot prefixes."""
    return Situation(
        data_is_invented=labelers.invents_data,
        answers_at_once=labelers.answers_at_once,
        small_model=project.small_model is not None,
        text=labelers.invents_data or project.pretraining_text.exists() or not preset.ppo.ptx_coefficient,
        prefixes=prefixes,
        demonstrations=bool(records.demonstrations),
        rankings=bool(training_rankings(records, "train")),
    )


def makers(rows: Iterable[Stage] = STAGES) -> Mapping[str, Stage]:
    """Name of a model in the evaluation -> the stage that makes it."""
    return {row.makes.name: row for row in rows if row.makes is not None}
