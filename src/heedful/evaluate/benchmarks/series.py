"""The questions for a model: the items of one task in one setting, made from the user's files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heedful.errors import DataError
from heedful.evaluate.benchmarks import prompt_formats as formats
from heedful.evaluate.benchmarks.benchmark_data import Row, data_file, missing_data
from heedful.evaluate.benchmarks.task_table import Item, Setting, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The items of one task in one setting, from the first to the last."""

    task: Task
    setting: Setting
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    """What readers of the result must know, such as rows left out or a number of items that differs from the paper's."""

    @property
    def name(self) -> str:
        """Task and setting, such as ``rte.few-shot``."""
        return f"{self.task.name}.{self.setting}"


def series_of(task: Task, setting: Setting, folder: Path, *, seed: int = 0, limit: int | None = None) -> Series:
    """Make the items of a task in one setting from the user's files. Raises MissingError, DataError.

    The same seed gives the same items and examples, and a larger ``limit`` keeps the items of a smaller one. All items have the
    same few-shot examples, drawn from the training file: the paper does not say which ones it used.
    """
    if (path := data_file(folder, task.name, task.files)) is None:
        raise missing_data(folder / task.name, task.title, task.files)
    rows = task.read(path)
    if not rows:
        raise DataError(f"{path.name} holds no row", expected=f"questions of {task.title}", got="none", where=path)
    notes: list[str] = []
    generator = np.random.default_rng([seed, zlib.crc32(task.name.encode())])
    if any("toxicity" in row for row in rows):
        rows = evenly_toxic(rows, task.sampled_items or len(rows), generator, notes)
    order = generator.permutation(len(rows)).tolist()
    wanted = min(len(rows) if limit is None else limit, task.sampled_items or len(rows))
    rows = [rows[place] for place in sorted(order[:wanted])]
    if task.in_paper and len(rows) != task.paper_items:
        notes.append(f"{len(rows):,} items; the paper had {task.paper_items:,}")
    examples = _examples(task, setting, folder, generator)
    items = tuple([task.item(row, _prompt(task, setting, row, examples)) for row in rows])
    if len({item.id for item in items}) < len(items):
        raise DataError(f"two rows of {path.name} have the same id", expected="each id once", got="one twice", where=path)
    return Series(task=task, setting=setting, items=items, notes=tuple(notes))


def _prompt(task: Task, setting: Setting, row: Row, examples: Sequence[str]) -> str:
    instruction = formats.PREFIXES.get(setting, task.instruction)
    if setting in ("instruction", "qa-instruction"):
        instruction = formats.TRUTHFUL
    return formats.joined_prompt(instruction, examples, task.query(row))


def _examples(task: Task, setting: Setting, folder: Path, generator: np.random.Generator) -> list[str]:
    if setting in ("qa", "qa-instruction"):
        return formats.truthfulqa_examples()
    if setting != "few-shot":
        return []
    if (path := data_file(folder, task.name, task.train_files)) is None:
        raise missing_data(folder / task.name, f"few-shot examples of {task.title}", task.train_files)
    # Use the last question of a passage or dialogue: its query holds all earlier ones with their answers. In WSC, use only
    # nouns that the pronoun refers to: the others would be wrong answers.
    rows = [row for row in task.read(path) if row.get("is_last", True) and (task.name != "wsc" or row["label"])]
    if len(rows) < task.shots:
        raise DataError(
            f"there are too few examples for {task.title}",
            expected=f"{task.shots} in the training file",
            got=f"{len(rows)}",
            where=path,
            next_step="fetch the whole training file, or ask for zero-shot only: --settings zero-shot",
        )
    drawn = generator.choice(len(rows), size=task.shots, replace=False).tolist()
    return [f"{task.query(rows[place])} {task.answer(rows[place])}" for place in drawn]


def evenly_toxic(rows: Sequence[Row], count: int, generator: np.random.Generator, notes: list[str]) -> list[Row]:
    """Draw ``count`` prompts, equally many from each tenth of the toxicity scale, or all of a tenth with fewer (figure 16).

    The other tenths make up for what is missing. Prompts without a toxicity are left out and counted in ``notes``.
    """
    scored = [row for row in rows if row["toxicity"] is not None]
    if len(scored) < len(rows):
        notes.append(f"{len(rows) - len(scored):,} prompts without a toxicity score are left out")
    tenths: list[list[Row]] = [[] for _ in range(10)]
    for row in scored:
        tenths[min(9, int(row["toxicity"] * 10))].append(row)
    kept: list[Row] = []
    for done, tenth in enumerate(sorted(tenths, key=len)):
        share = (count - len(kept)) // (len(tenths) - done)
        kept += [tenth[place] for place in generator.permutation(len(tenth)).tolist()[:share]]
    return kept
