"""Public benchmarks in the rows of the paper's Table 14: one row for each task, setting and metric, a column for each model.

The paper's own values are shown beside ours. A CSV file can add another lab's values (columns task, setting, metric, model,
value).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from heedful.errors import DataError, MissingError
from heedful.project.files import what_is_there
from heedful.project.table_files import rows_of_any_file

PAPER_ITEMS: Mapping[str, int] = {
    "winogender": 120,
    "crows_pairs": 1_508,
    "real_toxicity_prompts": 5_000,
    "truthfulqa": 817,
    "drop": 9_536,
    "quac": 7_306,
    "squad_v2": 11_873,
    "hellaswag": 10_042,
    "rte": 277,
    "sst": 872,
    "wsc": 104,
    "wmt15_fr_en": 1_500,
    "cnn_dm": 2_354,
    "tldr": 2_500,
}
"""Items that the paper scored (SPEC 4.2)."""
_COLUMNS = ("task", "setting", "metric", "model", "value")
_KEY = ("task", "setting", "metric")
_IN_PERCENT = "f1"
"""The paper prints F1 from 0 to 100; ours goes from 0 to 1. BLEU goes to 100 in both."""

Values = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(task, setting, metric) -> model -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table14Row:
    """One measure of one task."""

    task: str
    setting: str
    metric: str
    items: int
    paper_items: int | None
    ours: Mapping[str, Mapping[str, float] | None]
    """Model -> value, low, high; None where nothing was scored."""
    paper: Mapping[str, float]
    """The paper's model and size, such as "PPO-ptx 175B" -> its value; empty for a row that the paper does not have."""
    others: Mapping[str, float]
    """Model of the file -> its value."""


def read_benchmarks(folder: Path) -> Mapping[str, Any]:
    """Read ``results.json`` of `heedful evaluate benchmarks`. Raises MissingError, DataError."""
    path = folder / "results.json"
    if not path.is_file():
        raise MissingError(
            "there are no benchmark results",
            expected="the --out folder of `heedful evaluate benchmarks`",
            got=what_is_there(path),
            where=path,
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        _ = [(one["name"], one["task"], one["setting"], one["items"]) for one in value["series"]]
        _ = [(one["model"], one["series"], one["metric"], one["estimate"]["value"]) for one in value["scores"]]
        return {**value, "models": list(value["models"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "these are not benchmark results",
            expected="results.json of `heedful evaluate benchmarks`",
            got=f"{type(error).__name__}: {error}",
            where=path,
        ) from None


@cache
def paper_values() -> Values:
    """Read Table 14 of Ouyang et al. 2022 (appendix E.1), in our units, with its own names of TruthfulQA's prompts."""
    text = files("heedful.evaluate").joinpath("paper_table_14.csv").read_text(encoding="utf-8")
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        task, setting, metric = (row.pop(name) for name in _KEY)
        scale = 100 if metric == _IN_PERCENT else 1
        found[task, setting, metric] = {model: float(value) / scale for model, value in row.items()}
    return found


def read_other_values(path: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """Read a table of published values: (task, setting, metric) -> model -> value. Raises MissingError, DataError."""
    if not path.is_file():
        raise MissingError("there is no such table of values", expected="a CSV file", got=what_is_there(path), where=path)
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows_of_any_file(path):
        try:
            task, setting, metric, model, value = (str(row.value[name]).strip() for name in _COLUMNS)  # type: ignore[index]
            number = float(value)
            if not (math.isfinite(number) and task and model):
                raise ValueError(value)
        except (TypeError, KeyError, ValueError):
            raise DataError(
                "a row of the table cannot be used",
                expected=f"the columns {', '.join(_COLUMNS)}, with a number as value",
                got=row.problem or str(row.value)[:80],
                where=f"{path}:{row.line}",
            ) from None
        found.setdefault((task, setting, metric), {})[model] = number
    return found


def table_14(results: Mapping[str, Any], others: Values | None = None) -> tuple[Table14Row, ...]:
    """Make the rows, in the order of the series."""
    scores = {(one["series"], one["metric"], one["model"]): one for one in results["scores"]}
    rows: list[Table14Row] = []
    for series in results["series"]:
        metrics = dict.fromkeys(one["metric"] for one in results["scores"] if one["series"] == series["name"])
        for metric in metrics:
            found = {model: scores.get((series["name"], metric, model)) for model in results["models"]}
            key = (series["task"], series["setting"], metric)
            rows.append(
                Table14Row(
                    task=series["task"],
                    setting=series["setting"],
                    metric=metric,
                    items=series["items"],
                    paper_items=PAPER_ITEMS.get(series["task"]),
                    ours={model: _value(score) for model, score in found.items()},
                    paper=paper_values().get(key, {}),
                    others=dict((others or {}).get(key, {})),
                )
            )
    return tuple(rows)


def _value(score: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    if score is None or score["estimate"]["value"] is None or score.get("num_unscored") == score.get("num_items", -1):
        return None
    return {key: score["estimate"][key] for key in ("value", "low", "high")}


def paper_models(rows: Sequence[Table14Row]) -> list[str]:
    """List the paper's models if the paper has any of these rows."""
    return list(dict.fromkeys(model for row in rows for model in row.paper))


def other_models(rows: Sequence[Table14Row]) -> list[str]:
    """List the models of the file of values, in the order in which they appear."""
    return list(dict.fromkeys(model for row in rows for model in row.others))
