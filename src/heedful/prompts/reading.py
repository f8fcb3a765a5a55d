"""Submissions from files: rows of prompts (JSONL, CSV, TSV, Parquet), chat logs, and the public API's own log.

A row that is no submission raises BadRow; one whose owner did not consent raises LeftOut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from heedful.conversation import Turn, plain_text, prompt_turns
from heedful.project.files import bad_character
from heedful.project.formats.rows import BadRow, an_object, optional_text, text_of, turns_of_messages
from heedful.project.structure import shown
from heedful.records import Source, UseCase


class LeftOut(Exception):
    """The row is readable and not wanted: ``category`` is for the counts, ``str()`` is the reason for people."""

    def __init__(self, category: str, reason: str) -> None:
        super().__init__(reason)
        self.category = category


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a user submitted, as a row has it."""

    turns: tuple[Turn, ...]
    """The prompt's turns."""
    owner: str | None = None
    """Organisation, or else user."""
    source: Source | None = None
    use_case: UseCase | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """All turns as one text, as ``Prompt.text``."""
        return plain_text(self.turns)


PROMPTS_SAMPLE = '{"prompt": "…", "owner": "…", "use_case": "brainstorming"}'
CHAT_SAMPLE = '{"messages": [{"role": "user", "content": "…"}], "owner": "…"}'
API_SAMPLE = '{"time": "2026-03-01T09:30:00Z", "owner": "org-7", "model": "…", "consent": true, "prompt": "…"}'


def read_submission(format: str, value: object) -> Submission:
    """The submission of a row. Raises BadRow, LeftOut."""
    submission = INTAKES[format].read(an_object(value))
    texts = (
        *(turn.text for turn in submission.turns),
        submission.owner or "",
        submission.language or "",
        *map(str, submission.metadata.values()),
    )
    if problem := next(filter(None, map(bad_character, texts)), None):
        raise BadRow(problem)
    return submission


def _read_prompt(row: Mapping[str, Any]) -> Submission:
    key = next((key for key in ("prompt", "text") if key in row), None)
    if key is None:
        raise BadRow("no key 'prompt' (or 'text')")
    return _submission([Turn("user", text_of(row, key))], row)


def _read_chat(row: Mapping[str, Any]) -> Submission:
    key = "messages" if "messages" in row or "conversations" not in row else "conversations"
    if key not in row:
        raise BadRow("no key 'messages'")
    return _submission(_asked(turns_of_messages(row[key])), row)


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
    asked = _asked(turns_of_messages(row["messages"])) if "messages" in row else [Turn("user", text_of(row, "prompt"))]
    return _submission(asked, {"source": "customer", **row}, time=time, model=model)


def _asked(turns: list[Turn]) -> list[Turn]:
    """The conversation up to the last turn that the assistant was to answer: the user's, or what a tool gave back."""
    last = max((index for index, turn in enumerate(turns) if turn.role in ("user", "tool")), default=None)
    if last is None or all(turn.role != "user" for turn in turns[: last + 1]):
        raise BadRow("no turn of the user")
    return turns[: last + 1]


def _submission(turns: list[Turn], row: Mapping[str, Any], **metadata: str) -> Submission:
    if str(row.get("consent", True)).strip().lower() in ("false", "no", "0"):  # a table has it as text
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
    return text.strip() or None if text else None


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
