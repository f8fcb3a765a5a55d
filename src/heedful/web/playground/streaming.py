"""Stream an answer from the model server to the page as server-sent events, and store it when it ends.

Events: ``{"text": "…"}`` for each piece; then ``{"state": "finished", "finish_reason": "stop"}``, or ``{"state": "failed",
"message": "…"}``. No event names the model. If the page is closed or its stop button pressed, the text so far is kept. A
browser without JavaScript gets the page again when the answer is complete.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from heedful.conversation import messages_of
from heedful.errors import HeedfulError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.usage import conversations
from heedful.labeling.usage.conversations import Ask, State
from heedful.web.closing_stream import ClosingStream
from heedful.web.model_server import ModelServer, ModelServerError, events, piece_of, refusal_of
from heedful.web.playground.playground_pages import server_of
from heedful.web.routing import Id, Routes, Visit, Visiting
from heedful.web.security import log

EVENT_STREAM = "text/event-stream"
LONGEST_ANSWER = 400_000
"""In characters; a model that does not stop by itself is stopped there."""
TOO_LONG = "The text is too long for this model. Shorten it, or begin a new conversation."


def routes(add: Routes) -> None:
    """Answers."""
    add.post("/playground/answers/{answer_id}/stream", stream, who="user")


async def stream(visit: Visiting, request: Request, answer_id: Id) -> Response:
    """Let the model write a waiting answer."""
    conversation_id, writing = await begin_writing(visit, answer_id)
    if wants_events(request):
        return ClosingStream(as_events(writing), writing.keep)
    async for _ in writing.events():
        pass
    return visit.go(f"/playground/{conversation_id}#answer-{answer_id}")


async def begin_writing(visit: Visit, answer_id: int) -> tuple[int, Writing]:
    """Claim one's own answer; return its conversation, and the answer to be written.

    Raises MissingError if there is no model server or no such answer, ConflictError if the answer is not waiting.
    """
    server = server_of(visit)
    if server is None:
        raise MissingError("no model server is set", next_step="ask an admin")
    conversation_id, ask = await run_in_threadpool(_begun_answer, visit, answer_id)
    return conversation_id, Writing(server, visit.database, ask)


def wants_events(request: Request) -> bool:
    """Whether a request asks for the answer piece by piece instead of as a whole."""
    return EVENT_STREAM in request.headers.get("accept", "")


def _begun_answer(visit: Visit, answer_id: int) -> tuple[int, Ask]:
    with visit.database.write() as connection:
        ask = conversations.begin_answer(connection, answer_id, visit.person.id)
        view, *_ = conversations.turn_of_answer(connection, answer_id, visit.person.id)
    return view.id, ask


async def as_events(writing: Writing) -> AsyncGenerator[bytes, None]:
    """The events of an answer as server-sent events."""
    async with aclosing(writing.events()) as events_of:
        async for event in events_of:
            yield b"data: " + json.dumps(event).encode() + b"\n\n"


def request_body(ask: Ask) -> tuple[str, dict[str, Any]]:
    """Path and body of the request for an answer."""
    body: dict[str, Any] = {"model": ask.model, "stream": True, **ask.sampling}
    if ask.mode == "completion":
        return "/completions", body | {"prompt": ask.turns[-1].text}
    return "/chat/completions", body | {"messages": messages_of(ask.turns)}


@asynccontextmanager
async def _begun(server: ModelServer, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
    """The server's answer. A token limit that exceeds the model's context window is halved until it fits."""
    while True:
        async with server.post(path, body) as response:
            if response.status_code == 200:
                yield response
                return
            refusal = await refusal_of(response)
        most = body.get("max_tokens") or 0
        if not refusal.context_exceeded or most < 2:
            raise refusal
        body = body | {"max_tokens": most // 2}


class Writing:
    """An answer that a model writes. Its row records how it ended and keeps the text so far, however that was.

    An answer without any text counts as failed if its reader leaves, so that it can be asked for again.
    """

    def __init__(self, server: ModelServer, database: Database, ask: Ask) -> None:
        self._server, self._database, self._ask = server, database, ask
        self._pieces: list[str] = []
        self._state: State | None = None
        self._reason: str | None = None
        self._kept = False

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Reading the events makes the model write."""
        last: dict[str, Any] | None = None
        try:
            async with aclosing(self._texts()) as texts:
                async for text in texts:
                    self._pieces.append(text)
                    yield {"text": text}
            self._state = "finished"
            last = {"state": self._state, "finish_reason": self._reason}
        except ModelServerError as error:
            self._state = "failed"
            said = TOO_LONG if error.context_exceeded else "The model server could not answer. Try again, or tell an admin."
            last = {"state": self._state, "message": said}
            log.error("an answer failed: %s %s", error.message, error.got)
        except HeedfulError:
            self._state = "failed"
            raise
        finally:
            await self.keep()
        if last is not None:
            yield last

    async def keep(self) -> None:
        """Store the answer, once."""
        if self._kept:
            return
        self._kept = True
        state = self._state or ("stopped" if self._pieces else "failed")
        text = "".join(self._pieces)[:LONGEST_ANSWER]
        with CancelScope(shield=True):
            await run_in_threadpool(_keep, self._database, self._ask, text, state, self._reason)

    async def _texts(self) -> AsyncGenerator[str, None]:
        length = 0
        path, body = request_body(self._ask)
        async with _begun(self._server, path, body) as response:
            async for data in events(response):
                if data == "[DONE]":
                    return
                text, self._reason = _piece(data, self._reason)
                length += len(text)
                if text:
                    yield text
                if length > LONGEST_ANSWER:
                    self._reason = "length"
                    return
        if self._reason is None:
            raise ModelServerError("the model server broke off", got="an answer without an end")


def _piece(data: str, reason: str | None) -> tuple[str, str | None]:
    """The text of an event, and the reason if the answer ends with it."""
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise ModelServerError("the model server broke off", got=str(chunk["error"])[:200])
        choice = chunk["choices"][0] if chunk["choices"] else {}
        said = choice.get("finish_reason")
        return piece_of(choice), str(said)[:40] if said else reason
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ModelServerError("the model server's answer cannot be read", got="an event of another form") from None


def _keep(database: Database, ask: Ask, text: str, state: State, reason: str | None) -> None:
    with database.write() as connection:
        conversations.end_answer(connection, ask, text, state=state, finish_reason=reason)
