from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from heedful.miniature import base
from heedful.miniature.invented_world import World
from heedful.model.loading import load_causal_model, load_tokenizer

WORLD = World(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


def test_a_smaller_size_trains_on_the_first_documents_of_the_same_corpus(folder: Path) -> None:
    tokenizer = base.shared_tokenizer(WORLD, folder / "tokenizer")
    all_of_it = base.encoded_corpus(WORLD, tokenizer, 60, folder / "work")
    some = base.encoded_corpus(WORLD, tokenizer, 40, folder / "work")
    assert [file.name for file in (folder / "work").iterdir()] == ["text-000000060.npz"]  # nothing was encoded again
    assert some.num_documents == 40
    assert np.array_equal(some.tokens, all_of_it.tokens[: len(some.tokens)])
    alone = base.encoded_corpus(WORLD, tokenizer, 40, folder / "other")
    assert np.array_equal(alone.tokens, some.tokens)
    assert np.array_equal(alone.offsets, some.offsets)


def test_a_model_is_pretrained_and_saved_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "VALIDATION_DOCUMENTS", 20)
    size = base.Size(layers=1, width=32, heads=1, documents=60, num_tokens=17_000, learning_rate=1e-2)
    monkeypatch.setattr(base, "SIZES", {"tiny": size})
    base.make_base_models(["text", "tiny"], folder)
    model = load_causal_model(folder / "tiny")
    assert model.config.n_layer == 1
    tokens = load_tokenizer(folder / "tiny")("The fox eats honey.")["input_ids"]
    assert tokens == base.shared_tokenizer(WORLD, folder / "tokenizer")("The fox eats honey.")["input_ids"]
    rows = (folder / "work" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3  # two steps of 8,192 tokens, and the last validation
    before = (folder / "tiny" / "model.safetensors").stat().st_mtime_ns
    base.make_base_models(["tiny"], folder)
    assert (folder / "tiny" / "model.safetensors").stat().st_mtime_ns == before


def test_the_start_of_the_reward_model_is_medium_trained_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = base.Size(layers=1, width=32, heads=1, documents=60, num_tokens=17_000, learning_rate=1e-2)
    for name, value in {"VALIDATION_DOCUMENTS": 20, "SIZES": {"medium": size}, "REWARD_START_TOKENS": 17_000}.items():
        monkeypatch.setattr(base, name, value)
    monkeypatch.setattr(base, "REWARD_START_DOCUMENTS", 120)
    monkeypatch.setattr(base, "WRITTEN_SLIPS", 20)
    base.make_base_models(["medium"], tmp_path)
    base.make_reward_start(tmp_path)
    medium, start = (load_causal_model(tmp_path / name) for name in ("medium", "reward_start"))
    assert start.config.n_embd == 32
    first, further = (dict(model.named_parameters())["transformer.wte.weight"].detach().flatten() for model in (medium, start))
    # Its weights are still near medium's: a new model's would be unrelated.
    assert 0.9 < float(torch.nn.functional.cosine_similarity(first, further, dim=0)) < 0.99999
    assert load_tokenizer(tmp_path / "reward_start").get_vocab() == load_tokenizer(tmp_path / "medium").get_vocab()
    assert [file.name for file in (tmp_path / "work" / "pages").iterdir()] == ["text-000000120.npz"]
