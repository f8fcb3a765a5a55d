"""Duplicates: an equivalence by the first characters of the normalised text, with a key that only duplicates share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.prompts.duplicates import PREFIX_LENGTH, compared, normalized, prefix_key

LONG = "Summarize the following letter to the housing association in three sentences, and keep the names of the streets. " * 3
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aA \n", max_size=12),
    st.builds(lambda start, end: LONG[:start] + end, st.integers(0, len(LONG)), st.text(max_size=20)),
)


def duplicates(first: str, second: str) -> bool:
    return prefix_key(first) == prefix_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Write a poem about  autumn.", "write a poem\nabout autumn. "),
        ("Ｗｒｉｔｅ a poem", "Write a poem"),  # full width
        ("STRASSE", "straße"),
        (LONG + "Dear Sir", LONG + "Dear Madam"),  # they part after the first 256 characters
    ],
)
def test_duplicates(first: str, second: str) -> None:
    assert duplicates(first, second)
    assert prefix_key(first) == prefix_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Write a poem about autumn.", "Write a poem about autumn, please."),  # a short text's whole decides
        ("Write a poem", "Write a poem about autumn."),
        (LONG[: PREFIX_LENGTH - 2] + "x" + LONG, LONG[: PREFIX_LENGTH - 2] + "y" + LONG),
        ("café", "cafe"),
    ],
)
def test_no_duplicates(first: str, second: str) -> None:
    assert not duplicates(first, second)
    assert prefix_key(first) != prefix_key(second)


@given(TEXTS, TEXTS, TEXTS)
def test_an_equivalence(first: str, second: str, third: str) -> None:
    assert duplicates(first, first)
    assert duplicates(first, second) == duplicates(second, first) == (compared(first) == compared(second))
    if duplicates(first, second) and duplicates(second, third):
        assert duplicates(first, third)


@given(st.text(max_size=60), st.integers(1, 80))
def test_a_long_text_is_compared_by_its_start_as_if_it_were_normalised_whole(piece: str, times: int) -> None:
    text = piece * times
    assert compared(text) == normalized(text)[:PREFIX_LENGTH]


def test_a_text_that_begins_with_much_space() -> None:
    assert compared(" " * 10_000 + LONG) == normalized(LONG)[:PREFIX_LENGTH]
