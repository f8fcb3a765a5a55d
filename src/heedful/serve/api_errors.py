"""What clients are told when a request fails: OpenAI's form, ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

_LONGEST_MESSAGE = 1_000
_LONGEST_PARAM = 100
"""Characters: what a client sent may be megabytes long, and need not come back whole."""


class ApiError(Exception):
    """A request that is answered with an error.

    status: of HTTP. code: for programs. param: the field that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.message = message[:_LONGEST_MESSAGE]
        self.param = None if param is None else param[:_LONGEST_PARAM]
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: a field is wrong."""
    return ApiError(400, message, param=param, code=code)


def too_long(window: int, prompt: int, new: int, param: str) -> ApiError:
    """400: prompt and response exceed the context window."""
    return invalid(
        f"This model's maximum context length is {window} tokens. However, you requested {prompt + new} tokens "
        f"({prompt} in the prompt, {new} for the completion). Please shorten the prompt or the completion.",
        param,
        "context_length_exceeded",
    )


def unauthorised(message: str) -> ApiError:
    """401: no key, or one that is not known."""
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, kind="authentication_error", code="invalid_api_key", headers=headers)


def busy(waiting: int, seconds: int) -> ApiError:
    """429: too many requests wait."""
    return ApiError(
        429,
        f"{waiting} responses wait already; try again in {seconds} s",
        kind="rate_limit_error",
        code="server_busy",
        headers={"Retry-After": str(seconds)},
    )


def stopping() -> ApiError:
    """503: the server is about to end."""
    return ApiError(
        503, "the server is shutting down", kind="server_error", code="shutting_down", headers={"Retry-After": "30"}
    )


def too_late(seconds: float) -> ApiError:
    """504: the answer took longer than a request may take. Another try would take as long, so clients are told not to retry."""
    return ApiError(
        504,
        f"the response was not finished within {seconds:g} s; ask for fewer tokens",
        kind="server_error",
        code="deadline_exceeded",
        headers={"x-should-retry": "false"},
    )


def failed() -> ApiError:
    """500: the server's own fault; its log has the details."""
    return ApiError(500, "the server could not compute this", kind="server_error", code="internal_error")
