"""Sizes and digests of a finished stage's files, kept in its ``stage.json``: they show whether a file was damaged or lost.

Files up to 1 MiB are read again each time. Larger ones are read only if their modification time has changed, so that the check
is fast with models of any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.project.runs import STAGE_FILE, stage_state, write_state

OUTPUTS = "outputs"
"""The key of ``stage.json``: path in the folder -> [bytes, modification time in nanoseconds, SHA-256]."""
_ALWAYS_READ = 2**20


def described_outputs(folder: Path) -> dict[str, list[Any]]:
    """All files in a stage's folder except ``stage.json``."""
    return {path.relative_to(folder).as_posix(): _described(path) for path in _files(folder)}


def check_outputs(stage: str, folder: Path, state: Mapping[str, Any]) -> None:
    """Raises DataError naming the first file that is not as it was when the stage ended.

    Files that came later are ignored, and so is what was added later to an empty file: people rank an evaluation's answers
    after its stage has ended. A ``stage.json`` of an older version has no digests: nothing is checked.
    """
    for name, (size, changed, digest) in state.get(OUTPUTS, {}).items():
        path = folder / name
        try:
            status = path.stat()
            if not size:
                continue
            if status.st_size != size:
                found = f"{status.st_size:,} bytes"
            elif (size > _ALWAYS_READ and status.st_mtime_ns == changed) or _digest(path) == digest:
                continue
            else:
                found = "the same number of bytes, but different ones"
        except FileNotFoundError:
            found = "no such file"
        except OSError as error:
            found = error.strerror or str(error)
        raise DataError(
            f"an output of the finished stage {stage} is damaged",
            expected=f"the {size:,} bytes that the stage wrote",
            got=found,
            where=path,
            next_step=f"restore the file from a copy, or remove the folder {folder}: the stage is then done again",
        )


def forget_description(folder: Path, path: Path) -> bool:
    """Before a stage's output is rewritten on purpose: stop expecting its old bytes. Returns whether they were expected."""
    state, name = stage_state(folder), path.relative_to(folder).as_posix()
    if name not in state.get(OUTPUTS, {}):
        return False
    del state[OUTPUTS][name]
    write_state(folder, state)
    return True


def describe_again(folder: Path, path: Path) -> None:
    """After a stage's output was rewritten on purpose: expect its new bytes."""
    state = stage_state(folder)
    state[OUTPUTS][path.relative_to(folder).as_posix()] = _described(path)
    write_state(folder, state)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / STAGE_FILE)


def _described(path: Path) -> list[Any]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, _digest(path)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
