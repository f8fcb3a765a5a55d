"""Feedback on answers: votes, edits, critiques, rankings."""

from __future__ import annotations

from starlette.responses import Response

from heedful.errors import ConflictError, DataError
from heedful.labeling.usage import blind_votes, conversations, feedback
from heedful.web.playground.playground_pages import conversation_page
from heedful.web.routing import Form, Id, Routes, Visiting


def routes(add: Routes) -> None:
    """Feedback."""
    add.post("/playground/turns/{turn_id}/vote", vote, who="user")
    add.post("/playground/turns/{turn_id}/rank", rank, who="labeler")
    add.post("/playground/answers/{answer_id}/feedback", give, who="user")


def vote(visit: Visiting, form: Form, turn_id: Id) -> Response:
    """Store a vote; after that, the page shows the models' names."""
    choice, _, place = form.text("vote", "").partition("-")
    position = int(place) if place.isdecimal() and len(place) < 3 else None
    with visit.database.read() as connection:
        view = conversations.conversation_of(connection, turn_id=turn_id, person_id=visit.person.id, lock=False)
    try:
        with visit.database.write() as connection:
            blind_votes.vote(connection, turn_id, visit.person.id, choice=choice, position=position)
    except (ConflictError, DataError) as error:
        return conversation_page(visit, view.id, problem=error, status=409 if isinstance(error, ConflictError) else 422)
    return visit.go(f"/playground/{view.id}#last", flash="Thank you. Your vote is kept. You can see the models' names now.")


def rank(visit: Visiting, turn_id: Id) -> Response:
    """Open the ranking board with the turn's answers."""
    with visit.database.read() as connection:
        view = conversations.conversation_of(connection, turn_id=turn_id, person_id=visit.person.id, lock=False)
    try:
        with visit.database.write() as connection:
            assignment_id = feedback.start_ranking(connection, turn_id, visit.person.id)
    except (ConflictError, DataError) as error:
        return conversation_page(visit, view.id, problem=error, status=409 if isinstance(error, ConflictError) else 422)
    return visit.go(f"/tasks/{assignment_id}")


def give(visit: Visiting, form: Form, answer_id: Id) -> Response:
    """Keep an edit or a critique of an answer."""
    kind = form.text("kind")
    with visit.database.read() as connection:
        view, *_ = conversations.turn_of_answer(connection, answer_id, visit.person.id, lock=False)
    try:
        with visit.database.write() as connection:
            feedback.keep(connection, answer_id, visit.person.id, kind=kind, text=form.text("text", ""))
    except (ConflictError, DataError) as error:
        return conversation_page(visit, view.id, problem=error, status=409 if isinstance(error, ConflictError) else 422)
    said = "edit" if kind == "edit" else "critique"
    return visit.go(f"/playground/{view.id}#answer-{answer_id}", flash=f"Thank you. Your {said} is kept.")
