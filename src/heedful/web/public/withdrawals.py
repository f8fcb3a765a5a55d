"""After an opt-out: take the text out of the training data at once, and erase its other traces from a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from heedful.errors import HeedfulError
from heedful.labeling.database.connection import Database
from heedful.project.project import Project
from heedful.prompts.withdrawing import apply_withdrawals, apply_without_project, take_out
from heedful.web.app_settings import Settings
from heedful.web.routing import Visit
from heedful.web.security import log

GATHER_SECONDS = 5.0
"""How long the thread waits for more withdrawals after the first: erasing rewrites the whole database."""
PAGE_SECONDS = 5.0
"""How long a page waits for an import, or for the thread, to release the records."""
FIRST_WAIT, LONGEST_WAIT = 60.0, 300.0
"""Seconds until the next try if something is in the way, such as a training. The wait doubles each time."""


def clean_project(visit: Visit) -> str:
    """Take what was withdrawn out of the project's records, let the rest be erased soon; return the message for the page."""
    visit.request.app.state.eraser.wake()
    never = "Neither it nor anything made from it will be used for training."
    if visit.settings.project is None:
        return f"{never} What backups hold of it is erased next."
    try:
        taken = take_out(visit.database, Project.load(visit.settings.project), seconds=PAGE_SECONDS)
    except HeedfulError as error:
        log.warning("withdrawn text is still in the project's records: %s", error.message)
        return (
            "It will not be used for training any more. The project's records could not be cleaned yet: "
            "this is tried again soon, and before the next import or training."
        )
    erased = ", ".join(f"{count} {kind}" for kind, count in taken.erased.items() if count)
    said = [never, f"Erased from the project's records: {erased}."] if erased else [never]
    said.append(
        "What earlier runs, reports and backups hold of it is erased next, but not while a model is being trained. "
        "Your data says when that is done, and which models may have learned from it."
    )
    return " ".join(said)


class Eraser:
    """Erases withdrawn text everywhere, in a thread that wakes after each opt-out, and at the start for what is left."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._project = settings.project
        self._folder = None if settings.backups is None else settings.backups.parent
        self._awake = threading.Event()
        self._stopped = threading.Event()

    def wake(self) -> None:
        """Something was withdrawn."""
        self._awake.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Erase from a thread until the context ends. A process that is killed continues at its next start."""
        thread = threading.Thread(target=self._run, name="withdrawals", daemon=True)
        try:
            thread.start()
            yield
        finally:
            self._stopped.set()
            self._awake.set()
            if thread.is_alive():
                thread.join(timeout=60)

    def erase(self) -> bool:
        """Erase what there is to erase; return whether anything is left to do. It raises nothing."""
        try:
            if self._project is None:
                apply_without_project(self._database, self._folder)
                return False
            report = apply_withdrawals(self._database, Project.load(self._project))
        except HeedfulError as error:
            log.error("withdrawn text could not be erased everywhere yet: %s", error.message)
            return True
        except Exception:  # a file that another program has just removed, say; the thread must go on
            log.exception("withdrawn text could not be erased everywhere yet")
            return True
        for line in report.lines():
            log.info("%s", line)
        return report.waits

    def _run(self) -> None:
        wait: float | None = None  # until something is withdrawn
        while not self._stopped.is_set():
            self._awake.clear()
            wait = _longer(wait) if self.erase() else None
            if self._awake.wait(wait):
                wait = None
                self._stopped.wait(GATHER_SECONDS)


def _longer(wait: float | None) -> float:
    return FIRST_WAIT if wait is None else min(2 * wait, LONGEST_WAIT)
