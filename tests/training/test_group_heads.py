"""Heads for groups of labelers with opposite tastes, and what the user's weights make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny import END, tiny_gpt2
from tests.training.test_reward import likes_sevens

from heedful.errors import DataError
from heedful.functional import ranking_loss
from heedful.model import scalar_model_from_causal
from heedful.model.encoding import RankedPrompt
from heedful.model.scalar_models import scalar_head
from heedful.training.fitted_head import response_features, set_head
from heedful.training.group_heads import combined_head, fit_head, head_accuracy, of_group
from heedful.training.reward import score_rankings


def opposed(count: int, seed: int = 0) -> list[RankedPrompt]:
    """Ann likes sevens, Bob dislikes them; they rank the same responses."""
    return [
        replace(r, labelers=("ann", "bob"), ranks=(r.ranks[0], tuple([max(r.ranks[0]) + 1 - rank for rank in r.ranks[0]])))
        for r in likes_sevens(count, seed)
    ]


torch.manual_seed(0)
MODEL = scalar_model_from_causal(tiny_gpt2(scale=0.3), pad_token_id=None, eos_token_id=END)
START = scalar_head(MODEL).weight[0].detach().clone()


def test_features_times_head_are_the_models_scores() -> None:
    rankings = opposed(6)
    for tokens in (1, 16_384):
        features = response_features(MODEL, rankings, tokens_per_microbatch=tokens)
        for rows, scores in zip(features, score_rankings(MODEL, rankings), strict=True):
            assert (rows @ START).tolist() == pytest.approx(scores, abs=1e-4)


def test_each_group_gets_a_head_for_its_taste_and_weights_decide_between_them() -> None:
    rankings, unseen = opposed(200), opposed(80, seed=1)
    features, unseen_features = response_features(MODEL, rankings), response_features(MODEL, unseen)
    groups = {"a": ("ann",), "b": ("bob",)}
    heads = {name: fit_head(START, *of_group(rankings, features, members), pull=0.01) for name, members in groups.items()}

    def accuracy(head: torch.Tensor, group: str) -> float:
        return head_accuracy(head, *of_group(unseen, unseen_features, groups[group]))[0]

    assert accuracy(heads["a"], "a") > 0.75
    assert accuracy(heads["b"], "b") > 0.75
    assert accuracy(heads["a"], "b") < 0.25
    assert accuracy(combined_head(heads, {"a": 9.0, "b": 1.0}), "a") > 0.75
    assert accuracy(combined_head(heads, {"a": 1.0, "b": 9.0}), "b") > 0.75
    together = combined_head(heads, {"a": 3.0, "b": 1.0})
    assert torch.allclose(together, 0.75 * heads["a"] + 0.25 * heads["b"])


def test_a_strong_pull_keeps_the_rewards_as_they_are_and_a_weak_one_lowers_the_loss() -> None:
    rankings = opposed(60)
    own, rows = of_group(rankings, response_features(MODEL, rankings), ("ann",))
    flat = torch.cat(rows)

    def moved(pull: float) -> float:
        return float((flat @ (fit_head(START, own, rows, pull=pull) - START)).std())

    assert moved(1e6) < 1e-3
    assert moved(1.0) < moved(0.01)


def test_a_group_sees_only_its_own_rankings_and_an_empty_one_is_refused() -> None:
    rankings = opposed(5)
    features = response_features(MODEL, rankings)
    own, rows = of_group(rankings, features, ("bob",))
    assert [r.labelers for r in own] == [("bob",)] * 5
    assert [r.ranks for r in own] == [(r.ranks[1],) for r in rankings]
    assert len(rows) == 5
    with pytest.raises(DataError, match="has no ranking"):
        fit_head(START, *of_group(rankings, features, ("cem",)), pull=0.01)


def test_the_combined_model_scores_with_the_new_head() -> None:
    model = scalar_model_from_causal(tiny_gpt2(scale=0.3), pad_token_id=None, eos_token_id=END)
    rankings = opposed(3)
    features = response_features(model, rankings)
    head = torch.linspace(-1, 1, len(START))
    set_head(model, head)
    for rows, scores in zip(features, score_rankings(model, rankings), strict=True):
        assert (rows @ head).tolist() == pytest.approx(scores, abs=1e-4)
    ranks = torch.tensor(rankings[0].ranks)
    assert torch.isfinite(ranking_loss((features[0] @ head)[None].expand(2, -1), ranks, ranks > 0)[0])
