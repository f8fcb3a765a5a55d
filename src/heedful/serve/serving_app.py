"""The server's application: its routes, its guard, and how failures are answered."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.listening import is_loopback
from heedful.serve.access_keys import AccessKey, key_of
from heedful.serve.api_errors import ApiError, failed, stopping
from heedful.serve.chat_completions import chat
from heedful.serve.completions import complete
from heedful.serve.score_routes import score_responses
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import Limits, ServingState
from heedful.serve.tokenizer_routes import detokenize, tokenize, tokenizer_info

log = logging.getLogger("heedful.serve")
CLIENT_GONE = 499
_CREATED = 1_764_460_800  # OpenAI's clients want a number; a folder has no such date


def create_serving_app(models: Mapping[str, ServedModel], limits: Limits, keys: Sequence[AccessKey] = ()) -> Starlette:
    """The application over loaded models. Its lifespan starts and ends the engines' thread."""
    state = ServingState(models, limits, keys)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        state.thread.start()
        yield
        await state.thread.close()
        state.close()

    posts = (
        ("/v1/completions", complete),
        ("/v1/chat/completions", chat),
        ("/v1/score", score_responses),
        ("/tokenize", tokenize),
        ("/detokenize", detokenize),
    )
    gets = (
        ("/v1/models", _list_models),
        ("/v1/models/{model:path}", _one_model),
        ("/tokenizer_info", tokenizer_info),
        ("/health", _health),
        ("/metrics", _metrics),
    )
    routes = [Route(path, _answered(path, run), methods=["POST"]) for path, run in posts]
    routes += [Route(path, _answered(path, run), methods=["GET"]) for path, run in gets]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _on_http, ApiError: _on_api_error})
    app.state.serving = state
    app.router.redirect_slashes = False
    app.add_middleware(_Guard, state=state)
    return app


def _answered(path: str, run: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers every failure in OpenAI's form, and is counted."""

    async def answer(request: Request) -> Response:
        state: ServingState = request.app.state.serving
        try:
            response = await run(request)
        except ApiError as error:
            response = error.response()
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except Exception:
            log.exception("%s failed", path)
            response = failed().response()
        state.metrics.requests.labels(path, str(response.status_code)).inc()
        return response

    return answer


class _Guard:
    """Refuses requests without a valid key (if keys are set) and all new ones while the server shuts down; counts running ones.

    Without keys the server answers only to this machine's own names, so that a foreign site's name cannot be pointed at it.
    """

    def __init__(self, app: ASGIApp, state: ServingState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        scope["state"]["started"] = time.monotonic()
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            scope["state"]["key"] = self._key(headers)
            if self._state.draining and scope["path"] not in ("/metrics", "/health"):
                raise stopping()
        except ApiError as error:
            self._state.metrics.requests.labels("refused", str(error.status)).inc()
            await error.response()(scope, receive, send)
            return
        self._state.num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.num_requests -= 1

    def _key(self, headers: Mapping[bytes, str]) -> AccessKey | None:
        if self._state.keys:
            return key_of(headers.get(b"authorization", ""), self._state.keys)
        host = headers.get(b"host", "")
        try:
            is_ours = is_loopback(urlsplit(f"//{host}").hostname or "")
        except ValueError:  # half of an IPv6 address
            is_ours = False
        if not is_ours:
            message = f"without API keys the server answers to localhost only, not to {host!r}"
            raise ApiError(403, message, kind="permission_error", code="host_not_allowed")
        return None


async def _on_http(request: Request, error: Exception) -> Response:
    """Addresses and methods that do not exist."""
    assert isinstance(error, HTTPException)
    request.app.state.serving.metrics.requests.labels("unknown", str(error.status_code)).inc()
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    message = f"Unknown request URL: {request.method} {request.url.path}" if code == "unknown_url" else error.detail
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _model_card(served: ServedModel) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "heedful",
        "max_model_len": served.window,
        "kind": "reward" if served.scores else "policy",
        "template": served.template_name,
    }


async def _list_models(request: Request) -> Response:
    state: ServingState = request.app.state.serving
    return JSONResponse({"object": "list", "data": [_model_card(served) for served in state.models_of(request)]})


async def _one_model(request: Request) -> Response:
    state: ServingState = request.app.state.serving
    return JSONResponse(_model_card(state.model_for(request, request.path_params["model"], scores=None)))


async def _health(request: Request) -> Response:
    state: ServingState = request.app.state.serving
    if state.draining:
        raise stopping()
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    state: ServingState = request.app.state.serving
    state.metrics.waiting.set(state.thread.num_waiting)
    state.metrics.steps.set(state.thread.num_steps)
    for name, served in state.models.items():
        if not served.scores:
            state.metrics.unfinished.labels(name).set(state.thread.num_unfinished(name))
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
