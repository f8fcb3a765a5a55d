"""No number of a configuration may be negative, but for the one that may."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import ConfigError
from heedful.presets import Limits, Preset, preset, resolved_preset
from heedful.project.project import Project, init_project
from heedful.training.config import PPOConfig, PretrainConfig


def number_fields() -> Iterator[tuple[Any, str]]:
    """Every field of every configuration that holds a number, with a configuration that has it."""
    chosen = preset("miniature")
    configs = [getattr(chosen, one.name) for one in dataclasses.fields(Preset)]
    for config in (*configs, PretrainConfig(), Limits()):
        hints = typing.get_type_hints(type(config))
        for one in dataclasses.fields(config):
            hint = hints[one.name]
            kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
            if kinds & {int, float}:
                yield config, one.name


def test_all_tables_are_looked_at() -> None:
    named = {(type(config).__name__, name) for config, name in number_fields()}
    assert {
        ("PPOConfig", "ptx_coefficient"),
        ("PPOConfig", "kl_coefficient"),
        ("PPOConfig", "kl_limit"),
        ("SFTConfig", "seed"),
        ("PretrainConfig", "weight_decay"),
        ("DPOConfig", "tie_threshold"),
        ("BestOfNConfig", "samples"),
        ("GroupRewardConfig", "pull"),
        ("CollectConfig", "temperature"),
        ("EvaluateConfig", "max_response_tokens"),
        ("RoundsConfig", "largest_drop"),
        ("Limits", "max_prompt_tokens"),
    } <= named


@pytest.mark.parametrize(("config", "name"), list(number_fields()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_negative_number_is_refused(config: Any, name: str) -> None:
    if name == "missing_end_reward":
        assert replace(config, **{name: -1.5}).missing_end_reward == -1.5
        return
    with pytest.raises(ConfigError, match=rf"{type(config).__name__}: .*{name}.* (is|are) out of range"):
        replace(config, **{name: -1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="missing_end_reward is out of range"):
        PPOConfig(missing_end_reward=value)


@pytest.mark.parametrize("name", ["adam_beta1", "adam_beta2", "average_decay"])
def test_an_average_that_never_moves_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"PPOConfig: {name} is out of range"):
        replace(PPOConfig(), **{name: 1.0})
    assert getattr(replace(PPOConfig(), **{name: 0.999}), name) == 0.999


def test_zero_switches_off_what_may_be_switched_off() -> None:
    assert PPOConfig(ptx_coefficient=0.0, kl_coefficient=0.0, warmup_iterations=0, max_gradient_norm=0.0).ptx_coefficient == 0


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        ("ppo", "ptx_coefficient = -27.8", "PPOConfig: ptx_coefficient is out of range"),
        ("ppo", "kl_coefficient = -0.02", "PPOConfig: kl_coefficient is out of range"),
        ("evaluate", "temperature = -1.0", "EvaluateConfig: temperature is out of range"),
    ],
)
def test_heedful_toml_is_named(tmp_path: Path, table: str, line: str, expected: str) -> None:
    project = init_project(tmp_path / "project", base_model="none")
    project.config_file.write_text(f"{project.config_file.read_text()}\n[{table}]\n{line}\n")
    with pytest.raises(ConfigError, match=expected) as error:
        resolved_preset(Project.load(project.folder))
    assert f"{project.config_file} [{table}]" in str(error.value)


def test_a_negative_seed_of_a_project_is_refused(tmp_path: Path) -> None:
    project = init_project(tmp_path / "project", base_model="none")
    project.config_file.write_text(project.config_file.read_text().replace("seed = 0", "seed = -1"))
    with pytest.raises(ConfigError, match=r"\[project\] seed is out of range"):
        Project.load(project.folder)
