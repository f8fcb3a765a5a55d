"""The losses against slow references in plain Python, re-derived from the sources named beside each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heedful.functional import clipped_policy_loss, clipped_value_loss, language_model_loss, ranking_loss

NAN, INF = math.nan, math.inf
GARBAGE = [NAN, INF, -INF, 1e30]
floats = st.floats(-8, 8)


def double(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradients(loss: Callable[..., Tensor], *leaves: Tensor) -> Tensor:
    """The loss and all gradients in one vector."""
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves)
    return torch.cat([value.detach().reshape(1), *(gradient.flatten() for gradient in gradients)])


# ---------------------------------------------------------------- language model


def test_language_model_loss_by_hand() -> None:
    logprobs = double([[-1.0, -2.0, NAN], [-6.0, INF, -INF]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    result = value_and_gradients(lambda x: language_model_loss(x, mask), logprobs)
    assert result.tolist() == pytest.approx([3.0, -1 / 3, -1 / 3, 0, -1 / 3, 0, 0])


def test_language_model_loss_of_nothing_is_zero() -> None:
    result = value_and_gradients(lambda x: language_model_loss(x, torch.zeros(2, dtype=torch.bool)), double([NAN, -1.0]))
    assert result.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("split", [1, 2])
def test_micro_batches_sum_to_the_batch(split: int) -> None:
    """Trap: averaging the means of unequal micro-batches is not the mean of the batch (the gradient-accumulation bug)."""
    logprobs, mask = double([[-1.0, -2.0], [-3.0, NAN], [-5.0, -7.0]]), torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    whole = language_model_loss(logprobs, mask)
    parts = [language_model_loss(logprobs[rows], mask[rows], normalizer=mask.sum()) for rows in (slice(split), slice(split, 3))]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item()) == pytest.approx(18 / 5)


# ---------------------------------------------------------------- ranking


def ranking_reference(prompts: list[tuple[list[float], list[int]]]) -> tuple[float, list[list[float]], float]:
    """Loss, gradients and accuracy, pair by pair, of Ouyang et al. 2022, equation 1, with ties left out of the divisor."""
    losses, gradients, correct, total = [], [], 0.0, 0
    for rewards, ranks in prompts:
        pairs = [
            (i, j) if ranks[i] < ranks[j] else (j, i) for i, j in combinations(range(len(ranks)), 2) if ranks[i] != ranks[j]
        ]
        gradient = [0.0] * len(ranks)
        loss = 0.0
        for winner, loser in pairs:
            difference = rewards[winner] - rewards[loser]
            loss += math.log1p(math.exp(-difference)) / len(pairs)
            gradient[winner] -= 1 / (1 + math.exp(difference)) / len(pairs)
            gradient[loser] += 1 / (1 + math.exp(difference)) / len(pairs)
            correct += 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
        total += len(pairs)
        losses += [loss] if pairs else []
        gradients.append(gradient)
    count = max(len(losses), 1)
    return sum(losses) / count, [[g / count for g in gradient] for gradient in gradients], correct / max(total, 1)


def padded(prompts: list[tuple[list[float], list[int]]], garbage: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    k = max(len(ranks) for _, ranks in prompts)
    rewards = double([list(rewards) + [garbage] * (k - len(rewards)) for rewards, _ in prompts])
    ranks = torch.tensor([list(ranks) + [-5, 9, -5, 9, -5, 9, -5, 9][: k - len(ranks)] for _, ranks in prompts])
    mask = torch.tensor([[True] * len(ranks) + [False] * (k - len(ranks)) for _, ranks in prompts])
    return rewards, ranks, mask


@st.composite
def rankings(draw: st.DrawFn) -> list[tuple[list[float], list[int]]]:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    return [
        (draw(st.lists(floats, min_size=k, max_size=k)), draw(st.lists(st.integers(1, 4), min_size=k, max_size=k)))
        for k in sizes
    ]


def test_ranking_loss_by_hand() -> None:
    # One comparison won by ln 3: -log sigmoid(ln 3) = ln(4/3), gradient -+1/4. One lost by 0: ln 2.
    rewards, ranks = double([[math.log(3.0), 0.0], [2.0, 2.0]]), torch.tensor([[1, 2], [2, 1]])
    mask = torch.ones(2, 2).bool()
    loss, statistics = ranking_loss(rewards, ranks, mask)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    result = value_and_gradients(lambda r: ranking_loss(r, ranks, mask)[0], rewards)
    assert result[1:].tolist() == pytest.approx([-0.125, 0.125, 0.25, -0.25])
    assert statistics.accuracy.item() == 0.75
    assert (statistics.num_comparisons.item(), statistics.num_prompts.item()) == (2, 2)
    assert statistics.margin.item() == pytest.approx(math.log(3.0) / 2)


def test_rank_1_is_best() -> None:
    rewards = value_and_gradients(
        lambda r: ranking_loss(r, torch.tensor([[1, 2, 3]]), torch.ones(1, 3).bool())[0], double([[0.0, 0.0, 0.0]])
    )
    assert rewards[0].item() == pytest.approx(math.log(2))
    assert rewards[1:].tolist() == pytest.approx([-1 / 3, 0.0, 1 / 3])


@settings(max_examples=60)
@given(rankings(), st.sampled_from(GARBAGE))
def test_ranking_loss_is_the_slow_reference(prompts: list[tuple[list[float], list[int]]], garbage: float) -> None:
    rewards, ranks, mask = padded(prompts, garbage)
    loss, gradients, accuracy = ranking_reference(prompts)
    result = value_and_gradients(lambda r: ranking_loss(r, ranks, mask)[0], rewards)
    statistics = ranking_loss(rewards, ranks, mask)[1]
    padding = rewards.shape[1]
    expected = [g for gradient in gradients for g in gradient + [0.0] * (padding - len(gradient))]
    assert result.tolist() == pytest.approx([loss, *expected], abs=1e-9)
    assert statistics.accuracy.item() == pytest.approx(accuracy)


@settings(max_examples=40)
@given(rankings(), st.floats(-100, 100))
def test_a_constant_added_to_a_prompts_rewards_changes_nothing(
    prompts: list[tuple[list[float], list[int]]], constant: float
) -> None:
    rewards, ranks, mask = padded(prompts)
    shift = torch.zeros_like(rewards)
    shift[0] = constant
    before = value_and_gradients(lambda r: ranking_loss(r, ranks, mask)[0], rewards)
    after = value_and_gradients(lambda r: ranking_loss(r, ranks, mask)[0], rewards + shift)
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


@settings(max_examples=40)
@given(rankings(), st.permutations(range(6)))
def test_the_order_of_responses_and_how_ranks_are_numbered_change_nothing(
    prompts: list[tuple[list[float], list[int]]], permutation: list[int]
) -> None:
    rewards, ranks, mask = padded(prompts)
    order = [i for i in permutation if i < rewards.shape[1]]
    loss = ranking_loss(rewards, ranks, mask)[0].item()
    assert ranking_loss(rewards[:, order], ranks[:, order], mask[:, order])[0].item() == pytest.approx(loss)
    assert ranking_loss(rewards, ranks * ranks.abs() * 10, mask)[0].item() == pytest.approx(loss)


@pytest.mark.parametrize("prompt", [([3.0], [1]), ([1.0, -2.0, 5.0], [2, 2, 2])], ids=["K = 1", "all tied"])
def test_prompts_without_a_comparison_do_not_count(prompt: tuple[list[float], list[int]]) -> None:
    other = ([1.0, 0.0], [1, 2])
    alone, together = padded([other]), padded([other, prompt])
    assert ranking_loss(*together)[0].item() == pytest.approx(ranking_loss(*alone)[0].item())
    assert ranking_loss(*together)[1].num_prompts.item() == 1
    result = value_and_gradients(lambda r: ranking_loss(r, together[1], together[2])[0], together[0])
    k = together[0].shape[1]
    assert result[1 + k :].tolist() == [0.0] * k
    # and by itself: exactly nothing
    rewards, ranks, mask = padded([prompt])
    result = value_and_gradients(lambda r: ranking_loss(r, ranks, mask)[0], rewards)
    assert result.tolist() == [0.0] * len(result)
    assert not math.isnan(ranking_loss(rewards, ranks, mask)[1].accuracy.item())


def test_every_prompt_weighs_the_same_whatever_its_k_and_ties() -> None:
    """Trap: shuffling comparisons into one set gives a prompt with K = 9 thirty-six times the weight of one with K = 2."""
    nine, two, tied = ([0.0] * 9, list(range(1, 10))), ([0.0, 0.0], [1, 2]), ([0.0] * 4, [1, 1, 1, 2])
    result = value_and_gradients(lambda r: ranking_loss(r, *padded([nine, two, tied])[1:])[0], padded([nine, two, tied])[0])
    gradients = result[1:].reshape(3, 9)
    # -log sigmoid(0) = ln 2 for every comparison, so each prompt adds ln 2 / 3.
    assert result[0].item() == pytest.approx(math.log(2))
    assert gradients[1, :2].tolist() == pytest.approx([-1 / 6, 1 / 6])
    assert gradients[0, [0, 8]].tolist() == pytest.approx([-8 * 0.5 / 36 / 3, 8 * 0.5 / 36 / 3])
    # Three comparisons are left of C(4,2) = 6; by SPEC 3.3's divisor the last gradient would be 1/12.
    assert gradients[2, :4].tolist() == pytest.approx([-1 / 18, -1 / 18, -1 / 18, 1 / 6])


def test_ranking_loss_in_bfloat16_and_with_large_rewards_is_finite() -> None:
    rewards = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16, requires_grad=True)
    for ranks, expected in (([[1, 2]], 0.0), ([[2, 1]], 600.0)):
        loss, _ = ranking_loss(rewards, torch.tensor(ranks), torch.ones(1, 2).bool())
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-2)


# ---------------------------------------------------------------- policy and value


def policy_reference(logprobs: list[float], old: list[float], advantages: list[float], clip: float) -> list[float]:
    """Loss, clip fraction, approximate KL and gradient of ``PPOTrainer.loss`` of openai/lm-human-preferences by token."""
    n, losses, clipped, kl, gradient = len(logprobs), [], 0, [], []
    for new, before, advantage in zip(logprobs, old, advantages, strict=True):
        ratio = math.exp(new - before)
        loss1 = -advantage * ratio
        loss2 = -advantage * min(max(ratio, 1 - clip), 1 + clip)
        losses.append(max(loss1, loss2))
        clipped += loss2 > loss1
        gradient.append((0.0 if loss2 > loss1 else -advantage * ratio) / n)
        kl.append(0.5 * (new - before) ** 2)
    return [sum(losses) / n, clipped / n, sum(kl) / n, *gradient]


def value_reference(values: list[float], old: list[float], returns: list[float], clip: float) -> list[float]:
    """Loss, clip fraction, error and gradient of the value function, same source."""
    n, losses, clipped, errors, gradient = len(values), [], 0, [], []
    for value, before, target in zip(values, old, returns, strict=True):
        clipped_value = min(max(value, before - clip), before + clip)
        loss1, loss2 = (value - target) ** 2, (clipped_value - target) ** 2
        losses.append(max(loss1, loss2))
        clipped += loss2 > loss1
        inside = before - clip <= value <= before + clip
        gradient.append((value - target if loss1 >= loss2 or inside else 0.0) / n)
        errors.append(loss1)
    return [0.5 * sum(losses) / n, clipped / n, sum(errors) / n, *gradient]


def test_clipped_policy_loss_by_hand() -> None:
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages +1, -1, +1, -1 and c = 0.2: only the first and the last are clipped
    logprobs = double([math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)])
    advantages, mask = double([1.0, -1.0, 1.0, -1.0]), torch.ones(4).bool()
    zeros = torch.zeros(4, dtype=torch.float64)
    result = value_and_gradients(lambda x: clipped_policy_loss(x, zeros, advantages, mask, clip_ratio=0.2)[0], logprobs)
    assert result.tolist() == pytest.approx([(-1.2 + 1.5 - 0.5 + 0.8) / 4, 0.0, 1.5 / 4, -0.5 / 4, 0.0])
    statistics = clipped_policy_loss(logprobs, zeros, advantages, mask, clip_ratio=0.2)[1]
    assert statistics.clip_fraction.item() == 0.5
    assert statistics.mean_ratio.item() == pytest.approx(1.0)
    assert statistics.approximate_kl.item() == pytest.approx((math.log(1.5) ** 2 + math.log(0.5) ** 2) / 4)


def test_a_good_token_is_made_likelier() -> None:
    """Trap: torchtune's PPO tests pass with the sign of the policy loss flipped (rtol=1e6)."""
    result = value_and_gradients(
        lambda x: clipped_policy_loss(x, x.detach(), double([2.0, -3.0]), torch.ones(2).bool(), clip_ratio=0.2)[0],
        double([-1.0, -1.0]),
    )
    assert result.tolist() == pytest.approx([0.5, -1.0, 1.5])


def test_clipped_value_loss_by_hand() -> None:
    # inside the range; moved towards the return past the range (clipped); moved away past the range (not clipped)
    values, old, returns = double([0.1, 0.9, 0.9]), double([0.0, 0.0, 0.0]), double([1.0, 1.0, -1.0])
    mask = torch.ones(3).bool()
    result = value_and_gradients(lambda v: clipped_value_loss(v, old, returns, mask, clip_range=0.2)[0], values)
    assert result.tolist() == pytest.approx([0.5 * (0.81 + 0.64 + 3.61) / 3, -0.9 / 3, 0.0, 1.9 / 3])
    statistics = clipped_value_loss(values, old, returns, mask, clip_range=0.2)[1]
    assert statistics.clip_fraction.item() == pytest.approx(1 / 3)
    assert statistics.error.item() == pytest.approx((0.81 + 0.01 + 3.61) / 3)
    assert statistics.explained_variance.item() == pytest.approx(1 - (0.81 + 0.01 + 3.61) / 3 / (8 / 9))


@st.composite
def tokens_and_garbage(draw: st.DrawFn) -> tuple[list[list[float]], Tensor, float]:
    size = draw(st.integers(1, 8))
    columns = [draw(st.lists(st.floats(-2, 2), min_size=size, max_size=size)) for _ in range(3)]
    mask = [True, *draw(st.lists(st.booleans(), min_size=size - 1, max_size=size - 1))]
    return columns, torch.tensor(mask), draw(st.sampled_from(GARBAGE))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (lambda *args: clipped_policy_loss(*args, clip_ratio=0.2), policy_reference),
        (lambda *args: clipped_value_loss(*args, clip_range=0.2), value_reference),
    ],
    ids=["policy", "value"],
)
@settings(max_examples=60)
@given(tokens_and_garbage())
def test_ppo_losses_are_the_slow_references_and_see_no_garbage(
    loss: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    reference: Callable[..., list[float]],
    case: tuple[list[list[float]], Tensor, float],
) -> None:
    columns, mask, garbage = case
    kept = [[value for value, keep in zip(column, mask.tolist(), strict=True) if keep] for column in columns]
    expected = reference(*kept, 0.2)
    tensors = [double(column).masked_fill(~mask, garbage) for column in columns]
    statistics = loss(*tensors, mask)[1]
    result = value_and_gradients(lambda first: loss(first, *tensors[1:], mask)[0], tensors[0])
    assert result[0].item() == pytest.approx(expected[0], abs=1e-9)
    assert result[1:][mask].tolist() == pytest.approx(expected[3:], abs=1e-9)
    assert result[1:][~mask].tolist() == [0.0] * int((~mask).sum())
    # both losses have their clip fraction first, and second what the reference has
    assert [s.item() for s in statistics[:2]] == pytest.approx(expected[1:3], abs=1e-9)
    assert all(math.isfinite(s.item()) for s in statistics)


def test_gradient_reaches_only_what_is_learned() -> None:
    """Old log-probabilities, advantages, old values and returns are data: no gradient flows through them."""
    a, b, c = leaves = [torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.ones(5).bool()
    for loss in (
        clipped_policy_loss(a, b, c, mask, clip_ratio=0.2)[0],
        clipped_value_loss(a, b, c, mask, clip_range=0.2)[0],
    ):
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        assert gradients[0] is not None
        assert gradients[1:] == (None, None)


def test_normalizer_replaces_the_count_in_every_loss() -> None:
    a, b, c = torch.randn(3, 6, dtype=torch.float64)
    mask = torch.tensor([1, 1, 1, 0, 0, 1]).bool()
    rewards, ranks, k_mask = padded([([1.0, 0.0], [2, 1]), ([0.0, 3.0], [1, 2])])
    pairs = [
        (language_model_loss(a, mask), language_model_loss(a, mask, normalizer=8), 4),
        (
            clipped_policy_loss(a, b, c, mask, clip_ratio=0.2)[0],
            clipped_policy_loss(a, b, c, mask, clip_ratio=0.2, normalizer=8)[0],
            4,
        ),
        (
            clipped_value_loss(a, b, c, mask, clip_range=0.2)[0],
            clipped_value_loss(a, b, c, mask, clip_range=0.2, normalizer=8.0)[0],
            4,
        ),
        (ranking_loss(rewards, ranks, k_mask)[0], ranking_loss(rewards, ranks, k_mask, normalizer=8)[0], 2),
    ]
    for mean, scaled, count in pairs:
        assert scaled.item() == pytest.approx(mean.item() * count / 8)
