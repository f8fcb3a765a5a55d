"""Check what a task holds besides its prompt and outputs when it is made: a broken payload would break its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from heedful.errors import DataError
from heedful.labeling.queue.kinds import TaskKind, refuse_unstorable
from heedful.records import UseCase

STYLES = ("plain", "few_shot", "user_based")
"""Styles of the prompts that labelers write (SPEC 1.1)."""


def check_payload(kind: TaskKind, payload: Mapping[str, Any]) -> None:
    """Raise DataError, naming the key, if a payload does not fit its kind. Keys that no kind uses are kept."""
    refuse_unstorable(payload, "the payload")
    for name, (fits, expected) in _KEYS.get(kind, {}).items():
        if name in payload and not fits(payload[name]):
            raise DataError(f"the payload does not fit a task of the kind {kind}", expected=expected, got=_shown(payload, name))
    if kind == "self_assess" and "topics" not in payload:
        raise DataError(f"the payload does not fit a task of the kind {kind}", expected="topics", got="none")


def _shown(payload: Mapping[str, Any], name: str) -> str:
    return f"{name}: {payload[name]!r}"[:120]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _are_topics(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_text, value)) and len(set(value)) == len(value)


def _are_findings(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, Mapping) and all(type(one.get(end, 0)) is int for end in ("start", "end")) for one in value
    )


_KEYS: Mapping[TaskKind, Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "self_assess": {"topics": (_are_topics, "topics: a list of texts, each once")},
    "write_prompt": {
        "style": (lambda value: value in STYLES, f"style: one of {', '.join(STYLES)}"),
        "use_case": (lambda value: value is None or value in get_args(UseCase), "use_case: one of the use cases, or none"),
        "application": (lambda value: value is None or _is_text(value), "application: a text, or none"),
    },
    "score_demonstration": {"text": (_is_text, "text: the demonstration")},
    "review_personal_data": {"findings": (_are_findings, "findings: a list of objects, start and end whole numbers")},
    "rank": {"order_only": (lambda value: isinstance(value, bool), "order_only: true or false")},
}
