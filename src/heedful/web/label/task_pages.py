"""A task's page and its actions: save a draft, submit, skip, give back, compare two outputs, ask the researchers.

Everything on the page is one form, so that no button loses what was typed, with or without JavaScript.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.conversation import Turn
from heedful.errors import ConflictError, DataError, HeedfulError, MissingError
from heedful.labeling.people import instruction_versions, problems
from heedful.labeling.queue import leases, reopening
from heedful.labeling.queue.assignments import AssignmentView, ShownPrompt
from heedful.labeling.queue.kinds import PROMPT_FLAGS
from heedful.records import RATING_FLAGS
from heedful.web.label import forms, words
from heedful.web.label.differences import share_in_common, side, word_differences
from heedful.web.routing import Form, Id, Routes, Visit, Visiting
from heedful.web.sent_forms import FormValues


def routes(add: Routes) -> None:
    """Add the pages and actions of tasks."""
    add.post("/tasks/claim", claim, who="labeler")
    add.get("/tasks/{assignment_id}", show, who="labeler")
    add.get("/tasks/{assignment_id}/compare", compare, who="labeler")
    add.post("/tasks/{assignment_id}/draft", save_draft, who="labeler")
    add.post("/tasks/{assignment_id}/submit", submit, who="labeler")
    add.post("/tasks/{assignment_id}/skip", skip, who="labeler")
    add.post("/tasks/{assignment_id}/release", release, who="labeler")
    add.post("/tasks/{assignment_id}/correct", correct, who="labeler")
    add.post("/tasks/{assignment_id}/ask", ask, who="labeler")


def claim(visit: Visiting, form: Form) -> Response:
    """Give the visitor a task of a kind or batch, or say that none is waiting."""
    return _next_task(visit, kind=form.text("kind", "") or None, batch_id=form.whole("batch_id"))


def show(visit: Visiting, assignment_id: Id, pairs: int = 0) -> Response:
    """The task to work on, or what was sent. ``pairs``: how many examples a few-shot form shows."""
    view = _view(visit, assignment_id)
    finished = view.answer is not None
    fields = forms.fields_of_answer(view, view.answer or {}) if finished else forms.fields_of_draft(view, view.draft)
    return _page(visit, view, fields, pairs=pairs)


def compare(visit: Visiting, request: Request, assignment_id: Id, first: str = "", second: str = "") -> Response:
    """Two outputs side by side with differences marked: a page, or the part that htmx requests."""
    view = _view(visit, assignment_id)
    text_of = {card.letter: card.text for card in forms.cards(view)}
    chosen = first in text_of and second in text_of and first != second
    pieces = word_differences(text_of[first], text_of[second]) if chosen else []
    template = "label/_comparison.html" if request.headers.get("hx-request") == "true" else "label/compare.html"
    return visit.page(
        template,
        view=view,
        first=first,
        second=second,
        chosen=chosen,
        sides=[(first, side(pieces, "first")), (second, side(pieces, "second"))],
        in_common=share_in_common(pieces),
    )


def save_draft(visit: Visiting, request: Request, form: Form, assignment_id: Id) -> Response:
    """Save what is typed so far. drafts.js gets JSON, and in a conflict also the stored draft."""
    view, fields = _view(visit, assignment_id), _fields(form)
    to_script = "application/json" in request.headers.get("accept", "")
    try:
        saved = _keep(visit, form, view)
    except ConflictError as error:
        if not to_script:
            return _conflict(visit, view, fields, error)
        view = _view(visit, assignment_id)  # read again: the stored draft may come from this page's earlier, slow attempt
        stored = forms.draft_of_fields(view, forms.fields_of_draft(view, view.draft))["fields"]
        content = {"message": error.message, "state": view.state, "version": view.draft_version, "fields": stored}
        return JSONResponse(content, status_code=409)
    except DataError as error:
        if not to_script:
            return _page(visit, view, fields, problem=error, status=422)
        content = {"message": error.message, "expected": error.expected, "got": error.got}
        return JSONResponse(content, status_code=422)
    if to_script:
        return JSONResponse({"version": saved.version, "saved": saved.saved, "expires": saved.expires})
    pairs = form.whole("_more")
    return visit.go(f"/tasks/{assignment_id}" + (f"?pairs={pairs}" if pairs else ""), flash="Your draft is saved.")


def submit(visit: Visiting, form: Form, assignment_id: Id) -> Response:
    """Store the answer, or show the filled-in form again with what is missing."""
    view, fields = _view(visit, assignment_id), _fields(form)
    parsed = forms.parse(view, fields)
    if parsed.answer is None:
        return _page(visit, view, fields, errors=parsed.errors, status=422)
    try:
        with visit.database.write() as connection:
            done = leases.submit(
                connection,
                assignment_id,
                visit.person.id,
                token=form.text("_token", ""),
                answer=parsed.answer,
                # Nobody can have worked on a task for longer than the lease has existed.
                seconds_spent=forms.seconds_spent(fields, max(0.0, time.time() - view.leased)),
            )
    except ConflictError as error:
        return _conflict(visit, view, fields, error)
    except DataError as error:
        return _page(visit, view, fields, problem=error, status=422)
    message = "Thank you. Your answer is kept."
    if done.late:
        message = "Thank you. Your answer is kept; it came after the time for the task, so it is marked as late."
    if done.surplus:
        message += " Enough others had answered it by then, so yours is kept as an extra."
    if form.text("_then", "") == "next":
        return _next_task(visit, kind=view.kind, batch_id=view.batch_id, done=assignment_id, message=message)
    return visit.go("/", flash=message, done=assignment_id)


def skip(visit: Visiting, form: Form, assignment_id: Id) -> Response:
    """Skip the task for a reason, and continue with the next of the kind."""
    view, fields = _view(visit, assignment_id), _fields(form)
    chosen, note = form.text("_skip_reason", ""), form.text("_skip_note", "").strip()
    if chosen not in words.SKIP_REASONS or (chosen == "other" and not note):
        wanted = "Say in a few words why you are skipping it." if chosen == "other" else "Choose a reason for skipping it."
        return _page(visit, view, fields, errors={"_skip_reason": wanted}, status=422)
    reason = ": ".join(part for part in (words.SKIP_REASONS[chosen], note) if part)
    try:
        with visit.database.write() as connection:
            leases.skip(connection, assignment_id, visit.person.id, token=form.text("_token", ""), reason=reason)
    except ConflictError as error:
        return _conflict(visit, view, fields, error)
    except DataError as error:
        return _page(visit, view, fields, problem=error, status=422)
    message = "Skipped. Thank you for saying why."
    return _next_task(visit, kind=view.kind, batch_id=view.batch_id, done=assignment_id, message=message)


def release(visit: Visiting, form: Form, assignment_id: Id) -> Response:
    """Give the task back; the draft is kept, in case the labeler gets the task again."""
    view, fields = _view(visit, assignment_id), _fields(form)
    try:
        _keep(visit, form, view)
        with visit.database.write() as connection:
            leases.release(connection, assignment_id, visit.person.id, token=form.text("_token", ""))
    except ConflictError as error:
        return _conflict(visit, view, fields, error)
    except DataError as error:
        return _page(visit, view, fields, problem=error, status=422)
    return visit.go("/", flash="You gave the task back. Your draft is kept.", done=assignment_id)


def correct(visit: Visiting, assignment_id: Id) -> Response:
    """Open one's own answer again, within a few minutes."""
    with visit.database.write() as connection:
        reopening.correct(connection, assignment_id, visit.person.id)
    return visit.go(f"/tasks/{assignment_id}", flash="Your answer is open again: change it, then submit it again.")


def ask(visit: Visiting, form: Form, assignment_id: Id) -> Response:
    """Send the researchers a question about this task; an unfinished answer is kept as a draft."""
    view, fields = _view(visit, assignment_id), _fields(form)
    try:
        with visit.database.write() as connection:
            problems.ask(connection, visit.person.id, form.text("_question", ""), task_id=view.task_id)
    except DataError:
        return _page(visit, view, fields, errors={"_question": "Write your question or what is wrong."}, status=422)
    if view.state in ("answered", "skipped"):
        return visit.go(f"/tasks/{assignment_id}", flash="Your question is with the researchers.")
    try:
        _keep(visit, form, view)
    except ConflictError as error:
        return _conflict(visit, view, fields, error)
    except DataError as error:
        return _page(visit, view, fields, problem=error, status=422)
    return visit.go(
        f"/tasks/{assignment_id}",
        flash="Sent to the researchers. You will find their answer under Your questions.",
    )


# ---------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True, slots=True)
class Marked:
    """A run of text, and the kind of finding in it, or None."""

    text: str
    kind: str | None


def marked(text: str, findings: Sequence[Mapping[str, Any]]) -> list[Marked]:
    """The text as runs; each finding ({"kind", "start", "end"} in characters) is a run. Those that do not fit are ignored."""
    runs: list[Marked] = []
    place = 0
    usable = [
        (found["start"], found["end"], str(found.get("kind", "")))
        for found in findings
        if isinstance(found.get("start"), int) and isinstance(found.get("end"), int)
    ]
    for start, end, kind in sorted(usable):
        start, end = max(start, place), min(end, len(text))
        if start >= end:
            continue
        runs += [Marked(text[place:start], None)] if start > place else []
        runs.append(Marked(text[start:end], kind))
        place = end
    return runs + ([Marked(text[place:], None)] if place < len(text) else [])


def marked_turns(prompt: ShownPrompt, findings: Sequence[Mapping[str, Any]]) -> list[tuple[Turn, list[Marked]]]:
    """Each turn of a prompt with its findings marked; findings are positions in the text of all turns."""
    found: list[tuple[Turn, list[Marked]]] = []
    place = 0
    for turn in prompt.turns:
        start = max(prompt.text.find(turn.text, place), place)
        place = start + len(turn.text)
        within = [
            {**one, "start": max(one["start"], start) - start, "end": min(one["end"], place) - start}
            for one in findings
            if isinstance(one.get("start"), int)
            and isinstance(one.get("end"), int)
            and one["start"] < place
            and one["end"] > start
        ]
        found.append((turn, marked(turn.text, within)))
    return found


def _view(visit: Visit, assignment_id: int) -> AssignmentView:
    with visit.database.read() as connection:
        return leases.view_assignment(connection, assignment_id, visit.person.id)


def _fields(form: FormValues) -> dict[str, str]:
    """The fields of the answer or its draft; names that begin with _ belong to the page."""
    return {name: form.text(name) for name in form.names() if not name.startswith("_") and name != "csrf"}


def _keep(visit: Visit, form: FormValues, view: AssignmentView) -> leases.SavedDraft:
    with visit.database.write() as connection:
        return leases.save_draft(
            connection,
            view.id,
            visit.person.id,
            token=form.text("_token", ""),
            draft=forms.draft_of_fields(view, _fields(form)),
            version=form.whole("_version", view.draft_version) or 0,
        )


def _next_task(
    visit: Visit, *, kind: Any = None, batch_id: int | None = None, done: int | None = None, message: str | None = None
) -> Response:
    """Go to a task of the batch, or of another batch of the same kind, or say that there is none."""
    with visit.database.write() as connection:
        view = leases.claim(connection, visit.person.id, kind=kind, batch_id=batch_id)
        if view is None and kind is not None and batch_id is not None:
            view = leases.claim(connection, visit.person.id, kind=kind)
    if view is not None:
        return visit.go(f"/tasks/{view.id}", flash=message, done=done)
    none = "No more tasks of this kind are waiting for you."
    return visit.go("/", flash=f"{message} {none}" if message else none, done=done)


def _conflict(visit: Visit, view: AssignmentView, fields: Mapping[str, str], error: HeedfulError) -> Response:
    """The page when another tab was faster. Nothing typed is lost: it is shown again with what to do."""
    return _page(visit, _view(visit, view.id), fields, conflict=error, status=409)


def _page(
    visit: Visit,
    view: AssignmentView,
    fields: Mapping[str, str],
    *,
    errors: Mapping[str, str] | None = None,
    problem: HeedfulError | None = None,
    conflict: HeedfulError | None = None,
    pairs: int = 0,
    status: int = 200,
) -> Response:
    with visit.database.read() as connection:
        current = instruction_versions.current(connection, view.kind, view.phase)
        acknowledged = instruction_versions.last_acknowledged(connection, visit.person.id, view.kind, view.phase)
        try:
            given = instruction_versions.get(connection, view.instruction_id) if view.instruction_id is not None else current
        except MissingError:
            given = current
    finished = view.state in ("answered", "skipped")
    shown = forms.letters(view)
    return visit.page(
        f"label/task_{view.kind}.html",
        status=status,
        view=view,
        fields=fields,
        errors=errors or {},
        problem=problem,
        conflict=conflict,
        finished=finished,
        # The browser's own copy must not replace what was just sent and returned.
        refilled=status != 200,
        over=not finished and (view.state != "leased" or view.expires <= time.time()),
        letters=shown,
        outputs=forms.cards(view),
        sent_back=forms.sent_back(view),
        correctable_until=(view.answered or 0) + reopening.CORRECTION_SECONDS
        if reopening.can_correct(view.state, view.answered, view.surplus, time.time())
        else None,
        order_alone=forms.order_alone(view),
        order=forms.order_in_signs(view, fields),
        pairs=min(max(forms.pairs_shown(fields), pairs), forms.MAX_PAIRS),
        most_pairs=forms.MAX_PAIRS,
        marked_turns=marked_turns(view.prompt, view.payload.get("findings", [])) if view.prompt is not None else [],
        instruction=given,
        newer=current if current is not None and (acknowledged is None or acknowledged.id != current.id) else None,
        words=words,
        rating_flags=RATING_FLAGS,
        prompt_flags=PROMPT_FLAGS,
    )
