"""Benchmark files with a wrong value in any one place: an error that names the file, or items that are whole; never a crash."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.benchmarks.data_sets import write_data_sets

from heedful.errors import DataError
from heedful.evaluate.benchmarks.benchmark_data import data_file
from heedful.evaluate.benchmarks.series import series_of
from heedful.evaluate.benchmarks.task_table import TASKS, Task

WRONG: tuple[Any, ...] = (None, 3, -1, 2.5, True, "x", "", [], [1], {}, {"text": None}, 10**400)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*at, key)
        yield from places(part, (*at, key))


def with_wrong_values(value: Any) -> Iterator[Any]:
    """The value with one place removed or changed, for every place."""
    for way in places(value):
        for wrong in (*WRONG, ...):
            changed = copy.deepcopy(value)
            parent = changed
            for key in way[:-1]:
                parent = parent[key]
            if wrong is ...:
                del parent[way[-1]]
            else:
                parent[way[-1]] = wrong
            yield changed


@pytest.mark.parametrize("task", [task for task in TASKS if task.in_paper], ids=lambda task: task.name)
def test_a_wrong_value_is_an_error_that_names_the_file(task: Task, tmp_path: Path) -> None:
    path = data_file(write_data_sets(tmp_path, rows=2), task.name, task.files)
    assert path is not None
    lines = path.read_text().splitlines(keepends=True)
    is_table = path.suffix in (".csv", ".tsv", ".txt")
    # Of a table, cells of the second line; of JSONL its first row; else the whole JSON value.
    whole = not is_table and len(lines) == 1
    value = lines[1].split("\t" if path.suffix == ".tsv" else ",") if is_table else json.loads(lines[0])
    errors: list[str] = []
    num_read = 0
    for changed in with_wrong_values(value):
        if is_table:
            text = lines[0] + ("\t" if path.suffix == ".tsv" else ",").join(map(str, changed)).rstrip("\n") + "\n"
            path.write_text(text + "".join(lines[2:]))
        else:
            path.write_text(json.dumps(changed) + "\n" + ("" if whole else "".join(lines[1:])))
        try:
            items = series_of(task, task.settings[0], tmp_path).items
        except DataError as error:
            errors.append(str(error))
            continue
        num_read += 1
        assert all(isinstance(item.prompt, str) for item in items)
        assert all(isinstance(text, str) for item in items for pair in item.pairs for text in pair)
        assert all(math.isfinite(item.facts.get("toxicity") or 0) for item in items)
    assert num_read
    assert all(path.name in error for error in errors)
    assert errors or task.name == "wmt15_fr_en"


def test_toxicity_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "real_toxicity_prompts").mkdir()
    path = tmp_path / "real_toxicity_prompts" / "prompts.csv"
    for cell in ("high", "nan", "inf", "1e999"):
        path.write_text(f"prompt,toxicity\nA man said,{cell}\n")
        with pytest.raises(DataError, match=r"prompts\.csv:2"):
            series_of(next(task for task in TASKS if task.name == "real_toxicity_prompts"), "basic", tmp_path)
