"""The JSON API under /api/v1, beside the pages: what a labeler's program, or the pages' own scripts, may do.

The same sessions and the same rules as the pages: ``POST /api/v1/session`` logs in (a cookie), everything but GET needs the
header X-CSRF-Token. Failures are problems (RFC 9457). ``api_manage.py`` has what researchers and admins may do.
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
from heedful.web.api.opaque_ids import explain, opaque, with_own_ids
from heedful.web.routing import Id, Routes, Visiting

DEEPEST = 20
"""Levels of lists and objects in what is sent: answers have four."""
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
Token = Annotated[str, Field(max_length=200, description="The lease's, from the assignment")]


class Sent(BaseModel):
    """A request's body: nothing is converted, nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LogIn(Sent):
    """E-mail address and password."""

    email: str = Field(max_length=accounts.LONGEST_EMAIL)
    password: str = Field(max_length=200)


class Claim(Sent):
    """Which kind of task, or of which batch; neither: what comes next."""

    kind: TaskKind | None = None
    batch_id: int | None = Field(default=None, ge=1, le=2**31 - 1)


class Draft(Sent):
    """An unfinished answer and the version that it follows."""

    token: Token
    version: int = Field(ge=0, le=2**31 - 2)
    draft: Json


class Answer(Sent):
    """A whole answer; docs/store.md shows one of each kind."""

    token: Token
    answer: Json
    seconds_spent: float | None = Field(default=None, ge=0, le=10_000_000, allow_inf_nan=False)


class Skip(Sent):
    """Why a task is skipped."""

    token: Token
    reason: str = Field(min_length=1, max_length=2_000)


class Release(Sent):
    """Which lease is given back."""

    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who is logged in, and the token to send as X-CSRF-Token."""

    csrf_token: str
    person: Me | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """The caller."""

    id: int
    pseudonym: str
    name: str
    role: accounts.Role
    group: accounts.Group
    answers_left_today: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task to work on, or none where nothing waits."""

    assignment: leases.AssignmentView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """It is done."""

    done: bool = True


def routes(add: Routes) -> None:
    """The API's routes for everybody with an account."""
    more: Mapping[str, Any] = {"tags": [_TAG]}
    add.get("/api/v1/session", show_session, who="public", response_model=Session, **more)
    add.post("/api/v1/session", start_session, who="public", response_model=Session, **more)
    add.delete("/api/v1/session", end_session, who="labeler", response_model=Done, **more)
    add.get("/api/v1/me", me, who="labeler", response_model=Me, **more)
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
    """Whether one is logged in, and the CSRF token to send with everything but GET."""
    who = None if visit.somebody is None else me(visit)
    return visit.with_cookies(JSONResponse(_session(visit.csrf_token, who)))


def start_session(visit: Visiting, sent: LogIn) -> Response:
    """Log in: the session is in a cookie, its CSRF token in the answer. First GET this address for the token to send."""
    new = sessions.log_in(
        visit.database, email=sent.email, password=sent.password, address=visit.address, earlier_token=visit.session_token
    )
    with visit.database.read() as connection:
        found = sessions.person_of_session(connection, new.token)
        assert found is not None
        left = leases.answers_left_today(connection, new.person.id)
    return visit.with_session(new, JSONResponse(_session(found[1], _me(new.person, left))))


def end_session(visit: Visiting) -> Response:
    """Log out."""
    assert visit.session_token is not None
    with visit.database.write() as connection:
        sessions.log_out(connection, visit.session_token)
    return visit.without_session(JSONResponse({"done": True}))


def _session(csrf_token: str, who: Me | None) -> dict[str, Any]:
    person = None if who is None else {name: getattr(who, name) for name in Me.__slots__}
    return {"csrf_token": csrf_token, "person": person}


def me(visit: Visiting) -> Me:
    """Who one is here, and how many answers one may still give today (null: no limit)."""
    with visit.database.read() as connection:
        return _me(visit.person, leases.answers_left_today(connection, visit.person.id))


def _me(who: accounts.Person, left: int | None) -> Me:
    return Me(id=who.id, pseudonym=who.pseudonym, name=who.name, role=who.role, group=who.group, answers_left_today=left)


# ---------------------------------------------------------------------------------------------------- tasks


def waiting(visit: Visiting) -> list[leases.Waiting]:
    """What a claim could give, batch by batch."""
    with visit.database.read() as connection:
        return leases.waiting(connection, visit.person.id)


def claim(visit: Visiting, sent: Claim) -> Claimed:
    """Take a task to work on; a running one comes back first."""
    with visit.database.write() as connection:
        given = leases.claim(connection, visit.person.id, kind=sent.kind, batch_id=sent.batch_id)
    return Claimed(assignment=None if given is None else opaque(given, visit.settings.key))


def begun(visit: Visiting) -> list[leases.AssignmentView]:
    """What one has begun and not finished."""
    with visit.database.read() as connection:
        found = leases.current_assignments(connection, visit.person.id, now=time.time())
    return [opaque(view, visit.settings.key) for view in found]


def assignment(visit: Visiting, assignment_id: Id) -> leases.AssignmentView:
    """One's own assignment: prompt, outputs in one's own order, draft or answer."""
    with visit.database.read() as connection:
        return opaque(leases.view_assignment(connection, assignment_id, visit.person.id), visit.settings.key)


def save_draft(visit: Visiting, assignment_id: Id, sent: Draft) -> leases.SavedDraft:
    """Keep an unfinished answer and renew the lease. An older version than the stored one is refused (409)."""
    with visit.database.write() as connection:
        return leases.save_draft(
            connection, assignment_id, visit.person.id, token=sent.token, draft=sent.draft, version=sent.version
        )


def submit(visit: Visiting, assignment_id: Id, sent: Answer) -> leases.Submitted:
    """Answer a task. The same answer again is fine; after the lease's end it is kept and marked late."""
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
    """Do without one's answer to a task, and say why."""
    with visit.database.write() as connection:
        leases.skip(connection, assignment_id, visit.person.id, token=sent.token, reason=sent.reason)
    return Done()


def release(visit: Visiting, assignment_id: Id, sent: Release) -> Done:
    """Give a task back unfinished."""
    with visit.database.write() as connection:
        leases.release(connection, assignment_id, visit.person.id, token=sent.token)
    return Done()


def history(
    visit: Visiting,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False)] = None,
) -> list[leases.PastAnswer]:
    """One's own answers and skips, the newest first; ``before``: the time of the last one of the page before."""
    with visit.database.read() as connection:
        return leases.own_answers(connection, visit.person.id, limit=limit, before=before)
