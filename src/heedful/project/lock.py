"""One process at a time in a folder of runs: two would write into each other's checkpoints and logs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from heedful.errors import BusyError, StorageError

LOCK_FILE = ".lock"


@contextmanager
def alone_in(runs: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when this process ends, however it ends.

    On a file system without locks (some network ones), nothing is guarded. Raises BusyError if another process holds the lock,
    StorageError.
    """
    path = runs / LOCK_FILE
    try:
        runs.mkdir(parents=True, exist_ok=True)
        file = open_lock_file(path)
    except OSError as error:
        raise StorageError("the runs folder cannot be written", got=str(error), where=path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _busy(path) from None
            yield  # no locks here
            return
        # Write into the locked file itself: a new file in its place would have no lock.
        file.truncate(0)
        file.seek(0)
        file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "command": _command()}) + "\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def open_lock_file(path: Path) -> TextIO:
    """Open or create a file to lock, and change nothing in it. A symbolic link is refused: its target is not ours to write."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+", encoding="utf-8")


def _busy(path: Path) -> BusyError:
    try:
        other = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {other['process']} on {other['machine']}: {other['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock and has not written yet
        who = "another process"
    return BusyError(
        "another process is using this folder",
        expected="one `heedful align`, `sweep` or `pretrain` at a time in a folder of runs",
        got=who,
        where=path.parent,
        next_step="wait until it is done, or stop it and run this again: it continues from the last checkpoint",
    )


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
