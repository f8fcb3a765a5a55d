"""How the report writes numbers, names and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def percent(value: float, digits: int = 1) -> str:
    """Write 0.734 as "73.4 %" (with a non-breaking space)."""
    return f"{100 * value:.{digits}f}\u00a0%"


def points(value: float) -> str:
    """Write a difference of shares: 0.051 as "5.1 points"."""
    return f"{100 * value:.1f}\u00a0points"


def interval(row: Mapping[str, Any], digits: int = 1) -> str:
    """Write the row's low and high as "71.4–75.4 %"."""
    return f"{100 * row['low']:.{digits}f}\u2013{100 * row['high']:.{digits}f}\u00a0%"


def signed(value: float, digits: int = 1) -> str:
    """Write a difference of shares in points with its sign: a real minus sign, never "-0.0"."""
    text = f"{abs(100 * value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else chr(0x2212)}{text}"


def number(value: float | None, digits: int = 2) -> str:
    """Write a plain number, or a dash for None."""
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Write seconds as "0.4 s", "48 s", "3 min 07 s" or "2 h 05 min"."""
    if seconds < 59.5:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def words(name: str) -> str:
    """Write an identifier as words: "fails_task" as "fails task", "open_qa" as "open QA", "ppo_ptx" as "PPO-ptx"."""
    spelled = {"qa": "QA", "sft": "SFT", "ppo": "PPO"}
    return " ".join(spelled.get(word, word) for word in name.split("_")).replace("PPO ptx", "PPO-ptx")


def visible(text: str) -> str:
    """Replace control and text-direction characters with visible escapes, so that a NUL or an override has no effect."""
    return text.translate(_ESCAPES)


def commands(text: str) -> Markup:
    """Escape the text and turn backticks into code elements."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts))
