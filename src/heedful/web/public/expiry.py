"""Erase texts of requests once their key's ``keep_days`` are over: at the start, then once an hour."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from heedful.errors import HeedfulError
from heedful.labeling.database.connection import Database
from heedful.labeling.usage.api_keys import erase_expired
from heedful.web.security import log

EVERY_SECONDS = 3_600.0


@contextmanager
def texts_expire(database: Database, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Erase expired texts now, and again from a thread until the context ends.

    The first time uses no thread, so an application that stops while it starts leaves no thread that uses the database.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            _erase(database)

    _erase(database)
    thread = threading.Thread(target=run, name="texts-expire", daemon=True)
    try:
        thread.start()
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join(timeout=60)


def _erase(database: Database) -> None:
    try:
        with database.write() as connection:
            erase_expired(connection)
    except HeedfulError as error:  # a busy database: the next turn does it
        log.error("expired texts could not be erased: %s", error.message)
