"""Model folders as downloads, merges and conversions leave them: each loads as plain transformers loads it, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import VOCABULARY, plain, tiny_gpt2, tiny_llama, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from heedful.errors import ModelError
from heedful.model import load_causal_model, load_scalar_model, load_tokenizer, save_model, scalar_model_from_causal
from heedful.model.layouts import pack
from heedful.model.loading import check_architecture, check_tokenizer, load_configuration
from heedful.model.readout import target_logprobs
from heedful.model.weight_files import check_weight_files

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def saved(folder: Path, model: PreTrainedModel | None = None) -> Path:
    """A Llama in plain transformers' format, with a tokenizer."""
    plain(tiny_llama() if model is None else model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors in the file of weights."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def set_key(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def shard(folder: Path) -> None:
    """Two files and their index, instead of one file."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(some, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


def edit_index(folder: Path, edit: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def assert_as_in_plain_transformers(folder: Path) -> None:
    """Log-probs of a few tokens."""
    model = load_causal_model(folder)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    prompt, response = [1, 2, 3], [4, 5, 6]
    got = target_logprobs(model, pack([prompt], [response]))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits = theirs(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    want = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what loads


def test_weights_of_three_types_in_one_file(tmp_path: Path) -> None:
    types = (torch.float16, torch.bfloat16, torch.float32)

    def mix(tensors: dict[str, Tensor]) -> None:
        for number, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].to(types[number % 3])

    change(saved(tmp_path), mix)
    tensors = load_file(tmp_path / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == set(types)
    assert_as_in_plain_transformers(tmp_path)
    model = load_causal_model(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(model.get_parameter(name), tensor.float()), name  # exact: each is a number of float32


def test_weights_in_several_files_of_two_types(tmp_path: Path) -> None:
    shard(saved(tmp_path))
    file = tmp_path / "model-00002-of-00002.safetensors"
    save_file({name: t.half() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    assert_as_in_plain_transformers(tmp_path)
    check_files(tmp_path)


def test_a_tied_head_that_is_not_in_the_file(tmp_path: Path) -> None:
    saved(tmp_path)
    set_key(tmp_path, tie_word_embeddings=True)
    change(tmp_path, lambda tensors: tensors.pop(HEAD))
    model = load_causal_model(tmp_path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
    assert_as_in_plain_transformers(tmp_path)
    check_files(tmp_path)


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_head_that_is_in_the_file_too(tmp_path: Path, same: bool) -> None:
    """Whatever plain transformers makes of two different ones."""
    saved(tmp_path)
    set_key(tmp_path, tie_word_embeddings=True)
    if same:
        change(tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    assert_as_in_plain_transformers(tmp_path)
    check_files(tmp_path)


def test_heads_and_buffers_that_the_model_does_not_have(tmp_path: Path) -> None:
    saved(tmp_path)
    extra = {"v_head.summary.weight": torch.ones(1, 32), "score.weight": torch.ones(1, 32), "step": torch.tensor([7])}
    change(tmp_path, lambda tensors: tensors.update(extra))
    assert_as_in_plain_transformers(tmp_path)
    check_files(tmp_path)


def test_an_embedding_with_rows_to_spare(tmp_path: Path) -> None:
    saved(tmp_path, tiny_gpt2(vocabulary=80))
    check_tokenizer(load_causal_model(tmp_path), load_tokenizer(tmp_path), tmp_path)
    check_files(tmp_path)


def test_old_names_without_the_models_prefix(tmp_path: Path) -> None:
    """GPT-2's first files have wte.weight in place of transformer.wte.weight, and masks as buffers."""
    saved(tmp_path, tiny_gpt2())

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 9, 9)

    change(tmp_path, rename)
    assert_as_in_plain_transformers(tmp_path)
    check_files(tmp_path)


# ---------------------------------------------------------------- what does not


def check_files(folder: Path) -> None:
    """What align looks at before it trains anything."""
    check_weight_files(folder, check_architecture(load_configuration(folder), folder))


def cut(file: str, keep: int | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:keep])

    return damage


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut_a_shard(folder: Path) -> None:
    shard(folder)
    cut("model-00002-of-00002.safetensors", 3_000)(folder)


def list_a_tensor_that_is_nowhere(folder: Path) -> None:
    shard(folder)
    edit_index(folder, lambda weight_map: weight_map.update({HEAD: weight_map[EMBEDDING]}))
    for file in folder.glob("model-*.safetensors"):
        tensors = load_file(file)
        tensors.pop(HEAD, None)
        save_file(tensors, file, metadata={"format": "pt"})


def break_the_index(folder: Path) -> None:
    shard(folder)
    cut(INDEX, 40)(folder)


def index_without_a_map(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text('["model-00001-of-00002.safetensors"]')


def pointer_of_git_lfs(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1048576\n")


def transpose(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(32, 48)}))


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (lose_a_shard, "model-00002-of-00002.safetensors"),
    (cut_a_shard, "model-00002-of-00002.safetensors"),
    (list_a_tensor_that_is_nowhere, HEAD),
    (break_the_index, INDEX),
    (index_without_a_map, INDEX),
    (pointer_of_git_lfs, WEIGHTS),
    (cut(WEIGHTS, 0), WEIGHTS),
    (cut(WEIGHTS, 7), WEIGHTS),
    (cut(WEIGHTS, 600), WEIGHTS),
    (cut(WEIGHTS, -1), WEIGHTS),
    (lambda folder: (folder / WEIGHTS).unlink(), "no file of weights"),
    (transpose, "model.layers.0.mlp.up_proj.weight has the shape (32, 48)"),
    (lambda folder: set_key(folder, vocab_size=VOCABULARY + 16), f"has the shape ({VOCABULARY}, 32)"),
    (lambda folder: set_key(folder, vocab_size=VOCABULARY - 16), f"has the shape ({VOCABULARY}, 32)"),
    (lambda folder: set_key(folder, intermediate_size=64), "has the shape"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGES)
def test_damaged_files_are_refused_before_training_and_when_they_are_loaded(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(saved(tmp_path))
    with pytest.raises(ModelError, match="weights cannot be read") as caught:
        check_files(tmp_path)
    assert named in str(caught.value.got)
    assert (caught.value.exit_code, caught.value.where) == (2, str(tmp_path))
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        load_causal_model(tmp_path)
    assert caught.value.got
    assert caught.value.exit_code == 2


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    change(saved(tmp_path), lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ModelError, match=r"none for model\.norm\.weight"):
        load_causal_model(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_number_that_is_none_is_named(tmp_path: Path, number: float, dtype: torch.dtype, precision: Any) -> None:
    """In the last row of the embedding: the self-check's tokens may not touch it."""

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[EMBEDDING][-1, -1] = number
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    change(saved(tmp_path), spoil)
    with pytest.raises(ModelError, match="not all finite numbers") as caught:
        load_causal_model(tmp_path, precision)
    assert str(caught.value.got) == f"NaN or infinity in {EMBEDDING}"
    assert caught.value.exit_code == 2


def test_a_reward_models_head_of_nan(tmp_path: Path) -> None:
    model = scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=0)
    save_model(model, tiny_tokenizer(), tmp_path)
    load_scalar_model(tmp_path)
    change(tmp_path, lambda tensors: tensors["score.weight"].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"NaN or infinity in score\.weight"):
        load_scalar_model(tmp_path)


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    saved(tmp_path)
    tiny_tokenizer(VOCABULARY + 1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not match") as caught:
        check_tokenizer(load_causal_model(tmp_path), load_tokenizer(tmp_path), tmp_path)
    assert caught.value.exit_code == 2
