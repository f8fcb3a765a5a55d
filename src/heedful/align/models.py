"""Load models for training, in the right type and on the right device."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model.inference import first_device, load_policy
from heedful.model.precision import Precision
from heedful.ranks.world import world
from heedful.training.alternatives_config import DPOConfig, ExpertIterationConfig
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig


def loading_precision(config: SFTConfig | RewardConfig | PPOConfig | DPOConfig | ExpertIterationConfig) -> Precision:
    """The type in which a step loads its models: fp32 to train all weights, the compute type to train only an adapter."""
    return config.precision if config.lora_rank else "float32"


def placed_for_training(model: PreTrainedModel, where: torch.device | None = None) -> PreTrainedModel:
    """The model on the first GPU or ``where``. Under ``torchrun`` it does not move here; training moves each rank's shards."""
    return model if world().size > 1 else model.to(where or first_device())  # pyright: ignore[reportArgumentType]


def policy_for_training(
    folder: str | Path, precision: Precision = "float32", *, where: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model and its tokenizer, checked against each other; on the first GPU unless ``where`` says otherwise."""
    model, tokenizer = load_policy(folder, precision)
    return placed_for_training(model, where), tokenizer
