"""A saved folder is the same model, with the same tokens, in transformers 4.57 and 5."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.test_template import chat_tokenizer
from tests.model.test_token_boundary import llama_bpe
from tests.tiny import CONTEXT, END, FAMILIES, VOCABULARY, WINDOW, plain, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from heedful.model import save_model

_SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": None,
}
_ORIGINAL: dict[str, Any] = {"original_max_position_embeddings": 32}
TOKENS = [1 + i % 60 for i in range(60)]  # past the original window of those that have one


def _llama(**rope: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_SIZE, num_key_value_heads=2, rope_parameters=rope))


def llama_theta() -> PreTrainedModel:
    return _llama(rope_type="default", rope_theta=500_000.0)


def llama_linear() -> PreTrainedModel:
    return _llama(rope_type="linear", rope_theta=20_000.0, factor=4.0)


def llama_3() -> PreTrainedModel:
    frequencies = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return _llama(rope_type="llama3", rope_theta=500_000.0, factor=8.0, **frequencies, **_ORIGINAL)


def qwen2_yarn() -> PreTrainedModel:
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 3.0, **_ORIGINAL}
    return Qwen2ForCausalLM(Qwen2Config(**_SIZE, num_key_value_heads=2, rope_parameters=rope))


def phi3_longrope() -> PreTrainedModel:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [4.0, 5.0, 6.0, 7.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors, **_ORIGINAL}
    return Phi3ForCausalLM(Phi3Config(**_SIZE, **_ORIGINAL, num_key_value_heads=2, rope_parameters=rope))


def neox_rotary() -> PreTrainedModel:
    rotary: dict[str, Any] = {"rotary_pct": 0.5, "rotary_emb_base": 50_000}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZE, **rotary))


def gemma3_rotary() -> PreTrainedModel:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
    }
    layers = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
    return Gemma3ForCausalLM(Gemma3TextConfig(**_SIZE, num_key_value_heads=2, head_dim=16, rope_parameters=rope, **layers))


ROTARY: list[Callable[[], PreTrainedModel]] = [
    llama_theta,
    llama_linear,
    llama_3,
    qwen2_yarn,
    phi3_longrope,
    neox_rotary,
    gemma3_rotary,
]


def _made(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = make().eval()
    if make in ROTARY:  # the others have such weights already
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return plain(model)(input_ids=torch.tensor([TOKENS]), use_cache=False).logits


@pytest.mark.parametrize("make", ROTARY, ids=lambda make: make.__name__)
def test_the_older_names_change_nothing_for_version_5(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    model = _made(make)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(_logits(again), _logits(model), rtol=0, atol=0)


def test_the_configuration_names_theta_and_scaling_as_4_57_reads_them(tmp_path: Path) -> None:
    """4.57 ignores rope_parameters without a word: it would take theta 10,000 and no scaling."""

    def saved(make: Callable[[], PreTrainedModel]) -> dict[str, Any]:
        save_model(_made(make), tiny_tokenizer(), tmp_path / make.__name__)
        return json.loads((tmp_path / make.__name__ / "config.json").read_text())

    config = saved(llama_theta)
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (500_000.0, None, "float32")
    config = saved(llama_linear)
    assert (config["rope_theta"], config["rope_scaling"]) == (20_000.0, {"rope_type": "linear", "factor": 4.0})
    config = saved(neox_rotary)
    assert (config["rotary_emb_base"], config["rotary_pct"]) == (50_000, 0.5)
    config = saved(gemma3_rotary)
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (2e6, 20_000.0)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert set(saved(phi3_longrope)["rope_scaling"]) == {"type", "short_factor", "long_factor"}


@pytest.mark.parametrize("make", [tiny_tokenizer, chat_tokenizer, llama_bpe])
def test_the_saved_tokenizer_has_a_class_that_both_versions_know(
    make: Callable[[], PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    tokenizer = make()
    save_model(_made(llama_theta), tokenizer, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(settings.get("extra_special_tokens"), list)  # 4.57 expects a mapping there
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert again("w1 The <|end|>")["input_ids"] == tokenizer("w1 The <|end|>")["input_ids"]
    assert sorted(again.all_special_tokens) == sorted(tokenizer.all_special_tokens)
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.long
def test_transformers_4_57_reads_the_same_models_and_tokens(tmp_path: Path, python_with_4_57: Path) -> None:
    assert transformers.__version__.startswith("5.")
    want: dict[str, tuple[torch.Tensor, PreTrainedTokenizerFast]] = {}
    tokenizers = [tiny_tokenizer, chat_tokenizer, llama_bpe]
    for i, make in enumerate([*FAMILIES, *ROTARY]):
        model, tokenizer = _made(make), tokenizers[i % 3]()
        want[make.__name__] = _logits(model), tokenizer
        folder = tmp_path / make.__name__
        save_model(model, tokenizer, folder)
        (folder / "given.json").write_text(json.dumps({"tokens": TOKENS, "text": "w1 The <|end|>"}))
    script = Path(__file__).with_name("read_with_other_version.py")
    subprocess.run([str(python_with_4_57), str(script), str(tmp_path)], check=True, env={"OMP_NUM_THREADS": "1"}, timeout=600)
    for name, (logits, tokenizer) in want.items():
        read = json.loads((tmp_path / name / "read.json").read_text())
        difference = float((torch.tensor(read["logits"]) - logits).abs().max())
        assert difference <= 1e-5 * float(logits.abs().max()), name
        assert read["ids"] == tokenizer("w1 The <|end|>")["input_ids"], name
        assert read["special"] == sorted(tokenizer.all_special_tokens), name
