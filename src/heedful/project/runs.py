"""What a project's ``runs/`` folder shows without torch: which stages were done, in which folders, and how far they got."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STAGE_FILE = "stage.json"


def stage_folders(runs: Path, name: str) -> dict[int, Path]:
    """Number -> folder of all runs of a stage (``runs/<name>-<number>/``)."""
    found: dict[int, Path] = {}
    for folder in runs.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if number.isdigit() and folder.is_dir():
            found[int(number)] = folder
    return found


def stage_state(folder: Path) -> dict[str, Any]:
    """What ``stage.json`` says; empty if it is missing or a kill cut it short."""
    try:
        state = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def last_step(folder: Path) -> int | None:
    """The last step of ``metrics.jsonl``, or None if it has none (a line that a kill cut short does not count)."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
