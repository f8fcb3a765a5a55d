"""What clients are told when something is wrong: the client's own exception classes, and OpenAI's four keys."""

from __future__ import annotations

import random
import threading
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.serve.small_models import CONTEXT, HTTP, served

from heedful.serve import engine_thread
from heedful.serve.access_keys import AccessKey, digest_of
from heedful.serve.request_bodies import MOST_BODY_BYTES, UNSUPPORTED
from heedful.serve.serving_state import Limits

KEY, NARROW = "a-key-of-many-characters", "another-key-for-one-model"
COMPLETION: dict[str, Any] = {"model": "plain", "prompt": "The cat", "max_tokens": 3}
CHAT: dict[str, Any] = {"model": "plain", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's form."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert isinstance(body["error"]["type"], str)
    return body["error"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": None}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, "prompt"),
    ("/v1/completions", {"prompt": ["a", 3]}, "prompt"),
    ("/v1/completions", {"prompt": [1.5]}, "prompt"),
    ("/v1/completions", {"prompt": [True, False]}, "prompt"),
    ("/v1/completions", {"prompt": [5, 10**6]}, "prompt"),
    ("/v1/completions", {"prompt": [-1]}, "prompt"),
    ("/v1/completions", {"prompt": ["a"] * 100, "n": 100}, "prompt"),
    ("/v1/completions", {"max_tokens": "3"}, "max_tokens"),
    ("/v1/completions", {"max_tokens": -1}, "max_tokens"),
    ("/v1/completions", {"max_tokens": True}, "max_tokens"),
    ("/v1/completions", {"temperature": 2.1}, "temperature"),
    ("/v1/completions", {"temperature": "hot"}, "temperature"),
    ("/v1/completions", {"top_p": 0}, "top_p"),
    ("/v1/completions", {"top_k": 0}, "top_k"),
    ("/v1/completions", {"n": 0}, "n"),
    ("/v1/completions", {"n": 129}, "n"),
    ("/v1/completions", {"n": 3, "best_of": 2}, "best_of"),
    ("/v1/completions", {"n": 1, "best_of": 2, "stream": True}, "best_of"),
    ("/v1/completions", {"logprobs": 21}, "logprobs"),
    ("/v1/completions", {"logprobs": True}, "logprobs"),
    ("/v1/completions", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("/v1/completions", {"stop": ""}, "stop"),
    ("/v1/completions", {"stop": [3]}, "stop"),
    ("/v1/completions", {"logit_bias": {"cat": 1}}, "logit_bias"),
    ("/v1/completions", {"logit_bias": {"5": 101}}, "logit_bias"),
    ("/v1/completions", {"logit_bias": {"1000000": 1}}, "logit_bias"),
    ("/v1/completions", {"logit_bias": [5]}, "logit_bias"),
    ("/v1/completions", {"logit_bias": {"5": 1, "05": -1}}, "logit_bias"),
    ("/v1/completions", {"max_tokens": 0, "reward_model": "reward"}, "max_tokens"),
    ("/v1/completions", {"max_tokens": 2**31}, "max_tokens"),
    ("/v1/completions", {"seed": 1.5}, "seed"),
    ("/v1/completions", {"seed": 2**64}, "seed"),
    ("/v1/completions", {"presence_penalty": 3}, "presence_penalty"),
    ("/v1/completions", {"stream": "yes"}, "stream"),
    ("/v1/completions", {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ("/v1/completions", {"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
    ("/v1/completions", {"suffix": "end"}, "suffix"),
    ("/v1/completions", {"messages": []}, "messages"),
    ("/v1/completions", {"reward_model": "plain"}, "reward_model"),
    ("/v1/completions", {"model": "reward"}, "model"),
    ("/v1/completions", {"model": 3}, "model"),
    ("/v1/completions", {"model": None}, "model"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": "Hello"}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ("/v1/chat/completions", {"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": " "}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0.name"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]},
        "messages.0.content",
    ),
    ("/v1/chat/completions", {"messages": [*CHAT["messages"], {"role": "assistant", "content": "x"}]}, "messages"),
    ("/v1/chat/completions", {"top_logprobs": 3}, "top_logprobs"),
    ("/v1/chat/completions", {"logprobs": 3}, "logprobs"),
    ("/v1/chat/completions", {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ("/v1/chat/completions", {"max_tokens": CONTEXT}, "messages"),
    ("/v1/chat/completions", {"tools": []}, "tools"),
    ("/v1/chat/completions", {"prompt": "x"}, "prompt"),
    ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("path", "change", "param"), BAD, ids=lambda part: str(part)[:50])
def test_a_wrong_field_is_named(server_url: str, path: str, change: dict[str, Any], param: str) -> None:
    body = {**(CHAT if "chat" in path else COMPLETION), **change}
    assert error_of(HTTP.post(f"{server_url}{path}", json=body), 400)["param"] == param


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_field_that_is_not_supported_is_refused_unless_it_is_null(server_url: str, name: str) -> None:
    error = error_of(HTTP.post(f"{server_url}/v1/chat/completions", json={**CHAT, name: "x"}), 400)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert HTTP.post(f"{server_url}/v1/chat/completions", json={**CHAT, name: None}).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(server_url: str, content: bytes) -> None:
    answer = HTTP.post(f"{server_url}/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert error_of(answer, 400)["code"] == "invalid_json"


def test_without_keys_the_server_answers_to_its_own_names_only(server_url: str) -> None:
    """A page of another site, whose name leads to 127.0.0.1, would otherwise read what the models say."""
    for host in ("evil.example", "192.168.0.5:8001", "", "localhost.evil.example", "[::1", "[evil]", "127.0.0.1@evil.example"):
        error = error_of(HTTP.get(f"{server_url}/v1/models", headers={"Host": host}), 403)
        assert error["code"] == "host_not_allowed"
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8001"):
        assert HTTP.get(f"{server_url}/v1/models", headers={"Host": host}).status_code == 200


def test_other_content_types_and_sizes_are_refused(server_url: str) -> None:
    error_of(HTTP.post(f"{server_url}/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    large = b'{"model": "' + b"x" * MOST_BODY_BYTES + b'"}'
    answer = HTTP.post(f"{server_url}/v1/completions", content=large, headers={"Content-Type": "application/json"})
    assert error_of(answer, 413)["code"] == "request_too_large"


def test_unknown_addresses_and_methods(server_url: str) -> None:
    assert error_of(HTTP.get(f"{server_url}/v1/engines"), 404)["code"] == "unknown_url"
    assert error_of(HTTP.get(f"{server_url}/v1/completions"), 405)["code"] == "method_not_allowed"
    counted = [line for line in HTTP.get(f"{server_url}/metrics").text.splitlines() if 'route="unknown"' in line]
    assert {line.partition('status="')[2][:3] for line in counted if "_total" in line} >= {"404", "405"}


def test_the_client_raises_its_own_classes(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-5", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="plain", prompt="x", extra_body={"sufix": "y"})
    assert (wrong.value.param, wrong.value.type) == ("sufix", "invalid_request_error")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="plain", prompt="x", stream=True, logprobs=30)


def test_every_route_wants_the_key() -> None:
    keys = [AccessKey(digest_of(KEY)), AccessKey(digest_of(NARROW), frozenset({"chat"}))]
    with served(keys=keys) as (url, server):
        routes = [(route.path, method) for route in server.config.app.routes for method in route.methods]  # type: ignore
        assert {path for path, _ in routes} >= {"/v1/completions", "/metrics", "/health", "/tokenize"}
        for path, method in [*routes, ("/nowhere", "GET")]:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer"}):
                answer = HTTP.request(method, f"{url}{path}", headers=headers)
                assert answer.status_code == 401, (path, method)
        right = {"Authorization": f"Bearer {KEY}"}
        assert HTTP.get(f"{url}/health", headers=right).status_code == 200
        assert HTTP.post(f"{url}/v1/completions", json=COMPLETION, headers=right).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        narrow = OpenAI(base_url=f"{url}/v1", api_key=NARROW, max_retries=0)
        assert [model.id for model in narrow.models.list()] == ["chat"]
        with pytest.raises(openai.PermissionDeniedError) as refused:
            narrow.completions.create(model="plain", prompt="x")
        assert refused.value.code == "model_not_allowed"
        error_of(HTTP.get(f"{url}/v1/models/plain", headers={"Authorization": f"Bearer {NARROW}"}), 403)
        error_of(HTTP.get(f"{url}/tokenizer_info?model=plain", headers={"Authorization": f"Bearer {NARROW}"}), 403)


class Held:
    """The engine's steps wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go, self.begun = threading.Event(), threading.Event()
        step = engine_thread.EngineThread._step

        def held(thread: engine_thread.EngineThread, name: str) -> None:
            self.begun.set()
            assert self.let_go.wait(60)
            step(thread, name)

        monkeypatch.setattr(engine_thread.EngineThread, "_step", held)


def test_too_many_waiting_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with served(Limits(slots=1, waiting=3), names=["plain"]) as (url, _):
        answers: list[int] = []

        def ask() -> None:
            answers.append(HTTP.post(f"{url}/v1/completions", json={**COMPLETION, "n": 3}).status_code)

        first = threading.Thread(target=ask)
        first.start()
        assert held.begun.wait(60)
        answer = HTTP.post(f"{url}/v1/completions", json=COMPLETION)
        assert error_of(answer, 429)["code"] == "server_busy"
        assert 1 <= int(answer.headers["Retry-After"]) <= 120
        with pytest.raises(openai.RateLimitError):
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).completions.create(model="plain", prompt="x")
        held.let_go.set()
        first.join(60)
        assert answers == [200]
        assert HTTP.post(f"{url}/v1/completions", json=COMPLETION).status_code == 200


def test_a_request_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Limits(seconds=0), names=["plain"]) as (url, server):
        answer = HTTP.post(f"{url}/v1/completions", json=COMPLETION)
        assert error_of(answer, 504)["code"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        stream = HTTP.post(f"{url}/v1/completions", json={**COMPLETION, "stream": True})
        assert "deadline_exceeded" in stream.text
        assert "[DONE]" not in stream.text
        with pytest.raises(openai.APIError, match="not finished within"):
            list(OpenAI(base_url=f"{url}/v1", api_key="none").completions.create(model="plain", prompt="x", stream=True))
        assert server._state.thread.num_unfinished("plain") == 0


def test_a_step_that_fails_ends_its_requests_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(names=["plain"]) as (url, _):
        step = engine_thread.Engine.step
        monkeypatch.setattr(engine_thread.Engine, "step", lambda _: 1 / 0)
        assert error_of(HTTP.post(f"{url}/v1/completions", json=COMPLETION, timeout=60), 500)["code"] == "internal_error"
        monkeypatch.setattr(engine_thread.Engine, "step", step)
        assert HTTP.post(f"{url}/v1/completions", json=COMPLETION).status_code == 200


def test_an_answer_that_cannot_be_put_together_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the engines must live: without it every later request would wait for ever."""
    with served(names=["plain"]) as (url, _):
        add = engine_thread.Choice.add
        monkeypatch.setattr(engine_thread.Choice, "add", lambda *_, **__: 1 / 0)
        assert error_of(HTTP.post(f"{url}/v1/completions", json=COMPLETION, timeout=60), 500)["code"] == "internal_error"
        monkeypatch.setattr(engine_thread.Choice, "add", add)
        assert HTTP.post(f"{url}/v1/completions", json=COMPLETION, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"model": "reward", "prompt": "a", "response": ["b"] * 500}),
        ("/v1/completions", {"model": "plain", "prompt": ["a b"] * 500, "echo": True, "logprobs": 1, "max_tokens": 0}),
    ],
)
def test_what_is_computed_between_steps_has_a_deadline_too(path: str, body: dict[str, Any]) -> None:
    with served(Limits(seconds=0.05), names=["plain", "reward"]) as (url, server):
        answer = HTTP.post(f"{url}{path}", json=body)
        assert error_of(answer, 504)["code"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        assert server._state.thread._num_computing == 0


@pytest.mark.parametrize("count", [150, pytest.param(1_000, marks=pytest.mark.long)])
def test_mixed_requests_get_an_answer_each(server_url: str, count: int) -> None:
    """Good and bad ones in any order: no status of a server's failure."""
    rng = random.Random(0)
    statuses: list[int] = []
    with httpx.Client(timeout=120) as http:
        for _ in range(count):
            path, change, _ = rng.choice(BAD)
            good = rng.random() < 0.4
            body = {**(CHAT if "chat" in path else COMPLETION), **({} if good else change), "stream": rng.random() < 0.5}
            statuses.append(http.post(f"{server_url}{path}", json=body).status_code)
    assert set(statuses) <= {200, 400, 404}
    assert statuses.count(200) > 30
