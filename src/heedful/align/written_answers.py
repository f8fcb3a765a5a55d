"""Answers of several models to many prompts, with the project's processes side by side.

A small model's answers need one core: its products are too small to share. A response's random numbers depend only on its id,
so any number of processes gives the same answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from heedful.align.processes import processes_at_once, run_in_processes
from heedful.align.settings import Setting
from heedful.model.answering import Answerer
from heedful.model.inference import policy_for_inference
from heedful.project.data_folder import record_to_json
from heedful.project.files import write_jsonl
from heedful.project.runs import records_in
from heedful.records import Prompt, Response
from heedful.training.config import SFTConfig

FEWEST_APART = 2_000
"""Answers of one process, at least: for fewer, loading the model again takes as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """One model and the prompts that it answers."""

    name: str
    folder: Path
    prompts: Sequence[Prompt]
    ids: Sequence[str]
    """Of the responses."""

    def part(self, number: int, of: int) -> Writing:
        """Every ``of``-th prompt."""
        prompts, ids = self.prompts[number::of], self.ids[number::of]
        return Writing(name=self.name, folder=self.folder, prompts=prompts, ids=ids)


def written(
    setting: Setting, writings: Sequence[Writing], limits: SFTConfig, temperature: float, console: Console
) -> list[Response]:
    """All models' responses, in no particular order. Raises DataError if a prompt is over the limit."""
    processes = processes_at_once(setting.project) if setting.project.engine == "heedful" else 1
    total = sum(len(one.prompts) for one in writings)
    if processes == 1 or total < processes * FEWEST_APART:
        return [response for one in writings for response in _write(setting, one, limits, temperature, console)]
    console.print(f"{total:,} answers by {processes} processes; below is the progress of one of them", highlight=False)
    with tempfile.TemporaryDirectory() as name:
        calls = {
            f"{one.name} {number + 1}": partial(
                _write_into,
                Path(name) / f"{place}-{number}",
                setting,
                one.part(number, processes),
                limits,
                temperature,
                shown=number == 0,
            )
            for place, one in enumerate(writings)
            for number in range(processes)
        }
        list(run_in_processes(calls, processes=processes))
        return [response for folder in sorted(Path(name).iterdir()) for response in records_in(folder, "response")]


def _write(setting: Setting, one: Writing, limits: SFTConfig, temperature: float, console: Console) -> list[Response]:
    if not one.prompts:
        return []
    model, tokenizer = policy_for_inference(one.folder, limits.precision)
    return Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
        one.prompts, name=one.name, ids=one.ids, temperature=temperature, seed=setting.seed, console=console
    )


def _write_into(
    folder: Path, setting: Setting, one: Writing, limits: SFTConfig, temperature: float, *, shown: bool, console: Console
) -> None:
    folder.mkdir()
    console.quiet = not shown
    write_jsonl(folder / "responses.jsonl", map(record_to_json, _write(setting, one, limits, temperature, console)))
