"""POST /v1/score: the reward model's opinion of responses; and rewards for best-of-n."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from heedful.conversation import Turn, turns_of
from heedful.model.readout import score
from heedful.model.template import prompt_tokens, response_tokens
from heedful.records import Prompt
from heedful.serve.api_errors import too_long
from heedful.serve.endless_texts import refuse_endless, refuse_many_messages
from heedful.serve.engine_thread import Job
from heedful.serve.generating import Written, all_written, best, envelope, usage, while_connected
from heedful.serve.messages import joined, turns_of_messages
from heedful.serve.request_bodies import GenerationBody, ScoreBody, read_body
from heedful.serve.served_models import ServedModel
from heedful.serve.serving_state import ServingState


async def score_responses(request: Request) -> Response:
    """The reward of each response to a conversation, or to a text."""
    state: ServingState = request.app.state.serving
    body = await read_body(request, ScoreBody)
    judge = state.model_for(request, body.model, scores=True)
    refuse_many_messages(judge, body.messages or [])
    turns = turns_of(body.prompt) if body.prompt is not None else turns_of_messages(body.messages or [])
    texts = [body.response] if isinstance(body.response, str) else body.response
    asked = "messages" if body.prompt is None else "prompt"
    await state.tokenize(lambda: refuse_endless(judge, [joined(turns)], asked))
    await state.tokenize(lambda: refuse_endless(judge, texts, "response"))
    before, _ = await state.tokenize(lambda: _tokens(judge, turns, [], []))
    rows = await state.tokenize_each(texts, lambda some: _tokens(judge, turns, some, [body.finished] * len(some))[1])
    for row in rows:
        if judge.window is not None and len(before) + len(row) > judge.window:
            raise too_long(judge.window, len(before), len(row), "response")
    rewards = await while_connected(request, _rewards(state, judge, before, rows))
    data = [{"index": i, "object": "score", "score": reward} for i, reward in enumerate(rewards)]
    return JSONResponse(
        {**envelope("list", "score", judge.name), "data": data, "usage": usage(len(before) + sum(map(len, rows)), 0)}
    )


async def best_written(
    state: ServingState, request: Request, body: GenerationBody, job: Job, conversations: Sequence[tuple[Turn, ...]]
) -> list[Written]:
    """The ``n`` best responses to each conversation, by the reward model if the request names one."""
    judge = (
        None if body.reward_model is None else state.model_for(request, body.reward_model, scores=True, param="reward_model")
    )
    written = await all_written(state, job)
    kept: list[Written] = []
    for number, turns in enumerate(conversations):
        group = written[number * body.count : (number + 1) * body.count]
        if judge is not None:
            await _reward_all(state, judge, turns, group)
        kept += best(group, body.n)
    return kept


async def _reward_all(state: ServingState, judge: ServedModel, turns: tuple[Turn, ...], written: Sequence[Written]) -> None:
    """Give each response its reward. One that the reward model's context window cuts is scored at its last token within it.

    Raises ApiError if the conversation alone fills the window.
    """
    texts, finished = [one.text for one in written], [one.ending == "stop" for one in written]
    before, rows = await state.tokenize(lambda: _tokens(judge, turns, texts, finished))
    if judge.window is not None:
        if len(before) >= judge.window:
            raise too_long(judge.window, len(before), 1, "reward_model")
        rows = [row[: judge.window - len(before)] for row in rows]
    for one, reward in zip(written, await _rewards(state, judge, before, rows), strict=True):
        one.reward = reward


async def _rewards(
    state: ServingState, judge: ServedModel, before: Sequence[int], rows: Sequence[Sequence[int]]
) -> list[float]:
    """One at a time: a reward does not depend on what is scored with it, and generation goes on in between."""
    return [float((await state.thread.compute(lambda row=row: score(judge.model, [before], [row])))[0]) for row in rows]


def _tokens(
    judge: ServedModel, turns: tuple[Turn, ...], texts: Sequence[str], finished: Sequence[bool]
) -> tuple[list[int], list[list[int]]]:
    """The conversation's and the responses' tokens, as in the reward model's training."""
    prompt = Prompt(id="messages", turns=turns)
    before = prompt_tokens(judge.tokenizer, [prompt], judge.template)[0]
    after = response_tokens(judge.tokenizer, [prompt] * len(texts), texts, judge.template)
    end = judge.response_end
    return before, [[*row, end] if done or not row else row for row, done in zip(after, finished, strict=True)]
