"""Find what `heedful lineage NAME` is about: a model, a record, an owner of prompts or a vote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import Connection, func, select

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import annotation, demonstration, person, prompt, ranking, rating, response
from heedful.labeling.database.usage_tables import api_key, api_request, conversation, conversation_turn, model_vote
from heedful.lineage.known_records import KnownRecords, known_records
from heedful.lineage.run_graph import MODEL, RunNode, runs_of
from heedful.lineage.tracing import LINEAGE
from heedful.project.owners import spellings
from heedful.project.project import Project
from heedful.project.runs import STAGE_FILE
from heedful.project.structure import nearest

SubjectKind = Literal["model", "record", "owner", "vote"]
_TABLES = {
    "prompt": prompt,
    "response": response,
    "demonstration": demonstration,
    "ranking": ranking,
    "rating": rating,
    "annotation": annotation,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a name stands for."""

    kind: SubjectKind
    name: str
    ids: frozenset[str] = frozenset()
    """The records that it stands for."""
    run: str | None = None
    """For a model: the run that made it."""
    released: Mapping[str, Any] | None = None
    """For a released model: the lineage in its folder."""
    notes: tuple[str, ...] = ()
    """Further remarks."""


def subject_of(
    project: Project | None, name: str, *, kind: SubjectKind | None = None, database: Database | None = None
) -> Subject:
    """What a name stands for: tried in the order model, record, owner, vote, or only ``kind``.

    project: None if the name can only be a released model's folder.
    Raises MissingError if nothing has this name, DataError for a broken file.
    """
    if kind in (None, "model") and (found := _released(name)):
        return found
    if project is None:
        raise MissingError(
            "there is no such model",
            expected=f"a folder with {LINEAGE}",
            got=repr(name),
            next_step="name its project with --project",
        )
    runs = runs_of(project.runs)
    known = known_records(project.data, runs)
    finders = {
        "model": lambda: _model(runs, name),
        "record": lambda: _record(known, name, database),
        "owner": lambda: _owner(known, name, database),
        "vote": lambda: _vote(known, name, database),
    }
    for wanted in get_args(SubjectKind) if kind is None else (kind,):
        if (found := finders[wanted]()) is not None:
            return found
    names = [*runs, *(id for rows in known.by_kind.values() for id in rows), *_owners(known)]
    meant = nearest(name, names)
    raise MissingError(
        f"nothing in this project has the name {name!r}",
        expected=f"{'an' if kind == 'owner' else 'a'} {kind}"
        if kind
        else "a model or run, the id of a record, an owner of prompts, or a vote",
        got=repr(name),
        where=project.folder,
        next_step=f"did you mean {meant!r}?" if meant else "`heedful status` lists the stages, data/ holds the records",
    )


def _released(name: str) -> Subject | None:
    """A folder with the lineage that its release wrote."""
    path = Path(name) / LINEAGE
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("a released model's lineage cannot be read", expected="JSON", got=str(error), where=path) from None
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list):
        raise DataError("this is not a lineage", expected="a JSON object with runs", got=type(value).__name__, where=path)
    return Subject(kind="model", name=name, run=str(value.get("model", "")), released=value)


def _model(runs: Mapping[str, RunNode], name: str) -> Subject | None:
    path = Path(name)
    folder = path.parent if path.name == MODEL else path
    if (folder / STAGE_FILE).is_file() and folder.name in runs:
        return Subject(kind="model", name=name, run=folder.name)
    if name in runs:
        return Subject(kind="model", name=name, run=name)
    named = [run for run in runs.values() if name in (run.stage, run.use.makes if run.use else None)]
    newest = next((run for run in reversed(named) if run.done), None)
    return None if newest is None else Subject(kind="model", name=name, run=newest.name)


def _record(known: KnownRecords, id: str, database: Database | None) -> Subject | None:
    kind = known.kind_of(id)
    if kind is None:
        stored = _stored_kind(database, id)
        if stored is None:
            return None
        note = f"this {stored} is in the labeling database but in no file of the project, so no run was given it"
        return Subject(kind="record", name=f"{stored} {id}", notes=(note,))
    if kind == "prompt":
        ids = known.with_labels([id])
        notes = (f"{len(ids) - 1:,} responses and labels are about this prompt",)
    elif kind == "response":
        ids, notes = {id} | known.rankings_with(id), ()
    else:
        ids, notes = {id}, ("ratings train no model",) if kind == "rating" else ()
    return Subject(kind="record", name=f"{kind} {id}", ids=frozenset(ids), notes=notes)


def _owner(known: KnownRecords, owner: str, database: Database | None) -> Subject | None:
    prompts = known.prompts_of_owner(owner)
    stored = _stored_of_owner(database, owner)
    if not prompts and not any(stored.values()):
        return None
    notes = [f"{len(prompts):,} prompts in the project's files"]
    notes += [f"{count:,} {what} in the labeling database" for what, count in stored.items() if count]
    return Subject(kind="owner", name=owner, ids=frozenset(known.with_labels(prompts)), notes=tuple(notes))


def _vote(known: KnownRecords, name: str, database: Database | None) -> Subject | None:
    key = name.removeprefix("vote-")
    ids = known.of_usage(key)
    if database is not None:
        with database.read() as connection:
            query = select(model_vote.c.choice).join(conversation_turn).where(conversation_turn.c.key == key)
            choice = connection.execute(query).scalar_one_or_none()
        if choice is None and not ids:
            return None
        said = "this turn has no vote" if choice is None else f"the vote says: {choice}"
    elif not ids:
        return None
    else:
        said = "there is no labeling database here, so the vote itself is not known"
    came = (
        f"{len(ids):,} records came from this turn"
        if ids
        else "no record of the project came from this turn, so no run was given it"
    )
    return Subject(kind="vote", name=name, ids=frozenset(ids | known.with_labels(ids)), notes=(said, came))


def _owners(known: KnownRecords) -> set[str]:
    return {str(row["user"]) for row in known.by_kind["prompt"].values() if row.get("user")}


def _stored_kind(database: Database | None, id: str) -> str | None:
    if database is None:
        return None
    with database.read() as connection:
        for kind, table in _TABLES.items():
            if connection.execute(select(table.c.id).where(table.c.id == id)).first():
                return kind
    return None


def _stored_of_owner(database: Database | None, owner: str) -> dict[str, int]:
    if database is None:
        return {}
    with database.read() as connection:
        of_person = person.c.pseudonym.in_(spellings(owner))
        turns = conversation_turn.join(conversation).join(person, conversation.c.person_id == person.c.id)
        requests = api_request.join(api_key, api_request.c.api_key_id == api_key.c.id).join(
            person, api_key.c.person_id == person.c.id
        )
        return {
            "prompts": _count(connection, select(func.count()).where(prompt.c.owner.in_(spellings(owner)))),
            "turns of the playground": _count(connection, select(func.count()).select_from(turns).where(of_person)),
            "requests of the API": _count(connection, select(func.count()).select_from(requests).where(of_person)),
        }


def _count(connection: Connection, query: Any) -> int:
    return connection.execute(query).scalar_one()
