"""The self-check: does a model compute the same here as in plain transformers?

Log-probs of responses, scores and values must not depend on batch size, order, padding or layout. Cached decoding must match a
full forward pass, and a saved model must load unchanged. :func:`examine` checks all this for one model and compute type
(``heedful doctor``). :func:`quick_check` is a small part of it, which each training step runs before it starts. The reference
is the plain model: transformers' own eager attention and head, one sequence at a time, in float32. For cached decoding and the
quick check it is the plain model in the model's own type.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import CheckError, HeedfulError, ModelError
from heedful.model.doctor_examples import (
    Examples,
    decoding_prompts,
    examples_of,
    examples_past_the_switch,
    full_examples,
    short_examples,
    window_of,
)
from heedful.model.dropout import evaluating
from heedful.model.engine.sampling import Sampling
from heedful.model.engine.scheduler import generate
from heedful.model.inference import first_device
from heedful.model.layouts import PackedBatch, pack, pack_shared
from heedful.model.loading import check_tokenizer, load_causal_model, load_scalar_model, load_tokenizer
from heedful.model.plain_reference import (
    Reading,
    is_scalar,
    joined,
    largest_difference,
    moved_by_rounding,
    padded_readings,
    plain_attention,
    plain_readings,
    reversed_order,
    selected,
)
from heedful.model.precision import Precision, frozen
from heedful.model.readout import scalars, target_logprobs
from heedful.model.saving import save_model
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.progress import ProgressLine, progress_line

# float32: the allowed rounding difference of sums in another order, as a share of the largest logit (scalar head: largest sum).
_FLOAT32_LIMIT = 5e-5
# bfloat16: the allowed distance from float32, as a multiple of plain transformers' distance in bfloat16.
_BFLOAT16_LIMIT = 4.0
_BFLOAT16_FLOOR = 1e-3
# A model that is loaded in bfloat16 has no float32 numbers to compare with, so this is again a share of the largest logit.
_BFLOAT16_QUICK_LIMIT = 0.02
_FAMILIES = "use a model of a supported family (docs/families.md), or report the architecture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison: the largest absolute difference from the reference, and its limit.

    quantity: what was compared. Log-probs are in nats, values and scores in units of reward.
    """

    name: str
    quantity: str
    precision: Precision
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; False if it is NaN."""
        return self.difference <= self.limit


@torch.no_grad()
def quick_check(model: PreTrainedModel) -> None:
    """Compare the loaded model (causal or scalar) with plain transformers on a few tokens.

    It takes about a dozen forward passes of at most 22 tokens. Weights, mode and random numbers stay as they are. Raises
    CheckError with the layout and its difference, and NumericalError if the plain model itself gives NaN or infinity.
    """
    precision: Precision = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
    examples = examples_of(model, [5, 3], [[3, 4], [2]])
    with _explained(model), evaluating(model):
        with plain_attention(model):
            reference, scale = plain_readings(model, examples)
            moved = moved_by_rounding(model, examples, reference) if precision == "bfloat16" else {}
        limits = _limits(scale, _BFLOAT16_QUICK_LIMIT if precision == "bfloat16" else _FLOAT32_LIMIT)
        limits = {quantity: max(limit, _BFLOAT16_LIMIT * moved.get(quantity, 0.0)) for quantity, limit in limits.items()}
        checks = [*_layout_checks(model, examples, reference, limits, precision)]
        if not is_scalar(model):
            checks += _decoding_check(model, examples.prompts, 3, limits, precision)
    refuse_failed(checks, type(model).__name__)


def refuse_failed(checks: Sequence[Check], where: str | Path) -> None:
    """Raise CheckError with the first failed check, if any failed."""
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
def examine(folder: str | Path, precision: Precision, console: Console | None = None) -> list[Check]:
    """All checks of a model folder (causal or reward model), in float32 and, if ``precision`` says so, in bfloat16 too.

    A causal model is also checked as a reward and value model, with a random head. Its body has been checked on long sequences
    by then, so these examples are short. Runs on the first GPU if there is one. Progress goes to the console, if one is given.
    Raises MissingError, ModelError (the folder cannot be loaded), CheckError (a forward pass fails), NumericalError (the plain
    model gives NaN or infinity), StorageError.
    """
    tokenizer = load_tokenizer(folder)
    device = first_device()
    scalar_folder = _is_reward_folder(folder)
    total = _num_checks(scalar_folder, precision)
    with progress_line("self-check", total, unit="checks", console=console or Console(quiet=True)) as progress:
        if scalar_folder:
            model = load_scalar_model(folder).to(device)  # pyright: ignore[reportArgumentType]
            return _examined(model, tokenizer, precision, full_examples(model), progress)
        model = load_causal_model(folder)
        check_tokenizer(model, tokenizer, folder)
        model = model.to(device)  # pyright: ignore[reportArgumentType]
        checks = _examined(model, tokenizer, precision, full_examples(model), progress)
        end = tokenizer.eos_token_id
        assert isinstance(end, int)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # The weights may be rounded to bfloat16 by now. That does not matter: the new model is compared with itself.
            scalar = scalar_model_from_causal(model, pad_token_id=cast(int | None, tokenizer.pad_token_id), eos_token_id=end)
        del model
        scalar = scalar.float().to(device)  # pyright: ignore[reportArgumentType]
        return checks + _examined(scalar, tokenizer, precision, short_examples(scalar), progress)


def _num_checks(scalar: bool, precision: Precision) -> int:
    """How many checks there are; models with LongRoPE or dynamic scaling have one or two more."""
    of_causal, of_scalar = (8, 14) if precision == "float32" else (15, 26)
    return of_scalar if scalar else of_causal + of_scalar


def _examined(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    examples: Examples,
    progress: ProgressLine,
) -> list[Check]:
    """Checks in float32, and then in bfloat16 if ``precision`` says so (the model is cast in place)."""
    checks: list[Check] = []
    with _explained(model):
        for check in _all_checks(model, tokenizer, precision, examples):
            checks.append(check)
            progress.advance()
    return checks


def _all_checks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: Precision, examples: Examples
) -> Iterator[Check]:
    model.eval()
    with plain_attention(model):
        reference, scale = plain_readings(model, examples)
    limits = _limits(scale)
    yield from _checks_in(model, examples, reference, limits, "float32")
    yield from _switch_check(model)
    yield from _saving_check(model, tokenizer)
    if precision == "float32":
        return
    model = frozen(model, "bfloat16")
    with plain_attention(model):
        rounded, _ = plain_readings(model, examples)
    limits = {
        quantity: max(_BFLOAT16_FLOOR, _BFLOAT16_LIMIT * largest_difference(rounded[quantity], exact))
        for quantity, exact in reference.items()
    }
    yield from _checks_in(model, examples, reference, limits, "bfloat16")


def _checks_in(
    model: PreTrainedModel, examples: Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    short = short_examples(model)
    of_short = selected(reference, examples, short)
    yield from _alone_check(model, examples, reference, limits, precision)
    yield from _order_check(model, short, of_short, limits, precision)
    yield from _layout_checks(model, examples, reference, limits, precision)
    yield from _padding_checks(model, short.firsts, selected(of_short, short, short.firsts), limits, precision)
    if not is_scalar(model):
        yield from _decoding_check(model, *decoding_prompts(model), limits, precision)


# ---------------------------------------------------------------- the checks


def _layout_checks(
    model: PreTrainedModel, examples: Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """The two layouts that training uses."""
    together = _read(model, pack([p for p, _ in examples.pairs], [r for _, r in examples.pairs]))
    yield from _compared("packed with others", together, reference, limits, precision)
    shared = _read(model, pack_shared(examples.prompts, examples.responses))
    yield from _compared("shared prompt", shared, reference, limits, precision)


def _switch_check(model: PreTrainedModel) -> Iterator[Check]:
    """A short sequence beside one past the original window of scaled rotary positions: refused, or it must not change."""
    examples = examples_past_the_switch(model)
    if examples is None:
        return
    with plain_attention(model):
        reference, scale = plain_readings(model, examples)
    try:
        together = _read(model, pack([p for p, _ in examples.pairs], [r for _, r in examples.pairs]))
    except ModelError:
        together = reference
    yield from _compared("past the original window", together, reference, _limits(scale), "float32")


def _alone_check(
    model: PreTrainedModel, examples: Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Each sequence by itself."""
    alone = [_read(model, pack([p], [r])) for p, r in examples.pairs]
    yield from _compared("one sequence alone", joined(alone), reference, limits, precision)


def _order_check(
    model: PreTrainedModel, examples: Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """The same sequences in one row, in reverse order."""
    pairs = examples.pairs[::-1]
    backwards = _read(model, pack([p for p, _ in pairs], [r for _, r in pairs]))
    yield from _compared("packed in reverse order", reversed_order(backwards, examples), reference, limits, precision)


def _padding_checks(
    model: PreTrainedModel, examples: Examples, reference: Reading, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Plain transformers with padded batches, as other tools will run the model."""
    with plain_attention(model):
        for side in ("left", "right"):
            padded = padded_readings(model, examples, side)
            yield from _compared(f"padded on the {side}", padded, reference, limits, precision)


def _decoding_check(
    model: PreTrainedModel, prompts: list[list[int]], new_tokens: int, limits: dict[str, float], precision: Precision
) -> Iterator[Check]:
    """Log-probs of sampled tokens from cached decoding, compared with a plain forward pass over the whole text."""
    room = window_of(model) - max(map(len, prompts))
    if room < 1:
        return
    sampling = Sampling(max_tokens=min(new_tokens, room))
    generations = generate(model, prompts, sampling, list(range(len(prompts))))
    texts = Examples(prompts, [[g.tokens] for g in generations])
    with plain_attention(model):
        reference, _ = plain_readings(model, texts)
    device = reference["log-prob"].device
    decoded = {"log-prob": torch.cat([torch.tensor(g.logprobs, device=device) for g in generations])}
    yield from _compared("cached decoding", decoded, reference, limits, precision)


def _saving_check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Check]:
    """A model that is written to a temporary folder and loaded again gives the same bits."""
    load = load_scalar_model if is_scalar(model) else load_causal_model
    examples = short_examples(model)
    batch = pack_shared(examples.prompts, examples.responses)
    before = _read(model, batch)
    with tempfile.TemporaryDirectory(prefix="heedful-doctor-") as folder:
        save_model(model, tokenizer, Path(folder) / "model")
        again = load(Path(folder) / "model").to(model.device)  # pyright: ignore[reportArgumentType]
        after = _read(again, batch)
    yield from _compared("saved and loaded", after, before, dict.fromkeys(before, 0.0), "float32")


def _compared(name: str, got: Reading, reference: Reading, limits: dict[str, float], precision: Precision) -> Iterator[Check]:
    for quantity, want in reference.items():
        difference = largest_difference(got[quantity], want)
        yield Check(name=name, quantity=quantity, precision=precision, difference=difference, limit=limits[quantity])


def _next_step(name: str) -> str:
    if name == "saved and loaded":
        return "the folder that training writes would hold a different model: check the disk, then report the architecture"
    if name.startswith("padded"):
        return "plain transformers itself depends on padding here: serve this model unpadded, or report it to transformers"
    return _FAMILIES


# ---------------------------------------------------------------- what is compared


def _read(model: PreTrainedModel, batch: PackedBatch) -> Reading:
    """What training reads from a row: log-probs of response tokens, or the value before each and the scores at the ends."""
    batch = batch.to(model.device)
    if not is_scalar(model):
        return {"log-prob": target_logprobs(model, batch)}
    return {"value": scalars(model, batch, batch.predict_from), "score": scalars(model, batch, batch.last)}


def _limits(scale: dict[str, float], share: float = _FLOAT32_LIMIT) -> dict[str, float]:
    return {quantity: share * size for quantity, size in scale.items()}


# ---------------------------------------------------------------- the model, the examples


def _is_reward_folder(folder: str | Path) -> bool:
    architectures = AutoConfig.from_pretrained(Path(folder).expanduser(), local_files_only=True).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


@contextmanager
def _explained(model: PreTrainedModel) -> Iterator[None]:
    """Turn any error that an unknown architecture's code raises on a layout into a CheckError."""
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
