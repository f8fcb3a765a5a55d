"""Routes that say who may call them, and what a handler knows about the visit.

A module of pages has a function ``routes(add: Routes)``::

    def routes(add: Routes) -> None:
        add.get("/tasks/{assignment_id}", show_task, who="labeler")
        add.post("/tasks/{assignment_id}/skip", skip_task, who="labeler")

    def show_task(visit: Visiting, assignment_id: Id) -> Response:
        with visit.database.read() as connection:
            task = leases.view_assignment(connection, assignment_id, visit.person.id)
        return visit.page("label/task.html", task=task)

    def skip_task(visit: Visiting, form: Form, assignment_id: Id) -> Response:
        with visit.database.write() as connection:
            leases.skip(connection, assignment_id, visit.person.id, token=form.text("token"), reason=form.text("reason"))
        return visit.go("/", flash="Skipped.")

Who may call a route is checked before the handler runs: ``public``; ``user`` (everyone who is logged in); ``labeler``
(labelers, researchers and admins); ``researcher`` (researchers and admins); ``admin``. The labeling package checks whether an
object belongs to the person. Every request except GET needs the CSRF token: the field ``csrf`` of a form ({{ csrf_field() }} in
a template), or the header X-CSRF-Token.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Annotated, Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from heedful.errors import RefusedError
from heedful.labeling.database.connection import Database
from heedful.labeling.people.accounts import Person
from heedful.labeling.people.sessions import TOUCH_SECONDS, NewSession, keep_alive, person_of_session
from heedful.project.storable import LARGEST_WHOLE
from heedful.web.app_settings import Settings
from heedful.web.security import comes_from_elsewhere, is_same, sign, signed_value
from heedful.web.sent_forms import FormValues, is_form, sent_form

Who = Literal["public", "user", "labeler", "researcher", "admin"]

RANKS: Mapping[str, int] = {"public": 0, "user": 1, "labeler": 2, "researcher": 3, "admin": 4}
"""The roles in order: each role may do everything that the roles before it may."""

KEY_HOLDERS = "key"
"""Replaces the role on a route of the public API."""

AnyResponse = TypeVar("AnyResponse", bound=Response)

FLASH_LENGTH = 500

CHANGES_AT_ONCE = 16
"""How many changes run at once. A change that waits for the database keeps its thread; pages have threads of their own."""
MOST_WAITING = 100
"""How many further changes may wait for a thread; the rest get status 503."""
RETRY_SECONDS = 5
"""How long clients should wait after a 503."""


def network_of(host: str) -> str:
    """The network that counts as one visitor: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


class NobodyError(Exception):
    """A visitor who is not logged in asked for a page that needs a login."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request: who makes it, and ways to respond that all pages share."""

    request: Request
    database: Database
    settings: Settings
    somebody: Person | None
    csrf_token: str
    session_token: str | None
    new_cookies: dict[str, str] = field(default_factory=dict)

    @property
    def person(self) -> Person:
        """The person who is logged in. Only for routes that require a login."""
        if self.somebody is None:
            raise NobodyError
        return self.somebody

    @property
    def address(self) -> str:
        """The visitor's network address; for IPv6 the /64 network, because a household or server usually has a whole one."""
        return network_of(self.request.client.host) if self.request.client else "unknown"

    def may(self, who: Who) -> bool:
        """Whether the visitor may call routes for this role."""
        return RANKS["public" if self.somebody is None else self.somebody.role] >= RANKS[who]

    def page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page from a template, with the values that every page has (``Rendering.render``)."""
        rendering = self.request.app.state.rendering
        response = HTMLResponse(rendering.render(self, template, values), status_code=status)
        for name in ("flash", "done"):
            if self._signed_cookie(name) is not None:
                self._remove_cookie(response, name)
        return self.with_cookies(response)

    def go(self, path: str, *, flash: str | None = None, done: int | None = None) -> RedirectResponse:
        """Send the browser to another page of the application after a POST.

        The next page shows the message once. ``done``: an assignment whose draft the browser no longer needs to keep.
        """
        response = RedirectResponse(path, status_code=303)
        if flash is not None:
            # Cookies are ASCII.
            value = sign(self.settings.key, "flash", flash[:FLASH_LENGTH].encode().hex())
            self._set_cookie(response, "flash", value, max_age=60)
        if done is not None:
            self._set_cookie(response, "done", sign(self.settings.key, "done", str(done)), max_age=60)
        return self.with_cookies(response)

    @property
    def flash(self) -> str | None:
        """The message that the previous request left for this page."""
        value = self._signed_cookie("flash")
        return None if value is None else bytes.fromhex(value).decode()

    @property
    def done(self) -> str | None:
        """The assignment that the previous page finished; signed, so that no link from elsewhere can name one."""
        return self._signed_cookie("done")

    def _signed_cookie(self, name: str) -> str | None:
        signed = self.request.cookies.get(_cookie(self.settings, name))
        return None if signed is None else signed_value(self.settings.key, name, signed)

    def with_session(self, new: NewSession, response: AnyResponse) -> AnyResponse:
        """Give the browser a session."""
        self._set_cookie(response, "session", new.token, max_age=int(new.expires - time.time()))
        self._remove_cookie(response, "visitor")
        return response

    def without_session(self, response: AnyResponse) -> AnyResponse:
        """Remove the session's cookie."""
        self._remove_cookie(response, "session")
        return response

    def with_cookies(self, response: AnyResponse) -> AnyResponse:
        """Add the cookies that a visitor without a login needs."""
        for name, value in self.new_cookies.items():
            self._set_cookie(response, name, value, max_age=None)
        return response

    def _set_cookie(self, response: Response, name: str, value: str, *, max_age: int | None) -> None:
        response.set_cookie(
            _cookie(self.settings, name),
            value,
            max_age=max_age,
            path="/",
            httponly=True,
            secure=self.settings.secure,
            samesite="lax",
        )

    def _remove_cookie(self, response: Response, name: str) -> None:
        response.delete_cookie(
            _cookie(self.settings, name), path="/", httponly=True, secure=self.settings.secure, samesite="lax"
        )


async def _form(request: Request) -> FormValues:
    return await sent_form(request)


async def _upload(request: Request) -> FormValues:
    return await sent_form(request, upload=True)


def _visit(request: Request) -> Visit:
    return request.state.visit


Visiting = Annotated[Visit, Depends(_visit)]
"""The type of a handler's first parameter."""
Form = Annotated[FormValues, Depends(_form)]
"""The type of a handler's parameter for the submitted form."""
Upload = Annotated[FormValues, Depends(_upload)]
"""The same for a form that may hold a file."""

Id = Annotated[int, Path(ge=1, le=LARGEST_WHOLE)]
"""The type of a number in a path, within the range of the database's integers."""


class Routes:
    """Collects routes, each with who may call it (``route.heedful_who``).

    Several applications of a process may share them: the application's state has the database, the settings and ``changing``,
    a limiter for ``CHANGES_AT_ONCE``.
    """

    def __init__(self) -> None:
        self._router = APIRouter()

    @property
    def all(self) -> list[BaseRoute]:
        """The routes, in the order in which they were added."""
        return self._router.routes

    def get(self, path: str, handler: Callable[..., Any], *, who: Who, **more: Any) -> None:
        """A page to read; it changes nothing."""
        self._add("GET", path, handler, who, more)

    def post(self, path: str, handler: Callable[..., Any], *, who: Who, upload: bool = False, **more: Any) -> None:
        """A change, by a form or the JSON API; ``upload``: the form is multipart and may hold a file."""
        self._add("POST", path, handler, who, more, upload=upload)

    def put(self, path: str, handler: Callable[..., Any], *, who: Who, **more: Any) -> None:
        """A change by the JSON API."""
        self._add("PUT", path, handler, who, more)

    def delete(self, path: str, handler: Callable[..., Any], *, who: Who, **more: Any) -> None:
        """A removal by the JSON API."""
        self._add("DELETE", path, handler, who, more)

    def _add(
        self, method: str, path: str, handler: Callable[..., Any], who: Who, more: dict[str, Any], *, upload: bool = False
    ) -> None:
        if who not in RANKS:
            raise ValueError(f"{method} {path}: 'who' must be one of {', '.join(RANKS)}")
        # A handler's declared return type is its response, except in the JSON API, where a model describes it.
        options: dict[str, Any] = {"response_model": None, "include_in_schema": path.startswith("/api/v1/")} | more
        options["openapi_extra"] = {"x-who": who}
        guard = Depends(_guard(who, changes=method != "GET", upload=upload))
        if method != "GET" and not iscoroutinefunction(handler):  # a coroutine needs a thread only while it stores something
            handler = _in_turn(handler)
        self._router.add_api_route(path, handler, methods=[method], dependencies=[guard], **options)
        self.all[-1].heedful_who = who  # type: ignore[attr-defined]

    def keyed(self, method: str, path: str, handler: Callable[..., Any]) -> None:
        """A route of the public API: its handler checks the request's API key itself and ignores cookies."""
        self._router.add_api_route(path, handler, methods=[method], response_model=None, include_in_schema=False)
        self.all[-1].heedful_who = KEY_HOLDERS  # type: ignore[attr-defined]


def _in_turn(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of a change, run in one of the threads for changes."""

    @wraps(handler)
    async def change(visit: Visit, **named: Any) -> Any:
        return await to_thread.run_sync(partial(handler, visit, **named), limiter=visit.request.app.state.changing)

    return change


def _guard(who: Who, *, changes: bool, upload: bool) -> Callable[..., Any]:
    async def guard(request: Request) -> None:
        state = request.app.state
        changing: CapacityLimiter = state.changing
        begin = partial(begin_visit, request, state.database, state.settings, changes)
        if not changes:
            visit = await run_in_threadpool(begin)
        elif changing.statistics().tasks_waiting < MOST_WAITING:
            visit = await to_thread.run_sync(begin, limiter=changing)
        else:
            raise HTTPException(503, headers={"Retry-After": str(RETRY_SECONDS)})
        request.state.visit = visit
        if not visit.may(who):
            if visit.somebody is None:
                raise NobodyError
            raise RefusedError("this page is not for your role", next_step=f"ask an admin, if you should be a {who}")
        if changes:
            await _check_csrf(request, visit, public=who == "public", upload=upload)

    return guard


def begin_visit(request: Request, database: Database, settings: Settings, changes: bool = False) -> Visit:
    """Identify the visitor. A session that makes changes is extended; reading changes nothing."""
    token = request.cookies.get(_cookie(settings, "session"))
    if token is not None:
        now = time.time()
        with database.read() as connection:
            found = person_of_session(connection, token, now)
        if found is not None:
            somebody, csrf_token, last_seen = found
            if changes and now - last_seen > TOUCH_SECONDS:
                with database.write() as connection:
                    keep_alive(connection, token, now=now)
            return Visit(
                request=request,
                database=database,
                settings=settings,
                somebody=somebody,
                csrf_token=csrf_token,
                session_token=token,
            )
    # Not logged in: the CSRF token of the login form belongs to a random, signed cookie.
    signed = request.cookies.get(_cookie(settings, "visitor"))
    visitor = None if signed is None else signed_value(settings.key, "visitor", signed)
    cookies: dict[str, str] = {}
    if visitor is None:
        visitor = secrets.token_urlsafe(24)
        cookies["visitor"] = sign(settings.key, "visitor", visitor)
    return Visit(
        request=request,
        database=database,
        settings=settings,
        somebody=None,
        csrf_token=sign(settings.key, "csrf", visitor).partition(".")[0],
        session_token=token,
        new_cookies=cookies,
    )


async def _check_csrf(request: Request, visit: Visit, *, public: bool, upload: bool) -> None:
    given = request.headers.get("x-csrf-token")
    if is_form(request):
        form = await sent_form(request, public=public, upload=upload)
        given = given if given is not None else form.text("csrf", "")
    if comes_from_elsewhere(request) or not is_same(given, visit.csrf_token):
        raise RefusedError(
            "this form has expired",
            expected="a form of this application, opened since you last logged in",
            next_step="go back, load the page again, then send it again",
        )


def _cookie(settings: Settings, name: str) -> str:
    # With this prefix, a browser accepts the cookie only from the host itself, over TLS, for all paths.
    return f"__Host-heedful_{name}" if settings.secure else f"heedful_{name}"
