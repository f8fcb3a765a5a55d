"""A few people and answers, row by row, so that every number of the console can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import assignment, batch, person, prompt, response, task, task_response
from heedful.labeling.queue.answer_rows import Answered, rows_of_answer
from heedful.records import RATING_FLAGS

NOW = 1_800_000_000.0
DAY = 86_400.0
NO_FLAGS = dict.fromkeys(RATING_FLAGS, False)


def form(overall: int, **flags: bool) -> dict[str, Any]:
    """One output's rating as in an answer."""
    return {"overall": overall, "flags": NO_FLAGS | flags}


class Labels:
    """Writes rows past the queue, inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._number = count(1)

    def person(self, pseudonym: str, *, role: str = "labeler", group: str = "training", **more: Any) -> int:
        values = {"pseudonym": pseudonym, "name": f"Name of {pseudonym}", "role": role, "group_name": group, "created": NOW}
        return self._insert(person, values | {"simulated": False} | more)

    def batch(self, kind: str = "rank", phase: str = "training", **more: Any) -> int:
        values = {"name": "A batch", "kind": kind, "phase": phase, "overlap": 2, "priority": 0, "lease_seconds": 1800.0}
        return self._insert(batch, values | {"created": NOW - 10 * DAY} | more)

    def prompt(self, id: str, text: str = "Name a hill.", **more: Any) -> str:
        values = {"id": id, "text": text, "source": "customer", "split": "train", "details": {}, "created": NOW}
        self.connection.execute(insert(prompt).values(values | more))
        return id

    def task(self, batch_id: int, prompt_id: str | None = None, *, num_outputs: int = 0, **more: Any) -> int:
        kind, phase = self.connection.execute(
            batch.select().with_only_columns(batch.c.kind, batch.c.phase).where(batch.c.id == batch_id)
        ).one()
        values = {"batch_id": batch_id, "kind": kind, "phase": phase, "priority": 0, "prompt_id": prompt_id, "payload": {}}
        values |= {"wanted": 2, "held": 0, "answered": 0, "state": "open", "shuffle": 0.5, "created": NOW}
        task_id = self._insert(task, values | more)
        for position in range(num_outputs):
            id = f"{prompt_id}.{position}"
            if self.connection.execute(response.select().where(response.c.id == id)).first() is None:
                self.connection.execute(
                    insert(response).values(
                        id=id,
                        prompt_id=prompt_id,
                        text=f"Output {position}",
                        model="m",
                        finished=True,
                        sampling={},
                        created=NOW,
                    )
                )
            self.connection.execute(insert(task_response).values(task_id=task_id, position=position, response_id=id))
        return task_id

    def answer(
        self,
        task_id: int,
        person_id: int,
        answer: Mapping[str, Any],
        *,
        at: float = NOW - 60,
        shown: Sequence[str] = (),
        **more: Any,
    ) -> int:
        """An answered assignment with its rows; the task counts it."""
        found = self.connection.execute(task.select().where(task.c.id == task_id)).mappings().one()
        ids = list(
            self.connection.execute(
                task_response.select()
                .with_only_columns(task_response.c.response_id)
                .where(task_response.c.task_id == task_id)
                .order_by(task_response.c.position)
            ).scalars()
        )
        assignment_id = self.assignment(
            task_id,
            person_id,
            "answered",
            at=at,
            answer=answer,
            shown_order=list(shown or ids),
            **({"seconds_spent": 30.0} | more),
        )
        of = Answered(
            assignment_id=assignment_id,
            token=f"{assignment_id:032x}",
            kind=found["kind"],
            person_id=person_id,
            prompt_id=found["prompt_id"],
            response_ids=ids,
            at=at,
        )
        for table, rows in rows_of_answer(of, answer):
            self.connection.execute(insert(table), rows)
        given = found["answered"] + 1
        self.connection.execute(
            task.update()
            .where(task.c.id == task_id)
            .values(answered=given, state="done" if given >= found["wanted"] else found["state"])
        )
        return assignment_id

    def rank(self, task_id: int, person_id: int, *groups: str, **more: Any) -> int:
        """Groups of places, best first: "02", "1" is outputs 0 and 2 tied, then output 1; all rated 4."""
        prompt_id = self.connection.execute(
            task.select().with_only_columns(task.c.prompt_id).where(task.c.id == task_id)
        ).scalar_one()
        ids = [[f"{prompt_id}.{place}" for place in group] for group in groups]
        ratings = {id: form(4) for group in ids for id in group}
        return self.answer(task_id, person_id, {"groups": ids, "ratings": ratings}, **more)

    def assignment(self, task_id: int, person_id: int, state: str, *, at: float | None = None, **more: Any) -> int:
        number = next(self._number)
        values = {"task_id": task_id, "person_id": person_id, "token": f"t{number}", "state": state, "shown_order": []}
        values |= {"leased": NOW - 600, "expires": NOW + 600, "answered": at, "late": False, "surplus": False}
        return self._insert(assignment, values | more)

    def _insert(self, table: Any, values: Mapping[str, Any]) -> int:
        return self.connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one()


def new_database(folder: Path) -> Database:
    return open_database(folder / "labels.sqlite")
