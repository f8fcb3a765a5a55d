"""Attention of packed rows and its gradients: exact sums within the numbers' precision, in fp32, in bf16 and in tiles (AMX)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from heedful.functional.fast import kernels
from heedful.functional.fast.kernels import Ranges

pytestmark = pytest.mark.skipif(not kernels.usable(torch.empty(0)), reason="no compiled loops here")

Group = tuple[int, list[int]]  # lengths of a context and of its branches
Four = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, keys, values and the output's gradient
GROUPS: dict[str, list[Group]] = {
    "one row": [(1, [])],
    "one sequence": [(70, [])],
    "whole blocks": [(64, [32, 64]), (128, [])],
    "branches that begin within a block": [(33, [5, 40, 31]), (100, [1, 200]), (7, [3])],
    "more than 128 queries": [(300, [17, 150])],
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


def ranges(groups: Sequence[Group], *, skipped: int = 0) -> tuple[Ranges, int]:
    """Ranges of groups that lie one after another with a row of filler between them. skipped: first queries not to compute."""
    contexts: list[list[int]] = []
    branches: list[list[int]] = []
    first_branch, row = [0], 0
    for length, others in groups:
        contexts.append([row, length, min(skipped, length), length])
        row += length
        for other in others:
            branches.append([row, other, min(skipped, other), other])
            row += other
        first_branch.append(len(branches))
        row += 1
    held = [torch.tensor(rows, dtype=torch.int64).reshape(-1, 4) for rows in (contexts, branches)]
    return Ranges(held[0], held[1], torch.tensor(first_branch)), row


def exact(query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group], window: int | None, scaling: float) -> Tensor:
    """In fp64, one range after another."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    output, row = torch.zeros_like(query), 0
    for length, others in groups:
        context, branch = torch.arange(row, row + length), row + length
        parts = [(context, 0)]
        for other in others:
            parts.append((torch.cat([context, torch.arange(branch, branch + other)]), length))
            branch += other
        for rows, skip in parts:
            distance = torch.arange(len(rows))[:, None] - torch.arange(len(rows))
            seen = (distance >= 0) & (distance < (window or len(rows)))
            scores = torch.einsum("ihd,jhd->hij", query[rows], key[rows]) * scaling
            mixed = torch.einsum("hij,jhd->ihd", torch.softmax(scores.masked_fill(~seen, -torch.inf), -1), value[rows])
            output = output.index_put((rows[skip:],), mixed[skip:])
        row = branch + 1
    return output


def error(found: Tensor, expected: Tensor) -> float:
    """Of the whole, relative. A gradient that is 0 in exact arithmetic has an error of rounding, so 1 is the least size."""
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1))


def numbers(rows: int, heads: int, key_heads: int, width: int, kind: torch.dtype) -> Four:
    generator = torch.Generator().manual_seed(rows)
    query, key, value, gradient = (
        torch.randn(rows, h, width, generator=generator).to(kind) for h in (heads, key_heads, key_heads, heads)
    )
    return query, key, value, gradient


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(6, 2, 64), (2, 2, 32), (3, 1, 96), (2, 1, 48), (2, 1, 8)])
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_outputs_and_gradients_are_right(
    kind: torch.dtype, name: str, heads: int, key_heads: int, width: int, window: int | None
):
    layout, rows = ranges(GROUPS[name])
    query, key, value, gradient = numbers(rows, heads, key_heads, width, kind)
    wide = [tensor.double().requires_grad_() for tensor in (query, key, value)]
    expected = exact(wide[0], wide[1], wide[2], GROUPS[name], window, 0.3)
    expected.backward(gradient.double())
    found = kernels.packed_attention(query, key, value, layout, window, 0.3)
    assert error(found, expected.detach()) < TOLERANCE[kind]
    gradients = kernels.packed_attention_backward(gradient, query, key, value, layout, window, 0.3)
    for tensor, leaf in zip(gradients, wide, strict=True):
        assert leaf.grad is not None
        assert error(tensor, leaf.grad) < 2 * TOLERANCE[kind]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_between_the_ranges_and_of_other_groups_do_not_count(kind: torch.dtype):
    groups = GROUPS["branches that begin within a block"]
    layout, rows = ranges(groups)
    tensors = numbers(rows, 4, 2, 64, kind)
    expected = kernels.packed_attention(*tensors[:3], layout, None, 0.2)
    expected_gradients = kernels.packed_attention_backward(tensors[3], *tensors[:3], layout, None, 0.2)
    filler = torch.ones(rows, dtype=torch.bool)
    for ranges_ in (layout.contexts, layout.branches):
        for first, length, *_ in ranges_.tolist():
            filler[first : first + length] = False
    assert int(filler.sum()) == len(groups)
    for tensor in tensors:
        tensor[filler] = torch.nan
    assert torch.equal(kernels.packed_attention(*tensors[:3], layout, None, 0.2), expected)
    found = kernels.packed_attention_backward(tensors[3], *tensors[:3], layout, None, 0.2)
    assert all(torch.equal(one, other) for one, other in zip(found, expected_gradients, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_only_the_queries_that_are_asked_for_are_computed(kind: torch.dtype):
    groups: list[Group] = [(90, [50, 4])]
    whole, rows = ranges(groups)
    part, _ = ranges(groups, skipped=10)
    tensors = numbers(rows, 2, 1, 64, kind)
    expected = kernels.packed_attention(*tensors[:3], whole, None, 0.2)
    found = kernels.packed_attention(*tensors[:3], part, None, 0.2)
    computed = torch.zeros(rows, dtype=torch.bool)
    computed[10:90] = computed[100:140] = True
    assert error(found[computed], expected[computed].double()) < TOLERANCE[kind]
    assert not found[~computed].any()
    only = tensors[3] * computed[:, None, None]
    for one, other in zip(
        kernels.packed_attention_backward(tensors[3], *tensors[:3], part, None, 0.2),
        kernels.packed_attention_backward(only, *tensors[:3], whole, None, 0.2),
        strict=True,
    ):
        assert error(one, other.double()) < 2 * TOLERANCE[kind]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_bits_do_not_depend_on_the_number_of_threads_or_on_other_groups(kind: torch.dtype):
    groups = GROUPS["branches that begin within a block"]
    layout, rows = ranges(groups)
    tensors, threads = numbers(rows, 4, 2, 64, kind), torch.get_num_threads()
    try:
        found: list[Four] = []
        for count in (1, 3):
            torch.set_num_threads(count)
            output = kernels.packed_attention(*tensors[:3], layout, None, 0.2)
            found.append((output, *kernels.packed_attention_backward(tensors[3], *tensors[:3], layout, None, 0.2)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    first, length = ranges(groups[:1])
    query, key, value = (tensor[:length] for tensor in tensors[:3])
    alone = kernels.packed_attention(query, key, value, first, None, 0.2)
    assert torch.equal(alone, found[0][0][:length])


def test_large_scores_do_not_overflow():
    layout, rows = ranges([(80, [])])
    query, key, value, _ = numbers(rows, 2, 2, 64, torch.bfloat16)
    found = kernels.packed_attention(query * 100, key * 100, value, layout, None, 1.0)
    expected = exact((query * 100).double(), (key * 100).double(), value.double(), [(80, [])], None, 1.0)
    assert error(found, expected) < TOLERANCE[torch.bfloat16]
