"""The one way a conversation becomes text and back.

A prompt's text is exactly what the model continues, and ``prompt.text + response.text`` is exactly what it learns from:

- one turn: the text and a newline: ``"Name three rivers.\\n"``; the answer starts right after it;
- several turns: ``"Human: Hello\\n\\nAssistant: Hi!\\n\\nHuman: Name a river.\\n\\nAssistant:"``; the answer starts with the
  space that follows the colon, as byte-pair encodings want it (a token there is a word with its leading space);
- a system message stands in front, with an empty line after it.

``continuation`` puts a bare answer in that form. The turns are those of Anthropic's HH data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]


class Turn(NamedTuple):
    """What one side said."""

    role: Role
    text: str


ANSWER_MARK = "\n\nAssistant:"
_NAMES: dict[str, str] = {"user": "Human", "assistant": "Assistant", "tool": "Tool"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def turns_of(text: str) -> tuple[Turn, ...]:
    """The turns of a text that a model continues: a conversation as :func:`plain_text` writes it, else one turn of the user's.

    ``plain_text(turns_of(text)) == text`` for every text.
    """
    turns = parse_prompt(text) if text.endswith(ANSWER_MARK) else []
    return tuple(turns) if len(turns) > 1 and render_prompt(turns) == text else (Turn("user", text),)


def plain_text(turns: Sequence[Turn]) -> str:
    """The text that a model continues under the template ``plain``: a lone turn of the user's exactly as it is."""
    return turns[0].text if len(turns) == 1 and turns[0].role == "user" else render_prompt(list(turns))


def render_prompt(turns: Sequence[tuple[Role, str]]) -> str:
    """The prompt text for turns that wait for an answer (the last one is not the assistant's)."""
    system = "".join(text.strip() + "\n\n" for role, text in turns if role == "system" and text.strip())
    spoken = [(role, text.strip()) for role, text in turns if role != "system"]
    if len(spoken) == 1:
        return f"{system}{spoken[0][1]}\n"
    return system + "\n\n".join(f"{_NAMES[role]}: {text}".rstrip() for role, text in spoken) + ANSWER_MARK


def continuation(prompt_text: str, answer: str) -> str:
    """``answer`` as it continues ``prompt_text``: without space around it, but for the one after a closing colon."""
    answer = answer.strip()
    return f" {answer}" if answer and not prompt_text[-1:].isspace() else answer


def split_turns(text: str) -> tuple[str, list[Turn]]:
    """What stands before the first ``Human:`` or ``Assistant:``, and the turns after it, each stripped."""
    parts = _TURN.split(text)
    turns: list[Turn] = []
    for name, said in zip(parts[1::2], parts[2::2], strict=True):
        turns.append(Turn("user" if name == "Human" else "assistant", said.strip()))
    return parts[0].strip(), turns


def parse_prompt(text: str) -> list[Turn]:
    """The turns of a prompt as ``render_prompt`` writes it; any other text is one turn of the user's."""
    head, turns = split_turns(text)
    if text.endswith(ANSWER_MARK) and len(turns) > 1:
        system: list[Turn] = [Turn("system", head)] if head else []
        return system + turns[:-1]
    return [Turn("user", text.removesuffix("\n"))]


def opening(text: str) -> str:
    """The first turn of a prompt: prompts that share it are one conversation and belong in one split."""
    return re.sub(r"(^|\n\n)Human: ?", r"\1", text.split(ANSWER_MARK, 1)[0]).strip()
