"""Folders of shards: whole ones are read, and what is missing is named before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.tiny import plain, tiny_llama, tiny_tokenizer

from heedful.errors import ModelError
from heedful.model.loading import load_causal_model
from heedful.model.weight_files import check_all_there, check_weight_files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    plain(tiny_llama()).save_pretrained(tmp_path, max_shard_size="20kB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) >= 3
    return tmp_path


def problem(folder: Path) -> str:
    with pytest.raises(ModelError, match="the model's weights cannot be read") as caught:
        check_weight_files(folder, tiny_llama())
    with pytest.raises(ModelError) as loading:
        load_causal_model(folder)
    assert loading.value.got is not None
    assert str(folder) in str(loading.value)
    assert caught.value.next_step == "download or copy the model again"
    return str(caught.value.got)


def test_whole_shards_are_read(shards: Path) -> None:
    check_weight_files(shards, tiny_llama())
    loaded, given = load_causal_model(shards).state_dict(), tiny_llama().state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in given.items())


def test_missing_shards_are_named(shards: Path) -> None:
    files = sorted(shards.glob("model-*-of-*.safetensors"))
    files[1].unlink()
    assert problem(shards) == f"no {files[1].name}"
    for file in files:
        file.unlink(missing_ok=True)
    names = [file.name for file in files]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    assert problem(shards) == f"no {', '.join(names[:3])}{rest}"


def test_a_cut_shard_is_named(shards: Path) -> None:
    file = sorted(shards.glob("model-*-of-*.safetensors"))[2]
    file.write_bytes(file.read_bytes()[:-10])
    assert problem(shards).startswith(f"{file.name}: ")


def test_shards_without_their_index(shards: Path) -> None:
    (shards / "model.safetensors.index.json").unlink()
    assert "shards without their index (model.safetensors.index.json)" in problem(shards)
    first = sorted(shards.glob("model-*-of-*.safetensors"))[0]
    first.unlink()
    assert problem(shards) == f"no {first.name}"  # their names say how many there are


def test_a_damaged_index(shards: Path) -> None:
    for content in ("{", "[]"):
        (shards / "model.safetensors.index.json").write_text(content)
        assert "model.safetensors.index.json: no JSON object with a weight_map" in problem(shards)


def test_an_index_of_another_format_is_not_looked_at(shards: Path) -> None:
    """Downloads without pickled weights still have their index."""
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model-1-of-2.bin"}}))
    check_weight_files(shards, tiny_llama())


def test_pickled_weights_are_found(tmp_path: Path) -> None:
    plain(tiny_llama()).config.save_pretrained(tmp_path)
    assert "no file of weights" in problem(tmp_path)
    torch.save(tiny_llama().state_dict(), tmp_path / "pytorch_model.bin")
    check_all_there(tmp_path)
