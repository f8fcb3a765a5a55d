"""What completions and chat completions share: from a checked request to a job, and from its pieces to whole responses."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.serve.api_errors import invalid, too_late, too_long
from heedful.serve.choice import Choice, Ending, Piece, TokenLogprob
from heedful.serve.engine_thread import Job
from heedful.serve.request_bodies import GenerationBody
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import ServingState

_Result = TypeVar("_Result")
_NO_WINDOW = 4_096  # new tokens of a model without a context window, if the request sets no limit


@dataclass(slots=True)
class Written:
    """A whole response. reward: the reward model's, if it was asked."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ending: Ending | None = None
    num_tokens: int = 0
    mean_logprob: float = 0.0
    reward: float | None = None


def new_job(
    served: ServedModel,
    body: GenerationBody,
    prompts: Sequence[tuple[Sequence[int], int]],
    *,
    likeliest: int | None,
    drop_space: bool = False,
    frame: tuple[str, str] = ("", ""),
) -> Job:
    """The job of a request. prompts: tokens, and the most new tokens, at least 1. likeliest: how many log-probs at each place.

    A response's seed depends on the request's seed and its place among the responses to one prompt, so a prompt gets the same
    answers alone and among others.
    """
    bias = {int(token): value for token, value in body.logit_bias.items()}
    if unknown := [token for token in bias if token >= served.num_tokens]:
        raise invalid(f"logit_bias: the model knows token ids below {served.num_tokens}, got {unknown[0]}", "logit_bias")
    samplings = {  # one object for many prompts: the engine looks at each object once
        most: Sampling(
            max_tokens=most,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            logit_bias=bias,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            top_logprobs=likeliest or 0,
            stop_tokens=served.ends,
        )
        for most in {most for _, most in prompts}
    }
    asked: list[tuple[Sequence[int], Sampling, Sequence[int]]] = []
    for tokens, most in prompts:
        seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
        asked.append((tokens, samplings[most], request_seeds(seed, stream="serve", count=body.count)))
    keep = likeliest is not None
    choices = [
        Choice(served.token_text, body.stop_strings, keep_logprobs=keep, drop_space=drop_space, frame=frame)
        for _ in range(len(prompts) * body.count)
    ]
    return Job(model=served.name, prompts=asked, choices=choices)


def most_new_tokens(served: ServedModel, prompt: Sequence[int], wanted: int | None, default: int | None, param: str) -> int:
    """How many tokens a response may have: as the client wishes, else ``default``, or what the context window leaves.

    Raises ApiError if the wish, or the prompt by itself, does not fit.
    """
    window = served.window
    if window is None:
        return wanted if wanted is not None else default or _NO_WINDOW
    room = window - len(prompt)
    if wanted is None:
        if room < 1:
            raise too_long(window, len(prompt), 1, param)
        return room if default is None else min(default, room)
    if wanted > room:
        raise too_long(window, len(prompt), wanted, param)
    return wanted


def check_tokens(served: ServedModel, prompts: Sequence[Sequence[int]], param: str = "prompt") -> None:
    """Refuse token ids that the model does not know. Raises ApiError."""
    for prompt in prompts:
        for token in prompt:
            if not 0 <= token < served.num_tokens:
                raise invalid(f"{param}: the model knows token ids from 0 to {served.num_tokens - 1}, got {token}", param)


async def all_written(state: ServingState, job: Job) -> list[Written]:
    """Submit a job and wait for all its responses. Raises ApiError."""
    state.thread.submit(job)
    written = [Written() for _ in job.choices]
    try:
        async for arrived in pieces_of(job):
            for place, piece in arrived:
                one = written[place]
                one.text += piece.text
                one.logprobs += piece.logprobs
                one.ending = piece.ending
    finally:
        state.end(job)
    for one, choice in zip(written, job.choices, strict=True):
        one.num_tokens = choice.num_tokens
        one.mean_logprob = choice.sum_logprobs / choice.num_tokens
    return written


def best(written: Sequence[Written], n: int) -> list[Written]:
    """The ``n`` best responses to one prompt: by reward if there is one, else by mean log-prob of a token, as OpenAI does.

    If only ``n`` were written: all of them, in the order in which they were asked for.
    """
    if n == len(written) and written[0].reward is None:
        return list(written)
    return sorted(written, key=lambda one: one.mean_logprob if one.reward is None else one.reward, reverse=True)[:n]


async def while_connected(request: Request, work: Awaitable[_Result]) -> _Result:
    """Do the work, or end it as soon as the client is gone or the request's time is over. Raises ClientDisconnect, ApiError."""
    state: ServingState = request.app.state.serving
    left = request.scope["state"]["started"] + state.limits.seconds - time.monotonic()
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientDisconnect
        raise too_late(state.limits.seconds)
    finally:
        leaving.cancel()
        if working.cancel():
            await asyncio.wait({working})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events. ``end`` is called when the stream is over or the client is gone, also before the first event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def pieces_of(job: Job) -> AsyncIterator[list[tuple[int, Piece]]]:
    """All pieces of a job, until its responses are complete. Raises ApiError."""
    unfinished = len(job.choices)
    while unfinished:
        arrived = await job.pieces()
        unfinished -= sum(piece.ending is not None for _, piece in arrived)
        yield arrived


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """The tokens that a request used."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new_tokens, "total_tokens": prompt_tokens + new_tokens}


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The fields with which responses and chunks begin."""
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def shown_logprob(value: float) -> float:
    """JSON has no -inf: OpenAI writes -9999."""
    return max(value, -9999.0)


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event, in ASCII: clients that split a stream at every line end of Unicode would cut a text in two."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
