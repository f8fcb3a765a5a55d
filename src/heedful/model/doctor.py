"""The self-check: does a model compute here what it computes in plain transformers?

Log-probs of responses, scores and values must not depend on batch size, order, padding or layout, cached decoding must be the
full forward, and a saved model must come back. :func:`examine` proves it for one model and compute type (``heedful doctor``);
:func:`quick_check` is the small part of it that every training step runs before it starts. The reference is the plain model:
transformers' own eager attention and head, one sequence at a time, float32 (for cached decoding: in the same type).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import CheckError, HeedfulError, NumericalError
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import decoder_layers
from heedful.model.engine.sampling import Sampling
from heedful.model.engine.scheduler import generate
from heedful.model.layouts import PackedBatch, pack, pack_shared
from heedful.model.loading import (
    check_tokenizer,
    load_causal_model,
    load_scalar_model,
    load_tokenizer,
    save_model,
    scalar_head,
    scalar_model_from_causal,
    scalar_offset,
)
from heedful.model.precision import Precision, frozen
from heedful.model.readout import scalars, target_logprobs

# float32: what sums in another order may round to, as a share of the largest logit (of a scalar head: of its largest sum).
_FLOAT32_LIMIT = 5e-5
# bfloat16: how many times as far from float32 as plain transformers in bfloat16 is.
_BFLOAT16_LIMIT = 4.0
_BFLOAT16_FLOOR = 1e-3
# Where a model is in bfloat16 already, its float32 numbers are not to be had: a share of the largest logit again.
_BFLOAT16_QUICK_LIMIT = 0.02
_LARGEST_WINDOW = 8_192  # a sliding window beyond this is not tried: the check would take minutes
_FAMILIES = "use a model of a supported family (docs/families.md), or report the architecture"

Reading = dict[str, Tensor]
"""Quantity ("log-prob", or "value" and "score") -> numbers, sequence after sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison: the largest absolute difference from the reference, and how large it may be.

    quantity: what was compared; log-probs are in nats, values and scores in units of reward.
    """

    name: str
    quantity: str
    precision: Precision
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        """False also where the difference is not a number."""
        return self.difference <= self.limit


@dataclass(frozen=True, slots=True)
class _Examples:
    """Prompts [groups] and each one's responses [groups][K], token ids."""

    prompts: list[list[int]]
    responses: list[list[list[int]]]

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        return [(p, r) for p, group in zip(self.prompts, self.responses, strict=True) for r in group]


@torch.no_grad()
def quick_check(model: PreTrainedModel) -> None:
    """Compare a few tokens through the loaded model (causal or scalar) with plain transformers.

    Ten forward passes of at most 22 tokens; weights, mode and random numbers stay as they are. Raises CheckError,
    which says which layout is how far off, and NumericalError where the plain model itself gives NaN.
    """
    precision: Precision = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
    examples = _examples(model, [5, 3], [[3, 4], [2]])
    with _explained(model), _evaluating(model):
        with _plain_attention(model):
            reference, scale = _plain_readings(model, examples)
            moved = _moved_by_rounding(model, examples, reference) if precision == "bfloat16" else {}
        limits = _limits(scale, _BFLOAT16_QUICK_LIMIT if precision == "bfloat16" else _FLOAT32_LIMIT)
        limits = {quantity: max(limit, _BFLOAT16_LIMIT * moved.get(quantity, 0.0)) for quantity, limit in limits.items()}
        checks = [*_layout_checks(model, examples, reference, limits, precision)]
        if not _is_scalar(model):
            checks += _decoding_check(model, examples.prompts, 3, limits, precision)
    refuse_failed(checks, type(model).__name__)


def refuse_failed(checks: Sequence[Check], where: str | Path) -> None:
    """Raise CheckError for the first check that failed."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    first = failed[0]
    others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    raise CheckError(
        f"the self-check of the model failed: {first.name} ({first.precision}){others}",
        expected=f"the {first.quantity} of plain transformers within {first.limit:.2g}",
        got=f"up to {first.difference:.2g} off",
        where=where,
        next_step=_next_step(first.name),
    )


@torch.no_grad()
def examine(folder: str | Path, precision: Precision) -> list[Check]:
    """All checks of a model folder, causal or reward model: in float32 and, where asked, in bfloat16 too.

    A causal model is also tried as a reward and value model, with a random head. Runs on the first GPU where there is one.
    Raises MissingError, ModelError (a folder that cannot be loaded at all), CheckError (a forward that fails), StorageError.
    """
    tokenizer = load_tokenizer(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if _is_reward_folder(folder):
        return _examine_model(load_scalar_model(folder).to(device), tokenizer, precision)  # pyright: ignore[reportArgumentType]
    model = load_causal_model(folder)
    check_tokenizer(model, tokenizer, folder)
    checks = _examine_model(model.to(device), tokenizer, precision)  # pyright: ignore[reportArgumentType]
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # From weights that may be rounded to bfloat16 by now: for a comparison with themselves that is all the same.
        scalar = scalar_model_from_causal(model, pad_token_id=cast(int | None, tokenizer.pad_token_id), eos_token_id=end)
    del model
    scalar.float()
    return checks + _examine_model(scalar.to(device), tokenizer, precision)  # pyright: ignore[reportArgumentType]


def _examine_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: Precision) -> list[Check]:
    """Checks in float32, then (the model is cast in place) in bfloat16 where that is ``precision``."""
    with _explained(model):
        return [*_all_checks(model, tokenizer, precision)]


def _all_checks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: Precision) -> Iterator[Check]:
    model.eval()
    examples = _full_examples(model)
    decoded, new_tokens = _decoding_prompts(model)
    with _plain_attention(model):
        reference, scale = _plain_readings(model, examples)
    limits = _limits(scale)
    yield from _order_checks(model, examples, reference, limits, "float32")
    yield from _layout_checks(model, examples, reference, limits, "float32")
    yield from _padding_checks(model, examples, reference, limits, "float32")
    if not _is_scalar(model):
        yield from _decoding_check(model, decoded, new_tokens, limits, "float32")
    yield from _saving_check(model, tokenizer, examples)
    if precision == "float32":
        return
    model = frozen(model, "bfloat16")
    with _plain_attention(model):
        rounded, _ = _plain_readings(model, examples)
    limits = {
        quantity: max(_BFLOAT16_FLOOR, _BFLOAT16_LIMIT * _largest_difference(rounded[quantity], exact))
        for quantity, exact in reference.items()
    }
    yield from _order_checks(model, examples, reference, limits, "bfloat16")
    yield from _layout_checks(model, examples, reference, limits, "bfloat16")
    yield from _padding_checks(model, examples, reference, limits, "bfloat16")
    if not _is_scalar(model):
        yield from _decoding_check(model, decoded, new_tokens, limits, "bfloat16")


# ---------------------------------------------------------------- the checks


def _layout_checks(
    model: PreTrainedModel, examples: _Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """The two layouts that training uses."""
    together = _read(model, pack([p for p, _ in examples.pairs], [r for _, r in examples.pairs]))
    yield from _compared("packed with others", together, reference, limits, precision)
    shared = _read(model, pack_shared(examples.prompts, examples.responses))
    yield from _compared("shared prompt", shared, reference, limits, precision)


def _order_checks(
    model: PreTrainedModel, examples: _Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Other batches of the same sequences: each by itself, and all in reverse order."""
    pairs = examples.pairs
    alone = [_read(model, pack([p], [r])) for p, r in pairs]
    yield from _compared("one sequence alone", _joined(alone), reference, limits, precision)
    backwards = _read(model, pack([p for p, _ in pairs[::-1]], [r for _, r in pairs[::-1]]))
    tokens, scores = [len(r) for _, r in pairs[::-1]], [1] * len(pairs)
    restored = {
        quantity: torch.cat(numbers.split(scores if quantity == "score" else tokens)[::-1])
        for quantity, numbers in backwards.items()
    }
    yield from _compared("packed in reverse order", restored, reference, limits, precision)


def _padding_checks(
    model: PreTrainedModel, examples: _Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Plain transformers with padded batches: what other tools will compute with the model."""
    with _plain_attention(model):
        for side in ("left", "right"):
            padded = _plain_padded(model, examples, side)
            yield from _compared(f"padded on the {side}", padded, reference, limits, precision)


def _decoding_check(
    model: PreTrainedModel, prompts: list[list[int]], new_tokens: int, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Sampled tokens' log-probs from the cache against a plain forward of the whole text, in the same type."""
    room = _context(model) - max(map(len, prompts))
    if room < 1:
        return
    sampling = Sampling(max_tokens=min(new_tokens, room))
    generations = generate(model, prompts, sampling, list(range(len(prompts))))
    texts = _Examples(prompts, [[g.tokens] for g in generations])
    with _plain_attention(model):
        reference, _ = _plain_readings(model, texts)
    device = reference["log-prob"].device
    decoded = {"log-prob": torch.cat([torch.tensor(g.logprobs, device=device) for g in generations])}
    yield from _compared("cached decoding", decoded, reference, limits, precision)


def _saving_check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: _Examples) -> Iterator[Check]:
    """Written to a temporary folder and loaded again: the same bits."""
    load = load_scalar_model if _is_scalar(model) else load_causal_model
    batch = pack_shared(examples.prompts, examples.responses)
    before = _read(model, batch)
    with tempfile.TemporaryDirectory(prefix="heedful-doctor-") as folder:
        save_model(model, tokenizer, Path(folder) / "model")
        again = load(Path(folder) / "model").to(model.device)  # pyright: ignore[reportArgumentType]
        after = _read(again, batch)
    yield from _compared("saved and loaded", after, before, dict.fromkeys(before, 0.0), "float32")


def _compared(name: str, got: Reading, reference: Reading, limits: dict[str, float], precision: Precision) -> Iterator[Check]:
    for quantity, want in reference.items():
        difference = _largest_difference(got[quantity], want)
        yield Check(name=name, quantity=quantity, precision=precision, difference=difference, limit=limits[quantity])


def _next_step(name: str) -> str:
    if name == "saved and loaded":
        return "the folder that training writes would hold another model: check the disk, then report the architecture"
    if name.startswith("padded"):
        return "plain transformers itself depends on padding here: serve this model unpadded, or report it to transformers"
    return _FAMILIES


def _moved_by_rounding(model: PreTrainedModel, examples: _Examples, reference: Reading) -> dict[str, float]:
    """How far the plain model's numbers move where each layer's output is rounded to bfloat16 once more, at random.

    It says how much this model makes of rounding: float32 numbers to compare with would need a second copy of it.
    """
    random_numbers = torch.Generator().manual_seed(0)

    def rounded(layer: torch.nn.Module, given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        noise = torch.rand(hidden.shape, generator=random_numbers).to(hidden.device).mul_(2).sub_(1)
        hidden = (hidden.float() * (1 + torch.finfo(torch.bfloat16).eps * noise)).to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hooks = [layer.register_forward_hook(rounded) for layer in decoder_layers(model)]
    try:
        other, _ = _plain_readings(model, examples)
    finally:
        for hook in hooks:
            hook.remove()
    return {quantity: _largest_difference(other[quantity], want) for quantity, want in reference.items()}


@contextmanager
def _head_in_its_own_type(model: PreTrainedModel) -> Iterator[None]:
    """A float32 head on a bfloat16 body (LoRA): plain transformers does not convert what it is given."""
    if not _is_scalar(model):
        yield
        return
    hook = scalar_head(model).register_forward_pre_hook(lambda head, given: (given[0].to(head.weight.dtype),))
    try:
        yield
    finally:
        hook.remove()


# ---------------------------------------------------------------- what is compared


def _read(model: PreTrainedModel, batch: PackedBatch) -> Reading:
    """What training reads from a row: log-probs of response tokens, or values before each and scores at the end."""
    batch = batch.to(model.device)
    if not _is_scalar(model):
        return {"log-prob": target_logprobs(model, batch)}
    return {"value": scalars(model, batch, batch.predict_from), "score": scalars(model, batch, batch.last)}


def _plain_readings(model: PreTrainedModel, examples: _Examples) -> tuple[Reading, dict[str, float]]:
    """The same of the plain model, one sequence at a time, and the size of the sums that each quantity comes from."""
    readings: list[Reading] = []
    scale = 1.0
    for prompt, response in examples.pairs:
        ids = torch.tensor([[*prompt, *response]], device=model.device)
        with _head_in_its_own_type(model):
            output = cast(Any, model)(input_ids=ids, use_cache=False)
        before = slice(len(prompt) - 1, ids.shape[1] - 1)
        if _is_scalar(model):
            hidden = cast(Any, model.base_model)(input_ids=ids, use_cache=False).last_hidden_state[0]
            reward = output.logits[0].float() + scalar_offset(model)
            readings.append({"value": _plain_scalars(model, hidden)[before], "score": reward})
            size = hidden.float().abs() @ scalar_head(model).weight[0].float().abs()
        else:
            logits = output.logits[0, before].float()
            readings.append({"log-prob": _gathered(logits, response)})
            size = logits.abs()
        scale = max(scale, float(size.max()))
    joined = _joined(readings)
    if not all(bool(torch.isfinite(numbers).all()) for numbers in joined.values()):
        raise NumericalError(
            "the model's own outputs are not finite numbers",
            expected="finite numbers from plain transformers",
            got=f"NaN or infinity from {type(model).__name__}",
            next_step="look for NaN in its weights; a model that overflows in bfloat16 may do with precision = float32",
        )
    return joined, dict.fromkeys(joined, scale)


def _plain_padded(model: PreTrainedModel, examples: _Examples, side: str) -> Reading:
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
    scalar = _is_scalar(model)
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
    return _joined(readings)


def _plain_scalars(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The scalar head's output [tokens], float32, with the constant that plain transformers does not know."""
    return F.linear(hidden.float(), scalar_head(model).weight.float())[:, 0] + scalar_offset(model)


def _gathered(logits: Tensor, tokens: list[int]) -> Tensor:
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]


def _joined(readings: Sequence[Reading]) -> Reading:
    return {quantity: torch.cat([reading[quantity] for reading in readings]) for quantity in readings[0]}


def _largest_difference(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max())


def _limits(scale: dict[str, float], share: float = _FLOAT32_LIMIT) -> dict[str, float]:
    return {quantity: share * size for quantity, size in scale.items()}


# ---------------------------------------------------------------- the model, the examples


def _is_scalar(model: PreTrainedModel) -> bool:
    return isinstance(getattr(model, "score", None), torch.nn.Linear)


def _is_reward_folder(folder: str | Path) -> bool:
    architectures = AutoConfig.from_pretrained(Path(folder).expanduser(), local_files_only=True).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """transformers' own attention for a while, on the same weights."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        use_heedful_attention(model)


@contextmanager
def _explained(model: PreTrainedModel) -> Iterator[None]:
    """Whatever an unknown architecture's code may do with a layout ends as a CheckError."""
    try:
        yield
    except (HeedfulError, torch.OutOfMemoryError, OSError):
        raise
    except Exception as error:
        raise CheckError(
            "the self-check of the model could not be run",
            expected=f"{type(model).__name__} to compute a few tokens in Heedful's layouts",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            next_step=_FAMILIES,
        ) from error


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _context(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 2_048)


def _examples(model: PreTrainedModel, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> _Examples:
    """Random tokens of these lengths, cut to the context window. The padding token is left out: it would move a score."""
    rng = random.Random(0)
    rows = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    vocabulary = [t for t in range(min(rows, model.config.vocab_size)) if t != model.config.pad_token_id]
    room = _context(model)

    def draw(length: int, most: int) -> list[int]:
        return [rng.choice(vocabulary) for _ in range(max(1, min(length, most)))]

    prompt_tokens = [draw(length, room - 1) for length in prompts]
    groups = [
        [draw(length, room - len(prompt)) for length in lengths]
        for prompt, lengths in zip(prompt_tokens, responses, strict=True)
    ]
    return _Examples(prompt_tokens, groups)


def _full_examples(model: PreTrainedModel) -> _Examples:
    """Short and long ones: past the size at which attention takes another kernel, and past the sliding window."""
    prompts, responses = [1, 7, 40], [[5], [1, 24, 9], [16, 3, 11, 2]]
    if _context(model) >= 700:
        prompts, responses = [*prompts, 560], [*responses, [30, 70]]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 24 <= _context(model):
        prompts, responses = [*prompts, window + 8], [*responses, [6, 16]]
    return _examples(model, prompts, responses)


def _decoding_prompts(model: PreTrainedModel) -> tuple[list[list[int]], int]:
    """Prompts, two of them equal, and how many tokens to generate: past the sliding window, where there is one."""
    longest = max(1, min(40, _context(model) - 17))
    lengths = [1, min(7, longest), longest]
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window <= _LARGEST_WINDOW and window + 13 <= _context(model):
        lengths.append(max(1, window - 4))  # its first tokens see all of it
    prompts = _examples(model, lengths, [[1]] * len(lengths)).prompts
    return [*prompts, prompts[1]], 16
