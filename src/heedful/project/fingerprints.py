"""Short digests that tell whether something changed: a stage's inputs, a file's contents, records."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from heedful.project.data_folder import Record, first_format


def fingerprint_of(inputs: Any) -> str:
    """A digest of values that fit into JSON. The order of a mapping's keys does not matter."""
    text = json.dumps(inputs, sort_keys=True, default=as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_json(value: Any) -> Any:
    """For ``json.dumps``: a configuration becomes its fields, a path and the like become text."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def digest_of_records(records: Iterable[Record]) -> str:
    """A digest of records, in order. It does not depend on how their file was written, or by which version of Heedful."""
    return fingerprint_of([first_format(record) for record in records])


def digest_of_files(*paths: Path) -> str:
    """A digest of files' contents; a folder stands for all its files. Above 64 MiB, only size and modification time count."""
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
