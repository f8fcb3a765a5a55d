"""Texts of requests are erased when their key's time for keeping them is over: at the start, then once an hour."""

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
    """While this is open, a thread erases what has expired."""
    stop = threading.Event()

    def run() -> None:
        while True:
            try:
                with database.write() as connection:
                    erase_expired(connection)
            except HeedfulError as error:  # a busy database: the next turn does it
                log.error("expired texts could not be erased: %s", error.message)
            if stop.wait(every):
                return

    thread = threading.Thread(target=run, name="texts-expire", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)
