"""Erase an owner's prompts from the labeling database, with everything written about them (SPEC 1.1, 1.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, or_, select, update

from heedful.errors import HeedfulError, StorageError
from heedful.labeling.database import events
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.locating import holds_labels, is_sqlite, is_sqlite_log
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    demonstration,
    person,
    problem,
    prompt,
    ranking,
    rating,
    response,
    superseded_answer,
    task,
    task_response,
)
from heedful.labeling.database.usage_tables import (
    TRACES,
    answer_feedback,
    api_key,
    api_request,
    conversation,
    conversation_turn,
    model_vote,
    turn_answer,
    withdrawal,
)
from heedful.project.owners import spellings


def forget_owner(database: Database, owner: str) -> dict[str, int]:
    """Delete an owner's prompts, their outputs, tasks and answers; return how many rows of each kind (empty: there were none).

    The audit log keeps the prompts' ids and the fact that they were erased; events hold no text. If someone is working on one
    of the prompts, the page says that the task is gone. Raises StorageError.
    """
    with database.write() as connection:
        erased = _erase_usage(connection, owner)
        return erased | erase_prompts(connection, prompt.c.owner.in_(spellings(owner)))


@dataclass(frozen=True, slots=True)
class OwnersTraces:
    """What the database holds about an owner."""

    there: bool
    """Whether there is anything to erase."""
    ids: frozenset[str]
    """Ids of prompts, and keys of turns and requests."""
    written: frozenset[str]
    """Texts by the owner."""
    answers: frozenset[str]
    """Texts by others, about the owner's prompts."""


def traces_of_owner(database: Database, owner: str) -> OwnersTraces:
    """An owner's ids and texts, to search for them elsewhere before they are erased here."""
    with database.read() as connection:
        prompts = select(prompt.c.id).where(prompt.c.owner.in_(spellings(owner)))
        people = select(person.c.id).where(person.c.pseudonym.in_(spellings(owner)))
        conversations = select(conversation.c.id).where(conversation.c.person_id.in_(people))
        turns = select(conversation_turn.c.id).where(conversation_turn.c.conversation_id.in_(conversations))
        answers = select(turn_answer.c.id).where(turn_answer.c.turn_id.in_(turns))
        requests = api_request.c.api_key_id.in_(select(api_key.c.id).where(api_key.c.person_id.in_(people)))

        def column(of: Column[Any], where: ColumnElement[bool]) -> list[Any]:
            return [value for value in connection.execute(select(of).where(where)).scalars() if value]

        ids = column(prompt.c.id, prompt.c.id.in_(prompts))
        keys = column(conversation_turn.c.key, conversation_turn.c.id.in_(turns)) + column(api_request.c.key, requests)
        written = [text for stored in column(prompt.c.turns, prompt.c.id.in_(prompts)) for text in _strings(stored)]
        written += column(prompt.c.text, prompt.c.id.in_(prompts))
        written += column(conversation_turn.c.text, conversation_turn.c.id.in_(turns))
        written += column(answer_feedback.c.text, answer_feedback.c.answer_id.in_(answers))
        written += [text for stored in column(api_request.c.request, requests) for text in _strings(stored)]
        said = column(response.c.text, response.c.prompt_id.in_(prompts))
        said += column(demonstration.c.text, demonstration.c.prompt_id.in_(prompts))
        said += column(turn_answer.c.text, turn_answer.c.id.in_(answers))
        said += [text for stored in column(api_request.c.response, requests) for text in _strings(stored)]
        for report in column(withdrawal.c.report, withdrawal.c.person_id.in_(people)):  # kept until it is erased everywhere
            traces = report.get(TRACES, {})
            ids += traces.get("ids", [])
            written += traces.get("written", [])
            said += traces.get("answers", [])
        there = bool(ids or keys or column(conversation.c.id, conversation.c.id.in_(conversations)))
    return OwnersTraces(there, frozenset([*ids, *keys]), frozenset(written), frozenset(said))


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value except those under the keys role and type."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("role", "type"):
                yield from _strings(part)


def erase_prompts(connection: Connection, wanted: ColumnElement[bool]) -> dict[str, int]:
    """Delete the prompts that meet a condition, with outputs, tasks and answers; return how many rows of each kind."""
    prompts = select(prompt.c.id).where(wanted)
    tasks = select(task.c.id).where(task.c.prompt_id.in_(prompts))
    assignments = select(assignment.c.id).where(assignment.c.task_id.in_(tasks))
    of_answer = {
        table: or_(table.c.prompt_id.in_(prompts), table.c.assignment_id.in_(assignments))
        for table in (annotation, rating, ranking, demonstration)
    }
    # Rows that refer to others come first.
    doomed: list[tuple[str, ColumnElement[bool]]] = [
        *((table.name, condition) for table, condition in of_answer.items()),
        (problem.name, problem.c.task_id.in_(tasks)),
        (task_response.name, task_response.c.task_id.in_(tasks)),
        (superseded_answer.name, superseded_answer.c.assignment_id.in_(assignments)),
        (assignment.name, assignment.c.task_id.in_(tasks)),
        (task.name, task.c.prompt_id.in_(prompts)),
        (response.name, response.c.prompt_id.in_(prompts)),
        (prompt.name, wanted),
    ]
    erased: dict[str, int] = {}
    for prompt_id in connection.execute(prompts).scalars().all():
        events.record(connection, person_id=None, action="forget", subject="prompt", subject_id=prompt_id)
    for name, condition in doomed:
        if count := connection.execute(delete(prompt.metadata.tables[name]).where(condition)).rowcount:
            erased[name] = count
    return erased


def erase_turns(connection: Connection, wanted: ColumnElement[bool]) -> dict[str, int]:
    """Delete the turns that meet a condition, with answers, votes and feedback, and conversations that have no other turn."""
    turns = select(conversation_turn.c.id).where(wanted)
    touched = connection.execute(select(conversation_turn.c.conversation_id).where(wanted)).scalars().all()
    answers = select(turn_answer.c.id).where(turn_answer.c.turn_id.in_(turns))
    emptied = conversation.c.id.in_(touched) & conversation.c.id.not_in(select(conversation_turn.c.conversation_id))
    return _deleted(
        connection,
        (answer_feedback, answer_feedback.c.answer_id.in_(answers)),
        (model_vote, model_vote.c.turn_id.in_(turns)),
        (turn_answer, turn_answer.c.turn_id.in_(turns)),
        (conversation_turn, wanted),
        (conversation, emptied),
    )


def _deleted(connection: Connection, *doomed: tuple[Table, ColumnElement[bool]]) -> dict[str, int]:
    """Delete rows, those that refer to others first; return how many rows of each table."""
    erased = {table.name: connection.execute(delete(table).where(condition)).rowcount for table, condition in doomed}
    return {name: count for name, count in erased.items() if count}


def _erase_usage(connection: Connection, owner: str) -> dict[str, int]:
    """Delete a person's conversations, and the texts of the requests of their keys; counts of requests stay."""
    people = select(person.c.id).where(person.c.pseudonym.in_(spellings(owner)))
    conversations = select(conversation.c.id).where(conversation.c.person_id.in_(people))
    turns = select(conversation_turn.c.id).where(conversation_turn.c.conversation_id.in_(conversations))
    answers = select(turn_answer.c.id).where(turn_answer.c.turn_id.in_(turns))
    keys = select(api_key.c.id).where(api_key.c.person_id.in_(people))
    of_keys = api_request.c.api_key_id.in_(keys)
    texts = of_keys & (api_request.c.request.is_not(None) | api_request.c.response.is_not(None))
    no_text = {"request": None, "response": None}
    erased = {"api_request": connection.execute(update(api_request).where(texts).values(no_text)).rowcount}
    connection.execute(update(api_request).where(of_keys).values(training=False))
    noted = withdrawal.c.person_id.in_(people)
    connection.execute(update(withdrawal).where(noted, withdrawal.c.applied.is_(None)).values(applied=time.time()))
    connection.execute(update(withdrawal).where(noted).values(report={"erased": {}}))
    erased |= _deleted(
        connection,
        (answer_feedback, answer_feedback.c.answer_id.in_(answers)),
        (model_vote, model_vote.c.turn_id.in_(turns)),
        (turn_answer, turn_answer.c.turn_id.in_(turns)),
        (conversation_turn, conversation_turn.c.conversation_id.in_(conversations)),
        (conversation, conversation.c.person_id.in_(people)),
    )
    return {name: count for name, count in erased.items() if count}


def leave_no_bytes(database: Database) -> None:
    """Rewrite the database's file, so that neither its unused pages nor its log hold what was erased.

    PostgreSQL's own vacuum does this. Raises StorageError if another process is reading an older state.
    """
    if database.is_sqlite and not database.rewrite():
        raise StorageError(
            "erased text may still be in the database's log",
            expected="no other process that reads the database",
            got="another process that reads it",
            where=f"{database.path}-wal",
            next_step="stop `heedful web`, or wait until its long downloads are done, and run this again",
        )


def erase_in_copies(
    folder: Path, database: Database | None, erase: Callable[[Database], Mapping[str, int]]
) -> tuple[dict[str, int], list[Path]]:
    """Do ``erase`` in the copies of the database in a project's folder; return rows erased, and copies not changed.

    The copies are the files in ``backups/``, those that a restore replaced, databases of experiments, and every other SQLite
    file but ``database`` itself. A copy that cannot be opened, or that is another program's, is not changed.
    """
    erased: dict[str, int] = {}
    left: list[Path] = []
    own = None if database is None or database.path is None else database.path.resolve()
    backups = [path for path in folder.glob("backups/*") if path.is_file() and not is_sqlite_log(path)]
    copies = {*backups, *(path for path in folder.rglob("*") if is_sqlite(path))}
    for copy in sorted(path for path in copies if path.resolve() != own and path.stat().st_size):
        if not holds_labels(copy):
            left.append(copy)
            continue
        try:
            database = open_database(copy)
            try:
                for name, count in erase(database).items():
                    erased[name] = erased.get(name, 0) + count
                leave_no_bytes(database)
            finally:
                database.close()
        except HeedfulError:
            left.append(copy)
    return erased, left
