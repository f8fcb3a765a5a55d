"""Keep freed memory of large temporaries in the process; returning it to the system at every step halves CPU training speed."""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_large_temporaries() -> bool:
    """Tell glibc to take large blocks from the heap and to keep its top when it is freed; returns True if it took effect.

    Each training step allocates and frees the same tensors of several megabytes. By default glibc maps and unmaps them, so the
    system must create every page again at each step. Other C libraries (musl, macOS) are left as they are.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # One arena, so that autograd's own thread reuses what the main thread freed, and vice versa.
    settings = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1))
    # A list, not a generator: if one setting is refused, the others must still be tried.
    accepted = [bool(libc.mallopt(parameter, value)) for parameter, value in settings]
    return all(accepted)


def give_back_memory() -> None:
    """Return freed memory to the system (glibc only). After :func:`keep_large_temporaries`, that does not happen by itself."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
