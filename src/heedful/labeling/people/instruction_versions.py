"""The instructions for labelers: Markdown, with its own sequence of versions for each kind of task and phase (SPEC 2.2).

A version is never changed. A correction is a new version with a note on what changed; it is announced to labelers until they
confirm that they have read it. Each answer keeps the version under which it was given (``assignment.instruction_id``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from sqlalchemy import Connection, Row, Select, func, insert, select

from heedful.errors import DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import acknowledgement, instruction
from heedful.labeling.queue.kinds import KINDS, PHASES, Phase, TaskKind, refuse_unstorable

FIRST_KINDS: Mapping[Phase, tuple[TaskKind, ...]] = {
    "training": (
        "write_prompt",
        "demonstrate",
        "rank",
        "rate",
        "review_prompt",
        "review_personal_data",
        "toxicity",
        "flag_sensitive",
    ),
    "evaluation": (
        "write_prompt",
        "demonstrate",
        "rank",
        "rate",
        "review_prompt",
        "review_personal_data",
        "toxicity",
        "flag_sensitive",
    ),
    "screening": ("demonstrate", "rank", "rate", "flag_sensitive", "score_demonstration", "self_assess"),
}
"""Kinds and phases with a first version that ships with Heedful."""

_MOST = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One version of the instructions for a kind of task in a phase."""

    id: int
    kind: TaskKind
    phase: Phase
    version: int
    markdown: str
    change_note: str
    author_id: int | None
    """None: shipped with Heedful, or published from the command line."""
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Current instructions that a person has not acknowledged."""

    instruction: Instruction
    acknowledged: Instruction | None
    """The last version that they acknowledged; None: none of this kind and phase."""


def first_version(kind: TaskKind, phase: Phase) -> str:
    """The Markdown that ships with Heedful.

    On pages about the quality of outputs, ``{{priorities}}`` becomes what matters most in this phase. The other kinds have the
    same page in every phase, except that ``{{screening}}`` tells candidates what screening is for.
    """
    folder = resources.files("heedful.labeling.people") / "first_instructions"
    text = (folder / f"{kind}.md").read_text(encoding="utf-8")
    priorities = (folder / f"priorities_{phase}.md").read_text(encoding="utf-8").strip()
    text = text.replace("{{priorities}}", priorities)
    return text.replace("{{screening}}", priorities) if phase == "screening" else text.replace("{{screening}}\n\n", "")


def publish_first_versions(connection: Connection, *, now: float | None = None) -> int:
    """Publish the shipped instructions for every kind and phase without a version; return how many."""
    rows = connection.execute(select(instruction.c.kind, instruction.c.phase).distinct())
    have = {(row.kind, row.phase) for row in rows}
    published = 0
    for phase, kinds in FIRST_KINDS.items():
        for kind in kinds:
            if (kind, phase) not in have:
                text = first_version(kind, phase)
                publish(connection, kind, phase, text, change_note="First version.", author_id=None, now=now)
                published += 1
    return published


def publish(
    connection: Connection,
    kind: TaskKind,
    phase: Phase,
    markdown: str,
    *,
    change_note: str,
    author_id: int | None,
    now: float | None = None,
) -> Instruction:
    """Publish a new version, in force at once. Raises DataError if it is empty, changes nothing, or has no change note."""
    now = moment(now)
    refuse_unstorable(markdown, "the instructions")
    refuse_unstorable(change_note, "the note on the change")
    if kind not in KINDS:
        raise DataError("there is no such kind of task", expected=f"one of {', '.join(KINDS)}", got=repr(kind))
    if phase not in PHASES:
        raise DataError("there is no such phase", expected=f"one of {', '.join(PHASES)}", got=repr(phase))
    markdown, change_note = markdown.replace("\r\n", "\n").strip() + "\n", change_note.strip()
    if not markdown.strip() or len(markdown) > _MOST:
        raise DataError(
            "the instructions cannot be published", expected=f"1 to {_MOST:,} characters", got=f"{len(markdown.strip()):,}"
        )
    if not change_note:
        raise DataError("the change has no note", expected="a sentence for labelers on what changed", got="nothing")
    before = current(connection, kind, phase)
    if before is not None and before.markdown == markdown:
        raise DataError(
            "nothing has changed", expected=f"a text other than version {before.version}'s", got="the same text, word for word"
        )
    version = 1 if before is None else before.version + 1
    values = {
        "kind": kind,
        "phase": phase,
        "version": version,
        "markdown": markdown,
        "change_note": change_note,
        "author_id": author_id,
        "created": now,
    }
    new_id = connection.execute(insert(instruction).values(values).returning(instruction.c.id)).scalar_one()
    events.record(
        connection,
        person_id=author_id,
        action="publish_instructions",
        subject="instruction",
        subject_id=new_id,
        before=None if before is None else {"id": before.id, "version": before.version},
        after={"kind": kind, "phase": phase, "version": version, "change_note": change_note},
        now=now,
    )
    return get(connection, new_id)


def get(connection: Connection, instruction_id: int) -> Instruction:
    """One version. Raises MissingError."""
    row = connection.execute(select(instruction).where(instruction.c.id == instruction_id)).one_or_none()
    if row is None:
        raise MissingError("there are no such instructions", expected="the number of a version", got=str(instruction_id))
    return _of(row)


def current(connection: Connection, kind: str, phase: str) -> Instruction | None:
    """The version in force; None if there is none."""
    row = connection.execute(_versions(kind, phase).limit(1)).one_or_none()
    return None if row is None else _of(row)


def history(connection: Connection, kind: str, phase: str) -> list[Instruction]:
    """All versions, newest first."""
    return [_of(row) for row in connection.execute(_versions(kind, phase))]


def all_current(connection: Connection, phases: Iterable[str] = PHASES) -> list[Instruction]:
    """The versions in force in these phases, by phase and kind in the usual order."""
    newest = (
        select(instruction.c.kind, instruction.c.phase, func.max(instruction.c.version).label("version"))
        .where(instruction.c.phase.in_(tuple(phases)))
        .group_by(instruction.c.kind, instruction.c.phase)
        .subquery()
    )
    query = select(instruction).join(
        newest,
        (instruction.c.kind == newest.c.kind)
        & (instruction.c.phase == newest.c.phase)
        & (instruction.c.version == newest.c.version),
    )
    found = [_of(row) for row in connection.execute(query)]
    return sorted(found, key=lambda one: (PHASES.index(one.phase), KINDS.index(one.kind)))


def acknowledge(connection: Connection, person_id: int, instruction_id: int, *, now: float | None = None) -> None:
    """Record that a person has confirmed reading this version; a second call changes nothing. Raises MissingError."""
    now = moment(now)
    one = get(connection, instruction_id)
    mine = (acknowledgement.c.person_id == person_id) & (acknowledgement.c.instruction_id == instruction_id)
    if connection.execute(select(acknowledgement.c.at).where(mine)).one_or_none() is not None:
        return
    connection.execute(insert(acknowledgement).values(person_id=person_id, instruction_id=instruction_id, at=now))
    events.record(
        connection,
        person_id=person_id,
        action="acknowledge_instructions",
        subject="instruction",
        subject_id=instruction_id,
        after={"kind": one.kind, "phase": one.phase, "version": one.version},
        now=now,
    )


def last_acknowledged(connection: Connection, person_id: int, kind: str, phase: str) -> Instruction | None:
    """The newest version of this kind and phase that a person has acknowledged; None if there is none."""
    query = _versions(kind, phase).join(acknowledgement).where(acknowledgement.c.person_id == person_id).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _of(row)


def unacknowledged(connection: Connection, person_id: int, phases: Iterable[str] = PHASES) -> list[Unread]:
    """The versions in force in these phases that a person has not acknowledged."""
    read = select(acknowledgement.c.instruction_id).where(acknowledgement.c.person_id == person_id)
    have = set(connection.execute(read).scalars())
    return [
        Unread(instruction=one, acknowledged=last_acknowledged(connection, person_id, one.kind, one.phase))
        for one in all_current(connection, phases)
        if one.id not in have
    ]


def _versions(kind: str, phase: str) -> Select:
    query = select(instruction).where(instruction.c.kind == kind, instruction.c.phase == phase)
    return query.order_by(instruction.c.version.desc())


def _of(row: Row) -> Instruction:
    return Instruction(
        id=row.id,
        kind=row.kind,
        phase=row.phase,
        version=row.version,
        markdown=row.markdown,
        change_note=row.change_note,
        author_id=row.author_id,
        created=row.created,
    )
