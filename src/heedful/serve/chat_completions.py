"""POST /v1/chat/completions: conversations, answered in the model's template."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.serve.api_errors import ApiError
from heedful.serve.choice import TokenLogprob
from heedful.serve.endless_texts import refuse_endless, refuse_many_messages
from heedful.serve.engine_thread import Job
from heedful.serve.generating import (
    EventStream,
    Written,
    envelope,
    event,
    most_new_tokens,
    new_job,
    pieces_of,
    shown_logprob,
    usage,
    while_connected,
)
from heedful.serve.messages import conversation_tokens, joined, turns_of_messages
from heedful.serve.request_bodies import ChatBody, read_body
from heedful.serve.score_routes import best_written
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import ServingState


async def chat(request: Request) -> Response:
    """Answer the request, whole or as a stream."""
    state: ServingState = request.app.state.serving
    body = await read_body(request, ChatBody)
    served = state.model_for(request, body.model)
    refuse_many_messages(served, body.messages)
    turns = turns_of_messages(body.messages)
    await state.tokenize(lambda: refuse_endless(served, [joined(turns)], "messages"))
    tokens = await state.tokenize(lambda: conversation_tokens(served, turns))
    wanted = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    limit = most_new_tokens(served, tokens, wanted, None, "messages")
    likeliest = (body.top_logprobs or 0) if body.logprobs else None
    # Under the template plain an answer follows "Assistant:", with a space that is not part of it.
    colon = served.template == "plain" and sum(turn.role != "system" for turn in turns) > 1
    job = new_job(served, body, [(tokens, limit)], likeliest=likeliest, drop_space=colon, frame=served.frame)
    if body.stream:
        state.thread.submit(job)
        return EventStream(_events(served, body, job, len(tokens)), lambda: state.end(job))
    written = await while_connected(request, best_written(state, request, body, job, [turns]))
    choices = [_choice(served, i, one) for i, one in enumerate(written)]
    used = usage(len(tokens), sum(choice.num_tokens for choice in job.choices))
    return JSONResponse({**envelope("chat.completion", "chatcmpl", served.name), "choices": choices, "usage": used})


def _choice(served: ServedModel, index: int, one: Written) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": index,
        "message": {"role": "assistant", "content": one.text, "refusal": None},
        "logprobs": _logprobs(served, one.logprobs),
        "finish_reason": one.ending,
    }
    return choice if one.reward is None else {**choice, "reward": one.reward}


def _logprobs(served: ServedModel, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not entries:
        return None
    content = [
        {
            **_token(served, entry.token, entry.logprob or 0.0),
            "top_logprobs": [_token(served, token, value) for token, value in entry.likeliest],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _token(served: ServedModel, token: int, logprob: float) -> dict[str, Any]:
    name = served.token_text.name(token)
    spelt = served.token_text.bytes_of(token) or name.encode()
    return {"token": name, "logprob": shown_logprob(logprob), "bytes": list(spelt)}


async def _events(served: ServedModel, body: ChatBody, job: Job, num_prompt_tokens: int) -> AsyncIterator[bytes]:
    start = envelope("chat.completion.chunk", "chatcmpl", served.name)
    more = {"usage": None} if body.includes_usage else {}

    def chunk(place: int, delta: dict[str, str], logprobs: dict[str, Any] | None, ending: str | None) -> bytes:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": ending}
        return event({**start, "choices": [choice], **more})

    for place in range(len(job.choices)):
        yield chunk(place, {"role": "assistant", "content": ""}, None, None)
    try:
        async for arrived in pieces_of(job):
            yield b"".join(
                chunk(place, {"content": piece.text} if piece.text else {}, _logprobs(served, piece.logprobs), piece.ending)
                for place, piece in arrived
            )
    except ApiError as error:
        yield event(error.body)
        return
    if body.includes_usage:
        used = usage(num_prompt_tokens, sum(choice.num_tokens for choice in job.choices))
        yield event({**start, "choices": [], "usage": used})
    yield b"data: [DONE]\n\n"
