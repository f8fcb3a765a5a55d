"""The reference of the self-check: the same weights in plain transformers, with its own attention and head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from heedful.errors import NumericalError
from heedful.model.attention import use_heedful_attention
from heedful.model.doctor_examples import Examples
from heedful.model.dropout import decoder_layers
from heedful.model.fast.fused_modules import unfuse
from heedful.model.scalar_models import scalar_head, scalar_offset

Reading = dict[str, Tensor]
"""Quantity ("log-prob", or "value" and "score") -> its numbers, one sequence after another."""


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, the model runs with transformers' own classes and attention, on the same weights."""
    model.set_attn_implementation("eager")
    unfuse(model)
    try:
        yield
    finally:
        use_heedful_attention(model)


def is_scalar(model: PreTrainedModel) -> bool:
    """Whether this is a reward or value model."""
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def plain_readings(model: PreTrainedModel, examples: Examples) -> tuple[Reading, dict[str, float]]:
    """The plain model's numbers, one sequence at a time, and for each quantity the largest sum behind it (at least 1).

    Raises NumericalError if a number is NaN or infinite.
    """
    readings: list[Reading] = []
    scale = 1.0
    for prompt, response in examples.pairs:
        ids = torch.tensor([[*prompt, *response]], device=model.device)
        with _head_in_its_own_type(model), _hidden_states(model) as hidden:
            output = cast(Any, model)(input_ids=ids, use_cache=False)
        before = slice(len(prompt) - 1, ids.shape[1] - 1)
        if is_scalar(model):
            reward = output.logits[0].float() + scalar_offset(model)
            readings.append({"value": _plain_scalars(model, hidden[-1][0])[before], "score": reward})
            size = hidden[-1][0].float().abs() @ scalar_head(model).weight[0].float().abs()
        else:
            logits = output.logits[0, before].float()
            readings.append({"log-prob": _gathered(logits, response)})
            size = logits.abs()
        scale = max(scale, float(size.max()))
    reading = joined(readings)
    if not all(bool(torch.isfinite(numbers).all()) for numbers in reading.values()):
        raise NumericalError(
            "the model's own outputs are not finite numbers",
            expected="finite numbers from plain transformers",
            got=f"NaN or infinity from {type(model).__name__}",
            next_step="look for NaN in its weights; a model that overflows in bfloat16 may work with precision = float32",
        )
    return reading, dict.fromkeys(reading, scale)


def padded_readings(model: PreTrainedModel, examples: Examples, side: str) -> Reading:
    """The plain model's readings from one batch padded on the left or right, as other tools will compute them."""
    pairs = examples.pairs
    rows = [p + r for p, r in pairs]
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    on_left = side == "left"
    ids = torch.tensor([g + row if on_left else row + g for g, row in zip(gaps, rows, strict=True)], device=model.device)
    mask = torch.tensor(
        [g + [1] * len(row) if on_left else [1] * len(row) + g for g, row in zip(gaps, rows, strict=True)],
        device=model.device,
    )
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
    scalar = is_scalar(model)
    output = cast(Any, model.base_model if scalar else model)(**inputs)
    readings: list[Reading] = []
    for i, (prompt, response) in enumerate(pairs):
        first = len(gaps[i]) if on_left else 0
        before = slice(first + len(prompt) - 1, first + len(rows[i]) - 1)
        if scalar:
            outputs = _plain_scalars(model, output.last_hidden_state[i])
            readings.append({"value": outputs[before], "score": outputs[before.stop][None]})
        else:
            readings.append({"log-prob": _gathered(output.logits[i, before].float(), response)})
    return joined(readings)


def _plain_scalars(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The scalar head's output [tokens], float32, plus the reward offset, which plain transformers does not add."""
    return F.linear(hidden.float(), scalar_head(model).weight.float())[:, 0] + scalar_offset(model)


def _gathered(logits: Tensor, tokens: list[int]) -> Tensor:
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]


def joined(readings: Sequence[Reading]) -> Reading:
    """Join the readings of several sequences into one."""
    return {quantity: torch.cat([reading[quantity] for reading in readings]) for quantity in readings[0]}


def selected(reading: Reading, examples: Examples, wanted: Examples) -> Reading:
    """The numbers of the wanted examples, which come in the same order as in ``examples``."""
    left = [*wanted.pairs]
    kept: list[bool] = []
    for pair in examples.pairs:
        kept.append(bool(left) and pair == left[0])
        left = left[kept[-1] :]
    assert not left
    pieces = {quantity: _split(quantity, numbers, examples) for quantity, numbers in reading.items()}
    return {q: torch.cat([piece for piece, keep in zip(rows, kept, strict=True) if keep]) for q, rows in pieces.items()}


def reversed_order(reading: Reading, examples: Examples) -> Reading:
    """Put a reading that was taken from the last example to the first back into the examples' order."""
    backwards = Examples([p for p, _ in examples.pairs[::-1]], [[r] for _, r in examples.pairs[::-1]])
    return {quantity: torch.cat(_split(quantity, numbers, backwards)[::-1]) for quantity, numbers in reading.items()}


def _split(quantity: str, numbers: Tensor, examples: Examples) -> list[Tensor]:
    """The numbers of each sequence: one for each token of the response, or a single score."""
    return list(numbers.split([1 if quantity == "score" else len(response) for _, response in examples.pairs]))


def largest_difference(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference; NaN if any number is NaN."""
    return float((got - want).abs().max())


def moved_by_rounding(model: PreTrainedModel, examples: Examples, reference: Reading) -> dict[str, float]:
    """How far the plain model's numbers move if random noise of bfloat16's precision is added to each layer's output.

    This measures how strongly the model amplifies rounding. Float32 numbers to compare with would need a second copy of it.
    """
    random_numbers = torch.Generator().manual_seed(0)

    def rounded(layer: torch.nn.Module, given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        noise = torch.rand(hidden.shape, generator=random_numbers).to(hidden.device).mul_(2).sub_(1)
        hidden = (hidden.float() * (1 + torch.finfo(torch.bfloat16).eps * noise)).to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hooks = [layer.register_forward_hook(rounded) for layer in decoder_layers(model)]
    try:
        other, _ = plain_readings(model, examples)
    finally:
        for hook in hooks:
            hook.remove()
    return {quantity: largest_difference(other[quantity], want) for quantity, want in reference.items()}


@contextmanager
def _hidden_states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The last hidden states of each forward pass of the body."""
    found: list[Tensor] = []
    hook = cast(torch.nn.Module, model.base_model).register_forward_hook(lambda body, given, output: found.append(output[0]))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def _head_in_its_own_type(model: PreTrainedModel) -> Iterator[None]:
    """Convert the input of a float32 head on a bfloat16 body (LoRA), which plain transformers does not do."""
    if not is_scalar(model):
        yield
        return
    hook = scalar_head(model).register_forward_pre_hook(lambda head, given: (given[0].to(head.weight.dtype),))
    try:
        yield
    finally:
        hook.remove()
