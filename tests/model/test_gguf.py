"""A GGUF file as base model: the numbers of the folder that it was made from, or one line that says what to install."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.align.small_project import run
from tests.tiny import plain
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from heedful.errors import MissingError, ModelError
from heedful.model import loading
from heedful.model.loading import load_causal_model, load_configuration, load_tokenizer
from heedful.model.saving import save_model
from heedful.planning.shapes import shape_of

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed (extra gguf)")
END = "<|end|>"
HEADS, KEY_HEADS = 4, 2


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with two merges and an end-of-text token."""
    words = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))}
    merges = [("t", "h"), ("th", "e")]
    words |= {"".join(merge): len(words) + i for i, merge in enumerate(merges)}
    words[END] = len(words)
    tokenizer = Tokenizer(BPE(words, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    found = tokenizer.convert_tokens_to_ids(END)
    assert isinstance(found, int)
    return found


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        bos_token_id=None,
        eos_token_id=end_id(tokenizer),
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py orders the rows of queries and keys."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    gguf: Any = import_module("gguf")  # not installed everywhere

    c = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(c.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token == END else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in state["model"]["merges"]])
    writer.add_eos_token_id(end_id(tokenizer))
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        if "q_proj" in name:
            weight = permuted(weight, HEADS)
        if "k_proj" in name:
            weight = permuted(weight, KEY_HEADS)
        writer.add_tensor(gguf_name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    if stem.startswith("model.layers."):
        number, _, rest = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_NAMES[rest]}.{ending}"
    return f"{_NAMES[stem]}.{ending}"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tokenizer = make_tokenizer()
    write_gguf(path, make_model(tokenizer), tokenizer)
    return path


@needs_gguf
def test_a_gguf_file_gives_the_numbers_of_the_model_that_it_was_made_from(file: Path) -> None:
    model, given = load_causal_model(file), make_model(make_tokenizer())
    rows = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(plain(model)(rows).logits, plain(given)(rows).logits, rtol=1e-5, atol=1e-5)
    assert load_configuration(file).num_hidden_layers == 2
    shape = shape_of(str(file))
    assert (shape.parameters, shape.context) == (sum(p.numel() for p in given.parameters()), 96)


@needs_gguf
def test_its_tokenizer_is_read_too(file: Path) -> None:
    tokenizer, given = load_tokenizer(file), make_tokenizer()
    assert tokenizer("the tea")["input_ids"] == given("the tea")["input_ids"]
    assert tokenizer.eos_token == END


@needs_gguf
def test_what_is_trained_from_it_is_saved_as_a_folder(file: Path, tmp_path: Path) -> None:
    model = load_causal_model(file)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    save_model(model, load_tokenizer(file), tmp_path / "model")
    config: dict[str, Any] = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    rows = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(rows).logits, plain(model)(rows).logits, rtol=1e-5, atol=1e-5)


@needs_gguf
def test_init_and_status_take_a_gguf_file(file: Path, tmp_path: Path) -> None:
    code, said = run("init", tmp_path / "mine", "--base-model", file)
    assert (code, "warning" in said) == (0, False), said
    code, said = run("status", tmp_path / "mine")
    assert (code, "the base model is not there" in said) == (0, False)
    code, said = run("plan", tmp_path / "mine", "--gpus", 1)
    assert code == 0, said


@needs_gguf
def test_a_damaged_file_is_one_message(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing")
    with pytest.raises(ModelError) as caught:
        load_configuration(broken)
    assert str(broken) in str(caught.value)


def test_without_the_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "gguf" else find_spec(name))
    for load in (load_causal_model, load_configuration, load_tokenizer):
        with pytest.raises(MissingError) as caught:
            load(tmp_path / "model.gguf")
        assert caught.value.got == "no gguf"
        assert "pip install 'heedful[gguf]'" in str(caught.value)
