"""Stores models' answers to benchmark items one by one, so that a killed run can continue where it stopped.

A run's folder has a folder for each model. There, each series of items has two files: ``NAME.jsonl`` with one row for each
item, appended and flushed to the disk batch by batch, and ``NAME.settings.json`` with the settings. Rows are reused only if all
settings are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks.task_table import Item
from heedful.project.files import append_jsonl, read_jsonl, write_atomically

_HASHED = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of all model files that affect its answers."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def item_digest(item: Item) -> str:
    """Return a short digest of an item. It changes with any prompt, example, choice or reference."""
    text = json.dumps(asdict(item), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those of the stored rows. Raises ConfigError if they differ."""
    if not path.is_file():
        write_atomically(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON", expected="settings of an earlier run", got=str(error), where=path) from None
    for name in sorted({*settings, *earlier}):
        if settings.get(name) != earlier.get(name):
            raise ConfigError(
                f"this folder holds answers with another {name}",
                expected=f"{earlier.get(name)}",
                got=f"{settings.get(name)}",
                where=path,
                next_step="give another --out, or remove that series' files to ask again",
            )


def stored_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Read the stored rows, by item. A last line cut short by a kill is removed. Raises DataError, StorageError."""
    if not path.is_file():
        return {}
    append_jsonl(path, [])
    found: dict[str, dict[str, Any]] = {}
    for line, row in read_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise DataError(
                f"line {line} of {path.name} is not an answer to an item",
                expected='an object with "id"',
                got=repr(row)[:80],
                where=f"{path}:{line}",
                next_step="remove the line: the item is asked again",
            )
        found[row["id"]] = row
    return found


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows and flush them to the disk, all or none. Raises StorageError."""
    append_jsonl(path, rows)


def check_same_items(path: Path, stored: Mapping[str, Mapping[str, Any]], items: Sequence[Item]) -> None:
    """Raise ConfigError if a stored row answers a different question than the item with its id."""
    for item in items:
        row = stored.get(item.id)
        if row is not None and row.get("item") != item_digest(item):
            raise ConfigError(
                f"the stored answer to the item {item.id!r} belongs to another question",
                expected="the same data, examples and seed as in the earlier run",
                got="another prompt, choice or reference",
                where=path,
                next_step="give another --out, or remove that series' files to ask again",
            )
