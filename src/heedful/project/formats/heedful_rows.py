"""Heedful's own records of any kind, one per row; also tasks that labelers have filled in.

A ranking task is a ranking with two more keys for the labeler to read, ``prompt`` and ``responses`` (texts in the order of
``response_ids``), and ``ranks`` null until it is filled in::

    {"kind": "ranking", "prompt_id": "…", "prompt": "…", "response_ids": ["a", "b"], "responses": ["…", "…"], "ranks": [1, 2],
     "labeler": "anna"}

A demonstration task has an additional ``prompt``, and its ``text`` is null until it is filled in. A row without ``id`` gets one
made from its content. Rows of the kind ``annotation`` (other answers from the labeling database, such as toxicity) are counted
and left in the file.
"""

from __future__ import annotations

import json
from typing import Any, cast

from heedful.errors import DataError
from heedful.project.data_folder import RECORD_TYPES, Kind, Record, record_from_json
from heedful.project.formats.rows import BadRow, Draft, SkippedRow, an_object, content_id, reason_of
from heedful.project.structure import nearest, shown
from heedful.records import Demonstration, Ranking

SAMPLE = '{"kind": "prompt", "id": "…", "text": "…"} or a demonstration, response, ranking or rating'


def read_record(row: object, labeler: str | None) -> Draft:
    """The one record in a row. Raises BadRow, and SkippedRow for a task that is not filled in."""
    row = dict(an_object(row))
    if row.get("kind") == "annotation":
        raise SkippedRow(f"answers of the kind {str(row.get('task_kind'))[:40]}: they stay in the file, no record holds them")
    kind = _kind(row)
    shown_keys = {"ranking": ("prompt", "responses"), "demonstration": ("prompt",)}.get(kind, ())
    task = {key: row.pop(key) for key in shown_keys if key in row}
    if kind == "ranking" and "response_ids" in row and _not_filled_in(row.get("ranks")):
        raise SkippedRow("a ranking task that is not filled in")
    if kind == "demonstration" and "text" in row and row["text"] is None:
        raise SkippedRow("a demonstration task that is not filled in")
    if kind == "demonstration" and isinstance(row.get("text"), str) and not row["text"].strip():
        raise BadRow("the answer is empty")
    if labeler is not None and kind in ("demonstration", "ranking", "rating") and not row.get("labeler"):
        row["labeler"] = labeler
    if row.get("id") is None:
        content = {key: value for key, value in row.items() if key not in ("kind", "id", "metadata", "phase", "split")}
        row["id"] = content_id(kind, json.dumps(content, sort_keys=True))
    try:
        record = record_from_json(kind, row)
    except DataError as error:
        raise BadRow(reason_of(error)) from None
    return Draft([record], split_given="split" in row, seen=_seen(record, task))


def _kind(row: dict[str, Any]) -> Kind:
    """The kind that a row names, or the one that its keys fit."""
    named = row.get("kind")
    if isinstance(named, str) and named in RECORD_TYPES:
        return cast("Kind", named)
    if named is not None:
        meant = nearest(str(named), RECORD_TYPES)
        raise BadRow(
            f"'kind' is {shown(named)}, not one of {', '.join(RECORD_TYPES)}" + (f" (did you mean {meant}?)" if meant else "")
        )
    if "ranks" in row or "response_ids" in row:
        return "ranking"
    if "response_id" in row:
        return "rating"
    if "prompt_id" in row and "text" in row:
        return "demonstration" if "labeler" in row else "response"
    if "text" in row or "turns" in row:
        return "prompt"
    raise BadRow(f"neither 'kind' nor the keys of a record: {', '.join(map(str, row)) or 'no keys'}")


def _not_filled_in(ranks: object) -> bool:
    return ranks is None or (isinstance(ranks, list) and (not ranks or None in ranks))


def _seen(record: Record, task: dict[str, Any]) -> dict[str, str]:
    """The texts that a task showed, by the id of the prompt or response."""
    if not isinstance(record, Ranking | Demonstration):
        return {}
    prompt, responses = task.get("prompt"), task.get("responses")
    seen = {record.prompt_id: prompt} if prompt is not None else {}
    if isinstance(record, Ranking) and responses is not None:
        if not isinstance(responses, list) or len(responses) != len(record.response_ids):
            raise BadRow(f"{len(record.response_ids)} response_ids, but another number of 'responses'")
        seen.update(zip(record.response_ids, responses, strict=True))
    return seen
