"""Round sizes up to a grid, because CPU matrix products compile and keep a kernel for each new shape.

With a new shape at each step, memory grows by 10 MB per step (docs/log.md). The plain version is the size itself.
"""

from __future__ import annotations

_STEPS_PER_POWER_OF_TWO = 16


def on_grid(size: int) -> int:
    """The smallest grid size that is at least ``size``: at most 1/16 more."""
    step = max(1, 2 ** (max(1, size).bit_length() - 1) // _STEPS_PER_POWER_OF_TWO)
    return -(-size // step) * step
