"""Store prompts and responses, and make tasks from them in batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn, TypeVar, get_args

from sqlalchemy import Connection, Table, insert, select

from heedful.conversation import Turn
from heedful.errors import DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import batch, prompt, response, task, task_response
from heedful.labeling.queue.kinds import WITH_OUTPUTS, WITHOUT_PROMPT, Phase, TaskKind, refuse_unstorable, storable
from heedful.labeling.queue.payloads import check_payload
from heedful.project.storable import LARGEST_WHOLE, LONGEST_ID, LONGEST_LANGUAGE
from heedful.records import Prompt, Response

LEASE_SECONDS = 1_800.0
"""How long a task belongs to a labeler; each saved draft renews the lease."""
_ROWS_AT_ONCE = 1_000

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to make, about a prompt, its outputs, or what the payload says (see ``queue.payloads``)."""

    prompt_id: str | None = None
    response_ids: Sequence[str] = ()
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gold: Mapping[str, Any] | None = None
    """The researchers' answer; the task is served like any other."""
    wanted: int | None = None
    """Answers wanted; None: the batch's overlap."""


def add_prompts(connection: Connection, prompts: Iterable[Prompt], *, now: float | None = None) -> int:
    """Store prompts; return how many were new. Raises DataError if an id has another text, or a text cannot be stored."""
    at = moment(now)

    def row(record: Prompt) -> dict[str, Any]:
        check_prompt(record)
        return {
            "id": record.id,
            "text": record.text,
            "turns": None if record.turns == (Turn("user", record.text),) else [turn._asdict() for turn in record.turns],
            "use_case": record.use_case,
            "source": record.source,
            "owner": record.user,
            "split": record.split,
            "language": record.language,
            "details": dict(record.metadata),
            "created": at,
        }

    return _add(connection, prompt, map(row, prompts), same=("text",))


def stored_turns(text: str, turns: Sequence[Mapping[str, Any]] | None) -> tuple[Turn, ...]:
    """The turns of a stored prompt, from its columns ``text`` and ``turns``."""
    return (Turn("user", text),) if turns is None else tuple(Turn(turn["role"], turn["text"]) for turn in turns)


def add_responses(
    connection: Connection,
    responses: Iterable[Response],
    *,
    sampling: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> int:
    """Store responses to stored prompts, all sampled with ``sampling`` (temperature, seed …); return how many were new.

    Raises DataError if an id has another text, MissingError if a prompt is not stored.
    """
    at, sampled = moment(now), dict(sampling or {})

    def row(record: Response) -> dict[str, Any]:
        check_response(record)
        return {
            "id": record.id,
            "prompt_id": record.prompt_id,
            "text": record.text,
            "model": record.model,
            "finished": record.finished,
            "phase": record.phase,
            "sampling": sampled,
            "created": at,
        }

    def checked() -> Iterator[dict[str, Any]]:
        for rows in batched(map(row, responses), _ROWS_AT_ONCE):
            _refuse_missing(connection, prompt, {row["prompt_id"] for row in rows})
            yield from rows

    return _add(connection, response, checked(), same=("prompt_id", "text"))


def make_batch(
    connection: Connection,
    *,
    name: str,
    kind: TaskKind,
    phase: Phase,
    overlap: int = 1,
    priority: int = 0,
    per_labeler_limit: int | None = None,
    lease_seconds: float = LEASE_SECONDS,
    created_by: int | None = None,
    now: float | None = None,
) -> int:
    """Make an empty batch; return its id. ``overlap``: labelers per task. Higher ``priority`` comes first. Raises DataError."""
    _require(name.strip() != "", "a name", repr(name))
    _require(kind in get_args(TaskKind), f"kind one of {', '.join(get_args(TaskKind))}", repr(kind))
    _require(phase in get_args(Phase), f"phase one of {', '.join(get_args(Phase))}", repr(phase))
    _require(1 <= overlap <= LARGEST_WHOLE, f"overlap from 1 to {LARGEST_WHOLE}", str(overlap))
    _require(0 < lease_seconds < float("inf"), "lease_seconds above 0", str(lease_seconds))
    _require(-LARGEST_WHOLE <= priority <= LARGEST_WHOLE, f"priority up to {LARGEST_WHOLE}", str(priority))
    limit = per_labeler_limit
    _require(limit is None or 1 <= limit <= LARGEST_WHOLE, f"per_labeler_limit from 1 to {LARGEST_WHOLE}", str(limit))
    refuse_unstorable(name, "the batch's name")
    values = {
        "name": name.strip(),
        "kind": kind,
        "phase": phase,
        "overlap": overlap,
        "priority": priority,
        "per_labeler_limit": per_labeler_limit,
        "lease_seconds": lease_seconds,
    }
    result = connection.execute(
        insert(batch).values(**values, created_by=created_by, created=moment(now)).returning(batch.c.id)
    )
    batch_id = result.scalar_one()
    events.record(
        connection, person_id=created_by, action="make_batch", subject="batch", subject_id=batch_id, after=values, now=now
    )
    return batch_id


def add_tasks(
    connection: Connection,
    batch_id: int,
    tasks: Iterable[NewTask],
    *,
    created_by: int | None = None,
    seed: int | None = None,
    now: float | None = None,
) -> list[int]:
    """Make tasks in a batch, in one transaction; return their ids. They are served in random order, repeatable with ``seed``.

    Raises MissingError if the batch, a prompt or a response is not stored, DataError if a task does not fit its kind.
    """
    rules = connection.execute(select(batch).where(batch.c.id == batch_id)).mappings().one_or_none()
    if rules is None:
        raise MissingError("there is no such batch", expected="a batch's id", got=str(batch_id))
    at, draw, made, gold = moment(now), random.Random(seed), list[int](), 0
    for some in batched(tasks, _ROWS_AT_ONCE):
        _refuse_missing(connection, prompt, {new.prompt_id for new in some if new.prompt_id is not None})
        _refuse_other_prompts(connection, some)
        for new in some:
            _check_fits(rules["kind"], new)
        ids = connection.execute(
            insert(task).returning(task.c.id, sort_by_parameter_order=True),
            [
                {
                    "batch_id": batch_id,
                    "kind": rules["kind"],
                    "phase": rules["phase"],
                    "priority": rules["priority"],
                    "prompt_id": new.prompt_id,
                    "payload": dict(new.payload),
                    "gold": None if new.gold is None else dict(new.gold),
                    "wanted": new.wanted or rules["overlap"],
                    "state": "open",
                    "shuffle": draw.random(),
                    "created": at,
                }
                for new in some
            ],
        ).scalars()
        made += (of_some := list(ids))
        gold += sum(new.gold is not None for new in some)
        shown = [
            {"task_id": task_id, "position": position, "response_id": response_id}
            for task_id, new in zip(of_some, some, strict=True)
            for position, response_id in enumerate(new.response_ids)
        ]
        if shown:
            connection.execute(insert(task_response), shown)
    events.record(
        connection,
        person_id=created_by,
        action="add_tasks",
        subject="batch",
        subject_id=batch_id,
        after={"tasks": len(made), "gold": gold, "first": made[0], "last": made[-1]} if made else {"tasks": 0},
        now=now,
    )
    return made


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most ``size``."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


# ---------------------------------------------------------------------------------------------------- checks


def _require(condition: bool, expected: str, got: str) -> None:
    if not condition:
        raise DataError("the batch is not valid", expected=expected, got=got)


def _check_fits(kind: TaskKind, new: NewTask) -> None:
    def refuse(expected: str, got: str) -> None:
        raise DataError(f"this is not a task of the kind {kind}", expected=expected, got=got)

    if kind in WITH_OUTPUTS and not new.response_ids:
        refuse("outputs to show", "none")
    if kind not in WITH_OUTPUTS and new.response_ids:
        refuse("no outputs", f"{len(new.response_ids)} outputs")
    if len(set(new.response_ids)) != len(new.response_ids):
        refuse("each output once", ", ".join(new.response_ids))
    if new.prompt_id is None and kind not in WITHOUT_PROMPT | {"score_demonstration"}:
        refuse("a prompt", "none")
    if new.wanted is not None and not 1 <= new.wanted <= LARGEST_WHOLE:
        refuse(f"wanted from 1 to {LARGEST_WHOLE}", str(new.wanted))
    check_payload(kind, new.payload)
    refuse_unstorable(new.gold, "the gold answer")


def check_prompt(record: Prompt, *, where: str | None = None) -> None:
    """Raise DataError if a database would refuse a prompt. ``where``: its file and line."""
    short = {"id": (record.id, LONGEST_ID), "owner": (record.user, LONGEST_ID), "language": (record.language, LONGEST_LANGUAGE)}
    _check_stored("prompt", record.id, record.text, short, record.metadata, where)


def check_response(record: Response, *, where: str | None = None) -> None:
    """Raise DataError if a database would refuse a response. ``where``: its file and line."""
    short = {"id": (record.id, LONGEST_ID), "prompt's id": (record.prompt_id, LONGEST_ID)}
    _check_stored("response", record.id, record.text, short, {"model": record.model}, where)


def _check_stored(
    kind: str,
    id: str,
    text: str,
    short: Mapping[str, tuple[str | None, int]],
    other: Mapping[str, Any],
    where: str | None,
) -> None:
    def refuse(what: str, expected: str, got: str) -> NoReturn:
        raise DataError(f"the {kind} {id[:80]!r} cannot be stored: {what}", expected=expected, got=got, where=where)

    for what, (value, longest) in short.items():
        if value is not None and len(value) > longest:
            refuse(f"its {what} is too long", f"at most {longest} characters", str(len(value)))
    for what, value in (("text", text), *((what, value) for what, (value, _) in short.items())):
        if value is not None and not storable(value):
            refuse(f"its {what}", "text without NUL characters and unpaired surrogates", repr(value[:40]))
    try:
        refuse_unstorable(dict(other), "the metadata")
    except DataError as error:
        refuse(error.where or "the metadata", str(error.expected), str(error.got))


def _refuse_missing(connection: Connection, table: Table, ids: set[str]) -> None:
    there = set(connection.execute(select(table.c.id).where(table.c.id.in_(ids))).scalars()) if ids else set[str]()
    if ids - there:
        raise MissingError(f"there is no such {table.name}", expected="the id of a stored one", got=sorted(ids - there)[0])


def _refuse_other_prompts(connection: Connection, tasks: Sequence[NewTask]) -> None:
    named = {response_id for new in tasks for response_id in new.response_ids}
    if not named:
        return
    of: dict[str, str] = {}
    for some in batched(named, _ROWS_AT_ONCE):
        rows = connection.execute(select(response.c.id, response.c.prompt_id).where(response.c.id.in_(some)))
        of |= {row.id: row.prompt_id for row in rows}
    for new in tasks:
        for response_id in new.response_ids:
            if response_id not in of:
                raise MissingError("there is no such response", expected="the id of a stored one", got=response_id)
            if of[response_id] != new.prompt_id:
                raise DataError(
                    "the output belongs to another prompt",
                    expected=f"outputs of {new.prompt_id!r}",
                    got=f"one of {of[response_id]!r}",
                )


def _add(connection: Connection, table: Table, rows: Iterator[dict[str, Any]], same: tuple[str, ...]) -> int:
    """Insert rows with new ids; return how many. An existing row must be equal in the columns ``same``."""
    added = 0
    for some in batched(rows, _ROWS_AT_ONCE):
        columns = [table.c.id, *(table.c[name] for name in same)]
        wanted = {row["id"]: row for row in some}
        there = {row["id"]: row for row in connection.execute(select(*columns).where(table.c.id.in_(wanted))).mappings()}
        for row in some:
            other = there.get(row["id"], wanted[row["id"]])
            if any(other[name] != row[name] for name in same):
                raise DataError(
                    f"the id {row['id']!r} is taken by another {table.name}",
                    expected="ids that stay with their text",
                    got="the same id with another text or prompt",
                )
        new = [row for id, row in wanted.items() if id not in there]
        if new:
            connection.execute(insert(table), new)
            added += len(new)
    return added
