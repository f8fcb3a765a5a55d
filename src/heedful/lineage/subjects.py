"""Find what `heedful lineage NAME` is about: a model, feedback of the playground, a record, an owner of prompts, or a turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import func, select

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import annotation, demonstration, person, prompt, ranking, rating, response
from heedful.labeling.database.usage_tables import (
    answer_feedback,
    api_key,
    api_request,
    conversation,
    conversation_turn,
    model_vote,
    turn_answer,
    withdrawal,
)
from heedful.labeling.usage.consent import key_in
from heedful.lineage.known_records import KnownRecords, known_records
from heedful.lineage.run_graph import MODEL, RunNode, runs_of
from heedful.lineage.tracing import LINEAGE
from heedful.project.owners import spellings
from heedful.project.project import Project
from heedful.project.runs import STAGE_FILE
from heedful.project.structure import nearest

SubjectKind = Literal["model", "vote", "edit", "critique", "record", "owner", "turn"]
_EDIT = re.compile(r"(?:edit|edit-ranking|edited)-(playground-[0-9a-f]{24}-[0-9]+)")
_CRITIQUE = re.compile(r"critique-(playground-[0-9a-f]{24}-[0-9]+)")
_KEY = re.compile(r"[0-9a-f]{24}")
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
    """What a name stands for: the first of :data:`SubjectKind` that fits, or only ``kind``.

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
    known = known_records(project)
    finders = {
        "model": lambda: _model(runs, name),
        "vote": lambda: _vote(known, name, database),
        "edit": lambda: _edit(known, name, database),
        "critique": lambda: _critique(known, name, database),
        "record": lambda: _record(known, name, database),
        "owner": lambda: _owner(known, name, database),
        "turn": lambda: _turn(known, name, database),
    }
    for wanted in get_args(SubjectKind) if kind is None else (kind,):
        if (found := finders[wanted]()) is not None:
            return found
    names = [*runs, *(id for rows in known.by_kind.values() for id in rows), *_owners(known)]
    meant = nearest(name, names)
    raise MissingError(
        f"nothing in this project has the name {name!r}",
        expected=f"{'an' if kind in ('owner', 'edit') else 'a'} {kind}"
        if kind
        else "a model or run; the id of a record, vote, edit, critique or turn; or an owner of prompts",
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
        ids, notes = known.with_labels([id]), ()
    else:
        ids, notes = {id}, ("ratings train no model",) if kind == "rating" else ()
    return Subject(kind="record", name=f"{kind} {id}", ids=frozenset(ids), notes=notes)


def _owner(known: KnownRecords, owner: str, database: Database | None) -> Subject | None:
    stored, keys = _stored_of_owner(database, owner)
    ids = known.of_owner(owner, keys)
    if not ids and not any(stored.values()):
        return None
    prompts = ids & known.by_kind["prompt"].keys()
    notes = [f"{len(prompts):,} prompts in the project's files"]
    if elsewhere := prompts - known.imported:
        notes.append(f"{len(elsewhere):,} of these only in the folders of runs or experiments, which chose from them")
    notes += [f"{count:,} {what} in the labeling database" for what, count in stored.items() if count]
    return Subject(kind="owner", name=owner, ids=frozenset(ids), notes=tuple(notes))


def _vote(known: KnownRecords, name: str, database: Database | None) -> Subject | None:
    """A vote. Further rounds learn from one that prefers an answer, as a ranking with the vote's id."""
    key = name.removeprefix("vote-")
    if not _KEY.fullmatch(key) or not name.startswith("vote-"):
        return None
    found = known.by_kind["ranking"].keys() & {name}
    choice = None
    if database is not None:
        with database.read() as connection:
            query = select(model_vote.c.choice).join(conversation_turn).where(conversation_turn.c.key == key)
            choice = connection.execute(query).scalar_one_or_none()
    if choice is None and not found:
        return None
    notes = [f"the vote says: {choice}" if choice else "the vote is not in the labeling database"]
    if choice in ("tie", "bad"):
        notes.append("a vote that prefers no answer trains no model")
    elif not found:
        notes.append("no file of the project has this vote as a ranking yet: `heedful align --round` takes votes in")
    return Subject(kind="vote", name=name, ids=frozenset(found), notes=(*notes, _more_of(key)))


def _edit(known: KnownRecords, name: str, database: Database | None) -> Subject | None:
    """An edit of an answer: a demonstration, and a ranking in which it is better than the answer."""
    match = _EDIT.fullmatch(name)
    if match is None:
        return None
    edits = (f"edit-{match[1]}", f"edit-ranking-{match[1]}", f"edited-{match[1]}")
    ids = {id for id in edits if known.kind_of(id)}
    if not ids and not _has_feedback(database, match[1], "edit"):
        return None
    note = (
        "an edit is a demonstration, and a ranking of two: the edit is better than the answer"
        if ids
        else "no file of the project has this edit yet: `heedful store export` or `heedful align --round` takes edits in"
    )
    return Subject(kind="edit", name=name, ids=frozenset(ids), notes=(note, _more_of(str(key_in(name)))))


def _critique(known: KnownRecords, name: str, database: Database | None) -> Subject | None:
    match = _CRITIQUE.fullmatch(name)
    if match is None or not _has_feedback(database, match[1], "critique"):
        return None
    return Subject(kind="critique", name=name, notes=("critiques train no model", _more_of(str(key_in(name)))))


def _turn(known: KnownRecords, name: str, database: Database | None) -> Subject | None:
    """A turn of the playground or a request of the API: everything that came from it."""
    if not _KEY.fullmatch(name):
        return None
    ids = known.by_usage([name])[name]
    there, back = False, None
    if database is not None:
        with database.read() as connection:
            there = any(
                connection.execute(select(table.c.id).where(table.c.key == name)).first()
                for table in (conversation_turn, api_request)
            )
            back = connection.execute(select(withdrawal.c.report).where(withdrawal.c.key == name)).scalar_one_or_none()
    if not ids and not there and back is None:
        return None
    notes = [f"{len(ids):,} records came from it, or are about its prompt" if ids else "no record of the project came from it"]
    if back is not None:
        runs = ", ".join(back.get("runs", []))
        used = f"these runs may have used it: {runs}" if runs else "no run is known to have used it"
        notes.append(f"its owner took it back; {used}")
    return Subject(kind="turn", name=name, ids=frozenset(ids), notes=tuple(notes))


def _more_of(key: str) -> str:
    return f"all that came from this turn: `heedful lineage {key}`"


def _has_feedback(database: Database | None, answer: str, kind: Literal["edit", "critique"]) -> bool:
    """Whether the database has an edit or critique of an answer. ``answer``: the id that exports give it."""
    if database is None:
        return False
    key, _, position = answer.removeprefix("playground-").rpartition("-")
    joined = answer_feedback.join(turn_answer, answer_feedback.c.answer_id == turn_answer.c.id).join(
        conversation_turn, turn_answer.c.turn_id == conversation_turn.c.id
    )
    wanted = (
        conversation_turn.c.key == key,
        turn_answer.c.position == int(position),
        answer_feedback.c.kind == kind,
    )
    with database.read() as connection:
        return connection.execute(select(answer_feedback.c.id).select_from(joined).where(*wanted)).first() is not None


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


def _stored_of_owner(database: Database | None, owner: str) -> tuple[dict[str, int], set[str]]:
    """What the database holds of an owner, counted, and the keys of the owner's turns and requests."""
    if database is None:
        return {}, set()
    with database.read() as connection:
        of_person = person.c.pseudonym.in_(spellings(owner))
        turns = conversation_turn.join(conversation).join(person, conversation.c.person_id == person.c.id)
        requests = api_request.join(api_key, api_request.c.api_key_id == api_key.c.id).join(
            person, api_key.c.person_id == person.c.id
        )
        prompts = connection.execute(select(func.count()).where(prompt.c.owner.in_(spellings(owner)))).scalar_one()
        of_turns = connection.execute(select(conversation_turn.c.key).select_from(turns).where(of_person)).scalars().all()
        of_api = connection.execute(select(api_request.c.key).select_from(requests).where(of_person)).scalars().all()
    counts = {"prompts": prompts, "turns of the playground": len(of_turns), "requests of the API": len(of_api)}
    return counts, {*of_turns, *of_api}
