"""Keep large temporaries inside the process: returning them to the system at every step halves CPU training speed."""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_large_temporaries() -> bool:
    """Tell glibc to serve large blocks from the heap and never to give back the top of the heap; True if it took effect.

    Each training step allocates and frees the same tensors of several megabytes. By default glibc maps and unmaps them, so
    every page must be made again at each step. Other C libraries (musl, macOS) are left as they are.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # One arena: autograd's own thread then reuses what the main thread freed, and the other way round.
    settings = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1))
    # A list, not a generator: one refused setting must not keep the others from being tried.
    accepted = [bool(libc.mallopt(parameter, value)) for parameter, value in settings]
    return all(accepted)


def give_back_memory() -> None:
    """Return freed memory to the system, which :func:`keep_large_temporaries` does not do by itself (glibc only)."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
