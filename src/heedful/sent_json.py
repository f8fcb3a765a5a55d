"""JSON that strangers send: read so strictly that nothing after it stumbles over what Python's parser lets through."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any, NoReturn

_CONTAINERS = (dict, list)
DEEPEST = 200
"""Lists and objects within each other. Python's own limit would be reached somewhere else, with the same text."""


def read_json(sent: bytes) -> Any:
    """The value that a body holds.

    Raises ValueError if it is no JSON, holds an infinite number or half of a surrogate pair, or is nested too deeply.

    Python's parser takes all of these, and UTF-16 too (RFC 8259 allows only UTF-8). They would fail later: neither infinity nor
    half of a surrogate pair can be written again, nor a list that is as deep as the parser can read.
    """
    text = sent.decode("utf-8-sig")
    try:
        found = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST and not _is_shallow(found):
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if "\\ud" in text or "\\uD" in text:
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number("a number over 1.8e308")


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def _is_shallow(value: Any) -> bool:
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(DEEPEST):
        if not level:
            return True
        inner = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in inner if isinstance(one, _CONTAINERS)]
    return not level
