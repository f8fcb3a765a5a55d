"""The server against inputs of every form: nothing is answered with 5xx, and no route without its key."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import httpx
import pytest
from schemathesis import openapi
from tests.every_input import send, try_every_operation
from tests.openai_description import BODIES, description
from tests.serve.small_models import HTTP, served

from heedful.serve.access_keys import AccessKey, digest_of

KEY = "a key of the test, long enough"


@pytest.mark.parametrize("examples", [6, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def test_no_input_makes_it_fail(server_url: str, examples: int) -> None:
    schema = openapi.from_dict(description(["plain", "chat"], list(BODIES), reward="reward"))
    statuses: Counter[int] = Counter()

    def check(case: Any) -> None:
        if isinstance(case.body, dict) and case.path == "/v1/chat/completions":
            case.body.setdefault("max_tokens", 3)  # else as many as the context window holds
        answer = send(HTTP, case, server_url)
        statuses[answer.status_code] += 1
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    try_every_operation(schema, examples, check)
    assert statuses[200] >= examples // 3, statuses
    assert statuses[400] >= examples, statuses


def test_every_route_refuses_a_missing_and_a_foreign_key() -> None:
    with served(keys=[AccessKey(digest_of(KEY))], names=["plain"]) as (url, server):
        routes = [
            (method, route.path)
            for route in cast("Any", server.config.app).routes
            for method in sorted(route.methods - {"HEAD"})
        ]
        assert len(routes) == 10
        for method, path in routes:
            address = url + path.replace("{model:path}", "plain")
            for headers in (
                {},
                {"Authorization": "Bearer"},
                {"Authorization": "Bearer another key, which is long enough"},
                {"Authorization": f"Basic {KEY}"},
                {"Authorization": f"Bearer {KEY[:-1]}"},
                {"X-API-Key": KEY},
            ):
                refused = HTTP.request(method, address, headers=headers, json={} if method == "POST" else None)
                assert refused.status_code == 401, (method, path, headers)
                assert refused.json()["error"]["code"] in ("invalid_api_key", "missing_api_key"), refused.text
            allowed = HTTP.request(
                method, address, headers={"Authorization": f"Bearer {KEY}"}, json={} if method == "POST" else None
            )
            assert allowed.status_code != 401, (method, path)


MEAN: dict[str, str | bytes] = {
    "a NUL": '{"model": "plain", "prompt": "a\\u0000b", "max_tokens": 1}',
    "half a surrogate pair": '{"model": "plain", "prompt": "\\ud800", "max_tokens": 1}',
    "half a surrogate pair in bytes": b'{"model": "\xed\xa0\x80", "prompt": "\xed\xa0\x80", "tokens": []}',
    "half a surrogate pair in UTF-16": '{"model": "plain", "prompt": "\ud800"}'.encode("utf-16-le", "surrogatepass"),
    "half of an emoji to score": b'{"model": "reward", "prompt": "a", "response": "\xed\xa0\xbd"}',
    "a message with half a surrogate pair": b'{"model": "chat", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "as many tokens as a number can say": '{"model": "plain", "prompt": "a", "max_tokens": ' + "9" * 4_300 + "}",
    "as many tokens of an answer": '{"model": "chat", "messages": [{"role": "user", "content": "a"}], "max_tokens": '
    + "9" * 4_300
    + "}",
    "as many likeliest tokens": '{"model": "plain", "prompt": "a", "max_tokens": 1, "top_k": ' + "9" * 4_300 + "}",
    "a temperature of many digits": '{"model": "plain", "prompt": "a", "temperature": ' + "9" * 400 + "}",
    "a deep role": '{"model": "chat", "messages": [{"role": ' + "[" * 900 + "]" * 900 + "}]}",
    "a deep prompt": '{"model": "plain", "prompt": ' + "[" * 900 + "]" * 900 + "}",
    "not a number": '{"model": "plain", "prompt": "a", "temperature": NaN}',
    "infinity": '{"model": "plain", "prompt": "a", "logit_bias": {"1": 1e999}}',
    "a huge number": '{"model": "plain", "prompt": "a", "seed": ' + "9" * 5_000 + "}",
    "a huge token": '{"model": "plain", "prompt": [' + "9" * 30 + "]}",
    "a token that is true": '{"model": "plain", "prompt": [true]}',
    "deep": "[" * 100_000,
    "deep messages": '{"model": "chat", "messages": [{"role": "user", "content": ' + "[" * 5_000 + "]" * 5_000 + "}]}",
    "a key twice": '{"model": "plain", "model": "nothing", "prompt": "a"}',
    "a model with a path": '{"model": "../../etc/passwd", "prompt": "a"}',
    "a model with a NUL": '{"model": "\\u0000", "prompt": "a"}',
    "a long role": '{"model": "chat", "messages": [{"role": "' + "r" * 100_000 + '", "content": "a"}]}',
    "a field of a long name": '{"model": "plain", "prompt": "a", "' + "f" * 100_000 + '": 1}',
    "a long model": '{"model": "' + "m" * 100_000 + '", "prompt": "a"}',
    "a bias of another digit": '{"model": "plain", "prompt": "a", "logit_bias": {"\\u0661": 1}}',
    "a bias of a huge token": '{"model": "plain", "prompt": "a", "logit_bias": {"' + "9" * 5_000 + '": 1}}',
    "stop strings of one sign": '{"model": "plain", "prompt": "a", "max_tokens": 2, "stop": "' + "s" * 100_000 + '"}',
    "nothing": "",
    "no object": "3",
    "a role of another kind": '{"model": "chat", "messages": [{"role": {}, "content": "a"}]}',
    "a template in a message": '{"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "{{ 1/0 }}{% x"}]}',
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/score", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("name", list(MEAN))
def test_mean_bodies(server_url: str, path: str, name: str) -> None:
    body = MEAN[name]
    sent = body.encode() if isinstance(body, str) else body
    answer = HTTP.post(server_url + path, content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    assert len(answer.content) < 20_000, "what a client sent comes back whole"


@pytest.mark.parametrize(
    "path",
    ["/v1/models/%00", "/v1/models/..%2f..%2fetc", "/v1/models/" + "m" * 5_000, "/v1/models/%ff", "//v1/models", "/%2e%2e"],
)
def test_mean_addresses(server_url: str, path: str) -> None:
    assert HTTP.get(httpx.URL(server_url + path)).status_code in (400, 404)
