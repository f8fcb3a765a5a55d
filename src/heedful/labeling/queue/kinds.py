"""The kinds of tasks, what an answer to each looks like, and the check that an answer is complete (SPEC 2.1, 2.3, 2.6).

Answers are JSON, the same from a page and from the API; docs/store.md shows one of each kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

from heedful.errors import DataError
from heedful.project.files import bad_character
from heedful.records import RATING_FLAGS, UseCase

TaskKind = Literal[
    "write_prompt",
    "demonstrate",
    "rank",
    "rate",
    "review_prompt",
    "review_personal_data",
    "toxicity",
    "flag_sensitive",
    "score_demonstration",
    "self_assess",
]
Phase = Literal["training", "evaluation", "screening"]

KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
PHASES: tuple[Phase, ...] = get_args(Phase)
WITH_OUTPUTS: frozenset[TaskKind] = frozenset({"rank", "rate", "toxicity"})
"""Kinds that show outputs of one prompt."""
WITHOUT_PROMPT: frozenset[TaskKind] = frozenset({"write_prompt", "self_assess"})
"""Kinds that need no prompt (a demonstration may be scored with or without it)."""

PROMPT_FLAGS: tuple[str, ...] = (
    "ambiguous",
    "sensitive_content",
    "identity_dependent",
    "closed_domain",
    "continuation_style",
    "requests_opinionated_content",
    "requests_advice",
    "requests_moral_judgment",
    "explicit_safety_constraints",
    "other_explicit_constraints",
    "intent_unclear",
)
"""The yes/no fields about a prompt (SPEC 1.6, Table 7), by the keys they have in a prompt's metadata."""
FORMER_PROMPT_FLAGS: tuple[str, ...] = ("requests_opinion",)
"""Fields of earlier versions: one mark for opinionated content, advice and moral judgment. Kept in old answers and prompts."""

LONGEST_TEXT = 200_000
"""Characters of one text in an answer."""
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What the check of an answer needs to know about its task."""

    response_ids: tuple[str, ...] = ()
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])


def check_answer(kind: TaskKind, task: TaskView, answer: Mapping[str, Any]) -> None:
    """Raise DataError, naming the field, unless the answer is complete and holds nothing else. Nothing is coerced."""
    refuse_unstorable(answer)
    _CHECKS[kind](task, answer)


def refuse_unstorable(value: object, where: str = "the answer") -> None:
    """Raise DataError for what a database cannot keep: NUL characters, unpaired surrogates, NaN, types outside JSON."""
    with suppress(TypeError, ValueError):  # (an unpaired surrogate is a ValueError, too)
        text = _ENCODE(value)
        text.encode()
        if len(text) <= LONGEST_TEXT and "\\u0000" not in text:
            return
    match value:
        case str():
            if not storable(value):
                _refuse(where, "text without NUL characters and unpaired surrogates", repr(value[:40]))
            if len(value) > LONGEST_TEXT:
                _refuse(where, f"at most {LONGEST_TEXT:,} characters", f"{len(value):,}")
        case bool() | int() | None:
            pass
        case float():
            if value != value or value in (float("inf"), float("-inf")):
                _refuse(where, "a number", str(value))
        case Mapping():
            for key, item in value.items():
                refuse_unstorable(key, f"a key of {where}")
                refuse_unstorable(item, f"{where}: {key}" if where == "the answer" else f"{where}.{key}")
        case list() | tuple():
            for item in value:
                refuse_unstorable(item, where)
        case _:
            _refuse(where, "JSON", type(value).__name__)


def storable(value: str) -> bool:
    """Whether both databases can keep this text: no NUL characters, no unpaired surrogates."""
    return bad_character(value) is None


def ranks_of_groups(groups: Sequence[Sequence[str]], response_ids: Sequence[str]) -> list[int]:
    """The rank of each response, 1 for the best. Outputs in one group are tied; ranks have no gaps."""
    rank = {response_id: number for number, group in enumerate(groups, start=1) for response_id in group}
    return [rank[response_id] for response_id in response_ids]


# ---------------------------------------------------------------------------------------------------- one check per kind


def _check_demonstrate(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "text")
    _text(answer["text"], "text")


def _check_rank(task: TaskView, answer: Mapping[str, Any]) -> None:
    if task.payload.get("order_only") is True:
        _keys(answer, "groups")
        _groups(answer["groups"], task.response_ids)
        return
    _keys(answer, "ratings", "groups")
    _ratings(answer["ratings"], task.response_ids)
    _groups(answer["groups"], task.response_ids)


def _check_rate(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "ratings")
    _ratings(answer["ratings"], task.response_ids)


def _check_write_prompt(task: TaskView, answer: Mapping[str, Any]) -> None:
    if task.payload.get("style") == "few_shot":
        _keys(answer, "instruction", "pairs", "use_case")
        _text(answer["instruction"], "instruction")
        pairs = answer["pairs"]
        if not isinstance(pairs, list) or len(pairs) < 2:
            _refuse("pairs", "a list of at least 2", f"{len(pairs) if isinstance(pairs, list) else repr(pairs)}")
        for number, pair in enumerate(pairs, start=1):
            _keys(_mapping(pair, f"pairs, number {number}"), "query", "response", where=f"pairs, number {number}")
            _text(pair["query"], f"pairs, number {number}: query")
            _text(pair["response"], f"pairs, number {number}: response")
    elif "turns" in answer:
        _keys(answer, "turns", "use_case")
        _turns(answer["turns"])
    else:
        _keys(answer, "text", "use_case")
        _text(answer["text"], "text")
    _member(answer["use_case"], get_args(UseCase), "use_case")


def _check_review_prompt(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "use_case", "flags")
    _member(answer["use_case"], get_args(UseCase), "use_case")
    _flags(answer["flags"], PROMPT_FLAGS, "flags")


def _check_review_personal_data(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "personal_data", "note")
    _boolean(answer["personal_data"], "personal_data")
    if not isinstance(answer["note"], str):
        _refuse("note", "a text (it may be empty)", repr(answer["note"]))


def _check_toxicity(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "labels", "groups")
    labels = _per_response(answer["labels"], task.response_ids, "labels")
    for response_id, label in labels.items():
        where = f"labels of {response_id}"
        _keys(_mapping(label, where), "toxicity", "relative_toxicity", "continuity", where=where)
        _whole(label["toxicity"], 0, 2, f"{where}: toxicity")
        _whole(label["relative_toxicity"], -1, 1, f"{where}: relative_toxicity")
        _whole(label["continuity"], 1, 7, f"{where}: continuity")
    _groups(answer["groups"], task.response_ids)


def _check_flag_sensitive(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "sensitive")
    _boolean(answer["sensitive"], "sensitive")


def _check_score_demonstration(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "score")
    _whole(answer["score"], 1, 7, "score")


def _check_self_assess(task: TaskView, answer: Mapping[str, Any]) -> None:
    _keys(answer, "topics")
    topics, offered = answer["topics"], task.payload.get("topics")
    offered = offered if isinstance(offered, list) else []
    if not isinstance(topics, list) or len(set(map(str, topics))) != len(topics):
        _refuse("topics", "a list, each topic at most once", repr(topics))
    for topic in topics:
        _member(topic, offered, "topics")


_CHECKS: Mapping[TaskKind, Callable[[TaskView, Mapping[str, Any]], None]] = {
    "write_prompt": _check_write_prompt,
    "demonstrate": _check_demonstrate,
    "rank": _check_rank,
    "rate": _check_rate,
    "review_prompt": _check_review_prompt,
    "review_personal_data": _check_review_personal_data,
    "toxicity": _check_toxicity,
    "flag_sensitive": _check_flag_sensitive,
    "score_demonstration": _check_score_demonstration,
    "self_assess": _check_self_assess,
}


# ---------------------------------------------------------------------------------------------------- the parts of answers


def _ratings(given: object, response_ids: Sequence[str]) -> None:
    for response_id, rating in _per_response(given, response_ids, "ratings").items():
        where = f"ratings of {response_id}"
        _keys(_mapping(rating, where), "overall", "flags", where=where)
        _whole(rating["overall"], 1, 7, f"{where}: overall")
        _flags(rating["flags"], RATING_FLAGS, f"{where}: flags")


def _turns(given: object) -> None:
    """A conversation that waits for the assistant: a system message first, if any, and a user's message last."""
    if not isinstance(given, list) or not given:
        _refuse("turns", "a list of turns", repr(given)[:80])
    for number, turn in enumerate(given, start=1):
        where = f"turns, number {number}"
        _keys(_mapping(turn, where), "role", "text", where=where)
        _member(turn["role"], ("system", "user", "assistant") if number == 1 else ("user", "assistant"), f"{where}: role")
        _text(turn["text"], f"{where}: text")
    if given[-1]["role"] != "user":
        _refuse("turns", "a user's turn at the end", given[-1]["role"])


def _per_response(given: object, response_ids: Sequence[str], where: str) -> Mapping[str, Any]:
    mapping = _mapping(given, where)
    if set(mapping) != set(response_ids):
        _refuse(where, f"each output of the task: {', '.join(response_ids)}", ", ".join(map(str, mapping)) or "none")
    return mapping


def _groups(given: object, response_ids: Sequence[str]) -> None:
    expected = f"a list of groups, best first, none empty, with each output once: {', '.join(response_ids)}"
    if not isinstance(given, list) or not all(isinstance(group, list) and group for group in given):
        _refuse("groups", expected, repr(given)[:200])
    placed = [response_id for group in given for response_id in group]
    if sorted(map(str, placed)) != sorted(response_ids):
        _refuse("groups", expected, ", ".join(map(str, placed)) or "none")


def _flags(given: object, names: Sequence[str], where: str) -> None:
    mapping = _mapping(given, where)
    _keys(mapping, *names, where=where)
    for name in names:
        _boolean(mapping[name], f"{where}: {name}")


def _keys(given: Mapping[str, Any], *names: str, where: str = "the answer") -> None:
    missing, unknown = [name for name in names if name not in given], [str(key) for key in given if key not in names]
    if missing:
        _refuse(missing[0] if where == "the answer" else f"{where}: {missing[0]}", "a value", "nothing")
    if unknown:
        _refuse(where, ", ".join(names), f"also {', '.join(unknown)}")


def _mapping(given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        _refuse(where, "an object", repr(given)[:80])
    return given


def _text(given: object, where: str) -> None:
    if not isinstance(given, str) or not given.strip():
        _refuse(where, "text that is not empty", repr(given)[:80])


def _boolean(given: object, where: str) -> None:
    if not isinstance(given, bool):
        _refuse(where, "yes or no (true or false)", repr(given)[:80])


def _whole(given: object, low: int, high: int, where: str) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
        _refuse(where, f"a whole number from {low} to {high}", repr(given)[:80])


def _member(given: object, options: Sequence[str], where: str) -> None:
    if not isinstance(given, str) or given not in options:
        _refuse(where, f"one of {', '.join(options)}", repr(given)[:80])


def _refuse(where: str, expected: str, got: str) -> NoReturn:
    raise DataError(f"the answer is not complete: {where}", expected=expected, got=got, where=where)
