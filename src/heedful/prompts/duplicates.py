"""Duplicates by long common prefix (SPEC 1.2): the paper gives no number, so the length is ours.

Texts are compared without regard to case, width, compatibility forms and spacing. Two are duplicates if their first
``PREFIX_LENGTH`` characters are the same, or, where one is shorter, if they are the same as a whole. This relation is an
equivalence, so the classes do not depend on the order of the texts, and each class has one key: a hash of the prefix. A million
texts take a million hashes and one table. Comparing pairs, or neighbours after sorting, would not be transitive.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

from heedful.conversation import Turn, plain_text

PREFIX_LENGTH = 256
"""Characters after normalisation."""

_TAKEN = 8 * PREFIX_LENGTH


def normalized(text: str) -> str:
    """The text in the form that is compared: NFKC, case folded, single spaces, none at the ends."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def spoken_text(turns: Sequence[Turn]) -> str:
    """The part of a prompt that is compared: all but system messages, which many conversations of one application share."""
    return plain_text([turn for turn in turns if turn.role != "system"])


def compared(text: str) -> str:
    """The part that decides: the first PREFIX_LENGTH characters of the normalised text."""
    start = normalized(text[:_TAKEN])  # a prompt may be a book; its start is enough unless it is nearly all space
    if len(start) < 2 * PREFIX_LENGTH and len(text) > _TAKEN:
        start = normalized(text)
    return start[:PREFIX_LENGTH]


def prefix_key(text: str) -> int:
    """A 64-bit key that duplicates share; others share one with probability 2^-64 (a million prompts: 3 in 10^8)."""
    return int.from_bytes(blake2b(compared(text).encode(errors="surrogatepass"), digest_size=8).digest(), "big")
