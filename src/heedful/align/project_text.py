"""A project's pretraining text: check it before any training, and encode it for the stages that learn from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from heedful.align.pretraining import VALIDATION_EVERY
from heedful.align.settings import Setting
from heedful.errors import DataError
from heedful.model.loading import load_tokenizer
from heedful.project.project import Project
from heedful.project.runs import newest_done
from heedful.training.pretraining_text import PretrainingText, encode_documents, pretraining_files, read_documents

READER = "initial_policy"
"""The first stage that reads the text. Once it is done, the text is known to be readable."""


def pretraining_text(setting: Setting, part: str) -> PretrainingText | None:
    """The project's text for training or validation (``part``: train or valid); None if it has none.

    Without files ``train.*`` and ``valid.*``, every 50th document is for validation.
    """
    project = setting.project
    if not project.pretraining_text.exists():
        return None
    tokenizer = load_tokenizer(setting.base_model)
    files = _files_of_parts(project.pretraining_text)
    if files is not None:
        return encode_documents(tokenizer, _documents(project, files[part]))
    documents = list(_documents(project, [project.pretraining_text]))
    kept_out = range(VALIDATION_EVERY - 1, len(documents), VALIDATION_EVERY)
    chosen = [d for i, d in enumerate(documents) if (i in kept_out) == (part == "valid")]
    return encode_documents(tokenizer, chosen or documents)


def check_text(setting: Setting) -> None:
    """Read all pretraining text, because a bad byte would stop a stage after hours of training.

    It is skipped if no stage uses the text, or once a stage has read it. Raises DataError, MissingError.
    """
    project, preset = setting.project, setting.preset
    unused = not (preset.ppo.ptx_coefficient or preset.initial_policy.pretraining_share)
    if unused or not project.pretraining_text.exists() or newest_done(project.runs, READER) is not None:
        return
    files = _files_of_parts(project.pretraining_text) or {"train": [project.pretraining_text]}
    for part, some in files.items():
        if not sum(1 for document in _documents(project, some) if document.strip()):
            raise DataError(
                f"there is no pretraining text to {'train on' if part == 'train' else 'validate on'}",
                expected="at least one document that is not empty",
                got="none",
                where=some[0],
                next_step="add text there, or remove the folder to do without PPO-ptx",
            )


def _documents(project: Project, files: list[Path]) -> Iterator[str]:
    for file in files:
        yield from read_documents(file, encoding=project.pretraining_encoding)


def _files_of_parts(folder: Path) -> dict[str, list[Path]] | None:
    """The files ``train.*`` and ``valid.*``; None if one of them is missing, and then all files are one text."""
    names = {file: file.name.lower().split(".")[0] for file in pretraining_files(folder)}
    if not {"train", "valid"} <= set(names.values()):
        return None
    others = [file.name for file, name in names.items() if name not in ("train", "valid")]
    if others:
        raise DataError(
            "besides train and valid there is other pretraining text",
            expected="only files train.* and valid.*, or only files with other names",
            got=", ".join(others[:5]),
            where=folder,
            next_step="rename or move the others",
        )
    return {part: [file for file, name in names.items() if name == part] for part in ("train", "valid")}
