"""The console's editor of instructions: Markdown with a preview, versions, and what changed from one to another."""

from __future__ import annotations

from typing import cast

from starlette.responses import Response

from heedful.errors import HeedfulError, MissingError
from heedful.labeling.people import instruction_versions
from heedful.labeling.queue.kinds import KINDS, PHASES, Phase, TaskKind
from heedful.web.label.differences import Piece, word_differences
from heedful.web.routing import Form, Routes, Visiting

AROUND = 200
"""Characters before and after a change that are shown with it."""
LEFT_OUT = "[…]"


def routes(add: Routes) -> None:
    """Instructions."""
    add.get("/console/instructions", show_all, who="researcher")
    add.get("/console/instructions/{phase}/{kind}", show_one, who="researcher")
    add.post("/console/instructions/{phase}/{kind}", save, who="researcher")
    add.get("/console/instructions/{phase}/{kind}/{version}", show_version, who="researcher")


def show_all(visit: Visiting) -> Response:
    """The versions in force."""
    with visit.database.read() as connection:
        current = {(one.phase, one.kind): one for one in instruction_versions.all_current(connection)}
    return visit.page("console/instructions.html", current=current, kinds=KINDS, phases=PHASES)


def show_one(visit: Visiting, phase: str, kind: str) -> Response:
    """The version in force, in an editor, with all earlier ones."""
    own_kind, own_phase = _checked(kind, phase)
    with visit.database.read() as connection:
        history = instruction_versions.history(connection, own_kind, own_phase)
    text = history[0].markdown if history else ""
    return visit.page(
        "console/instruction.html",
        kind=kind,
        phase=phase,
        history=history,
        markdown_text=text,
        change_note="",
        preview=None,
        pieces=None,
        problem=None,
    )


def save(visit: Visiting, form: Form, phase: str, kind: str) -> Response:
    """Preview the text and its changes, or publish it as the next version."""
    own_kind, own_phase = _checked(kind, phase)
    text, note, problem = form.text("markdown"), form.text("change_note", ""), None
    if form.text("do", "preview") == "publish":
        try:
            with visit.database.write() as connection:
                new = instruction_versions.publish(
                    connection, own_kind, own_phase, text, change_note=note, author_id=visit.person.id
                )
            return visit.go(
                f"/console/instructions/{phase}/{kind}",
                flash=f"Version {new.version} is in force. Labelers see what changed before their next task of this kind.",
            )
        except HeedfulError as error:
            problem = error
    with visit.database.read() as connection:
        history = instruction_versions.history(connection, own_kind, own_phase)
    return visit.page(
        "console/instruction.html",
        status=422 if problem else 200,
        kind=kind,
        phase=phase,
        history=history,
        markdown_text=text,
        change_note=note,
        preview=text,
        pieces=_changes(history[0].markdown, text) if history else None,
        problem=problem,
    )


def show_version(visit: Visiting, phase: str, kind: str, version: str) -> Response:
    """One version, with its changes, word by word, from the version before (or the one in ``?from=``)."""
    own_kind, own_phase = _checked(kind, phase)
    with visit.database.read() as connection:
        history = instruction_versions.history(connection, own_kind, own_phase)
    by_number = {str(one.version): one for one in history}
    if version not in by_number:
        raise MissingError("there is no such version", expected="the number of a version", got=version[:20])
    one = by_number[version]
    before = by_number.get(visit.request.query_params.get("from", str(one.version - 1)))
    return visit.page(
        "console/instruction_version.html",
        kind=kind,
        phase=phase,
        history=history,
        one=one,
        before=before,
        pieces=_changes(before.markdown, one.markdown) if before else None,
    )


def _changes(first: str, second: str) -> list[Piece]:
    """What changed, with some of the text around it; long unchanged stretches are left out."""
    pieces = word_differences(first, second)
    return [
        piece if piece.change != "same" else Piece("same", shortened(piece.text, index == 0, index == len(pieces) - 1))
        for index, piece in enumerate(pieces)
    ]


def shortened(text: str, first: bool, last: bool) -> str:
    """The ends of an unchanged text, next to changes, with a mark for what is left out; the whole text if it is short."""
    head, tail = ("" if first else text[:AROUND]), ("" if last else text[-AROUND:])
    return text if len(text) <= 3 * AROUND else f"{head} {LEFT_OUT} {tail}"


def _checked(kind: str, phase: str) -> tuple[TaskKind, Phase]:
    if kind not in KINDS or phase not in PHASES:
        raise MissingError("there are no such instructions", expected="a kind of task and a phase", got=f"{kind}, {phase}"[:60])
    return cast("TaskKind", kind), cast("Phase", phase)
