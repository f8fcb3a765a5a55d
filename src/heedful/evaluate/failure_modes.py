"""The known failure modes of SPEC 4.7, counted only where people labeled them: false premises, hedging, several constraints.

Nothing is guessed from the text. A prompt's metadata may say ``false_premise`` (true or false) and ``constraints`` (their
number, or a list of them). A file of marks can give the same for prompts, and ``hedges`` or ``accepts_premise`` for answers.
The rating form asks whether an answer keeps its constraints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.evaluate.people_comparison import Judged
from heedful.project.files import read_jsonl, what_is_there
from heedful.records import Prompt, Rating
from heedful.statistics import Estimate, proportion

_OF_PROMPTS, _OF_ANSWERS = ("false_premise", "constraints"), ("hedges", "accepts_premise")


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of a file, by prompt and by response."""

    prompts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    responses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """How often one model's answers fail in one way."""

    mode: str
    model: str
    rate: Estimate


def read_marks(path: Path) -> Marks:
    """Read marks, one JSON object per line: about a prompt (``"prompt_id"``) or an answer (``"response_id"``).

    Raises DataError for anything else, naming file and line.
    """
    if not path.is_file():
        raise DataError("there is no file of marks", expected="JSONL", got=what_is_there(path), where=path)
    prompts: dict[str, dict[str, Any]] = {}
    responses: dict[str, dict[str, Any]] = {}
    for line, row in read_jsonl(path):
        key = next(
            (key for key in ("prompt_id", "response_id") if isinstance(row, dict) and isinstance(row.get(key), str)), None
        )
        known = _OF_PROMPTS if key == "prompt_id" else _OF_ANSWERS
        if key is None or not set(row) <= {key, *known} or not all(_is_mark(name, row[name]) for name in known if name in row):
            raise DataError(
                "a row is not a mark",
                expected=f"prompt_id with {' or '.join(_OF_PROMPTS)}, or response_id with {' or '.join(_OF_ANSWERS)}",
                got=json.dumps(row)[:80],
                where=f"{path}:{line}",
            )
        (prompts if key == "prompt_id" else responses).setdefault(row[key], {}).update(
            {name: row[name] for name in known if name in row}
        )
    return Marks(prompts, responses)


def failure_rates(judged: Judged, marks: Marks, models: Sequence[str]) -> tuple[FailureRate, ...]:
    """Compute every rate that has labels, by mode and in the order of the models. Intervals are over prompts."""
    premise = {id for id, prompt in judged.prompts.items() if _said(prompt, marks, "false_premise") is True}
    several = {id for id, prompt in judged.prompts.items() if _number(_said(prompt, marks, "constraints")) >= 2}
    ratings: dict[str, list[Rating]] = {}
    for rating in judged.ratings:
        ratings.setdefault(rating.response_id, []).append(rating)
    modes: tuple[tuple[str, Callable[[str], float | None]], ...] = (
        ("accepts a false premise", lambda id: _mark(marks, id, "accepts_premise")),
        ("false premise: labelers say that it fails the task", lambda id: _flagged(ratings.get(id, ()), "fails_task")),
        ("hedges", lambda id: _mark(marks, id, "hedges")),
        (
            "two or more constraints: not all are kept",
            lambda id: _flagged(ratings.get(id, ()), "satisfies_constraint", value=False),
        ),
    )
    about = (premise, premise, set(judged.prompts), several)
    found: list[FailureRate] = []
    for (mode, fails), prompts in zip(modes, about, strict=True):
        for model in models:
            own = [one.id for one in judged.responses.values() if one.model == model and one.prompt_id in prompts]
            values = [value for id in own if (value := fails(id)) is not None]
            if values:
                found.append(FailureRate(mode=mode, model=model, rate=proportion(values)))
    return tuple(found)


def _said(prompt: Prompt, marks: Marks, name: str) -> Any:
    """Return a prompt's mark. The file of marks takes precedence over the prompt's own metadata."""
    value = marks.prompts.get(prompt.id, {}).get(name, prompt.metadata.get(name))
    if isinstance(value, str):  # the miniature keeps lists as JSON
        try:
            return json.loads(value)
        except ValueError:
            return None
    return value


def _number(value: Any) -> int:
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _mark(marks: Marks, response_id: str, name: str) -> float | None:
    value = marks.responses.get(response_id, {}).get(name)
    return None if value is None else float(value)


def _flagged(ratings: Iterable[Rating], flag: str, *, value: bool = True) -> float | None:
    """Return the share of an answer's ratings that give a flag this value, or None if none answers the question."""
    said = [float(one.flags[flag] is value) for one in ratings if flag in one.flags]
    return sum(said) / len(said) if said else None


def _is_mark(name: str, value: object) -> bool:
    if name == "constraints":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, bool)
