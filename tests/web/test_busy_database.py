"""While another process holds SQLite's write lock, pages answer, and no change is lost in silence."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from tests.web.served import served
from tests.web.site import Site, make_site

from heedful.errors import BusyError
from heedful.labeling.database import connection as database_connection
from heedful.labeling.database.connection import open_database
from heedful.labeling.people import accounts
from heedful.web import routing


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.database.close()


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    """The write lock, held until the end or a rollback."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_waiting_changes_leave_the_pages_their_threads(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty changes wait for the lock: more than the server has threads for pages (40)."""
    monkeypatch.setattr(routing, "MOST_WAITING", 34)
    admin = site.browser(site.person("admin"))
    headers = {"X-CSRF-Token": admin.csrf}
    cookies = dict(admin.client.cookies)
    # A worker sees whether others wait when it comes: all changes are there before the lock is free again.
    with served(site.app) as url, httpx.Client(base_url=url, cookies=cookies, timeout=120) as page:

        def invite(_: int) -> httpx.Response:
            # Without certificates, which each client would read from the disk.
            with httpx.Client(base_url=url, cookies=cookies, headers=headers, timeout=120, verify=False) as client:
                return client.post("/api/v1/invites", json={"role": "labeler"})

        with locked(tmp_path / "labels.sqlite") as lock, ThreadPoolExecutor(60) as threads:
            changes = [threads.submit(invite, n) for n in range(60)]
            refused = next(change for change in _as_they_end(changes) if change.status_code == 503)
            began = time.perf_counter()
            assert page.get("/console").status_code == 200
            waited = time.perf_counter() - began
            lock.rollback()
            statuses = Counter(change.result().status_code for change in changes)
    assert waited < 30, "the page did not wait until the lock was free"
    assert refused.headers["retry-after"] == str(routing.RETRY_SECONDS)
    assert refused.json()["title"] == "The server is busy"
    assert set(statuses) == {200, 503}
    with site.database.read() as connection:
        assert len(accounts.open_invites(connection)) == statuses[200] >= routing.CHANGES_AT_ONCE, (
            "what was acknowledged is stored"
        )


def _as_they_end(changes: list) -> Iterator[httpx.Response]:
    until = time.monotonic() + 100
    seen: set[int] = set()
    while time.monotonic() < until:
        for number, change in enumerate(changes):
            if number not in seen and change.done():
                seen.add(number)
                yield change.result()
        time.sleep(0.01)
    raise AssertionError("no change was refused")


def test_a_lock_that_does_not_end_is_said(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a 500: the page says that the server is busy, and when to try again."""
    monkeypatch.setattr(database_connection, "BUSY_SECONDS", 0.2)
    impatient = open_database(tmp_path / "labels.sqlite")
    person_id = site.person("admin")
    browser = site.browser(person_id)
    site.app.state.database._writer.dispose()  # its connections wait for 30 s; new ones as the setting says
    with locked(tmp_path / "labels.sqlite"):
        with pytest.raises(BusyError, match="another change has been going on"), impatient.write():
            pass
        sent = browser.post("/admin/invites", {"role": "labeler", "group": "training", "number": "1"})
    impatient.close()
    assert (sent.status_code, sent.headers["retry-after"]) == (503, "5")
    assert "The server is busy" in sent.text
    assert "labels.sqlite" not in sent.text


def test_a_change_waits_for_its_turn_no_longer_than_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "BUSY_SECONDS", 0.2)
    with site.database.write(), ThreadPoolExecutor(1) as threads:

        def write() -> None:
            with site.database.write():
                pass

        with pytest.raises(BusyError):
            threads.submit(write).result()
    write()
