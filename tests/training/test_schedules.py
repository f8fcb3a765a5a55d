from __future__ import annotations

import math

import pytest
import torch

from heedful.training.schedules import constant_after_warmup, cosine, epoch_order, set_learning_rate


def test_the_cosine_goes_from_the_peak_to_a_tenth_of_it() -> None:
    shares = [cosine(step, 11, final_share=0.1) for step in range(11)]
    assert shares[0] == 1.0
    assert shares[5] == pytest.approx(0.55)
    assert shares[10] == pytest.approx(0.1)
    assert shares[2] == pytest.approx(0.1 + 0.45 * (1 + math.cos(0.2 * math.pi)))
    assert shares == sorted(shares, reverse=True)


def test_the_cosine_after_a_warm_up() -> None:
    shares = [cosine(step, 14, final_share=0.0, warmup=4) for step in range(14)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[-1] == pytest.approx(0.0)


def test_the_cosine_of_a_single_step_is_the_peak() -> None:
    assert cosine(0, 1, final_share=0.1) == 1.0
    assert cosine(5, 3, final_share=0.1) == pytest.approx(0.1)  # past the end it stays


def test_ppo_warms_up_from_one_tenth_over_ten_iterations() -> None:
    shares = [constant_after_warmup(iteration, warmup=10, start_share=0.1) for iteration in range(13)]
    assert shares == pytest.approx([0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1.0, 1.0, 1.0])
    assert constant_after_warmup(0, warmup=0, start_share=0.1) == 1.0


def test_the_learning_rate_is_set_in_all_groups() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(1, 1, 50).tolist() == orders[3]
