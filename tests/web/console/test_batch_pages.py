from __future__ import annotations

import re

import pytest
from sqlalchemy import select, update
from tests.web.site import Browser, Site

from heedful.conversation import turns_of
from heedful.labeling.database.tables import batch, task
from heedful.labeling.queue import items
from heedful.labeling.queue.kinds import TaskKind
from heedful.records import RATING_FLAGS, Prompt, Response
from heedful.web.api.opaque_ids import opaque_id
from heedful.web.console.batch_pages import MADE_HERE

PHASES = {"flag_sensitive": "screening", "self_assess": "screening", "rate": "evaluation", "toxicity": "evaluation"}
MAIL = "Write to jane.roe@example.org about the roof"


@pytest.fixture
def site(site: Site) -> Site:
    with site.database.write() as connection:
        prompts = [Prompt(id=f"p{i}", turns=turns_of(f"Question {i}?"), language="en") for i in range(3)]
        prompts.append(Prompt(id="mail", turns=turns_of(MAIL), split="test", metadata={"needs_review": True}))
        items.add_prompts(connection, prompts)
        responses = [Response(id=f"p{i}-{k}", prompt_id=f"p{i}", text=f"{k}", model="m") for i in range(3) for k in range(5)]
        items.add_responses(connection, responses)
    return site


def fields(kind: TaskKind, **more: str) -> dict[str, str]:
    return {
        "name": "<b>new</b>",
        "phase": PHASES.get(kind, "training"),
        "tasks": "2",
        "fresh": "yes",
        "lines": "age\nreligion",
        "style": "plain",
        **more,
    }


@pytest.mark.parametrize("kind", MADE_HERE)
def test_a_batch_of_every_kind_is_made_in_the_browser(site: Site, kind: TaskKind) -> None:
    browser = site.browser(site.person("researcher"))
    assert browser.get(f"/batches/new/{kind}").status_code == 200
    gone = browser.post(f"/batches/new/{kind}", fields(kind))
    assert gone.status_code == 303, gone.text
    page = browser.get(gone.headers["location"])
    assert page.status_code == 200
    assert "&lt;b&gt;new" in page.text
    assert "<b>new" not in page.text
    with site.database.read() as connection:
        kinds = connection.execute(select(task.c.kind)).scalars().all()
    assert kinds == [kind] * (1 if kind == "review_personal_data" else 2)


@pytest.mark.parametrize("order_only", [True, False])
def test_more_tasks_ask_for_what_their_batch_asks_for(site: Site, order_only: bool) -> None:
    """The batch says whether labelers only give the order: the form for more tasks cannot change it."""
    browser = site.browser(site.person("researcher"))
    made = browser.post("/batches/new/rank", fields("rank", tasks="1", **({"order_only": "yes"} if order_only else {})))
    address = made.headers["location"]
    form = browser.get(f"{address}/more").text
    assert ("This batch asks only for the order" in form) == order_only
    assert 'type="checkbox" name="order_only"' not in form
    sent = {"tasks": "2", "fresh": "yes"} if order_only else {"tasks": "2", "fresh": "yes", "order_only": "yes"}
    assert browser.post(f"{address}/more", sent).status_code == 303
    with site.database.read() as connection:
        payloads = connection.execute(select(task.c.payload)).scalars().all()
    assert payloads == [{"order_only": True} if order_only else {}] * 3


def test_what_is_found_in_a_prompt_is_marked_for_its_reviewer(site: Site) -> None:
    browser = site.browser(site.person("researcher"))
    browser.post("/batches/new/review_personal_data", fields("review_personal_data"))
    with site.database.read() as connection:
        payload = connection.execute(select(task.c.payload)).scalar_one()
    [found] = payload["findings"]
    assert (found["kind"], MAIL[found["start"] : found["end"]]) == ("email", "jane.roe@example.org")
    labeler = site.browser(site.person())
    task_page = labeler.get(labeler.post("/tasks/claim", {"kind": "review_personal_data"}).headers["location"]).text
    assert re.search(r'<mark class="finding">jane.roe@example.org', task_page)


def test_counting_makes_nothing(site: Site) -> None:
    browser = site.browser(site.person("researcher"))
    page = browser.post("/batches/new/rank", fields("rank", count="yes"))
    assert (page.status_code, "3 prompts match" in page.text) == (200, True)
    with site.database.read() as connection:
        assert connection.execute(select(batch)).all() == []


def test_a_mistake_keeps_what_was_typed(site: Site) -> None:
    browser = site.browser(site.person("researcher"))
    page = browser.post("/batches/new/rank", fields("rank", name="My own name", smallest_k="7", largest_k="4"))
    assert page.status_code == 422
    assert 'value="My own name"' in page.text
    assert "umber of outputs is not valid" in page.text
    page = browser.post("/batches/new/rank", fields("rank", language="xx"))
    assert (page.status_code, "o prompt fits" in page.text) == (422, True)
    assert browser.get("/batches/new/score_demonstration").status_code == 404


def test_the_api_makes_what_the_page_makes(site: Site) -> None:
    browser = site.browser(site.person("researcher"))
    wanted = {"name": "new", "kind": "review_personal_data", "phase": "training", "tasks": 2}
    made = browser.json("POST", "/api/v1/batches", wanted)
    assert made.json()["tasks"] == 1, made.text
    with site.database.read() as connection:
        [found] = connection.execute(select(task.c.payload)).scalar_one()["findings"]
    assert MAIL[found["start"] : found["end"]] == "jane.roe@example.org"


# ---------------------------------------------------------------------------------------------------- gold


def rank_everything(browser: Browser, *, worst_first: bool = False) -> list[int]:
    """Rank what is served, in the order of the outputs' ids; the assignments."""
    done: list[int] = []
    while (given := browser.json("POST", "/api/v1/claim", {"kind": "rank"}).json()["assignment"]) is not None:
        ids = sorted((output["id"] for output in given["outputs"]), reverse=worst_first)
        ratings = {id: {"overall": 4, "flags": dict.fromkeys(RATING_FLAGS, False)} for id in ids}
        answer = {"token": given["token"], "answer": {"groups": [[id] for id in ids], "ratings": ratings}}
        assert browser.json("POST", f"/api/v1/assignments/{given['id']}/submit", answer).status_code == 200
        done.append(given["id"])
    return done


def a_researcher_who_answered_two(site: Site) -> Browser:
    browser = site.browser(site.person("researcher"))
    browser.post("/batches/new/rank", fields("rank", name="Known <b>", phase="screening"))
    assert len(rank_everything(browser)) == 2
    return browser


def test_a_researcher_mixes_gold_in_and_sees_how_labelers_do_on_it(site: Site) -> None:
    researcher = site.browser(site.person("researcher", name="Rex"))
    assert "There are no gold answers yet" in researcher.get("/batches/new/rank").text
    assert "<legend>Gold" not in researcher.get("/batches/new/demonstrate").text
    researcher = a_researcher_who_answered_two(site)
    form = researcher.get("/batches/new/rank").text
    assert ('name="gold"' in form, '<option value="1">Known &lt;b&gt;</option>' in form) == (True, True)
    wanted = fields("rank", tasks="3", overlap="2", gold="3", gold_batch_id="1")
    counted = researcher.post("/batches/new/rank", wanted | {"count": "yes"}).text
    assert "3 prompts match. 2 of them can be gold. Nothing has been made yet." in counted
    assert '<option value="1" selected>' in counted
    page = researcher.get(researcher.post("/batches/new/rank", wanted).headers["location"]).text
    assert "Made 3 tasks, 2 of them gold. 3 gold tasks were asked for; no more answers by researchers match." in page
    assert "2 of the tasks" in page
    assert "No gold task has been answered" in researcher.get("/console/quality").text

    labelers = site.browser(site.person()), site.browser(site.person())
    for labeler, worst_first in zip(labelers, (False, True), strict=True):
        assert len(rank_everything(labeler, worst_first=worst_first)) == 3
    site.app.state.kept.drop("attention")
    quality = researcher.get("/console/quality").text
    assert "4 answers to 2 gold tasks" in quality
    for labeler, agrees in zip(labelers, ("100.0", "0.0"), strict=True):
        name = labeler.get("/api/v1/me").json()["pseudonym"]
        assert re.search(rf'<code>{name}</code></th>\s*<td class="number">{agrees}', quality), (name, agrees)


def test_a_mistake_about_gold_is_named_and_nothing_is_made(site: Site) -> None:
    browser = site.browser(site.person("researcher"))
    for more, said in (({"gold": "3"}, "The number of gold tasks is not valid"), ({"gold": "1"}, "There is no gold for these")):
        page = browser.post("/batches/new/rank", fields("rank", **more))
        assert (page.status_code, said in page.text) == (422, True), more
    for kind, said in (("rank", "there is no gold for these tasks"), ("demonstrate", "gold in a batch of this kind")):
        wanted = {"name": "new", "kind": kind, "phase": "training", "tasks": 2, "gold": 1}
        problem = browser.json("POST", "/api/v1/batches", wanted)
        assert (problem.status_code, said in problem.json()["detail"]) == (422, True), kind
    with site.database.read() as connection:
        assert connection.execute(select(batch)).all() == []


def test_the_api_mixes_gold_in_as_the_page_does(site: Site) -> None:
    browser = a_researcher_who_answered_two(site)
    wanted = {"name": "new", "kind": "rank", "phase": "training", "tasks": 3, "gold": 1, "gold_batch_id": 1}
    made = browser.json("POST", "/api/v1/batches", wanted).json()
    assert made == {"batch_id": 2, "tasks": 3, "gold": 1}
    assert browser.get("/api/v1/batches/2").json()["gold"] == 1
    with site.database.read() as connection:
        known = connection.execute(select(task.c.prompt_id, task.c.gold).where(task.c.gold.is_not(None))).one()
    key = site.app.state.settings.key
    ids = sorted((f"{known.prompt_id}-{place}" for place in range(5)), key=lambda id: opaque_id(id, key))
    assert known.gold["groups"] == [[id] for id in ids]


def test_a_labeler_is_sent_the_same_for_a_gold_task_as_for_any_other(site: Site) -> None:
    researcher = a_researcher_who_answered_two(site)
    researcher.post("/batches/new/rank", fields("rank", gold="2"))
    labeler = site.browser(site.person())

    def sent() -> dict[str, str]:
        paths = ["/", "/history", "/questions", "/instructions", "/account"]
        paths += [f"/api/v1/{name}" for name in ("session", "me", "waiting", "assignments", "history")]
        for number in given:
            paths += [f"/tasks/{number}", f"/tasks/{number}/compare?first=A&second=B", f"/api/v1/assignments/{number}"]
        pages = {path: labeler.get(path) for path in paths}
        assert {path: page.status_code for path, page in pages.items() if page.status_code != 200} == {}
        return {path: page.text for path, page in pages.items()}

    first = labeler.json("POST", "/api/v1/claim", {"kind": "rank"}).json()["assignment"]
    given = [first["id"]]
    working = sent()
    given += rank_everything(labeler)
    answered = sent()
    assert not any(re.search(r"\bgold\b", text, re.I) for pages in (working, answered) for text in pages.values())
    with site.database.write() as connection:
        done = connection.execute(update(task).where(task.c.batch_id == 2).values(gold=None))
        assert done.rowcount == 2, "both were gold"
    assert sent() == answered
    assert labeler.get("/api/v1/events").status_code == 403
