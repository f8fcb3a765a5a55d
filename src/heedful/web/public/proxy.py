"""The public API: OpenAI's routes in front of the model server, behind keys with limits.

A request is admitted and counted before its body is read (``heedful.labeling.usage.admission``). It then goes to the model
server unchanged, and the answer comes back unchanged, so the server decides which fields work. Every error has OpenAI's form.
The header X-Heedful-Training of every answer says whether the request may be used for training.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from heedful.labeling.database.connection import Database
from heedful.labeling.usage import admission, misuse
from heedful.labeling.usage.admission import Admitted, KeyRefusedError, Outcome
from heedful.labeling.usage.api_keys import ApiKey, Scope
from heedful.project.files import bad_character
from heedful.prompts.personal import find_personal_data
from heedful.sent_json import read_json
from heedful.web.closing_stream import ClosingStream
from heedful.web.model_server import ModelServer, ModelServerError, error_of, events, piece_of, refusal_of
from heedful.web.routing import Routes
from heedful.web.security import TooLarge, log

THREADS = 8
"""For the database: SQLite allows only one writer anyway."""
GONE = 499
"""The status in the log if the client left before the end."""
_WATCH_SECONDS = 0.2
_CHARACTERS_OF_TOKEN = 4
"""An estimate, for requests without a token count because the client left."""
_LONGEST_LOGGED = 400_000
_PASSED_ON = (400, 404, 413, 415, 422, 429, 503, 504)
"""Statuses of the model server that are the client's to know; others are a matter between the two servers."""

Value = TypeVar("Value")


def routes(add: Routes) -> None:
    """OpenAI's routes."""
    add.keyed("GET", "/v1/models", list_models)
    add.keyed("POST", "/v1/chat/completions", chat)
    add.keyed("POST", "/v1/completions", complete)


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error in the form that OpenAI's clients expect."""
    usual = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = usual.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=dict(headers or {}))


# ---------------------------------------------------------------------------------------------------- admission


@dataclass(slots=True)
class Call:
    """An admitted request that is being processed."""

    database: Database
    admitted: Admitted
    limiter: CapacityLimiter
    outcome: Outcome = field(default_factory=lambda: Outcome(status=GONE, response=[]))
    prompt_tokens: int | None = None
    """An estimate, for a request whose client leaves before the model server has counted."""
    closed: bool = False

    @property
    def key(self) -> ApiKey:
        return self.admitted.key

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every answer."""
        return {"X-Heedful-Training": "may-be-used" if self.key.may_train else "never"}

    async def close(self) -> None:
        """Log the outcome, once, even if the client has gone."""
        if self.closed:
            return
        self.closed = True
        with CancelScope(shield=True):
            await to_thread.run_sync(self._log, limiter=self.limiter)

    def _log(self) -> None:
        outcome = self.outcome
        texts = [*_texts_of(outcome.request), *outcome.response]
        if outcome.prompt_tokens is None:
            outcome.prompt_tokens = self.prompt_tokens
        if texts:
            kinds = sorted({found.kind for text in texts for found in find_personal_data(text[:_LONGEST_LOGGED])})
            outcome.flags = [f"personal data: {kind}" for kind in kinds] + misuse.flags_of(texts, misuse.installed())
        if any(bad_character(text) is not None for text in texts):
            outcome.request, outcome.response = None, []  # no database keeps NUL or half a surrogate pair
        admission.finish(self.database, self.admitted, outcome)


async def _admitted(request: Request, scope: Scope, answer: Callable[[Call], Awaitable[Response]]) -> Response:
    state = request.app.state
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        message = "an API key is needed: send the header Authorization: Bearer KEY"
        return error_response(401, message, code="missing_api_key", headers={"WWW-Authenticate": "Bearer"})
    if not hasattr(state, "api_limiter"):
        state.api_limiter = CapacityLimiter(THREADS)
    used_for = request.headers.get("x-heedful-use")

    def admit() -> Admitted:
        return admission.admit(state.database, secret.strip(), scope, used_for=used_for)

    try:
        admitted = await to_thread.run_sync(admit, limiter=state.api_limiter)
    except KeyRefusedError as error:
        headers = {} if error.wait_seconds is None else {"Retry-After": str(max(1, math.ceil(error.wait_seconds)))}
        return error_response(error.status, str(error), code=error.code, headers=headers)
    call = Call(state.database, admitted, state.api_limiter)
    try:
        response = await answer(call)
    except ClientDisconnect:
        response = _client_left()
    except (TooLarge, TimeoutError) as error:
        call.outcome.status = 413 if isinstance(error, TooLarge) else 408
        await call.close()
        raise
    except BaseException:
        call.outcome.status = 500 if call.outcome.status == GONE else call.outcome.status
        await call.close()
        raise
    if not isinstance(response, ClosingStream):
        call.outcome.status = response.status_code
        await call.close()
    response.headers.update(call.headers)
    return response


# ---------------------------------------------------------------------------------------------------- routes


async def list_models(request: Request) -> Response:
    """The models, as OpenAI lists them."""

    async def answer(call: Call) -> Response:
        server = _server(request)
        if server is None:
            return _no_server()
        try:
            names = await server.models()
        except ModelServerError as error:
            return _from_server(error)
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "heedful"} for name in names]
        return JSONResponse({"object": "list", "data": rows})

    return await _admitted(request, "models", answer)


async def chat(request: Request) -> Response:
    """A chat's next message."""
    return await _admitted(request, "chat", lambda call: _answered(request, call, "/chat/completions", "messages"))


async def complete(request: Request) -> Response:
    """The continuation of a text."""
    return await _admitted(request, "completions", lambda call: _answered(request, call, "/completions", "prompt"))


async def _answered(request: Request, call: Call, path: str, asked: str) -> Response:
    try:
        body = read_json(await request.body())
    except ValueError as error:
        return error_response(400, f"the body is not JSON: {error}", code="invalid_json")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or bad_character(body["model"]) is not None:
        return error_response(400, "the body must be an object with the name of a model", code="invalid_body")
    if not isinstance(body.get("stream"), bool | NoneType):
        return error_response(400, "stream must be true or false", param="stream", code="invalid_type")
    server = _server(request)
    if server is None:
        return _no_server()
    call.outcome.model, call.outcome.streamed = body["model"], body.get("stream") is True
    call.outcome.request = _logged(body.get(asked))
    call.prompt_tokens = _about_tokens(body.get(asked), call.outcome.request)
    if body.get("stream") is True:
        return await _streamed(request, server, call, path, body)
    done = await _unless_gone(request, lambda: _whole(server, call, path, body))
    return done if done is not None else _client_left()


async def _whole(server: ModelServer, call: Call, path: str, body: Mapping[str, Any]) -> Response:
    try:
        async with server.post(path, body) as response:
            if response.status_code != 200:
                raise await refusal_of(response)
            content = await response.aread()
        answer = json.loads(content)
        call.outcome.response = [piece_of(choice) for choice in answer["choices"]]
        _count(call, answer.get("usage"))
    except ModelServerError as error:
        return _from_server(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _from_server(ModelServerError("the model server's answer cannot be read"))
    return Response(content, media_type="application/json")


async def _streamed(request: Request, server: ModelServer, call: Call, path: str, body: dict[str, Any]) -> Response:
    """Begin the stream first, so that a refusal keeps its own status; then pass the events on."""
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    if options is None or isinstance(options, dict):  # the model server refuses other types
        body = body | {"stream_options": {**(options or {}), "include_usage": True}}
    passed = _passed_on(server, call, path, body, wants_usage)

    async def begin() -> bytes | ModelServerError:
        try:
            return await anext(passed)
        except ModelServerError as error:
            return error

    async def all_of_it(first: bytes) -> AsyncGenerator[bytes, None]:
        yield first
        async for piece in passed:
            yield piece

    async def end() -> None:
        await passed.aclose()
        await call.close()

    first: bytes | ModelServerError | None = None
    try:
        first = await _unless_gone(request, begin)
    finally:
        if not isinstance(first, bytes):
            with CancelScope(shield=True):
                await passed.aclose()
    if isinstance(first, bytes):
        return ClosingStream(all_of_it(first), end)
    return _client_left() if first is None else _from_server(first)


async def _passed_on(
    server: ModelServer, call: Call, path: str, body: Mapping[str, Any], wants_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The server's events. The usage event is always requested, but passed on only to a client that wants it."""
    texts: dict[int, list[str]] = {}
    pieces = 0
    begun = ended = False
    try:
        async with server.post(path, body) as response:
            if response.status_code != 200:
                raise await refusal_of(response)
            async for data in events(response):
                if data == "[DONE]":
                    call.outcome.status = 200
                    begun = True
                    yield b"data: [DONE]\n\n"
                    return
                chunk = json.loads(data)
                problem = error_of(chunk)
                if problem is not None:
                    log.error("a stream broke off: the model server sent an error")
                    call.outcome.status = 502
                    begun = True
                    yield _event({"error": problem})
                    return
                for choice in chunk.get("choices") or ():
                    text = piece_of(choice)
                    ended = ended or bool(choice.get("finish_reason"))
                    pieces += bool(text)
                    texts.setdefault(int(choice.get("index", 0)), []).append(text)
                _count(call, chunk.get("usage"))
                if not wants_usage and "usage" in chunk:
                    if not chunk.get("choices"):
                        continue
                    del chunk["usage"]
                begun = True
                yield _event(chunk)
        if not ended:
            raise ModelServerError("the model server broke off", got="a stream without an end")
        call.outcome.status = 200
    except (ModelServerError, ValueError, KeyError, TypeError, AttributeError) as error:
        broken = error if isinstance(error, ModelServerError) else ModelServerError("the model server's answer cannot be read")
        if not begun:
            raise broken from None
        log.error("a stream broke off: %s %s", broken.message, broken.got)
        call.outcome.status = 502
        yield b"data: " + bytes(_from_server(broken).body) + b"\n\n"
    finally:
        call.outcome.response = ["".join(parts) for _, parts in sorted(texts.items())]
        if call.outcome.completion_tokens is None:
            call.outcome.completion_tokens = pieces


async def _unless_gone(request: Request, work: Callable[[], Awaitable[Value]]) -> Value | None:
    """The result of the work; None if the client leaves, which ends the work."""
    result: Value | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(_WATCH_SECONDS)
            group.cancel_scope.cancel()

        group.start_soon(watch)
        result = await work()
        group.cancel_scope.cancel()
    return result


# ---------------------------------------------------------------------------------------------------- parts


def _server(request: Request) -> ModelServer | None:
    return request.app.state.model_server


def _no_server() -> JSONResponse:
    return error_response(503, "no model server is set; the operator of this API must set one", code="no_model_server")


def _client_left() -> JSONResponse:
    """The client has gone, so only the log needs this response."""
    return error_response(GONE, "the client left")


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _from_server(error: ModelServerError) -> JSONResponse:
    """The response for an error of the model server: its own refusal, or status 502."""
    if error.status in _PASSED_ON and error.said is not None:
        return JSONResponse({"error": error.said}, status_code=error.status, headers=error.headers)
    log.error("the model server: %s %s", error.message, error.status or "")
    return error_response(502, f"{error.message}; try again in a while", code="model_server")


def _count(call: Call, usage: object) -> None:
    if isinstance(usage, dict):
        for name in ("prompt_tokens", "completion_tokens"):
            number = usage.get(name)
            if type(number) is int and 0 <= number < 2**31:
                setattr(call.outcome, name, number)


def _logged(asked: object) -> Any:
    """Messages or prompts as the log keeps them: only texts and roles; None for token ids and other forms."""
    if isinstance(asked, str):
        return asked
    if not isinstance(asked, list) or not asked:
        return None
    if all(isinstance(one, str) for one in asked):
        return asked
    messages: list[dict[str, str]] = []
    for one in asked:
        if not isinstance(one, dict) or not isinstance(one.get("role"), str) or bad_character(one["role"]) is not None:
            return None
        content = one.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        messages.append({"role": one["role"], "content": content if isinstance(content, str) else ""})
    return messages


def _about_tokens(asked: object, logged: Any) -> int | None:
    """About how many tokens a prompt has; exactly, if it is given as token ids. None if it cannot be said."""
    if logged is not None:
        return math.ceil(sum(map(len, _texts_of(logged))) / _CHARACTERS_OF_TOKEN)
    if not isinstance(asked, list):
        return None
    rows = [row for row in asked if isinstance(row, list)]
    return sum(map(len, rows)) if rows else len(asked)


def _texts_of(asked: Any) -> list[str]:
    if asked is None:
        return []
    if isinstance(asked, str):
        return [asked]
    return [one if isinstance(one, str) else one["content"] for one in asked]
