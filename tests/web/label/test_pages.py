"""The labeler's pages around the tasks."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select, update
from tests.web.label.test_task_pages import FORMS
from tests.web.site import Site
from tests.web.work import HOSTILE, add_tasks, claim, hidden

from heedful.labeling.database.tables import assignment, person, survey_answer, survey_taken
from heedful.labeling.people import instruction_versions, problems
from heedful.web.label import pages


@pytest.fixture
def site(site: Site) -> Site:
    with site.database.write() as connection:
        instruction_versions.publish_first_versions(connection)
    return site


def test_home_shows_what_waits_what_is_begun_and_what_is_done(site: Site) -> None:
    add_tasks(site.database, "demonstrate", count=12)
    add_tasks(site.database, "rate")  # of another phase
    browser = site.browser(site.person())
    page = browser.get("/").text
    assert "<strong>12</strong> wait" in page
    assert "Rate outputs" not in page
    assert "0 answered in the last 24 hours, 0 in all" in page
    assert "usually takes" not in page

    number = claim(browser, "demonstrate")
    page = browser.get("/").text
    assert "Continue what you started" in page
    assert f'href="/tasks/{number}"' in page
    own = hidden(browser.get(f"/tasks/{number}").text)
    with site.database.write() as connection:
        connection.execute(update(assignment).values(leased=assignment.c.leased - 1000))
    browser.post(f"/tasks/{number}/submit", own | FORMS["demonstrate"] | {"seconds_spent": "240"})
    page = browser.get("/").text
    assert "one usually takes 4 min" in page
    assert "1 answered in the last 24 hours, 1 in all" in page
    assert "Continue what you started" not in page


def test_the_daily_limit_is_shown_and_kept(site: Site) -> None:
    add_tasks(site.database, "demonstrate", count=2)
    browser = site.browser(site.person())
    with site.database.write() as connection:
        connection.execute(update(person).values(daily_limit=1))
    assert "(1 more allowed)" in browser.get("/").text
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    browser.post(f"/tasks/{number}/submit", own | FORMS["demonstrate"])
    assert "You have reached your limit for 24 hours" in browser.get("/").text
    assert browser.post("/tasks/claim", {"kind": "demonstrate"}).headers["location"] == "/"


def test_changed_instructions_are_announced_until_read(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser, researcher = site.browser(site.person()), site.person("researcher")
    assert "Please read the instructions before you begin" in browser.get("/").text
    page = browser.get("/instructions/demonstrate/training").text
    assert "helpfulness to the user comes first" in page
    found = re.search(r"/instructions/(\d+)/acknowledge", page)
    assert found
    assert browser.post(f"/instructions/{found[1]}/acknowledge").headers["location"] == "/"
    assert "Please read" not in browser.get("/").text
    assert "You have confirmed that you read this version" in browser.get("/instructions/demonstrate/training").text

    with site.database.write() as connection:
        old = instruction_versions.current(connection, "demonstrate", "training")
        assert old is not None
        new = old.markdown.replace("no longer", "never longer") + f"\n{HOSTILE}\n"
        note = "Shorter. <b>Now</b>"
        instruction_versions.publish(connection, "demonstrate", "training", new, change_note=note, author_id=researcher)
    home = browser.get("/").text
    assert "have changed:" in home
    assert "Shorter. &lt;b&gt;Now" in home
    page = browser.get("/instructions/demonstrate/training").text
    assert "What changed since version 1, which you have read" in page
    assert "<del>no</del>" in page
    assert "<ins>never</ins>" in page
    assert "<script>" not in page.replace("<script src", "").replace('<script type="module"', "")
    assert 'href="javascript' not in page
    assert "This is an earlier version" in browser.get("/instructions/demonstrate/training?version=1").text
    assert browser.get("/instructions/demonstrate/training?version=3").status_code == 404

    # Read on the task's own page: back there.
    number = claim(browser, "demonstrate")
    page = browser.get(f"/tasks/{number}").text
    assert '<span class="badge warn">changed</span>' in page
    found = re.search(r'action="(/instructions/\d+/acknowledge)".*?name="next" value="([^"]+)"', page)
    assert found
    done = browser.post(found[1], {"next": found[2]})
    assert done.headers["location"] == f"/tasks/{number}"
    assert "badge warn" not in browser.get(f"/tasks/{number}").text
    elsewhere = browser.post(found[1], {"next": "https://evil.example"})
    assert elsewhere.headers["location"] == "/"


def test_instructions_of_other_phases_are_not_there(site: Site) -> None:
    browser = site.browser(site.person("labeler", "held_out"))
    assert browser.get("/instructions/rank/evaluation").status_code == 200
    for path in ("/instructions/rank/training", "/instructions/sing/evaluation", "/instructions/self_assess/evaluation"):
        assert browser.get(path).status_code == 404
    with site.database.read() as connection:
        training = instruction_versions.current(connection, "rank", "training")
    assert training is not None
    assert browser.post(f"/instructions/{training.id}/acknowledge").status_code == 404


def test_a_question_and_its_answer(site: Site) -> None:
    asker, other = site.browser(site.person()), site.browser(site.person())
    researcher = site.person("researcher")
    refused = asker.post("/questions", {"text": "  "})
    assert refused.status_code == 422
    too_long = asker.post("/questions", {"text": "x" * (problems.LONGEST + 1)})
    assert "x" * (problems.LONGEST + 1) in too_long.text
    assert asker.post("/questions", {"text": f"Why? {HOSTILE}"}).status_code == 303
    assert "Not answered yet" in asker.get("/questions").text
    with site.database.write() as connection:
        number = problems.own(connection, asker.person_id)[0].id
        problems.answer(connection, number, "Because.", answered_by=researcher)
    assert "answered a question of yours" in asker.get("/").text
    page = asker.get("/questions").text
    assert "Because." in page
    assert "<script>alert" not in page
    assert "Why?" not in other.get("/questions").text
    assert other.post(f"/questions/{number}/seen").status_code == 404
    assert asker.post(f"/questions/{number}/seen").status_code == 303
    assert "answered a question of yours" not in asker.get("/").text


def test_history_goes_back_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "HISTORY_LENGTH", 4)
    add_tasks(site.database, "demonstrate", count=6)
    browser = site.browser(site.person())
    assert "You have not answered anything yet" in browser.get("/history").text
    for _ in range(6):
        number = claim(browser, "demonstrate")
        own = hidden(browser.get(f"/tasks/{number}").text)
        browser.post(f"/tasks/{number}/submit", own | {"text": "x"})
    browser.get("/")  # (the message after the last one leads to it, too)
    page = browser.get("/history").text
    assert len(re.findall(r'href="/tasks/\d+"', page)) == 4
    older = re.search(r'href="(/history\?before=[^"]+)"', page)
    assert older
    rest = browser.get(older[1]).text
    assert len(re.findall(r'href="/tasks/\d+"', rest)) == 2
    assert not set(re.findall(r'href="/tasks/(\d+)"', page)) & set(re.findall(r'href="/tasks/(\d+)"', rest))
    assert "Older" not in rest


def test_a_survey_is_optional_and_taken_once(site: Site) -> None:
    browser = site.browser(site.person())
    assert "/surveys/demographics" in browser.get("/").text
    form = {"age": "25-34", "ethnicities": ["Latinx", "East Asian"], "gender": "", "nationality": " "}
    assert browser.post("/surveys/demographics", form).status_code == 303
    assert browser.post("/surveys/satisfaction", {"_decline": "yes", "glad": "Agree"}).status_code == 303
    with site.database.read() as connection:
        rows = connection.execute(select(survey_answer.c.answers)).scalars().all()
        assert rows == [{"age": "25-34", "ethnicities": ["East Asian", "Latinx"]}]
        assert len(connection.execute(select(survey_taken)).all()) == 2
    assert "/surveys/" not in browser.get("/").text
    assert "already took this survey" in browser.get("/surveys/demographics").text
    browser.post("/surveys/demographics", {"age": "65+"})
    with site.database.read() as connection:
        assert len(connection.execute(select(survey_answer)).all()) == 1
    assert browser.get("/surveys/horoscope").status_code == 404
    assert site.browser(site.person()).post("/surveys/demographics", {"age": "12"}).status_code == 422
