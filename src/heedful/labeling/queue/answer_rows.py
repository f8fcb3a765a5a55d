"""An answer as rows: the assignment keeps the raw JSON, and the table of its kind gets the content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Table, insert

from heedful.labeling.database.tables import annotation, demonstration, ranking, rating
from heedful.labeling.queue.kinds import TaskKind, ranks_of_groups

ANSWER_TABLES: tuple[Table, ...] = (demonstration, ranking, rating, annotation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Who answered, which task, and its outputs."""

    assignment_id: int
    token: str
    kind: TaskKind
    person_id: int
    prompt_id: str | None
    response_ids: Sequence[str]
    """In the task's order, not in the labeler's."""
    at: float


def write_answer(connection: Connection, of: Answered, answer: Mapping[str, Any]) -> None:
    """Add the rows of a checked answer."""
    for table, rows in rows_of_answer(of, answer):
        connection.execute(insert(table), rows)


def rows_of_answer(of: Answered, answer: Mapping[str, Any]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """The rows of an answer, table by table. Their ids come from the lease's token, so they are the same each time."""
    common = {"assignment_id": of.assignment_id, "person_id": of.person_id, "created": of.at}
    about = common | {"prompt_id": of.prompt_id}
    name = blake2b(of.token.encode(), digest_size=10).hexdigest()
    match of.kind:
        case "demonstrate":
            yield demonstration, [about | {"id": f"demonstration-{name}", "text": answer["text"]}]
        case "rank" | "rate":
            if of.kind == "rank":
                ranks = ranks_of_groups(answer["groups"], of.response_ids)
                yield ranking, [about | {"id": f"ranking-{name}", "response_ids": list(of.response_ids), "ranks": ranks}]
            if "ratings" not in answer:  # a ranking task that asks for the order alone
                return
            yield (
                rating,
                [
                    about
                    | {
                        "id": f"rating-{name}-{position}",
                        "response_id": response_id,
                        "overall": answer["ratings"][response_id]["overall"],
                        "flags": dict(answer["ratings"][response_id]["flags"]),
                    }
                    for position, response_id in enumerate(of.response_ids, start=1)
                ],
            )
        case "toxicity":
            # Ordered by toxicity, not by preference, so it is not a ranking for a reward model (SPEC 2.6).
            labelled = about | {"kind": of.kind}
            yield (
                annotation,
                [
                    labelled | {"id": f"annotation-{name}-0", "response_id": None, "value": {"groups": answer["groups"]}},
                    *(
                        labelled
                        | {
                            "id": f"annotation-{name}-{position}",
                            "response_id": response_id,
                            "value": dict(answer["labels"][response_id]),
                        }
                        for position, response_id in enumerate(of.response_ids, start=1)
                    ),
                ],
            )
        case _:
            row = about | {"id": f"annotation-{name}", "kind": of.kind, "response_id": None, "value": dict(answer)}
            yield annotation, [row]
