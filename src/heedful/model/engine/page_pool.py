"""The key-value cache of the compiled pass: pages of 32 tokens that sequences hold and share.

A page holds the keys and values of all layers. Samples of one prompt share the prompt's full pages; each has its own last page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from heedful.functional.fast.decoder import PAGE, large_memory

_CHUNK_BYTES = 2**25  # memory is taken in chunks of at least this many bytes


class Pages:
    """Pages of ``page_bytes`` bytes, each identified by its address."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._chunks: list[torch.Tensor] = []
        self._free: list[int] = []
        self._holders: dict[int, int] = {}

    @property
    def num_held(self) -> int:
        """Number of pages that have a holder."""
        return len(self._holders)

    def take(self, count: int) -> list[int]:
        """Take pages with one holder each; their content is arbitrary."""
        while len(self._free) < count:
            self._grow(count - len(self._free))
        taken = [self._free.pop() for _ in range(count)]
        self._holders.update(dict.fromkeys(taken, 1))
        return taken

    def give_back(self, pages: Sequence[int]) -> None:
        """Remove one holder from each page; a page without a holder is free again."""
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                del self._holders[page]
                self._free.append(page)

    def share(self, pages: Sequence[int], length: int) -> list[int]:
        """Pages for another sequence with the same first ``length`` tokens: full pages are shared, the last one is copied."""
        full = length // PAGE
        for page in pages[:full]:
            self._holders[page] += 1
        copies = self.take(len(pages) - full)
        for source, copy in zip(pages[full:], copies, strict=True):
            ctypes.memmove(copy, source, self._page_bytes)
        return [*pages[:full], *copies]

    def _grow(self, count: int) -> None:
        number = max(count, _CHUNK_BYTES // self._page_bytes, 1)
        chunk = large_memory(number * self._page_bytes)
        self._chunks.append(chunk)
        first = chunk.data_ptr()
        self._free += [first + i * self._page_bytes for i in range(number)][::-1]
