"""The public API: OpenAI's form, keys on every route, exact limits, what is logged and what is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.labeling.usage.talk import ALPHA, a_key
from tests.web.fake_models import ANSWERS, NAMES, FakeModels
from tests.web.served import served
from tests.web.site import Site, make_site

from heedful.labeling.database.usage_tables import api_request
from heedful.labeling.usage import admission, api_keys
from heedful.web.model_server import ModelServer, base_address
from heedful.web.routing import KEY_HOLDERS

ASK = {"model": ALPHA, "messages": [{"role": "user", "content": "Name a river."}]}
GENEROUS = 60.0
"""Seconds: a busy machine is no failure."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def models(site: Site) -> FakeModels:
    fake = FakeModels()
    site.app.state.model_server = fake.in_process()
    return fake


def key(site: Site, role: str = "labeler", **more: Any) -> str:
    person = site.person(role)
    with site.database.write() as connection:
        return a_key(connection, person, **more)[1]


def call(site: Site, secret: str, body: Any = ASK, path: str = "/v1/chat/completions", **headers: str) -> Any:
    sent: dict[str, Any] = {"content": body} if isinstance(body, str | bytes) else {"json": body}
    return site.nobody().post(path, headers={"Authorization": f"Bearer {secret}", **headers}, **sent)


def logged(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(api_request).order_by(api_request.c.id)).mappings())


@pytest.fixture
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests come in the same second, however slow the machine is."""
    monkeypatch.setattr(admission, "moment", lambda now: 1000.0 if now is None else now)


def keyed_routes(site: Site) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in site.app.routes
        if getattr(route, "heedful_who", None) == KEY_HOLDERS
        for method in sorted(route.methods)
    ]


def test_every_route_refuses_a_missing_foreign_or_revoked_key(site: Site, models: FakeModels) -> None:
    person = site.person()
    with site.database.write() as connection:
        key_id, secret = a_key(connection, person)
    assert len(keyed_routes(site)) == 3
    admin = site.browser(site.person("admin"))

    def statuses(headers: dict[str, str]) -> list[int]:
        found = []
        for method, path in keyed_routes(site):
            answer = admin.client.request(method, path, headers=headers, json=None if method == "GET" else ASK)
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            found.append(answer.status_code)
        return found

    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer hk-foreign"}):
        assert statuses(headers) == [401, 401, 401], "a session's cookie is no key"
    assert 401 not in statuses({"Authorization": f"Bearer {secret}"})
    with site.database.write() as connection:
        api_keys.revoke(connection, key_id, by=person, own_only=True)
    before = len(logged(site))
    assert statuses({"Authorization": f"Bearer {secret}"}) == [401, 401, 401]
    assert len(logged(site)) == before


def test_a_chat(site: Site, models: FakeModels) -> None:
    answer = call(site, key(site), ASK | {"temperature": 0.3, "user": "someone"})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == ANSWERS[ALPHA]
    assert answer.headers["x-heedful-training"] == "may-be-used"
    assert models.asked == [ASK | {"temperature": 0.3, "user": "someone"}], "the request goes on as it came"
    (row,) = logged(site)
    assert (row["status"], row["model"], row["endpoint"], row["streamed"]) == (200, ALPHA, "chat", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 5)
    assert (row["request"], row["response"]) == (ASK["messages"], [ANSWERS[ALPHA]])
    assert row["training"]


def test_a_completion_and_the_models(site: Site, models: FakeModels) -> None:
    secret = key(site)
    answer = call(site, secret, {"model": ALPHA, "prompt": "The Rhine"}, "/v1/completions")
    assert answer.json()["choices"][0]["text"] == ANSWERS[ALPHA]
    listed = site.nobody().get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    assert [row["id"] for row in listed.json()["data"]] == NAMES
    assert [row["endpoint"] for row in logged(site)] == ["completions", "models"]
    assert logged(site)[0]["request"] == "The Rhine"


@pytest.mark.parametrize("asked", [None, {}, {"include_usage": True}])
def test_a_stream_is_the_same_text(site: Site, models: FakeModels, asked: Any) -> None:
    body = ASK | {"stream": True} | ({} if asked is None else {"stream_options": asked})
    answer = call(site, key(site), body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(one) for one in data[:-1]]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said == ANSWERS[ALPHA]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert reasons == ["stop"]
    assert sum("usage" in chunk for chunk in chunks) == (1 if asked == {"include_usage": True} else 0)
    (row,) = logged(site)
    assert (row["status"], row["streamed"], row["prompt_tokens"], row["completion_tokens"]) == (200, True, 3, 5)
    assert row["response"] == [ANSWERS[ALPHA]]


@pytest.mark.parametrize("scope", ["chat", "completions", "models"])
def test_a_key_is_good_for_its_scopes_only(site: Site, models: FakeModels, scope: str) -> None:
    secret = key(site, scopes=(scope,))
    headers = {"Authorization": f"Bearer {secret}"}
    statuses = {
        "chat": call(site, secret).status_code,
        "completions": call(site, secret, {"model": ALPHA, "prompt": "x"}, "/v1/completions").status_code,
        "models": site.nobody().get("/v1/models", headers=headers).status_code,
    }
    assert statuses == {name: 200 if name == scope else 403 for name in statuses}


def test_uses(site: Site, models: FakeModels) -> None:
    secret = key(site, uses=("research", "drafting"))
    assert call(site, secret, **{"X-Heedful-Use": "adverts"}).status_code == 403
    assert call(site, secret, **{"X-Heedful-Use": "drafting"}).status_code == 200
    assert [row["used_for"] for row in logged(site)] == ["drafting"]


BAD = ["", "{", "[]", '"text"', '{"model": 3}', "[" * 100_000, b"\xff\xfe", '{"model": "refuses", "messages": []}']


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_bad_bodies_are_refused_and_count(site: Site, models: FakeModels, body: Any) -> None:
    answer = call(site, key(site, per_minute=1), body)
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    (row,) = logged(site)
    assert (row["status"], row["request"]) == (answer.status_code, None)


def test_a_body_that_is_too_large(site: Site, models: FakeModels) -> None:
    answer = call(site, key(site), "x" * 2_100_000)
    assert answer.status_code == 413
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    answer = site.nobody().post("/v1/nothing", json={})
    assert (answer.status_code, set(answer.json()["error"])) == (404, {"message", "type", "param", "code"})


@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_the_server(site: Site, models: FakeModels, stream: bool) -> None:
    secret = key(site)
    answer = call(site, secret, ASK | {"model": "broken", "stream": stream})
    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "server_error")
    assert "secret" not in answer.text
    answer = call(site, secret, ASK | {"model": "refuses", "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert [row["status"] for row in logged(site)] == [502, 404]
    site.app.state.model_server = ModelServer("http://127.0.0.1:9/v1")
    assert call(site, secret, ASK | {"stream": stream}).status_code == 502
    site.app.state.model_server = None
    assert call(site, secret, ASK | {"stream": stream}).status_code == 503


def test_a_stream_is_ascii(site: Site, models: FakeModels, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "one\u2028two\x85three 猫 🙂"
    monkeypatch.setitem(ANSWERS, ALPHA, said)
    answer = call(site, key(site), ASK | {"stream": True})
    assert answer.content.isascii()  # clients that end a line at U+2028 still read each event whole
    events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: {")]
    assert "".join(choice["delta"]["content"] for event in events for choice in event["choices"]) == said


def test_a_stream_that_breaks_off_says_so(site: Site, models: FakeModels) -> None:
    answer = call(site, key(site), ASK | {"model": "breaks-off", "stream": True})
    assert "[DONE]" not in answer.text
    assert '"error"' in answer.text


def test_production_text_is_nowhere(site: Site, models: FakeModels, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = key(site, purpose="production")
    for stream in (False, True):
        asked = [{"role": "user", "content": "My customer is Anna, anna@example.org, PLATYPUS"}]
        answer = call(site, secret, {"model": ALPHA, "messages": asked, "stream": stream})
        assert answer.headers["x-heedful-training"] == "never"
        call(site, secret, {"model": "breaks-off", "messages": asked, "stream": stream})
        call(site, secret, {"model": "broken", "messages": asked, "stream": stream})
    rows = logged(site)
    assert len(rows) == 6
    assert rows[0]["flags"] == ["personal data: email"]
    assert rows[0]["prompt_tokens"] == 3
    assert "PLATYPUS" not in caplog.text
    site.database.close()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"PLATYPUS" not in file.read_bytes(), file
            assert b"Rivers flow" not in file.read_bytes(), file


def test_misuse_is_flagged_by_installed_classifiers(
    site: Site, models: FakeModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(text: str) -> list[str]:
        raise ValueError(text)

    def finds(text: str) -> list[str]:
        return ["weapons"] if "bomb" in text else []

    monkeypatch.setattr("heedful.labeling.usage.misuse.installed", lambda: (("a", finds), ("b", breaks), ("c", None)))
    call(site, key(site), {"model": ALPHA, "messages": [{"role": "user", "content": "a bomb"}]})
    assert logged(site)[0]["flags"] == ["weapons", "b failed", "c failed"]
    assert "bomb" not in caplog.text


def test_two_hundred_at_once_with_failing_bodies(site: Site, models: FakeModels, one_moment: None) -> None:
    secret = key(site, per_minute=5)
    bodies = ["{", json.dumps(ASK), json.dumps(ASK | {"model": "broken"}), json.dumps(ASK | {"stream": True})]
    with served(site.app) as address, httpx.Client(timeout=GENEROUS) as client:

        def one(number: int) -> httpx.Response:
            headers = {"Authorization": f"Bearer {secret}"}
            return client.post(f"{address}/v1/chat/completions", content=bodies[number % 4], headers=headers)

        with ThreadPoolExecutor(50) as threads:
            answers = list(threads.map(one, range(200)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 195
    assert {answer.status_code for answer in answers} <= {200, 400, 429, 502}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert len(logged(site)) == 5
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_left_by_the_server_too(site: Site, stream: bool, one_moment: None) -> None:
    fake = FakeModels()
    secret = key(site, per_minute=1)
    body = ASK | {"model": "endless", "stream": stream}
    with served(fake.app) as behind, served(site.app) as address:
        site.app.state.model_server = ModelServer(base_address(behind))
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(timeout=GENEROUS if stream else 2.0) as client:
            request = client.build_request("POST", f"{address}/v1/chat/completions", json=body, headers=headers)
            if stream:
                response = client.send(request, stream=True)
                next(response.iter_bytes())
                response.close()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.send(request)
        assert fake.left.wait(GENEROUS), "the model server still writes for a client that has gone"
        done = threading.Event()
        for _ in range(300):
            if logged(site)[0]["status"] is not None:
                break
            done.wait(0.1)
    (row,) = logged(site)
    assert row["status"] == 499
    assert call(site, secret).status_code == 429, "a request whose client left does not count"
