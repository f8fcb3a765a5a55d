"""The labelers' part of the JSON API under /api/v1.

Sessions and rules are the same as for the pages: ``POST /api/v1/session`` logs in and sets a cookie; every request except GET
needs the header X-CSRF-Token. Errors are problem documents (RFC 9457). The part for researchers and admins is in
``researcher_api.py``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from heedful.errors import DataError
from heedful.labeling.people import accounts, sessions
from heedful.labeling.queue import leases
from heedful.labeling.queue.kinds import TaskKind
from heedful.project.storable import LARGEST_WHOLE
from heedful.web.api.opaque_ids import explain, opaque, with_own_ids
from heedful.web.routing import Id, Routes, Visiting

DEEPEST = 20
"""How deeply lists and objects in a request may be nested; answers need four levels."""
_TAG = "labeler"


def _not_too_deep(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"at most {DEEPEST} levels of lists and objects")
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return value


Json = Annotated[dict[str, Any], AfterValidator(_not_too_deep)]
Token = Annotated[str, Field(max_length=200, description="The assignment's token, which proves that the lease is still yours")]


class Sent(BaseModel):
    """The body of a request: values of another type and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LogIn(Sent):
    """The e-mail address and password of an account."""

    email: str = Field(max_length=accounts.LONGEST_EMAIL)
    password: str = Field(max_length=200)


class Claim(Sent):
    """The kind of task or the batch to take a task from; with neither, the next task of any kind."""

    kind: TaskKind | None = None
    batch_id: int | None = Field(default=None, ge=1, le=LARGEST_WHOLE)


class Draft(Sent):
    """An unfinished answer, and the version of the draft it replaces."""

    token: Token
    version: int = Field(ge=0, le=2**31 - 2)
    draft: Json


class Answer(Sent):
    """A complete answer; docs/store.md shows one of each kind."""

    token: Token
    answer: Json
    seconds_spent: float | None = Field(default=None, ge=0, le=10_000_000, allow_inf_nan=False)


class Skip(Sent):
    """The reason for skipping a task."""

    token: Token
    reason: str = Field(min_length=1, max_length=2_000)


class Release(Sent):
    """The lease to give back."""

    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who is logged in (null: no one), and the token to send in the header X-CSRF-Token."""

    csrf_token: str
    person: Me | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """The account that is logged in."""

    id: int
    pseudonym: str
    name: str
    role: accounts.Role
    group: accounts.ShownGroup
    answers_left_today: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task to work on, or null if none is waiting."""

    assignment: leases.AssignmentView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The request succeeded."""

    done: bool = True


def routes(add: Routes) -> None:
    """The API's routes for everyone with an account."""
    more: Mapping[str, Any] = {"tags": [_TAG]}
    add.get("/api/v1/session", show_session, who="public", response_model=Session, **more)
    add.post("/api/v1/session", start_session, who="public", response_model=Session, **more)
    add.delete("/api/v1/session", end_session, who="user", response_model=Done, **more)
    add.get("/api/v1/me", me, who="user", response_model=Me, **more)
    add.get("/api/v1/waiting", waiting, who="labeler", response_model=list[leases.Waiting], **more)
    add.post("/api/v1/claim", claim, who="labeler", response_model=Claimed, **more)
    add.get("/api/v1/assignments", begun, who="labeler", response_model=list[leases.AssignmentView], **more)
    add.get("/api/v1/assignments/{assignment_id}", assignment, who="labeler", response_model=leases.AssignmentView, **more)
    add.put("/api/v1/assignments/{assignment_id}/draft", save_draft, who="labeler", response_model=leases.SavedDraft, **more)
    add.post("/api/v1/assignments/{assignment_id}/submit", submit, who="labeler", response_model=leases.Submitted, **more)
    add.post("/api/v1/assignments/{assignment_id}/skip", skip, who="labeler", response_model=Done, **more)
    add.post("/api/v1/assignments/{assignment_id}/release", release, who="labeler", response_model=Done, **more)
    add.get("/api/v1/history", history, who="labeler", response_model=list[leases.PastAnswer], **more)


# ---------------------------------------------------------------------------------------------------- sessions


def show_session(visit: Visiting) -> Response:
    """Show who is logged in, and the CSRF token to send with every request except GET."""
    who = None if visit.somebody is None else me(visit)
    return visit.with_cookies(JSONResponse(_session(visit.csrf_token, who)))


def start_session(visit: Visiting, sent: LogIn) -> Response:
    """Log in. The response sets the session cookie and contains the session's CSRF token.

    Before logging in, GET this address for the CSRF token that this request needs.
    """
    new = sessions.log_in(
        visit.database, email=sent.email, password=sent.password, address=visit.address, earlier_token=visit.session_token
    )
    with visit.database.read() as connection:
        found = sessions.person_of_session(connection, new.token)
        assert found is not None
        left = leases.answers_left_today(connection, new.person.id)
    return visit.with_session(new, JSONResponse(_session(found[1], _me(new.person, left))))


def end_session(visit: Visiting) -> Response:
    """Log out and end the session."""
    assert visit.session_token is not None
    with visit.database.write() as connection:
        sessions.log_out(connection, visit.session_token)
    return visit.without_session(JSONResponse({"done": True}))


def _session(csrf_token: str, who: Me | None) -> dict[str, Any]:
    person = None if who is None else {name: getattr(who, name) for name in Me.__slots__}
    return {"csrf_token": csrf_token, "person": person}


def me(visit: Visiting) -> Me:
    """Show your account, and how many answers you may still give today (null: no limit)."""
    with visit.database.read() as connection:
        return _me(visit.person, leases.answers_left_today(connection, visit.person.id))


def _me(who: accounts.Person, left: int | None) -> Me:
    return Me(
        id=who.id,
        pseudonym=who.pseudonym,
        name=who.name,
        role=who.role,
        group=accounts.shown_group(who.role, who.group),
        answers_left_today=left,
    )


# ---------------------------------------------------------------------------------------------------- tasks


def waiting(visit: Visiting) -> list[leases.Waiting]:
    """List the batches with tasks that you could claim."""
    with visit.database.read() as connection:
        return leases.waiting(connection, visit.person.id)


def claim(visit: Visiting, sent: Claim) -> Claimed:
    """Claim a task to work on. If you already hold one, you get that one again."""
    with visit.database.write() as connection:
        given = leases.claim(connection, visit.person.id, kind=sent.kind, batch_id=sent.batch_id)
    return Claimed(assignment=None if given is None else opaque(given, visit.settings.key))


def begun(visit: Visiting) -> list[leases.AssignmentView]:
    """List the assignments you have begun and not finished."""
    with visit.database.read() as connection:
        found = leases.current_assignments(connection, visit.person.id, now=time.time())
    return [opaque(view, visit.settings.key) for view in found]


def assignment(visit: Visiting, assignment_id: Id) -> leases.AssignmentView:
    """Show one of your assignments: the prompt, the outputs in the order chosen for you, and your draft or answer."""
    with visit.database.read() as connection:
        return opaque(leases.view_assignment(connection, assignment_id, visit.person.id), visit.settings.key)


def save_draft(visit: Visiting, assignment_id: Id, sent: Draft) -> leases.SavedDraft:
    """Save an unfinished answer and renew the lease. If a newer version is stored, this one is refused (409)."""
    with visit.database.write() as connection:
        return leases.save_draft(
            connection, assignment_id, visit.person.id, token=sent.token, draft=sent.draft, version=sent.version
        )


def submit(visit: Visiting, assignment_id: Id, sent: Answer) -> leases.Submitted:
    """Submit the answer to a task. Sending the same answer twice is fine. If the lease has expired, it is marked late."""
    with visit.database.write() as connection:
        view = leases.view_assignment(connection, assignment_id, visit.person.id)
        try:
            return leases.submit(
                connection,
                assignment_id,
                visit.person.id,
                token=sent.token,
                answer=with_own_ids(view, sent.answer, visit.settings.key),
                seconds_spent=sent.seconds_spent,
            )
        except DataError as error:
            raise explain(error, view, sent.answer, visit.settings.key) from None


def skip(visit: Visiting, assignment_id: Id, sent: Skip) -> Done:
    """Skip a task and say why."""
    with visit.database.write() as connection:
        leases.skip(connection, assignment_id, visit.person.id, token=sent.token, reason=sent.reason)
    return Done()


def release(visit: Visiting, assignment_id: Id, sent: Release) -> Done:
    """Give a task back unfinished, so that someone else can do it."""
    with visit.database.write() as connection:
        leases.release(connection, assignment_id, visit.person.id, token=sent.token)
    return Done()


def history(
    visit: Visiting,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False)] = None,
) -> list[leases.PastAnswer]:
    """List your answers and skips, newest first. For the next page, send the time of the last one as ``before``."""
    with visit.database.read() as connection:
        return leases.own_answers(connection, visit.person.id, limit=limit, before=before)
