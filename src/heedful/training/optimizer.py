"""Adam on fp32 master weights (SPEC 3.1), and the optimiser step at the end of a batch."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from heedful.training.config import StepConfig


def make_optimizer(model: PreTrainedModel, config: StepConfig, *, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW; with weight_decay = 0 it is the paper's Adam. Biases and norms are never decayed."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.adam_beta1, config.adam_beta2), eps=1e-8, fused=True)


def apply_gradients(optimizer: torch.optim.Optimizer, model: PreTrainedModel, max_norm: float) -> float:
    """Make one optimiser step with the accumulated gradients; returns their norm before clipping.

    If the norm is not finite, the weights do not change. The caller logs the norm, and Run.log then raises NumericalError.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm if max_norm > 0 else float("inf")))
    if norm == norm and norm != float("inf"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
