"""A small OpenAI-compatible server for tests: what a model says is decided by its name and what it is asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from heedful.web.model_server import ModelServer

HOSTILE = "</div><script>document.title = 'broken'</script><img src=x onerror=alert(1)> [x](javascript:alert(1)) & {{ 7 * 7 }}"
ANSWERS = {
    "acme/alpha-7b": "Rivers flow to the sea.",
    "acme/beta-2": "A river is a stream of water.",
    "hostile": HOSTILE,
    "boastful-1": "I am Boastful, and rivers are wet.",
    "silent": "",
}
NAMES = [*ANSWERS, "broken", "endless", "breaks-off", "refuses"]


class FakeModels:
    """The server: ``asked`` holds the bodies of all requests, ``gone`` counts clients that left in mid-stream."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.gone = 0
        self.window = 100_000
        """Tokens of the prompt (10 of them, whatever it says) and of the answer."""
        self.left = threading.Event()
        self.started = threading.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.answer, methods=["POST"]),
                Route("/v1/completions", self.answer, methods=["POST"]),
            ]
        )

    def in_process(self) -> ModelServer:
        """The server without a network; streams arrive whole."""
        return ModelServer("http://models/v1", transport=httpx.ASGITransport(app=self.app))

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in NAMES]})

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        chat = request.url.path.endswith("chat/completions")
        model = body["model"]
        if model == "broken":
            return Response("Traceback: a secret", status_code=500)
        if not isinstance(body.get("max_tokens", 1), int):  # as any server of this API refuses it
            error = {
                "message": "max_tokens is no integer",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": None,
            }
            return JSONResponse({"error": error}, status_code=400)
        if 10 + body.get("max_tokens", 1) > self.window:
            said = f"This model's maximum context length is {self.window} tokens."
            return JSONResponse({"error": {"message": said, "code": "context_length_exceeded"}}, status_code=400)
        if model == "refuses" or model not in NAMES:
            error = {
                "message": f"no model {model}",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
            return JSONResponse({"error": error}, status_code=404)
        if body.get("stream"):
            return StreamingResponse(self.stream(body, chat), media_type="text/event-stream")
        if model == "endless":
            self.started.set()
            try:
                await asyncio.wait_for(request.receive(), timeout=60)  # until the client leaves
            finally:
                self.left.set()
        text = ANSWERS.get(model, "")
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 3, "completion_tokens": len(text.split()), "total_tokens": 3 + len(text.split())}
        return JSONResponse({"id": "1", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage})

    async def stream(self, body: dict[str, Any], chat: bool) -> AsyncIterator[bytes]:
        model = body["model"]
        done = False
        try:
            words = ANSWERS.get(model, "Rivers").split(" ")
            number = 0
            while True:
                pieces = words if model != "endless" else ["word"]
                for word in pieces:
                    text = word if number == 0 else f" {word}"
                    number += 1
                    yield self.event({"choices": [self.choice(text, chat, None)]}, model)
                if model == "breaks-off":
                    yield self.event({"error": {"message": "out of memory", "type": "server_error"}}, model)
                    done = True
                    return
                if model != "endless":
                    break
                self.started.set()
                await asyncio.sleep(0.02)
            yield self.event({"choices": [self.choice("", chat, "stop")]}, model)
            if (body.get("stream_options") or {}).get("include_usage"):
                yield self.event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": number}}, model)
            yield b"data: [DONE]\n\n"
            done = True
        finally:
            if not done:
                self.gone += 1
                self.left.set()

    @staticmethod
    def choice(text: str, chat: bool, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
        return {"index": 0, "finish_reason": reason, **said}

    @staticmethod
    def event(chunk: dict[str, Any], model: str) -> bytes:
        return b"data: " + json.dumps({"id": "1", "object": "chunk", "model": model, **chunk}).encode() + b"\n\n"
