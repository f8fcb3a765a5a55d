"""The values of a sweep, and the configuration of each trial."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from heedful.errors import ConfigError
from heedful.project.structure import nearest
from heedful.training.config import StepConfig

Spacing = Literal["geometric", "linear"]


def grid(low: float, high: float, number: int, spacing: Spacing) -> list[float]:
    """``number`` values from low to high, including both, with equal ratios ("log-linear" in the paper) or equal distances.

    Raises ConfigError if the grid is empty or its bounds are impossible.
    """
    if number < 1 or low > high or (number == 1 and low != high):
        raise ConfigError(
            "the grid is empty",
            expected="low no higher than high, and at least 2 trials (1 if both are equal)",
            got=f"low {low:g}, high {high:g}, {number} trials",
            next_step="give --low, --high and --trials, or the --values themselves",
        )
    if spacing == "geometric" and low <= 0:
        raise ConfigError(
            "a geometric grid needs bounds above 0",
            expected="low above 0",
            got=f"{low:g}",
            next_step="use --spacing linear, or give the --values themselves",
        )
    values = np.geomspace(low, high, number) if spacing == "geometric" else np.linspace(low, high, number)
    # Eight digits, so that the numbers shown, saved and compared are the same.
    return [float(f"{value:.8g}") for value in values]


def trial_configs(config: StepConfig, step: str, field: str, values: Sequence[float]) -> dict[float, StepConfig]:
    """Value -> the step's configuration with that value, ascending, without duplicates. For integer fields, values are rounded.

    Raises ConfigError for an unknown field, a field that is not a number, no values, or a value out of the field's range.
    """
    types_of = typing.get_type_hints(type(config))
    if field not in types_of:
        close = nearest(field, types_of)
        raise ConfigError(
            f"{step} has no field {field!r}",
            expected=", ".join(name for name in types_of if _number_type(types_of[name])),
            got=field,
            next_step=f"did you mean {close}?" if close else "choose one of these",
        )
    number_type = _number_type(types_of[field])
    if number_type is None:
        raise ConfigError(
            f"{field} is not a number",
            expected=", ".join(name for name in types_of if _number_type(types_of[name])),
            got=f"a field with values like {getattr(config, field)!r}",
            next_step="sweep a field that is a number",
        )
    if not values:
        raise ConfigError(
            "the grid is empty",
            expected="at least one value",
            got="none",
            next_step="give --low, --high and --trials, or the --values themselves",
        )
    if not np.isfinite(list(values)).all():
        raise ConfigError(f"a value of {field} is not a finite number", expected="finite numbers", got=str(list(values)))
    rounded = [number_type(round(value)) if number_type is int else float(value) for value in values]
    return {value: replace(config, **{field: value}) for value in sorted(set(rounded))}


def _number_type(hint: Any) -> type[int] | type[float] | None:
    """int or float if a field holds such a number (or None), else None."""
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    kinds.discard(type(None))
    return int if kinds == {int} else float if kinds in ({float}, {int, float}) else None
