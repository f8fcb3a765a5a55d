"""Rows of the database as the records that files hold: for the export and the data explorer alike.

The metadata of answers differ: the explorer's export also says what was shown and when it was answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.conversation import response_text
from heedful.labeling.console.explorer import Kind
from heedful.labeling.queue.items import stored_turns
from heedful.project.data_folder import record_to_json
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response

METADATA = (
    "task_id",
    "batch",
    "group",
    "simulated",
    "instruction_version",
    "seconds_spent",
    "late",
    "surplus",
    "shown_order",
    "created",
)
"""What goes into an answer's metadata if it is known; ``created`` is when it was given."""


def record_of(kind: Kind, row: Mapping[Any, Any]) -> dict[str, Any]:
    """The record as JSON, with labelers' pseudonyms. ``row``: from ``explorer.every_row``, or from the table."""
    known = {name: row[name] for name in METADATA if row.get(name) is not None}
    match kind:
        case "prompt":
            record: Any = Prompt(
                id=row["id"],
                turns=stored_turns(row["text"], row["turns"]),
                use_case=row["use_case"],
                source=row["source"],
                user=row["owner"],
                split=row["split"],
                language=row["language"],
                metadata=row["details"],
            )
        case "response":
            record = Response(
                id=row["id"],
                prompt_id=row["prompt_id"],
                text=row["text"],
                model=row["model"],
                finished=row["finished"],
                phase=row["phase"],
            )
        case "demonstration":
            record = demonstration_of(row, known)
        case "ranking":
            record = ranking_of(row, known)
        case "rating":
            record = rating_of(row, known)
    return record_to_json(record)


def demonstration_of(row: Mapping[Any, Any], metadata: Mapping[str, Any]) -> Demonstration:
    """A demonstration whose text continues its prompt."""
    text = response_text(stored_turns(row["prompt_text"], row["prompt_turns"]), row["text"])
    return Demonstration(**_of_answer(row, metadata), text=text)


def ranking_of(row: Mapping[Any, Any], metadata: Mapping[str, Any]) -> Ranking:
    """A ranking."""
    return Ranking(**_of_answer(row, metadata), response_ids=tuple(row["response_ids"]), ranks=tuple(row["ranks"]))


def rating_of(row: Mapping[Any, Any], metadata: Mapping[str, Any]) -> Rating:
    """A rating of one output."""
    return Rating(**_of_answer(row, metadata), response_id=row["response_id"], overall=row["overall"], flags=row["flags"])


def _of_answer(row: Mapping[Any, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the records of all answers have."""
    phase = row["phase"] or "training"  # an answer that no task asked for
    return {name: row[name] for name in ("id", "prompt_id", "labeler")} | {"phase": phase, "metadata": metadata}
