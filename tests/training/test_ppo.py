from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import (
    END,
    VOCABULARY,
    largest_difference,
    last_hidden,
    parameter_gradients,
    plain,
    snapshot,
    tiny_gpt2,
    tiny_tokenizer,
)
from tests.training.interrupting import every, interrupted_at, quiet
from torch import Tensor
from transformers import PreTrainedModel

from heedful import functional
from heedful.errors import ConfigError, DataError, NumericalError
from heedful.model import Generation, load_causal_model, readout, scalar_model_from_causal
from heedful.model.engine.sampling import request_seeds
from heedful.model.engine.vllm_engine import generator
from heedful.model.precision import MasterWeights, frozen
from heedful.model.scalar_models import scalar_head
from heedful.training import ppo, ppo_gradients
from heedful.training.config import PPOConfig
from heedful.training.ppo import PPOData, prompt_order, train_ppo
from heedful.training.pretraining_text import PretrainingText
from heedful.training.rollouts import Models, Rollouts, judge, respond, sampling, with_advantages

TOKENIZER = tiny_tokenizer()
LIKED = 7
PROMPTS = [[int(t) for t in np.random.default_rng(i).integers(8, 60, 1 + i % 6)] for i in range(20)]


def policy_model(seed: int = 0) -> PreTrainedModel:
    """Nearly uniform over the words, and says end-of-text about once in eight tokens."""
    model = tiny_gpt2(seed, scale=0.1)
    with torch.no_grad():
        end = model.get_parameter("transformer.wte.weight")[END]
        model.get_parameter("transformer.ln_f.bias").add_(end * (2.3 / end.square().sum()))
    return model


def reward_model(seed: int = 5) -> PreTrainedModel:
    torch.manual_seed(seed)
    return scalar_model_from_causal(tiny_gpt2(seed, scale=0.2), pad_token_id=None, eos_token_id=END)


def settings(**changed: Any) -> PPOConfig:
    defaults: dict[str, Any] = {
        "precision": "float32",
        "episodes": 48,
        "batch_size": 16,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "warmup_iterations": 2,
        "ptx_coefficient": 0.0,
        "ptx_examples_per_episode": 1,
        "ptx_context_length": 8,
        "max_response_tokens": 6,
        "average_decay": 0.5,
    }
    return PPOConfig(**{**defaults, **changed})


def train(config: PPOConfig, folder: Path, policy: PreTrainedModel | None = None, **more: Any) -> PreTrainedModel:
    policy = policy_model() if policy is None else policy
    reward = more.pop("reward", None) or reward_model()
    return train_ppo(policy, reward, TOKENIZER, PPOData(PROMPTS, **more), config, folder, console=quiet())


def text(documents: int = 60) -> PretrainingText:
    rows = [[50 + i % 10, 1 + i % 49, 5, END] for i in range(documents)]
    return PretrainingText(np.array([*chain(*rows)], dtype=np.int32), np.arange(0, 4 * documents + 1, 4))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def gradient_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Adam, which would blow up the rounding of gradients that are zero in exact arithmetic."""
    monkeypatch.setattr(ppo, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.0))


def spy(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[..., None] | None = None, after: Any = None) -> None:
    """Look at the arguments or the result of one of ppo's functions."""
    function = getattr(ppo, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = function(*args, **kwargs)
        if after is not None:
            after(result)
        return result

    monkeypatch.setattr(ppo, name, wrapper)


class Stop(Exception):
    """Ends a run where a test has seen enough."""


# ---------------------------------------------------------------- what it learns


class LikesOneWord:
    """A stand-in for the reward model's scores: +1 for each LIKED token. The value function stays a real model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scalars = readout.scalars

        def stand_in(model: PreTrainedModel, batch: Any, places: Tensor) -> Tensor:
            if places is not batch.last:
                return scalars(model, batch, places)
            return torch.where(batch.mask(), batch.pad((batch.targets == LIKED).float()), 0.0).sum(1)

        monkeypatch.setattr("heedful.training.rollouts.scalars", stand_in)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_reward_rises(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LikesOneWord(monkeypatch)
    config = settings(
        precision=precision, episodes=64 * 25, batch_size=64, learning_rate=1e-2, value_learning_rate=1e-2, kl_coefficient=0.01
    )
    result = train(config, tmp_path)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(25))
    assert rows[0]["reward"] < 0.3
    assert np.mean([row["reward"] for row in rows[-3:]]) > 2.0
    assert rows[-1]["kl"] > 1.0
    assert largest_difference(snapshot(load_causal_model(tmp_path / "model")), snapshot(result)) == 0.0
    assert not (tmp_path / "checkpoints").exists()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 6  # three at iteration 20, three at the end
    assert "w7" in samples[-1]["response"]


def test_a_high_kl_coefficient_holds_the_policy_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LikesOneWord(monkeypatch)
    ends = []
    for number, beta in enumerate((0.0, 10.0)):
        config = settings(episodes=64 * 12, batch_size=64, learning_rate=1e-2, value_learning_rate=1e-2, kl_coefficient=beta)
        train(config, tmp_path / str(number))
        ends.append(metrics(tmp_path / str(number))[-1]["kl"])
    assert ends[0] > 5 * abs(ends[1])


# ---------------------------------------------------------------- episodes: log-probs, scores, KL, returns


def judged(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    config: PPOConfig,
    count: int = 20,
    value: PreTrainedModel | None = None,
) -> Rollouts:
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    generations = respond(policy, TOKENIZER, prompts, config, 0)
    assert {g.finished for g in generations} == {True, False}
    models = Models(
        MasterWeights(policy, "float32"),
        MasterWeights(value or reward_model(6), "float32"),
        frozen(copy.deepcopy(reference), "float32"),
        frozen(reward_model(), "float32"),
    )
    return with_advantages(prompts, generations, judge(models, prompts, generations, config), config)


def plain_logprobs(model: PreTrainedModel, prompt: list[int], generation: Generation) -> Tensor:
    hidden = last_hidden(plain(model), [*prompt, *generation.tokens])[len(prompt) - 1 : -1]
    logits = hidden @ model.get_output_embeddings().weight.T  # pyright: ignore
    return logits.log_softmax(-1).gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0].detach()


def plain_scalars(model: PreTrainedModel, prompt: list[int], generation: Generation) -> Tensor:
    hidden = last_hidden(plain(model), [*prompt, *generation.tokens])
    return (hidden @ scalar_head(model).weight[0]).detach()


@pytest.mark.parametrize("tokens", [1, 16_384])
def test_an_episodes_numbers_are_those_of_plain_transformers(tokens: int) -> None:
    """Known traps: the critic's mask off by one (values are of the states before each token); the score at a wrong token."""
    policy, reference, value = policy_model(1), policy_model(2), reward_model(6)
    rollouts = judged(policy, reference, settings(tokens_per_microbatch=tokens), value=value)
    for i, (prompt, generation) in enumerate(zip(rollouts.prompts, rollouts.generations, strict=True)):
        length = len(generation.tokens)
        assert rollouts.mask[i].tolist() == [True] * length + [False] * (6 - length)

        def close(got: Tensor, want: Tensor) -> None:
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)

        close(rollouts.logprobs[i, :length], plain_logprobs(policy, prompt, generation))
        close(rollouts.logprobs[i, :length], torch.tensor(generation.logprobs))  # what the engine said when it sampled
        close(rollouts.reference_logprobs[i, :length], plain_logprobs(reference, prompt, generation))
        close(rollouts.values[i, :length], plain_scalars(value, prompt, generation)[len(prompt) - 1 : -1])
        close(rollouts.score[i], plain_scalars(reward_model(), prompt, generation)[-1])


def test_the_score_is_put_on_the_last_token_and_the_kl_penalty_on_every_token() -> None:
    """Known trap: reward after end-of-text. With discount 0 a token's return is its own reward, to be read off one by one."""
    rollouts = judged(policy_model(1), policy_model(2), settings(discount=0.0, kl_coefficient=0.3))
    for i, generation in enumerate(rollouts.generations):
        length = len(generation.tokens)
        assert (generation.tokens[-1] == END) == generation.finished
        expected = -0.3 * (rollouts.logprobs[i, :length] - rollouts.reference_logprobs[i, :length])
        expected[-1] += rollouts.score[i]
        torch.testing.assert_close(rollouts.returns[i, :length], expected, rtol=0, atol=1e-5)
        assert rollouts.returns[i, length:].eq(0).all()


def test_the_return_is_the_score_less_beta_times_the_kl() -> None:
    """Moving away from the reference costs: with no discount and lambda 1, returns from the first token by hand."""
    for beta in (0.0, 0.7):
        rollouts = judged(policy_model(1), policy_model(2), settings(gae_lambda=1.0, kl_coefficient=beta), count=200)
        kl = torch.where(rollouts.mask, rollouts.logprobs - rollouts.reference_logprobs, 0.0).sum(1)
        assert float(kl.mean()) > 0.05  # a divergence is positive: the sign is right
        torch.testing.assert_close(rollouts.returns[:, 0], rollouts.score - beta * kl, rtol=0, atol=1e-4)


def test_a_policy_equal_to_the_reference_has_no_kl() -> None:
    rollouts = judged(policy_model(), policy_model(), settings(gae_lambda=1.0, kl_coefficient=5.0))
    torch.testing.assert_close(rollouts.logprobs, rollouts.reference_logprobs, rtol=0, atol=0)
    torch.testing.assert_close(rollouts.returns[:, 0], rollouts.score, rtol=0, atol=1e-5)


def test_advantages_are_whitened_over_the_response_tokens() -> None:
    rollouts = judged(policy_model(1), policy_model(2), settings())
    inside = rollouts.advantages[rollouts.mask]
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(inside.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert rollouts.advantages[~rollouts.mask].eq(0).all()


def test_advantages_can_be_whitened_over_each_minibatch() -> None:
    """As lm-human-preferences: the minibatch's tokens get mean 0 and variance 1, and other episodes have no part in it."""
    by_batch = judged(policy_model(1), policy_model(2), settings(whiten_over="batch"))
    config = settings(whiten_over="minibatch")
    rollouts = judged(policy_model(1), policy_model(2), config)
    assert not torch.allclose(rollouts.advantages, by_batch.advantages)  # not whitened yet
    assert torch.equal(rollouts.returns, by_batch.returns)
    members = [0, 2, 5]
    advantages = ppo_gradients.minibatch_advantages(rollouts, members, config)
    inside = advantages[members][rollouts.mask[members]]
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(inside.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    # By hand, from the raw advantages.
    raw = rollouts.advantages[members][rollouts.mask[members]]
    torch.testing.assert_close(inside, (raw - raw.mean()) / raw.std(correction=0), rtol=0, atol=1e-4)
    # Whitened over the batch, they are taken as they are.
    assert ppo_gradients.minibatch_advantages(by_batch, members, settings()) is by_batch.advantages


def test_a_minibatch_of_whitened_advantages_trains(tmp_path: Path) -> None:
    ends = []
    for over in ("batch", "minibatch"):
        policy = policy_model()
        train(settings(whiten_over=over), tmp_path / over, policy)
        ends.append(snapshot(policy))
    assert largest_difference(*ends) > 1e-6


def test_rewards_can_be_scaled_to_variance_one() -> None:
    """By hand: with lambda 1 an episode's return is the sum of its rewards, all divided by their deviation over the batch."""
    config = settings(gae_lambda=1.0, kl_coefficient=0.3)
    plainly = judged(policy_model(1), policy_model(2), config)
    scaled = judged(policy_model(1), policy_model(2), replace(config, whiten_rewards=True))
    penalties = -0.3 * (plainly.logprobs - plainly.reference_logprobs)
    rewards: list[list[float]] = []
    for i, row in enumerate(penalties):
        own = row[plainly.mask[i]].tolist()
        own[-1] += float(plainly.score[i])
        rewards.append(own)
    every = torch.tensor([reward for own in rewards for reward in own])
    factor, mean = 1 / float(every.std(correction=0)), float(every.mean())
    for i, own in enumerate(rewards):
        expected = sum((reward - mean) * factor + mean for reward in own)
        assert float(scaled.returns[i, 0]) == pytest.approx(expected, abs=1e-3)
    assert not torch.allclose(scaled.returns, plainly.returns, atol=1e-2)


def test_a_response_without_end_of_text_gets_the_reward_for_it() -> None:
    asked = judged(policy_model(1), policy_model(2), settings(missing_end_reward=-4.5))
    plainly = judged(policy_model(1), policy_model(2), settings())
    for i, generation in enumerate(asked.generations):
        assert float(asked.score[i]) == (float(plainly.score[i]) if generation.finished else -4.5)
    assert -4.5 not in plainly.score.tolist()


def test_temperature_holds_for_sampling_training_and_reference_alike() -> None:
    policy = policy_model(1)
    rollouts = judged(policy, policy_model(1), settings(temperature=0.7))
    for i, (prompt, generation) in enumerate(zip(rollouts.prompts, rollouts.generations, strict=True)):
        length = len(generation.tokens)
        hidden = last_hidden(plain(policy), [*prompt, *generation.tokens])[len(prompt) - 1 : -1]
        logits = (hidden @ policy.get_output_embeddings().weight.T).detach() / 0.7  # pyright: ignore
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0]
        torch.testing.assert_close(rollouts.logprobs[i, :length], expected, rtol=0, atol=1e-5)
        # The engine's own are the model's at temperature 1.
        torch.testing.assert_close(
            torch.tensor(generation.logprobs), plain_logprobs(policy, prompt, generation), rtol=0, atol=1e-5
        )
    torch.testing.assert_close(rollouts.logprobs, rollouts.reference_logprobs, rtol=0, atol=0)


def test_the_logged_kl_reward_and_length_match_a_recomputation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[PreTrainedModel, Rollouts]] = []
    policies: list[PreTrainedModel] = []
    spy(monkeypatch, "judge", before=lambda models, *_: policies.append(copy.deepcopy(models.policy.compute)))
    spy(monkeypatch, "with_advantages", after=lambda rollouts: seen.append((policies[-1], rollouts)))
    train(settings(learning_rate=1e-2), tmp_path)
    rows = metrics(tmp_path)
    assert rows[0]["kl"] == 0.0
    assert len(rows) == len(seen) == 3
    for row, (policy, rollouts) in zip(rows, seen, strict=True):
        divergences = [
            float((plain_logprobs(policy, p, g) - plain_logprobs(policy_model(), p, g)).sum())
            for p, g in zip(rollouts.prompts, rollouts.generations, strict=True)
        ]
        assert row["kl"] == pytest.approx(np.mean(divergences), abs=1e-4)
        tokens = sum(len(g.tokens) for g in rollouts.generations)
        assert row["kl_per_token"] == pytest.approx(sum(divergences) / tokens, abs=1e-5)
        assert row["length"] == pytest.approx(tokens / 16)
        assert row["finished_share"] == pytest.approx(np.mean([g.finished for g in rollouts.generations]))
        scores = [
            float(plain_scalars(reward_model(), p, g)[-1]) for p, g in zip(rollouts.prompts, rollouts.generations, strict=True)
        ]
        assert row["reward"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert rows[2]["kl"] != 0.0
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert rows[1]["learning_rate"] == pytest.approx(5.5e-3)
    assert rows[2]["learning_rate"] == pytest.approx(1e-2)


# ---------------------------------------------------------------- optimiser steps


@pytest.mark.parametrize("coefficient", [0.0, 3.0])
def test_each_minibatch_is_one_optimiser_step_whatever_the_accumulation(
    coefficient: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known trap: TRL #5645, where minibatches under gradient accumulation do not split the optimiser's steps."""
    steps: list[torch.optim.Optimizer] = []
    step = torch.optim.SGD.step

    def counting(self: torch.optim.SGD, *args: Any) -> Any:
        steps.append(self)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", counting)
    gradient_descent(monkeypatch)
    ends, counts = [], []
    for tokens in (1, 25, 10_000):
        policy = policy_model()
        steps.clear()
        config = settings(
            learning_rate=0.02, value_learning_rate=0.02, tokens_per_microbatch=tokens, ptx_coefficient=coefficient
        )
        train(config, tmp_path / str(tokens), policy, pretraining=text())
        counts.append([sum(s is optimizer for s in steps) for optimizer in dict.fromkeys(steps)])
        ends.append(snapshot(policy))
    assert counts == [[12, 12]] * 3  # 3 iterations of 4 minibatches: policy and value
    assert largest_difference(ends[2], snapshot(policy_model())) > 1e-3
    assert largest_difference(ends[0], ends[2]) < 1e-6
    assert largest_difference(ends[1], ends[2]) < 1e-6


def test_inner_epochs_repeat_the_minibatches_in_another_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: list[list[int]] = []
    spy(monkeypatch, "policy_gradient", before=lambda weights, rollouts, part, config: members.append(part))
    train(settings(inner_epochs=2, episodes=16), tmp_path)
    assert [len(part) for part in members] == [4] * 8
    assert sorted(chain(*members[:4])) == sorted(chain(*members[4:])) == list(range(16))
    assert members[:4] != members[4:]


def stop_at_the_policy(see: Callable[[dict[str, Tensor]], None]) -> Callable[..., float]:
    """In place of an optimiser step: the value function's is left out, the policy's gradients are seen and all stops."""

    def stop(optimizer: Any, model: PreTrainedModel, norm: float) -> float:
        if model.get_output_embeddings() is None:
            return 0.0
        see(parameter_gradients(model))
        raise Stop

    return stop


def test_the_first_gradient_is_that_of_the_plain_policy_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the policy has moved the ratio is 1 and nothing is clipped: the gradient of -mean(advantage * log-prob)."""
    seen: dict[str, Any] = {}
    spy(monkeypatch, "with_advantages", after=lambda rollouts: seen.update(rollouts=rollouts))
    spy(monkeypatch, "policy_gradient", before=lambda weights, rollouts, part, config: seen.setdefault("members", part))

    monkeypatch.setattr(ppo, "apply_gradients", stop_at_the_policy(lambda gradients: seen.update(gradients=gradients)))
    with pytest.raises(Stop):
        train(settings(tokens_per_microbatch=10), tmp_path)
    rollouts, twin = seen["rollouts"], plain(policy_model())
    total, count = torch.zeros(()), 0
    for i in seen["members"]:
        prompt, tokens = rollouts.prompts[i], rollouts.generations[i].tokens
        logits = twin(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        total = total - (rollouts.advantages[i, : len(tokens)] * logprobs).sum()
        count += len(tokens)
    (total / count).backward()
    assert largest_difference(seen["gradients"], parameter_gradients(twin)) < 1e-5


# ---------------------------------------------------------------- PPO-ptx


def test_with_coefficient_zero_it_is_plain_ppo_with_or_without_text(tmp_path: Path) -> None:
    ends = []
    for number, pretraining in enumerate((None, text())):
        policy = policy_model()
        average = train(settings(ptx_coefficient=0.0), tmp_path / str(number), policy, pretraining=pretraining)
        ends.append({**snapshot(policy), **{f"average {n}": p for n, p in snapshot(average).items()}})
        assert "ptx_loss" not in metrics(tmp_path / str(number))[0]
    assert largest_difference(*ends) == 0.0


def gradients_at_first_step(folder: Path, **changed: Any) -> dict[str, Tensor]:
    caught: dict[str, Tensor] = {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ppo, "apply_gradients", stop_at_the_policy(caught.update))
        with pytest.raises(Stop):
            train(settings(**changed), folder, pretraining=text())
    return caught


@pytest.mark.parametrize("tokens", [1, 16_384])
def test_the_pretraining_gradient_is_added_into_the_same_buffer(tokens: int, tmp_path: Path) -> None:
    """Gradient of PPO-ptx = PPO's + gamma times that of the mean loss per token of the minibatch's share of the sequences."""
    changed: dict[str, Any] = {"ptx_examples_per_episode": 2, "tokens_per_microbatch": tokens}
    without = gradients_at_first_step(tmp_path / "0", ptx_coefficient=0.0, **changed)
    combined = gradients_at_first_step(tmp_path / "1", ptx_coefficient=27.8, **changed)

    sequences = next(ppo.pretraining_batches(text(), settings(**changed), skip=0))
    assert len(sequences) == 2 * 16
    share = sequences[0::4]
    twin, total = plain(policy_model()), torch.zeros(())
    for sequence in share:
        ids = torch.tensor(sequence.astype(np.int64))[None]
        total = total + twin(input_ids=ids, labels=ids).loss * (len(sequence) - 1)
    (27.8 * total / sum(len(s) - 1 for s in share)).backward()
    expected = parameter_gradients(twin)
    assert largest_difference(combined, {n: without[n] + expected[n] for n in expected}) < 5e-5  # 27.8 times a gradient of 1e-6
    assert max(float(g.abs().max()) for g in expected.values()) > 0.1


@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_every_minibatch_has_its_share_of_the_text_and_none_is_used_twice(
    inner_epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[list[Any]] = []
    spy(monkeypatch, "pretraining_gradient", before=lambda weights, sequences, config: used.append(list(sequences)))
    config = settings(ptx_coefficient=1.0, ptx_examples_per_episode=2, ptx_context_length=4, inner_epochs=inner_epochs)
    train(config, tmp_path, pretraining=text(96))
    assert [len(sequences) for sequences in used] == [8 // inner_epochs] * (12 * inner_epochs)
    first_words = [tuple(s.tolist()) for sequences in used for s in sequences]
    everything = [tuple(text(96).tokens[4 * i : 4 * i + 4].tolist()) for i in range(96)]
    assert sorted(first_words) == sorted(everything)  # 96 documents, 96 places: one epoch
    assert all("ptx_loss" in row for row in metrics(tmp_path))


def test_pretraining_text_is_learned_along(tmp_path: Path) -> None:
    for coefficient in (0.0, 27.8):
        train(
            settings(ptx_coefficient=coefficient or 1e-9, episodes=16 * 12, learning_rate=3e-3),
            tmp_path / str(coefficient),
            pretraining=text(),
        )
    plain_ppo, mixed = (metrics(tmp_path / str(c))[-1]["ptx_loss"] for c in (0.0, 27.8))
    assert mixed < plain_ppo - 0.5


# ---------------------------------------------------------------- the models


def test_the_value_function_starts_from_the_reward_model_and_the_judges_never_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, dict[str, Tensor]]] = []

    def watch(models: Models, *_: Any) -> None:
        seen.append(
            {
                "policy": snapshot(models.policy.master),
                "value": snapshot(models.value.master),
                "reference": snapshot(models.reference),
                "judge": snapshot(models.reward_model),
            }
        )

    spy(monkeypatch, "judge", before=watch)
    given_reward = reward_model()
    train(settings(), tmp_path, reward=given_reward)
    assert len(seen) == 3
    assert largest_difference(seen[0]["value"], snapshot(reward_model())) == 0.0
    for moment in seen:
        assert largest_difference(moment["reference"], snapshot(policy_model())) == 0.0
        assert largest_difference(moment["judge"], snapshot(reward_model())) == 0.0
    # The value function is the model as given: a copy beside it would be one fp32 model too many.
    assert largest_difference(snapshot(given_reward), seen[-1]["value"]) > 1e-4
    assert largest_difference(snapshot(given_reward), snapshot(reward_model())) > 1e-4
    for name in ("policy", "value"):
        assert largest_difference(seen[1][name], seen[0][name]) > 1e-4


def test_the_result_is_the_moving_average_of_the_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[dict[str, Tensor]] = []
    spy(monkeypatch, "update_average", before=lambda average, policy, decay: policies.append(snapshot(policy)))
    result = train(settings(average_decay=0.75), tmp_path)
    expected = snapshot(policy_model())
    for policy in policies:
        expected = {name: 0.75 * weight + 0.25 * policy[name] for name, weight in expected.items()}
    assert len(policies) == 3
    assert largest_difference(snapshot(result), expected) < 1e-6
    assert largest_difference(snapshot(result), policies[-1]) > 1e-4
    assert largest_difference(snapshot(load_causal_model(tmp_path / "model")), snapshot(result)) == 0.0
    assert not result.training


def test_without_an_average_the_result_is_the_policy(tmp_path: Path) -> None:
    policy = policy_model()
    assert train(settings(average_decay=0.0), tmp_path, policy) is policy


# ---------------------------------------------------------------- interruption and trouble


@pytest.mark.parametrize("at", [2, 6, 13, 20])
def test_an_interrupted_run_goes_on_to_the_same_weights(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, text mixed in; 8 optimiser steps an iteration; a checkpoint after every second minibatch, also inside."""
    monkeypatch.setattr(ppo, "CheckpointTimer", every(2))
    drawn: list[int] = []
    spy(monkeypatch, "respond", before=lambda policy, tokenizer, prompts, config, iteration: drawn.append(iteration))
    config = settings(episodes=64, ptx_coefficient=2.0)
    whole_policy, resumed_policy = policy_model(), policy_model()
    whole = train(config, tmp_path / "whole", whole_policy, pretraining=text())
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "apply_gradients", interrupted_at(at, ppo.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", pretraining=text())
    assert (tmp_path / "run" / "checkpoints").exists() == (at > 2)
    torch.manual_seed(999)
    drawn.clear()
    resumed = train(config, tmp_path / "run", resumed_policy, pretraining=text())
    # An iteration that had begun goes on with its rollouts: they are not drawn again.
    assert drawn == {2: [0, 1, 2, 3], 6: [1, 2, 3], 13: [2, 3], 20: [3]}[at]
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert largest_difference(snapshot(resumed_policy), snapshot(whole_policy)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("run", "whole")]
    assert samples[0] == samples[1]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo, "CheckpointTimer", every(1))
    calls = 0
    rewards = functional.rewards_with_kl

    def breaking(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return rewards(*args, **kwargs) * (math.nan if calls == 3 else 1.0)

    monkeypatch.setattr("heedful.training.rollouts.rewards_with_kl", breaking)
    policy = policy_model()
    with pytest.raises(NumericalError, match="policy_loss") as caught:
        train(settings(), tmp_path, policy)
    assert "at step 2" in str(caught.value)
    state = torch.load(tmp_path / "checkpoints" / "step-2" / "state.pt", weights_only=True)
    assert (state["step"], state["in_flight"]["rollouts"]) == (2, None)  # the rollouts with a NaN are not kept
    assert not (tmp_path / "checkpoints" / "step-3").exists()
    for name in ("policy", "value", "average"):
        assert all(torch.isfinite(weight).all() for weight in state[name].values())
    assert all(torch.isfinite(p).all() for p in policy.parameters())  # a step with such a gradient is not taken
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr("heedful.training.rollouts.rewards_with_kl", rewards)
    train(settings(), tmp_path)  # and it goes on from there
    assert [row["step"] for row in metrics(tmp_path)] == [0, 1, 2]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs pretraining text"):
        train(settings(ptx_coefficient=27.8), tmp_path)
    with pytest.raises(DataError, match="no prompts"):
        train_ppo(policy_model(), reward_model(), TOKENIZER, PPOData([]), settings(), tmp_path)
    with pytest.raises(ConfigError, match="not a multiple of minibatches"):
        settings(batch_size=10, minibatches=4)
    with pytest.raises(ConfigError, match="ptx_examples_per_episode"):
        settings(ptx_examples_per_episode=0)
    with pytest.raises(ConfigError, match="too little pretraining text"):
        settings(ptx_coefficient=1.0, ptx_examples_per_episode=1, batch_size=16, minibatches=16, inner_epochs=2)


# ---------------------------------------------------------------- the order of things


def test_prompts_come_in_epochs_of_random_order() -> None:
    indices = [i for iteration in range(6) for i in prompt_order(3, iteration, 5, 10)]
    epochs = [indices[:10], indices[10:20], indices[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert prompt_order(3, 2, 5, 10) == indices[10:15]
    across = [i for iteration in range(3) for i in prompt_order(3, iteration, 8, 10)]  # batches that straddle epochs
    assert across == indices[:24]
    assert sorted(prompt_order(3, 0, 20, 10)) == sorted(list(range(10)) * 2)  # a batch larger than the prompts


def test_a_batch_is_split_at_random_into_equal_minibatches() -> None:
    parts = [ppo.split_batch(settings(), iteration, 0) for iteration in range(3)]
    for split in parts:
        assert [len(part) for part in split] == [4] * 4
        assert sorted(chain(*split)) == list(range(16))
    assert parts[0] != parts[1] != parts[2]


def test_skipping_text_gives_the_later_batches() -> None:
    config = settings(ptx_examples_per_episode=1, ptx_context_length=8)
    batches = ppo.pretraining_batches(text(), config, skip=0)
    first = [[s.tolist() for s in next(batches)] for _ in range(5)]
    later = ppo.pretraining_batches(text(), config, skip=3)
    assert [[s.tolist() for s in next(later)] for _ in range(2)] == first[3:]
    assert all(len(batch) == 16 and all(2 <= len(s) <= 8 for s in batch) for batch in first)


def test_rollouts_of_an_iteration_have_seeds_of_their_own() -> None:
    config = settings(batch_size=20, minibatches=4)
    policy = policy_model()
    first, again, second = (respond(policy, TOKENIZER, PROMPTS, config, i) for i in (0, 0, 1))
    assert [g.tokens for g in first] == [g.tokens for g in again]
    assert [g.tokens for g in first] != [g.tokens for g in second]
    assert all(0 <= t < VOCABULARY for g in first for t in g.tokens)


# ---------------------------------------------------------------- validation, the best model, early stop


HELD_OUT = [[int(t) for t in np.random.default_rng(100 + i).integers(8, 60, 3)] for i in range(12)]


def validated(**changed: Any) -> PPOConfig:
    return settings(**{"episodes": 64, "validate_every": 1, **changed})


def mean_score(model: PreTrainedModel, prompts: list[list[int]], config: PPOConfig) -> float:
    """The reward model's mean score of the model's own responses, one at a time in plain transformers."""
    seeds = request_seeds(config.seed, stream="validation", count=len(prompts))
    generations = generator("heedful")(model, prompts, sampling(model, TOKENIZER, config), seeds)
    return float(np.mean([plain_scalars(reward_model(), p, g)[-1] for p, g in zip(prompts, generations, strict=True)]))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_validation_reward_is_that_of_the_model_that_would_be_the_result(
    decay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[PreTrainedModel] = []
    spy(monkeypatch, "validation_reward", before=lambda model, *_: models.append(copy.deepcopy(model)))
    config = validated(validate_every=2, average_decay=decay, num_validation_prompts=10, learning_rate=1e-2)
    result = train(config, tmp_path, validation=HELD_OUT)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows if "validation_reward" in row] == [1, 3]
    for row, model in zip(rows[1::2], models, strict=True):
        assert row["validation_reward"] == pytest.approx(mean_score(model, HELD_OUT[:10], config), abs=1e-5)
    assert largest_difference(snapshot(models[-1]), snapshot(result)) == 0.0
    assert rows[1]["validation_reward"] != rows[3]["validation_reward"]


def test_validation_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    ends = [
        train(settings(episodes=64), tmp_path / "without"),
        train(validated(), tmp_path / "with", validation=HELD_OUT),
    ]
    assert largest_difference(snapshot(ends[0]), snapshot(ends[1])) == 0.0


def rewards_in_turn(monkeypatch: pytest.MonkeyPatch, *rewards: float) -> None:
    given = iter(rewards)
    monkeypatch.setattr(ppo, "validation_reward", lambda *_: next(given))


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_model_is_the_result_where_that_is_asked_for(
    keep_best: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[dict[str, Tensor]] = []
    update = ppo.update_average

    def watching(average: PreTrainedModel, policy: PreTrainedModel, decay: float) -> None:
        update(average, policy, decay)
        averages.append(snapshot(average))

    monkeypatch.setattr(ppo, "update_average", watching)
    rewards_in_turn(monkeypatch, 0.1, 0.7, 0.7, 0.2)
    result = train(validated(keep_best=keep_best), tmp_path, validation=HELD_OUT)
    expected = averages[1 if keep_best else 3]  # the first of equals
    assert largest_difference(snapshot(result), expected) == 0.0
    assert largest_difference(snapshot(load_causal_model(tmp_path / "model")), expected) == 0.0


def test_the_best_model_is_known_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo, "CheckpointTimer", every(1))
    rewards_in_turn(monkeypatch, 0.1, 0.7, 0.3, 0.2)
    whole = train(validated(keep_best=True), tmp_path / "whole", validation=HELD_OUT)
    with monkeypatch.context() as patched:
        rewards_in_turn(patched, 0.1, 0.7, 0.3)
        patched.setattr(ppo, "apply_gradients", interrupted_at(26, ppo.apply_gradients))  # in iteration 3
        with pytest.raises(KeyboardInterrupt):
            train(validated(keep_best=True), tmp_path / "run", validation=HELD_OUT)
    rewards_in_turn(monkeypatch, 0.2)
    resumed = train(validated(keep_best=True), tmp_path / "run", validation=HELD_OUT)
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0


def test_it_stops_where_the_kl_is_above_its_limit_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averages: list[dict[str, Tensor]] = []
    spy(monkeypatch, "update_average", before=lambda average, policy, decay: averages.append(snapshot(average)))
    train(settings(episodes=64, learning_rate=1e-2), tmp_path / "free")
    free = [row["kl"] for row in metrics(tmp_path / "free")]
    assert free[0] == 0.0 < free[1] < free[2]
    result = train(settings(episodes=64, learning_rate=1e-2, kl_limit=(free[1] + free[2]) / 2), tmp_path / "limited")
    rows = metrics(tmp_path / "limited")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[2] == {"step": 2, "kl": free[2]}  # nothing was learned from it
    assert largest_difference(snapshot(result), averages[2]) == 0.0  # as it was before that iteration
    stopped = json.loads((tmp_path / "limited" / "stopped.json").read_text())
    assert stopped["step"] == 2
    assert "above kl_limit" in stopped["reason"]
    assert (tmp_path / "limited" / "model" / "config.json").is_file()


def test_what_validation_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt to validate on"):
        train(validated(), tmp_path)
    with pytest.raises(ConfigError, match="keep_best needs validations"):
        settings(keep_best=True)
    with pytest.raises(ConfigError, match="kl_limit"):
        settings(kl_limit=-1.0)
    with pytest.raises(ConfigError, match="validate_every"):
        settings(validate_every=-1)
