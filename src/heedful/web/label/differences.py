"""Word-level differences between two texts: of two outputs on demand, of two versions of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Change = Literal["same", "removed", "added"]

MAX_WORDS = 10_000
"""Words compared in each text. Longer comparisons would keep a labeler waiting, so the rest counts as one piece."""

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text that both have, or only the first (removed), or only the second (added)."""

    change: Change
    text: str


def word_differences(first: str, second: str) -> list[Piece]:
    """The changes from ``first`` to ``second`` in whole words.

    The pieces without "added" give ``first``; those without "removed" give ``second``. The method is a longest common
    subsequence of words, spaces and punctuation. A short match between larger changes ("of", a comma) counts as part of the
    change, so that two sentences with nothing in common do not look like a mosaic.
    """
    a, b = _TOKEN.findall(first), _TOKEN.findall(second)
    rest_a, rest_b = "".join(a[MAX_WORDS:]), "".join(b[MAX_WORDS:])
    pieces = _without_crumbs(_joined(_aligned(a[:MAX_WORDS], b[:MAX_WORDS])))
    if rest_a == rest_b:
        return _joined([*pieces, Piece("same", rest_a)])
    return _joined([*pieces, Piece("removed", rest_a), Piece("added", rest_b)])


def side(pieces: list[Piece], which: Literal["first", "second"]) -> list[Piece]:
    """The pieces of one side when two texts are shown next to each other."""
    other: Change = "added" if which == "first" else "removed"
    return [piece for piece in pieces if piece.change != other]


def share_in_common(pieces: list[Piece]) -> float:
    """The share of both texts' characters that is the same; 1 for two equal (or two empty) texts."""
    same = 2 * sum(len(piece.text) for piece in pieces if piece.change == "same")
    total = same + sum(len(piece.text) for piece in pieces if piece.change != "same")
    return same / total if total else 1.0


def _aligned(a: list[str], b: list[str]) -> list[Piece]:
    """Longest common subsequence, bit-parallel: one integer of len(a) bits per token of b.

    Hyyrö, "Bit-parallel LCS-length computation revisited", 2004; the backtracking is that of rapidfuzz. Repetitive text,
    which models do write, costs no more than other text (difflib needs seconds for it).
    """
    full = (1 << len(a)) - 1
    places: dict[str, int] = {}
    for index, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << index
    rows, state = [], full
    for token in b:
        met = state & places.get(token, 0)
        state = ((state + met) | (state - met)) & full
        rows.append(state)
    pieces: list[Piece] = []
    i, j = len(a), len(b)
    while i and j:
        if rows[j - 1] >> (i - 1) & 1:
            i -= 1
            pieces.append(Piece("removed", a[i]))
            continue
        j -= 1
        if j and not rows[j - 1] >> (i - 1) & 1:
            pieces.append(Piece("added", b[j]))
        else:
            i -= 1
            pieces.append(Piece("same", a[i]))
    pieces += [Piece("removed", a[k]) for k in reversed(range(i))] + [Piece("added", b[k]) for k in reversed(range(j))]
    return pieces[::-1]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """One piece for each run: what is the same, then what was removed, then what was added in its place."""
    joined: list[Piece] = []
    removed, added = "", ""
    for piece in [*pieces, Piece("same", "")]:
        if piece.change == "removed":
            removed += piece.text
        elif piece.change == "added":
            added += piece.text
        else:
            joined += [one for one in (Piece("removed", removed), Piece("added", added)) if one.text]
            removed, added = "", ""
            if piece.text and joined and joined[-1].change == "same":
                joined[-1] = Piece("same", joined[-1].text + piece.text)
            elif piece.text:
                joined.append(piece)
    return joined


def _without_crumbs(pieces: list[Piece]) -> list[Piece]:
    """Make a match part of the changes around it if it is no longer than either of them."""

    def size(step: int, index: int) -> int:
        longest = 0
        while 0 <= (index := index + step) < len(pieces) and pieces[index].change != "same":
            longest = max(longest, len(pieces[index].text))
        return longest

    kept: list[Piece] = []
    for index, piece in enumerate(pieces):
        around = min(size(-1, index), size(1, index)) if piece.change == "same" else 0
        crumb = around > 0 and len(piece.text.strip()) <= around
        kept += [Piece("removed", piece.text), Piece("added", piece.text)] if crumb else [piece]
    return _joined(kept)
