"""Prompts that look like people's, made up for the tests, and a project to put them in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from heedful.project.data_folder import Records
from heedful.project.project import Project, init_project
from heedful.prompts.intake import Cleaning, IntakeReport, import_prompts

TOPICS = ("autumn", "a lighthouse keeper", "the night bus", "sourdough bread", "my grandmother's garden", "tax forms", "bees")
TASKS = (
    "Write a short poem about {}.",
    "Explain {} to a child of six years.",
    "Give me five ideas for a talk about {}.",
    "List what can go wrong with {}, the worst first.",
    "Rewrite this so that it is polite: I never want to hear of {} again!",
)


def prompts(number: int) -> list[str]:
    """Different prompts."""
    made = [task.format(topic) for topic in TOPICS for task in TASKS]
    return [f"{made[i % len(made)]} Use {i // len(made) + 2} sentences." for i in range(number)]


def put(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file; texts are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def project(folder: Path) -> Project:
    """A new project."""
    return init_project(folder, base_model="nowhere")


def take_in(
    folder: Path, rows: Iterable[Any], format: str = "prompts", name: str = "rows.jsonl", **cleaning: Any
) -> tuple[IntakeReport, Records]:
    """Import rows into ``folder/data``; the report adds up."""
    folder.mkdir(exist_ok=True)
    report = import_prompts(format, put(folder / name, rows), folder / "data", cleaning=Cleaning(**cleaning))
    assert report.read == report.added + report.already_there + sum(report.left_out.values())
    data = folder / "data"
    return report, Records.load(data)


def rejected(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``rejected.jsonl``."""
    file = folder / "data" / "rejected.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
