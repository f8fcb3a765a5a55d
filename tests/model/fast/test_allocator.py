"""The allocator keeps large temporaries, and gives back what is free when it is told to (glibc only)."""

import platform
import subprocess
import sys

import pytest

# In a process of its own: the settings are the whole process's. Every second block stays, so that what is freed lies in holes.
_HOLES = """
import torch
from heedful.model.fast.allocator import give_back_memory, keep_large_temporaries

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

assert keep_large_temporaries()
blocks = [torch.ones(2**19) for _ in range(100)]
full = resident()
blocks = blocks[::2]
freed = resident()
give_back_memory()
print(full, freed, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_stay_until_they_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    full, freed, given_back = map(int, run.stdout.split())
    assert full - freed < 10 * 2**20
    assert freed - given_back > 90 * 2**20
