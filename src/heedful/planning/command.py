"""The plan that a command asks for: names to shapes and settings, and the paper's numbers where none are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from heedful.miniature.preparation import DEMONSTRATED
from heedful.planning import DEMONSTRATIONS, Assumptions, Plan, make_plan
from heedful.planning.compute import Lengths
from heedful.planning.shapes import GPT3, shape_of
from heedful.presets import Preset, preset

_PRESETS = {"gpt3-1.3b": "paper-1.3B", "gpt3-6b": "paper-6B", "gpt3-175b": "paper-175B"}


def plan_of(
    model: str,
    *,
    reward_model: str | None = None,
    preset_name: str | None = None,
    gpus: int = 1,
    gpu: str = "h100",
    utilization: float = 0.4,
    prompt_tokens: float | None = None,
    response_tokens: float | None = None,
    demonstrations: int | None = None,
    rankings: int | None = None,
    lora_rank: int | None = None,
    activation_checkpointing: bool = False,
) -> Plan:
    """Plan all steps for a model by name or folder. Raises MissingError, ModelError, ConfigError.

    None: the paper's reward model for the paper's sizes (one 6B model serves all, SPEC 3.3), else the model itself; the preset
    of the model's size; a quarter of the limits as mean lengths (an assumption: the user's own lengths are better); the
    preset's rank of adapters.
    """
    chosen = preset(preset_name or ("miniature" if model.startswith("miniature-") else _PRESETS.get(model, "paper-1.3B")))
    miniature = chosen == preset("miniature")
    chosen = _with(chosen, lora_rank, activation_checkpointing)
    policy = shape_of(model)
    return make_plan(
        policy,
        shape_of(reward_model or ("gpt3-6b" if model in GPT3 else model)),
        chosen,
        Assumptions(
            gpus=gpus,
            gpu=gpu,
            utilization=utilization,
            lengths=Lengths(
                prompt=chosen.sft.max_prompt_tokens / 4 if prompt_tokens is None else prompt_tokens,
                response=chosen.sft.max_response_tokens / 4 if response_tokens is None else response_tokens,
            ),
            demonstrations=(DEMONSTRATED["train"] if miniature else DEMONSTRATIONS)
            if demonstrations is None
            else demonstrations,
            rankings=chosen.collect.prompts if rankings is None else rankings,
            responses=(chosen.collect.smallest_k + chosen.collect.largest_k) / 2,
        ),
    )


def _with(chosen: Preset, lora_rank: int | None, activation_checkpointing: bool) -> Preset:
    """The preset with adapters and recomputed activations in all three steps, where they are asked for."""
    changes: dict[str, Any] = {} if lora_rank is None else {"lora_rank": lora_rank}
    if activation_checkpointing:
        changes["activation_checkpointing"] = True
    return replace(
        chosen,
        sft=replace(chosen.sft, **changes),
        reward=replace(chosen.reward, **changes),
        ppo=replace(chosen.ppo, **changes),
    )
