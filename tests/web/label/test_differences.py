from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.quick import takes_less_than

from heedful.web.label.differences import Piece, share_in_common, side, word_differences

TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", " ", "  ", "\n", ".", "é", "ﷺ", "猫", "<b>", "it's"]), max_size=30).map(
    "".join
)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@settings(deadline=None, max_examples=200)
@given(TEXTS, TEXTS)
def test_both_sides_are_the_texts_themselves(first: str, second: str) -> None:
    pieces = word_differences(first, second)
    assert text_of(side(pieces, "first")) == first
    assert text_of(side(pieces, "second")) == second
    assert all(piece.text for piece in pieces)


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_nothing_differs_from_itself(text: str) -> None:
    assert all(piece.change == "same" for piece in word_differences(text, text))
    assert share_in_common(word_differences(text, text)) == 1


def test_whole_words_change() -> None:
    assert word_differences("The cat sat.", "The cats sat.") == [
        Piece("same", "The "),
        Piece("removed", "cat"),
        Piece("added", "cats"),
        Piece("same", " sat."),
    ]


def test_neighbouring_changes_read_as_one() -> None:
    assert word_differences("I like old books.", "I like new plays.") == [
        Piece("same", "I like "),
        Piece("removed", "old books"),
        Piece("added", "new plays"),
        Piece("same", "."),
    ]


def test_what_two_texts_share_by_chance_is_no_mosaic() -> None:
    assert word_differences("Yes, of course I can.", "Paris, capital of France") == [
        Piece("removed", "Yes, of course I can."),
        Piece("added", "Paris, capital of France"),
    ]


def test_repetitive_text_is_matched_and_takes_no_time_to_speak_of() -> None:
    # difflib needs 9 seconds for it, or with autojunk finds nothing in common.
    first = "the dog saw the cat and " * 100
    second = first.replace("dog", "fox", 1)
    pieces = takes_less_than(2, lambda: word_differences(first, second))
    assert pieces[:3] == [Piece("same", "the "), Piece("removed", "dog"), Piece("added", "fox")]


def test_share_in_common() -> None:
    assert share_in_common(word_differences("ab cd", "ab xy")) == 6 / 10
    assert share_in_common(word_differences("ab", "xy")) == 0


def test_two_long_outputs_take_no_time_to_speak_of() -> None:
    first = " ".join(f"word{i % 700}" for i in range(1500))
    second = " ".join(f"word{(i * 7) % 700}" for i in range(1500))
    pieces = takes_less_than(5, lambda: word_differences(first, second))
    assert text_of(side(pieces, "second")) == second
