"""Masked mean, variance and whitening against plain Python, and what a mask must hide."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heedful.functional import masked_mean, masked_sum, masked_variance, masked_whiten

NAN, INF = math.nan, math.inf
floats = st.floats(-50, 50, width=32)


def whiten_reference(values: list[float], shift_mean: bool) -> list[float]:
    """``utils.core.whiten`` of openai/lm-human-preferences (tf.nn.moments: population variance) over unmasked values."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    whitened = [(value - mean) / math.sqrt(variance + 1e-8) for value in values]
    return whitened if shift_mean else [value + mean for value in whitened]


@st.composite
def values_and_mask(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    size = draw(st.integers(2, 12))
    values = draw(st.lists(floats, min_size=size, max_size=size))
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float64), torch.tensor([True, True, *mask[2:]])


def test_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [6.0, NAN, INF]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_sum(values, mask).item() == 9.0
    assert masked_mean(values, mask).item() == 3.0
    # (4 + 1 + 9) / 3: the population's variance, not the sample's 7
    assert masked_variance(values, mask).item() == pytest.approx(14 / 3, rel=1e-6)


def test_nothing_counts() -> None:
    values = torch.tensor([NAN, 1.0], requires_grad=True)
    mask = torch.tensor([False, False])
    (masked_mean(values, mask) + masked_variance(values, mask) + masked_whiten(values, mask).sum()).backward()
    assert masked_mean(values, mask).item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_is_not_inverted(shift_mean: bool) -> None:
    """Trap: torchtune's ``whiten`` adds the mean back when told to shift it away, and its tests pass with rtol=1e6."""
    values, mask = torch.tensor([[3.0, 5.0, 10.0, NAN]]), torch.tensor([[True, True, True, False]])
    whitened = masked_whiten(values, mask, shift_mean=shift_mean)
    assert whitened[0].tolist() == pytest.approx([*whiten_reference([3.0, 5.0, 10.0], shift_mean), 0.0], abs=1e-5)
    assert masked_mean(whitened, mask).item() == pytest.approx(0.0 if shift_mean else 6.0, abs=1e-5)


@given(values_and_mask())
def test_whitened_has_mean_0_and_variance_1_and_stays_so(case: tuple[Tensor, Tensor]) -> None:
    values, mask = case
    variance = masked_variance(values, mask).item()
    if variance < 1e-2:  # 1e-8 under the root shows below this
        return
    whitened = masked_whiten(values, mask)
    assert masked_mean(whitened, mask).item() == pytest.approx(0.0, abs=1e-5)
    assert masked_variance(whitened, mask).item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(masked_whiten(whitened, mask), whitened, atol=1e-5, rtol=0)


@given(values_and_mask(), st.sampled_from([0.0, NAN, INF, -INF, 1e30]), st.booleans())
def test_what_is_masked_changes_nothing(case: tuple[Tensor, Tensor], garbage: float, shift_mean: bool) -> None:
    values, mask = case
    results: list[Tensor] = []
    for filling in (0.0, garbage):
        leaf = values.masked_fill(~mask, filling).requires_grad_()
        outputs = (
            masked_sum(leaf, mask),
            masked_variance(leaf, mask),
            (masked_whiten(leaf, mask, shift_mean=shift_mean) * torch.arange(len(leaf))).sum(),
        )
        torch.stack(outputs).sum().backward()
        assert leaf.grad is not None
        results.append(torch.cat([torch.stack(outputs).detach(), leaf.grad]))
    assert torch.equal(results[0], results[1])
    assert torch.isfinite(results[0]).all()


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.ones(4096, dtype=torch.bfloat16)
    mean = masked_sum(values, torch.ones(4096, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert mean.item() == 4096.0
