"""Passwords as argon2id hashes. A check takes the same time whether or not there is an account."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from heedful.errors import DataError, ThrottledError

SHORTEST = 10
"""In characters. Length is what counts (NIST SP 800-63B), so no rule asks for digits or symbols."""
LONGEST = 200

HASHER = PasswordHasher(time_cost=3, memory_cost=47_104, parallelism=1)
"""argon2id with 46 MiB, as in OWASP's first recommendation, but with more passes."""

_AT_ONCE = threading.BoundedSemaphore(2)
"""Each hash needs 46 MiB and a core: more at once would slow down the labelers."""
LONGEST_QUEUE = 8
"""Hashes running and waiting. Each waiting one holds a thread that pages need, so further ones are refused at once."""
_queue = threading.BoundedSemaphore(LONGEST_QUEUE)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for a turn to hash. Raises ThrottledError if too many wait already."""
    if not _queue.acquire(blocking=False):
        raise ThrottledError(
            "too many people are logging in at this moment", wait_seconds=5, next_step="try again in a few seconds"
        )
    try:
        with _AT_ONCE:
            yield
    finally:
        _queue.release()


def hash_password(password: str) -> str:
    """The argon2id hash of a password. Raises DataError for one that is too short or too long."""
    check_password(password)
    with _turn():
        return HASHER.hash(password)


def check_password(password: str) -> None:
    """Raise DataError for a password that is too short, too long, or repeats a few characters."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise DataError(
            "the password is too short" if len(password) < SHORTEST else "the password is too long",
            expected=f"{SHORTEST} to {LONGEST} characters",
            got=f"{len(password)}",
            next_step="several words in a row are easy to remember and hard to guess",
        )
    if len(set(password)) < 4:
        raise DataError("the password is too easy to guess", expected="more than three different characters")


def is_password(password: str, password_hash: str | None) -> bool:
    """Whether this is the password. Without a hash, it does the same work and returns False."""
    with _turn():
        try:
            return HASHER.verify(password_hash or _nobodys_hash(), password[:LONGEST]) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False


@cache
def _nobodys_hash() -> str:
    return HASHER.hash("nobody has this password")
