"""The fitted head: as an independent solver finds it, with a penalty chosen on whole prompts, and training that follows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.tiny import END, largest_difference, snapshot, tiny_gpt2, tiny_llama
from tests.training.interrupting import every, interrupted_at
from tests.training.test_reward import (
    DEMONSTRATIONS,
    likes_sevens,
    metrics,
    ranked,
    ranked_by_several,
    scalar_model,
    settings,
    train,
)
from torch import Tensor

from heedful.errors import ConfigError
from heedful.model import load_scalar_model, scalar_model_from_causal
from heedful.model.encoding import RankedPrompt
from heedful.model.layouts import packed_hidden
from heedful.model.precision import MasterWeights
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_head, train_last_layers
from heedful.presets import preset
from heedful.training import fitted_head as module
from heedful.training import reward
from heedful.training.config import RewardConfig
from heedful.training.fitted_head import PENALTIES, fitted_head, response_features
from heedful.training.ranked_batches import pack_ranked
from heedful.training.reward import ranking_quality

WIDTH = 6
FITTED: dict[str, Any] = {"fit_head": True, "trained_layers": 1}


def noisy(count: int, seed: int = 0) -> tuple[list[RankedPrompt], list[Tensor]]:
    """Random features of different scales, and rankings by a hidden head with noise: K from 2 to 5, one or two labelers."""
    rng = np.random.default_rng(seed)
    truth, scales = rng.normal(size=WIDTH), 10.0 ** rng.integers(-2, 3, WIDTH)
    rankings, features = [], []
    for i in range(count):
        k = int(rng.integers(2, 6))
        rows = rng.normal(size=(k, WIDTH))
        orders = []
        for _ in range(1 + i % 2):
            judged = rows @ truth + rng.normal(size=k)
            order = (np.argsort(np.argsort(-judged)) + 1).tolist()
            orders.append(tuple([max(1, rank - 1) for rank in order]) if k > 2 else tuple(order))  # ties for the best
        rankings.append(ranked_by_several([i + 1], [[1]] * k, *orders))
        features.append(torch.tensor(rows * scales, dtype=torch.float32))
    return rankings, features


def loss_pair_by_pair(head: Any, rankings: list[RankedPrompt], rows: list[Any]) -> float:
    """SPEC 3.3 in plain Python: each pair, divided by the labeler's pairs, by the prompt's labelers, weighted by prompt."""
    total = 0.0
    for prompt, own in zip(rankings, rows, strict=True):
        rewards = own @ head
        for ranks in prompt.ranks:
            pairs = [(i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] and ranks[j] and ranks[i] != ranks[j]]
            differences = [rewards[i] - rewards[j] if ranks[i] < ranks[j] else rewards[j] - rewards[i] for i, j in pairs]
            lost = sum(float(np.logaddexp(0, -difference)) for difference in differences) / len(pairs)
            total += prompt.weight * lost / len(prompt.ranks)
    return total / sum(prompt.weight for prompt in rankings)


def standardised(features: list[Tensor]) -> tuple[list[Any], Any]:
    rows = [one.double().numpy() for one in features]
    scale = np.concatenate(rows).std(axis=0)
    return [one / scale for one in rows], scale


# ---------------------------------------------------------------- the problem and its solution


def test_it_is_what_another_solver_finds_for_the_loss_written_out() -> None:
    """Weights of prompts, several labelers, ties and any K."""
    rankings, features = noisy(40)
    rankings = [replace(one, weight=0.5 + i % 3) for i, one in enumerate(rankings)]
    rows, scale = standardised(features)
    found = fitted_head(rankings, features)
    other = minimize(
        lambda head: loss_pair_by_pair(head, rankings, rows) + found.penalty / 2 * float(head @ head),
        np.zeros(WIDTH),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    ours = found.head.double().numpy() * scale
    assert np.abs(ours - other.x).max() < 1e-5
    assert np.abs(ours).max() > 0.1
    assert found.loss == pytest.approx(loss_pair_by_pair(other.x, rankings, rows), abs=1e-6)


def test_at_the_optimum_the_penalty_balances_the_gradient() -> None:
    rankings, features = noisy(60, seed=1)
    found = fitted_head(rankings, features)
    rows, scale = standardised(features)
    head = found.head.double().numpy() * scale
    slopes = [
        (loss_pair_by_pair(head + step, rankings, rows) - loss_pair_by_pair(head - step, rankings, rows)) / 2e-5
        for step in 1e-5 * np.eye(WIDTH)
    ]
    assert np.abs(np.array(slopes) + found.penalty * head).max() < 1e-6
    assert found.loss < math.log(2)


def test_the_penalty_is_the_best_on_prompts_that_were_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cross-validation again, by the other solver."""
    penalties = (30.0, 1.0, 0.1, 0.01)
    rankings, features = noisy(20, seed=1)
    rows, _ = standardised(features)
    parts = [[i for i in range(20) if i % 5 == k] for k in range(5)]
    of_rankings = [torch.tensor([i % 5 == k for i, one in enumerate(rankings) for _ in one.ranks]) for k in range(5)]
    monkeypatch.setattr(module, "_parts", lambda rankings, seed: of_rankings)
    monkeypatch.setattr(module, "PENALTIES", penalties)

    def unseen(penalty: float) -> float:
        total = 0.0
        for part in parts:
            seen = [i for i in range(20) if i not in part]
            some, own = [rankings[i] for i in seen], [rows[i] for i in seen]
            head = minimize(
                lambda head, some=some, own=own: loss_pair_by_pair(head, some, own) + penalty / 2 * float(head @ head),
                np.zeros(WIDTH),
                options={"gtol": 1e-8},
            ).x
            total += len(part) * loss_pair_by_pair(head, [rankings[i] for i in part], [rows[i] for i in part])
        return total / 20

    losses = {penalty: unseen(penalty) for penalty in penalties}
    best = min(losses, key=lambda penalty: losses[penalty])
    assert penalties[0] > best > penalties[-1]
    found = fitted_head(rankings, features)
    assert found.penalty == best
    assert found.unseen_loss == pytest.approx(losses[best], abs=1e-6)


def test_labels_without_any_pattern_get_the_strongest_penalty() -> None:
    rng = np.random.default_rng(3)
    rankings = [ranked([i + 1], [[1], [1]], *(rng.permutation(2) + 1).tolist()) for i in range(60)]
    features = [torch.tensor(rng.normal(size=(2, 40)), dtype=torch.float32) for _ in rankings]
    assert fitted_head(rankings, features).penalty == PENALTIES[0]


def test_a_prompt_is_never_divided_between_two_parts() -> None:
    """The same prompt may be there twice (comparisons of refusals are encoded by themselves)."""
    one = [ranked_by_several([i], [[1], [2]], (1, 2), (2, 1), (1, 2)) for i in range(1, 13)]
    parts = module._parts([*one, *one[:5]], seed=0)
    assert len(parts) == 5
    numbers = torch.stack(parts).int().argmax(0)
    assert (torch.stack(parts).sum(0) == 1).all()
    whole = numbers[:36].view(12, 3)
    assert (whole == whole[:, :1]).all()
    assert (numbers[36:].view(5, 3) == whole[:5]).all()
    assert len(whole[:, 0].unique()) == 5


def test_one_prompt_alone_and_a_feature_that_never_changes() -> None:
    features = [torch.tensor([[1.0, 7.0], [0.0, 7.0]])]
    found = fitted_head([ranked([1], [[1], [2]], 1, 2)], features)
    assert found.penalty == PENALTIES[0]
    assert found.unseen_loss is None
    assert float(found.head[0]) > 0
    assert abs(float(found.head[1])) < 1e-12


# ---------------------------------------------------------------- in training


def test_the_fitted_head_alone_is_the_models_and_the_body_stays_as_it_is(tmp_path: Path) -> None:
    rankings = likes_sevens(60)
    start = scalar_model(scale=0.3)
    before = snapshot(start)
    expected = fitted_head(rankings, response_features(start, rankings))
    model = train(start, rankings, settings(fit_head=True, trained_layers=0, epochs=3), tmp_path)
    saved = snapshot(load_scalar_model(tmp_path / "model"))
    assert torch.equal(saved["score.weight"][0], expected.head)
    assert {name for name in before if not torch.equal(saved[name], before[name])} == {"score.weight"}
    assert ranking_quality(model, rankings, 16_384)[0] == pytest.approx(expected.loss, abs=1e-4)
    assert expected.loss < math.log(2) - 0.05
    (row,) = metrics(tmp_path)
    assert row["head_loss"] == pytest.approx(expected.loss, abs=1e-6)
    assert row["head_unseen_loss"] == pytest.approx(expected.unseen_loss, abs=1e-6)
    assert row["head_penalty"] == expected.penalty


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [tiny_gpt2, tiny_llama])
def test_only_the_last_layer_the_norm_after_it_and_the_head_learn(family: Any, precision: str, tmp_path: Path) -> None:
    start = scalar_model_from_causal(family(), pad_token_id=None, eos_token_id=END)
    before = snapshot(start)
    train(start, likes_sevens(40), settings(**FITTED, precision=precision), tmp_path)
    saved = snapshot(load_scalar_model(tmp_path / "model"))
    changed = {name for name in before if not torch.equal(saved[name], before[name])}
    frozen = before.keys() - changed
    assert {name for name in frozen if ".1." in name or "norm" in name.split(".")[1] or "ln_f" in name} == set()
    assert {name for name in changed if ".0." in name or "embed" in name or "wte" in name or "wpe" in name} == set()
    assert "score.weight" in changed
    rows = metrics(tmp_path)
    assert rows[1]["loss"] < math.log(2)  # the first step starts from the fitted head
    assert len([row for row in rows if "loss" in row]) == 5


def test_frozen_layers_keep_nothing_for_the_backward_pass() -> None:
    """The bytes that autograd keeps, with one layer of two trained, are those of the last layer."""
    kept: dict[int, int] = {}
    batch = pack_ranked(likes_sevens(8))
    for layers in (0, 1, 2):
        model = scalar_model(scale=0.3)
        model.train()
        train_last_layers(model, layers)
        sizes: list[int] = []
        weights = {p.data_ptr() for p in model.parameters()}

        def keep(tensor: Tensor, sizes: list[int] = sizes, weights: set[int] = weights) -> Tensor:
            if tensor.is_floating_point() and tensor.data_ptr() not in weights:
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = packed_hidden(model, batch, batch.last)
        kept[layers] = sum(sizes)
        assert hidden.requires_grad == (layers > 0)
    assert kept[0] == 0
    assert 0 < kept[1] < 0.6 * kept[2]


def test_frozen_weights_have_a_compute_copy_and_no_gradient() -> None:
    model = scalar_model(scale=0.3)
    train_last_layers(model, 1)
    weights = MasterWeights(model, "bfloat16")
    assert weights.compute is not model
    assert {p.dtype for p in weights.compute.parameters()} == {torch.bfloat16}
    reward.accumulate_gradients(weights, likes_sevens(4), settings(precision="bfloat16"))
    for (name, master), compute in zip(model.named_parameters(), weights.compute.parameters(), strict=True):
        assert (master.grad is not None) == master.requires_grad == compute.requires_grad, name
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    weights.refresh()
    for master, compute in zip(model.parameters(), weights.compute.parameters(), strict=True):
        assert torch.equal(compute, master.bfloat16())


@pytest.mark.parametrize("at", [2, 6])
def test_an_interrupted_run_goes_on_to_the_same_weights(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first checkpoint the head is fitted again, after it never."""
    monkeypatch.setattr(reward, "CheckpointTimer", every(4))
    config, more = settings(epochs=2, **FITTED), {"demonstrations": DEMONSTRATIONS, "validation": likes_sevens(10, seed=1)}
    whole = train(scalar_model(), likes_sevens(30), config, tmp_path / "whole", **more)
    with monkeypatch.context() as patched:
        patched.setattr(reward, "apply_gradients", interrupted_at(at, reward.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(scalar_model(), likes_sevens(30), config, tmp_path / "run", **more)
    if at > 4:
        monkeypatch.setattr(reward, "fitted_head", None)
    resumed = train(scalar_model(), likes_sevens(30), config, tmp_path / "run", **more)
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert "head_loss" in metrics(tmp_path / "run")[0]


def test_demonstrations_score_zero_on_average_after_the_fit(tmp_path: Path) -> None:
    train(
        scalar_model(scale=0.3),
        likes_sevens(40),
        settings(fit_head=True, trained_layers=0),
        tmp_path,
        demonstrations=DEMONSTRATIONS,
    )
    saved = load_scalar_model(tmp_path / "model")
    ours = score(saved, [d.prompt for d in DEMONSTRATIONS], [d.response for d in DEMONSTRATIONS])
    assert float(ours.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(ours.std()) > 1e-3


def test_a_run_from_before_these_settings_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint counts as made without them, and another value is refused."""
    monkeypatch.setattr(reward, "CheckpointTimer", every(1))
    with monkeypatch.context() as patched:
        patched.setattr(reward, "apply_gradients", interrupted_at(3, reward.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(scalar_model(), likes_sevens(30), settings(), tmp_path)
    with pytest.raises(ConfigError, match="checkpoints of another run"):
        train(scalar_model(), likes_sevens(30), settings(fit_head=True), tmp_path)
    train(scalar_model(), likes_sevens(30), settings(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["fit_head"] is False


# ---------------------------------------------------------------- settings that make no sense


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would learn"):
        RewardConfig(trained_layers=0)
    with pytest.raises(ConfigError, match="trained_layers and lora_rank"):
        RewardConfig(trained_layers=2, lora_rank=4)
    with pytest.raises(ConfigError, match="trained_layers is out of range"):
        RewardConfig(trained_layers=-1)
    miniature = preset("miniature")
    alone = replace(miniature.reward, fit_head=True, trained_layers=0)
    assert replace(miniature, reward=alone).reward == alone
    with pytest.raises(ConfigError, match="reward models that differ"):
        replace(miniature, reward=alone, rounds=replace(miniature.rounds, choose="disagreement"))


def test_more_layers_than_the_model_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than the model has") as refused:
        train(scalar_model(), likes_sevens(8), settings(trained_layers=3), tmp_path)
    assert "at most 2" in str(refused.value)
    model = scalar_model()
    train_last_layers(model, 2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, _ in model.named_parameters()} - trained == {"transformer.wte.weight", "transformer.wpe.weight"}


def test_the_head_of_a_model_with_an_adapter_is_fitted_too(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    rankings = likes_sevens(40)
    model = train(scalar_model(scale=0.3), rankings, settings(fit_head=True, lora_rank=2), tmp_path)
    expected = fitted_head(rankings, response_features(scalar_model(scale=0.3), rankings))
    assert metrics(tmp_path)[0]["head_loss"] == pytest.approx(expected.loss, abs=1e-4)
    assert metrics(tmp_path)[1]["loss"] < math.log(2)
    assert scalar_head(model).weight.shape == (1, 32)
