"""The ranking loss with ties, and implicit rewards: against the formulas of the papers, and by finite differences."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.functional import implicit_rewards, ranking_loss

NU = 3.0
THRESHOLD = math.log(NU)


def double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def rao_kupper(strength: float, other: float) -> tuple[float, float]:
    """Rao and Kupper 1967, as they write it: strengths p = exp(reward); probabilities that the first wins, and of a tie."""
    first, second = math.exp(strength), math.exp(other)
    win = first / (first + NU * second)
    tie = first * second * (NU**2 - 1) / ((first + NU * second) * (NU * first + second))
    return win, tie


def reference(rewards: list[float], ranks: list[int]) -> float:
    """Mean over all pairs of -log P of what was said."""
    losses = []
    for i, j in combinations(range(len(ranks)), 2):
        win, tie = rao_kupper(rewards[i], rewards[j])
        lose, _ = rao_kupper(rewards[j], rewards[i])
        losses.append(-math.log(tie if ranks[i] == ranks[j] else win if ranks[i] < ranks[j] else lose))
    return sum(losses) / len(losses)


def test_a_tie_of_equal_rewards_by_hand() -> None:
    # nu = 3: P(win) = P(loss) = 1/4, P(tie) = 1/2.
    ones = torch.ones(1, 2).bool()
    tie, _ = ranking_loss(double([[0.7, 0.7]]), torch.tensor([[1, 1]]), ones, tie_threshold=THRESHOLD)
    win, _ = ranking_loss(double([[0.7, 0.7]]), torch.tensor([[1, 2]]), ones, tie_threshold=THRESHOLD)
    assert tie.item() == pytest.approx(math.log(2))
    assert win.item() == pytest.approx(math.log(4))


@settings(max_examples=60)
@given(st.integers(2, 5).flatmap(lambda k: st.tuples(st.lists(st.floats(-5, 5), min_size=k, max_size=k), _ranks(k))))
def test_the_loss_with_ties_is_rao_and_kuppers(case: tuple[list[float], list[int]]) -> None:
    rewards, ranks = case
    padding = [math.nan] * (6 - len(ranks))
    mask = torch.tensor([[True] * len(ranks) + [False] * len(padding)])
    loss, statistics = ranking_loss(
        double([[*rewards, *padding]]), torch.tensor([[*ranks, *[1] * len(padding)]]), mask, tie_threshold=THRESHOLD
    )
    assert loss.item() == pytest.approx(reference(rewards, ranks), rel=1e-9)
    untied = sum(a != b for a, b in combinations(ranks, 2))
    assert statistics.num_comparisons.item() == untied
    assert statistics.num_prompts.item() == 1


def _ranks(k: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 3), min_size=k, max_size=k)


def test_the_gradient_with_ties_by_finite_differences() -> None:
    rewards = double([[0.3, -1.0, 2.0, 0.1], [1.5, 1.4, 0.0, 0.0]]).requires_grad_()
    ranks = torch.tensor([[1, 2, 2, 3], [1, 1, 0, 0]])

    def loss(given: Tensor) -> Tensor:
        return ranking_loss(given, ranks, ranks > 0, weights=torch.tensor([0.5, 0.25]), tie_threshold=0.8)[0]

    assert torch.autograd.gradcheck(loss, (rewards,))
    gradient = torch.autograd.grad(loss(rewards), rewards)[0]
    assert gradient[1, 0].item() == pytest.approx(-gradient[1, 1].item())
    assert gradient[1, 0].item() > 0, "a tie pulls the higher reward down"


def test_a_prompt_with_only_ties_counts_only_with_a_threshold() -> None:
    rewards, ranks, mask = double([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1, 2], [1, 1]]), torch.ones(2, 2).bool()
    without, statistics = ranking_loss(rewards, ranks, mask)
    assert without.item() == pytest.approx(math.log1p(math.exp(-1.0)))
    assert statistics.num_prompts.item() == 1
    with_ties, statistics = ranking_loss(rewards, ranks, mask, tie_threshold=THRESHOLD)
    assert with_ties.item() == pytest.approx((reference([1.0, 0.0], [1, 2]) + reference([2.0, 0.0], [1, 1])) / 2)
    assert statistics.num_prompts.item() == 2


def test_a_large_difference_of_rewards_stays_finite() -> None:
    rewards = double([[400.0, -400.0, 0.0]]).requires_grad_()
    loss, _ = ranking_loss(rewards, torch.tensor([[2, 2, 1]]), torch.ones(1, 3).bool(), tie_threshold=THRESHOLD)
    assert math.isfinite(loss.item())
    assert torch.autograd.grad(loss, rewards)[0].isfinite().all()


def test_the_dpo_loss_of_a_pair_is_rafailovs() -> None:
    """As ``preference_loss`` of eric-mitchell/direct-preference-optimization computes it, from four log-probs."""
    policy, of_reference, beta = double([[-12.0, -9.5], [-3.0, -8.0]]), double([[-13.0, -9.0], [-3.5, -7.0]]), 0.3
    logits = (policy[:, 0] - policy[:, 1]) - (of_reference[:, 0] - of_reference[:, 1])
    theirs = -torch.nn.functional.logsigmoid(beta * logits)
    by_hand = [math.log1p(math.exp(-0.3 * 1.5)), math.log1p(math.exp(-0.3 * 1.5))]
    assert theirs.tolist() == pytest.approx(by_hand)
    ranks = torch.tensor([[1, 2], [1, 2]])
    loss, _ = ranking_loss(implicit_rewards(policy, of_reference, beta=beta), ranks, ranks > 0)
    assert loss.item() == pytest.approx(theirs.mean().item(), abs=1e-12)


def test_no_gradient_reaches_the_reference() -> None:
    policy, of_reference = double([[1.0, 2.0]]).requires_grad_(), double([[0.5, 1.0]]).requires_grad_()
    rewards = implicit_rewards(policy, of_reference, beta=0.1)
    assert rewards.tolist() == [pytest.approx([0.05, 0.1])]
    rewards.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == [pytest.approx([0.1, 0.1])]
    assert of_reference.grad is None
