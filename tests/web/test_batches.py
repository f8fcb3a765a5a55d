from __future__ import annotations

import re

import pytest
from sqlalchemy import select
from tests.web.site import Site

from heedful.records import Prompt, Response
from heedful.store import items
from heedful.store.kinds import TaskKind
from heedful.store.tables import batch, task
from heedful.web.batches import MADE_HERE

PHASES = {"flag_sensitive": "screening", "self_assess": "screening", "rate": "evaluation", "toxicity": "evaluation"}
MAIL = "Write to jane.roe@example.org about the roof"


@pytest.fixture
def site(site: Site) -> Site:
    with site.database.write() as connection:
        prompts = [Prompt(id=f"p{i}", text=f"Question {i}?", language="en") for i in range(3)]
        prompts.append(Prompt(id="mail", text=MAIL, split="test", metadata={"needs_review": True}))
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
    assert (page.status_code, "3 prompts fit" in page.text) == (200, True)
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
