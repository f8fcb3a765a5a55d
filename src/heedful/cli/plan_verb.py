"""``heedful plan``: names and flags become shapes, settings and assumptions, with the paper's numbers as defaults."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console

from heedful.cli.options import Flag, optional

if TYPE_CHECKING:
    from heedful.planning import plan as planning
    from heedful.presets import Preset

_PRESETS = {"gpt3-1.3b": "paper-1.3B", "gpt3-6b": "paper-6B", "gpt3-175b": "paper-175B"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show what each step needs before you start: memory on each GPU, time, compute.

    - Models: gpt3-1.3b, gpt3-6b, gpt3-175b, miniature-small, -medium, -large,
      or a folder with a config.json. No weights are read or downloaded.
    - It says what fits, and what to change if something does not.
    - Compute is in petaflop/s-days, for the true number of tokens and as the
      paper counts it: each sequence a full context.
    - docs/planning.md has the formulae and what was measured.
    """

    model: str
    """The policy: one of the names above, or a folder in Hugging Face format."""
    reward_model: Annotated[str | None, optional("MODEL")] = None
    """What reward model and value function are made from (else gpt3-6b for the paper's sizes, else the model)."""
    preset: Annotated[str | None, optional("NAME")] = None
    """Settings: paper-1.3B, paper-6B, paper-175B or miniature (else those of the model's size)."""
    gpus: int = 1
    """GPUs over which weights, gradients and optimiser are split; 0: this machine's CPU and memory."""
    gpu: Literal["a100", "h100", "h200"] = "h100"
    """Which GPU: a100 (80 GB), h100 (80 GB) or h200 (141 GB)."""
    utilization: float = 0.4
    """Share of the GPU's bf16 operations a second that training reaches."""
    prompt_tokens: Annotated[float | None, optional("TOKENS")] = None
    """Mean length of a prompt, for time and true compute (else a quarter of the limit)."""
    response_tokens: Annotated[float | None, optional("TOKENS")] = None
    """Mean length of a response (else a quarter of the limit)."""
    demonstrations: Annotated[int | None, optional("INT")] = None
    """Demonstrations for SFT (else the paper's 12,725, or the miniature's 600)."""
    rankings: Annotated[int | None, optional("INT")] = None
    """Ranked prompts for the reward model (else the preset's: the paper's 33,207)."""
    lora_rank: Annotated[int | None, optional("INT")] = None
    """Train adapters of this rank in all steps (else the preset's: 0, all weights)."""
    activation_checkpointing: Flag = False
    """Plan with activations that are computed again in the backward pass."""
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

    What is not given: the preset of the model's size and its LoRA rank; for the paper's sizes the paper's reward model (one 6B
    model serves all, SPEC 3.3), else the model itself; a quarter of the limits as mean lengths (an assumption: the user's own
    lengths are better).
    """
    from heedful.miniature.preparation import DEMONSTRATED
    from heedful.planning.compute import Lengths
    from heedful.planning.plan import DEMONSTRATIONS, Assumptions, make_plan
    from heedful.planning.shapes import GPT3, shape_of
    from heedful.presets import preset

    default_preset = "miniature" if given.model.startswith("miniature-") else _PRESETS.get(given.model, "paper-1.3B")
    chosen = preset(given.preset or default_preset)
    demonstrations = DEMONSTRATED["train"] if chosen == preset("miniature") else DEMONSTRATIONS
    chosen = _with(chosen, given.lora_rank, given.activation_checkpointing)
    return make_plan(
        shape_of(given.model),
        shape_of(given.reward_model or ("gpt3-6b" if given.model in GPT3 else given.model)),
        chosen,
        Assumptions(
            gpus=given.gpus,
            gpu=given.gpu,
            utilization=given.utilization,
            lengths=Lengths(
                prompt=chosen.sft.max_prompt_tokens / 4 if given.prompt_tokens is None else given.prompt_tokens,
                response=chosen.sft.max_response_tokens / 4 if given.response_tokens is None else given.response_tokens,
            ),
            demonstrations=demonstrations if given.demonstrations is None else given.demonstrations,
            rankings=chosen.collect.prompts if given.rankings is None else given.rankings,
            responses=(chosen.collect.smallest_k + chosen.collect.largest_k) / 2,
        ),
    )


def _with(chosen: Preset, lora_rank: int | None, activation_checkpointing: bool) -> Preset:
    """The preset with LoRA and activation checkpointing in all three steps, if asked for."""
    changes: dict[str, Any] = {} if lora_rank is None else {"lora_rank": lora_rank}
    if activation_checkpointing:
        changes["activation_checkpointing"] = True
    return replace(
        chosen,
        sft=replace(chosen.sft, **changes),
        reward=replace(chosen.reward, **changes),
        ppo=replace(chosen.ppo, **changes),
    )
