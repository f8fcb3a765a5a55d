"""Ports for servers that tests start: given to no other worker of pytest-xdist, and to no connection that goes out."""

from __future__ import annotations

import os
import socket
from itertools import count

_FIRST, _PER_WORKER, _WORKERS = 20_000, 1_000, 12
"""Systems give connections that go out ports above these (Linux from 32,768): one could take a server's while it is down."""

_NUMBER = count(os.getpid())  # another run of the tests, at the same time, begins elsewhere


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % _WORKERS * _PER_WORKER
    for _ in range(_PER_WORKER):
        port = first + next(_NUMBER) % _PER_WORKER
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"every port from {first} to {first + _PER_WORKER - 1} is taken")
