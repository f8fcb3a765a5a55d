"""The labeler's pages besides tasks: waiting tasks, instructions, questions to the researchers, surveys, own answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from heedful.errors import DataError, MissingError
from heedful.labeling.people import instruction_versions, own_work, problems, surveys
from heedful.labeling.queue import leases
from heedful.labeling.queue.kinds import KINDS, PHASES
from heedful.web.label import task_pages
from heedful.web.label.differences import word_differences
from heedful.web.routing import Form, Id, Routes, Visiting
from heedful.web.security import safe_next

HISTORY_LENGTH = 50


def routes(add: Routes) -> None:
    """The labeler's pages and links."""
    add.get("/", home, who="user")
    add.get("/history", history, who="labeler")
    add.get("/instructions", all_instructions, who="labeler")
    add.get("/instructions/{kind}/{phase}", show_instructions, who="labeler")
    add.post("/instructions/{instruction_id}/acknowledge", acknowledge, who="labeler")
    add.get("/questions", questions, who="labeler")
    add.post("/questions", ask, who="labeler")
    add.post("/questions/{problem_id}/seen", mark_seen, who="labeler")
    add.get("/surveys/{name}", show_survey, who="labeler")
    add.post("/surveys/{name}", take_survey, who="labeler")
    task_pages.routes(add)


@dataclass(frozen=True, slots=True)
class WaitingKind:
    """The waiting tasks of one batch, and how long one usually takes."""

    waiting: leases.Waiting
    seconds: float | None


def home(visit: Visiting) -> Response:
    """Waiting tasks, started tasks and news for a labeler. A user goes to the playground."""
    if not visit.may("labeler"):
        return visit.go("/playground")
    now, person_id = time.time(), visit.person.id
    with visit.database.read() as connection:
        usual = own_work.usual_seconds(connection, person_id)
        values: dict[str, Any] = {
            "waiting": [WaitingKind(one, usual.get(one.kind)) for one in leases.waiting(connection, person_id, now)],
            "begun": leases.current_assignments(connection, person_id, now=now),
            "progress": own_work.progress(connection, person_id, now=now),
            "left_today": leases.answers_left_today(connection, person_id, now=now),
            "answers": problems.count_unseen(connection, person_id),
            "surveys": surveys.open_surveys(connection, person_id),
        }
        unread = instruction_versions.unacknowledged(connection, person_id, own_work.phases_of(connection, person_id))
    # Researchers may read everything, so only instructions that they once acknowledged count as news for them.
    labeler = visit.person.role == "labeler"
    concerned = {one.waiting.kind for one in values["waiting"]} | {view.kind for view in values["begun"]}
    values["unread"] = [
        one for one in unread if one.acknowledged is not None or (labeler and one.instruction.kind in concerned)
    ]
    return visit.page("label/home.html", now=now, **values)


def history(visit: Visiting, before: float | None = None) -> Response:
    """The labeler's own answers and skips, newest first."""
    with visit.database.read() as connection:
        found = leases.own_answers(connection, visit.person.id, limit=HISTORY_LENGTH + 1, before=before)
    return visit.page(
        "label/history.html",
        answers=found[:HISTORY_LENGTH],
        older=found[HISTORY_LENGTH - 1].answered if len(found) > HISTORY_LENGTH else None,
        first=before is None,
    )


# ---------------------------------------------------------------------------------------------------- instructions


def all_instructions(visit: Visiting) -> Response:
    """The instructions in force that concern the labeler."""
    with visit.database.read() as connection:
        phases = own_work.phases_of(connection, visit.person.id)
        current = instruction_versions.all_current(connection, phases)
        unread = {one.instruction.id: one for one in instruction_versions.unacknowledged(connection, visit.person.id, phases)}
    return visit.page("label/instructions.html", current=current, unread=unread, several=len(phases) > 1)


def show_instructions(visit: Visiting, kind: str, phase: str, version: int | None = None) -> Response:
    """One kind's instructions, what changed since the labeler last acknowledged them, and the earlier versions."""
    with visit.database.read() as connection:
        if kind not in KINDS or phase not in own_work.phases_of(connection, visit.person.id):
            raise MissingError("there are no such instructions", expected=f"one of {', '.join(KINDS)}, in {', '.join(PHASES)}")
        versions = instruction_versions.history(connection, kind, phase)
        acknowledged = instruction_versions.last_acknowledged(connection, visit.person.id, kind, phase)
    chosen = next((one for one in versions if version in (None, one.version)), None)
    if chosen is None:
        raise MissingError("there are no such instructions", expected="a version that was published")
    before = acknowledged if chosen is versions[0] else next((one for one in versions if one.version < chosen.version), None)
    changed = before is not None and before.id != chosen.id
    return visit.page(
        "label/instruction.html",
        chosen=chosen,
        newest=versions[0],
        versions=versions,
        acknowledged=acknowledged,
        before=before if changed else None,
        pieces=word_differences(before.markdown, chosen.markdown) if changed and before is not None else [],
    )


def acknowledge(visit: Visiting, form: Form, instruction_id: Id) -> Response:
    """Record that the labeler has read this version; return to the task if the labeler came from there."""
    with visit.database.write() as connection:
        one = instruction_versions.get(connection, instruction_id)
        if one.phase not in own_work.phases_of(connection, visit.person.id):
            raise MissingError("there are no such instructions", expected="instructions of your own work")
        instruction_versions.acknowledge(connection, visit.person.id, instruction_id)
    return visit.go(safe_next(form.text("next", "")) or "/", flash=f"Noted: you have read version {one.version}.")


# ---------------------------------------------------------------------------------------------------- questions


def questions(visit: Visiting) -> Response:
    """The labeler's questions to the researchers, and their answers."""
    with visit.database.read() as connection:
        own = problems.own(connection, visit.person.id)
    return visit.page("label/questions.html", questions=own, text="", problem=None)


def ask(visit: Visiting, form: Form) -> Response:
    """Store a question that is not about a task."""
    text = form.text("text", "")
    try:
        with visit.database.write() as connection:
            problems.ask(connection, visit.person.id, text)
    except DataError as error:
        with visit.database.read() as connection:
            own = problems.own(connection, visit.person.id)
        return visit.page("label/questions.html", status=422, questions=own, text=text, problem=error)
    return visit.go("/questions", flash="Your question is with the researchers.")


def mark_seen(visit: Visiting, problem_id: Id) -> Response:
    """Record that the labeler has read the answer."""
    with visit.database.write() as connection:
        problems.mark_seen(connection, problem_id, visit.person.id)
    return visit.go("/questions")


# ---------------------------------------------------------------------------------------------------- surveys


def show_survey(visit: Visiting, name: str) -> Response:
    """A survey; if the labeler already took it, the page says so."""
    survey = surveys.survey(name)
    with visit.database.read() as connection:
        taken = survey not in surveys.open_surveys(connection, visit.person.id)
    return visit.page("label/survey.html", survey=survey, taken=taken, fewest=surveys.FEWEST)


def take_survey(visit: Visiting, form: Form, name: str) -> Response:
    """Store the answers without the labeler's name; every question may be left out."""
    survey = surveys.survey(name)
    answers: dict[str, Any] = {}
    if form.text("_decline", "") != "yes":
        for question in survey.questions:
            answers[question.name] = form.all(question.name) if question.several else form.text(question.name, "")
    with visit.database.write() as connection:
        kept = surveys.take(connection, visit.person.id, name, answers)
    if not kept:
        return visit.go("/", flash="You already took this survey.")
    thanks = "Thank you. " if any(answers.values()) else ""
    return visit.go("/", flash=f"{thanks}You will not be asked again.")
