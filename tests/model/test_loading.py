from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny import END, VOCABULARY, plain, snapshot, tiny_gpt2, tiny_llama, tiny_neox, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from heedful.errors import MissingError, ModelError, StorageError
from heedful.model import (
    load_causal_model,
    load_scalar_model,
    load_tokenizer,
    pack_documents,
    packed_hidden,
    save_model,
    saving,
    scalar_model_from_causal,
)
from heedful.model.loading import check_tokenizer, unembedding
from heedful.model.scalar_models import scalar_head, scalar_offset, shift_scalar_model

ARCHITECTURES = [tiny_gpt2, tiny_llama, tiny_neox]
SEQUENCES = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, END], [END, 3]]


def our_logits(model: PreTrainedModel) -> Tensor:
    return packed_hidden(model, pack_documents([[1, 2, 3, 4, 5], [6, 7]])) @ unembedding(model).T


def our_scores(model: PreTrainedModel) -> Tensor:
    """One score for each of SEQUENCES, at its last token."""
    scores = [packed_hidden(model, pack_documents([[1, *s]]))[-1] @ scalar_head(model).weight[0] for s in SEQUENCES]
    return torch.stack(scores) + scalar_offset(model)


def plain_scores_one_by_one(folder: Path) -> Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return torch.stack([model(input_ids=torch.tensor([[1, *s]])).logits[0, 0] for s in SEQUENCES])


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_a_saved_model_gives_the_same_logits_in_plain_transformers_and_here(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = make()
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    expected = torch.cat([theirs(input_ids=torch.tensor([row])).logits[0] for row in ([1, 2, 3, 4, 5], [6, 7])])
    assert_close(our_logits(model), expected)
    again = load_causal_model(tmp_path / "model")
    torch.testing.assert_close(our_logits(again), our_logits(model), rtol=0, atol=0)
    assert not again.training
    assert all(p.dtype == torch.float32 for p in again.parameters())


def test_weights_in_bfloat16_are_loaded_as_float32(tmp_path: Path) -> None:
    save_model(tiny_gpt2().bfloat16(), tiny_tokenizer(), tmp_path / "model")
    assert all(p.dtype == torch.float32 for p in load_causal_model(tmp_path / "model").parameters())


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer("w3 w5")["input_ids"] == [3, 5]
    assert tokenizer.eos_token_id == END
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("w3 w5")["input_ids"] == [3, 5]
    check_tokenizer(load_causal_model(tmp_path / "model"), tokenizer, tmp_path)


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_a_scalar_model_gives_the_same_scores_in_plain_transformers(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = scalar_model_from_causal(make(), pad_token_id=END, eos_token_id=END)
    save_model(model, tiny_tokenizer(), tmp_path / "rm")
    assert_close(our_scores(load_scalar_model(tmp_path / "rm")), our_scores(model))
    assert_close(plain_scores_one_by_one(tmp_path / "rm"), our_scores(model))


def test_a_scalar_model_with_its_own_padding_token_scores_padded_batches_alike(tmp_path: Path) -> None:
    """Known traps: the padding side; scores that change with batch size."""
    pad = VOCABULARY - 1
    model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=pad, eos_token_id=END)
    save_model(model, tiny_tokenizer(), tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    longest = max(map(len, SEQUENCES)) + 1
    rows = [[1, *s] for s in SEQUENCES]
    padded = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    assert_close(theirs(input_ids=padded, attention_mask=mask).logits[:, 0], our_scores(model))


def test_a_padding_token_that_equals_end_of_text_is_left_unset() -> None:
    """With pad = end-of-text transformers reads the score one token early, before the end-of-text that was scored."""
    model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=END, eos_token_id=END)
    assert model.config.pad_token_id is None
    twin = plain(model)
    row = torch.tensor([[1, 5, 6, END]])
    right = twin(input_ids=row).logits[0, 0]
    twin.config.pad_token_id = END
    moved = twin(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 0]
    assert float((moved - right).detach().abs()) > 1e-3  # the trap is there
    assert scalar_model_from_causal(tiny_gpt2(), pad_token_id=7, eos_token_id=END).config.pad_token_id == 7


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_a_scalar_model_starts_as_the_causal_models_body_with_a_small_random_head(make: Callable[[], PreTrainedModel]) -> None:
    causal = make()
    scalar = scalar_model_from_causal(causal, pad_token_id=None, eos_token_id=END)
    body = scalar.base_model.state_dict()
    assert not scalar.training
    assert body.keys() == causal.base_model.state_dict().keys()
    for name, weight in causal.base_model.state_dict().items():
        torch.testing.assert_close(body[name], weight, rtol=0, atol=0)
    head = scalar_head(scalar).weight.detach()
    assert head.shape == (1, 32)
    assert 0.4 < float(head.std()) * 33**0.5 < 1.6
    before = snapshot(causal)
    with torch.no_grad():
        for parameter in scalar.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], p) for name, p in causal.named_parameters())  # nothing is shared


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_neox])
def test_the_shift_is_in_the_weights_where_the_final_norm_has_a_bias(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = scalar_model_from_causal(make(), pad_token_id=None, eos_token_id=END)
    before = our_scores(model)
    shift_scalar_model(model, -3.25)
    shift_scalar_model(model, 1.0)
    assert scalar_offset(model) == 0.0
    assert_close(our_scores(model), before - 2.25)
    save_model(model, tiny_tokenizer(), tmp_path / "rm")
    assert_close(plain_scores_one_by_one(tmp_path / "rm"), before - 2.25)


def test_the_shift_is_in_the_configuration_where_the_final_norm_has_no_bias(tmp_path: Path) -> None:
    model = scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=END)
    before = our_scores(model)
    shift_scalar_model(model, -3.25)
    shift_scalar_model(model, 1.0)
    assert_close(our_scores(model), before - 2.25)
    save_model(model, tiny_tokenizer(), tmp_path / "rm")
    again = load_scalar_model(tmp_path / "rm")
    assert scalar_offset(again) == -2.25
    assert_close(our_scores(again), before - 2.25)
    assert_close(plain_scores_one_by_one(tmp_path / "rm"), before)  # as documented: without the constant


# ---------------------------------------------------------------- what cannot be used


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path: Path) -> None:
    for load in (load_causal_model, load_scalar_model, load_tokenizer):
        with pytest.raises(MissingError, match="no such folder"):
            load(tmp_path / "nothing")
        with pytest.raises(MissingError, match=r"no config\.json in it"):
            load(tmp_path)


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "nonsense"}', '{"model_type": "t5"}', '{"model_type": "gpt2"}'])
def test_a_configuration_that_is_no_causal_model(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        load_causal_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    if "t5" not in config:  # transformers makes up a T5 tokenizer of its own
        with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
            load_tokenizer(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_causal_model(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path / "model")


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    """transformers fills them at random with a warning: a reward model's folder given as a policy would train."""
    save_model(scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=END), tiny_tokenizer(), tmp_path / "rm")
    with pytest.raises(ModelError, match=r"none for lm_head\.weight"):
        load_causal_model(tmp_path / "rm")
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "policy")
    with pytest.raises(ModelError, match=r"none for score\.weight"):
        load_scalar_model(tmp_path / "policy")


def test_a_classifier_with_two_labels_is_no_reward_model(tmp_path: Path) -> None:
    from transformers import GPT2ForSequenceClassification

    config = tiny_gpt2().config
    config.num_labels = 2
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="2 labels"):
        load_scalar_model(tmp_path)


def test_a_tokenizer_without_end_of_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    save_model(tiny_gpt2(), tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_tokenizer(tmp_path / "model")


def test_a_tokenizer_that_does_not_match_the_model() -> None:
    model = tiny_gpt2()
    check_tokenizer(model, tiny_tokenizer(VOCABULARY), "here")
    check_tokenizer(model, tiny_tokenizer(VOCABULARY - 10), "here")  # rows to spare are common
    with pytest.raises(ModelError, match="at most 64 tokens") as caught:
        check_tokenizer(model, tiny_tokenizer(VOCABULARY + 1), "here")
    assert "got:      65 tokens" in str(caught.value)
    model.config.eos_token_id = 5
    with pytest.raises(ModelError, match="end-of-text token 5"):
        check_tokenizer(model, tiny_tokenizer(), "here")
    model.config.eos_token_id = [5, END]
    check_tokenizer(model, tiny_tokenizer(), "here")


# ---------------------------------------------------------------- writing: all of it or nothing


def only(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("fails", ["tokenizer", "fsync", "rename"])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_model_and_no_leftovers(
    fails: str, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    first, second = tiny_gpt2(1), tiny_gpt2(2)
    if old:
        save_model(first, tiny_tokenizer(), path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tokenizer = tiny_tokenizer()
    with monkeypatch.context() as broken:
        if fails == "tokenizer":  # the weights are written by then
            broken.setattr(tokenizer, "save_pretrained", full)
        elif fails == "fsync":
            broken.setattr(saving.os, "fsync", full)
        else:
            broken.setattr(saving, "_exchange", full)
            broken.setattr(saving.os, "rename", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            save_model(second, tokenizer, path)
    assert str(path) in str(caught.value)
    assert only(tmp_path) == (["model"] if old else [])
    if old:
        torch.testing.assert_close(our_logits(load_causal_model(path)), our_logits(first), rtol=0, atol=0)


def test_safetensors_own_error_for_a_full_disk_is_a_storage_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    model = tiny_gpt2()
    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(StorageError):
        save_model(model, tiny_tokenizer(), tmp_path / "model")
    assert only(tmp_path) == []


def test_other_errors_while_saving_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model = tiny_gpt2()
    monkeypatch.setattr(model, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tiny_tokenizer(), tmp_path / "model")
    assert only(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "file" / "model")


def write_file(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(name)

    return write


def test_folders_are_exchanged_also_where_the_system_cannot_do_it_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExchange:
        pass

    path = tmp_path / "model"
    saving.write_folder(path, write_file("a"))
    monkeypatch.setattr(saving.ctypes, "CDLL", lambda _: NoExchange())
    saving.write_folder(path, write_file("b"))
    assert only(tmp_path) == ["model"]
    assert only(path) == ["b"]

    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(saving.os, "rename", second_fails)
    with pytest.raises(StorageError):
        saving.write_folder(path, write_file("c"))
    assert only(tmp_path) == ["model"]
    assert only(path) == ["b"]


SAVER = """
import sys, torch
from heedful.model import save_model
from tests.tiny import tiny_gpt2, tiny_tokenizer
models, tokenizer = [tiny_gpt2(1), tiny_gpt2(2)], tiny_tokenizer()
save_model(models[1], tokenizer, sys.argv[1])
print("saved", flush=True)
n = 0
while True:
    save_model(models[n % 2], tokenizer, sys.argv[1])
    n += 1
"""


def test_a_kill_while_saving_leaves_a_whole_model(tmp_path: Path) -> None:
    path = tmp_path / "model"
    expected = [our_logits(tiny_gpt2(seed)) for seed in (1, 2)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"saved\n"
        seen = 0  # while it goes on saving, the folder is never gone and never half written
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert json.loads((path / "config.json").read_text())["model_type"] == "gpt2"
            seen += 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert seen > 3
    logits = our_logits(load_causal_model(path))
    assert any(torch.equal(logits, e) for e in expected)
    load_tokenizer(path)


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logit_scale"])
def test_logits_that_are_not_hidden_states_times_unembedding_are_refused(tmp_path: Path, key: str) -> None:
    model, tokenizer = tiny_gpt2(), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path / "plain")
    load_causal_model(tmp_path / "plain")
    setattr(model.config, key, 30.0)
    save_model(model, tokenizer, tmp_path / "capped")
    with pytest.raises(ModelError, match="not supported yet") as caught:
        load_causal_model(tmp_path / "capped")
    assert key in str(caught.value)
