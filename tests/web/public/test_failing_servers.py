"""The public API before model servers that refuse, fail or break off, and before clients that send nonsense or leave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.labeling.usage.talk import a_key
from tests.web.served import served
from tests.web.site import Site, make_site

from heedful.labeling.database.usage_tables import api_request
from heedful.web.model_server import ModelServer, base_address

FOUR = {"message", "type", "param", "code"}
BUSY = {"message": "busy", "type": "rate_limit_error", "param": None, "code": "server_busy"}
LATE = {"message": "late", "type": "server_error", "param": None, "code": "deadline_exceeded"}
RIVER: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "Riv"}, "finish_reason": None}]}
END: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
GENEROUS = 60.0


class Server:
    """A model server that answers every request with the same response."""

    def __init__(self, response: Callable[[], Response]) -> None:
        async def answer(_: Request) -> Response:
            return response()

        self.app = Starlette(routes=[Route("/v1/{path:path}", answer, methods=["GET", "POST"])])

    def in_process(self) -> ModelServer:
        return ModelServer("http://models/v1", transport=httpx.ASGITransport(app=self.app))


def stream_of(*lines: bytes | dict[str, Any]) -> Callable[[], Response]:
    async def pieces() -> AsyncIterator[bytes]:
        for line in lines:
            yield line if isinstance(line, bytes) else b"data: " + json.dumps(line).encode() + b"\n\n"

    return lambda: StreamingResponse(pieces(), media_type="text/event-stream")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def secret(site: Site) -> str:
    person = site.person("user")
    with site.database.write() as connection:
        return a_key(connection, person, per_minute=10_000)[1]


def rows(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(api_request).order_by(api_request.c.id)).mappings())


def call(site: Site, secret: str, body: Any, path: str = "/v1/chat/completions", **headers: str) -> Any:
    sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    return site.nobody().post(path, headers={"Authorization": f"Bearer {secret}", **headers}, **sent)


def ask(stream: bool) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Name a river."}], "stream": stream}


VLLM = {"message": "bad", "type": "BadRequestError", "param": "n", "code": 400}
OLD_VLLM = {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}
REFUSALS: list[tuple[int, Any, dict[str, str], int, dict[str, Any]]] = [
    (400, {"error": VLLM}, {}, 400, VLLM | {"code": "400"}),
    (400, OLD_VLLM, {}, 400, {"message": "bad", "type": "BadRequestError", "param": None}),
    (404, {"error": {"message": "no model"}}, {}, 404, {"message": "no model", "type": "invalid_request_error"}),
    (422, {"error": "bad", "error_type": "validation"}, {}, 422, {"message": "bad"}),
    (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, {}, 422, {"param": None}),
    (429, {"error": BUSY}, {"Retry-After": "17"}, 429, BUSY),
    (503, {"error": {**BUSY, "code": "shutting_down"}}, {"Retry-After": "30"}, 503, {"code": "shutting_down"}),
    (504, {"error": LATE}, {"x-should-retry": "false"}, 504, LATE),
    (401, {"error": {"message": "the key of the application is wrong: k-123"}}, {}, 502, {"code": "model_server"}),
    (403, {"error": {"message": "the key of the application is wrong: k-123"}}, {}, 502, {"code": "model_server"}),
    (500, {"error": {"message": "Traceback: k-123"}}, {"Retry-After": "1"}, 502, {"code": "model_server"}),
    (404, "<html>nginx k-123</html>", {}, 502, {"code": "model_server"}),
    (307, "", {"Location": "/v1/other"}, 502, {"code": "model_server"}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "headers", "passed", "error"), REFUSALS)
def test_refusals_keep_their_meaning_and_have_four_keys(
    site: Site, secret: str, status: int, body: Any, headers: dict[str, str], passed: int, error: dict[str, Any], stream: bool
) -> None:
    def response() -> Response:
        return HTMLResponse(body, status, headers) if isinstance(body, str) else JSONResponse(body, status, headers)

    site.app.state.model_server = Server(response).in_process()
    answer = call(site, secret, ask(stream))
    assert answer.status_code == passed
    assert set(answer.json()["error"]) == FOUR
    assert error.items() <= answer.json()["error"].items()
    assert "k-123" not in answer.text
    for name, value in headers.items() if passed == status else ():
        assert answer.headers[name] == value, "a client could not know when to try again"
    assert rows(site)[-1]["status"] == passed


BROKEN: dict[str, Callable[[], Response]] = {
    "a page": lambda: HTMLResponse("<html>hello</html>"),
    "a whole answer": lambda: JSONResponse({"choices": [{"message": {"content": "x"}}]}),
    "nothing": stream_of(),
    "bytes": stream_of(b"\xff\xfe\x00" * 1_000),
    "no JSON": stream_of(b"data: {\n\n"),
    "a list": stream_of(b"data: []\n\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_stream_is_a_failure_of_the_server(site: Site, secret: str, name: str) -> None:
    site.app.state.model_server = Server(BROKEN[name]).in_process()
    answer = call(site, secret, ask(True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "model_server")
    assert (rows(site)[-1]["status"], rows(site)[-1]["request"]) == (502, None)


@pytest.mark.parametrize(
    "after",
    [(), (b'data: {"cho',), ({"error": {"message": "out of memory", "code": 500}},), ({"error": "out of memory"},)],
    ids=["it stops", "within a line", "with an error", "with a mere text"],
)
def test_half_a_stream_is_not_taken_for_a_whole_one(site: Site, secret: str, after: tuple[Any, ...]) -> None:
    site.app.state.model_server = Server(stream_of(RIVER, *after)).in_process()
    answer = call(site, secret, ask(True))
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[0]["choices"][0]["delta"]["content"] == "Riv"
    assert set(events[-1]["error"]) == FOUR
    assert "[DONE]" not in answer.text
    assert rows(site)[-1]["status"] == 502


@pytest.mark.parametrize("last", [(), ({"choices": None, "usage": {"prompt_tokens": 9, "completion_tokens": 7}},)])
def test_a_server_that_does_not_say_done_is_understood(site: Site, secret: str, last: tuple[Any, ...]) -> None:
    site.app.state.model_server = Server(stream_of(RIVER, END, *last)).in_process()
    answer = call(site, secret, ask(True))
    assert "error" not in answer.text
    assert (rows(site)[-1]["status"], rows(site)[-1]["response"]) == (200, ["Riv"])
    assert rows(site)[-1]["completion_tokens"] == (7 if last else 1)


NONSENSE = {
    "not a number": b'{"model": "m", "messages": [], "temperature": NaN',
    "infinity": b'{"model": "m", "messages": [], "temperature": 1e999',
    "half a surrogate pair": b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]',
    "the same in bytes": b'{"model": "m", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]',
    "a model that is half a surrogate pair": b'{"model": "\\ud800", "messages": []',
    "a model with a NUL": b'{"model": "\\u0000", "messages": []',
    "a deep field": b'{"model": "m", "messages": [], "x": ' + b"[" * 900 + b"]" * 900,
}


@pytest.mark.parametrize("stream", [b"", b', "stream": true'])
@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_the_clients_mistake(site: Site, secret: str, name: str, stream: bytes) -> None:
    site.app.state.model_server = Server(stream_of(RIVER, END, b"data: [DONE]\n\n")).in_process()
    answer = call(site, secret, NONSENSE[name] + stream + b"}")
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == FOUR
    assert [row["status"] for row in rows(site)] == [400]


@pytest.mark.parametrize("stream", ["true", 1, 0, [], "false"])
def test_stream_is_true_or_false(site: Site, secret: str, stream: Any) -> None:
    """A server that takes 1 for true would answer with a stream, and the application would wait for a whole answer."""
    answer = call(site, secret, ask(True) | {"stream": stream})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")


def test_a_role_that_no_database_keeps(site: Site, secret: str) -> None:
    site.app.state.model_server = Server(stream_of(RIVER, END, b"data: [DONE]\n\n")).in_process()
    body = ask(True) | {"messages": [{"role": "\x00", "content": "x"}]}
    assert call(site, secret, body).status_code == 200
    assert (rows(site)[-1]["status"], rows(site)[-1]["request"]) == (200, None)


def test_a_use_is_a_tag(site: Site, secret: str) -> None:
    refused = call(site, secret, ask(False), **{"X-Heedful-Use": "my customer's whole letter " * 50})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "use")
    assert rows(site) == []


# ---------------------------------------------------------------------------------------------------- clients that leave


class Slow:
    """A model server that takes a minute for its first token."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()
        self.app = Starlette(routes=[Route("/v1/{path:path}", self.answer, methods=["POST"])])

    async def answer(self, _: Request) -> Response:
        self.asked.set()
        return StreamingResponse(self.stream(), media_type="text/event-stream")

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            await asyncio.sleep(GENEROUS)
            yield b"data: [DONE]\n\n"
        finally:
            self.left.set()


def begun(address: str, secret: str, path: str, length: int) -> socket.socket:
    """A connection that has sent the head of a request."""
    host, port = address.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\nContent-Length: {length}\r\n\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode())
    return connection


def last_row(site: Site) -> Any:
    for _ in range(int(GENEROUS * 10)):
        if rows(site) and rows(site)[-1]["status"] is not None:
            break
        time.sleep(0.1)
    return rows(site)[-1]


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/chat/completions", ask(True), 4),
        ("/v1/completions", {"model": "m", "prompt": [5] * 300, "stream": True}, 300),
        ("/v1/completions", {"model": "m", "prompt": [[5] * 300, [6] * 200], "stream": True}, 500),
    ],
)
def test_a_client_that_leaves_before_the_first_token(
    site: Site, secret: str, path: str, body: dict[str, Any], tokens: int
) -> None:
    slow = Slow()
    with served(slow.app) as behind, served(site.app) as address:
        site.app.state.model_server = ModelServer(base_address(behind))
        sent = json.dumps(body).encode()
        with begun(address, secret, path, len(sent)) as connection:
            connection.sendall(sent)
            assert slow.asked.wait(GENEROUS)
        assert slow.left.wait(GENEROUS / 2), "the model server writes for a client that has gone"
        row = last_row(site)
    assert (row["status"], row["prompt_tokens"]) == (499, tokens)


def test_a_client_that_leaves_within_its_request(site: Site, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    with served(site.app) as address:
        with begun(address, secret, "/v1/chat/completions", 1_000) as connection:
            connection.sendall(b"{")
            for _ in range(100):
                if rows(site):
                    break
                time.sleep(0.1)
        assert last_row(site)["status"] == 499
    assert "failed" not in caplog.text
