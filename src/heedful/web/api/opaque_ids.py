"""Opaque ids for outputs: a response's own id may name the model that wrote it, which labelers must not see.

An opaque id is made from the response's id and the application's key. It is the same for everyone and in every task.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from heedful.errors import DataError
from heedful.labeling.queue.assignments import AssignmentView
from heedful.labeling.queue.kinds import TaskView, check_answer


def opaque(view: AssignmentView, key: bytes) -> AssignmentView:
    """The same assignment with opaque ids in its outputs and its answer."""
    ids = {output.id: opaque_id(output.id, key) for output in view.outputs}
    outputs = tuple(replace(output, id=ids[output.id]) for output in view.outputs)
    return replace(view, outputs=outputs, answer=None if view.answer is None else _renamed(view.answer, ids))


def opaque_id(response_id: str, key: bytes) -> str:
    """The opaque id of a response."""
    return "output-" + hmac.digest(key, b"output " + response_id.encode(), hashlib.sha256).hex()[:16]


def with_own_ids(view: AssignmentView, answer: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """An answer with the responses' own ids, as in ``view``."""
    return _renamed(answer, {opaque_id(output.id, key): output.id for output in view.outputs})


def explain(error: DataError, view: AssignmentView, answer: Mapping[str, Any], key: bytes) -> DataError:
    """The same error about an answer, with opaque ids."""
    shown = opaque(view, key)
    ids = {output.id: opaque_id(output.id, key) for output in view.outputs}
    try:
        task = TaskView(response_ids=tuple(output.id for output in shown.outputs), payload=view.payload)
        check_answer(view.kind, task, _renamed(answer, ids))
    except DataError as same:
        return same
    return error


def _renamed(answer: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """``answer`` with each output's id replaced: in the keys of ratings and labels, and in groups."""
    renamed = dict(answer)
    for part in ("ratings", "labels"):
        if isinstance(given := answer.get(part), Mapping):
            renamed[part] = {names.get(id, id): value for id, value in given.items()}
    if isinstance(groups := answer.get("groups"), list):
        renamed["groups"] = [_group(group, names) for group in groups]
    return renamed


def _group(group: object, names: Mapping[str, str]) -> object:
    return [names.get(id, id) if isinstance(id, str) else id for id in group] if isinstance(group, list) else group
