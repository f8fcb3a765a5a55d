"""Bradley-Terry: by hand, against evalica and statsmodels, coverage, and comparisons that give no scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from heedful.errors import DataError
from heedful.statistics import bradley_terry, relative_difference


def votes(num_models: int, count: int, seed: int) -> tuple[list[str], list[str], list[float], list[int], list[int]]:
    generator = np.random.default_rng(seed)
    strength = generator.normal(size=num_models)
    a = generator.integers(num_models, size=count)
    b = (a + generator.integers(1, num_models, size=count)) % num_models
    latent = strength[a] - strength[b] + generator.logistic(size=count)
    outcome = np.where(latent > 0.4, 1.0, np.where(latent < -0.4, 0.0, 0.5))
    names = [f"m{i:02d}" for i in range(num_models)]
    prompts, labelers = np.arange(count) // 3, generator.integers(15, size=count)
    return [names[i] for i in a], [names[i] for i in b], outcome.tolist(), prompts.tolist(), labelers.tolist()


def test_two_models_by_hand() -> None:
    """Three wins, a tie and a loss: win rate 0.7, so the scores are apart by log(0.7 / 0.3)."""
    found = bradley_terry(["a"] * 5, ["b"] * 5, [1, 1, 1, 0.5, 0], [1, 2, 3, 1, 2], ["x", "x", "y", "y", "y"])
    apart = math.log(0.7 / 0.3)
    assert found.scores["a"].value == pytest.approx(apart / 2)
    assert list(found.scores) == ["a", "b"]
    assert found.difference("a", "b").value == pytest.approx(apart)
    assert found.win_rate("a", "b").value == pytest.approx(0.7)
    assert found.win_rate("b", "a").high == pytest.approx(1 - found.win_rate("a", "b").low)


@pytest.mark.parametrize(("num_models", "count", "seed"), [(2, 60, 0), (5, 300, 1), (20, 3000, 2), (60, 20000, 3)])
def test_scores_are_evalicas(num_models: int, count: int, seed: int) -> None:
    evalica = pytest.importorskip("evalica", reason="evalica (extra dev) is not installed")
    a, b, outcome, prompts, labelers = votes(num_models, count, seed)
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(a, b, [winner[o] for o in outcome], tolerance=1e-13, limit=100_000).scores
    logs = np.log(theirs) - np.log(theirs).mean()
    ours = bradley_terry(a, b, outcome, prompts, labelers).scores
    assert {name: estimate.value for name, estimate in ours.items()} == pytest.approx(logs.to_dict(), abs=1e-9)


def test_covariates_are_a_logistic_regression() -> None:
    a, b, outcome, prompts, labelers = votes(4, 800, 4)
    longer = np.random.default_rng(5).normal(size=800)
    outcome = np.where(longer > 1, 1.0, outcome)
    found = bradley_terry(a, b, outcome, prompts, labelers, covariates={"length": longer})
    design = np.stack([[(x == m) - (y == m) for x, y in zip(a, b, strict=True)] for m in ("m00", "m01", "m02")], axis=1)
    fit = sm.GLM(outcome, np.column_stack([design, longer]), family=sm.families.Binomial()).fit(tol=1e-14)
    assert found.effects["length"].value == pytest.approx(fit.params[-1], abs=1e-7)
    assert found.difference("m00", "m03").value == pytest.approx(fit.params[0], abs=1e-7)
    assert found.effects["length"].low > 0


def test_length_control_takes_away_what_length_gave() -> None:
    """Both models are equally good; b writes longer, and labelers like length."""
    generator = np.random.default_rng(6)
    length_a, length_b = generator.poisson(50, size=4000), generator.poisson(80, size=4000)
    length = relative_difference(length_a, length_b)
    outcome = (6 * length + generator.logistic(size=4000) > 0).astype(float)
    args = (["a"] * 4000, ["b"] * 4000, outcome, np.arange(4000), np.arange(4000) % 30)
    assert bradley_terry(*args).difference("b", "a").low > 1
    controlled = bradley_terry(*args, covariates={"length": length})
    assert controlled.difference("b", "a").low < 0 < controlled.difference("b", "a").high
    assert controlled.effects["length"].value == pytest.approx(6, abs=1)


def test_relative_difference() -> None:
    assert relative_difference([3, 0, 1], [1, 0, 3]).tolist() == [0.5, 0, -0.5]


def test_intervals_cover_and_naive_ones_would_not() -> None:
    """Each labeler has a taste of their own for each model, each prompt suits some model: 400 studies."""
    generator = np.random.default_rng(7)
    num_studies, num_prompts, num_labelers = 400, 150, 12
    strength = np.array([0.5, 0.0, -0.3])
    prompts = np.repeat(np.arange(num_prompts), 3)
    a, b = np.tile([0, 1, 2], num_prompts), np.tile([1, 2, 0], num_prompts)
    names = np.array(["a", "b", "c"])

    def study(size: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
        labelers = generator.integers(clusters, size=3 * size)
        taste, suits = generator.normal(scale=0.5, size=(clusters, 3)), generator.normal(scale=0.7, size=(size, 3))
        of_prompt = np.repeat(np.arange(size), 3)
        left, right = np.tile([0, 1, 2], size), np.tile([1, 2, 0], size)
        score = strength + taste[labelers] + suits[of_prompt]
        rows = np.arange(3 * size)
        latent = score[rows, left] - score[rows, right] + generator.logistic(size=3 * size)
        return np.where(latent > 0.3, 1.0, np.where(latent < -0.3, 0.0, 0.5)), labelers

    large, their_labelers = study(200_000, 200_000)
    left, right = np.tile(names, 200_000), np.tile(names[[1, 2, 0]], 200_000)
    truth = bradley_terry(left, right, large, np.arange(600_000) // 3, their_labelers).difference("a", "b").value
    held = 0
    for _ in range(num_studies):
        outcome, labelers = study(num_prompts, num_labelers)
        apart = bradley_terry(names[a], names[b], outcome, prompts, labelers).difference("a", "b")
        held += apart.low <= truth <= apart.high
    assert held / num_studies == pytest.approx(0.95, abs=0.025)


def test_groups_that_never_met_are_named() -> None:
    with pytest.raises(DataError, match=r"never compared") as error:
        bradley_terry(["a", "b", "c", "d"], ["b", "a", "d", "c"], [1, 1, 1, 1], [1, 2, 3, 4], [1, 1, 2, 2])
    assert "a, b | c, d" in str(error.value)


def test_a_model_that_always_wins_is_named() -> None:
    with pytest.raises(DataError, match="infinite") as error:
        bradley_terry(["b", "c", "a", "a"], ["c", "b", "b", "c"], [1, 1, 1, 1], [1, 2, 3, 4], [1, 1, 2, 2])
    assert "a always won against the other 2" in str(error.value)
    bradley_terry(["b", "c", "a", "a"], ["c", "b", "b", "c"], [1, 1, 1, 0.5], [1, 2, 3, 4], [1, 1, 2, 2])


def test_a_covariate_that_predicts_everything_is_no_fit() -> None:
    outcome = [1.0, 0.0, 1.0, 0.0]
    with pytest.raises(DataError, match="no finite scores"):
        bradley_terry(["a"] * 4, ["b"] * 4, outcome, [1, 2, 3, 4], [1, 2, 1, 2], covariates={"x": [2, -2, 1, -1]})
    with pytest.raises(DataError, match="told apart"):
        bradley_terry(["a"] * 4, ["b"] * 4, outcome, [1, 2, 3, 4], [1, 2, 1, 2], covariates={"x": [1, 1, 1, 1]})


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="not a comparison"):
        bradley_terry(["a"], ["a"], [1], [1], [1])
    with pytest.raises(DataError, match="not an outcome"):
        bradley_terry(["a"], ["b"], [0.3], [1], [1])
    with pytest.raises(DataError, match="columns do not match"):
        bradley_terry(["a"], ["b"], [1, 0], [1], [1])
    with pytest.raises(DataError, match="no such model"):
        bradley_terry(["a", "b"], ["b", "a"], [1, 1], [1, 2], [1, 2]).difference("a", "z")
