"""Simulated labelers' work, in the same tables and events as people's: many answers in few large transactions.

What a person does in a claim and a submit is here done at once for an answer that exists already: the task is made with its
outputs, the assignment is leased and answered, the answer goes through the same check into the same rows, and one event tells
of it. Simulated labelers see outputs in the task's order: they have no eyes that begin on the left.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, insert, select, update

from heedful.errors import DataError
from heedful.records import Prompt, Ranking, Rating, Response
from heedful.store import items
from heedful.store.answers import Answered, rows_of_answer
from heedful.store.database import Database
from heedful.store.kinds import Phase, TaskView, check_answer
from heedful.store.tables import assignment, event, person, ranking, rating, task

ANSWERS_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What one labeler said of one prompt's outputs."""

    ranking: Ranking
    ratings: Sequence[Rating]
    """Of the same outputs, in the ranking's order."""


def record_assessments(
    database: Database,
    assessments: Iterable[Assessment],
    *,
    name: str,
    prompts: Iterable[Prompt],
    responses: Iterable[Response],
    groups: Mapping[str, str],
    now: float | None = None,
) -> int:
    """Store what simulated labelers said; how many rankings. ``groups``: group (training, held_out) of each labeler by name.

    The held-out group's are of the phase evaluation, the others' of the phase training. Raises DataError where a ranking and
    its ratings are not of the same outputs, or a labeler is in no group.
    """
    at = time.time() if now is None else now
    with database.write() as connection:
        people = _people(connection, groups, at)
        items.add_prompts(connection, prompts, now=at)
        items.add_responses(connection, responses, now=at)
    batches: dict[Phase, int] = {}
    tasks: dict[tuple[Phase, str, tuple[str, ...]], int] = {}
    number = 0
    for some in items.batched(assessments, ANSWERS_AT_ONCE):
        with database.write() as connection:
            _record(connection, some, name, people, groups, batches, tasks, at)
        number += len(some)
    return number


def recorded_assessments(connection: Connection) -> Iterator[Assessment]:
    """What was stored, in the order in which it was stored, as the very records that were given."""
    query = (
        select(ranking, person.c.pseudonym, person.c.simulated)
        .select_from(ranking.join(person, ranking.c.person_id == person.c.id))
        .order_by(ranking.c.assignment_id)
    )
    rows = connection.execute(query, execution_options={"yield_per": ANSWERS_AT_ONCE})
    for some in items.batched(rows, ANSWERS_AT_ONCE // 4):
        rated: dict[tuple[int, str], Any] = {}
        of = [row.assignment_id for row in some]
        for row in connection.execute(select(rating).where(rating.c.assignment_id.in_(of))):
            rated[row.assignment_id, row.response_id] = row
        for row in some:
            metadata = {"simulated": row.simulated}
            order = Ranking(
                id=row.id,
                prompt_id=row.prompt_id,
                response_ids=tuple(row.response_ids),
                ranks=tuple(row.ranks),
                labeler=row.pseudonym,
                metadata=metadata,
            )
            found = [rated[row.assignment_id, response_id] for response_id in row.response_ids]
            ratings = [
                Rating(
                    id=one.id,
                    prompt_id=one.prompt_id,
                    response_id=one.response_id,
                    labeler=row.pseudonym,
                    overall=one.overall,
                    flags=one.flags,
                    metadata=metadata,
                )
                for one in found
            ]
            yield Assessment(ranking=order, ratings=ratings)


def _people(connection: Connection, groups: Mapping[str, str], at: float) -> dict[str, int]:
    there = {row.pseudonym: row.id for row in connection.execute(select(person.c.pseudonym, person.c.id))}
    for name, group in groups.items():
        if name not in there:
            values = {"pseudonym": name, "name": name, "role": "labeler", "group_name": group, "simulated": True, "created": at}
            there[name] = connection.execute(insert(person).values(**values).returning(person.c.id)).scalar_one()
    return there


def _record(
    connection: Connection,
    assessments: Sequence[Assessment],
    name: str,
    people: Mapping[str, int],
    groups: Mapping[str, str],
    batches: dict[Phase, int],
    tasks: dict[tuple[Phase, str, tuple[str, ...]], int],
    at: float,
) -> None:
    phases: list[Phase] = [_phase(each, groups) for each in assessments]
    keys: list[tuple[Phase, str, tuple[str, ...]]] = [
        (phase, each.ranking.prompt_id, each.ranking.response_ids) for phase, each in zip(phases, assessments, strict=True)
    ]
    for phase in sorted(set(phases)):
        if phase not in batches:
            batches[phase] = items.make_batch(connection, name=f"{name}: {phase}", kind="rank", phase=phase, now=at)
        new = [key for key in dict.fromkeys(keys) if key[0] == phase and key not in tasks]
        shown = [items.NewTask(prompt_id=prompt_id, response_ids=response_ids) for _, prompt_id, response_ids in new]
        tasks.update(zip(new, items.add_tasks(connection, batches[phase], shown, now=at), strict=True))
    answers = [_answer(each) for each in assessments]
    tokens = [secrets.token_urlsafe(24) for _ in assessments]
    rows = [
        {
            "task_id": tasks[key],
            "person_id": people[each.ranking.labeler],
            "token": token,
            "state": "answered",
            "shown_order": list(each.ranking.response_ids),
            "leased": at,
            "expires": at + items.LEASE_SECONDS,
            "answer": answer,
            "answered": at,
        }
        for key, each, token, answer in zip(keys, assessments, tokens, answers, strict=True)
    ]
    added = insert(assignment).returning(assignment.c.id, sort_by_parameter_order=True)
    ids = connection.execute(added, rows).scalars().all()
    ranked: list[dict[str, Any]] = []
    rated: list[dict[str, Any]] = []
    for id, each, row in zip(ids, assessments, rows, strict=True):
        of = Answered(
            assignment_id=id,
            token=row["token"],
            kind="rank",
            person_id=row["person_id"],
            prompt_id=each.ranking.prompt_id,
            response_ids=each.ranking.response_ids,
            at=at,
        )
        check_answer("rank", TaskView(response_ids=each.ranking.response_ids), row["answer"])
        # The records keep the ids they have: what refers to them by id goes on to.
        for table, made in rows_of_answer(of, row["answer"]):
            if table is ranking:
                ranked += [made[0] | {"id": each.ranking.id}]
            else:
                rated += [one | {"id": record.id} for one, record in zip(made, each.ratings, strict=True)]
    connection.execute(insert(ranking), ranked)
    _insert_ratings(connection, rated)
    connection.execute(
        insert(event),
        [
            {
                "at": at,
                "person_id": row["person_id"],
                "action": "submit",
                "subject": "assignment",
                "subject_id": str(id),
                "after": {"state": "answered", "simulated": True},
            }
            for id, row in zip(ids, rows, strict=True)
        ],
    )
    # A task that these answers are of wants as many as it has.
    for count, of_tasks in _by_count(Counter(row["task_id"] for row in rows)).items():
        more = {"wanted": task.c.answered + count, "held": task.c.held + count, "answered": task.c.answered + count}
        for some in items.batched(of_tasks, 500):
            connection.execute(update(task).where(task.c.id.in_(some)).values(**more, state="done"))


def _insert_ratings(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ratings by the driver itself: there are many, SQLAlchemy would take most of the time, few flags are different."""
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


def _by_count(counted: Mapping[int, int]) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for id, count in counted.items():
        result.setdefault(count, []).append(id)
    return result


def _phase(each: Assessment, groups: Mapping[str, str]) -> Phase:
    if each.ranking.labeler not in groups:
        raise DataError("the labeler is in no group", expected=", ".join(groups), got=each.ranking.labeler)
    return "evaluation" if groups[each.ranking.labeler] == "held_out" else "training"


def _answer(each: Assessment) -> dict[str, Any]:
    """The records as the answer that they would have been on a page."""
    order = each.ranking
    if [one.response_id for one in each.ratings] != list(order.response_ids):
        raise DataError("a ranking and its ratings are not of the same outputs", expected=str(order.response_ids), got=order.id)
    ranks = sorted(set(order.ranks))
    pairs = list(zip(order.response_ids, order.ranks, strict=True))
    return {
        "ratings": {one.response_id: {"overall": one.overall, "flags": dict(one.flags)} for one in each.ratings},
        "groups": [[response_id for response_id, rank in pairs if rank == each_rank] for each_rank in ranks],
    }
