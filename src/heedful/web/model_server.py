"""A client for the OpenAI-compatible server behind the playground and the public API: Heedful's own, vLLM or another."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from heedful.errors import StorageError

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 300.0
"""How long the server may take for its next token."""
LIST_SECONDS = 10.0
"""How long a list of models is kept."""
LONGEST_LINE = 4_000_000
_WHEN_TO_RETRY = ("Retry-After", "Retry-After-Ms", "X-Should-Retry")
"""Headers of refusals that OpenAI's clients obey."""


class ModelServerError(StorageError):
    """The model server does not answer, or answers wrongly.

    status: of its answer, if there was one. said: its own error, if it sent one, with OpenAI's four keys. headers: those that
    say when to try again.
    """

    def __init__(
        self,
        message: str,
        *,
        got: str | None = None,
        status: int | None = None,
        said: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, got=got, next_step="check the model server, or try again in a while")
        self.status, self.said, self.headers = status, said, dict(headers or {})

    @property
    def context_exceeded(self) -> bool:
        """Whether prompt and token limit exceed the model's context window; OpenAI, vLLM and Heedful word it alike."""
        return self.status == 400 and "maximum context length" in (self.got or "")


def base_address(address: str) -> str:
    """The address that requests begin with: the given one, with ``/v1`` if it has no path of its own."""
    address = address.strip().rstrip("/")
    return address if urlsplit(address).path else f"{address}/v1"


@dataclass(slots=True)
class ModelServer:
    """How to reach the server."""

    address: str
    key: str | None = None
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in tests."""
    _listed: tuple[float, list[str]] = field(default=(0.0, []), init=False)

    @asynccontextmanager
    async def post(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """The beginning of an answer; the caller reads its body. Raises ModelServerError if there is no answer.

        An answer with an error status counts as an answer: the caller must check the status.
        """
        timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        async with self._client(timeout) as client:
            request = client.build_request("POST", self.address + path, json=dict(body))
            try:
                response = await client.send(request, stream=True)
            except httpx.HTTPError as error:
                raise _silent(error) from None
            try:
                yield response
            except httpx.HTTPError as error:
                raise _silent(error) from None
            finally:
                await response.aclose()

    async def models(self) -> list[str]:
        """The names of the models, in the server's order. Raises ModelServerError."""
        listed_at, names = self._listed
        if names and time.monotonic() - listed_at < LIST_SECONDS:
            return names
        try:
            async with self._client(httpx.Timeout(CONNECT_SECONDS)) as client:
                response = await client.get(self.address + "/models")
            if response.status_code != 200:
                raise _refusal(response, response.text)
            rows = response.json()["data"]
            # Heedful's server also lists reward models, which only score.
            names = [row["id"] for row in rows if isinstance(row["id"], str) and row["id"] and row.get("kind") != "reward"]
        except httpx.HTTPError as error:
            raise _silent(error) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelServerError("the model server does not say which models it has", got="no list of models") from None
        self._listed = (time.monotonic(), names)
        return names

    def _client(self, timeout: httpx.Timeout) -> httpx.AsyncClient:
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        # Ignore proxies from the environment: both servers belong to one installation.
        return httpx.AsyncClient(timeout=timeout, headers=headers, verify=_tls(), trust_env=False, transport=self.transport)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def refusal_of(response: httpx.Response) -> ModelServerError:
    """The error that the server sent instead of an answer."""
    text = (await response.aread()).decode(errors="replace")
    return _refusal(response, text)


def _refusal(response: httpx.Response, text: str) -> ModelServerError:
    try:
        said = error_of(json.loads(text))
    except (ValueError, RecursionError):
        said = None
    status = response.status_code
    got = f"{status}: {text[:200] if said is None else (said['message'] or '')[:500]}"
    headers = {name: response.headers[name] for name in _WHEN_TO_RETRY if name in response.headers}
    return ModelServerError("the model server refused", got=got, status=status, said=said, headers=headers)


def error_of(body: Any) -> dict[str, str | None] | None:
    """The error in an answer or event, with OpenAI's four keys; None if it holds none.

    Some servers give the error without ``error`` around it, as a mere text, with a number as code, or as FastAPI's ``detail``.
    """
    if not isinstance(body, dict):
        return None
    error = body.get("error", body if body.get("object") == "error" else body.get("detail"))
    if error is None:
        return None
    keys = error if isinstance(error, dict) else {"message": error}
    message = keys.get("message")
    texts = {name: None if keys.get(name) is None else str(keys[name]) for name in ("param", "code")}
    kind = keys.get("type")
    return {
        "message": message if isinstance(message, str) else json.dumps(message),
        "type": kind if isinstance(kind, str) else "invalid_request_error",
        **texts,
    }


def _silent(error: httpx.HTTPError) -> ModelServerError:
    return ModelServerError("the model server does not answer", got=type(error).__name__)


async def events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of server-sent events, one after the other; a server that never ends a line is cut off."""
    buffer = b""
    async for piece in response.aiter_bytes():
        buffer += piece
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > LONGEST_LINE:
            raise ModelServerError("the model server does not send events", got="a line without an end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")
    if buffer.startswith(b"data:"):
        yield buffer[5:].strip().decode(errors="replace")


def piece_of(choice: Mapping[str, Any]) -> str:
    """The text of one choice in a chunk or an answer, for chats and completions."""
    delta = choice.get("delta") or choice.get("message") or {}
    text = delta.get("content") if isinstance(delta, Mapping) and "text" not in choice else choice.get("text")
    return text if isinstance(text, str) else ""
