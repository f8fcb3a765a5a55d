"""The researchers' console: the progress of the work, who works, what labelers ask."""

from __future__ import annotations

import time

from starlette.responses import Response

from heedful.errors import DataError, MissingError
from heedful.labeling.console import queue_progress
from heedful.labeling.people import problems, surveys
from heedful.labeling.queue import changes, reopening
from heedful.web.console import data_pages, instruction_pages, quality_pages
from heedful.web.console.kept import kept_of
from heedful.web.label.words import SKIP_REASONS
from heedful.web.routing import Form, Id, Routes, Visiting
from heedful.web.security import safe_next

QUESTIONS = 30
"""Questions on a page."""


def routes(add: Routes) -> None:
    """The console's pages and links."""
    add.get("/console", overview, who="researcher")
    add.get("/console/batches/{batch_id}", show_batch, who="researcher")
    add.post("/console/tasks/{task_id}/serve", serve_task, who="researcher")
    add.post("/console/answers/{assignment_id}/send-back", send_back, who="researcher")
    add.get("/console/people", show_people, who="researcher")
    add.get("/console/questions", show_questions, who="researcher")
    add.post("/console/questions/{problem_id}", answer_question, who="researcher")
    add.get("/console/surveys", show_surveys, who="researcher")
    for module in (quality_pages, instruction_pages, data_pages):
        module.routes(add)


# ---------------------------------------------------------------------------------------------------- where the work stands


def overview(visit: Visiting) -> Response:
    """Queues with their pace, the answers of the last days, and what needs a researcher."""

    def compute() -> tuple[list[queue_progress.Queue], list[tuple[float, int]], list[queue_progress.SkippedTask]]:
        with visit.database.read() as connection:
            skipped = queue_progress.skipped_often(connection, least=3, limit=10)
            return queue_progress.queues(connection), queue_progress.answers_per_day(connection), skipped

    kept = kept_of(visit).get("overview", compute)
    queues, per_day, skipped = kept.value
    with visit.database.read() as connection:
        unanswered = problems.count_unanswered(connection)
    return visit.page(
        "console/overview.html",
        queues=queues,
        per_day=per_day,
        last_day=sum(queue.last_day for queue in queues),
        skipped=skipped,
        unanswered=unanswered,
        at=kept.at,
        reasons=SKIP_REASONS,
    )


def show_batch(visit: Visiting, batch_id: Id) -> Response:
    """One batch: its progress and its skipped tasks. The pages under Batches close, open and prioritise it."""

    def compute() -> tuple[list[queue_progress.Queue], list[queue_progress.SkippedTask]]:
        with visit.database.read() as connection:
            skipped = queue_progress.skipped_often(connection, batch_id=batch_id, least=1, limit=50)
            return queue_progress.queues(connection, batch_id=batch_id), skipped

    kept = kept_of(visit).get(("batch", batch_id), compute)
    found, skipped = kept.value
    if not found:
        raise MissingError("there is no such batch", expected="a batch's number", got=str(batch_id))
    return visit.page("console/batch.html", queue=found[0], skipped=skipped, at=kept.at, reasons=SKIP_REASONS)


def serve_task(visit: Visiting, form: Form, task_id: Id) -> Response:
    """Withdraw a task, set it aside, or serve it again."""
    do = form.text("do")
    with visit.database.write() as connection:
        if do == "withdraw":
            changes.withdraw_task(connection, task_id, person_id=visit.person.id)
        elif do == "set_aside":
            changes.set_task_aside(connection, task_id, person_id=visit.person.id)
        elif do == "reopen":
            changes.reopen_task(connection, task_id, person_id=visit.person.id)
        else:
            raise DataError("there is no such action", expected="withdraw, set_aside or reopen", got=do[:20])
    state = {"withdraw": "withdrawn", "set_aside": "set aside", "reopen": "served again"}[do]
    batch_id = form.whole("batch_id")
    for key in ("overview", ("batch", batch_id)):
        kept_of(visit).drop(key)
    back = safe_next(form.text("next", "")) or ("/console" if batch_id is None else f"/console/batches/{batch_id}")
    return visit.go(back, flash=f"Task {task_id} is {state}.")


def send_back(visit: Visiting, form: Form, assignment_id: Id) -> Response:
    """Send an answer back to its labeler, with a note."""
    with visit.database.write() as connection:
        reopening.send_back(connection, assignment_id, form.text("note"), by=visit.person.id)
    return visit.go(
        safe_next(form.text("next", "")) or "/console", flash="Sent back. The labeler sees your note with the task."
    )


# ---------------------------------------------------------------------------------------------------- people, questions


def show_people(visit: Visiting) -> Response:
    """How much and how fast each labeler answered, what they skipped and why; pseudonyms only."""

    def compute() -> list[queue_progress.Labeler]:
        with visit.database.read() as connection:
            return queue_progress.people(connection)

    kept = kept_of(visit).get("people", compute)
    return visit.page("console/people.html", people=kept.value, at=kept.at, now=time.time(), reasons=SKIP_REASONS)


def show_questions(visit: Visiting) -> Response:
    """Labelers' questions: those without an answer, or all."""
    every = visit.request.query_params.get("show") == "all"
    before = visit.request.query_params.get("before", "")
    with visit.database.read() as connection:
        found = problems.list_problems(
            connection,
            answered=None if every else False,
            before_id=int(before) if before.isdecimal() and len(before) < 10 else None,
            limit=QUESTIONS + 1,
        )
        outputs = problems.outputs_asked_about(connection, found)
        candidates = queue_progress.candidates(connection)
    return visit.page(
        "console/questions.html",
        outputs=outputs,
        questions=found[:QUESTIONS],
        more=found[QUESTIONS - 1].id if len(found) > QUESTIONS else None,
        every=every,
        candidates=candidates,
    )


def answer_question(visit: Visiting, form: Form, problem_id: Id) -> Response:
    """Answer a question; the labeler who asked sees the answer on the start page."""
    with visit.database.write() as connection:
        problems.answer(connection, problem_id, form.text("answer"), answered_by=visit.person.id)
    return visit.go("/console/questions", flash="Answered. The labeler sees it on the start page.")


def show_surveys(visit: Visiting) -> Response:
    """How often each answer was given; nothing below five answers."""
    with visit.database.read() as connection:
        found = [(survey, surveys.results(connection, name)) for name, survey in surveys.SURVEYS.items()]
    return visit.page("console/surveys.html", surveys=found, fewest=surveys.FEWEST)
