"""Small tables as plain text. Columns are as wide as their widest cell and never wrapped, so names and numbers stay whole."""

from __future__ import annotations

from collections.abc import Sequence


def plain_table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Return one line for each row, indented by two spaces. The first ``left`` columns are aligned left, all others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
