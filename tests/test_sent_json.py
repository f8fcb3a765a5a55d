"""JSON that strangers send: what Python's parser lets through and what would fail later is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.sent_json import DEEPEST, read_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(PLAIN)
def test_what_is_json_is_read(value: Any) -> None:
    assert read_json(json.dumps(value).encode()) == value
    assert read_json(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b"[Infinity]",
        b"-Infinity",
        b"[1e999]",
        b"[-1e999]",
        b'"\\ud800"',
        b'{"\\uDC00": 1}',
        b'"\xed\xa0\x80"',  # half of a pair as CESU-8 spells it
        '"x\ud800"'.encode("utf-16-le", "surrogatepass"),
        '"x"'.encode("utf-16"),
        b"\xff",
        b"\x1f\x8b\x08\x00",
        b"9" * 5_000,
        b"[" * 100_000,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1),
    ],
    ids=lambda sent: repr(sent[:20]),
)
def test_what_would_fail_later_is_refused(sent: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(sent)


def test_many_lists_beside_each_other_are_not_deep() -> None:
    assert len(read_json(json.dumps([[1]] * 10_000).encode())) == 10_000
    assert read_json(b"[" * DEEPEST + b"]" * DEEPEST)
    assert read_json(json.dumps("[" * 10_000).encode()) == "[" * 10_000
    assert read_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
