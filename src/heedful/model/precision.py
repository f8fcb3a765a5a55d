"""fp32 master weights and a compute copy in bf16 (SPEC 3.1; the paper used fp16)."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

Precision = Literal["float32", "bfloat16"]


class MasterWeights:
    """A model held twice: ``master`` in fp32 (optimised and saved) and ``compute`` (runs forward and backward).

    Each gradient is added to the master in fp32 as soon as it is ready, so accumulating several backward passes (SPEC 3.6)
    loses nothing to bf16. With precision float32 both are the same module. So they are with LoRA: then the frozen part is
    already in the compute type, and the trained part is in fp32. Frozen parts in fp32 get a copy like all others.
    """

    def __init__(self, master: PreTrainedModel, precision: Precision) -> None:
        self.master = master
        self.precision: Precision = precision
        if precision == "float32" or any(parameter.dtype == torch.bfloat16 for parameter in master.parameters()):
            self.compute = master
            return
        self.compute = rounded_copy(master, torch.bfloat16)
        for master_parameter, parameter in zip(master.parameters(), self.compute.parameters(), strict=True):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_move_gradient_to(master_parameter))

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the trained master weights to the compute copy. Call this after each optimiser step."""
        if self.compute is not self.master:
            pairs = zip(self.compute.parameters(), self.master.parameters(), strict=True)
            copied, trained = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
            torch._foreach_copy_(list(copied), list(trained))

    def train(self, mode: bool = True) -> None:
        """Switch the compute copy between training and evaluation mode."""
        self.compute.train(mode)


def frozen(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """Freeze the model, put it into evaluation mode and cast its parameters to the compute type, all in place; returns it."""
    model.requires_grad_(False)
    model.eval()
    return _to_bfloat16(model) if precision == "bfloat16" else model


def rounded_copy(model: PreTrainedModel, dtype: torch.dtype, shared: Collection[torch.nn.Parameter] = ()) -> PreTrainedModel:
    """A copy with its parameters in another type, made one tensor at a time; ``shared`` parameters are not copied."""
    as_they_are = {id(parameter) for parameter in shared}
    copies = {
        id(p): p if id(p) in as_they_are else torch.nn.Parameter(p.detach().to(dtype, copy=True), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, copies)


def _to_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Cast the parameters in place, but not the buffers: with rotary frequencies in bf16, distant tokens get wrong angles."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def _move_gradient_to(master: torch.nn.Parameter):
    def move(parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        if master.grad is None:
            master.grad = parameter.grad.to(master.dtype)
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return move


@torch.no_grad()
def update_average(average: PreTrainedModel, master: PreTrainedModel, decay: float) -> None:
    """Exponential moving average of weights: average <- decay * average + (1 - decay) * master (SPEC 3.5: 0.992)."""
    pairs = zip(average.parameters(), master.parameters(), strict=True)
    trained = [(mean, current) for mean, current in pairs if current.requires_grad]
    torch._foreach_lerp_([mean for mean, _ in trained], [current for _, current in trained], 1.0 - decay)


def copy_of_buffers(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copy all buffers of ``source`` to ``target``, because state dicts lack some of them, such as rotary frequencies."""
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        target.get_submodule(owner)._buffers[leaf] = buffer.clone()
