"""Submissions from files: rows of prompts (JSONL, CSV, TSV, Parquet), chat logs, and the public API's own log.

A row that is not a submission raises BadRow; one whose owner did not consent raises LeftOut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from heedful.conversation import Turn, plain_text, prompt_turns
from heedful.project.formats.row_keys import (
    CONTEXT_KEYS,
    HISTORY_KEYS,
    QUESTION_KEYS,
    SYSTEM_KEYS,
    asked,
    earlier_turns,
    joined,
    unused_keys,
)
from heedful.project.formats.rows import BadRow, an_object, optional_text, text_of, turns_of_messages
from heedful.project.owners import composed
from heedful.project.storable import unstorable
from heedful.project.structure import shown
from heedful.records import Prompt, Source, UseCase


class LeftOut(Exception):
    """The row is readable but not wanted: ``category`` is for the counts, ``str()`` is the reason for people."""

    def __init__(self, category: str, reason: str) -> None:
        super().__init__(reason)
        self.category = category


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a user submitted, as a row gives it."""

    turns: tuple[Turn, ...]
    """The prompt's turns."""
    owner: str | None = None
    """Organisation, or else user."""
    source: Source | None = None
    use_case: UseCase | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: Sequence[str] = ()
    """Keys of the row that were not used."""

    @property
    def text(self) -> str:
        """All turns as one text, as ``Prompt.text``."""
        return plain_text(self.turns)


PROMPTS_SAMPLE = '{"prompt": "…", "owner": "…", "use_case": "brainstorming"}'
CHAT_SAMPLE = '{"messages": [{"role": "user", "content": "…"}], "owner": "…"}'
API_SAMPLE = '{"time": "2026-03-01T09:30:00Z", "owner": "org-7", "model": "…", "consent": true, "prompt": "…"}'


_FRONT = (*SYSTEM_KEYS, *HISTORY_KEYS)
_QUESTION = (*_FRONT, *QUESTION_KEYS, *CONTEXT_KEYS)
_ABOUT = ("organization", "owner", "user", "source", "use_case", "language", "consent")


def read_submission(format: str, value: object) -> Submission:
    """The submission of a row. Raises BadRow, LeftOut."""
    submission = INTAKES[format].read(an_object(value))
    prompt = Prompt(
        id="prompt",
        turns=submission.turns,
        user=submission.owner,
        language=submission.language,
        metadata=submission.metadata,
    )
    if problem := unstorable(prompt):
        raise BadRow(problem)
    return submission


def _read_prompt(row: Mapping[str, Any]) -> Submission:
    if "prompt" not in row:
        if "text" not in row:
            raise BadRow("no key 'prompt' (or 'text')")
        text_of(row, "text")
        row = {("prompt" if key == "text" else key): value for key, value in row.items()}
    return _submission(_question(row), row, _QUESTION)


def _question(row: Mapping[str, Any]) -> list[Turn]:
    """What a row asks outside of messages, with the turns in front of it."""
    if "prompt" in row and not isinstance(row["prompt"], list):
        text_of(row, "prompt")
    question = asked(row)
    if question is None:
        raise BadRow("the prompt is empty" if "prompt" in row else "no key 'prompt'")
    return [Turn("user", text_of(row, "prompt"))] if question.exact else list(question.turns)


def _read_chat(row: Mapping[str, Any]) -> Submission:
    key = "messages" if "messages" in row or "conversations" not in row else "conversations"
    if key not in row:
        raise BadRow("no key 'messages'")
    return _submission(_asked(joined(earlier_turns(row), turns_of_messages(row[key]))), row, (*_FRONT, key))


def _read_request(row: Mapping[str, Any]) -> Submission:
    time, owner, model = text_of(row, "time"), text_of(row, "owner"), text_of(row, "model")
    try:
        when = datetime.fromisoformat(time)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadRow(f"'time' should be ISO 8601 with a time zone and is {shown(time)}")
    if not owner.strip():
        raise BadRow("'owner' is empty")
    if type(row.get("consent")) is not bool:
        raise BadRow(
            f"'consent' should be true or false and is {shown(row['consent'])}" if "consent" in row else "no key 'consent'"
        )
    if ("prompt" in row) == ("messages" in row):
        raise BadRow("neither 'prompt' nor 'messages', or both: a request has one of them")
    if "messages" in row:
        turns, used = _asked(joined(earlier_turns(row), turns_of_messages(row["messages"]))), (*_FRONT, "messages")
    else:
        turns, used = _question(row), _QUESTION
    usage = optional_text(row, "usage")  # names a row of the labeling database, so that it can be withdrawn
    known = {"time": time, "model": model} | ({} if usage is None else {"usage": usage})
    return _submission(turns, {"source": "customer", **row}, (*used, "time", "model", "usage"), **known)


def _asked(turns: list[Turn]) -> list[Turn]:
    """The conversation up to the last turn that the assistant had to answer: the user's, or a tool's result."""
    last = max((index for index, turn in enumerate(turns) if turn.role in ("user", "tool")), default=None)
    if last is None or all(turn.role != "user" for turn in turns[: last + 1]):
        raise BadRow("no turn of the user")
    return turns[: last + 1]


def _submission(turns: list[Turn], row: Mapping[str, Any], used: Sequence[str], **metadata: str) -> Submission:
    consent = str(True if row.get("consent") is None else row["consent"]).strip().lower()  # a table has it as text
    if consent not in ("true", "yes", "1", "false", "no", "0"):
        raise BadRow(f"'consent' should be true or false and is {shown(row['consent'])}")
    if consent in ("false", "no", "0"):
        raise LeftOut("no consent", "no consent: the owner did not agree that it may be used")
    if not turns[-1].text.strip():
        raise BadRow("the prompt is empty")
    return Submission(
        turns=prompt_turns(turns),
        owner=_owner(row),
        source=_one_of(row, "source", get_args(Source)),
        use_case=_one_of(row, "use_case", get_args(UseCase)),
        language=optional_text(row, "language"),
        metadata=metadata,
        notes=unused_keys(row, (*used, *_ABOUT)),
    )


def _owner(row: Mapping[str, Any]) -> str | None:
    return next((id for key in ("organization", "owner", "user") if (id := _id(row, key)) is not None), None)


def owner_of(value: object) -> str | None:
    """The owner that a row names, even if the rest of it is not readable."""
    try:
        return _owner(an_object(value))
    except BadRow:
        return None


def _id(row: Mapping[str, Any], key: str) -> str | None:
    """An id: text, or a whole number as tables have it."""
    value = row.get(key)
    if type(value) is int:
        return str(value)
    text = optional_text(row, key)
    return composed(text.strip()) or None if text else None


def _one_of(row: Mapping[str, Any], key: str, options: tuple[str, ...]) -> Any:
    value = optional_text(row, key)
    if value is not None and value not in options:
        raise BadRow(f"{key!r} should be one of {', '.join(options)} and is {shown(value)}")
    return value


@dataclass(frozen=True, slots=True)
class Intake:
    """A format: how a row is read, and what a row looks like."""

    read: Callable[[Mapping[str, Any]], Submission]
    sample: str


INTAKES: Mapping[str, Intake] = {
    "prompts": Intake(_read_prompt, PROMPTS_SAMPLE),
    "chat": Intake(_read_chat, CHAT_SAMPLE),
    "api": Intake(_read_request, API_SAMPLE),
}
