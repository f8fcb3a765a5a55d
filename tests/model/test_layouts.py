from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import (
    CONTEXT,
    VOCABULARY,
    last_hidden,
    parameter_gradients,
    plain,
    tiny_gpt2,
    tiny_llama,
    tiny_neox,
)
from torch import Tensor
from transformers import PreTrainedModel

from heedful.functional.fast import kernels
from heedful.model import PackedBatch, attention, dense_blocks, pack, pack_documents, pack_shared, packed_hidden
from heedful.model.fast import grid, ranges
from heedful.model.precision import MasterWeights

pytestmark = pytest.mark.usefixtures("with_and_without_loops")

TOLERANCE = 1e-5
ARCHITECTURES = [tiny_gpt2, tiny_llama, tiny_neox]


def blocks_of(batch: PackedBatch) -> tuple[attention.AttentionBlock, ...]:
    assert isinstance(batch.layout, ranges.RangesLayout)
    return batch.layout.blocks.blocks


def random_tokens(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def weights_of(rng: random.Random, rows: int) -> Tensor:
    """A random direction for each row: as loss weights they see an error in any hidden state."""
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def real_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Hidden states of the row's tokens, without the filler at its end."""
    return packed_hidden(model, batch)[: int(batch.last.max()) + 1]


def one_by_one(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    return [last_hidden(model, sequence) for sequence in sequences]


def assert_close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Relative to each parameter's largest gradient: sums over hundreds of tokens round in another order.

    lm_head has none here (the loss is taken from hidden states); GPT-2's tied embedding counts as wte.
    """
    assert got.keys() == want.keys()
    assert got
    for name in want:
        scale = max(1.0, float(want[name].abs().max()))
        assert float((got[name] - want[name]).abs().max()) <= TOLERANCE * scale, name


# ---------------------------------------------------------------- packed rows


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_packed_sequences_give_the_hidden_states_and_gradients_of_one_forward_each(
    make: Callable[[], PreTrainedModel],
) -> None:
    rng = random.Random(1)
    lengths = [(1, 1), (3, 2), (1, 7), (12, 1), (20, 19)]
    prompts = [random_tokens(rng, p) for p, _ in lengths]
    responses = [random_tokens(rng, r) for _, r in lengths]
    model = make()
    twin = plain(model)
    packed = real_hidden(model, pack(prompts, responses))
    separate = torch.cat(one_by_one(twin, [p + r for p, r in zip(prompts, responses, strict=True)]))
    assert_close(packed, separate)

    directions = weights_of(rng, len(packed))
    (packed * directions).sum().backward()
    (separate * directions).sum().backward()
    assert_same_gradients(parameter_gradients(model), parameter_gradients(twin))


def test_documents_are_packed_as_sequences_whose_every_token_but_the_first_is_a_target() -> None:
    batch = pack_documents([[5, 6, 7], [8, 9]])
    assert batch.targets.tolist() == [6, 7, 9]
    assert batch.predict_from.tolist() == [0, 1, 3]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", ARCHITECTURES)
def test_packed_is_plain_transformers_with_padding_on_either_side(
    make: Callable[[], PreTrainedModel], side: str, implementation: str
) -> None:
    """Known traps: the padding side, and position ids under left padding."""
    rng = random.Random(2)
    sequences = [random_tokens(rng, n) for n in (2, 9, 5, 14)]
    longest = max(map(len, sequences))
    padding = [[0] * (longest - len(s)) for s in sequences]
    rows = [s + p if side == "right" else p + s for s, p in zip(sequences, padding, strict=True)]
    real = [
        [1] * len(s) + [0] * len(p) if side == "right" else [0] * len(p) + [1] * len(s)
        for s, p in zip(sequences, padding, strict=True)
    ]
    mask = torch.tensor(real)
    model = make()
    padded = plain(model, implementation).base_model(
        input_ids=torch.tensor(rows),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    )
    packed = real_hidden(model, pack_documents(sequences))
    assert_close(packed, padded.last_hidden_state[mask.bool()])


def test_a_sequences_hidden_states_do_not_depend_on_the_batch_it_is_in() -> None:
    """Known trap: scores that change with batch size."""
    rng = random.Random(3)
    sequences = [random_tokens(rng, rng.randrange(2, 40)) for _ in range(40)]
    model = tiny_gpt2()
    alone = real_hidden(model, pack_documents(sequences[:1]))
    for others in (sequences[1:2], sequences[1:9], sequences[1:]):
        for batch in ([sequences[0], *others], [*others, sequences[0]]):
            hidden = real_hidden(model, pack_documents(batch))
            own = hidden[: len(alone)] if batch[0] is sequences[0] else hidden[-len(alone) :]
            assert_close(own, alone)


# ---------------------------------------------------------------- one prompt, K responses


def separate_rows(prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]) -> list[list[int]]:
    return [prompt + response for prompt, group in zip(prompts, responses, strict=True) for response in group]


def response_hidden_separately(
    model: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]
) -> Tensor:
    """The hidden states that predict each response token, then each sequence's last, from one forward per response."""
    predicting, last = [], []
    for prompt, group in zip(prompts, responses, strict=True):
        for response in group:
            hidden = last_hidden(model, prompt + response)
            predicting.append(hidden[len(prompt) - 1 : -1])
            last.append(hidden[-1:])
    return torch.cat([*predicting, *last])


def response_hidden_shared(
    model: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]
) -> Tensor:
    batch = pack_shared(prompts, responses)
    hidden = packed_hidden(model, batch)
    return torch.cat([hidden[batch.predict_from], hidden[batch.last]])


def assert_shared_is_separate(model: PreTrainedModel, prompts: list[list[int]], responses: list[list[list[int]]]) -> None:
    twin = plain(model)
    model.zero_grad()
    shared = response_hidden_shared(model, prompts, responses)
    separate = response_hidden_separately(twin, prompts, responses)
    assert_close(shared, separate)
    directions = weights_of(random.Random(4), len(shared))
    (shared * directions).sum().backward()
    (separate * directions).sum().backward()
    assert_same_gradients(parameter_gradients(model), parameter_gradients(twin))


@pytest.mark.parametrize("make", ARCHITECTURES)
@pytest.mark.parametrize("k", range(1, 10))
def test_a_shared_prompt_gives_what_separate_forwards_give(make: Callable[[], PreTrainedModel], k: int) -> None:
    rng = random.Random(k)
    prompts = [random_tokens(rng, n) for n in (1, 17)]
    responses = [[random_tokens(rng, rng.randrange(1, 12)) for _ in range(k)], [random_tokens(rng, 1 + i) for i in range(k)]]
    assert_shared_is_separate(make(), prompts, responses)


@settings(max_examples=25)
@given(st.data())
def test_a_shared_prompt_gives_what_separate_forwards_give_whatever_the_lengths(data: st.DataObject) -> None:
    lengths = st.integers(1, 24)
    shapes = data.draw(st.lists(st.tuples(lengths, st.lists(lengths, min_size=1, max_size=9)), min_size=1, max_size=4))
    rng = random.Random(0)
    prompts = [random_tokens(rng, prompt) for prompt, _ in shapes]
    responses = [[random_tokens(rng, length) for length in group] for _, group in shapes]
    assert_shared_is_separate(tiny_gpt2(), prompts, responses)


def test_many_responses_of_very_different_lengths_fall_into_several_blocks() -> None:
    """More than the smallest block: the buckets by length are cut, and each token must find its way back."""
    rng = random.Random(5)
    prompts = [random_tokens(rng, n) for n in (40, 2, 3, 30)]
    responses = [[random_tokens(rng, 1 + (7 * i) % 40) for i in range(9)] for _ in prompts]
    assert len(blocks_of(pack_shared(prompts, responses))) > 2
    assert_shared_is_separate(tiny_gpt2(), prompts, responses)

    many = [random_tokens(rng, n) for n in [2] * 20 + [60] * 20]
    assert len(blocks_of(pack_documents(many))) > 1
    model = tiny_gpt2()
    assert_close(real_hidden(model, pack_documents(many)), torch.cat(one_by_one(plain(model), many)))


def test_a_response_does_not_see_the_others_of_its_prompt() -> None:
    rng = random.Random(6)
    prompt, responses = random_tokens(rng, 5), [random_tokens(rng, n) for n in (4, 6, 3)]
    model = tiny_gpt2()
    batch = pack_shared([prompt], [responses])
    before = real_hidden(model, batch)
    changed = [responses[0], [(t + 1) % VOCABULARY for t in responses[1]], responses[2]]
    after = real_hidden(model, pack_shared([prompt], [changed]))
    own = torch.zeros(len(before), dtype=torch.bool)
    own[9:15] = True  # the second response's tokens in the row: after 5 + 4
    torch.testing.assert_close(after[~own], before[~own], rtol=0, atol=0)
    assert float((after[own] - before[own]).detach().abs().min(1).values.max()) > 1e-3


# ---------------------------------------------------------------- the batch's indices, by hand


def test_the_indices_of_a_small_example_by_hand() -> None:
    """Row: 10 11 | 20 21 22 | 30 || 12 | 40 41: two prompts, the first with two responses, the second with one."""
    batch = pack_shared([[10, 11], [12]], [[[20, 21, 22], [30]], [[40, 41]]])
    assert batch.tokens.tolist() == [10, 11, 20, 21, 22, 30, 12, 40, 41]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 2, 0, 1, 2]
    assert batch.targets.tolist() == [20, 21, 22, 30, 40, 41]
    assert batch.predict_from.tolist() == [1, 2, 3, 1, 6, 7]
    assert batch.row.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.column.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.last.tolist() == [4, 5, 8]
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.num_sequences == 3
    assert batch.mask().tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    padded = batch.pad(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), fill=-1.0)
    assert padded.tolist() == [[1, 2, 3], [4, -1, -1], [5, 6, -1]]


def test_pack_repeats_a_prompt_that_occurs_twice() -> None:
    batch = pack([[1, 2], [1, 2]], [[3], [4]])
    assert batch.tokens.tolist() == [1, 2, 3, 1, 2, 4]
    assert batch.group.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("prompts", "responses"),
    [([], []), ([[1]], []), ([[]], [[[1]]]), ([[1]], [[]]), ([[1]], [[[]]]), ([[1], [2]], [[[3]], [[]]])],
)
def test_empty_prompts_and_responses_are_refused(prompts: list[list[int]], responses: list[list[list[int]]]) -> None:
    with pytest.raises(ValueError, match=r"empty|at least one"):
        pack_shared(prompts, responses)


@given(st.integers(1, 10**6))
def test_the_grid_of_sizes_is_coarse_and_costs_little(size: int) -> None:
    rounded = grid.on_grid(size)
    assert size <= rounded <= size * 17 / 16
    assert grid.on_grid(rounded) == rounded
    assert len({grid.on_grid(n) for n in range(size, 2 * size, max(1, size // 100))}) <= 34


def test_a_long_row_is_filled_up_with_tokens_that_nothing_reads() -> None:
    """Rows of nearly equal length share a shape; what fills them changes no result and carries no gradient."""
    rng = random.Random(12)
    sequences = [random_tokens(rng, 29) for _ in range(7)]  # 203 tokens
    batch = pack_documents(sequences)
    assert len(batch.tokens) == len(batch.positions) == 208
    assert int(batch.predict_from.max()) < 203
    assert int(batch.last.max()) == 202
    model = tiny_gpt2()
    twin = plain(model)
    directions = weights_of(rng, len(batch.targets))
    (packed_hidden(model, batch)[batch.predict_from] * directions).sum().backward()
    (torch.cat([hidden[:-1] for hidden in one_by_one(twin, sequences)]) * directions).sum().backward()
    assert_same_gradients(parameter_gradients(model), parameter_gradients(twin))


# ---------------------------------------------------------------- the other code path, other types


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_long_rows_take_the_blocked_kernel_and_give_the_same(
    make: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    kernel = attention.F.scaled_dot_product_attention

    def counting(query: Tensor, *args: object, **kwargs: object) -> Tensor:
        called.append(query.shape[2])
        return kernel(query, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(kernels, "usable", lambda _: False)
    monkeypatch.setattr(attention, "_LARGEST_EXPLICIT_BLOCK", 8)
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", counting)
    rng = random.Random(7)
    assert_shared_is_separate(
        make(),
        [random_tokens(rng, 12), random_tokens(rng, 3)],
        [[random_tokens(rng, n) for n in (2, 15)], [random_tokens(rng, 1)]],
    )
    assert called


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_bfloat16_is_near_float32(make: Callable[[], PreTrainedModel]) -> None:
    rng = random.Random(8)
    batch = pack_shared([random_tokens(rng, 9)], [[random_tokens(rng, n) for n in (3, 8, 1)]])
    model = make()
    exact = packed_hidden(model, batch)
    half = packed_hidden(MasterWeights(model, "bfloat16").compute, batch)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).detach().abs().max()) < 0.1 * float(exact.detach().abs().max())


def test_a_model_without_a_layout_says_how_to_call_it() -> None:
    model = tiny_gpt2()
    with pytest.raises(ValueError, match="packed_hidden"):
        model(input_ids=torch.tensor([[1, 2]]))


def test_a_sequence_as_long_as_the_context_window() -> None:
    rng = random.Random(9)
    model = tiny_gpt2()
    sequence = random_tokens(rng, CONTEXT)
    assert_close(real_hidden(model, pack_documents([sequence])), last_hidden(plain(model), sequence))


def test_buckets_hold_every_index_once() -> None:
    rng = random.Random(10)
    import numpy as np

    lengths = np.array([rng.randrange(1, 200) for _ in range(300)])
    buckets = dense_blocks._buckets(lengths)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(300))
    assert len(buckets) > 1
