"""Texts that cannot fit a context window are refused before they are tokenized: megabytes would take half a minute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from heedful.model.template import encode
from heedful.serve.api_errors import invalid
from heedful.serve.served_models import ServedModel

_LONGEST = 2_000_000
"""Characters, for models without a context window, and for what only counts tokens."""
_MOST_MESSAGES = 10_000
_SURELY = 16
"""A text of fewer characters for each token of the window is tokenized as it is."""


def refuse_endless(served: ServedModel, texts: Iterable[str], param: str) -> None:
    """Refuse texts that are longer than the context window, whatever their end. Call it in the tokenizers' thread.

    The beginning of a text that long is tokenized: twice as many tokens as the window holds cannot become few enough by what
    follows. Raises ApiError.
    """
    for text in texts:
        if served.window is None:
            refuse_huge([text], param)
            continue
        length = _SURELY * served.window
        while length < len(text):
            if len(encode(served.tokenizer, [text[:length]])[0]) > 2 * served.window:
                raise invalid(
                    f"This model's maximum context length is {served.window} tokens. However, your text of {len(text):,} "
                    "characters has more than twice as many. Please shorten it.",
                    param,
                    "context_length_exceeded",
                )
            length *= 2


def refuse_huge(texts: Iterable[str], param: str) -> None:
    """Refuse texts that would keep all others waiting. Raises ApiError."""
    for text in texts:
        if len(text) > _LONGEST:
            raise invalid(f"{param}: expected at most {_LONGEST:,} characters, got {len(text):,}", param, "string_too_long")


def refuse_many_messages(served: ServedModel, messages: Sequence[object]) -> None:
    """Refuse more messages than the context window has tokens: each is one token at least. Raises ApiError.

    A template's work grows with the square of their number.
    """
    most = _MOST_MESSAGES if served.window is None else served.window
    if len(messages) > most:
        message = f"This model's maximum context length is {most} tokens. However, you sent {len(messages):,} messages."
        raise invalid(message, "messages", "context_length_exceeded")
