"""Stages with fingerprints: each is done once for the same inputs, continued after a kill, done again when an input changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful import __version__
from heedful.errors import StorageError
from heedful.store.files import write_atomically
from heedful.store.runs import STAGE_FILE, stage_folders, stage_state


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that is done: where its outputs are, what identifies them, and how long it took (seconds)."""

    name: str
    folder: Path
    fingerprint: str
    seconds: float


class Stages:
    """The stages of one project, each in ``runs/<name>-<n>/``; a changed input makes a new n, nothing is overwritten."""

    def __init__(self, runs: Path, console: Console) -> None:
        self.runs, self.console = runs, console
        self.done: list[Stage] = []

    def run(self, name: str, inputs: Mapping[str, Any], action: Callable[[Path], None]) -> Stage:
        """Do ``action(folder)`` unless it was done for the same ``inputs``.

        inputs: JSON-able; fingerprints of earlier stages are among them. An unfinished folder of the same inputs is given to
        ``action`` again: the training steps continue from their checkpoints.
        """
        fingerprint = fingerprint_of({"heedful": __version__, "stage": name, **inputs})
        folder, state = self._folder(name, fingerprint)
        if state.get("done"):
            stage = Stage(name, folder, fingerprint, float(state["seconds"]))
            self.console.print(f"{name}: done before, in {folder}", style="dim", markup=False, highlight=False, soft_wrap=True)
            self.done.append(stage)
            return stage
        self.console.rule(f"[bold]{name}")
        folder.mkdir(parents=True, exist_ok=True)
        spent = float(state.get("seconds", 0.0))
        start = time.monotonic()
        row = {"stage": name, "fingerprint": fingerprint, "inputs": dict(inputs)}
        write_atomically(folder / STAGE_FILE, json.dumps({**row, "done": False, "seconds": spent}, indent=2, default=_plain))
        try:
            action(folder)
        except BaseException:
            spent += time.monotonic() - start
            with suppress(StorageError):  # a disk that is full now must not hide what went wrong
                write_atomically(
                    folder / STAGE_FILE, json.dumps({**row, "done": False, "seconds": spent}, indent=2, default=_plain)
                )
            raise
        seconds = spent + time.monotonic() - start
        write_atomically(folder / STAGE_FILE, json.dumps({**row, "done": True, "seconds": seconds}, indent=2, default=_plain))
        self.console.print(f"[dim]{name}: {seconds:.1f} s[/dim]", highlight=False)
        stage = Stage(name, folder, fingerprint, seconds)
        self.done.append(stage)
        return stage

    def _folder(self, name: str, fingerprint: str) -> tuple[Path, dict[str, Any]]:
        """The stage's newest folder with this fingerprint, or the next free one."""
        numbered = stage_folders(self.runs, name)
        for number in sorted(numbered, reverse=True):
            state = stage_state(numbered[number])
            if state.get("fingerprint") == fingerprint:
                return numbered[number], state
        return self.runs / f"{name}-{max(numbered, default=0) + 1}", {}


def fingerprint_of(inputs: Any) -> str:
    """A digest of JSON-able inputs; equal inputs, in whatever order of keys, give equal fingerprints."""
    text = json.dumps(inputs, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(*paths: Path) -> str:
    """A digest of files' contents (folders: of all files in them). Files above 64 MiB count by size and time of change only."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            digest.update(file.name.encode())
            if not file.is_file():
                continue
            status = file.stat()
            if status.st_size > 64 * 2**20:
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            else:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Configurations as their fields; paths and the like as text."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
