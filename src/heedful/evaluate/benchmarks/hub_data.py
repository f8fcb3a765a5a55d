"""Fetches the benchmarks' data sets from the Hugging Face hub: only on request, at a recorded revision.

``DATA/TASK/hub.json`` names the repository, the commit and the SHA-256 of each file. Later fetches use the same commit. The
address is ``$HF_ENDPOINT``, else the hub's own; a token comes from ``huggingface_hub``'s own storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.errors import DataError, MissingError
from heedful.evaluate.benchmarks.benchmark_data import data_file
from heedful.evaluate.benchmarks.task_table import Task
from heedful.project.files import write_atomically

RECORD = "hub.json"
ADDRESS = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A task's place on the hub."""

    repository: str
    files: Mapping[str, str]
    """Name in the task's folder, without its suffix -> pattern of the one file in the repository."""


def _splits(folder: str, *names: str) -> dict[str, str]:
    return {name: f"{folder}/{name}-*.parquet" for name in names}


SOURCES: Mapping[str, HubSource] = {
    "real_toxicity_prompts": HubSource(repository="allenai/real-toxicity-prompts", files={"prompts": "prompts.jsonl"}),
    "truthfulqa": HubSource(repository="truthfulqa/truthful_qa", files=_splits("generation", "validation")),
    "drop": HubSource(repository="ucinlp/drop", files=_splits("data", "validation", "train")),
    "squad_v2": HubSource(repository="rajpurkar/squad_v2", files=_splits("squad_v2", "validation", "train")),
    "hellaswag": HubSource(repository="Rowan/hellaswag", files=_splits("data", "validation", "train")),
    "rte": HubSource(repository="aps/super_glue", files=_splits("rte", "validation", "train")),
    "wsc": HubSource(repository="aps/super_glue", files=_splits("wsc", "validation", "train")),
    "sst": HubSource(repository="stanfordnlp/sst2", files=_splits("data", "validation", "train")),
    "cnn_dm": HubSource(repository="abisee/cnn_dailymail", files=_splits("3.0.0", "test")),
}
"""We know no plain tables of the other tasks on the hub; docs/public-benchmarks.md names their sources."""


def fetch_missing(tasks: Sequence[Task], data: Path, console: Console) -> None:
    """Fetch the data of these tasks that ``data`` lacks and the hub has. Other tasks are left alone.

    Raises MissingError without `huggingface_hub` or without a connection, DataError if a repository is not as expected.
    """
    wanted = [task for task in tasks if task.name in SOURCES and data_file(data, task.name, task.files) is None]
    if wanted and find_spec("huggingface_hub") is None:
        raise MissingError(
            "fetching data sets from the hub needs huggingface_hub",
            expected="the package huggingface_hub",
            got="no such package",
            next_step="pip install huggingface_hub, or put the files there yourself: docs/public-benchmarks.md names them",
        )
    for task in wanted:
        console.print(f"fetching {task.title} from {SOURCES[task.name].repository}", highlight=False, markup=False)
        _fetch(task.name, SOURCES[task.name], data / task.name)


def _fetch(task: str, source: HubSource, folder: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    address = os.environ.get("HF_ENDPOINT", ADDRESS).rstrip("/")
    pinned = _pinned(folder / RECORD, source.repository)
    record: dict[str, Any] = {"repository": source.repository, "files": {}}
    try:
        info = HfApi(endpoint=address).dataset_info(source.repository, revision=pinned)
        record["revision"] = str(info.sha)
        names = [one.rfilename for one in info.siblings or []]
        fetched = {
            stem: Path(
                hf_hub_download(
                    source.repository,
                    _only(names, pattern, source, str(info.sha)),
                    repo_type="dataset",
                    revision=str(info.sha),
                    endpoint=address,
                )
            )
            for stem, pattern in source.files.items()
        }
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as error:  # the library raises errors of several layers below it
        first = str(error).strip().splitlines()
        raise MissingError(
            f"the data of {task} cannot be fetched",
            expected=f"the repository {source.repository} at {address}",
            got=f"{type(error).__name__}: {first[0] if first else 'no reason given'}",
            where=folder,
            next_step="check the connection and HF_ENDPOINT, or put the files there: docs/public-benchmarks.md names them",
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for stem, path in fetched.items():
        target = folder / f"{stem}{path.suffix}"
        aside = folder / f".{target.name}.tmp"
        shutil.copyfile(path, aside)
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record["files"][target.name] = digest
        aside.replace(target)
    write_atomically(folder / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")


def _pinned(record: Path, repository: str) -> str | None:
    """Return the commit that an earlier call used."""
    try:
        value = json.loads(record.read_text(encoding="utf-8"))
        return str(value["revision"]) if value["repository"] == repository else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _only(names: Sequence[str], pattern: str, source: HubSource, revision: str) -> str:
    found = [name for name in names if fnmatch(name, pattern)]
    if len(found) != 1:
        raise DataError(
            f"{source.repository} is not as expected",
            expected=f"one file {pattern}",
            got=f"{len(found)} of {len(names)} files" if found else ", ".join(names[:6]) or "no files",
            where=f"{source.repository} at {revision}",
            next_step="download the file yourself: docs/public-benchmarks.md names the files",
        )
    return found[0]
