"""Reads the cells of a stored sample: a response, references, spans, log-probabilities. Other content is an error."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heedful.evaluate.foreign_tables import is_unicode

_STARTS_A_LIST = re.compile(r"""[\[{]\s*["'\[{]""")
"""The beginning of a cell that holds a list or an object; hardly any plain text begins like this."""


class NotScored(Exception):
    """The row cannot be scored; ``str()`` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleColumns:
    """Names of the columns in a file. Columns that a metric does not need may be missing."""

    response: str = "response"
    references: tuple[str, ...] = ("references",)
    """One or more columns. A cell is a text, or a list of texts (in CSV as JSON or as Python prints it), or empty for none."""
    logprobs: str = "logprobs"
    """A list of the choices' log-probabilities (in CSV as JSON), for ``choice`` and ``entropy``."""
    answer: str = "answer"
    """The right choice's place in ``logprobs``, counted from 0, for ``choice``."""
    cluster: str | None = None
    """Rows with the same value (a passage, a dialogue) are a cluster; the interval is then over clusters."""
    groups: tuple[str, ...] = ()
    """Rows with different values here are scored separately, for example by model and prompt."""
    separator: str | None = None
    """Separator that splits a text of references into several, such as "; "."""


def cell_of(cells: Mapping[str, Any], name: str) -> Any:
    """Return the cell of that column. Raises NotScored if the row has none."""
    if name not in cells:
        raise NotScored(f"no column {name!r} among {', '.join(list(cells)[:8]) or 'none'}")
    return cells[name]


def response_of(cells: Mapping[str, Any], columns: SampleColumns) -> str:
    """Return the response as text, possibly empty."""
    return _text(cell_of(cells, columns.response), columns.response)


def references_of(cells: Mapping[str, Any], columns: SampleColumns) -> list[str]:
    """Return all references that are not empty, in the columns' order."""
    found: list[str] = []
    for name in columns.references:
        value = _text_of_answers(_parts_of(cell_of(cells, name), name))
        if isinstance(value, str) and columns.separator:
            value = value.split(columns.separator)
        if value is not None:
            found += [_text(_text_of_answers(one), name) for one in (value if isinstance(value, list) else [value])]
    return [reference for reference in found if reference.strip()]


def _text_of_answers(value: object) -> Any:
    """Return the text or texts of an answer by SQuAD or QuAC (``{"text": ..., "answer_start": ...}``), else the value."""
    return value["text"] if isinstance(value, dict) and isinstance(value.get("text"), list | str) else value


def spans_of(value: object, name: str) -> list[str]:
    """Return the spans of a reference: a text is one span, a list holds several."""
    return _spans(_parts_of(value, name), name)


def spans_said(value: object, name: str) -> list[str]:
    """Return the spans of a response. It may say anything, so text that only looks like a list is one span."""
    parts = _list_or_object(value)
    return _spans(value if parts is None else parts, name)


def _spans(value: object, name: str) -> list[str]:
    return [_text(one, name) for one in value] if isinstance(value, list) else [_text(value, name)]


def _text(value: object, name: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NotScored(f"column {name!r} holds {type(value).__name__} instead of text")
    if not is_unicode(value):
        raise NotScored(f"column {name!r} holds a lone surrogate, which is not a character")
    return value


def _parts_of(value: object, name: str) -> Any:
    """Parse a CSV cell that holds a list or an object, as JSON or as Python prints it; return anything else unchanged.

    Raises NotScored for a cell that begins like a list but is not one: scored as text, it would give a wrong number.
    """
    parts = _list_or_object(value)
    if parts is None and isinstance(value, str) and _STARTS_A_LIST.match(value.lstrip()):
        raise NotScored(f"column {name!r} begins like a list but is not one")
    return value if parts is None else parts


def _list_or_object(value: object) -> list[Any] | dict[Any, Any] | None:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return None
    for read in (json.loads, _python_value):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | dict):
            return found
    return None


def _python_value(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about escapes that Python does not know
        return ast.literal_eval(text)


def logprobs_of(cells: Mapping[str, Any], columns: SampleColumns) -> list[float]:
    """Return the choices' log-probabilities: at least two, each finite and at most 0."""
    value = _parts_of(cell_of(cells, columns.logprobs), columns.logprobs)
    if not isinstance(value, list) or len(value) < 2:
        raise NotScored(f"column {columns.logprobs!r} is not a list of at least two numbers")
    given: list[object] = value
    numbers = [_float(one) for one in given if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if len(numbers) < len(given) or not all(math.isfinite(number) and number <= 0 for number in numbers):
        raise NotScored(f"column {columns.logprobs!r} holds values that are not log-probabilities (finite, at most 0)")
    return numbers


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def drop_alternatives(cell: object, name: str, separator: str | None) -> list[list[str]]:
    """Return alternatives, each a list of spans, from texts, lists of spans, or the data set's own answers."""
    value = _parts_of(cell, name)
    if isinstance(value, str) and separator:
        value = value.split(separator)
    given = value if isinstance(value, list) else [value]
    return [drop_answer(one) if isinstance(one, dict) else spans_of(one, name) for one in given]


def drop_answer(answer: Mapping[str, Any]) -> list[str]:
    """Return a DROP answer as spans: a number, spans or a date, tried in this official order. Raises NotScored."""
    number = answer.get("number")
    if isinstance(number, str | int | float) and number != "" and not isinstance(number, bool):
        return [str(number)]
    if answer.get("spans"):
        return spans_of(answer["spans"], "spans")
    date: object = answer.get("date") or {}
    if not isinstance(date, dict) or number not in (None, ""):
        raise NotScored("an answer without a number, spans or a date")
    return [" ".join(str(date.get(part, "")) for part in ("day", "month", "year")).strip()]
