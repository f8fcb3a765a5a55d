"""The turns of a conversation, and the one text that they make under the template ``plain``.

- A single turn of the user is the text itself. Importers end it with one newline: ``"Name three rivers.\\n"``. The response
  starts right after it.
- Several turns become ``"Human: Hello\\n\\nAssistant: Hi!\\n\\nHuman: Name a river.\\n\\nAssistant:"``. The response starts
  with the space after the colon, as byte-pair encodings want it: there, a word's token includes its leading space.
- A system message comes first, followed by an empty line.

``plain_text(turns) + continuation(turns, response)`` is the text that a model learns from. Records hold what was said, without
the space after the colon. The form with ``Human:`` and ``Assistant:`` is that of Anthropic's HH data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]


class Turn(NamedTuple):
    """What one side said."""

    role: Role
    text: str


ANSWER_MARK = "\n\nAssistant:"
_NAMES: dict[str, str] = {"user": "Human", "assistant": "Assistant", "tool": "Tool"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


# ---------------------------------------------------------------------------------------------------- what was said


def trimmed(text: str) -> str:
    """The text without blank lines before it and white space after it. The first line keeps its indentation."""
    return _BLANK_LINES.sub("", text.rstrip())


def prompt_turns(turns: Iterable[tuple[Role, str]]) -> tuple[Turn, ...]:
    """What was said, as the turns of a prompt: trimmed, without empty system messages; a lone turn ends with a newline."""
    kept = tuple(Turn(role, trimmed(text)) for role, text in turns if role != "system" or text.strip())
    return (Turn("user", kept[0].text + "\n"),) if is_lone(kept) else kept


def response_text(turns: Sequence[Turn], text: str) -> str:
    """What was said, as the text of a response or demonstration.

    If the prompt is a single text without white space at its end, the response starts with a space and continues that line.
    """
    text = trimmed(text)
    return _with_space(text) if is_lone(turns) and not turns[0].text[-1:].isspace() else text


def messages_of(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns as chat messages. A lone turn loses the newline that ends it."""
    return [{"role": role, "content": text.removesuffix("\n") if is_lone(turns) else text} for role, text in turns]


def is_lone(turns: Sequence[Turn]) -> bool:
    """Whether the prompt is a plain text: a single turn of the user."""
    return len(turns) == 1 and turns[0].role == "user"


# ---------------------------------------------------------------------------------------------------- the template plain


def plain_text(turns: Sequence[Turn]) -> str:
    """The text that a model continues under the template ``plain``: a single turn of the user stays exactly as it is."""
    if is_lone(turns):
        return turns[0].text
    system = "".join(trimmed(text) + "\n\n" for role, text in turns if role == "system" and text.strip())
    spoken = [(role, trimmed(text)) for role, text in turns if role != "system"]
    if len(spoken) == 1:
        return f"{system}{spoken[0][1]}\n"
    return system + "\n\n".join(f"{_NAMES[role]}:{_with_space(text)}" for role, text in spoken) + ANSWER_MARK


def continuation(turns: Sequence[Turn], response: str) -> str:
    """A response's text as it continues ``plain_text(turns)``: after a colon it begins with a space."""
    return _with_space(response) if _ends_with_colon(turns) else response


def said(turns: Sequence[Turn], response: str) -> str:
    """The inverse of ``continuation``: removes the space after a colon, which older records hold."""
    return _without_space(response) if _ends_with_colon(turns) else response


def turns_of(text: str) -> tuple[Turn, ...]:
    """The turns of a text that a model continues: a conversation as :func:`plain_text` writes it, else one turn of the user.

    ``plain_text(turns_of(text)) == text`` for every text.
    """
    if text.endswith(ANSWER_MARK):
        head, spoken = split_turns(text)
        turns = (*((Turn("system", head),) if head else ()), *spoken[:-1])
        if len(turns) > 1 and plain_text(turns) == text:
            return turns
    return (Turn("user", text),)


def split_turns(text: str) -> tuple[str, list[Turn]]:
    """The text before the first ``Human:`` or ``Assistant:``, and the turns after it."""
    parts = _TURN.split(text)
    turns: list[Turn] = []
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        turns.append(Turn("user" if name == "Human" else "assistant", trimmed(_without_space(text))))
    return trimmed(parts[0]), turns


def _ends_with_colon(turns: Sequence[Turn]) -> bool:
    return sum(turn.role != "system" for turn in turns) > 1


def _with_space(text: str) -> str:
    """The text after one space, unless it is empty or begins with white space of its own."""
    return f" {text}" if text and not text[0].isspace() else text


def _without_space(text: str) -> str:
    """The text that was given to :func:`_with_space`."""
    return text[1:] if text[:1] == " " and text[1:2].strip() else text


def opening(turns: Sequence[Turn]) -> str:
    """The turns before the first response. Prompts that share them are one conversation and belong in one split."""
    first = "\n\n".join(trimmed(text) for _, text in takewhile(lambda turn: turn.role != "assistant", turns))
    return re.sub(r"(^|\n\n)Human: ?", r"\1", first.split(ANSWER_MARK, 1)[0]).strip()
