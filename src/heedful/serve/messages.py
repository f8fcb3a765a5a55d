"""OpenAI's chat messages as the turns of a conversation, and their tokens."""

from __future__ import annotations

from typing import Any

from heedful.conversation import Role, Turn, prompt_turns
from heedful.model.template import prompt_tokens
from heedful.records import Prompt
from heedful.serve.api_errors import invalid
from heedful.serve.request_bodies import Messages
from heedful.serve.served_models import ServedModel

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def turns_of_messages(messages: Messages) -> tuple[Turn, ...]:
    """The turns of OpenAI's messages. Raises ApiError."""
    turns: list[tuple[Role, str]] = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise invalid(f"{where}.role: expected {', '.join(_ROLES)}, got {role!r}", f"{where}.role")
        if others := sorted(name for name, value in message.items() if name not in ("role", "content") and value is not None):
            raise invalid(f"{where}.{others[0]} is not supported", f"{where}.{others[0]}", "unsupported_parameter")
        turns.append((_ROLES[role], _text_of(message.get("content"), f"{where}.content")))
    if turns[-1][0] == "assistant":
        raise invalid("messages: the last one must not be the assistant's, whose turn it is", "messages")
    kept = prompt_turns(turns)
    if not any(turn.text.strip() for turn in kept):
        raise invalid("messages: there is no text in them", "messages")
    return kept


def _text_of(content: Any, where: str) -> str:
    """A message's text: given as such, or as a list of parts, which follow each other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid(f"{where}: expected a text or a list of text parts", where, "invalid_type")
    texts: list[str] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            got = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise invalid(f"{where}: only parts of type text are supported, got {got!r}", where, "unsupported_parameter")
        if others := sorted(name for name, value in part.items() if name not in ("type", "text") and value is not None):
            raise invalid(f"{where}: {others[0]} of a part is not supported", where, "unsupported_parameter")
        texts.append(part["text"])
    return "".join(texts)


def joined(turns: tuple[Turn, ...]) -> str:
    """All that was said: a conversation has at least about as many tokens."""
    return "\n".join(turn.text for turn in turns)


def conversation_tokens(served: ServedModel, turns: tuple[Turn, ...]) -> list[int]:
    """The tokens of a conversation up to where the answer begins. Raises UserError."""
    return prompt_tokens(served.tokenizer, [Prompt(id="messages", turns=turns)], served.template)[0]
