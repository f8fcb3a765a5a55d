from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.tiny import END, largest_difference, parameter_gradients, plain, snapshot, tiny_gpt2, tiny_tokenizer
from tests.training.interrupting import every, interrupted_at, quiet
from transformers import AutoModelForCausalLM, PreTrainedModel

from heedful.errors import ConfigError, NumericalError
from heedful.model import load_causal_model
from heedful.model.encoding import Example, unequal_weights
from heedful.model.precision import MasterWeights
from heedful.training import sft
from heedful.training.config import SFTConfig
from heedful.training.pretraining_text import PretrainingText
from heedful.training.sft import Candidate, SFTData, demonstration_loss, lowest_losses, train_sft

TOKENIZER = tiny_tokenizer()


def echo(first: int, last: int) -> list[Example]:
    """The task: say the prompt's word, then the word after it."""
    return [Example([40, i, 41], [i, i + 1, END]) for i in range(first, last)]


def uneven(count: int) -> list[Example]:
    """Examples of very different lengths."""
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(1, 64, 1 + i % 5).tolist(), rng.integers(1, 64, 1 + (3 * i) % 11).tolist()) for i in range(count)
    ]


def settings(**changed: Any) -> SFTConfig:
    defaults: dict[str, Any] = {
        "precision": "float32",
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "candidates": 1,
        "residual_dropout": 0.0,
    }
    return SFTConfig(**{**defaults, **changed})


def train(model: PreTrainedModel, examples: list[Example], config: SFTConfig, folder: Path, **more: Any) -> list[Candidate]:
    return train_sft(model, TOKENIZER, SFTData(examples, examples[:4], **more), config, folder, console=quiet())


def plain_loss(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """transformers' own loss, one example at a time, prompts set to -100; mean over all response tokens."""
    total, count = torch.zeros(()), 0
    for e in examples:
        labels = torch.tensor([[-100] * len(e.prompt) + e.response])
        logits = model(input_ids=torch.tensor([e.prompt + e.response])).logits
        total = total + F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
        count += len(e.response)
    return total / count


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls_and_the_task_is_learned(precision: str, tmp_path: Path) -> None:
    model = tiny_gpt2(scale=0.1)
    config = settings(epochs=30, precision=precision, residual_dropout=0.1, learning_rate=1e-2)
    train(model, echo(1, 33), config, tmp_path)
    losses = [row["loss"] for row in metrics(tmp_path) if "loss" in row]
    assert len(losses) == 120
    assert losses[0] > 3.5
    assert losses[-1] < 0.5
    trained = load_causal_model(tmp_path / "model")
    assert largest_difference(snapshot(trained), snapshot(model)) == 0.0
    loss = demonstration_loss(trained, echo(1, 33))
    theirs = plain_loss(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), echo(1, 33))
    assert loss == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert loss < 0.4
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("tokens", [1, 20, 16_384])
def test_only_responses_carry_loss_and_accumulation_changes_nothing(tokens: int) -> None:
    """Known traps: a mean of the microbatches' means; a loss on prompts."""
    model, examples = tiny_gpt2(), uneven(9)
    twin = plain(model)
    loss = sft.accumulate_gradients(MasterWeights(model, "float32"), examples, settings(tokens_per_microbatch=tokens))
    expected = plain_loss(twin, examples)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(parameter_gradients(model), parameter_gradients(twin)) < 1e-5


@pytest.mark.parametrize("tokens", [20, 16_384])
def test_a_weight_multiplies_the_loss_of_its_example_alone(tokens: int) -> None:
    model, examples = tiny_gpt2(), uneven(9)
    weighted = [replace(one, weight=weight) for one, weight in zip(examples, [1.0, 2.5, 0.25] * 3, strict=True)]
    twin, count = plain(model), sum(len(one.response) for one in examples)
    loss = sft.accumulate_gradients(MasterWeights(model, "float32"), weighted, settings(tokens_per_microbatch=tokens))
    expected = sum((one.weight * len(one.response) / count * plain_loss(twin, [one]) for one in weighted), torch.zeros(()))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(parameter_gradients(model), parameter_gradients(twin)) < 1e-5
    assert demonstration_loss(model, weighted) == demonstration_loss(model, examples)  # what is measured has no weights


def test_weights_are_an_input_of_a_run_and_checkpoints_from_before_there_were_any_stay_good() -> None:
    one = Example([1], [2])
    assert repr(one) == "Example(prompt=[1], response=[2])"  # a run's identity is made of it
    assert unequal_weights([one, one]) == {}
    assert unequal_weights([one, replace(one, weight=2.0)]) == {"weights": [1.0, 2.0]}


def test_accumulated_microbatches_give_the_weights_of_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain gradient descent: Adam would blow up the rounding of gradients that are zero in exact arithmetic."""
    monkeypatch.setattr(sft, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.0))
    ends = []
    for tokens in (12, 10_000):
        model = tiny_gpt2()
        train(model, uneven(20), settings(learning_rate=0.05, tokens_per_microbatch=tokens), tmp_path / str(tokens))
        ends.append(snapshot(model))
    assert largest_difference(ends[0], snapshot(tiny_gpt2())) > 1e-3
    assert largest_difference(*ends) < 1e-6


def test_the_learning_rate_is_a_cosine_to_a_tenth_without_warm_up(tmp_path: Path) -> None:
    train(tiny_gpt2(), echo(1, 23), settings(epochs=3, batch_size=8), tmp_path)
    rates = [row["learning_rate"] for row in metrics(tmp_path) if "learning_rate" in row]
    assert len(rates) == 9  # 22 examples in batches of 8: 3 steps an epoch
    assert rates[0] == pytest.approx(3e-3)
    assert rates[4] == pytest.approx(0.55 * 3e-3, rel=1e-5)
    assert rates[-1] == pytest.approx(3e-4, rel=1e-5)


def test_every_example_is_seen_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    accumulate = sft.accumulate_gradients

    def watching(weights: Any, batch: list[Example], config: Any) -> float:
        seen.append([e.prompt[1] for e in batch])
        return accumulate(weights, batch, config)

    monkeypatch.setattr(sft, "accumulate_gradients", watching)
    train(tiny_gpt2(), echo(1, 22), settings(epochs=2), tmp_path)
    assert [len(batch) for batch in seen] == [8, 8, 5] * 2
    epochs = [[*chain(*seen[:3])], [*chain(*seen[3:])]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 22))
    assert epochs[0] != epochs[1]


def test_candidates_are_kept_evenly_and_the_last_is_among_them(tmp_path: Path) -> None:
    examples = echo(1, 9)
    candidates = train(tiny_gpt2(scale=0.1), examples, settings(epochs=6, candidates=3), tmp_path)
    assert [c.epoch for c in candidates] == [2, 4, 6]
    assert [c.folder for c in candidates] == [tmp_path / "candidates" / f"epoch-{n}" for n in (2, 4, 6)]
    for candidate in candidates:
        kept = AutoModelForCausalLM.from_pretrained(candidate.folder)
        assert candidate.validation_loss == pytest.approx(float(plain_loss(kept, examples[:4]).detach()), abs=1e-5)
    assert candidates[0].validation_loss > candidates[-1].validation_loss
    assert all(c.pretraining_loss is None for c in candidates)
    last, final = load_causal_model(candidates[-1].folder), load_causal_model(tmp_path / "model")
    assert largest_difference(snapshot(last), snapshot(final)) == 0.0
    logged = [row["validation_loss"] for row in metrics(tmp_path) if "validation_loss" in row]
    assert logged[1:] == pytest.approx([c.validation_loss for c in candidates], abs=1e-6)  # the first is before training


def test_more_candidates_than_epochs_keep_every_epoch(tmp_path: Path) -> None:
    assert [c.epoch for c in train(tiny_gpt2(), echo(1, 9), settings(epochs=2, candidates=5), tmp_path)] == [1, 2]


def test_the_candidate_with_the_lowest_losses() -> None:
    candidates = [
        Candidate(Path("a"), 1, 1.0, 3.0),
        Candidate(Path("b"), 2, 1.2, 2.5),
        Candidate(Path("c"), 3, 0.9, 3.5),
    ]
    assert lowest_losses(candidates).folder == Path("b")
    assert lowest_losses([Candidate(Path("a"), 1, 1.0, None), Candidate(Path("b"), 2, 0.5, None)]).folder == Path("b")


# ---------------------------------------------------------------- pretraining text


def text(documents: int = 30) -> PretrainingText:
    rows = [[50 + i % 10, 1 + i % 60, 5, END] for i in range(documents)]
    return PretrainingText(np.array([*chain(*rows)], dtype=np.int32), np.arange(0, 4 * documents + 1, 4))


@pytest.mark.parametrize(("batch_size", "share", "total"), [(9, 0.1, 20), (8, 0.1, 17), (8, 0.5, 160), (8, 0.0, 0)])
def test_the_share_of_pretraining_text(batch_size: int, share: float, total: int) -> None:
    """20 steps of 9 demonstrations and 10 %: one in each; of 8: 8/9 in each; at 50 % as many as demonstrations."""
    batches = sft.pretraining_batches(text(), settings(batch_size=batch_size, pretraining_share=share), 20, 8)
    counts = [len(batch) for batch in batches]
    assert len(counts) == 20
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
    assert all(e.prompt[0] >= 50 and 1 <= len(e.response) <= 7 for batch in batches for e in batch)


@pytest.mark.parametrize("tokens", [16, 16_384])
def test_text_gets_its_share_of_the_loss(tokens: int) -> None:
    """0.9 times the demonstrations' mean per token and 0.1 times the text's, however long either is."""
    config = settings(pretraining_share=0.1, pretraining_share_of="loss", tokens_per_microbatch=tokens)
    demonstrations, sequences = uneven(7), [Example([50], [1, 5, END, 51, 2, 5, END]), Example([52], [3, 5, END])]
    model = tiny_gpt2(scale=0.3)
    twin = plain(model)
    expected = 0.9 * plain_loss(twin, demonstrations) + 0.1 * plain_loss(twin, sequences)
    expected.backward()
    loss = sft.mixed_gradients(MasterWeights(model, "float32"), demonstrations, sequences, config)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(parameter_gradients(model), parameter_gradients(twin)) < 1e-5
    # As a share of the examples, all tokens weigh the same.
    together = sft.mixed_gradients(MasterWeights(tiny_gpt2(scale=0.3), "float32"), demonstrations, sequences, settings())
    assert together == pytest.approx(float(plain_loss(twin, [*demonstrations, *sequences]).detach()), abs=1e-5)
    assert together != pytest.approx(loss, abs=1e-3)


def test_as_a_share_of_the_loss_text_is_in_every_batch() -> None:
    config = settings(batch_size=4, pretraining_share=0.1, pretraining_share_of="loss")
    assert [len(batch) for batch in sft.pretraining_batches(text(), config, 20, 8)] == [1] * 20
    config = settings(batch_size=18, pretraining_share=0.1, pretraining_share_of="loss")
    assert [len(batch) for batch in sft.pretraining_batches(text(), config, 20, 8)] == [2] * 20


def test_pretraining_text_is_mixed_in_and_its_loss_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    accumulate = sft.accumulate_gradients

    def watching(weights: Any, batch: list[Example], config: Any) -> float:
        sizes.append(len(batch))
        return accumulate(weights, batch, config)

    monkeypatch.setattr(sft, "accumulate_gradients", watching)
    model = tiny_gpt2(scale=0.1)
    config = settings(epochs=10, batch_size=9, pretraining_share=0.1, candidates=2)
    candidates = train(
        model, echo(1, 19), config, tmp_path, pretraining=text(), pretraining_validation=text(), context_length=8
    )
    assert sizes == [10] * 20
    losses = [c.pretraining_loss for c in candidates]
    assert losses[1] is not None
    assert losses[0] is not None
    assert losses[1] < losses[0] < 4.0


def test_pretraining_share_needs_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pretraining text is needed"):
        train(tiny_gpt2(), echo(1, 9), settings(pretraining_share=0.1), tmp_path)


def test_a_share_of_one_would_leave_no_demonstrations() -> None:
    with pytest.raises(ConfigError, match="pretraining_share"):
        settings(pretraining_share=1.0)


# ---------------------------------------------------------------- interruption


@pytest.mark.parametrize("at", [1, 6, 11])
def test_an_interrupted_run_goes_on_to_the_same_weights(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout and text mixed in, bit for bit; steps after the last checkpoint are made again."""
    config = settings(epochs=4, residual_dropout=0.2, pretraining_share=0.1, candidates=4)
    more: dict[str, Any] = {"pretraining": text(), "pretraining_validation": text(), "context_length": 8}
    monkeypatch.setattr(sft, "CheckpointTimer", every(4))
    whole = tiny_gpt2()
    expected = train(whole, echo(1, 25), config, tmp_path / "whole", **more)

    with monkeypatch.context() as patched:
        patched.setattr(sft, "apply_gradients", interrupted_at(at, sft.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt2(), echo(1, 25), config, tmp_path / "run", **more)
    assert (tmp_path / "run" / "checkpoints").exists() == (at > 4)
    torch.manual_seed(999)
    resumed = tiny_gpt2()
    candidates = train(resumed, echo(1, 25), config, tmp_path / "run", **more)
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert [(c.epoch, c.validation_loss, c.pretraining_loss) for c in candidates] == [
        (c.epoch, c.validation_loss, c.pretraining_loss) for c in expected
    ]


def test_a_run_that_an_older_version_began_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It measured no loss before training, so none is reported."""
    monkeypatch.setattr(sft, "CheckpointTimer", every(2))
    config = settings(epochs=2, candidates=2)
    with monkeypatch.context() as patched:
        patched.setattr(sft, "apply_gradients", interrupted_at(4, sft.apply_gradients))
        patched.setattr(sft, "validate_before", lambda training: None)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt2(), echo(1, 25), config, tmp_path)
    console = quiet()
    data = SFTData(echo(1, 25), echo(1, 25)[:4])
    train_sft(tiny_gpt2(), TOKENIZER, data, config, tmp_path, console=console)
    assert sft.loss_before_training(metrics(tmp_path)) is None
    assert "before training" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_measuring_before_training_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, bit for bit."""
    config, ends = settings(epochs=2, residual_dropout=0.2), []
    for name in ("with", "without"):
        model = tiny_gpt2()
        train(model, echo(1, 25), config, tmp_path / name)
        ends.append(snapshot(model))
        monkeypatch.setattr(sft, "validate_before", lambda training: None)
    assert largest_difference(*ends) == 0.0


def test_training_says_what_it_did_to_the_validation_loss(tmp_path: Path) -> None:
    console = quiet()
    data = SFTData(echo(1, 25), echo(1, 25)[:4])
    model = tiny_gpt2()
    before = demonstration_loss(model, data.validation)
    (candidate,) = train_sft(model, TOKENIZER, data, settings(epochs=2), tmp_path, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"sft: validation loss {before:.3f} before training, {candidate.validation_loss:.3f} after" in said
    assert f"validation {before:.3f}" in said  # beside the loss in the first epoch
    assert sft.loss_before_training(metrics(tmp_path)) == pytest.approx(before, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "CheckpointTimer", every(1))
    calls = 0
    accumulate = sft.accumulate_gradients

    def breaking(weights: MasterWeights, batch: list[Example], config: Any) -> float:
        nonlocal calls
        calls += 1
        loss = accumulate(weights, batch, config)
        if calls == 3:
            for parameter in weights.master.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)
            return float("nan")
        return loss

    monkeypatch.setattr(sft, "accumulate_gradients", breaking)
    model = tiny_gpt2()
    with pytest.raises(NumericalError, match="loss, gradient_norm is not a finite number at step 2"):
        train(model, echo(1, 25), settings(), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "step-2" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert not (tmp_path / "checkpoints" / "step-3").exists()
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not (tmp_path / "model").exists()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    start, ends = tiny_gpt2(), []
    for number, seed in enumerate((3, 3, 4)):
        model = copy.deepcopy(start)
        train(model, echo(1, 25), settings(seed=seed, residual_dropout=0.2), tmp_path / str(number))
        ends.append(snapshot(model))
    assert largest_difference(ends[0], ends[1]) == 0.0
    assert largest_difference(ends[0], ends[2]) > 1e-4


# ---------------------------------------------------------------- validation while it trains


def test_validation_at_chosen_steps_and_where_a_model_is_kept(tmp_path: Path) -> None:
    config = settings(epochs=2, validate_every=2, residual_dropout=0.2)  # 24 examples, batches of 8: 3 steps an epoch
    model = tiny_gpt2()
    (candidate,) = train(model, echo(1, 25), config, tmp_path, pretraining_validation=text(), context_length=8)
    rows = [row for row in metrics(tmp_path) if "validation_loss" in row]
    assert [(row["step"], row.get("epoch")) for row in rows] == [
        (0, 0.0),  # before training
        (1, None),
        (3, None),
        (5, 2.0),  # step 5 is logged once
    ]
    assert all("pretraining_loss" in row for row in rows)
    assert rows[-1]["validation_loss"] == pytest.approx(candidate.validation_loss, abs=1e-6)
    assert len({row["validation_loss"] for row in rows}) == 4
    before = demonstration_loss(tiny_gpt2(), echo(1, 25)[:4])
    assert rows[0]["validation_loss"] == pytest.approx(before, abs=1e-6)
    unwatched = tiny_gpt2()
    train(unwatched, echo(1, 25), settings(epochs=2, residual_dropout=0.2), tmp_path / "without")
    assert largest_difference(snapshot(model), snapshot(unwatched)) == 0.0
