"""The table of experiments: every default grid gives settings that can be trained, for small and large models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heedful.experiments.catalogue import EXPERIMENTS, MEASURES, Experiment, experiment_named, planned_variants
from heedful.experiments.findings import Findings, Point, best_point, mean_over_seeds
from heedful.experiments.labeler_groups import dealt, summary
from heedful.presets import Preset, miniature, paper, sized


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.name)
@pytest.mark.parametrize("preset", [paper("1.3B"), miniature(), sized(1e9)], ids=["paper", "miniature", "sized"])
def test_every_grid_can_be_trained(experiment: Experiment, preset: Preset) -> None:
    _, variants = planned_variants(experiment, preset)
    assert len(variants) >= 3 * experiment.seeds
    assert len({(v.series, v.value, v.seed) for v in variants}) == len(variants)
    assert set(experiment.panels) <= set(MEASURES)
    for variant in variants:
        replace(preset.ppo, **variant.ppo)
        replace(preset.initial_policy, **variant.initial_policy)


def test_the_papers_own_grids() -> None:
    """SPEC 3.5, 3.6, 5: with the paper's settings the project's own values are in the grids."""

    def values(name: str) -> list[float]:
        return sorted({v.value for v in planned_variants(experiment_named(name), paper("1.3B"))[1]})

    assert values("gamma") == pytest.approx([0, 2.78, 8.34, 27.8, 83.4])
    assert values("kl") == pytest.approx([0.002, 0.02, 0.2, 2])
    assert values("pretraining-ratio") == [4, 8, 16, 32]
    assert values("batch-size") == [128, 256, 512, 1024]
    assert values("minibatch-size") == [16, 32, 64, 128]
    assert values("longer-training") == [128_000, 256_000, 512_000]
    assert values("initial-mix") == [0, 0.1, 0.5]
    assert [v.seed for v in planned_variants(experiment_named("longer-training"), paper("1.3B"))[1]][:4] == [0, 1, 2, 0]


def test_batches_keep_the_minibatch_and_minibatches_the_batch() -> None:
    own = paper("1.3B").ppo
    for variant in planned_variants(experiment_named("batch-size"), paper("1.3B"), values=[32, 64, 1024])[1]:
        config = replace(own, **variant.ppo)
        assert config.batch_size == variant.value
        assert config.batch_size // config.minibatches == min(64, variant.value)
    for variant in planned_variants(experiment_named("minibatch-size"), paper("1.3B"), values=[8, 64])[1]:
        config = replace(own, **variant.ppo)
        assert config.batch_size == 512
        assert config.batch_size // config.minibatches == variant.value


def test_episodes_replace_the_projects_own() -> None:
    preset, variants = planned_variants(experiment_named("kl"), paper("1.3B"), episodes=1024)
    assert preset.ppo.episodes == 1024
    assert all("episodes" not in v.ppo for v in variants)


def point(series: str, value: float, seed: int, win_rate: float) -> Point:
    measures = {"win_rate": {"value": win_rate, "low": None, "high": None}}
    return {
        "series": series,
        "value": value,
        "seed": seed,
        "folder": "",
        "seconds": 1.0,
        "measures": measures,  # type: ignore[typeddict-item]
    }


def test_the_best_value_counts_its_seeds_together() -> None:
    points = [point("PPO", 1, 0, 0.9), point("PPO", 1, 1, 0.1), point("PPO", 2, 0, 0.6), point("PPO", 2, 1, 0.7)]
    found: Findings = {"panels": ["win_rate"], "points": points}  # type: ignore[typeddict-item]
    assert mean_over_seeds(points, "win_rate") == pytest.approx({1: 0.5, 2: 0.65})
    best = best_point(found)
    assert best is not None
    assert (best["value"], best["seed"]) == (2, 0)
    kl: Findings = {"panels": ["kl"], "points": []}  # type: ignore[typeddict-item]
    assert best_point(kl) is None


def test_labelers_are_dealt_evenly_and_by_name() -> None:
    names = [f"labeler-{n}" for n in range(12)]
    groups = dealt(names, seed=0)
    sizes = sorted(list(groups.values()).count(group) for group in range(5))
    assert sizes == [2, 2, 2, 3, 3]
    assert dealt(list(reversed(names)), seed=0) == groups
    assert dealt(names, seed=1) != groups


def test_standard_error_is_that_of_the_groups_means() -> None:
    """By hand: seeds averaged first give 0.6, 0.7, 0.8; their deviation is 0.1, the error 0.1 / sqrt(3)."""
    folds = [
        {"left_out": group, "labelers": [], "seed": seed, "training_rankings": 1, "within_pairs": 1, "across_pairs": 1}
        | {"within": mean + spread, "across": 0.5}
        for group, mean in enumerate((0.6, 0.7, 0.8))
        for seed, spread in enumerate((-0.05, 0.05))
    ]
    found = summary("mine", "people", 2, folds)  # type: ignore[arg-type]
    assert found["within"]["mean"] == pytest.approx(0.7)
    assert found["within"]["standard_error"] == pytest.approx(0.1 / 3**0.5)
    assert found["across"]["standard_error"] == pytest.approx(0)
