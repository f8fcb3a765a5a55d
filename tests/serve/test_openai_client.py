"""OpenAI's own client, sync and async: completions and chat, streamed and whole; every answer as OpenAI's types want it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.serve.small_models import CONTEXT, HTTP, models, tokenizer

from heedful.model.readout import score
from heedful.model.template import encode
from heedful.web.model_server import ModelServer

HELLO: list[Any] = [{"role": "user", "content": "Name three rivers."}]


def strictly(kind: type[Any], value: dict[str, Any]) -> Any:
    """The value as OpenAI's type. What OpenAI itself sends as null against its schema is taken out first."""
    value = json.loads(json.dumps(value))
    for choice in value.get("choices", []):
        if choice.get("finish_reason") is None and kind is Completion:  # every chunk but the last
            choice["finish_reason"] = "stop"
        logprobs = choice.get("logprobs") or {}
        for name in ("token_logprobs", "top_logprobs"):  # the first token of an echoed prompt
            if logprobs.get(name) and logprobs[name][0] is None:
                logprobs[name] = logprobs[name][1:]
    return kind.model_validate(value, strict=True, extra="forbid" if kind is not Model else None)


def events_of(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, which must end with [DONE]."""
    answer = HTTP.post(f"{url}{path}", json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "The cat", "max_tokens": 12, "seed": 1},
    {"prompt": "The cat", "max_tokens": 12, "seed": 1, "logprobs": 3, "echo": True},
    {"prompt": ["The cat", "猫"], "max_tokens": 8, "seed": 2, "n": 3, "logprobs": 0},
    {"prompt": [5, 6, 7], "max_tokens": 30, "temperature": 0},
    {"prompt": [[5, 6, 7], [9]], "max_tokens": 9, "seed": 3, "temperature": 1.3, "top_p": 0.9, "stop": [" ", "e"]},
    {"prompt": "🙂", "max_tokens": 60, "seed": 4, "presence_penalty": 1.5, "frequency_penalty": 0.7},
    {"prompt": "a", "max_tokens": 5, "seed": -7, "logit_bias": {"70": 100}},
    {"prompt": "a", "seed": 8},
    {"prompt": "The cat", "max_tokens": 0, "echo": True, "logprobs": 2},
    {"prompt": "", "max_tokens": 4, "seed": 1},
]


@pytest.mark.parametrize("body", COMPLETIONS, ids=lambda body: json.dumps(body)[:60])
def test_a_streamed_completion_is_the_whole_one(server_url: str, body: dict[str, Any]) -> None:
    body = {"model": "plain", **body}
    whole = HTTP.post(f"{server_url}/v1/completions", json=body).json()
    strictly(Completion, whole)
    chunks = events_of(server_url, "/v1/completions", body)
    for chunk in chunks:
        strictly(Completion, chunk)
    for choice in whole["choices"]:
        mine = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert [part["finish_reason"] for part in mine if part["finish_reason"]] == [choice["finish_reason"]]
        assert mine[-1]["finish_reason"]
        if body.get("logprobs") is None:
            assert choice["logprobs"] is None
            continue
        for name, values in choice["logprobs"].items():
            assert [value for part in mine for value in part["logprobs"][name]] == values
    num_prompts = len(body["prompt"]) if isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int) else 1
    assert [choice["index"] for choice in whole["choices"]] == list(range(num_prompts * body.get("n", 1)))


def test_a_stream_is_ascii(server_url: str) -> None:
    said = "one\u2028two\x85three 猫 🙂"
    body = {"model": "plain", "prompt": said, "max_tokens": 1, "echo": True, "stream": True}
    answer = HTTP.post(f"{server_url}/v1/completions", json=body)
    assert answer.content.isascii()  # clients that end a line at U+2028 still read each event whole
    events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: {")]
    assert events[0]["choices"][0]["text"] == said


CHATS: list[dict[str, Any]] = [
    {"messages": HELLO, "max_tokens": 20, "seed": 1},
    {"messages": HELLO, "max_completion_tokens": 20, "seed": 1, "logprobs": True, "top_logprobs": 4, "n": 2},
    {"messages": HELLO, "max_tokens": 6, "seed": 1, "logprobs": True},
    {"messages": [{"role": "developer", "content": "Be short."}, *HELLO], "seed": 5, "temperature": 0.2, "max_tokens": 9},
    {"messages": [*HELLO, {"role": "assistant", "content": "The Nile."}, HELLO[0]], "seed": 5, "stop": "e", "max_tokens": 30},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "seed": 1},
]


@pytest.mark.parametrize("model", ["chat", "plain"])
@pytest.mark.parametrize("body", CHATS, ids=lambda body: json.dumps(body)[-60:])
def test_a_streamed_chat_is_the_whole_one(server_url: str, model: str, body: dict[str, Any]) -> None:
    body = {"model": model, **body}
    whole = HTTP.post(f"{server_url}/v1/chat/completions", json=body).json()
    strictly(ChatCompletion, whole)
    chunks = events_of(server_url, "/v1/chat/completions", body)
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
    for choice in whole["choices"]:
        mine = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in mine) == choice["message"]["content"]
        assert [part["finish_reason"] for part in mine if part["finish_reason"]] == [choice["finish_reason"]]
        if body.get("logprobs"):
            streamed = [one for part in mine for one in (part["logprobs"] or {"content": []})["content"]]
            assert streamed == choice["logprobs"]["content"]
            assert all(len(one["top_logprobs"]) == body.get("top_logprobs", 0) for one in streamed)


@pytest.mark.parametrize(
    ("path", "prompt"), [("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": HELLO})]
)
def test_usage_comes_when_it_is_asked_for(server_url: str, path: str, prompt: dict[str, Any]) -> None:
    body = {"model": "plain", "max_tokens": 5, "seed": 1, **prompt}
    whole = HTTP.post(f"{server_url}{path}", json=body).json()["usage"]
    *chunks, last = events_of(server_url, path, {**body, "stream_options": {"include_usage": True}})
    assert (last["choices"], last["usage"]) == ([], whole)
    assert all(chunk["usage"] is None for chunk in chunks)
    for options in ({"stream_options": {}}, {"stream_options": {"include_usage": False}}, {}):
        events = events_of(server_url, path, {**body, **options})
        assert all(event["choices"] for event in events)
        assert not any("usage" in event for event in events)
    refused = HTTP.post(f"{server_url}{path}", json={**body, "stream_options": {"include_usage": True}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_options")


def test_the_client_reads_completions(client: OpenAI) -> None:
    whole = client.completions.create(model="plain", prompt="The cat", max_tokens=10, seed=1, logprobs=2)
    with client.completions.create(model="plain", prompt="The cat", max_tokens=10, seed=1, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(tokenizer()("The cat")["input_ids"])
    assert whole.usage.completion_tokens == 10 or whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.tokens or []) == whole.usage.completion_tokens


def test_the_async_client_reads_many_chats_at_once(server_url: str) -> None:
    async def all_of_them() -> list[tuple[str, str]]:
        async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120) as client:

            async def one(seed: int) -> tuple[str, str]:
                asked: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 12, "seed": seed}
                whole = await client.chat.completions.create(**asked)
                streamed = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
                return whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in streamed)

            return await asyncio.gather(*map(one, range(20)))

    pairs = asyncio.run(all_of_them())
    assert all(whole == streamed for whole, streamed in pairs)
    assert len({whole for whole, _ in pairs}) > 10


def test_models_are_listed(client: OpenAI, server_url: str) -> None:
    assert [model.id for model in client.models.list()] == ["plain", "chat", "reward"]
    strictly(Model, HTTP.get(f"{server_url}/v1/models/chat").json())
    assert client.models.retrieve("chat").id == "chat"


def test_the_application_lists_the_models_that_people_can_talk_to(server_url: str) -> None:
    assert asyncio.run(ModelServer(f"{server_url}/v1").models()) == ["plain", "chat"]


def test_the_best_of_several_is_the_likeliest(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "plain", "prompt": "The cat", "max_tokens": 6, "seed": 3, "logprobs": 0}
    everything = client.completions.create(**asked, n=8)
    means = {}
    for choice in everything.choices:
        values = choice.logprobs.token_logprobs
        means[choice.text] = sum(values) / len(values)
    best = client.completions.create(**asked, n=2, best_of=8)
    assert [choice.text for choice in best.choices] == sorted(means, key=lambda text: -means[text])[:2]
    assert best.usage == everything.usage


def test_the_best_of_several_by_reward(client: OpenAI, server_url: str) -> None:
    """The rewards are those that /v1/score gives."""
    asked: dict[str, Any] = {"model": "plain", "messages": HELLO, "max_tokens": 6, "seed": 3}
    everything = client.chat.completions.create(**asked, n=6)
    scored: dict[str, float] = {}
    for choice in everything.choices:
        text = choice.message.content or ""
        body = {"model": "reward", "messages": HELLO, "response": text, "finished": choice.finish_reason == "stop"}
        answer = HTTP.post(f"{server_url}/v1/score", json=body)
        assert answer.status_code == 200, answer.text
        scored[text] = answer.json()["data"][0]["score"]
    best = HTTP.post(
        f"{server_url}/v1/chat/completions", json={**asked, "n": 3, "best_of": 6, "reward_model": "reward"}, timeout=60
    ).json()
    wanted = sorted(scored, key=lambda text: -scored[text])[:3]
    assert [choice["message"]["content"] for choice in best["choices"]] == wanted
    assert [choice["reward"] for choice in best["choices"]] == pytest.approx([scored[text] for text in wanted], abs=1e-5)
    text = HTTP.post(
        f"{server_url}/v1/completions",
        json={"model": "plain", "prompt": "The cat", "max_tokens": 5, "seed": 1, "best_of": 4, "reward_model": "reward"},
    ).json()
    assert isinstance(text["choices"][0]["reward"], float)


def test_a_response_longer_than_the_reward_models_window_is_scored_within_it(server_url: str) -> None:
    """Random bytes are more tokens when their text is read again."""
    body = {"model": "chat", "messages": HELLO, "seed": 1, "logit_bias": {"0": -100}, "best_of": 2, "reward_model": "reward"}
    answer = HTTP.post(f"{server_url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["message"]["content"]
    tokens = encode(tokenizer(), ["Name three rivers.\n" + text])[0]
    assert len(tokens) > CONTEXT
    expected = score(models()["reward"].model, [tokens[:5]], [tokens[5:CONTEXT]])
    assert answer.json()["choices"][0]["reward"] == pytest.approx(float(expected[0]), abs=1e-4)
    refused = HTTP.post(f"{server_url}/v1/score", json={"model": "reward", "messages": HELLO, "response": text}).json()
    assert (refused["error"]["code"], refused["error"]["param"]) == ("context_length_exceeded", "response")


def test_several_responses_are_scored_in_one_request(server_url: str) -> None:
    body = {"model": "reward", "prompt": "Name a river.\n", "response": ["The Nile.", "No.", "The Nile."]}
    answer = HTTP.post(f"{server_url}/v1/score", json=body).json()
    scores = [one["score"] for one in answer["data"]]
    assert scores[0] == scores[2] != scores[1]


def test_a_seed_gives_the_same_text_again_and_without_one_it_differs(client: OpenAI) -> None:
    def text(**more: Any) -> str:
        return client.completions.create(model="plain", prompt="The cat", max_tokens=20, **more).choices[0].text

    assert text(seed=5) == text(seed=5) != text(seed=6)
    assert len({text() for _ in range(5)}) > 1
    twice = client.completions.create(model="plain", prompt=["a", "a"], max_tokens=20)
    assert twice.choices[0].text != twice.choices[1].text


def test_without_a_limit_a_chat_may_fill_the_context(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=HELLO, seed=1, logit_bias={"0": -100})
    assert answer.usage is not None
    assert answer.choices[0].finish_reason == "stop" or answer.usage.total_tokens == CONTEXT


def test_the_context_is_said_to_be_too_long(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model="plain", prompt=[5] * (CONTEXT - 3), max_tokens=4)
    assert caught.value.code == "context_length_exceeded"
    assert client.completions.create(model="plain", prompt=[5] * (CONTEXT - 4), max_tokens=4, logit_bias={"0": -100}).usage
