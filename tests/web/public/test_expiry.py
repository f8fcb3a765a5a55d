"""Texts that have expired are erased at the start, and from then on by a thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.web.site import Site

from heedful.web.public import expiry


def test_the_first_erasure_is_over_before_the_thread_starts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopped as it starts closes its database: no thread may have a connection to it."""
    erased_by: list[threading.Thread] = []
    again = threading.Event()

    def erase(_: Any) -> None:
        erased_by.append(threading.current_thread())
        if len(erased_by) > 1:
            again.set()

    monkeypatch.setattr(expiry, "erase_expired", erase)
    with expiry.texts_expire(site.database, every=0.01):
        assert erased_by[0] is threading.current_thread()
        assert again.wait(60)
    assert not any(thread.is_alive() for thread in erased_by[1:])


def test_a_stop_while_the_thread_starts_leaves_no_thread(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: threading.Thread) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(threading.Thread, "start", stopped)
    with pytest.raises(SystemExit), expiry.texts_expire(site.database):
        pytest.fail("the server must not start")
