"""A run of benchmarks: every model answers every item once. The run can be killed at any moment and continued."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from heedful.errors import BusyError, ConfigError
from heedful.evaluate.benchmarks.asking_models import Asked, answers, asked
from heedful.evaluate.benchmarks.item_results import (
    add_rows,
    check_same_items,
    check_settings,
    item_digest,
    model_digest,
    stored_rows,
)
from heedful.evaluate.benchmarks.series import Series
from heedful.model.inference import policy_for_inference
from heedful.model.loading import load_configuration
from heedful.model.precision import Precision
from heedful.model.template import Template
from heedful.progress import progress_line
from heedful.project.files import append_jsonl
from heedful.project.lock import alone_in

TIMINGS = "timings.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A model of the run and the name that it has in tables and folders."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HowAsked:
    """Settings that affect a model's answers."""

    template: Template = "plain"
    precision: Precision = "bfloat16"
    seed: int = 0
    batch_items: int = 64
    """Items that are answered, written and flushed together. It changes answers only by rounding."""


Rows = dict[str, dict[str, Any]]
"""The stored row of each item, for one model and series."""


def contestants(arguments: Sequence[str]) -> list[Contestant]:
    """Parse models given as FOLDER or NAME=FOLDER. Raises ConfigError for repeated names and names that no folder can have."""
    found: list[Contestant] = []
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        path = Path(folder if equals else argument)
        if not equals:
            name = path.resolve().name if path.resolve().name != "model" else path.resolve().parent.name
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError("a model cannot have this name", expected="a name for a folder, such as sft", got=repr(name))
        found.append(Contestant(name=name, folder=path))
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"two models are called {twice!r}", expected="different names", got=", ".join(names), next_step="NAME=FOLDER"
        )
    return found


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock the run's folder. Raises BusyError, StorageError."""
    holding = alone_in(out)
    try:
        holding.__enter__()
    except BusyError as error:
        raise BusyError(
            "another process is using this folder",
            expected="one `heedful evaluate benchmarks` at a time in a folder",
            got=error.got,
            where=out,
            next_step="wait until it is done, or give another --out",
        ) from None
    try:
        yield
    finally:
        holding.__exit__(None, None, None)


def ask_models(
    models: Sequence[Contestant], series: Sequence[Series], out: Path, how: HowAsked, console: Console
) -> dict[tuple[str, str], Rows]:
    """Return each model's answers to each series, from earlier runs in ``out`` or asked now. Keys: (model, series) names.

    A model is only loaded if an answer is missing. Raises MissingError, ModelError, ConfigError, DataError, StorageError.
    """
    found: dict[tuple[str, str], Rows] = {}
    for model in models:
        subject: Asked | None = None
        load_configuration(model.folder)  # raises the right error for a folder that holds no model
        digest = model_digest(model.folder)
        for one in series:
            path = out / model.name / f"{one.name}.jsonl"
            settings = _settings(digest, one, how)
            check_settings(path.with_suffix(".settings.json"), settings)
            stored = stored_rows(path)
            check_same_items(path, stored, one.items)
            if any(item.id not in stored for item in one.items):
                if subject is None:
                    subject = _loaded(model, how)
                with _measured(out, model, one, len(one.items) - sum(item.id in stored for item in one.items)):
                    _ask(subject, one, path, stored, how.batch_items, f"{model.name} {one.name}", console)
            found[model.name, one.name] = {item.id: stored[item.id] for item in one.items}
    return found


def _settings(digest: str, series: Series, how: HowAsked) -> Mapping[str, Any]:
    return {
        "model": digest,
        "task": series.task.name,
        "setting": series.setting,
        "template": _named(how.template),
        "precision": how.precision,
        "seed": how.seed,
        "max_tokens": series.task.max_tokens,
    }


def _named(template: Template) -> str:
    """Return plain, chat, or a digest of the template's text."""
    if template in ("plain", "chat"):
        return template
    return f"file {hashlib.sha256(template.encode()).hexdigest()[:16]}"


def _loaded(model: Contestant, how: HowAsked) -> Asked:
    policy, tokenizer = policy_for_inference(model.folder, how.precision)
    return asked(policy, tokenizer, template=how.template, slots=how.batch_items, seed=how.seed)


def _ask(subject: Asked, series: Series, path: Path, stored: Rows, batch_items: int, title: str, console: Console) -> None:
    """Ask for all missing answers and store them, batch by batch.

    Batches are cut from all items, missing or not, so an interrupted run computes the same bits as an uninterrupted one.
    """
    items = series.items
    done = sum(item.id in stored for item in items)
    with progress_line(title, len(items), done=done, unit="items", console=console) as progress:
        for first in range(0, len(items), batch_items):
            part = items[first : first + batch_items]
            if all(item.id in stored for item in part):
                continue
            rows = [
                {**row, "item": item_digest(item)} for item, row in zip(part, answers(subject, series.task, part), strict=True)
            ]
            new = [row for row in rows if row["id"] not in stored]
            add_rows(path, new)
            stored.update({row["id"]: row for row in new})
            progress.advance(len(new))


@contextmanager
def _measured(out: Path, model: Contestant, series: Series, num_items: int) -> Iterator[None]:
    """Append how long these items took, and the process's peak memory."""
    start = time.monotonic()
    yield
    append_jsonl(
        out / TIMINGS,
        [
            {
                "model": model.name,
                "series": series.name,
                "items": num_items,
                "seconds": round(time.monotonic() - start, 2),
                "peak_memory_bytes": _peak_memory(),
                "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            }
        ],
    )


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
