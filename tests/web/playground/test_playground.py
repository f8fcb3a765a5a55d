"""The playground's pages: blind until the vote, hostile text harmless, answers kept, everything can be taken back."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.labeling.usage.talk import answer_all, begin
from tests.web.fake_models import ANSWERS, HOSTILE, NAMES, FakeModels
from tests.web.served import served
from tests.web.site import Browser, Site, make_site

from heedful.labeling.people import accounts
from heedful.labeling.usage import conversations, misuse
from heedful.labeling.usage.conversations import ConversationView
from heedful.labeling.usage.usage_export import playground_rows
from heedful.project.project import init_project
from heedful.web.model_server import ModelServer, base_address
from heedful.web.playground.streaming import TOO_LONG, Writing

GENEROUS = 60.0
ALPHA, BETA = "acme/alpha-7b", "acme/beta-2"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path, project=init_project(tmp_path / "mine", base_model="none").folder)
    yield made
    made.database.close()


@pytest.fixture
def models(site: Site) -> FakeModels:
    fake = FakeModels()
    site.app.state.model_server = fake.in_process()
    return fake


def start(browser: Browser, text: str = "Name a river.", **fields: Any) -> int:
    values = {"layout": "single", "model": [ALPHA], "text": text, "training": "yes", "mode": "chat"} | fields
    gone = browser.post("/playground", {name: value for name, value in values.items() if value is not None})
    assert gone.status_code == 303, gone.text
    return int(gone.headers["location"].rpartition("/")[2])


def view_of(site: Site, browser: Browser, number: int) -> ConversationView:
    with site.database.read() as connection:
        return conversations.own(connection, number, browser.person_id)


def stream(browser: Browser, answer_id: int) -> list[dict[str, Any]]:
    headers = {"X-CSRF-Token": browser.csrf, "Accept": "text/event-stream"}
    got = browser.client.post(f"/playground/answers/{answer_id}/stream", headers=headers)
    assert got.status_code == 200, got.text
    assert got.headers["cache-control"] == "no-store"
    return [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: ")]


def answered(site: Site, browser: Browser, number: int) -> ConversationView:
    for answer in view_of(site, browser, number).turns[-1].answers:
        stream(browser, answer.id)
    return view_of(site, browser, number)


def test_a_conversation_streams_and_goes_on(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, system="Be brief.", temperature="0.5", top_p="0.9", max_tokens="20", seed="7", stop="END\n\n")
    (answer,) = view_of(site, me, number).turns[0].answers
    events = stream(me, answer.id)
    assert "".join(event.get("text", "") for event in events) == ANSWERS[ALPHA]
    assert events[-1] == {"state": "finished", "finish_reason": "stop"}
    assert len(events) == 6
    asked = models.asked[-1]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
    ]
    sampling = {name: asked[name] for name in ("temperature", "top_p", "max_tokens", "seed", "stop", "stream")}
    assert sampling == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 20, "seed": 7, "stop": ["END"], "stream": True}
    assert me.post(f"/playground/{number}/turns", {"text": "Another?", "training": "yes"}).status_code == 303
    answered(site, me, number)
    assert [message["content"] for message in models.asked[-1]["messages"]][1:] == [
        "Name a river.",
        ANSWERS[ALPHA],
        "Another?",
    ]
    page = me.get(f"/playground/{number}").text
    assert page.count(ANSWERS[ALPHA]) >= 2
    assert "may be used to train" in page


def test_without_javascript(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, mode="completion", text="The Rhine")
    (answer,) = view_of(site, me, number).turns[0].answers
    gone = me.post(f"/playground/answers/{answer.id}/stream")
    assert (gone.status_code, gone.headers["location"]) == (303, f"/playground/{number}#answer-{answer.id}")
    assert models.asked[-1]["prompt"] == "The Rhine"
    assert view_of(site, me, number).turns[0].answers[0].text == ANSWERS[ALPHA]
    assert me.post(f"/playground/answers/{answer.id}/stream").status_code == 409


def test_nothing_names_the_models_before_the_vote(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, layout="compare", model=[ALPHA, BETA])
    view = view_of(site, me, number)
    events = [event for answer in view.turns[0].answers for event in stream(me, answer.id)]
    page = me.get(f"/playground/{number}").text
    for name in ("alpha", "beta", "acme"):
        assert name not in json.dumps(events)
        assert name not in page
    assert me.post(f"/playground/{number}/turns", {"text": "More"}).status_code == 422
    assert me.post(f"/playground/turns/{view.turns[0].id}/vote", {"vote": "answer-1"}).status_code == 303
    page = me.get(f"/playground/{number}").text
    assert ALPHA in page
    assert BETA in page
    assert "the right answer is better" in page
    assert me.post(f"/playground/turns/{view.turns[0].id}/vote", {"vote": "tie"}).status_code == 409


def test_a_vote_is_marked_if_an_answer_names_its_model(site: Site, models: FakeModels) -> None:
    me, researcher = site.browser(site.person()), site.browser(site.person("researcher"))
    number = start(me, layout="compare", model=[ALPHA, "boastful-1"])
    view = answered(site, me, number)
    me.post(f"/playground/turns/{view.turns[0].id}/vote", {"vote": "bad"})
    page = me.get(f"/playground/{number}").text
    assert "gave itself away" in page
    assert "boastful" in page.lower()
    assert "1 marked" in researcher.get("/console/votes").text
    table = researcher.post("/console/votes/export").text
    assert table.count("both_bad") == 1
    assert researcher.post("/console/votes/export", {"blind": "yes"}).text.count("\n") == 1


def test_what_models_write_is_never_html(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, model=["hostile"], text=HOSTILE, system=HOSTILE)
    view = answered(site, me, number)
    me.post(f"/playground/answers/{view.turns[0].answers[0].id}/feedback", {"kind": "edit", "text": HOSTILE + "!"})
    me.post(f"/playground/answers/{view.turns[0].answers[0].id}/feedback", {"kind": "critique", "text": HOSTILE})
    me.post(f"/playground/{number}/share", {"do": "share"})
    token = view_of(site, me, number).share_token
    for page in (me.get(f"/playground/{number}").text, site.nobody().get(f"/playground/shared/{token}").text):
        assert "<script>document" not in page
        assert "<img src=x" not in page
        assert 'href="javascript' not in page
        assert html.escape(HOSTILE, quote=False).replace("'", "&#39;") in page


def test_a_shared_conversation_is_only_read_and_ends_with_the_link(site: Site, models: FakeModels) -> None:
    me, nobody = site.browser(site.person()), site.nobody()
    number = start(me, layout="compare", model=[ALPHA, BETA])
    answered(site, me, number)
    me.post(f"/playground/{number}/share", {"do": "share"})
    path = f"/playground/shared/{view_of(site, me, number).share_token}"
    page = nobody.get(path).text
    assert ANSWERS[ALPHA] in page
    assert "acme" not in page, "the link names models that the vote has not revealed"
    forms = re.findall(r'<form [^>]*action="([^"]+)"', page)
    assert forms == []
    assert nobody.get(f"/playground/{number}").status_code == 303
    me.post(f"/playground/{number}/share", {"do": "end"})
    assert nobody.get(path).status_code == 404
    assert nobody.get("/playground/shared/x").status_code == 404


def test_opting_out(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, training=None)
    page = me.get(f"/playground/{number}").text
    assert "not for training" in page
    assert "The rest of this chat is not used" in page
    assert 'name="training"' not in page
    number = start(me)
    view = answered(site, me, number)
    assert view.turns[0].training
    gone = me.post(f"/playground/turns/{view.turns[0].id}/withdraw")
    assert gone.status_code == 303
    assert not view_of(site, me, number).turns[0].training
    assert "What you took back" in me.get("/playground").text
    number = start(me)
    assert me.post(f"/playground/{number}/withdraw").status_code == 303
    assert not view_of(site, me, number).training
    assert me.post(f"/playground/{number}/delete").status_code == 303
    assert me.get(f"/playground/{number}").status_code == 404


def test_a_held_out_labeler_cannot_opt_in(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person("labeler", "held_out"))
    number = start(me, training="yes")
    assert not view_of(site, me, number).turns[0].training
    page = me.get(f"/playground/{number}").text
    assert "Nothing that you write here is used for training" in page
    assert 'name="training"' not in page
    number = start(me, layout="compare", model=[ALPHA, BETA], training="yes")
    turn = answered(site, me, number).turns[0]
    assert me.post(f"/playground/turns/{turn.id}/vote", {"vote": "tie"}).status_code == 303
    me.post(f"/playground/answers/{turn.answers[0].id}/feedback", {"kind": "edit", "text": "Mine"})
    researcher = site.browser(site.person("researcher"))
    assert researcher.post("/console/votes/export").text.count("\n") == 1, "the page says that it is not used"
    with site.database.read() as connection:
        assert list(playground_rows(connection)) == []


def test_personal_data_and_misuse_are_flagged(site: Site, models: FakeModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(misuse, "installed", lambda: (("a", lambda text: ["weapons"]),))
    me = site.browser(site.person())
    number = start(me, text="Write to anna@example.org")
    assert view_of(site, me, number).turns[0].flags == ("personal data: email", "weapons")


def test_ranking_opens_the_board(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    number = start(me, layout="rank", model=[ALPHA, BETA, "silent"], num_answers="5")
    view = answered(site, me, number)
    assert len(view.turns[0].answers) == 5
    gone = me.post(f"/playground/turns/{view.turns[0].id}/rank")
    assert gone.status_code == 303
    page = me.get(gone.headers["location"]).text
    assert "data-board" in page
    assert ".overall" in page
    assert "acme" not in page
    assert me.post(f"/playground/turns/{view.turns[0].id}/rank").headers["location"] == gone.headers["location"]


WRONG = [
    {"text": "  "},
    {"text": "x" * 60_000},
    {"model": None},
    {"model": ["unheard-of"]},
    {"layout": "compare", "model": [ALPHA]},
    {"layout": "compare", "model": NAMES[:5]},
    {"layout": "rank", "num_answers": "2"},
    {"layout": "nothing"},
    {"temperature": "warm"},
    {"temperature": "nan"},
    {"temperature": "9"},
    {"max_tokens": "-3"},
    {"stop": "a\nb\nc\nd\ne"},
    {"mode": "song"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:40])
def test_a_wrong_form_comes_back_filled_in(site: Site, models: FakeModels, wrong: dict[str, Any]) -> None:
    me = site.browser(site.person())
    values = {"layout": "single", "model": [ALPHA], "text": "Keep <b>this</b>", "mode": "chat"} | wrong
    page = me.post("/playground", {name: value for name, value in values.items() if value is not None})
    assert page.status_code == 422
    assert 'role="alert"' in page.text
    if "text" not in wrong:
        assert "Keep &lt;b&gt;this&lt;/b&gt;" in page.text
    assert me.get("/playground").text.count("history-card") == 0


@pytest.mark.parametrize("model", ["broken", "refuses", "breaks-off"])
def test_a_failed_answer_says_so_and_can_be_tried_again(site: Site, models: FakeModels, model: str) -> None:
    me = site.browser(site.person())
    number = start(me, model=[model])
    (answer,) = view_of(site, me, number).turns[0].answers
    events = stream(me, answer.id)
    assert events[-1]["state"] == "failed"
    assert "secret" not in json.dumps(events)
    page = me.get(f"/playground/{number}").text
    assert "Try again" in page
    assert me.post(f"/playground/{number}/turns", {"text": "More"}).status_code == 422
    assert stream(me, answer.id)[-1]["state"] == "failed"


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_a_limit_that_does_not_fit_the_context_window_is_lowered(site: Site, models: FakeModels, mode: str) -> None:
    """The models that ship have a window of 128 tokens, and the form begins with a limit of 256."""
    me = site.browser(site.person())
    models.window = 128
    (answer,) = view_of(site, me, start(me, mode=mode, max_tokens=256)).turns[0].answers
    assert stream(me, answer.id)[-1]["state"] == "finished"
    assert [body["max_tokens"] for body in models.asked] == [256, 128, 64]
    models.window = 10
    (answer,) = view_of(site, me, start(me, mode=mode, max_tokens=256)).turns[0].answers
    assert stream(me, answer.id)[-1] == {"state": "failed", "message": TOO_LONG}


def test_without_a_model_server_the_page_says_what_to_do(site: Site) -> None:
    me = site.browser(site.person())
    page = me.get("/playground")
    assert page.status_code == 200
    assert "HEEDFUL_MODEL_SERVER" in page.text
    site.app.state.model_server = ModelServer("http://127.0.0.1:9/v1")
    page = me.get("/playground")
    assert page.status_code == 200
    assert "does not answer" in page.text


def test_presets_fill_the_form(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    page = me.get("/playground?use_case=brainstorming").text
    assert "List five ideas" in page
    number = start(me, use_case="brainstorming")
    assert view_of(site, me, number).use_case == "brainstorming"
    assert me.get("/playground?use_case=nonsense").status_code == 200


def test_history_is_shown_in_pages(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    with site.database.write() as connection:
        for number in range(32):
            answer_all(connection, begin(connection, me.person_id, f"Number {number}."), "x")
    page = me.get("/playground").text
    assert page.count("history-card") == 30
    older = re.search(r'href="(/playground\?before=\d+)"', page)
    assert older
    assert "Number 0." in me.get(older[1]).text


def test_the_stop_button_keeps_what_there_is(site: Site) -> None:
    fake = FakeModels()
    me = site.browser(site.person())
    with served(fake.app) as behind, served(site.app) as address:
        site.app.state.model_server = ModelServer(base_address(behind))
        number = start(me, model=["endless"])
        (answer,) = view_of(site, me, number).turns[0].answers
        headers = {"X-CSRF-Token": me.csrf, "Accept": "text/event-stream"}
        cookies = {"heedful_session": me.client.cookies["heedful_session"]}
        with httpx.Client(timeout=GENEROUS, cookies=cookies) as client:
            request = client.build_request("POST", f"{address}/playground/answers/{answer.id}/stream", headers=headers)
            response = client.send(request, stream=True)
            first = next(response.iter_text())
            assert "word" in first
            # Meanwhile no other page can ask for the same answer.
            assert me.post(f"/playground/answers/{answer.id}/stream").status_code == 409
            response.close()
        assert fake.left.wait(GENEROUS), "the model still writes"
        done = threading.Event()
        for _ in range(300):
            if view_of(site, me, number).turns[0].answers[0].state != "running":
                break
            done.wait(0.1)
    (answer,) = view_of(site, me, number).turns[0].answers
    assert answer.state == "stopped"
    assert answer.text.startswith("word")
    assert view_of(site, me, number).can_continue


def test_an_answer_that_never_began_can_be_asked_for_again(site: Site, models: FakeModels) -> None:
    """A page that is reloaded at once leaves before the first word."""
    me = site.browser(site.person())
    number = start(me)
    (answer,) = view_of(site, me, number).turns[0].answers
    with site.database.write() as connection:
        ask = conversations.begin_answer(connection, answer.id, me.person_id)

    async def leave() -> None:
        writing = Writing(models.in_process(), site.database, ask)
        unread = writing.events()
        await unread.aclose()
        await writing.keep()

    asyncio.run(leave())
    assert "Try again" in me.get(f"/playground/{number}").text
    assert "".join(event.get("text", "") for event in stream(me, answer.id)) == ANSWERS[ALPHA]


@pytest.mark.parametrize("lines", [[], ['data: {"choices": [{"delta": {"content": "Riv"}, "finish_reason": null}]}']])
def test_half_an_answer_is_not_taken_for_a_whole_one(site: Site, lines: list[str]) -> None:
    async def answer(request: Request) -> Response:
        return Response("".join(f"{line}\n\n" for line in lines), media_type="text/event-stream")

    async def names(request: Request) -> Response:
        return JSONResponse({"data": [{"id": ALPHA}]})

    fake = Starlette(routes=[Route("/v1/models", names), Route("/v1/chat/completions", answer, methods=["POST"])])
    site.app.state.model_server = ModelServer("http://models/v1", transport=httpx.ASGITransport(app=fake))
    me = site.browser(site.person())
    (answer_view,) = view_of(site, me, start(me)).turns[0].answers
    assert stream(me, answer_view.id)[-1]["state"] == "failed"


def test_a_shared_link_ends_with_its_owners_account(site: Site, models: FakeModels) -> None:
    me, nobody = site.browser(site.person()), site.nobody()
    number = start(me)
    answered(site, me, number)
    me.post(f"/playground/{number}/share", {"do": "share"})
    path = f"/playground/shared/{view_of(site, me, number).share_token}"
    shown = nobody.get(path)
    assert shown.status_code == 200
    assert "noindex" in shown.headers["x-robots-tag"]
    admin = site.person("admin")
    with site.database.write() as connection:
        accounts.disable(connection, me.person_id, by=admin)
    assert nobody.get(path).status_code == 404
    assert nobody.get(path.replace("/playground/shared", "/api/v1/shared")).status_code == 404


def test_whole_answers_are_rendered(site: Site, models: FakeModels) -> None:
    me = site.browser(site.person())
    with site.database.write() as connection:
        view = answer_all(connection, begin(connection, me.person_id, r"Is \(x^2\) **good**?"), "So $\\frac{a}{b}$ & <b>")
        conversations.share(connection, view.id, me.person_id, shared=True)
        token = conversations.own(connection, view.id, me.person_id).share_token
    for path in (f"/playground/{view.id}", f"/playground/shared/{token}"):
        page = me.get(path).text
        assert "<mfrac><mi>a</mi><mi>b</mi></mfrac>" in page
        assert "<msup><mi>x</mi><mn>2</mn></msup>" in page
        assert "<strong>good</strong>" in page
        assert r"So $\frac{a}{b}$ &amp; &lt;b&gt;" in page, "the source is there too"
        assert "data-show-source" in page
