"""LongRoPE changes its frequencies past the original window: no short sequence may change with a long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.test_older_readers import ROTARY, _made, phi3_longrope
from tests.tiny import CONTEXT, plain, tiny_gpt2, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from heedful.errors import ModelError, UserError
from heedful.model import Sampling, examine, generate, pack, save_model
from heedful.model.attention import use_heedful_attention
from heedful.model.context_window import context_window, rope_switch
from heedful.model.readout import target_logprobs

SWITCH = 32
SHORT = ([1, 2, 3], [4, 5])


def longrope() -> PreTrainedModel:
    return use_heedful_attention(_made(phi3_longrope))


def test_the_window_ends_at_the_switch() -> None:
    assert context_window(longrope()) == rope_switch(longrope()) == SWITCH
    for make in ROTARY:
        if make is not phi3_longrope:
            assert (context_window(make()), rope_switch(make())) == (CONTEXT, None), make.__name__
    assert context_window(tiny_gpt2()) == CONTEXT


def test_a_sequence_past_the_switch_is_refused_whatever_it_is_packed_with() -> None:
    model = longrope()
    at_the_switch = [1 + i % 60 for i in range(SWITCH - 4)], [7, 8, 9, 10]
    past_it = [1 + i % 60 for i in range(SWITCH - 4)], [7, 8, 9, 10, 11]
    alone = target_logprobs(model, pack([SHORT[0]], [SHORT[1]]))
    together = target_logprobs(model, pack([SHORT[0], at_the_switch[0]], [SHORT[1], at_the_switch[1]]))
    torch.testing.assert_close(together[:2], alone, rtol=0, atol=1e-5)
    ids = torch.tensor([[*at_the_switch[0], *at_the_switch[1]]])
    logits = plain(model)(input_ids=ids, use_cache=False).logits[0, -5:-1].log_softmax(-1)
    torch.testing.assert_close(together[2:], logits.gather(-1, ids[0, -4:, None])[:, 0], rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="past the original window of LongRoPE"):
        target_logprobs(model, pack([SHORT[0], past_it[0]], [SHORT[1], past_it[1]]))
    plain(model)(input_ids=torch.tensor([past_it[0] + past_it[1]]), use_cache=False)  # transformers by itself may


def test_generation_past_the_switch_is_refused_before_it_begins() -> None:
    with pytest.raises(UserError, match="do not fit the model's context window"):
        generate(longrope(), [[1] * 20], Sampling(max_tokens=13), [0])
    (generation,) = generate(longrope(), [[1] * 20], Sampling(max_tokens=12), [0])
    assert len(generation.tokens) == 12


def test_the_self_check_crosses_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(longrope(), tiny_tokenizer(), tmp_path / "model")
    checks = [check for check in examine(tmp_path / "model", "float32") if check.name == "past the original window"]
    assert [check.quantity for check in checks] == ["log-prob", "value", "score"]
    assert all(check.passed for check in checks)
    monkeypatch.setattr("heedful.model.attention.refuse_sequences_past_the_switch", lambda *_: None)
    checks = [check for check in examine(tmp_path / "model", "float32") if check.name == "past the original window"]
    assert not any(check.passed for check in checks if check.quantity == "log-prob")


def dynamic() -> PreTrainedModel:
    """Dynamic NTK scaling: past the window, all positions turn by frequencies that depend on the longest sequence."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **sizes, vocab_size=64, max_position_embeddings=SWITCH, rope_parameters=rope, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return use_heedful_attention(model)


def test_dynamic_scaling_past_its_window_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dynamic()
    assert context_window(model) == rope_switch(model) == SWITCH
    past_it = [1 + i % 60 for i in range(SWITCH - 4)], [7, 8, 9, 10, 11]
    with pytest.raises(ModelError, match="past the original window of dynamic rotary positions"):
        target_logprobs(model, pack([SHORT[0], past_it[0]], [SHORT[1], past_it[1]]))

    def names(failed: bool) -> set[str]:
        return {check.name for check in examine(tmp_path / "model", "float32") if check.passed is not failed}

    save_model(model, tiny_tokenizer(), tmp_path / "model")
    assert "past the original window" in names(failed=False)
    assert names(failed=True) == set()
    monkeypatch.setattr("heedful.model.attention.refuse_sequences_past_the_switch", lambda *_: None)
    assert "past the original window" in names(failed=True)
