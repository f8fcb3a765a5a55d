"""KL penalty, where the score goes, and GAE against the original's loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.functional import generalized_advantage_estimation, per_token_kl_penalty, rewards_with_kl

NAN, INF = math.nan, math.inf
T, F = True, False


def gae_reference(rewards: list[float], values: list[float], gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """The loop of ``PPOTrainer.loss`` in openai/lm-human-preferences, for one episode without padding."""
    last, advantages = 0.0, []
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t < len(rewards) - 1 else 0.0
        delta = rewards[t] + gamma * next_value - values[t]
        last = delta + gamma * lam * last
        advantages.append(last)
    advantages.reverse()
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


@st.composite
def episodes(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]]]:
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    rows = st.tuples(*(st.lists(st.floats(-5, 5), min_size=n, max_size=n) for n in lengths)).map(list)
    return draw(rows), draw(rows)


def padded(rows: list[list[float]], filling: float, before: int = 0) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows) + 1
    values = [[filling] * before + row + [filling] * (width - len(row)) for row in rows]
    mask = [[F] * before + [T] * len(row) + [F] * (width - len(row)) for row in rows]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(mask)


def test_kl_penalty_by_hand() -> None:
    """A token that the policy makes likelier than the reference costs; the padding costs nothing, whatever it holds."""
    penalty = per_token_kl_penalty(
        torch.tensor([[-1.0, -3.0, NAN]]),
        torch.tensor([[-2.0, -1.0, INF]]),
        beta=0.02,
        mask=torch.tensor([[T, T, F]]),
    )
    assert penalty[0].tolist() == pytest.approx([-0.02, 0.04, 0.0])


def test_the_score_is_added_at_the_last_token_of_the_response() -> None:
    """Trap: the reward put after EOS. Rows: ended by EOS, cut at the length limit, one token (EOS alone), no episode at all."""
    mask = torch.tensor([[T, T, F, F], [T, T, T, T], [T, F, F, F], [F, F, F, F]])
    logprobs = torch.full((4, 4), -1.0).masked_fill(~mask, NAN)
    reference = torch.full((4, 4), -2.0).masked_fill(~mask, INF)
    rewards = rewards_with_kl(torch.tensor([1.0, 2.0, 3.0, NAN]), logprobs, reference, mask, beta=0.5)
    assert rewards.tolist() == [
        [-0.5, 0.5, 0.0, 0.0],
        [-0.5, -0.5, -0.5, 1.5],
        [2.5, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]


def test_the_score_is_added_at_the_last_token_when_prompts_are_kept() -> None:
    """Left padding and prompt before the response, padding after: the place is where the mask ends, not a length."""
    mask = torch.tensor([[F, F, T, T, F], [F, T, F, F, F]])
    zeros = torch.zeros(2, 5)
    rewards = rewards_with_kl(torch.tensor([1.0, 2.0]), zeros, zeros, mask, beta=0.02)
    assert rewards.tolist() == [[0, 0, 0, 1, 0], [0, 2, 0, 0, 0]]


def test_nothing_of_the_score_is_lost_on_the_way_to_the_first_token() -> None:
    """At gamma = lam = 1 with values 0, the first token's advantage is the score minus beta times the whole KL."""
    mask = torch.tensor([[T, T, T, F]])
    logprobs, reference = torch.tensor([[-1.0, -1.0, -1.0, 9.0]]), torch.tensor([[-1.5, -2.0, -0.5, -9.0]])
    rewards = rewards_with_kl(torch.tensor([2.0]), logprobs, reference, mask, beta=0.1)
    advantages, _ = generalized_advantage_estimation(rewards, torch.zeros(1, 4), mask, gamma=1.0, lam=1.0)
    assert advantages[0, 0].item() == pytest.approx(2.0 - 0.1 * (0.5 + 1.0 - 0.5))


def test_gae_by_hand() -> None:
    # gamma 1/2, lam 1/2; deltas: 1 + 1/2*4 - 2 = 1, 0 + 1/2*8 - 4 = 0, 2 + 0 - 8 = -6
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[2.0, 4.0, 8.0]])
    advantages, returns = generalized_advantage_estimation(rewards, values, torch.ones(1, 3).bool(), gamma=0.5, lam=0.5)
    assert advantages[0].tolist() == [1 + 0.25 * -1.5, 0 + 0.25 * -6, -6]
    assert returns[0].tolist() == [2.625, 2.5, 2.0]


@settings(max_examples=60)
@given(
    episodes(),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.0, NAN, INF, 1e30]),
    st.integers(0, 2),
)
def test_gae_is_the_slow_reference_and_sees_no_padding(
    case: tuple[list[list[float]], list[list[float]]], gamma: float, lam: float, garbage: float, before: int
) -> None:
    """Trap: the value after the last token is 0 and not what the critic says of the padding (critic mask off by one)."""
    rewards, mask = padded(case[0], garbage, before)
    values, _ = padded(case[1], garbage, before)
    advantages, returns = generalized_advantage_estimation(rewards, values, mask, gamma=gamma, lam=lam)
    for row, (row_rewards, row_values) in enumerate(zip(*case, strict=True)):
        expected_advantages, expected_returns = gae_reference(row_rewards, row_values, gamma, lam)
        assert advantages[row][mask[row]].tolist() == pytest.approx(expected_advantages, abs=1e-9)
        assert returns[row][mask[row]].tolist() == pytest.approx(expected_returns, abs=1e-9)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


@given(episodes())
def test_without_discount_the_advantage_is_return_minus_value(case: tuple[list[list[float]], list[list[float]]]) -> None:
    rewards, mask = padded(case[0], 0.0)
    values, _ = padded(case[1], NAN)
    advantages, returns = generalized_advantage_estimation(rewards, values, mask, gamma=1.0, lam=1.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages[mask], (to_come - values)[mask], atol=1e-9, rtol=0)
    torch.testing.assert_close(returns[mask], to_come[mask], atol=1e-9, rtol=0)


def test_no_tokens_and_no_gradient() -> None:
    nothing = torch.zeros(2, 0)
    advantages, _ = generalized_advantage_estimation(nothing, nothing, nothing.bool())
    assert advantages.shape == (2, 0)
    assert rewards_with_kl(torch.ones(2), nothing, nothing, nothing.bool(), beta=0.02).shape == (2, 0)
    values = torch.ones(1, 2, requires_grad=True)
    advantages, returns = generalized_advantage_estimation(values, values, torch.ones(1, 2).bool())
    assert not advantages.requires_grad
    assert not returns.requires_grad
