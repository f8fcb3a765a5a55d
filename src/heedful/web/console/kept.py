"""Cache slow numbers for a while: agreement over thousands of answers for minutes, counts for seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from heedful.web.security import log

if TYPE_CHECKING:
    from heedful.web.routing import Visit

Value = TypeVar("Value")

MOST_SECONDS = 600.0
TIMES = 100
"""A value that took one second is kept for this many seconds, at most ``MOST_SECONDS``. Small databases stay fresh."""
MOST_VALUES = 40


@dataclass(frozen=True, slots=True)
class KeptValue(Generic[Value]):
    """A value, and when it was computed."""

    value: Value
    at: float
    seconds: float
    """How long computing it took."""

    @property
    def fresh(self) -> bool:
        """Whether it is recent enough."""
        return time.time() - self.at < min(MOST_SECONDS, TIMES * self.seconds)


class Kept:
    """Values by key. An old value is shown once more while a thread computes a new one; only the first visitor waits."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, KeptValue[Any]] = OrderedDict()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> KeptValue[Value]:
        """The kept value, or a new one."""
        with self._guard:
            found, lock = self._values.get(key), self._locks.setdefault(key, threading.Lock())
        if found is None:
            with lock:  # simultaneous visitors wait for the first one's result
                found = self._values.get(key)
                return self._compute(key, make) if found is None else found
        if not found.fresh and lock.acquire(blocking=False):
            try:
                if TIMES * found.seconds < MOST_SECONDS / 20:  # quick to compute: no need to show the old value
                    return self._compute(key, make)
            finally:
                lock.release()
            threading.Thread(target=self._renew, args=(key, make, lock), daemon=True).start()
        return found

    def drop(self, key: Hashable) -> None:
        """Forget a value, because what it counts has just changed."""
        with self._guard:
            self._values.pop(key, None)

    def _renew(self, key: Hashable, make: Callable[[], Any], lock: threading.Lock) -> None:
        if not lock.acquire(blocking=False):
            return
        try:
            self._compute(key, make)
        except Exception:  # the old value stays; the next visitor starts it again
            log.exception("could not compute %r again", key)
        finally:
            lock.release()

    def _compute(self, key: Hashable, make: Callable[[], Value]) -> KeptValue[Value]:
        started = time.monotonic()
        value = make()
        kept = KeptValue(value, time.time(), time.monotonic() - started)
        with self._guard:
            self._values[key] = kept
            self._values.move_to_end(key)
            while len(self._values) > MOST_VALUES:
                old, _ = self._values.popitem(last=False)
                self._locks.pop(old, None)
        return kept


def kept_of(visit: Visit) -> Kept:
    """The application's cache."""
    state = visit.request.app.state
    if not hasattr(state, "kept"):
        state.kept = Kept()
    return state.kept
