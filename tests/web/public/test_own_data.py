"""Users from outside: they join by invitation, talk to models, have keys and their own data, and see nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.labeling.usage.talk import ALPHA, a_key, answer_all, begin, compare
from tests.web.fake_models import FakeModels
from tests.web.site import PASSWORD, Site, csrf_of, make_site
from tests.web.work import add_tasks

from heedful.labeling.database.usage_tables import api_request, conversation
from heedful.labeling.people import accounts
from heedful.labeling.usage import admission, blind_votes, feedback, own_data, usage_log
from heedful.labeling.usage.admission import Outcome


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.app.state.model_server = FakeModels().in_process()
    yield made
    made.database.close()


def ask_by_key(site: Site, secret: str, text: str) -> None:
    admitted = admission.admit(site.database, secret, "chat")
    asked = [{"role": "user", "content": text}]
    admission.finish(site.database, admitted, Outcome(status=200, model="m", flags=[], request=asked, response=["Yes."]))


def test_a_user_joins_by_invitation_and_lands_on_the_playground(site: Site) -> None:
    admin = site.browser(site.person("admin"))
    shown = admin.post("/admin/invites", {"role": "user", "number": "1"})
    token = shown.text.partition("/join/")[2].partition("<")[0].partition('"')[0]
    browser = site.nobody()
    form = {"name": "Ulla", "email": "ulla@example.org", "password": PASSWORD, "password_again": PASSWORD}
    done = browser.post(f"/join/{token}", data={"csrf": csrf_of(browser.get(f"/join/{token}").text), **form})
    assert (done.status_code, done.headers["location"]) == (303, "/playground")
    assert browser.get("/").headers["location"] == "/playground"
    page = browser.get("/playground").text
    assert ">Your data</a>" in page
    assert ">Tasks</a>" not in page
    assert 'value="rank"' not in page
    for path in ("/history", "/instructions", "/questions", "/console", "/batches", "/admin/people", "/tasks/1"):
        assert browser.get(path).status_code == 403, path
    assert browser.get("/api/v1/waiting").status_code == 403


def test_a_user_gets_no_task_and_ranks_nothing(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    user = site.browser(site.person("user"))
    assert user.post("/tasks/claim", {"kind": "demonstrate"}).status_code == 403
    assert user.json("POST", "/api/v1/claim", {}).status_code == 403
    refused = user.post("/playground", {"model": ALPHA, "text": "x", "layout": "rank", "num_answers": "4"})
    assert (refused.status_code, "Only labelers rank answers" in refused.text) == (422, True)


def test_what_users_write_may_train_unless_they_say_no(site: Site) -> None:
    me = site.person("user")
    with site.database.write() as connection:
        compare(connection, me, text="Name a river.")
        compare(connection, me, text="Name a lake.", training=False)
        assert [row["messages"][-1]["content"] for _, row in usage_log.prompt_rows(connection)] == ["Name a river."]


def fill(site: Site) -> tuple[int, int]:
    """Two people with a conversation and a key each."""
    people = site.person("user"), site.person("labeler")
    for person_id in people:
        with site.database.write() as connection:
            view = compare(connection, person_id, text=f"Question of {person_id}.")
            blind_votes.vote(connection, view.turns[0].id, person_id, choice="tie", position=None)
            feedback.keep(connection, view.turns[0].answers[0].id, person_id, kind="critique", text="Too short.")
            answer_all(connection, begin(connection, person_id, "Second."), "Answer.")
            _, secret = a_key(connection, person_id)
        ask_by_key(site, secret, f"By key of {person_id}.")
    return people


def test_the_page_counts(site: Site) -> None:
    me, _ = fill(site)
    with site.database.read() as connection:
        found = own_data.own_data(connection, me)
    assert (found.conversations, found.turns, found.usable_turns, found.votes, found.feedback) == (2, 2, 2, 1, 1)
    assert (found.keys, found.requests, found.kept_texts) == (1, 1, 1)
    page = site.browser(me).get("/your-data").text
    assert "2, with 2 turns; 2 turns may be used for training" in page
    assert "Your answers to labeling tasks" not in page


def test_the_copy_holds_ones_own_data_and_no_hidden_names(site: Site) -> None:
    me, other = fill(site)
    with site.database.write() as connection:
        compare(connection, me, text="Not voted on.")
    got = site.browser(me).post("/your-data/download")
    assert got.headers["content-disposition"] == 'attachment; filename="your-data.jsonl"'
    rows: list[dict[str, Any]] = [json.loads(line) for line in got.text.splitlines()]
    assert [row["kind"] for row in rows] == ["conversation", "conversation", "conversation", "key", "request"]
    assert rows[0]["turns"][0]["answers"][0]["critique"] == "Too short."
    assert {answer["model"] for answer in rows[2]["turns"][0]["answers"]} == {None}
    assert rows[4]["request"] == [{"role": "user", "content": f"By key of {me}."}]
    assert f"of {other}." not in got.text


def test_deleting_everything_deletes_ones_own_alone(site: Site) -> None:
    me, other = fill(site)
    browser = site.browser(me)
    refused = browser.post("/your-data/delete")
    assert (refused.status_code, "Nothing was deleted" in refused.text) == (422, True)
    done = browser.post("/your-data/delete", {"sure": "yes"})
    assert (done.status_code, done.headers["location"]) == (303, "/your-data")
    assert "Deleted: 2 conversations and the texts of 1 request." in browser.get("/your-data").text
    with site.database.read() as connection:
        mine, theirs = (own_data.own_data(connection, person_id) for person_id in (me, other))
        assert (mine.conversations, mine.votes, mine.feedback, mine.kept_texts, mine.usable_requests) == (0, 0, 0, 0, 0)
        assert (mine.keys, mine.requests) == (1, 1)
        assert (theirs.conversations, theirs.votes, theirs.feedback, theirs.kept_texts) == (2, 1, 1, 1)
        assert list(connection.execute(select(conversation.c.person_id).distinct()).scalars()) == [other]
        assert connection.execute(select(api_request.c.request).order_by(api_request.c.id).limit(1)).scalar_one() is None
        assert f"of {me}." not in str(list(usage_log.prompt_rows(connection)))


def test_where_people_land(tmp_path: Path) -> None:
    """Without a project and a batch there are only models to talk to, as after `heedful up`."""
    site = make_site(tmp_path, model_server="http://127.0.0.1:1/v1")

    def landed() -> str:
        browser = site.nobody()
        form = {"csrf": csrf_of(browser.get("/login").text), "email": "person1@example.org", "password": PASSWORD}
        return browser.post("/login", data=form).headers["location"]

    site.person("admin")
    assert landed() == "/playground"
    add_tasks(site.database, "demonstrate")
    assert landed() == "/console"
    with site.database.write() as connection:
        site_admin = accounts.all_people(connection)[0].id
        accounts.add_person(connection, name="B", email="b@example.org", role="admin", group="training", password_hash="x")
        accounts.change_person(connection, site_admin, by=site_admin, role="user", group="training", daily_limit=None)
    assert landed() == "/playground"
    site.database.close()
