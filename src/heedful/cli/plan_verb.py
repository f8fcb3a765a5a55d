"""``heedful plan``: turns a project, or flags, into shapes, settings and assumptions; the paper supplies the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, load_project, optional
from heedful.errors import ConfigError

if TYPE_CHECKING:
    from heedful.planning import plan as planning
    from heedful.planning.project_plan import ProjectFacts
    from heedful.planning.shapes import Shape
    from heedful.presets import Preset
    from heedful.project.project import Project

_PRESETS = {"gpt3-1.3b": "paper-1.3B", "gpt3-6b": "paper-6B", "gpt3-175b": "paper-175B"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show what each step needs before you start: memory on each GPU, time, compute.

    - With PROJECT: it uses the project's settings, base model and text lengths,
      and suggests token limits that fit.
    - With --model: gpt3-1.3b, gpt3-6b, gpt3-175b, miniature-tiny, -small,
      -medium, -large, or a folder with a config.json. No weights are read or
      downloaded.
    - It says what fits, and what to change if something does not.
    - Learning rates and batch sizes come with their source.
    - Compute is in petaflop/s-days, for the true number of tokens and as the
      paper counts it, with each sequence as long as the context.
    - docs/planning.md has the formulas and the measurements behind them.
    """

    project: Annotated[Path | None, tyro.conf.Positional, optional("[PROJECT]")] = None
    """A project's folder, instead of --model."""
    model: Annotated[str | None, optional("MODEL")] = None
    """The policy: one of the names above, or a folder in Hugging Face format."""
    reward_model: Annotated[str | None, optional("MODEL")] = None
    """The model that the reward model and value function start from (else the project's reward_start,
    gpt3-6b for the paper's sizes, or the model)."""
    preset: Annotated[str | None, optional("NAME")] = None
    """Settings: paper-1.3B, paper-6B, paper-175B, miniature, or a size such as 7B
    or 7B-lora (else the project's, or those of the model's size)."""
    gpus: Annotated[int | None, optional("INT")] = None
    """GPUs that share the weights, gradients and optimiser state; 0: this machine's CPU and memory
    (else 1; with PROJECT: as many as this machine has)."""
    gpu: Literal["a100", "h100", "h200"] = "h100"
    """Which GPU: a100 (80 GB), h100 (80 GB) or h200 (141 GB)."""
    utilization: Annotated[float | None, optional("SHARE")] = None
    """Share of the peak operations per second that training reaches: of the GPU's bf16 data sheet (else 0.4),
    or of this CPU's measured matrix products (else 0.65)."""
    prompt_tokens: Annotated[float | None, optional("TOKENS")] = None
    """Mean length of a prompt, for time and true compute (else the project's, or a quarter of the limit)."""
    response_tokens: Annotated[float | None, optional("TOKENS")] = None
    """Mean length of a response (else the project's, or a quarter of the limit)."""
    demonstrations: Annotated[int | None, optional("INT")] = None
    """Demonstrations for SFT (else the project's, the paper's 12,725, or the miniature's 150)."""
    rankings: Annotated[int | None, optional("INT")] = None
    """Ranked prompts for the reward model (else the project's, or the preset's: the paper's 33,207)."""
    lora_rank: Annotated[int | None, optional("INT")] = None
    """Train adapters of this rank in all steps (else the preset's: 0, all weights)."""
    activation_checkpointing: Flag = False
    """Plan with activation checkpointing: activations are computed again in the backward pass."""
    json: Flag = False
    """Print JSON: bytes, operations and seconds."""

    def run(self, console: Console) -> None:
        """Print the plan as tables or JSON. Raises MissingError, ModelError, ConfigError."""
        from heedful.planning.plan_tables import plan_as_json, show_plan

        plan = plan_of(self)
        if self.json:
            print(json.dumps(plan_as_json(plan), indent=2))
        else:
            show_plan(plan, Console())


def plan_of(given: Plan) -> planning.Plan:
    """Plan all steps. Raises MissingError, ModelError, ConfigError.

    What is not given comes from the project. Without a project, the preset follows the model's size. The reward model is the
    paper's 6B model for the paper's sizes (SPEC 3.3), else the model itself. Mean lengths are a quarter of the limits: an
    assumption, the user's own lengths are better.
    """
    from heedful.planning.cpu_speed import measured_speed
    from heedful.planning.plan import UTILIZATION, make_plan
    from heedful.planning.project_plan import project_facts, settings_by_size, within_window
    from heedful.planning.shapes import GPT3, shape_of

    project = _project(given)
    model = str(given.model) if project is None else str(project.model_folder(project.base_model))
    shape = shape_of(model)
    name, chosen = _preset(given, project, shape)
    facts = None if project is None else project_facts(project, chosen, shape)
    if project is not None:
        chosen = within_window(chosen, shape.context)
        if project.labelers != "simulated" and not project.pretraining_text.exists():
            chosen = replace(chosen, ppo=replace(chosen.ppo, ptx_coefficient=0.0))
    judge = given.reward_model or (None if project is None or project.reward_start is None else str(project.reward_start))
    if judge is not None and project is not None and given.reward_model is None:
        judge = str(project.model_folder(judge))
    gpus = given.gpus if given.gpus is not None else 1 if project is None else _gpus_here()
    assumptions = replace(
        _assumptions(given, project, chosen, facts),
        gpus=gpus,
        cpu=measured_speed(shape, chosen.sft.precision) if gpus == 0 else None,
        utilization=UTILIZATION["cpu" if gpus == 0 else "gpu"] if given.utilization is None else given.utilization,
    )
    # Without pretraining text `heedful align` leaves the small model out.
    small = None if project is None or not chosen.ppo.ptx_coefficient else project.small_model
    plan = make_plan(
        shape,
        shape_of(judge or ("gpt3-6b" if model in GPT3 else model)),
        chosen,
        assumptions,
        None if small is None or project is None else shape_of(str(project.model_folder(small))),
    )
    return replace(
        plan,
        settings=settings_by_size(chosen, name, {} if project is None else project.settings),
        lengths=None if facts is None else facts.lengths,
        limits=None if facts is None else facts.limits,
    )


def _project(given: Plan) -> Project | None:
    if (given.project is None) == (given.model is None):
        raise ConfigError(
            "it is not clear what to plan for",
            expected="the folder of a project, or --model",
            got="neither" if given.model is None else "both",
            next_step="run `heedful plan PROJECT`, or see `heedful plan --help`",
        )
    return None if given.project is None else load_project(given.project)


def _preset(given: Plan, project: Project | None, shape: Shape) -> tuple[str, Preset]:
    """The preset's name and the settings: ``--preset`` if given, else the project's preset, else that of the model's size."""
    from heedful.presets import preset, resolved_preset, sized_name

    if project is not None:
        project = project if given.preset is None else replace(project, preset=given.preset)
        name, chosen = project.preset, resolved_preset(project)
    else:
        model = str(given.model)
        of_size = "miniature" if model.startswith("miniature-") else sized_name(shape.parameters, lora=bool(given.lora_rank))
        name = given.preset or _PRESETS.get(model, of_size)
        chosen = preset(name)
    return name, _with(chosen, given.lora_rank, given.activation_checkpointing)


def _assumptions(given: Plan, project: Project | None, chosen: Preset, facts: ProjectFacts | None) -> planning.Assumptions:
    """What the plan assumes about the data; the caller fills in the machine."""
    from heedful.miniature.preparation import DEMONSTRATED
    from heedful.planning.compute import Lengths
    from heedful.planning.plan import DEMONSTRATIONS, Assumptions
    from heedful.planning.project_plan import mean_k, mean_lengths
    from heedful.presets import preset

    lengths = mean_lengths(chosen, None if facts is None else facts.lengths)
    if facts is not None:
        demonstrations, rankings, responses = facts.demonstrations, facts.rankings, facts.responses
    else:
        of_miniature = _with(preset("miniature"), given.lora_rank, given.activation_checkpointing)
        demonstrations = DEMONSTRATED["train"] if chosen == of_miniature else DEMONSTRATIONS
        rankings, responses = chosen.collect.prompts, mean_k(chosen)
    return Assumptions(
        gpus=0,
        gpu=given.gpu,
        utilization=1.0,
        lengths=Lengths(
            prompt=lengths.prompt if given.prompt_tokens is None else given.prompt_tokens,
            response=lengths.response if given.response_tokens is None else given.response_tokens,
        ),
        demonstrations=demonstrations if given.demonstrations is None else given.demonstrations,
        rankings=rankings if given.rankings is None else given.rankings,
        responses=responses,
        skip_sft=project is not None and project.skip_sft,
    )


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _with(chosen: Preset, lora_rank: int | None, activation_checkpointing: bool) -> Preset:
    """The preset with this LoRA rank and activation checkpointing in all three steps, where given."""
    changes: dict[str, Any] = {} if lora_rank is None else {"lora_rank": lora_rank}
    if activation_checkpointing:
        changes["activation_checkpointing"] = True
    return replace(
        chosen,
        sft=replace(chosen.sft, **changes),
        reward=replace(chosen.reward, **changes),
        ppo=replace(chosen.ppo, **changes),
    )
