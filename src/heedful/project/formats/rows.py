"""What a format's reader makes of a row. Ids are made from the content, so that a second import adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from heedful.conversation import Role, Turn, continuation, plain_text, trimmed
from heedful.errors import DataError
from heedful.project.data_folder import Record
from heedful.project.structure import shown
from heedful.records import Demonstration, Prompt, Ranking, Response


class BadRow(Exception):
    """The row cannot be used; ``str()`` is the reason, for people."""


class SkippedRow(Exception):
    """The row is good but holds nothing to import; ``str()`` is the reason."""


@dataclass(slots=True)
class Draft:
    """The records of one row, in dependency order; the importer assigns splits unless ``split_given``."""

    records: list[Record] = field(default_factory=list[Record])
    notes: list[str] = field(default_factory=list[str])
    """What was left out of the row or changed, one note each time; the report counts them."""
    split_given: bool = False
    seen: dict[str, str] = field(default_factory=dict[str, str])
    """What the labeler saw according to the row, by prompt or response id: the stored texts must be the same."""


def content_id(kind: str, *parts: object) -> str:
    """An id made from the content: the same content has the same id (64 bits: 3 in 10^10 that any two of 100,000 collide)."""
    return f"{kind}-{blake2b(repr(parts).encode(errors='surrogatepass'), digest_size=8).hexdigest()}"


def new_prompt(
    turns: Sequence[Turn], *, user: str | None = None, language: str | None = None, metadata: Mapping[str, Any] | None = None
) -> Prompt:
    """An imported prompt with these turns; exact duplicates have the same id. Raises BadRow if it is empty."""
    if not any(turn.text.strip() for turn in turns):
        raise BadRow("the prompt is empty")
    id = content_id("prompt", plain_text(turns))
    return Prompt(id=id, turns=tuple(turns), user=user, language=language, metadata=metadata or {})


def new_response(prompt: Prompt, text: str, model: str | None) -> Response:
    """A response; its id is made from the text as it continues the prompt."""
    id = content_id("response", prompt.text, continuation(prompt.turns, text), model)
    return Response(id=id, prompt_id=prompt.id, text=text, model=model)


def new_demonstration(prompt: Prompt, text: str, labeler: str) -> Demonstration:
    """A demonstration; its id is made from the text as it continues the prompt. Raises BadRow if it is empty."""
    if not text.strip():
        raise BadRow("the answer is empty")
    id = content_id("demonstration", prompt.text, continuation(prompt.turns, text), labeler)
    return Demonstration(id=id, prompt_id=prompt.id, text=text, labeler=labeler)


def new_ranking(prompt: Prompt, ranked: Sequence[tuple[Response, float]], labeler: str) -> Ranking:
    """A ranking whose responses are ordered by id, so that the best one does not always come first.

    Ranks are made dense (0, 2, 5 becomes 1, 2, 3): a weak order holds no distances.
    """
    order = {rank: position for position, rank in enumerate(sorted({rank for _, rank in ranked}), start=1)}
    by_id = sorted((response.id, order[rank]) for response, rank in ranked)
    return Ranking(
        id=content_id("ranking", prompt.text, by_id, labeler),
        prompt_id=prompt.id,
        response_ids=tuple(response_id for response_id, _ in by_id),
        ranks=tuple(rank for _, rank in by_id),
        labeler=labeler,
    )


def new_pair(prompt: Prompt, chosen: str, rejected: str, labeler: str) -> list[Record]:
    """The records of a comparison: prompt, two responses, ranking. Raises BadRow if the responses are the same."""
    if trimmed(chosen) == trimmed(rejected):
        raise BadRow("the chosen and the rejected response are the same")
    better, worse = new_response(prompt, chosen, None), new_response(prompt, rejected, None)
    return [prompt, better, worse, new_ranking(prompt, [(better, 1), (worse, 2)], labeler)]


def an_object(row: object) -> dict[str, Any]:
    """The row if it is a JSON object. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow(f"not an object but a {type(row).__name__}")
    return row


def text_of(row: Mapping[str, Any], key: str) -> str:
    """The text at a key. Raises BadRow if it is missing or no text."""
    if key not in row:
        raise BadRow(f"no key {key!r}")
    if not isinstance(row[key], str):
        raise BadRow(f"{key!r} should be text and is {shown(row[key])}")
    return row[key]


def optional_text(row: Mapping[str, Any], key: str) -> str | None:
    """The text at a key, or None if the key is missing, null or empty. Raises BadRow if it is not a text."""
    return (text_of(row, key) or None) if row.get(key) is not None else None


_ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def turns_of_messages(messages: object) -> list[Turn]:
    """Chat messages (``role``/``content``, or ``from``/``value``) as turns. Raises BadRow.

    The content may be a list of parts if all of them are text; a system message may only come first.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"messages should be a list that is not empty and are {shown(messages)}")
    turns: list[Turn] = []
    for message in messages:
        message = an_object(message)
        for key, other in (("role", "from"), ("content", "value")):
            if message.get(key) is not None and message.get(other) is not None and message[key] != message[other]:
                raise BadRow(f"a message has both {key!r} and {other!r}: which one is meant?")
        role = _ROLES.get(str(message.get("role", message.get("from"))))
        if role is None:
            raise BadRow(
                "a message's role should be system, user, assistant or tool and is "
                f"{message.get('role', message.get('from'))!r}"
            )
        if role == "system" and turns:
            raise BadRow("a system message that is not the first message")
        if message.get("tool_calls") or message.get("function_call"):
            raise BadRow("a message that calls a tool: only its text could be kept, and not the call")
        turns.append(Turn(role, _content(message)))
    if turns[-1].role == "assistant" and any(messages[-1].get(key) in (0, "0") for key in _LEARNED):
        raise BadRow("the last message is marked as one that no model should learn from")
    return turns


_LEARNED = ("weight", "train", "loss")
"""Keys of a message that say whether a model learns from it; 0 and false mean no."""


_PART_KEYS = {"type", "text", "annotations", "cache_control"}
"""Keys that a part of text may have. Another one, such as ``image_url``, would change what it says."""


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [
            part.get("text")
            if isinstance(part, dict) and part.get("type", "text") == "text" and part.keys() <= _PART_KEYS
            else None
            for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadRow(f"a message's content should be text and is {shown(content)}")
    return content


def reason_of(error: DataError) -> str:
    """A DataError on one line, as a reason."""
    got = f": got {error.got}" if error.got else ""
    hint = f" ({error.next_step})" if error.next_step and error.next_step.startswith("did you mean") else ""
    return f"{error.message}{got}{hint}" + (f", expected {error.expected}" if error.expected and not hint else "")
