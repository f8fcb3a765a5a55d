"""Put the application together: routes, guards and error pages."""

from __future__ import annotations

import os
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from heedful.errors import (
    BusyError,
    ConflictError,
    DataError,
    HeedfulError,
    MissingError,
    RefusedError,
    ThrottledError,
    UserError,
)
from heedful.labeling.database.connection import Database
from heedful.web import login
from heedful.web.api import api_docs, labeler_api, playground_api, researcher_api
from heedful.web.app_settings import Settings
from heedful.web.console import admin, batch_pages, overview, round_pages, usage_pages
from heedful.web.console.round_process import RoundProcess
from heedful.web.label import pages
from heedful.web.model_server import ModelServer, ModelServerError, base_address
from heedful.web.playground import feedback_pages, playground_pages, streaming
from heedful.web.public import key_pages, own_data_pages, proxy
from heedful.web.public.withdrawals import Eraser
from heedful.web.rendering import Rendering
from heedful.web.routing import CHANGES_AT_ONCE, RETRY_SECONDS, NobodyError, Routes, Visit, begin_visit
from heedful.web.security import Shield, log, sign

STATUS_OF: tuple[tuple[type[HeedfulError], int], ...] = (
    (ModelServerError, 502),
    (ThrottledError, 429),
    (BusyError, 503),
    (MissingError, 404),
    (ConflictError, 409),
    (RefusedError, 403),
    (DataError, 422),
    (UserError, 400),
    (HeedfulError, 500),
)
"""The first match counts."""

TITLES = {
    400: "That did not work",
    401: "Please log in",
    403: "Not allowed",
    404: "Page not found",
    405: "Page not found",
    409: "Someone else was first",
    413: "Too large",
    408: "Too slow",
    415: "This form cannot be read",
    422: "Something is missing or wrong",
    429: "Too many attempts",
    500: "Something went wrong",
    502: "The models do not answer",
    503: "The server is busy",
}
MESSAGES = {
    400: "the request could not be read",
    401: "you are not logged in",
    404: "this page does not exist, or you may not see it",
    405: "this address does not take such requests",
    408: "the rest of the request did not arrive in time",
    415: "forms are sent as application/x-www-form-urlencoded in UTF-8",
    413: "the request is too large",
    500: "this is our fault, not yours",
    502: "the model server could not answer",
    503: "the server has more changes to save than it can at this moment",
}
NEXT_STEPS = {
    401: "log in; if you were in the middle of something, use another tab: drafts stay in this browser",
    500: "try again; if it happens again, tell a researcher or admin what you were doing",
    502: "try again in a while, or tell an admin",
    503: "wait a little, then try again; a task's page saves your work by itself as soon as it can",
}

if TYPE_CHECKING:  # FastAPI before 0.165 has no telemetry, and ignores the argument
    from fastapi.telemetry import TelemetryConfig

MODULES = (
    *(
        login,
        pages,
        overview,
        batch_pages,
        admin,
        round_pages,
        usage_pages,
        playground_pages,
        feedback_pages,
        streaming,
        key_pages,
        own_data_pages,
        proxy,
    ),
    *(labeler_api, playground_api, researcher_api, api_docs),
)
"""Modules that add routes."""

NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI can report requests with their content if environment variables say so; what people write must stay here."""

STATIC_SECONDS = 31_536_000


def create_app(database: Database, settings: Settings) -> FastAPI:
    """The labeling application over an open database."""
    app = FastAPI(
        title=settings.title,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
        routes=_routes(),
    )
    app.state.database, app.state.settings = database, settings
    app.state.changing = CapacityLimiter(CHANGES_AT_ONCE)
    app.state.model_server = (
        None if settings.model_server is None else ModelServer(base_address(settings.model_server), settings.model_server_key)
    )
    app.state.round_process = None if settings.project is None else RoundProcess(settings.project)
    app.state.eraser = Eraser(database, settings)
    app.state.rendering = Rendering(title=settings.title)
    app.add_exception_handler(HeedfulError, _on_error)
    app.add_exception_handler(NobodyError, _on_nobody)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(
        Shield, secure=settings.secure, max_body_bytes=settings.max_body_bytes, on_failure=lambda r, s: _failure(app, r, s)
    )
    return app


@cache
def _routes() -> list[BaseRoute]:
    """All routes. What FastAPI works out of their handlers takes tenths of a second, so a process does it once."""
    routes = Routes()
    routes.get("/static/{version}/{name:path}", _static, who="public")
    routes.get("/health", _health, who="public")
    for module in MODULES:
        module.routes(routes)
    return routes.all


# ---------------------------------------------------------------------------------------------------- static, health


def _static(request: Request, version: str, name: str) -> Response:
    rendering: Rendering = request.app.state.rendering
    file = rendering.static.get(name)
    if file is None:
        raise HTTPException(404)
    # A page from before an update asks for an old version: it gets today's file, uncached.
    kept = f"public, max-age={STATIC_SECONDS}, immutable" if version == rendering.version else "no-cache"
    return Response(file.content, media_type=file.media_type, headers={"Cache-Control": kept})


def _health(request: Request) -> JSONResponse:
    """For a proxy or a service manager: check that the database answers."""
    with request.app.state.database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    return JSONResponse({"status": "ok"})


# ---------------------------------------------------------------------------------------------------- failures


def _failure(
    app: FastAPI,
    request: Request,
    status: int,
    *,
    message: str | None = None,
    expected: str | None = None,
    got: str | None = None,
    next_step: str | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response:
    """A failure, as a page for people or as a problem document (RFC 9457) for programs."""
    message = message or MESSAGES.get(status) or HTTPStatus(status).phrase.lower()
    next_step = next_step or NEXT_STEPS.get(status)
    title = TITLES.get(status) or HTTPStatus(status).phrase
    if request.url.path.startswith("/v1/"):
        said = "; ".join(part for part in (message, next_step) if part)
        return proxy.error_response(status, said, headers=headers)
    if request.url.path.startswith("/api/"):
        problem = {"title": title, "status": status, "detail": message, "expected": expected, "got": got, "next": next_step}
        content = {key: value for key, value in (problem | more).items() if value is not None}
        return JSONResponse(content, status_code=status, headers=headers, media_type="application/problem+json")
    visit: Visit | None = getattr(request.state, "visit", None)
    if visit is None:  # it failed before the visitor was known: show a page that anyone may see
        settings: Settings = app.state.settings
        visit = Visit(
            request=request,
            database=app.state.database,
            settings=settings,
            somebody=None,
            csrf_token=sign(settings.key, "none", ""),
            session_token=None,
        )
    page = app.state.rendering.render(
        visit,
        "failure.html",
        {"title": title, "message": message, "expected": expected, "got": got, "next_step": next_step, "status": status},
    )
    return Response(page, status_code=status, headers=headers, media_type="text/html")


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HeedfulError)
    status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
    headers = {"Retry-After": str(max(1, round(error.wait_seconds)))} if isinstance(error, ThrottledError) else None
    if status == 503:
        return _failure(request.app, request, status, headers={"Retry-After": str(RETRY_SECONDS)})
    if status >= 500:  # for example a full disk: the message may name folders, so it goes only to the log
        log.error("failed: %s %s", request.method, request.url.path, exc_info=error)
        return _failure(request.app, request, status)
    return _failure(
        request.app,
        request,
        status,
        message=error.message,
        expected=error.expected,
        got=error.got,
        next_step=error.next_step,
        headers=headers,
        **({} if error.where is None or os.sep in error.where else {"where": error.where}),
    )


def _on_nobody(request: Request, error: Exception) -> Response:
    if request.method == "GET" and not request.url.path.startswith("/api/"):
        return RedirectResponse(login.login_path(request.url.path, request.url.query), status_code=303)
    return _failure(request.app, request, 401)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not hasattr(request.state, "visit"):
        request.state.visit = begin_visit(request, request.app.state.database, request.app.state.settings)
    return _failure(request.app, request, error.status_code, headers=dict(error.headers or {}))


def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [{"where": ".".join(map(str, found["loc"])), "what": found["msg"]} for found in error.errors()]
    if any(found["loc"][:1] == ("path",) for found in error.errors()):
        return _failure(request.app, request, 404)
    first = problems[0] if problems else {"where": "", "what": ""}
    return _failure(request.app, request, 422, message=f"{first['where']}: {first['what']}", problems=problems)
