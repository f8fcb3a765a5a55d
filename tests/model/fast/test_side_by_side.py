"""Two computations at once: the results and errors of one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import largest_difference, snapshot
from tests.training.test_ppo import PROMPTS, TOKENIZER, policy_model, reward_model, settings

from heedful.model.fast import side_by_side
from heedful.model.precision import MasterWeights
from heedful.ranks.world import World
from heedful.training import ppo, rollouts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def where() -> tuple[int, int]:
    return threading.get_ident(), torch.get_num_threads()


def both(first: Any, second: Any, costs: tuple[float, float] = (1, 1), device: torch.device = CPU) -> Any:
    return side_by_side.side_by_side(first, second, costs=costs, device=device)


def test_each_has_half_of_the_threads_and_its_own_results() -> None:
    meeting = threading.Barrier(2)  # passed only where both are at work

    def first() -> tuple[str, tuple[int, int]]:
        meeting.wait(10)
        return "first", where()

    def second() -> tuple[str, tuple[int, int]]:
        meeting.wait(10)
        return "second", where()

    for _ in range(2):
        (a, (thread, threads)), (b, (other, others)) = both(first, second)
        assert (a, b) == ("first", "second")
        assert thread == threading.get_ident() != other
        assert threads == others == 2


@pytest.mark.parametrize("reason", ["costs", "gpu", "ranks", "one thread"])
def test_one_after_the_other_where_at_once_would_be_slower_or_wrong(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = 4
    if reason == "ranks":
        monkeypatch.setattr(side_by_side, "world", lambda: World(0, 2))
    if reason == "one thread":
        threads = 1
        torch.set_num_threads(1)
    costs = (1, 4) if reason == "costs" else (1, 1)
    here = both(where, where, costs, torch.device("cuda" if reason == "gpu" else "cpu"))
    assert here == ((threading.get_ident(), threads),) * 2
    torch.set_num_threads(4)


@pytest.mark.parametrize("failing", ["first", "second"])
def test_an_error_of_either_is_raised_when_both_have_ended(failing: str) -> None:
    ended: list[str] = []

    def run(name: str) -> None:
        if name == failing:
            raise KeyboardInterrupt(name)
        threading.Event().wait(0.05)
        ended.append(name)

    with pytest.raises(KeyboardInterrupt, match=failing):
        both(lambda: run("first"), lambda: run("second"))
    assert len(ended) == 1


def test_both_have_the_callers_gradient_mode() -> None:
    with torch.no_grad():
        assert both(torch.is_grad_enabled, torch.is_grad_enabled) == (False, False)
    assert both(torch.is_grad_enabled, torch.is_grad_enabled) == (True, True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ppo_learns_the_same_either_way(precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as in turn with as many threads as each has: how many they are changes the rounding of sums."""
    config = settings(precision=precision)
    results = []
    for name in ("at once", "in turn"):
        if name == "in turn":
            monkeypatch.setattr(side_by_side, "_LARGEST_SHARE", 0.0)
            torch.set_num_threads(2)
        policy, value = policy_model(), reward_model()
        ppo.train_ppo(policy, value, TOKENIZER, ppo.PPOData(PROMPTS), config, tmp_path / name)
        results.append((snapshot(policy), snapshot(value)))
    torch.set_num_threads(4)
    for at_once, in_turn in zip(*results, strict=True):
        assert largest_difference(at_once, in_turn) == 0.0


def test_halves_of_a_batch_are_alike_in_length_and_leave_nothing_out() -> None:
    for lengths in ([5], [9, 1], list(range(1, 41)), [100, 1, 1, 1, 50, 50, 2]):
        first, second = rollouts.halves(lengths)
        assert sorted(first + second) == list(range(len(lengths)))
        sums = [sum(lengths[i] for i in half) for half in (first, second)]
        assert abs(sums[0] - sums[1]) <= max(lengths)


def test_a_batch_judged_in_halves_is_judged_as_a_whole() -> None:
    def judged() -> rollouts.Rollouts:
        policy, value = MasterWeights(policy_model(), "float32"), MasterWeights(reward_model(), "float32")
        models = rollouts.Models(policy, value, policy_model(1), reward_model(7))
        generations = rollouts.respond(policy.compute, TOKENIZER, PROMPTS, settings(), 0)
        found = rollouts.judge(models, PROMPTS, generations, settings())
        return rollouts.with_advantages(PROMPTS, generations, found, settings())

    in_halves = judged()
    torch.set_num_threads(1)
    whole = judged()
    torch.set_num_threads(4)
    assert [g.tokens for g in in_halves.generations] == [g.tokens for g in whole.generations]
    for name in ("mask", "logprobs", "reference_logprobs", "values", "score", "advantages", "returns"):
        ours, theirs = getattr(in_halves, name), getattr(whole, name)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
