"""Load models for inference: on the first GPU, in the compute type, without gradients."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model.loading import check_tokenizer, load_causal_model, load_scalar_model, load_tokenizer
from heedful.model.precision import Precision, frozen


def first_device() -> torch.device:
    """The first GPU, or the CPU if there is none."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def load_policy(folder: str | Path, precision: Precision = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model in main memory and its tokenizer, checked against each other. Raises MissingError, ModelError."""
    tokenizer = load_tokenizer(folder)
    model = load_causal_model(folder, precision)
    check_tokenizer(model, tokenizer, folder)
    return model, tokenizer


def policy_for_inference(folder: str | Path, precision: Precision) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy to answer with, and its tokenizer. Raises MissingError, ModelError."""
    model, tokenizer = load_policy(folder, precision)
    return frozen(model.to(first_device()), precision), tokenizer  # pyright: ignore[reportArgumentType]


def reward_model_for_inference(folder: str | Path, precision: Precision) -> PreTrainedModel:
    """A reward model to score with. Raises MissingError, ModelError."""
    return frozen(load_scalar_model(folder, precision).to(first_device()), precision)  # pyright: ignore[reportArgumentType]
