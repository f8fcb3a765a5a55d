from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.tiny import tiny_gpt2, tiny_llama, tiny_neox
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from heedful.errors import ModelError
from heedful.model import pack_documents, packed_hidden
from heedful.model.dropout import decoder_layers, set_residual_dropout
from heedful.model.precision import MasterWeights

ARCHITECTURES = [tiny_gpt2, tiny_llama, tiny_neox]
BATCH = pack_documents([[1, 2, 3, 4, 5, 6], [7, 8, 9]])


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return packed_hidden(model, BATCH)


def branch_outputs(model: PreTrainedModel, layer: int = 0) -> dict[str, Tensor]:
    """What the first layer's attention and feed-forward blocks put out, after all their hooks."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = (output if isinstance(output, Tensor) else output[0]).clone()

        return hook

    layers = decoder_layers(model)
    names = [n for n, _ in layers[layer].named_children() if n in ("attn", "self_attn", "attention", "mlp")]
    handles = [getattr(layers[layer], name).register_forward_hook(record(name)) for name in names]
    hidden(model)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2
    return seen


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_dropout_is_active_in_train_mode_only(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    undisturbed = hidden(model)
    set_residual_dropout(model, 0.5)
    torch.testing.assert_close(hidden(model.eval()), undisturbed, rtol=0, atol=0)
    model.train()
    assert not torch.allclose(hidden(model), undisturbed)
    assert not torch.allclose(hidden(model), hidden(model))


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_it_drops_the_share_asked_for_from_both_branches_and_scales_the_rest(make: Callable[[], PreTrainedModel]) -> None:
    """Attention's output in the first layer has no other noise in it (nor, in GPT-NeoX's parallel branches, feed-forward's):
    entries are 0 or 1 / (1 - p) times as large.
    """
    model = make().train()
    set_residual_dropout(model, 0.0)
    clean = branch_outputs(model)
    set_residual_dropout(model, 0.2)
    torch.manual_seed(0)
    dropped = zeros = count = 0
    for _ in range(30):
        noisy = branch_outputs(model)
        for name, output in noisy.items():
            zeros += int((output == 0).sum())
            count += output.numel()
            if name != "mlp" or make is tiny_neox:
                kept = output != 0
                torch.testing.assert_close(output[kept], clean[name][kept] / 0.8, rtol=1e-4, atol=1e-5)
                dropped += int((~kept).sum())
    assert zeros / count == pytest.approx(0.2, abs=0.01)
    assert dropped


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_the_mean_over_many_draws_is_what_it_was(make: Callable[[], PreTrainedModel]) -> None:
    model = make().train()
    set_residual_dropout(model, 0.0)
    clean = branch_outputs(model)
    set_residual_dropout(model, 0.3)
    torch.manual_seed(0)
    draws = [branch_outputs(model) for _ in range(300)]
    name = next(n for n in clean if n != "mlp")
    mean = torch.stack([d[name] for d in draws]).mean(0)
    noise = clean[name].abs() * (0.3 / 0.7 / 300) ** 0.5
    assert float(((mean - clean[name]).abs() / noise.clamp(min=1e-6)).mean()) < 1.0  # E|N(0, 1)| = 0.80


def test_all_other_dropout_is_switched_off() -> None:
    """GPT-2's configuration has 0.1 for embeddings, attention and residual branches."""
    model = tiny_gpt2().train()
    assert sum(isinstance(m, torch.nn.Dropout) and m.p == 0.1 for m in model.modules()) >= 3
    set_residual_dropout(model, 0.0)
    clean = hidden(model)
    torch.testing.assert_close(hidden(model), clean, rtol=0, atol=0)
    torch.testing.assert_close(hidden(model.eval()), clean, rtol=0, atol=0)


def test_setting_it_again_replaces_the_earlier_setting() -> None:
    model = tiny_gpt2().train()
    for probability in (0.9, 0.5, 0.2, 0.2):
        set_residual_dropout(model, probability)
    torch.manual_seed(0)
    outputs = [branch_outputs(model)["attn"] for _ in range(40)]
    assert float(torch.stack([(o == 0).float().mean() for o in outputs]).mean()) == pytest.approx(0.2, abs=0.02)
    set_residual_dropout(model, 0.0)
    torch.testing.assert_close(hidden(model), hidden(model.eval()), rtol=0, atol=0)


def test_a_copys_dropout_is_its_own() -> None:
    """PPO and the bf16 compute copy deep-copy models that have dropout set."""
    model = tiny_gpt2().train()
    set_residual_dropout(model, 0.5)
    for twin in (copy.deepcopy(model), MasterWeights(model, "bfloat16").compute):
        set_residual_dropout(twin.train(), 0.0)
        torch.testing.assert_close(hidden(twin), hidden(twin), rtol=0, atol=0)
        assert not torch.allclose(hidden(model), hidden(model))


def test_an_architecture_whose_layers_are_not_found_says_so() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=4, n_positions=4))
    model.transformer.blocks_of_another_name = model.transformer.h
    del model.transformer.h
    with pytest.raises(ModelError, match="layers were not found"):
        set_residual_dropout(model, 0.1)
    other = tiny_gpt2()
    layer = decoder_layers(other)[0]
    layer.add_module("mixer", torch.nn.Identity())
    del layer.mlp
    with pytest.raises(ModelError, match="mixer"):
        set_residual_dropout(other, 0.1)
