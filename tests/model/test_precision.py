from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.tiny import parameter_gradients, snapshot, tiny_gpt2, tiny_llama, tiny_neox
from transformers import PreTrainedModel

from heedful.model import pack_documents, packed_hidden
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.precision import MasterWeights, frozen, update_average

FIRST, SECOND = pack_documents([[1, 2, 3, 4, 5]]), pack_documents([[9, 8, 7], [6, 5]])


def backward(model: PreTrainedModel, *batches: object) -> None:
    for batch in batches:
        packed_hidden(model, batch).float().square().sum().backward()  # pyright: ignore[reportArgumentType]


def test_in_float32_master_and_compute_are_one_model() -> None:
    model = tiny_gpt2()
    weights = MasterWeights(model, "float32")
    assert weights.compute is weights.master is model
    weights.refresh()


def test_bfloat16_gradients_are_added_up_in_float32_on_the_master() -> None:
    """Exactly the fp32 sum of the two passes' bf16 gradients: accumulating in bf16 would round it."""
    model = tiny_gpt2()
    each = []
    for batch in (FIRST, SECOND):
        alone = MasterWeights(copy.deepcopy(model), "bfloat16")
        backward(alone.compute, batch)
        each.append(parameter_gradients(alone.master))
    weights = MasterWeights(model, "bfloat16")
    backward(weights.compute, FIRST, SECOND)
    gradients = parameter_gradients(weights.master)
    assert gradients.keys() == each[0].keys()
    rounded = 0
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        expected = each[0][name] + each[1][name]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
        rounded += int((expected != expected.bfloat16().float()).sum())
    assert rounded > 1000  # the test would see it
    assert all(p.grad is None for p in weights.compute.parameters())


def test_master_weights_change_only_through_the_optimizer_and_refresh_copies_them() -> None:
    model = tiny_gpt2()
    weights = MasterWeights(model, "bfloat16")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.dtype == torch.bfloat16 for p in weights.compute.parameters())
    backward(weights.compute, FIRST)
    before = snapshot(weights.compute)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    assert all(torch.equal(before[n], p) for n, p in weights.compute.named_parameters())
    weights.refresh()
    for (_, master), (_, compute) in zip(model.named_parameters(), weights.compute.named_parameters(), strict=True):
        torch.testing.assert_close(compute, master.bfloat16(), rtol=0, atol=0)
    tied = weights.compute.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]
    assert tied is weights.compute.get_input_embeddings().weight  # still tied


@pytest.mark.parametrize("make", [tiny_llama, tiny_neox])
def test_rotary_frequencies_stay_in_float32(make: Callable[[], PreTrainedModel]) -> None:
    """In bf16, with 8 bits of mantissa, position 1,000 would be rotated by an angle that is off by up to 2 radians."""
    for model in (MasterWeights(make(), "bfloat16").compute, frozen(make(), "bfloat16")):
        buffers = [buffer for name, buffer in model.named_buffers() if "inv_freq" in name]
        assert buffers
        assert all(buffer.dtype == torch.float32 for buffer in buffers)


def test_frozen_models_carry_no_gradient() -> None:
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = frozen(tiny_gpt2().train(), precision)  # pyright: ignore[reportArgumentType]
        assert not model.training
        assert all(p.dtype == kind and not p.requires_grad for p in model.parameters())
        assert not packed_hidden(model, FIRST).requires_grad


def test_the_moving_average_by_hand() -> None:
    average, model = tiny_gpt2(1), tiny_gpt2(2)
    before, master = snapshot(average), snapshot(model)
    update_average(average, model, 0.75)
    for name, parameter in average.named_parameters():
        torch.testing.assert_close(parameter.detach(), 0.75 * before[name] + 0.25 * master[name], rtol=0, atol=1e-6)
    assert all(torch.equal(master[name], p) for name, p in model.named_parameters())
    update_average(average, model, 0.0)
    assert all(torch.equal(master[name], p) for name, p in average.named_parameters())


def test_the_allocator_says_whether_it_took_effect() -> None:
    assert keep_large_temporaries() in (True, False)
