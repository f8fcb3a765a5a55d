"""The moment at which something happens: one that the caller names, as tests do, or the present."""

from __future__ import annotations

import time


def moment(now: float | None) -> float:
    """Seconds since 1970: ``now``, or the present for None."""
    return time.time() if now is None else now
