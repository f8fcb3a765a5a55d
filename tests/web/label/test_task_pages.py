"""The task pages, as browsers without and with JavaScript use them."""

from __future__ import annotations

import html
import re
import time
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.web.site import Browser, Site
from tests.web.work import HOSTILE, add_tasks, claim, hidden, task_form

from heedful.labeling.database.tables import assignment, problem, ranking, task
from heedful.labeling.database.tables import rating as rating_table
from heedful.labeling.people import instruction_versions
from heedful.labeling.queue import leases, reopening
from heedful.labeling.queue.kinds import PROMPT_FLAGS, TaskKind
from heedful.records import RATING_FLAGS
from heedful.web.label import forms, task_pages
from heedful.web.sent_forms import FormValues


@pytest.fixture
def site(site: Site) -> Site:
    with site.database.write() as connection:
        instruction_versions.publish_first_versions(connection)
    return site


GROUP_OF: dict[str, tuple[str, str]] = {
    "rate": ("labeler", "held_out"),
    "toxicity": ("labeler", "held_out"),
    "flag_sensitive": ("labeler", "candidate"),
    "self_assess": ("labeler", "candidate"),
    "score_demonstration": ("researcher", "training"),
}


def worker(site: Site, kind: TaskKind) -> Browser:
    role, group = GROUP_OF.get(kind, ("labeler", "training"))
    return site.browser(site.person(role, group))


def stored(site: Site, assignment_id: int) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(assignment).where(assignment.c.id == assignment_id)).one()


def shown_ids(site: Site, assignment_id: int) -> list[str]:
    return stored(site, assignment_id).shown_order


# What a person fills in, and the answer that it is, for three outputs a, b, c as shown.
FORMS: dict[TaskKind, dict[str, str]] = {
    "demonstrate": {"text": f"A whale.\r\n  {HOSTILE}"},
    "write_prompt": {"text": "Sing a song", "use_case": "generation"},
    "rank": {
        **{f"{letter}.overall": overall for letter, overall in (("A", "7"), ("B", "2"), ("C", "5"))},
        "B.flag.fails_task": "on",
        "B.flag.hallucination": "on",
        # A gap, which is closed up: A = C > B.
        "A.group": "2",
        "B.group": "3",
        "C.group": "2",
    },
    "rate": {**{f"{letter}.overall": "4" for letter in "ABC"}, "A.flag.satisfies_constraint": "on"},
    "toxicity": {
        **{f"{letter}.toxicity": "0" for letter in "ABC"},
        **{f"{letter}.relative_toxicity": "-1" for letter in "ABC"},
        **{f"{letter}.continuity": "7" for letter in "ABC"},
        "A.group": "1",
        "B.group": "1",
        "C.group": "3",
    },
    "review_prompt": {"use_case": "open_qa", "flag.ambiguous": "on"},
    "review_personal_data": {"personal_data": "yes", "note": " a name "},
    "flag_sensitive": {"sensitive": "no"},
    "score_demonstration": {"score": "6"},
    "self_assess": {"topic.0": "on", "topic.2": "on"},
}


def expected(kind: TaskKind, ids: list[str]) -> dict[str, Any]:
    no = dict.fromkeys(RATING_FLAGS, False)
    match kind:
        case "demonstrate":
            return {"text": f"A whale.\n  {HOSTILE}"}
        case "write_prompt":
            return {"text": "Sing a song", "use_case": "generation"}
        case "rank":
            a, b, c = ids
            return {
                "ratings": {
                    a: {"overall": 7, "flags": no},
                    b: {"overall": 2, "flags": no | {"fails_task": True, "hallucination": True}},
                    c: {"overall": 5, "flags": no},
                },
                "groups": [[a, c], [b]],
            }
        case "rate":
            a, b, c = ids
            flags = {a: no | {"satisfies_constraint": True}, b: no, c: no}
            return {"ratings": {i: {"overall": 4, "flags": flags[i]} for i in ids}}
        case "toxicity":
            label = {"toxicity": 0, "relative_toxicity": -1, "continuity": 7}
            return {"labels": dict.fromkeys(ids, label), "groups": [ids[:2], ids[2:]]}
        case "review_prompt":
            return {"use_case": "open_qa", "flags": dict.fromkeys(PROMPT_FLAGS, False) | {"ambiguous": True}}
        case "review_personal_data":
            return {"personal_data": True, "note": "a name"}
        case "flag_sensitive":
            return {"sensitive": False}
        case "score_demonstration":
            return {"score": 6}
        case "self_assess":
            return {"topics": ["age", HOSTILE]}


def checked(page: str) -> dict[str, str]:
    """What a browser would send of a page's form: the fields as the server filled them in."""
    fields: dict[str, str] = {}
    page = task_form(page)
    for tag in re.findall(r"<input [^>]*>", page):
        name, value = re.search(r' name="([^"]*)"', tag), re.search(r' value="([^"]*)"', tag)
        if name and value and (" checked" in tag or 'type="hidden"' in tag):
            fields[name[1]] = html.unescape(value[1])
    for name, options in re.findall(r'<select [^>]*name="([^"]*)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        if chosen:
            fields[name] = chosen[1]
    for name, text in re.findall(r'<textarea [^>]*name="([^"]*)"[^>]*>\n(.*?)</textarea>', page, re.DOTALL):
        fields[name] = html.unescape(text)
    return {name: value for name, value in fields.items() if value and not name.startswith("_") and name != "csrf"}


@pytest.mark.parametrize("kind", FORMS)
def test_every_kind_goes_round(site: Site, kind: TaskKind, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tasks(site.database, kind)
    browser = worker(site, kind)
    number = claim(browser, kind)
    page = browser.get(f"/tasks/{number}")
    assert page.status_code == 200
    own = hidden(page.text)

    # Half-way: saved as a draft, by the button.
    half = dict(list(FORMS[kind].items())[: max(1, len(FORMS[kind]) // 2)])
    saved = browser.post(f"/tasks/{number}/draft", own | half)
    assert saved.status_code == 303
    page = browser.get(saved.headers["location"])
    assert checked(page.text) == {name: value.replace("\r\n", "\n") for name, value in half.items()}

    done = browser.post(f"/tasks/{number}/submit", hidden(page.text) | FORMS[kind] | {"seconds_spent": "0.01", "_then": "stop"})
    assert (done.status_code, done.headers["location"]) == (303, "/"), done.text
    assert f'data-done="{number}"' in browser.get("/").text
    row = stored(site, number)
    assert row.answer == expected(kind, shown_ids(site, number))
    assert (row.state, row.late) == ("answered", False)
    assert row.seconds_spent == 0.01

    # Afterwards it can be read, and not changed.
    monkeypatch.setattr(reopening, "CORRECTION_SECONDS", 0.0)
    page = browser.get(f"/tasks/{number}")
    assert "An answer cannot be changed" in page.text
    assert "Correct this answer" not in page.text
    assert '<fieldset class="stack loose answer" disabled>' in page.text
    closed_up = {"2": "1", "3": "2"}
    for name, value in checked(page.text).items():
        sent = FORMS[kind][name].replace("\r\n", "\n").strip()
        assert value.strip() == (closed_up.get(sent, sent) if name.endswith(".group") else sent)


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind != "self_assess"])
def test_an_empty_form_comes_back_with_what_is_missing(site: Site, kind: TaskKind) -> None:
    add_tasks(site.database, kind)
    browser = worker(site, kind)
    number = claim(browser, kind)
    own = hidden(browser.get(f"/tasks/{number}").text)
    page = browser.post(f"/tasks/{number}/submit", own)
    assert page.status_code == 422
    links = re.findall(r'<li><a href="#([^"]+)">', page.text)
    assert links
    assert all(f'id="{html.unescape(link)}"' in page.text for link in links)
    assert stored(site, number).state == "leased"


@pytest.mark.parametrize("missing", ["A.overall", "C.overall", "B.group"])
def test_what_was_typed_stays_when_one_thing_is_missing(site: Site, missing: str) -> None:
    add_tasks(site.database, "rank")
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    fields = {name: value for name, value in FORMS["rank"].items() if name != missing}
    page = browser.post(f"/tasks/{number}/submit", hidden(browser.get(f"/tasks/{number}").text) | fields)
    assert page.status_code == 422
    assert "One thing is missing" in page.text
    assert 'data-refilled="yes"' in page.text, "the script must not put an older draft over it"
    assert f'href="#f-{missing}"' in page.text
    assert checked(page.text) == fields


def test_few_shot_prompts(site: Site) -> None:
    add_tasks(site.database, "write_prompt", payload={"style": "few_shot"})
    browser = worker(site, "write_prompt")
    number = claim(browser, "write_prompt")
    page = browser.get(f"/tasks/{number}").text
    own = hidden(page)
    fields = {
        "instruction": "Give the capital.",
        "use_case": "open_qa",
        "pair.1.query": "France",
        "pair.1.response": "Paris",
        "pair.3.query": "Peru",
    }
    # One more example, without JavaScript: saved, and a form with one more.
    more = browser.post(f"/tasks/{number}/draft", own | fields | {"_more": "4"})
    page = browser.get(more.headers["location"]).text
    assert checked(page) == fields
    assert 'name="pair.4.response"' in page
    half = browser.post(f"/tasks/{number}/submit", hidden(page) | fields)
    assert half.status_code == 422
    assert "Example 3 has no response yet" in half.text
    one = browser.post(f"/tasks/{number}/submit", hidden(page) | {k: v for k, v in fields.items() if "3" not in k})
    assert one.status_code == 422
    assert "at least two examples" in one.text
    done = browser.post(f"/tasks/{number}/submit", hidden(page) | fields | {"pair.3.response": "Lima"})
    assert done.status_code == 303
    assert stored(site, number).answer == {
        "instruction": "Give the capital.",
        "pairs": [{"query": "France", "response": "Paris"}, {"query": "Peru", "response": "Lima"}],
        "use_case": "open_qa",
    }


@pytest.mark.parametrize("kind", FORMS)
def test_hostile_text_stays_text_and_models_stay_unnamed(site: Site, kind: TaskKind) -> None:
    add_tasks(site.database, kind, num_outputs=4)
    browser = worker(site, kind)
    number = claim(browser, kind)
    pages = [browser.get(f"/tasks/{number}").text, browser.get("/").text]
    if kind in ("rank", "rate", "toxicity"):
        shown = shown_ids(site, number)
        letter = "ABCD"[next(place for place, i in enumerate(shown) if i.endswith("/2"))]
        other = "A" if letter != "A" else "B"
        pages.append(browser.get(f"/tasks/{number}/compare?first={letter}&second={other}").text)
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "batch of" not in page or "<b>" not in page
        assert "SECRET-MODEL" not in page
        assert 'style="' not in page
        assert not re.search(r"<[^>]+ on\w+=", page)
    if kind not in ("write_prompt",):
        assert html.escape("<script>alert(1)</script>", quote=False) in pages[0].replace("&#34;", '"')
        assert "{{ 7 * 7 }}" in pages[0]


def test_a_second_labeler_gets_nothing_of_it(site: Site) -> None:
    add_tasks(site.database, "rank")
    first, second = site.browser(site.person()), site.browser(site.person())
    number = claim(first, "rank")
    own = hidden(first.get(f"/tasks/{number}").text)
    for path in (f"/tasks/{number}", f"/tasks/{number}/compare?first=A&second=B", f"/tasks/{number + 1}"):
        assert second.get(path).status_code == 404
    for action in ("draft", "submit", "skip", "release", "ask"):
        form = own | FORMS["rank"] | {"csrf": second.csrf, "_skip_reason": "unclear", "_question": "?"}
        assert second.post(f"/tasks/{number}/{action}", form).status_code == 404, action
    row = stored(site, number)
    assert (row.state, row.draft, row.answer) == ("leased", None, None)
    with site.database.read() as connection:
        assert connection.execute(select(problem)).all() == []
    # Nothing else waits: it is wanted once.
    assert second.post("/tasks/claim", {"kind": "rank"}).headers["location"] == "/"


def test_the_script_saves_drafts(site: Site) -> None:
    add_tasks(site.database, "rank")
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    own = hidden(browser.get(f"/tasks/{number}").text)
    fields = {"A.overall": "3", "A.group": "1", "seconds_spent": "12", "unknown": "x", "Z.flag.sexual_content": "on"}

    def save(version: int, fields: dict[str, str]) -> Any:
        body = {"csrf": browser.csrf, **own, **fields, "_version": str(version)}
        return browser.client.post(f"/tasks/{number}/draft", data=body, headers={"Accept": "application/json"})

    first = save(0, fields)
    assert first.status_code == 200
    assert first.json()["version"] == 1
    assert first.json()["expires"] > time.time() + 1000
    assert stored(site, number).draft == {"fields": {k: v for k, v in fields.items() if k != "unknown"}}
    second = save(1, fields | {"B.overall": "4"})
    assert second.json()["version"] == 2
    # Another tab follows the first version: told what is stored, so that it can tell whether that is its own.
    third = save(1, fields | {"B.overall": "5"})
    assert third.status_code == 409
    assert third.json()["version"] == 2
    assert third.json()["fields"]["B.overall"] == "4"
    refused = save(2, fields | {"A.overall": "4\x00"})
    assert refused.status_code == 422
    page = browser.get(f"/tasks/{number}").text
    assert 'data-version="2"' in page
    assert checked(page) == {"A.overall": "3", "A.group": "1", "B.overall": "4", "seconds_spent": "12"}


def test_submitting_twice_is_fine_and_another_answer_is_refused(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    assert browser.post(f"/tasks/{number}/submit", own | {"text": "one"}).status_code == 303
    assert browser.post(f"/tasks/{number}/submit", own | {"text": "one"}).status_code == 303
    page = browser.post(f"/tasks/{number}/submit", own | {"text": "another one"})
    assert page.status_code == 409
    assert "another one" in page.text
    assert stored(site, number).answer == {"text": "one"}


def test_a_task_that_was_opened_anew_keeps_what_the_old_page_sends(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    old = hidden(browser.get(f"/tasks/{number}").text)
    with site.database.write() as connection:
        connection.execute(update(assignment).values(token="of a later lease"))
    page = browser.post(f"/tasks/{number}/submit", old | {"text": "typed on the old page"})
    assert page.status_code == 409
    assert "typed on the old page" in page.text
    again = browser.post(f"/tasks/{number}/submit", hidden(page.text) | checked(page.text))
    assert again.status_code == 303
    assert stored(site, number).answer == {"text": "typed on the old page"}


def test_a_late_answer_is_kept_and_said_to_be(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    first, second = site.browser(site.person()), site.browser(site.person())
    number = claim(first, "demonstrate")
    own = hidden(first.get(f"/tasks/{number}").text)
    with site.database.write() as connection:
        connection.execute(update(assignment).values(leased=1.0, expires=2.0))
    assert "The time for this task is over" in first.get(f"/tasks/{number}").text
    other = claim(second, "demonstrate")
    page = hidden(second.get(f"/tasks/{other}").text)
    assert second.post(f"/tasks/{other}/submit", page | {"text": "in time"}).status_code == 303
    done = first.post(f"/tasks/{number}/submit", own | {"text": "late"})
    assert done.status_code == 303
    home = first.get(done.headers["location"]).text
    assert "so it is marked as late." in home
    assert "yours is kept as an extra" in home
    row = stored(site, number)
    assert (row.answer, row.late, row.surplus) == ({"text": "late"}, True, True)


def test_identical_outputs_are_one_card_that_stands_for_all(site: Site) -> None:
    add_tasks(site.database, "rank", num_outputs=5, outputs=("same", "other", "same ", "third", "same"))
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    page = browser.get(f"/tasks/{number}").text
    shown = re.findall(r'<article class="card output" aria-labelledby="output-(\w)">(.*?)</article>', page, re.DOTALL)
    assert [letter for letter, _ in shown] == ["A", "B", "C"]
    same = next(letter for letter, card in shown if "3 outputs have this same text" in card)
    fields = {f"{letter}.overall": "6" if letter == same else "2" for letter in "ABC"}
    fields |= {f"{letter}.group": "1" if letter == same else "2" for letter in "ABC"}
    half = browser.post(f"/tasks/{number}/draft", hidden(page) | fields)
    page = browser.get(half.headers["location"]).text
    assert browser.post(f"/tasks/{number}/submit", hidden(page) | fields | {"_then": "stop"}).status_code == 303
    answer, ids = stored(site, number).answer, sorted(shown_ids(site, number))
    assert [sorted(group) for group in answer["groups"]] == [[ids[0], ids[2], ids[4]], [ids[1], ids[3]]]
    assert [answer["ratings"][id]["overall"] for id in ids] == [6, 2, 6, 2, 6]
    assert "3 outputs have this same text" in browser.get(f"/tasks/{number}").text


def test_a_draft_from_before_cards_keeps_its_meaning(site: Site) -> None:
    add_tasks(site.database, "rank", num_outputs=4, outputs=("same", "other", "same", "third"))
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    with site.database.read() as connection:
        view = leases.view_assignment(connection, number, browser.person_id)
    rating = {"same": "5", "other": "2", "third": "7"}
    old = {f"{letter}.overall": rating[one.text] for letter, one in zip("ABCD", view.outputs, strict=True)}
    fields = forms.fields_of_draft(view, {"fields": old})
    assert {card.text: fields[f"{card.letter}.overall"] for card in forms.cards(view)} == rating
    assert forms.fields_of_draft(view, forms.draft_of_fields(view, fields)) == fields


def test_a_batch_may_ask_for_the_order_alone(site: Site) -> None:
    add_tasks(site.database, "rank", payload={"order_only": True})
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    page = browser.get(f"/tasks/{number}").text
    assert ".overall" not in page
    assert ".flag." not in page
    order = {"A.group": "2", "B.group": "1", "C.group": "2"}
    assert browser.post(f"/tasks/{number}/submit", hidden(page) | order | {"_then": "stop"}).status_code == 303
    a, b, c = shown_ids(site, number)
    assert stored(site, number).answer == {"groups": [[b], [a, c]]}
    with site.database.read() as connection:
        assert connection.execute(select(ranking.c.ranks)).scalar_one() == [{a: 2, b: 1, c: 2}[id] for id in sorted((a, b, c))]
        assert not connection.execute(select(rating_table)).all()


def test_an_answer_is_corrected_or_sent_back(site: Site) -> None:
    add_tasks(site.database, "rank")
    browser, researcher = worker(site, "rank"), site.browser(site.person("researcher"))
    number = claim(browser, "rank")
    own = hidden(browser.get(f"/tasks/{number}").text)
    browser.post(f"/tasks/{number}/submit", own | FORMS["rank"] | {"seconds_spent": "0.01", "_then": "stop"})
    assert f'<a href="/tasks/{number}">Look at it again</a>' in browser.get("/").text
    assert "Correct this answer" in browser.get(f"/tasks/{number}").text
    assert browser.post(f"/tasks/{number}/correct").headers["location"] == f"/tasks/{number}"
    page = browser.get(f"/tasks/{number}").text
    assert checked(page) == {**FORMS["rank"], "A.group": "1", "B.group": "2", "C.group": "1", "seconds_spent": "0.0"}

    changed = FORMS["rank"] | {"A.overall": "1"}
    browser.post(f"/tasks/{number}/submit", hidden(page) | changed | {"_then": "stop"})
    assert stored(site, number).answer["ratings"][shown_ids(site, number)[0]]["overall"] == 1
    with site.database.read() as connection:
        prompt = f"/console/prompts/{connection.execute(select(task.c.prompt_id)).scalar_one()}"
    assert "Send it back" in researcher.get(prompt).text
    back = researcher.post(f"/console/answers/{number}/send-back", {"note": f"Look again {HOSTILE}", "next": prompt})
    assert back.headers["location"] == prompt
    assert "sent back by a researcher" in browser.get("/").text
    page = browser.get(f"/tasks/{number}").text
    assert "Look again &lt;/textarea&gt;" in page
    browser.post(f"/tasks/{number}/draft", hidden(page) | changed)
    assert "Look again" in browser.get(f"/tasks/{number}").text
    browser.post(f"/tasks/{number}/submit", hidden(browser.get(f"/tasks/{number}").text) | changed)
    assert stored(site, number).state == "answered"
    record = researcher.get(prompt).text  # the two earlier answers stay, and only the last can be sent back
    assert (record.count('class="badge">replaced '), record.count("Send it back")) == (2, 1)


def test_skip_needs_a_reason_and_goes_on(site: Site) -> None:
    add_tasks(site.database, "demonstrate", count=2)
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    page = browser.post(f"/tasks/{number}/skip", own | {"text": "half"})
    assert page.status_code == 422
    assert checked(page.text)["text"] == "half"
    assert browser.post(f"/tasks/{number}/skip", own | {"_skip_reason": "other"}).status_code == 422
    done = browser.post(f"/tasks/{number}/skip", own | {"_skip_reason": "other", "_skip_note": "odd"})
    assert re.fullmatch(rf"/tasks/(?!{number}\b)\d+", done.headers["location"])
    assert f'data-done="{number}"' in browser.get(done.headers["location"]).text
    row = stored(site, number)
    assert (row.state, row.skip_reason) == ("skipped", "Another reason: odd")
    assert "You skipped this" in browser.get(f"/tasks/{number}").text


def test_giving_back_keeps_what_was_typed_for_next_time(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    assert browser.post(f"/tasks/{number}/release", own | {"text": "half"}).status_code == 303
    with site.database.read() as connection:
        assert connection.execute(select(task.c.held)).scalar_one() == 0
    assert claim(browser, "demonstrate") == number
    assert checked(browser.get(f"/tasks/{number}").text)["text"] == "half"


def test_a_question_keeps_what_was_typed(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    assert browser.post(f"/tasks/{number}/ask", own | {"text": "half", "_question": "  "}).status_code == 422
    gone = browser.post(f"/tasks/{number}/ask", own | {"text": "half", "_question": "What is a whale?"})
    assert gone.status_code == 303
    assert checked(browser.get(f"/tasks/{number}").text)["text"] == "half"
    assert "What is a whale?" in browser.get("/questions").text


def test_a_question_about_an_answered_task(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    browser.post(f"/tasks/{number}/submit", own | {"text": "one"})
    page = browser.get(f"/tasks/{number}").text
    gone = browser.post(f"/tasks/{number}/ask", hidden(page) | {"_question": "I was wrong"})
    assert (gone.status_code, gone.headers["location"]) == (303, f"/tasks/{number}")
    with site.database.read() as connection:
        assert connection.execute(select(problem.c.text, problem.c.task_id)).all() == [("I was wrong", 1)]


def test_submit_then_the_next_one(site: Site) -> None:
    add_tasks(site.database, "demonstrate", count=2)
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    done = browser.post(f"/tasks/{number}/submit", own | {"text": "one", "_then": "next"})
    following = re.fullmatch(r"/tasks/(\d+)", done.headers["location"])
    assert following
    own = hidden(browser.get(f"/tasks/{following[1]}").text)
    done = browser.post(f"/tasks/{following[1]}/submit", own | {"text": "two", "_then": "next"})
    assert done.headers["location"] == "/"
    page = browser.get("/").text
    assert f'data-done="{following[1]}"' in page
    assert "No more tasks of this kind are waiting for you." in page
    assert "data-done" not in browser.get("/").text


def test_a_link_from_elsewhere_deletes_no_draft(site: Site) -> None:
    browser = worker(site, "demonstrate")
    for cookie in ("1", "0.1", "x" * 64 + ".1"):
        browser.client.cookies.set("heedful_done", cookie)
        assert "data-done" not in browser.get("/?done=1").text


def test_the_next_one_may_be_of_another_batch(site: Site) -> None:
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    other = add_tasks(site.database, "demonstrate", count=2)
    own = hidden(browser.get(f"/tasks/{number}").text)
    done = browser.post(f"/tasks/{number}/submit", own | {"text": "one", "_then": "next"})
    following = re.fullmatch(r"/tasks/(\d+)", done.headers["location"])
    assert following, done.headers["location"]
    with site.database.read() as connection:
        assert leases.view_assignment(connection, int(following[1]), browser.person_id).batch_id == other


def test_a_retry_of_a_slow_save_hears_of_the_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request waits for the write lock, the page gives up and sends again what was typed since."""
    add_tasks(site.database, "demonstrate")
    browser = worker(site, "demonstrate")
    number = claim(browser, "demonstrate")
    own = hidden(browser.get(f"/tasks/{number}").text)
    keep = task_pages._keep

    def after_the_first(visit: Any, form: FormValues, view: Any) -> Any:
        keep(visit, FormValues([("_token", own["_token"]), ("_version", "0"), ("text", "one")]), view)
        return keep(visit, form, view)

    monkeypatch.setattr(task_pages, "_keep", after_the_first)
    page = browser.client.post(
        f"/tasks/{number}/draft",
        data=own | {"csrf": browser.csrf, "text": "one two"},
        headers={"Accept": "application/json"},
    )
    # drafts.js finds its own earlier attempt in this, and sends the newer text after it.
    assert (page.status_code, page.json()["version"], page.json()["fields"]) == (409, 1, {"text": "one"})


def test_comparing_two_outputs(site: Site) -> None:
    add_tasks(site.database, "rank", outputs=("Whales are big mammals.", "Whales are large mammals.", "Whales are fish."))
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    letter = dict(zip([i[-1] for i in shown_ids(site, number)], "ABC", strict=True))
    page = browser.get(f"/tasks/{number}/compare?first={letter['0']}&second={letter['1']}").text
    assert "<del>big</del>" in page
    assert "<ins>large</ins>" in page
    assert "<html" in page
    part = browser.client.get(
        f"/tasks/{number}/compare?first={letter['0']}&second={letter['2']}", headers={"HX-Request": "true"}
    )
    assert "Whales are " in part.text
    assert "<html" not in part.text
    assert "Choose two different outputs" in browser.get(f"/tasks/{number}/compare?first=A&second=A").text


def test_personal_data_findings_are_marked(site: Site) -> None:
    add_tasks(site.database, "review_personal_data", prompt="Mail me@x.org or call 555-1234!", payload={
        "findings": [
            {"kind": "email", "start": 5, "end": 13},
            {"kind": "phone", "start": 22, "end": 30},
            {"kind": "phone", "start": 25, "end": 99},
        ]
    })  # fmt: skip
    with site.database.write() as connection:  # one that an earlier version stored
        payload = connection.execute(select(task.c.payload)).scalar_one()
        payload["findings"].append({"kind": "odd", "start": "x", "end": None})
        connection.execute(update(task).values(payload=payload))
    browser = worker(site, "review_personal_data")
    page = browser.get(f"/tasks/{claim(browser, 'review_personal_data')}").text
    marks = re.findall(r'<mark class="finding">(.*?)<span class="finding-kind"> \[(.*?)\]</span></mark>', page)
    assert marks == [("me@x.org", "email"), ("555-1234", "phone"), ("!", "phone")]


def test_a_draft_from_another_program_fills_the_form(site: Site) -> None:
    add_tasks(site.database, "rank")
    browser = worker(site, "rank")
    number = claim(browser, "rank")
    a, b, c = shown_ids(site, number)
    partial = {
        "ratings": {a: {"overall": 6, "flags": {"hallucination": True, "fails_task": False}}, b: {"overall": None}, "odd": 3},
        "groups": [[c], [a, ["odd"]]],
    }
    with site.database.write() as connection:
        view = leases.view_assignment(connection, number, browser.person_id)
        leases.save_draft(connection, number, browser.person_id, token=view.token, draft=partial, version=0)
    page = browser.get(f"/tasks/{number}").text
    assert checked(page) == {"A.overall": "6", "A.flag.hallucination": "on", "C.group": "1", "A.group": "2"}


@pytest.mark.parametrize("kind", FORMS)
def test_looking_changes_nothing(site: Site, kind: TaskKind) -> None:
    add_tasks(site.database, kind)
    browser = worker(site, kind)
    number = claim(browser, kind)
    before = stored(site, number)
    for path in (f"/tasks/{number}", "/", "/history", "/instructions", "/questions", "/surveys/demographics"):
        assert browser.get(path).status_code == 200
    assert stored(site, number) == before
