"""Language of a prompt by py3langid (SPEC 1.6): an ISO 639-1 code, or "unknown" if the text is too short to tell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from heedful.conversation import Turn

UNKNOWN = "unknown"
MIN_LETTER_BYTES = 10
"""Fewer bytes of letters (UTF-8) are "unknown": ten letters of English, four characters of Chinese."""
MIN_CONFIDENCE = 0.5
"""If the most likely language is less probable, it is "unknown"."""
MAX_CHARACTERS = 400
"""Only the start is read: more would take longer and hardly change the answer."""


def language_of_turns(turns: Sequence[Turn]) -> str:
    """The language of what the user said."""
    return language_of("\n".join(turn.text for turn in turns if turn.role == "user"))


def language_of(text: str) -> str:
    """The language's ISO 639-1 code or "unknown" (too short, too doubtful, or no language: code, numbers)."""
    start = text.strip()[:MAX_CHARACTERS]
    if sum(len(letter.encode(errors="replace")) for letter in start if letter.isalpha()) < MIN_LETTER_BYTES:
        return UNKNOWN
    language, confidence = _identifier().classify(start)
    return UNKNOWN if confidence < MIN_CONFIDENCE or language == "zxx" else language


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
