"""Models whose norms, gates and rotations run in compiled loops: the numbers and gradients of their own classes."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.tiny import (
    FAMILIES,
    VOCABULARY,
    parameter_gradients,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_neox,
    tiny_qwen3,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from heedful.functional.fast import fused, kernels
from heedful.model import pack_shared, packed_hidden
from heedful.model.fast.fused_modules import fuse, unfuse

pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="no C++ compiler on this machine")

RNG = random.Random(0)
BATCH = pack_shared(
    [[RNG.randrange(VOCABULARY) for _ in range(n)] for n in (30, 7)],
    [[[RNG.randrange(VOCABULARY) for _ in range(n)] for n in lengths] for lengths in ((3, 9, 1), (5, 4))],
)


def hidden_and_gradients(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    hidden = packed_hidden(model, BATCH)
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(hidden.dtype)).sum().backward()
    return hidden.detach(), parameter_gradients(model)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    for name in ("rms_norm", "gated", "rotated"):
        plain = getattr(fused, name)

        def call(*arguments: Any, name: str = name, plain: Callable[..., Tensor] = plain) -> Tensor:
            counted[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(fused, name, call)
    return counted


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_gradients_are_those_of_the_plain_classes(family: Callable[[], PreTrainedModel]) -> None:
    model = family()
    found, gradients = hidden_and_gradients(model)
    unfuse(model)
    expected, plain_gradients = hidden_and_gradients(model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert float((gradients[name] - gradient).abs().max()) <= 2e-5 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (tiny_llama, {"rms_norm": 5, "gated": 2, "rotated": 4}),
        (tiny_mistral, {"rms_norm": 5, "gated": 2, "rotated": 4}),
        (tiny_qwen3, {"rms_norm": 9, "gated": 2, "rotated": 4}),  # norms of queries and keys
        (tiny_gemma3, {"rms_norm": 13, "gated": 2, "rotated": 4}),  # norms around each branch, too
        (tiny_gpt2, {}),
    ],
)
def test_what_is_fused(family: Callable[[], PreTrainedModel], expected: dict[str, int], calls: Counter[str]) -> None:
    packed_hidden(family(), BATCH)
    assert calls == expected


def test_neox_rotates_part_of_each_head_and_keeps_its_classes_otherwise(calls: Counter[str]) -> None:
    packed_hidden(tiny_neox(), BATCH)
    assert set(calls) <= {"rotated"}


def test_bfloat16_is_as_near_to_fp32_as_the_plain_classes() -> None:
    model = tiny_llama(scale=0.1)
    exact = packed_hidden(model, BATCH).detach()
    model = model.bfloat16()
    found = packed_hidden(model, BATCH).detach().float()
    unfuse(model)
    plain = packed_hidden(model, BATCH).detach().float()
    assert (found - exact).abs().mean() <= 1.1 * (plain - exact).abs().mean()


def test_without_compiled_loops_the_class_runs(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    packed_hidden(tiny_llama(), BATCH)
    assert not calls


def test_half_precision_runs_as_before(calls: Counter[str]) -> None:
    norm = LlamaRMSNorm(8).half()
    holder = nn.Sequential(norm)
    fuse(holder)  # pyright: ignore[reportArgumentType]
    hidden = torch.randn(3, 8).half()
    assert torch.equal(holder(hidden), LlamaRMSNorm(8).half()(hidden))
    assert not calls


def test_a_class_with_other_code_is_left_alone() -> None:
    class TwiceNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return 2 * super().forward(hidden_states)

    class OtherGate(LlamaMLP):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))

    for module in (TwiceNorm(8), OtherGate(tiny_llama().config)):
        kind = type(module)
        fuse(module)  # pyright: ignore[reportArgumentType]
        assert type(module) is kind


def test_an_activation_that_has_no_loop_stays_torchs(calls: Counter[str]) -> None:
    config = tiny_llama().config
    config.hidden_act = "relu"
    module = LlamaMLP(config)
    plain = copy.deepcopy(module)
    fuse(module)  # pyright: ignore[reportArgumentType]
    hidden = torch.randn(5, 32)
    assert torch.equal(module(hidden), plain(hidden))
    assert not calls


def test_names_copies_and_saved_weights_stay(tmp_path: Any) -> None:
    model = tiny_llama()
    plain = copy.deepcopy(model)
    unfuse(plain)
    assert not any("fused" in type(module).__module__ for module in model.modules())
    assert [(name, type(module).__name__) for name, module in model.named_modules()] == [
        (name, type(module).__name__) for name, module in plain.named_modules()
    ]
    assert model.state_dict().keys() == plain.state_dict().keys()
    fuse(model)  # a second time changes nothing
    twin = copy.deepcopy(model)
    found, again = packed_hidden(model, BATCH), packed_hidden(twin, BATCH)
    assert torch.equal(found, again)
    model.save_pretrained(tmp_path / "model")
    loaded = type(plain).from_pretrained(tmp_path / "model")
    torch.testing.assert_close(loaded.state_dict(), plain.state_dict())
