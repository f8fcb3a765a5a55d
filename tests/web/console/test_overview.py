"""The researchers' console through its pages: what it shows, and what it lets nobody do."""

from __future__ import annotations

import html
import json
import re
import time

import pytest
from sqlalchemy import select
from tests.labeling.labels_by_hand import Labels, form
from tests.web.site import Browser, Site
from tests.web.work import OUTPUTS, add_tasks, claim, hidden

from heedful.conversation import turns_of
from heedful.labeling.database.tables import assignment, batch, event, person, problem, screening_decision, task
from heedful.labeling.people import instruction_versions, problems, surveys
from heedful.labeling.queue import items
from heedful.labeling.queue.recording import Work, record_work
from heedful.records import Prompt
from heedful.web.console.kept import Kept
from heedful.web.console.quality_pages import _secret

PAGES = (
    "/console",
    "/console/agreement",
    "/console/quality",
    "/console/people",
    "/console/screening",
    "/console/instructions",
    "/console/instructions/training/rank",
    "/console/questions",
    "/console/questions?show=all",
    "/console/data",
    "/console/data?kind=ranking",
    "/console/surveys",
)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'><b>bold</b> {{ 7 * 7 }}"


@pytest.fixture
def researcher(site: Site) -> Browser:
    return site.browser(site.person("researcher", name="Rex"))


def filled(site: Site) -> dict[str, int]:
    """Two labelers on one ranking of three and one demonstration; hostile text everywhere."""
    with site.database.write() as connection:
        make = Labels(connection)
        who = {name: make.person(name) for name in ("ann", "bea")} | {"carl": make.person("carl", group="candidate")}
        who["batch"] = make.batch(name=f"Batch {HOSTILE}")
        make.prompt("p/1?#", f"Prompt {HOSTILE}", use_case="chat", owner=HOSTILE, details={"note": HOSTILE})
        who["task"] = make.task(who["batch"], "p/1?#", num_outputs=3, gold={"groups": [["p/1?#.0"], ["p/1?#.1"]]})
        make.rank(who["task"], who["ann"], "0", "1", "2", at=1_700_000_000.0)
        make.rank(who["task"], who["bea"], "0", "2", "1", at=1_700_000_000.0)
        other = make.task(make.batch(kind="demonstrate"), "p/1?#")
        make.answer(other, who["bea"], {"text": f"Mine {HOSTILE}"}, at=1_700_000_000.0)
        make.assignment(other, who["ann"], "skipped", at=1_700_000_000.0, skip_reason=HOSTILE)
        problems.ask(connection, who["ann"], f"Why {HOSTILE}")
        problems.ask(connection, who["carl"], "I am new here")
        instruction_versions.publish(connection, "rank", "training", "Rank *well*.", change_note="First.", author_id=None)
    return who


def test_simulated_labelers_stand_beside_people_and_are_marked(site: Site, researcher: Browser) -> None:
    filled(site)
    answer = {"text": "The simulation wrote this."}
    work = Work(kind="demonstrate", labeler="labeler-07", prompt_id="p", answer=answer, seconds_spent=34.0)
    with site.database.write() as connection:
        asked = [Prompt(id="p", turns=turns_of("Say something."))]
        record_work(connection, [work], run="data-1", groups={"labeler-07": "training"}, prompts=asked)
    page = researcher.get("/console/people").text
    assert re.findall(r"<code>([^<]+)</code> <span[^>]*>simulated", page) == ["labeler-07"]
    assert "34 s" in page
    assert "data-1: training" in researcher.get("/console").text
    assert "The simulation wrote this." in researcher.get("/console/data?kind=demonstration&labeler=labeler-07").text


# ---------------------------------------------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES)
def test_every_page_works_on_an_empty_database_and_says_what_comes_next(site: Site, researcher: Browser, page: str) -> None:
    answer = researcher.get(page)
    assert answer.status_code == 200
    if page not in ("/console/people", "/console/instructions", "/console/instructions/training/rank"):
        assert 'class="empty' in answer.text, "an empty page says so"


@pytest.mark.parametrize("page", [*PAGES, "/console/batches/1", "/console/batches/2", "/console/prompts/p/1%3F%23"])
def test_hostile_text_stays_text(site: Site, researcher: Browser, page: str) -> None:
    filled(site)
    answer = researcher.get(page)
    assert answer.status_code == 200
    for raw in ("<script>alert", "<img src=x", "<b>bold", "{{ 7"):
        assert raw not in answer.text.replace("{{ 7 * 7 }}", "" if raw == "{{ 7" else "{{ 7 * 7 }}")
    assert not re.search(r"""\sstyle=|\son[a-z]+=["']|<style""", answer.text), "the content policy would drop it"


@pytest.mark.parametrize("page", [*PAGES, "/console/batches/1", "/console/prompts/p"])
def test_a_labeler_gets_nothing_of_it(site: Site, page: str) -> None:
    labeler = site.browser(site.person("labeler"))
    assert labeler.get(page).status_code == 403
    assert site.nobody().get(page).status_code == 303
    if page == "/console":
        assert "/console" not in labeler.get("/account").text


@pytest.mark.parametrize("page", [*PAGES, "/console/batches/1", "/console/prompts/p/1%3F%23"])
def test_no_page_names_anybody_or_shows_a_candidate(site: Site, researcher: Browser, page: str) -> None:
    filled(site)
    text = researcher.get(page).text
    assert "Name of" not in text
    assert "carl" not in text


@pytest.mark.parametrize(
    "page",
    [
        "/console/batches/99",
        "/console/prompts/none",
        "/console/instructions/training/poetry",
        "/console/instructions/training/rank/7",
    ],
)
def test_what_is_not_there_is_not_found(researcher: Browser, page: str) -> None:
    assert researcher.get(page).status_code == 404


@pytest.mark.parametrize(
    "query", ["kind=poem", "since=yesterday", "batch=x", "behind=x", "use_case=poetry", "text=" + "x" * 201, "until=9999-12-31"]
)
def test_a_search_that_is_none_says_what_is_wrong(researcher: Browser, query: str) -> None:
    answer = researcher.get(f"/console/data?{query}")
    assert answer.status_code == 422
    assert "Expected" in answer.text


# ---------------------------------------------------------------------------------------------------- numbers


def test_the_overview_shows_progress_and_what_needs_somebody(site: Site, researcher: Browser) -> None:
    filled(site)
    text = researcher.get("/console").text
    assert "2 of 2" in text
    assert "2 questions" in text
    assert "&lt;script&gt;" in text


def test_a_batch_is_idle_only_once_it_has_had_a_day(site: Site, researcher: Browser) -> None:
    with site.database.write() as connection:
        for age, name in ((100.0, "Made just now"), (90_000.0, "Made yesterday")):
            batch_id = items.make_batch(connection, name=name, kind="write_prompt", phase="training", now=time.time() - age)
            items.add_tasks(connection, batch_id, [items.NewTask(payload={"style": "plain"})])
    page = researcher.get("/console").text
    assert re.findall(r">([^<]*)</a>: 1 answer is still needed, and none was given", page) == ["Made yesterday"]


def test_agreement_is_plotted_with_its_numbers_in_a_table(site: Site, researcher: Browser) -> None:
    filled(site)
    text = researcher.get("/console/agreement").text
    # of three pairs ann and bea agree on two
    assert "66.7 " in text
    plot = re.search(r'<svg viewBox="0 0 760.*?</svg>', text, re.DOTALL)
    assert plot is not None
    assert "<title" in plot[0]
    assert "<desc" in plot[0]
    assert plot[0].count("<circle") == 2
    # 30 % stands at 170, 100 % at 736: two thirds of the way from 0, the paper at 72.6 %
    assert f'cx="{170 + (2 / 3 - 0.3) * 566 / 0.7:.6f}'[:9] in plot[0]
    assert f'class="paper" x1="{170 + (0.726 - 0.3) * 566 / 0.7:.6f}'[:27] in plot[0]
    assert researcher.get("/console/agreement?batch=2").text.count("<circle") == 0
    assert researcher.get("/console/agreement?phase=poetry").status_code == 422


def test_gold_scores_stand_on_the_quality_page(site: Site, researcher: Browser) -> None:
    filled(site)
    text = researcher.get("/console/quality").text
    assert "2 answers to 1 gold tasks" in text
    assert "not a verdict" in text


def test_a_prompt_s_page_has_outputs_answers_and_the_model(site: Site, researcher: Browser) -> None:
    filled(site)
    text = researcher.get("/console/prompts/p/1%3F%23").text
    assert text.count('aria-label="Output ') == 3
    assert text.count('aria-label="Answer of ') == 3
    ranked = re.search(r"Best first: (.*?)</p>", text)
    assert ranked is not None
    assert re.findall(r">(\d)<", ranked[1]) in (["1", "2", "3"], ["1", "3", "2"])


# ---------------------------------------------------------------------------------------------------- changes


def test_a_skipped_task_is_withdrawn_and_served_again(site: Site, researcher: Browser) -> None:
    filled(site)
    page = researcher.get("/console/batches/2").text
    assert 'action="/console/tasks/2/serve"' in page
    done = researcher.post("/console/tasks/2/serve", {"do": "withdraw", "batch_id": "2"})
    assert done.headers["location"] == "/console/batches/2"
    with site.database.read() as connection:
        assert connection.execute(select(task.c.state).where(task.c.id == 2)).scalar_one() == "withdrawn"
    assert "1 withdrawn" in researcher.get("/console/batches/2").text, "what is kept was forgotten at the change"
    assert researcher.post("/console/tasks/2/serve", {"do": "reopen"}).status_code == 303
    with site.database.read() as connection:
        assert connection.execute(select(task.c.state).where(task.c.id == 2)).scalar_one() == "open"
    assert researcher.post("/console/tasks/2/serve", {"do": "eat"}).status_code == 422


def test_a_question_is_answered(site: Site, researcher: Browser) -> None:
    filled(site)
    assert "a candidate" in researcher.get("/console/questions").text
    assert researcher.post("/console/questions/1", {"answer": "Because."}).status_code == 303
    with site.database.read() as connection:
        row = connection.execute(select(problem).where(problem.c.id == 1)).mappings().one()
    assert (row["answer"], row["answered_by"]) == ("Because.", researcher.person_id)
    assert "Why" not in researcher.get("/console/questions").text
    assert "Because." in researcher.get("/console/questions?show=all").text


def test_a_question_about_a_task_leads_to_what_it_is_about(site: Site, researcher: Browser) -> None:
    add_tasks(site.database, "rank")
    labeler = site.browser(site.person())
    number = claim(labeler, "rank")
    own = hidden(labeler.get(f"/tasks/{number}").text)
    labeler.post(f"/tasks/{number}/ask", own | {"_question": "Is B a joke?"})
    [link] = re.findall(r'<a href="(/console/prompts/[^"]+)">', researcher.get("/console/questions").text)
    assert "Whales are fish." in researcher.get(link).text
    # B is another output for each labeler: theirs is said.
    with site.database.read() as connection:
        order = connection.execute(select(assignment.c.shown_order)).scalar_one()
    shown = re.search(r'<ol type="A".*?</ol>', researcher.get("/console/questions").text, re.DOTALL)
    assert shown is not None
    assert [one.split()[0] for one in re.findall(r'dir="auto">(.*?)</p>', shown[0], re.DOTALL)] == [
        html.escape(OUTPUTS[int(id.rpartition("/")[2])].split()[0], quote=False) for id in order
    ]


def test_questions_come_in_pages(site: Site, researcher: Browser) -> None:
    with site.database.write() as connection:
        ann = Labels(connection).person("ann")
        for number in range(35):
            problems.ask(connection, ann, f"Question number {number:02d}")
    first = researcher.get("/console/questions").text
    link = re.search(r'href="(/console/questions\?before=\d+)"', first)
    assert link is not None
    second = researcher.get(link[1]).text
    asked = [set(re.findall(r"Question number (\d\d)", page)) for page in (first, second)]
    assert (len(asked[0]), len(asked[1])) == (30, 5)
    assert not asked[0] & asked[1]


def test_instructions_are_previewed_published_and_compared(site: Site, researcher: Browser) -> None:
    filled(site)
    page = "/console/instructions/training/rank"
    fields = {"markdown": "Rank *very* well.\n\n<script>alert(1)</script>", "change_note": "", "do": "preview"}
    preview = researcher.post(page, fields)
    assert preview.status_code == 200
    assert "<em>very</em>" in preview.text
    assert "<ins>" in preview.text
    assert "<script>alert" not in preview.text
    refused = researcher.post(page, fields | {"do": "publish"})
    assert refused.status_code == 422
    assert "change has no note" in refused.text.lower()
    assert "Rank *very* well." in refused.text, "what was written is still there"
    done = researcher.post(page, fields | {"do": "publish", "change_note": "Clearer."})
    assert done.status_code == 303
    with site.database.read() as connection:
        current = instruction_versions.current(connection, "rank", "training")
    assert current is not None
    assert (current.version, current.author_id) == (2, researcher.person_id)
    version = researcher.get(f"{page}/2").text
    assert re.search(r"<ins>.*very", version)
    assert "From version 1 to 2" in version


def test_a_candidate_is_selected_by_a_code_and_never_named(site: Site, researcher: Browser) -> None:
    who = filled(site)
    page = researcher.get("/console/screening").text
    codes = re.findall(r'name="code" value="([^"]+)"', page)
    assert len(codes) == 1
    answer = researcher.post("/console/screening/decide", {"code": codes[0], "choice": "select", "note": "Good"})
    assert answer.status_code == 303
    with site.database.read() as connection:
        row = connection.execute(select(person.c.group_name).where(person.c.id == who["carl"])).one()
        decision = connection.execute(select(screening_decision)).mappings().one()
    assert row.group_name == "training"
    assert (decision["code"], decision["person_id"], decision["note"]) == (codes[0], who["carl"], "Good")
    after = researcher.get("/console/screening").text
    assert codes[0] in after
    assert "carl" not in after
    assert researcher.post("/console/screening/decide", {"code": codes[0], "choice": "select"}).status_code == 404
    assert researcher.post("/console/screening/decide", {"code": codes[0], "choice": "eat"}).status_code == 422
    assert researcher.post("/console/screening/decide", {"choice": "select"}).status_code == 422


def test_several_candidates_are_decided_together_or_not_at_all(site: Site, researcher: Browser) -> None:
    for _ in range(3):
        site.person("labeler", "candidate")
    codes = re.findall(r'name="code" value="([^"]+)"', researcher.get("/console/screening").text)
    wrong = {"code": [*codes[:2], "BCDFGHJK"], "choice": "select"}
    assert researcher.post("/console/screening/decide", wrong).status_code == 404
    with site.database.read() as connection:
        assert connection.execute(select(screening_decision)).all() == []
    assert researcher.post("/console/screening/decide", {"code": codes[:2], "choice": "select"}).status_code == 303
    left = re.findall(r'name="code" value="([^"]+)"', researcher.get("/console/screening").text)
    assert left == codes[2:]


def test_codes_depend_on_the_application_s_key(site: Site) -> None:
    visits = [type("Visit", (), {"settings": type("S", (), {"key": key})()})() for key in (b"a" * 32, b"b" * 32)]
    assert _secret(visits[0]) != _secret(visits[1])  # type: ignore[arg-type]


def test_scoring_tasks_are_made_once(site: Site, researcher: Browser) -> None:
    who = filled(site)
    with site.database.write() as connection:
        make = Labels(connection)
        write = make.task(make.batch(kind="demonstrate", phase="screening"), "p/1?#")
        make.answer(write, who["carl"], {"text": "Mine"})
    assert "1 demonstration of candidates has no score" in re.sub(r"\s+", " ", researcher.get("/console/screening").text)
    assert researcher.post("/console/screening/score").status_code == 303
    assert researcher.post("/console/screening/score").status_code == 303
    with site.database.read() as connection:
        assert len(connection.execute(select(batch).where(batch.c.kind == "score_demonstration")).all()) == 1


# ---------------------------------------------------------------------------------------------------- data


def test_the_explorer_s_links_lead_through_everything(site: Site, researcher: Browser) -> None:
    with site.database.write() as connection:
        make = Labels(connection)
        for number in range(60):
            make.prompt(f"p{number:02d}", "Name a hill &c.", created=1_700_000_000.0 + number // 7, use_case="chat")
    seen: list[str] = []
    link: str | None = "/console/data?text=hill+%26c&use_case=chat"
    for _ in range(4):
        assert link is not None
        page = researcher.get(link).text
        seen += re.findall(r'href="/console/prompts/(p\d\d)"', page)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        link = found[1].replace("&amp;", "&") if found else None
        if link is None:
            break
    assert seen == [f"p{number:02d}" for number in reversed(range(60))]
    assert link is None


def test_an_export_holds_records_and_is_written_down(site: Site, researcher: Browser) -> None:
    who = filled(site)
    answer = researcher.post("/console/data/export", {"kind": "ranking", "labeler": "bea", "text": ""})
    assert answer.status_code == 200
    assert "attachment" in answer.headers["content-disposition"]
    (line,) = answer.text.splitlines()
    record = json.loads(line)
    assert record["kind"] == "ranking"
    assert (record["labeler"], record["ranks"], record["prompt_id"]) == ("bea", [1, 3, 2], "p/1?#")
    assert record["metadata"]["seconds_spent"] == 30.0
    assert record["metadata"]["simulated"] is False
    with site.database.read() as connection:
        written = connection.execute(select(event).where(event.c.action == "export")).mappings().one()
    assert (written["person_id"], written["subject"]) == (researcher.person_id, "ranking")
    assert written["after"] == {"kind": "ranking", "labeler": "bea"}
    prompts = researcher.post("/console/data/export", {"kind": "prompt"}).text.splitlines()
    assert json.loads(prompts[0])["user"] == HOSTILE
    for kind in ("response", "demonstration", "rating"):
        assert researcher.post("/console/data/export", {"kind": kind}).text.count("\n") == {"rating": 6}.get(
            kind, 3 if kind == "response" else 1
        )
    labeler = site.browser(who["ann"])
    assert labeler.post("/console/data/export", {"kind": "prompt"}).status_code == 403


def test_survey_results_are_hidden_below_five_answers(site: Site, researcher: Browser) -> None:
    with site.database.write() as connection:
        make = Labels(connection)
        people = [make.person(f"labeler {number}") for number in range(5)]
        for id in people[:4]:
            surveys.take(connection, id, "satisfaction", {"clear": "Agree"})
    hidden = researcher.get("/console/surveys").text
    assert "Strongly" not in hidden
    with site.database.write() as connection:
        surveys.take(connection, people[4], "satisfaction", {"clear": "Disagree"})
    shown = researcher.get("/console/surveys").text
    assert re.search(r"Agree</th><td class=\"number\">4<", shown)
    assert shown.count("Fewer than 5 answered this one") == 4, "of a question that one person answered the count is a name"
    assert "Fewer than 5" in shown  # of the other survey


# ---------------------------------------------------------------------------------------------------- kept numbers


def test_kept_values_are_computed_once_while_they_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    kept = Kept()
    assert kept.get("a", make).value == 1
    monkeypatch.setattr("heedful.web.console.kept.KeptValue.fresh", property(lambda self: True))
    assert kept.get("a", make).value == 1
    assert kept.get("b", make).value == 2
    monkeypatch.setattr("heedful.web.console.kept.KeptValue.fresh", property(lambda self: False))
    assert kept.get("a", make).value == 3  # quick to compute: nobody sees the old one


def test_what_is_slow_is_shown_old_while_it_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("heedful.web.console.kept.TIMES", 1e9)
    monkeypatch.setattr("heedful.web.console.kept.KeptValue.fresh", property(lambda self: self.value != "old"))
    kept, go, done = Kept(), threading.Event(), threading.Event()

    def slow() -> str:
        go.wait(5)
        done.set()
        return "new"

    assert kept.get("a", lambda: "old").value == "old"
    assert kept.get("a", slow).value == "old"
    assert kept.get("a", slow).value == "old"
    go.set()
    assert done.wait(5)
    for _ in range(100):
        if kept.get("a", slow).value == "new":
            break
        threading.Event().wait(0.02)
    assert kept.get("a", slow).value == "new"
    assert form(3)["overall"] == 3
