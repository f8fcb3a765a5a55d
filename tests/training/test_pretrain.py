from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import END, largest_difference, parameter_gradients, plain, snapshot, tiny_gpt2, tiny_tokenizer
from tests.training.interrupting import every, interrupted_at, quiet
from transformers import AutoModelForCausalLM, PreTrainedModel

from heedful.model.precision import MasterWeights
from heedful.training import pretrain
from heedful.training.config import PretrainConfig
from heedful.training.pretrain import text_loss, train_pretrain
from heedful.training.pretraining_text import PretrainingText

TOKENIZER = tiny_tokenizer()


def text(documents: int = 40) -> PretrainingText:
    """Counting upwards from a random word, documents of 2 to 10 tokens."""
    rng = np.random.default_rng(0)
    rows = [[*range(start, start + length), END] for start, length in rng.integers(1, 50, (documents, 2)) % [50, 9] + 1]
    lengths = [len(row) for row in rows]
    return PretrainingText(np.array([*chain(*rows)], dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def settings(**changed: Any) -> PretrainConfig:
    defaults: dict[str, Any] = {
        "precision": "float32",
        "num_tokens": 1_000,
        "batch_tokens": 100,
        "context_length": 24,
        "learning_rate": 1e-2,
        "warmup_share": 0.2,
    }
    return PretrainConfig(**{**defaults, **changed})


def train(config: PretrainConfig, folder: Path, **more: Any) -> PreTrainedModel:
    return train_pretrain(tiny_gpt2(scale=0.1), TOKENIZER, text(), config, folder, console=quiet(), **more)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain_loss(model: Any, sequences: list[Any]) -> torch.Tensor:
    total, count = torch.zeros(()), 0
    for sequence in sequences:
        ids = torch.tensor(np.asarray(sequence).astype(np.int64))[None]
        total = total + model(input_ids=ids, labels=ids).loss * (len(sequence) - 1)
        count += len(sequence) - 1
    return total / count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls(precision: str, tmp_path: Path) -> None:
    train(settings(num_tokens=12_000, precision=precision), tmp_path, validation=text())
    rows = metrics(tmp_path)
    assert rows[0]["loss"] > 3.5
    assert rows[-1]["validation_loss"] < 1.5
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    sequences = list(text().sequences(context_length=24, rng=np.random.default_rng(0)))
    expected = float(plain_loss(saved, sequences).detach())
    assert rows[-1]["validation_loss"] == pytest.approx(expected, abs=1e-5 if precision == "float32" else 0.05)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("tokens", [1, 60, 16_384])
def test_accumulation_gives_the_gradient_of_the_mean_per_token(tokens: int) -> None:
    sequences = list(text().sequences(context_length=24, rng=np.random.default_rng(0)))[:6]
    model = tiny_gpt2()
    twin = plain(model)
    loss = pretrain.accumulate_gradients(MasterWeights(model, "float32"), sequences, settings(tokens_per_microbatch=tokens))
    expected = plain_loss(twin, sequences)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(parameter_gradients(model), parameter_gradients(twin)) < 1e-5


def test_text_loss_is_that_of_plain_transformers() -> None:
    model = tiny_gpt2()
    sequences = list(text().sequences(context_length=16, rng=np.random.default_rng(0)))
    assert len(sequences) > 5
    for limit in (5, 1_000):
        expected = float(plain_loss(plain(model), sequences[:limit]).detach())
        assert text_loss(model, text(), context_length=16, max_sequences=limit) == pytest.approx(expected, abs=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth(tmp_path: Path) -> None:
    train(settings(), tmp_path)
    rates = [row["learning_rate"] for row in metrics(tmp_path)]
    assert len(rates) == 10
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize("at", [2, 8])
def test_an_interrupted_run_goes_on_to_the_same_weights(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "CheckpointTimer", every(4))
    config = settings(shortest_context=8)
    whole = train(config, tmp_path / "whole", validation=text())
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "apply_gradients", interrupted_at(at, pretrain.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", validation=text())
    assert (tmp_path / "run" / "checkpoints").exists() == (at > 4)
    resumed = train(config, tmp_path / "run", validation=text())
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_validation_at_chosen_steps(tmp_path: Path) -> None:
    watched = train(settings(validate_every=4), tmp_path / "watched", validation=text())
    rows = [row for row in metrics(tmp_path / "watched") if "validation_loss" in row]
    assert [row["step"] for row in rows] == [3, 7, 10]  # 10 steps: after the fourth, the eighth, and at the end
    assert rows[0]["validation_loss"] > rows[1]["validation_loss"] > rows[2]["validation_loss"]
    assert largest_difference(snapshot(watched), snapshot(train(settings(), tmp_path / "without"))) == 0.0
