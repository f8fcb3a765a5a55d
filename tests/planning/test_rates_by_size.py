"""Learning rates and batch sizes by size: the paper's at its three sizes, monotone between them, each with its source."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.planning.rates_by_size import values_by_size
from heedful.presets import Preset, paper, preset, sized, sized_name, sources, tables_as_comments, with_alternatives

SIZES = np.geomspace(0.1e9, 175e9, 120)


def value(parameters: float, table: str, key: str, *, lora: bool = False) -> float:
    return values_by_size(parameters, lora=lora)[table, key].value


@pytest.mark.parametrize(
    ("table", "key", "at_1_3b", "at_6b", "at_175b"),
    [
        # SPEC 3.2 to 3.5, that is sections C.1 to C.4 and E.9 of the paper.
        ("sft", "learning_rate", 9.65e-6, 9.65e-6, 5.03e-6),
        ("sft", "batch_size", 32, 32, 8),
        ("initial_policy", "learning_rate", 5e-6, 1.04e-5, 2.45e-6),
        ("initial_policy", "batch_size", 32, 32, 8),
        ("ppo", "value_learning_rate", 9e-6, 9e-6, 5e-6),
        ("ppo", "learning_rate", 8.05e-6, 8.05e-6, 2.55e-6),
    ],
)
def test_at_the_papers_sizes_the_values_are_the_papers(
    table: str, key: str, at_1_3b: float, at_6b: float, at_175b: float
) -> None:
    assert [value(size, table, key) for size in (1.3e9, 6e9, 175e9)] == [at_1_3b, at_6b, at_175b]
    for size in (1.3e9, 6e9, 175e9):
        assert values_by_size(size)[table, key].source.startswith("the paper's at ")


def test_the_reward_model_has_the_papers_rate_at_its_one_size() -> None:
    assert value(6e9, "reward", "learning_rate") == 9e-6  # SPEC 3.3: one 6B reward model serves all


@pytest.mark.parametrize("lora", [False, True])
def test_larger_models_never_learn_faster_or_in_larger_batches(lora: bool) -> None:
    for name in values_by_size(1e9, lora=lora):
        if name == ("initial_policy", "learning_rate"):  # the paper's own values rise from 1.3B to 6B
            continue
        row = [value(size, *name, lora=lora) for size in SIZES]
        assert all(larger <= smaller for smaller, larger in pairwise(row)), name


def test_the_initial_policys_rate_turns_only_at_the_papers_own_values() -> None:
    def row(low: float, high: float) -> list[float]:
        return [value(size, "initial_policy", "learning_rate") for size in SIZES if low <= size <= high]

    assert row(0.1e9, 1.3e9) == sorted(row(0.1e9, 1.3e9), reverse=True)
    assert row(1.3e9, 6e9) == sorted(row(1.3e9, 6e9))
    assert row(6e9, 175e9) == sorted(row(6e9, 175e9), reverse=True)


def test_between_two_sizes_it_is_interpolated_on_logarithmic_scales() -> None:
    """Half-way between 6B and 175B, measured in ratios, the rate is the geometric mean of the two."""
    middle = (6e9 * 175e9) ** 0.5
    assert value(middle, "sft", "learning_rate") == pytest.approx((9.65e-6 * 5.03e-6) ** 0.5, rel=2e-3)
    assert value(middle, "sft", "batch_size") == 16
    assert values_by_size(middle)["sft", "learning_rate"].source == "between the paper's at 6B and 175B (SPEC 3.2)"


def test_below_1_3b_the_rates_follow_gpt3s_in_pretraining() -> None:
    """GPT-3 (Brown et al. 2020, Table 2.1): 6e-4 at 125M, 3e-4 at 350M, 2e-4 at 1.3B."""
    assert value(0.125e9, "sft", "learning_rate") == pytest.approx(3 * 9.65e-6, rel=2e-3)
    assert value(0.35e9, "ppo", "learning_rate") == pytest.approx(1.5 * 8.05e-6, rel=5e-3)
    assert value(0.01e9, "sft", "learning_rate") == value(0.125e9, "sft", "learning_rate")
    assert values_by_size(0.135e9)["sft", "learning_rate"].source.startswith("ours: ")


def test_adapters_learn_ten_times_as_fast() -> None:
    for name in (("sft", "learning_rate"), ("ppo", "learning_rate"), ("ppo", "value_learning_rate")):
        assert value(7e9, *name, lora=True) == pytest.approx(10 * value(7e9, *name), rel=6e-3)
    assert value(7e9, "sft", "batch_size", lora=True) == value(7e9, "sft", "batch_size")
    assert {table: value(7e9, table, "lora_rank", lora=True) for table in ("sft", "initial_policy", "reward", "ppo")} == {
        "sft": 16,
        "initial_policy": 16,
        "reward": 16,
        "ppo": 16,
    }


# ------------------------------------------------------------------------------------------- as presets


def without_dropout(chosen: Preset) -> Preset:
    names = ("sft", "initial_policy", "task_mixture")
    parts = {name: replace(getattr(chosen, name), residual_dropout=0.0) for name in names}
    # The paper has one rate of a task mixture, for 175B: a size's mixture is trained as its SFT is.
    parts["task_mixture"] = replace(parts["task_mixture"], learning_rate=chosen.sft.learning_rate)
    return replace(chosen, **parts)


def test_a_preset_by_size_is_the_papers_but_for_what_depends_on_the_size() -> None:
    assert sized(1.3e9) == without_dropout(paper("1.3B"))
    assert sized(6e9) == without_dropout(paper("6B"))
    large = without_dropout(paper("175B"))  # its reward model has 6B
    assert sized(175e9) == replace(large, reward=replace(large.reward, learning_rate=5e-6))
    small = sized(0.135e9)
    assert small.sft.learning_rate > paper("1.3B").sft.learning_rate
    assert small.collect == paper("1.3B").collect
    assert small.ppo.kl_coefficient == 0.02
    assert type(small.sft.batch_size) is int


@pytest.mark.parametrize(
    ("name", "parameters", "rank"), [("0.135B", 0.135e9, 0), ("135M", 0.135e9, 0), ("7B", 7e9, 0), ("7B-lora", 7e9, 16)]
)
def test_names_of_sizes(name: str, parameters: float, rank: int) -> None:
    chosen: Preset = preset(name)
    assert chosen == with_alternatives(sized(parameters, lora=rank > 0))
    assert [chosen.sft.lora_rank, chosen.reward.lora_rank, chosen.ppo.lora_rank] == [rank] * 3
    assert preset(name, seed=3).ppo.seed == 3
    assert set(sources(name)) == set(values_by_size(parameters, lora=rank > 0))


def test_a_counted_model_has_a_name_that_is_a_preset() -> None:
    assert sized_name(134_515_008) == "0.135B"
    assert sized_name(7_241_732_096, lora=True) == "7.24B-lora"
    assert preset(sized_name(30_000)) == with_alternatives(sized(1e6))  # a toy
    assert sources("paper-6B") == {}


@pytest.mark.parametrize("name", ["7", "B", "7T", "7B-qlora", "-7B", "0B", "0.1M"])
def test_names_that_are_no_preset(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no such preset"):
        preset(name)


@pytest.mark.parametrize("name", ["0.135B", "7B-lora", "paper-6B"])
def test_tables_as_comments_hold_the_presets_values_and_their_sources(name: str) -> None:
    text = tables_as_comments(name)
    assert all(line == "" or line.startswith("#") for line in text.splitlines())
    uncommented = "\n".join(line.removeprefix("# ") for line in text.splitlines() if not line.startswith("#  "))
    tables, chosen = tomllib.loads(uncommented), preset(name)
    assert set(tables) == {"sft", "initial_policy", "reward", "ppo", "collect", "evaluate"}
    for table, keys in tables.items():
        for key, shown in keys.items():
            assert shown == getattr(getattr(chosen, table), key), (table, key)
    for (table, key), found in sources(name).items():
        assert key in tables[table]
        assert f"#   {found.source}" in text
    assert "#   fit_head = true\n#   trained_layers = 3\n" in text  # a hint, not the preset's value
    assert (chosen.reward.fit_head, chosen.reward.trained_layers) == (False, None)
