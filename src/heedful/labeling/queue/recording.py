"""Store simulated labelers' work in the same tables and events as people's, many answers in one transaction.

A person claims a task and submits an answer; here both happen at once, for an answer that exists already. The task is created
with its outputs, and the assignment is leased under the current instructions and answered. The answer passes the same check,
gives the same rows, and is recorded in one event. :mod:`heedful.labeling.exchange.labels` reads these answers like people's.
Simulated labelers see outputs in the task's order, because position does not bias them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from sqlalchemy import Connection, Table, insert, select

from heedful.errors import DataError
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, batch, demonstration, event, person, ranking, rating, task
from heedful.labeling.people import accounts, instruction_versions
from heedful.labeling.queue import counters, items
from heedful.labeling.queue.answer_rows import Answered, rows_of_answer
from heedful.labeling.queue.kinds import Phase, TaskKind, TaskView, check_answer
from heedful.records import Prompt, Ranking, Rating, Response

ANSWERS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One labeler's answer to one task, as the task's page would have sent it."""

    kind: TaskKind
    labeler: str
    prompt_id: str
    response_ids: tuple[str, ...] = ()
    answer: Mapping[str, Any]
    seconds_spent: float


def assessing(ranking: Ranking, ratings: Sequence[Rating], *, seconds_spent: float) -> Work:
    """The work that gives a ranking, and ratings of the same outputs in the same order."""
    if [one.response_id for one in ratings] != list(ranking.response_ids):
        raise DataError(
            "a ranking and its ratings are not of the same outputs", expected=str(ranking.response_ids), got=ranking.id
        )
    pairs = list(zip(ranking.response_ids, ranking.ranks, strict=True))
    return Work(
        kind="rank",
        labeler=ranking.labeler,
        prompt_id=ranking.prompt_id,
        response_ids=ranking.response_ids,
        answer={
            "ratings": {one.response_id: {"overall": one.overall, "flags": dict(one.flags)} for one in ratings},
            "groups": [[response_id for response_id, rank in pairs if rank == each] for each in sorted(set(ranking.ranks))],
        },
        seconds_spent=seconds_spent,
    )


def record_work(
    connection: Connection,
    works: Iterable[Work],
    *,
    run: str,
    groups: Mapping[str, accounts.Group],
    prompts: Iterable[Prompt],
    responses: Iterable[Response] = (),
    now: float | None = None,
) -> list[int]:
    """Store simulated labelers' work of a run, with its prompts and responses; return the ids of its batches.

    ``groups``: each labeler's group (training, held_out) by name. As in the queue, the held-out group works in the phase
    evaluation and the others in the phase training. Raises DataError if an answer is incomplete, a labeler is in no group, or
    a name is another person's pseudonym.
    """
    at = moment(now)
    items.add_prompts(connection, prompts, now=at)
    items.add_responses(connection, responses, now=at)
    instruction_versions.publish_first_versions(connection, now=at)
    recording = _Recording(connection, run, groups, _people(connection, groups, at), at)
    for some in items.batched(works, ANSWERS_AT_ONCE):
        recording.add(some)
    return [made.id for made in recording.batches.values()]


def is_recorded(connection: Connection, kind: Literal["demonstration", "ranking"], id: str, *, run: str) -> bool:
    """Whether ``record_work`` has stored the answer with this id for this run.

    A run's answers are stored together, so checking one of them is enough.
    """
    table = demonstration if kind == "demonstration" else ranking
    joined = table.join(assignment, table.c.assignment_id == assignment.c.id).join(task, assignment.c.task_id == task.c.id)
    names = select(batch.c.name).select_from(joined.join(batch, task.c.batch_id == batch.c.id)).where(table.c.id == id)
    name = connection.execute(names).scalar_one_or_none()
    return name is not None and name.startswith(f"{run}: ")


def _people(connection: Connection, groups: Mapping[str, accounts.Group], at: float) -> dict[str, int]:
    there = {row.pseudonym: row for row in connection.execute(select(person).where(person.c.pseudonym.in_(groups)))}
    ids: dict[str, int] = {}
    for name, group in groups.items():
        if name not in there:
            ids[name] = accounts.add_person(
                connection, name=name, email=None, role="labeler", group=group, simulated=True, pseudonym=name, now=at
            )
        elif there[name].simulated and there[name].group_name == group:
            ids[name] = there[name].id
        else:
            raise DataError(
                f"{name!r} is the pseudonym of another person",
                expected=f"a simulated labeler of the group {group}",
                got=f"{'a simulated labeler' if there[name].simulated else 'a person'} of the group {there[name].group_name}",
            )
    return ids


@dataclass(frozen=True, slots=True)
class _Batch:
    """The batch for one kind of task in one phase."""

    id: int
    instruction_id: int | None
    tasks: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict[tuple[str, tuple[str, ...]], int])
    """Ids by what a task is about: its prompt and outputs."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """State while a run's work is stored in the database."""

    connection: Connection
    run: str
    groups: Mapping[str, accounts.Group]
    people: Mapping[str, int]
    at: float
    batches: dict[tuple[TaskKind, Phase], _Batch] = field(default_factory=dict[tuple[TaskKind, Phase], _Batch])

    def add(self, works: Sequence[Work]) -> None:
        """Store some works: tasks, assignments, rows of answers, and events."""
        kinds: list[tuple[TaskKind, Phase]] = [(work.kind, self._phase(work)) for work in works]
        for kind, phase in dict.fromkeys(kinds):
            self._add_tasks(kind, phase, [work for work, of in zip(works, kinds, strict=True) if of == (kind, phase)])
        assignments = [self._assignment(work, self.batches[of]) for work, of in zip(works, kinds, strict=True)]
        added = insert(assignment).returning(assignment.c.id, sort_by_parameter_order=True)
        ids = self.connection.execute(added, assignments).scalars().all()
        self._add_answers(works, assignments, ids)
        submits = [
            {
                "at": self.at,
                "person_id": row["person_id"],
                "action": "submit",
                "subject": "assignment",
                "subject_id": str(id),
                "after": {"state": "answered", "simulated": True},
            }
            for id, row in zip(ids, assignments, strict=True)
        ]
        self.connection.execute(insert(event), submits)
        counters.add_recorded(self.connection, (row["task_id"] for row in assignments))

    def _phase(self, work: Work) -> Phase:
        if work.labeler not in self.groups:
            raise DataError("the labeler is in no group", expected=", ".join(self.groups), got=work.labeler)
        return "evaluation" if self.groups[work.labeler] == "held_out" else "training"

    def _add_tasks(self, kind: TaskKind, phase: Phase, works: Iterable[Work]) -> None:
        if (kind, phase) not in self.batches:
            name = f"{self.run}: {phase}"
            id = items.make_batch(self.connection, name=name, kind=kind, phase=phase, now=self.at)
            in_force = instruction_versions.current(self.connection, kind, phase)
            self.batches[kind, phase] = _Batch(id, None if in_force is None else in_force.id)
        made = self.batches[kind, phase]
        new = [about for about in dict.fromkeys(map(_about, works)) if about not in made.tasks]
        shown = [items.NewTask(prompt_id=prompt_id, response_ids=response_ids) for prompt_id, response_ids in new]
        made.tasks.update(zip(new, items.add_tasks(self.connection, made.id, shown, now=self.at), strict=True))

    def _assignment(self, work: Work, of: _Batch) -> dict[str, Any]:
        task_id, person_id = of.tasks[_about(work)], self.people[work.labeler]
        return {
            "task_id": task_id,
            "person_id": person_id,
            # Not a secret: simulated labelers have no account. The answer's ids come from it, so the same run gives the same
            # ids. It names the run, because an experiment has a database of its own, where tasks are counted from 1 again.
            "token": f"simulated-{self.run}-{task_id}-{person_id}",
            "state": "answered",
            "shown_order": list(work.response_ids),
            "instruction_id": of.instruction_id,
            "leased": self.at,
            "expires": self.at + items.LEASE_SECONDS,
            "answer": work.answer,
            "answered": self.at,
            "seconds_spent": work.seconds_spent,
        }

    def _add_answers(self, works: Sequence[Work], assignments: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> None:
        rows_of: dict[Table, list[dict[str, Any]]] = {}
        for work, row, id in zip(works, assignments, ids, strict=True):
            check_answer(work.kind, TaskView(response_ids=work.response_ids), work.answer)
            of = Answered(
                assignment_id=id,
                token=row["token"],
                kind=work.kind,
                person_id=row["person_id"],
                prompt_id=work.prompt_id,
                response_ids=work.response_ids,
                at=self.at,
            )
            for table, rows in rows_of_answer(of, work.answer):
                rows_of.setdefault(table, []).extend(rows)
        for table, rows in rows_of.items():
            if table is rating:
                _insert_ratings(self.connection, rows)
            else:
                self.connection.execute(insert(table), rows)


def _about(work: Work) -> tuple[str, tuple[str, ...]]:
    return work.prompt_id, work.response_ids


def _insert_ratings(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ratings through the driver: there are many, SQLAlchemy would take most of the time, few sets of flags differ."""
    names = [column.name for column in rating.columns]
    compiled = insert(rating).compile(dialect=connection.dialect, column_keys=names)
    encoded: dict[tuple[tuple[str, bool], ...], str] = {}

    def values(row: Mapping[str, Any]) -> dict[str, Any]:
        key = tuple(row["flags"].items())
        return {**row, "flags": encoded.get(key) or encoded.setdefault(key, json.dumps(row["flags"]))}

    if compiled.positiontup is None:
        connection.exec_driver_sql(str(compiled), [values(row) for row in rows])
    else:
        order = itemgetter(*compiled.positiontup)
        connection.exec_driver_sql(str(compiled), [order(values(row)) for row in rows])
