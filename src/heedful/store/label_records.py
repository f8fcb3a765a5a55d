"""A stored row as the record that files hold (heedful.records), with what a reader of the labels may need to know beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.records import Demonstration, Prompt, Ranking, Rating, Response
from heedful.store.explorer import Kind
from heedful.store.files import record_to_json

METADATA = (
    "assignment_id",
    "labeler_group",
    "simulated",
    "phase",
    "batch_id",
    "instruction_version",
    "seconds_spent",
    "late",
    "surplus",
    "shown_order",
    "created",
)
"""Of an answer: columns of ``explorer.every_row`` that go into the record's metadata where they are known."""


def record_of(kind: Kind, row: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON; labelers stand under their pseudonyms."""
    known = {name: row[name] for name in METADATA if name in row and row[name] is not None}
    match kind:
        case "prompt":
            record: Any = Prompt(
                id=row["id"],
                text=row["text"],
                use_case=row["use_case"],
                source=row["source"],
                user=row["owner"],
                split=row["split"],
                language=row["language"],
                metadata=row["details"],
            )
        case "response":
            record = Response(
                id=row["id"], prompt_id=row["prompt_id"], text=row["text"], model=row["model"], finished=row["finished"]
            )
        case "demonstration":
            record = Demonstration(
                id=row["id"], prompt_id=row["prompt_id"], text=row["text"], labeler=row["labeler"], metadata=known
            )
        case "ranking":
            record = Ranking(
                id=row["id"],
                prompt_id=row["prompt_id"],
                response_ids=tuple(row["response_ids"]),
                ranks=tuple(row["ranks"]),
                labeler=row["labeler"],
                metadata=known,
            )
        case "rating":
            record = Rating(
                id=row["id"],
                prompt_id=row["prompt_id"],
                response_id=row["response_id"],
                labeler=row["labeler"],
                overall=row["overall"],
                flags=row["flags"],
                metadata=known,
            )
    return record_to_json(record)
