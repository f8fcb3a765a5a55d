"""Language: real sentences are told, and what cannot be told is "unknown"."""

from __future__ import annotations

import pytest

from heedful.conversation import Turn
from heedful.prompts.language import UNKNOWN, language_of, language_of_turns


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Write a short story about a lighthouse keeper who is afraid of the dark.", "en"),
        ("Schreibe ein Gedicht über den Herbst in vier Zeilen.", "de"),
        ("Explique pourquoi le ciel est bleu à un enfant de six ans.", "fr"),
        ("写一首关于秋天的诗", "zh"),
        ("東京の天気はどうですか？", "ja"),
    ],
)
def test_told(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hi",
        "ok?",
        "12 + 30 = ?",
        "1234567890 1234567890",
        "asdf qwer zxcv",
        "SELECT * FROM users WHERE id = 3;",
        "?!?!?!?!?!?!?",
    ],
)
def test_not_told(text: str) -> None:
    assert language_of(text) == UNKNOWN


def test_only_the_start_is_read() -> None:
    english = "Please write a letter to my landlord about the broken heating in the kitchen. " * 20
    assert language_of(english + "Das ist auch auf Deutsch. " * 1_000) == "en"


def test_a_conversation_is_in_the_language_of_its_user() -> None:
    turns = [
        Turn("system", "You are a helpful assistant who answers every question of every guest in great detail."),
        Turn("user", "Schreibe ein Gedicht über den Herbst."),
        Turn("assistant", "With pleasure! How many lines shall the poem about autumn have, and who is going to read it?"),
        Turn("user", "Vier Zeilen, bitte."),
    ]
    assert language_of_turns(turns) == "de"
