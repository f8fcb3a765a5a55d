"""What a record may hold, so that no later file, database or page refuses what an import accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from heedful.project.data_folder import Record
from heedful.project.files import bad_character
from heedful.records import Prompt, Ranking, Rating, Response

LONGEST_ID = 200
"""Characters of an id, and of an owner's or labeler's name."""
LONGEST_LANGUAGE = 20
LONGEST_METADATA = 200_000
"""Characters of one text in the metadata."""
LARGEST_WHOLE = 2**31 - 1
"""The largest integer that both databases can store."""


def unstorable(record: Record) -> str | None:
    """Why a later file, database or page would refuse the record, or None."""
    for what, name in _names(record):
        if not name and what != "owner":
            return f"its {what} is empty"
        if len(name) > LONGEST_ID:
            return f"its {what} has {len(name):,} characters, more than {LONGEST_ID}"
        if problem := bad_character(name):
            return f"its {what}: {problem}"
    if isinstance(record, Prompt) and len(record.language or "") > LONGEST_LANGUAGE:
        return f"its language has {len(record.language or ''):,} characters, more than {LONGEST_LANGUAGE}"
    if isinstance(record, Ranking) and max(record.ranks) > LARGEST_WHOLE:
        return f"a rank above {LARGEST_WHOLE:,}"
    texts = [turn.text for turn in record.turns] if isinstance(record, Prompt) else [getattr(record, "text", "")]
    if isinstance(record, Prompt):
        texts.append(record.language or "")
    if problem := next(filter(None, map(bad_character, texts)), None):
        return problem
    return None if isinstance(record, Response) else _unstorable_metadata(record.metadata)


def _names(record: Record) -> Iterator[tuple[str, str]]:
    yield "id", record.id
    if isinstance(record, Prompt):
        yield "owner", record.user or ""
        return
    yield "prompt's id", record.prompt_id
    if isinstance(record, Response):
        if record.model is not None:
            yield "model", record.model
        return
    yield "labeler", record.labeler
    if isinstance(record, Ranking):
        yield from (("response's id", id) for id in record.response_ids)
    if isinstance(record, Rating):
        yield "response's id", record.response_id


def _unstorable_metadata(value: Any) -> str | None:
    waiting: list[Any] = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            if len(value) > LONGEST_METADATA:
                return f"its metadata hold a text of {len(value):,} characters, more than {LONGEST_METADATA:,}"
            if problem := bad_character(value):
                return f"its metadata: {problem}"
    return None
