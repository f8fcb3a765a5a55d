"""The last layer computes only the rows that are read: the same numbers and gradients, less work."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.tiny import FAMILIES, VOCABULARY, parameter_gradients, tiny_gpt2, tiny_opt, tiny_opt_projected
from torch import Tensor, nn
from transformers import PreTrainedModel

from heedful.model import PackedBatch, pack, pack_documents, pack_shared, packed_hidden
from heedful.model.dropout import decoder_layers, set_residual_dropout
from heedful.model.fast import last_layer

pytestmark = pytest.mark.usefixtures("with_and_without_loops")

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(VOCABULARY) for _ in range(n)] for n in (30, 7, 19)]
RESPONSES = [[[RNG.randrange(VOCABULARY) for _ in range(n)] for n in lengths] for lengths in ((3, 9, 1), (5, 4), (2, 12))]
SHARED = pack_shared(PROMPTS, RESPONSES)
PACKED = pack(PROMPTS, [group[0] for group in RESPONSES])


def gradients_of(model: PreTrainedModel, hidden: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name: gradient.clone() for name, gradient in parameter_gradients(model).items()}


def assert_reads_the_same(model: PreTrainedModel, batch: PackedBatch, places: Tensor) -> None:
    all_rows = packed_hidden(model, batch).index_select(0, places)
    expected = gradients_of(model, all_rows)
    read = packed_hidden(model, batch, places)
    torch.testing.assert_close(read, all_rows, atol=1e-5, rtol=1e-5)
    found = gradients_of(model, read)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("places", ["predict_from", "last"])
def test_what_is_read_and_its_gradients_are_those_of_all_rows(
    family: Callable[[], PreTrainedModel], batch: PackedBatch, places: str
) -> None:
    assert_reads_the_same(family(), batch, getattr(batch, places))


def test_it_holds_in_copies_and_where_activations_are_computed_anew() -> None:
    model = copy.deepcopy(tiny_gpt2())
    assert_reads_the_same(model, SHARED, SHARED.last)
    model.train()
    set_residual_dropout(model, 0.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_reads_the_same(model, SHARED, SHARED.last)


def test_dropout_draws_the_same_numbers() -> None:
    model = tiny_gpt2()
    set_residual_dropout(model, 0.5)
    model.train()
    torch.manual_seed(3)
    all_rows = packed_hidden(model, SHARED).index_select(0, SHARED.last)
    torch.manual_seed(3)
    torch.testing.assert_close(packed_hidden(model, SHARED, SHARED.last), all_rows, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_given_no_other_rows(family: Callable[[], PreTrainedModel]) -> None:
    """In every family: a model of another make computes all of them, and nobody would notice."""
    model = family()
    taken: dict[str, list[int]] = {"first": [], "last": []}
    layers = decoder_layers(model)
    for name, layer in (("first", layers[0]), ("last", layers[-1])):
        for module in layer.modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                module.register_forward_hook(lambda _, given, __, name=name: taken[name].append(given[0][..., 0].numel()))
    with torch.no_grad():
        packed_hidden(model, SHARED, SHARED.last)
    tokens, read = len(SHARED.tokens), len(SHARED.last)
    assert set(taken["first"]) == {tokens}
    if family in (tiny_opt, tiny_opt_projected):  # no module holds its feed-forward block
        assert set(taken["last"]) == {tokens}
        return
    # Queries, keys and values of all tokens; output projection and feed-forward block of what is read.
    assert set(taken["last"]) == {tokens, read}
    assert taken["last"].count(read) >= 3


def test_other_calls_compute_all_rows_afterwards() -> None:
    """Also after a call that failed in the last layer."""
    model = tiny_gpt2()
    before = packed_hidden(model, SHARED)
    packed_hidden(model, SHARED, SHARED.last)
    assert torch.equal(packed_hidden(model, SHARED), before)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the last layer")

    hook = decoder_layers(model)[-1].mlp.register_forward_hook(fail)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RuntimeError, match="in the last layer"):
        packed_hidden(model, SHARED, SHARED.last)
    hook.remove()
    assert last_layer.rows_read() is None
    assert torch.equal(packed_hidden(model, SHARED), before)


def test_where_nearly_all_is_read_all_is_computed() -> None:
    documents = pack_documents([[1, 2, 3, 4] * 9] * 3)
    hidden = packed_hidden(tiny_gpt2(), documents, documents.predict_from)
    assert torch.equal(hidden, packed_hidden(tiny_gpt2(), documents).index_select(0, documents.predict_from))
