"""Save a model and its tokenizer in Hugging Face format, completely or not at all.

The folder loads in plain transformers, 4.57 and 5, with the same logits. It is written under a temporary name and then renamed,
so neither a kill nor a full disk leaves half a model.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import StorageError
from heedful.model.end_tokens import end_tokens
from heedful.model.lora import ADAPTER_FOLDER, is_adapted, merged, save_adapter
from heedful.model.older_readers import write_for_older_readers


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Write model and tokenizer to a folder in Hugging Face format, completely or not at all. Raises StorageError.

    A model with an adapter is merged and written as a plain model; the adapter is also saved separately, in ``adapter``.
    """

    def write(folder: Path) -> None:
        if is_adapted(model):
            merged(model).save_pretrained(folder)
            save_adapter(model, folder / ADAPTER_FOLDER)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _list_end_tokens(folder, model, tokenizer)
        write_for_older_readers(folder)

    write_folder(Path(path), write)


def _list_end_tokens(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add end tokens that only the tokenizer knows to generation_config.json, where other tools look for them."""
    path = folder / "generation_config.json"
    if path.is_file() and isinstance(tokenizer.eos_token_id, int):
        settings = json.loads(path.read_text(encoding="utf-8"))
        listed = settings.get("eos_token_id")
        ends = end_tokens(model, tokenizer)
        if set(ends) - set(listed if isinstance(listed, list) else [listed]):
            settings["eos_token_id"] = list(ends)
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


ASIDE = ".aside-"
"""Prefix of folders that are being written or removed. If a process is killed, such a folder is a leftover."""


def remove_leftovers(folder: Path) -> None:
    """Remove what killed calls of :func:`write_folder` left in a folder and below; no other process may be writing there."""
    for path in sorted(folder.rglob(f"{ASIDE}*")):
        shutil.rmtree(path, ignore_errors=True)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder beside ``path``, fsync it, and rename it to ``path``, replacing what was there.

    Raises StorageError if the system refuses to write (a full or failing disk, no permission). Then the new folder is removed,
    and an existing ``path`` is untouched.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}-", dir=path.parent))
        aside.chmod(0o755)
        write(aside)
        for file in aside.rglob("*"):
            _fsync(file)
        _fsync(aside)
        if path.exists():
            _exchange(aside, path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, path)
        _fsync(path.parent)
    except BaseException as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        # safetensors and torch wrap the operating system's error in their own classes.
        if isinstance(error, OSError) or "no space" in str(error).lower() or "i/o error" in str(error).lower():
            raise _refusal(error, path) from error
        raise


def _refusal(error: BaseException, path: Path) -> StorageError:
    """The error to raise: missing permissions need another next step than a full or failing disk."""
    again = "run the same command again: the last checkpoint is untouched"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            "writing is not permitted here",
            expected="a folder that you may write to",
            got=str(error),
            where=path,
            next_step=f"change its permissions, then {again}",
        )
    return StorageError(
        "the disk refused to write",
        expected="room for the whole folder",
        got=str(error),
        where=path,
        next_step=f"free some space and {again}",
    )


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: on Linux in one step, so one of them is always in place; elsewhere in three."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    if renameat2 is not None and renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) == 0:
        return
    between = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{old.name}-old-", dir=old.parent)) / old.name
    os.rename(old, between)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(between, old)
        raise
    else:
        os.rename(between, new)
    finally:
        between.parent.rmdir()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
