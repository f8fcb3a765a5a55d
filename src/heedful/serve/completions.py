"""POST /v1/completions: texts or token ids, continued."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.conversation import Turn, turns_of
from heedful.model.template import encode
from heedful.serve.api_errors import ApiError, too_long
from heedful.serve.choice import TokenLogprob
from heedful.serve.endless_texts import refuse_endless
from heedful.serve.engine_thread import Job
from heedful.serve.generating import (
    EventStream,
    Written,
    check_tokens,
    envelope,
    event,
    most_new_tokens,
    new_job,
    pieces_of,
    shown_logprob,
    usage,
    while_connected,
)
from heedful.serve.prompt_logprobs import prompt_logprobs, token_offsets
from heedful.serve.request_bodies import CompletionBody, read_body
from heedful.serve.score_routes import best_written
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import ServingState

_DEFAULT_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, and what ``echo`` puts in front of its responses: its text and its tokens' log-probs."""

    tokens: list[int]
    text: str
    logprobs: list[TokenLogprob]


async def complete(request: Request) -> Response:
    """Answer the request, whole or as a stream."""
    state: ServingState = request.app.state.serving
    body = await read_body(request, CompletionBody)
    served = state.model_for(request, body.model)
    rows = await _prompt_tokens(state, served, body)
    limits = [most_new_tokens(served, tokens, body.max_tokens, _DEFAULT_TOKENS, "prompt") for tokens in rows]
    prompts = await while_connected(request, _echoed(state, served, body, rows))
    if max(limits) == 0:
        return _prompts_alone(served, body, prompts)
    job = new_job(served, body, list(zip(rows, limits, strict=True)), likeliest=body.logprobs)
    if body.stream:
        state.thread.submit(job)
        return EventStream(_events(served, body, prompts, job), lambda: state.end(job))
    written = await while_connected(request, best_written(state, request, body, job, _judged(served, body, prompts)))
    choices = [
        _choice(served, body, prompts[i // body.n], i, one.text, one.logprobs, one.ending) | _reward(one)
        for i, one in enumerate(written)
    ]
    used = usage(sum(map(len, rows)), sum(choice.num_tokens for choice in job.choices))
    return JSONResponse({**envelope("text_completion", "cmpl", served.name), "choices": choices, "usage": used})


async def _prompt_tokens(state: ServingState, served: ServedModel, body: CompletionBody) -> list[list[int]]:
    if isinstance(body.prompt[0], str):
        await state.tokenize(lambda: refuse_endless(served, body.prompt, "prompt"))
        rows = await state.tokenize_each(body.prompt, lambda texts: encode(served.tokenizer, texts))
        # As OpenAI does: an empty prompt is the beginning of a document.
        begin = served.tokenizer.eos_token_id if served.tokenizer.bos_token_id is None else served.tokenizer.bos_token_id
        rows = [row or [cast(int, begin)] for row in rows]
    else:
        rows = body.prompt
        check_tokens(served, rows)
    for row in rows:
        if served.window is not None and len(row) > served.window:
            raise too_long(served.window, len(row), body.max_tokens or 0, "prompt")
    return rows


async def _echoed(state: ServingState, served: ServedModel, body: CompletionBody, rows: Sequence[list[int]]) -> list[_Prompt]:
    prompts: list[_Prompt] = []
    for given, tokens in zip(body.prompt, rows, strict=True):
        if not body.echo:
            prompts.append(_Prompt(tokens, given if isinstance(given, str) else "", []))
            continue
        text = given if isinstance(given, str) else served.token_text.text(tokens)
        logprobs: list[TokenLogprob] = []
        if body.logprobs is not None:
            work = partial(prompt_logprobs, served.model, served.token_text, tokens, body.logprobs)
            logprobs = await state.thread.compute(work)
        prompts.append(_Prompt(tokens, text, logprobs))
    return prompts


def _judged(served: ServedModel, body: CompletionBody, prompts: Sequence[_Prompt]) -> list[tuple[Turn, ...]]:
    """The prompts as conversations for the reward model; empty ones if the request names none."""
    if body.reward_model is None:
        return [()] * len(prompts)
    return [turns_of(prompt.text or served.token_text.text(prompt.tokens)) for prompt in prompts]


def _reward(one: Written) -> dict[str, Any]:
    return {} if one.reward is None else {"reward": one.reward}


def _prompts_alone(served: ServedModel, body: CompletionBody, prompts: Sequence[_Prompt]) -> Response:
    """``max_tokens`` 0: the prompts' own log-probs, for ``echo``."""
    choices = [
        _choice(served, body, prompt, number * body.n + i, "", [], "length")
        for number, prompt in enumerate(prompts)
        for i in range(body.n)
    ]
    used = usage(sum(len(prompt.tokens) for prompt in prompts), 0)
    start = envelope("text_completion", "cmpl", served.name)
    if not body.stream:
        return JSONResponse({**start, "choices": choices, "usage": used})
    events = [{**start, "choices": [choice]} for choice in choices]
    if body.includes_usage:
        events = [{**one, "usage": None} for one in events] + [{**start, "choices": [], "usage": used}]
    return Response(b"".join(map(event, events)) + b"data: [DONE]\n\n", media_type="text/event-stream")


async def _events(served: ServedModel, body: CompletionBody, prompts: Sequence[_Prompt], job: Job) -> AsyncIterator[bytes]:
    start = envelope("text_completion", "cmpl", served.name)
    more = {"usage": None} if body.includes_usage else {}
    before = [0] * len(job.choices)  # characters of each response that were sent
    if body.echo:
        for place in range(len(job.choices)):
            choice = _choice(served, body, prompts[place // body.n], place, "", [], None)
            before[place] = len(prompts[place // body.n].text)
            yield event({**start, "choices": [choice], **more})
    try:
        async for arrived in pieces_of(job):
            sent = bytearray()
            for place, piece in arrived:
                logprobs = None
                if body.logprobs is not None:
                    shift = len(prompts[place // body.n].text) if body.echo else 0
                    before[place] += len(piece.text)
                    logprobs = _logprobs(served, body.logprobs, piece.logprobs, shift, before[place])
                choice = {"index": place, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.ending}
                sent += event({**start, "choices": [choice], **more})
            yield bytes(sent)
    except ApiError as error:
        yield event(error.body)
        return
    if body.includes_usage:
        used = usage(sum(len(p.tokens) for p in prompts), sum(choice.num_tokens for choice in job.choices))
        yield event({**start, "choices": [], "usage": used})
    yield b"data: [DONE]\n\n"


def _choice(
    served: ServedModel,
    body: CompletionBody,
    prompt: _Prompt,
    index: int,
    text: str,
    logprobs: Sequence[TokenLogprob],
    ending: str | None,
) -> dict[str, Any]:
    """A choice of the answer; with ``echo`` the prompt's text and log-probs come first."""
    whole, shown = text, None
    if body.echo:
        whole = prompt.text + text
    if body.logprobs is not None:
        shown = _logprobs(served, body.logprobs, logprobs, len(prompt.text) if body.echo else 0, len(whole))
        if body.echo:
            own = _prompt_part(served, body.logprobs, prompt)
            shown = {name: own[name] + shown[name] for name in shown}
    return {"index": index, "text": whole, "logprobs": shown, "finish_reason": ending}


def _prompt_part(served: ServedModel, count: int, prompt: _Prompt) -> dict[str, list[Any]]:
    # SentencePiece puts a space in front of a text.
    lead = max(0, len(served.token_text.text(prompt.tokens)) - len(prompt.text))
    offsets = [max(0, offset - lead) for offset in token_offsets(served.token_text, prompt.tokens)]
    shown = _logprobs(served, count, prompt.logprobs, 0, len(prompt.text))
    return {**shown, "text_offset": offsets}


def _logprobs(
    served: ServedModel, count: int, entries: Sequence[TokenLogprob], shift: int, length: int
) -> dict[str, list[Any]]:
    """OpenAI's four lists, one entry for each token. shift: where the response begins in the text of ``length``."""
    names = served.token_text
    maps: list[dict[str, float] | None] = []
    for entry in entries:
        likeliest = {} if entry.logprob is None else {names.name(entry.token): shown_logprob(entry.logprob)}
        for token, value in entry.likeliest[:count]:
            likeliest.setdefault(names.name(token), shown_logprob(value))
        maps.append(likeliest if entry.logprob is not None else None)
    return {
        "tokens": [names.name(entry.token) for entry in entries],
        "token_logprobs": [None if entry.logprob is None else shown_logprob(entry.logprob) for entry in entries],
        "top_logprobs": maps,
        "text_offset": [min(shift + entry.offset, length) for entry in entries],
    }
