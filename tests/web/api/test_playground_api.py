"""The playground through the JSON API: the same rules as on its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.labeling.usage.talk import ALPHA, BETA, compare
from tests.web.fake_models import ANSWERS, FakeModels
from tests.web.site import Browser, Site, make_site

from heedful.labeling.usage import usage_log

ROOT = "/api/v1"


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def site(tmp_path: Path, models: FakeModels) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.app.state.model_server = models.in_process()
    yield made
    made.database.close()


def ok(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def begin(browser: Browser, **more: Any) -> Any:
    body = {"models": [ALPHA], "text": "Name a river.", "training": True} | more
    return ok(browser.json("POST", f"{ROOT}/conversations", body))


def answer_all(browser: Browser, talk: Any) -> Any:
    for answer in talk["turns"][-1]["answers"]:
        ok(browser.json("POST", f"{ROOT}/answers/{answer['id']}/write"))
    return ok(browser.get(f"{ROOT}/conversations/{talk['id']}"))


def test_a_conversation_from_its_start_to_its_end(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person("user"))
    assert ALPHA in ok(me.get(f"{ROOT}/models"))["models"]
    how = {"temperature": 0.5, "top_p": 1, "max_tokens": 20, "seed": 7, "stop": ["END"]}
    talk = begin(me, system=" Be brief. ", sampling=how, use_case="open_qa")
    assert talk["turns"][0]["answers"][0]["state"] == "waiting"
    number = talk["turns"][0]["answers"][0]["id"]
    wrote = ok(me.json("POST", f"{ROOT}/answers/{number}/write"))
    assert (wrote["answer"]["text"], wrote["answer"]["state"], wrote["message"]) == (ANSWERS[ALPHA], "finished", None)
    assert {name: models.asked[-1][name] for name in how} == how
    assert models.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert me.json("POST", f"{ROOT}/answers/{number}/write").status_code == 409
    talk = ok(me.json("POST", f"{ROOT}/conversations/{talk['id']}/turns", {"text": "Another?", "training": False}))
    assert [turn["training"] for turn in talk["turns"]] == [True, False]
    assert me.json("POST", f"{ROOT}/conversations/{talk['id']}/turns", {"text": "x", "training": True}).status_code == 409
    ok(me.json("PUT", f"{ROOT}/answers/{number}/feedback", {"kind": "edit", "text": "The Rhine."}))
    assert ok(me.get(f"{ROOT}/conversations/{talk['id']}"))["turns"][0]["answers"][0]["edit"] == "The Rhine."
    (listed,) = ok(me.get(f"{ROOT}/conversations"))
    assert (listed["id"], listed["num_turns"]) == (talk["id"], 2)
    assert ok(me.get(f"{ROOT}/conversations?before={talk['id']}")) == []
    ok(me.json("POST", f"{ROOT}/turns/{talk['turns'][0]['id']}/withdraw"))
    with site.database.read() as connection:
        assert list(usage_log.prompt_rows(connection)) == []
    assert "Neither it nor anything made from it" in ok(me.json("DELETE", f"{ROOT}/conversations/{talk['id']}"))["message"]
    assert me.get(f"{ROOT}/conversations/{talk['id']}").status_code == 404


def test_a_vote_names_the_models(site: Site) -> None:
    me = site.browser(site.person())
    talk = answer_all(me, begin(me, models=[ALPHA, BETA], layout="compare"))
    assert [answer["model"] for answer in talk["turns"][0]["answers"]] == [None, None]
    link = ok(me.json("POST", f"{ROOT}/conversations/{talk['id']}/share", {"shared": True}))["link"]
    token = link.rpartition("/")[2]
    outside = ok(site.nobody().get(f"{ROOT}/shared/{token}"))
    assert [answer["model"] for answer in outside["turns"][0]["answers"]] == [None, None]
    assert "person_id" not in outside
    turn = talk["turns"][0]["id"]
    for wrong in ({"choice": "answer"}, {"choice": "answer", "position": 2}, {"choice": "best"}, {"position": 0}):
        assert me.json("POST", f"{ROOT}/turns/{turn}/vote", wrong).status_code == 422
    voted = ok(me.json("POST", f"{ROOT}/turns/{turn}/vote", {"choice": "answer", "position": 1}))
    assert {answer["model"] for answer in voted["turns"][0]["answers"]} == {ALPHA, BETA}
    assert voted["turns"][0]["vote"]["position"] == 1
    assert me.json("POST", f"{ROOT}/turns/{turn}/vote", {"choice": "tie"}).status_code == 409
    assert ok(me.json("POST", f"{ROOT}/conversations/{talk['id']}/share", {"shared": False}))["link"] is None
    assert site.nobody().get(f"{ROOT}/shared/{token}").status_code == 404


def test_labelers_rank_and_users_do_not(site: Site) -> None:
    labeler, user = site.browser(site.person()), site.browser(site.person("user"))
    body = {"models": [ALPHA], "text": "x", "training": True, "layout": "rank"}
    assert user.json("POST", f"{ROOT}/conversations", body).status_code == 422
    talk = answer_all(labeler, begin(labeler, layout="rank", num_answers=4))
    task = ok(labeler.json("POST", f"{ROOT}/turns/{talk['turns'][0]['id']}/rank"))
    assert ok(labeler.get(f"{ROOT}/assignments/{task['assignment_id']}"))["kind"] == "rank"


def test_an_answer_as_a_stream(site: Site) -> None:
    me = site.browser(site.person())
    number = begin(me)["turns"][0]["answers"][0]["id"]
    headers = {"X-CSRF-Token": me.csrf, "Accept": "text/event-stream"}
    got = me.client.post(f"{ROOT}/answers/{number}/write", headers=headers)
    events = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: ")]
    assert "".join(event.get("text", "") for event in events) == ANSWERS[ALPHA]
    assert events[-1]["state"] == "finished"


def test_a_model_that_fails_says_so(site: Site) -> None:
    me = site.browser(site.person())
    number = begin(me, models=["broken"])["turns"][0]["answers"][0]["id"]
    wrote = ok(me.json("POST", f"{ROOT}/answers/{number}/write"))
    assert (wrote["answer"]["state"], "could not answer" in wrote["message"]) == ("failed", True)
    assert "secret" not in str(wrote)


def test_without_a_model_server(site: Site) -> None:
    me = site.browser(site.person())
    number = begin(me)["turns"][0]["answers"][0]["id"]
    site.app.state.model_server = None
    assert me.get(f"{ROOT}/models").status_code == 422
    assert me.json("POST", f"{ROOT}/answers/{number}/write").status_code == 404


@pytest.mark.parametrize("path", [f"{ROOT}/models", "/playground"])
def test_a_model_server_that_does_not_answer(site: Site, path: str) -> None:
    from heedful.web.model_server import ModelServer

    site.app.state.model_server = ModelServer("http://127.0.0.1:1/v1")
    got = site.browser(site.person()).get(path)
    # The page is shown with the reason; the API has nothing to show.
    assert got.status_code == (200 if path == "/playground" else 502)
    if path != "/playground":
        assert got.json()["title"] == "The models do not answer"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"models": [], "text": "x", "training": True},
        {"models": ["unknown"], "text": "x", "training": True},
        {"models": [ALPHA, ALPHA], "text": "x", "training": True, "layout": "compare"},
        {"models": [ALPHA], "text": " \n", "training": True},
        {"models": [ALPHA], "text": "x" * 50_001, "training": True},
        {"models": [ALPHA], "text": "a\x00b", "training": True},
        {"models": [ALPHA], "text": "\ud800", "training": True},
        {"models": [ALPHA], "text": "x", "training": "yes"},
        {"models": [ALPHA], "text": "x", "training": True, "unknown": 1},
        {"models": [ALPHA], "text": "x", "training": True, "system": "\x00"},
        {"models": [ALPHA], "text": "x", "training": True, "use_case": "poetry"},
        {"models": [ALPHA], "text": "x", "training": True, "sampling": {"temperature": 3}},
        {"models": [ALPHA], "text": "x", "training": True, "sampling": {"top_p": 0}},
        {"models": [ALPHA], "text": "x", "training": True, "sampling": {"stop": ["a", "b", "c", "d", "e"]}},
        {"models": [ALPHA], "text": "x", "training": True, "sampling": {"stop": ["\x00"]}},
        {"models": [ALPHA], "text": "x", "training": True, "sampling": {"seed": 2**31}},
        {"models": [ALPHA], "text": "x", "training": True, "layout": "rank", "num_answers": 3},
    ],
)
def test_what_is_refused_stores_nothing(site: Site, body: dict[str, Any]) -> None:
    me = site.browser(site.person())
    sent = json.dumps(body).encode()
    headers = {"X-CSRF-Token": me.csrf, "Content-Type": "application/json"}
    got = me.client.post(f"{ROOT}/conversations", content=sent, headers=headers)
    assert got.status_code == 422, got.text
    assert got.headers["content-type"] == "application/problem+json"
    assert ok(me.get(f"{ROOT}/conversations")) == []


def test_held_out_labelers_never_make_training_data(site: Site) -> None:
    me = site.browser(site.person("labeler", "held_out"))
    assert begin(me)["turns"][0]["training"] is False


def test_a_conversation_of_another_is_not_there(site: Site) -> None:
    other = site.person()
    with site.database.write() as connection:
        view = compare(connection, other)
    me = site.browser(site.person("admin"))
    assert me.get(f"{ROOT}/conversations/{view.id}").status_code == 404
    assert me.json("POST", f"{ROOT}/turns/{view.turns[0].id}/vote", {"choice": "tie"}).status_code == 404
