"""Two people compare models blind, vote, edit, and one opts out later; the installed wheel, a browser, a small model server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.e2e.conftest import Server
from tests.e2e.test_labeling import export, invite, person
from tests.web.fake_models import FakeModels
from tests.web.served import served

from heedful.evaluate.vote_sources import Selection, votes_of_file
from heedful.labeling.people import accounts
from heedful.project.project import init_project
from heedful.statistics.bradley_terry import bradley_terry

ALPHA, BETA = "acme/alpha-7b", "acme/beta-2"


@pytest.fixture(scope="module")
def models() -> Iterator[str]:
    with served(FakeModels().app) as address:
        yield address


@pytest.fixture(scope="module")
def server(installed: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = init_project(tmp_path_factory.mktemp("playground") / "mine", base_model="none").folder
    one = Server(installed, folder, model_server=models)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        one.database.close()


def compare(page: Any, server: Server, text: str) -> None:
    """Start a blind comparison, and wait until both answers are there."""
    page.goto(f"{server.url}/playground")
    page.get_by_label("Two or more models, blind").check()
    for box in page.locator("input[name=model]").all():
        box.set_checked(box.get_attribute("value") in (ALPHA, BETA))
    page.get_by_label("Your message or text").fill(text)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Left is better").and_(page.locator(":enabled")).wait_for()
    assert "acme" not in page.locator("main").inner_text()


def make_key(admin: Any, server: Server, *, purpose: str, name: str) -> str:
    admin.goto(f"{server.url}/admin/keys")
    admin.get_by_label("What it is for").fill(name)
    admin.locator(f"input[name=purpose][value={purpose}]").check()
    admin.get_by_role("button", name="Make the key").click()
    return admin.locator("#secret").input_value()


def ask(server: Server, key: str, text: str) -> None:
    body = {"model": ALPHA, "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 200, answer.text


def evalicas_scores(table: Path) -> dict[str, float]:
    """Bradley-Terry of a table of votes, by evalica, which reads the table without us: logarithms with mean 0."""
    evalica = pytest.importorskip("evalica", reason="evalica (extra dev) is not installed")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = {"tie": evalica.Winner.Draw, "both_bad": evalica.Winner.Draw}
    won = [known.get(row["winner"], evalica.Winner.X if row["winner"] == row["model_a"] else evalica.Winner.Y) for row in rows]
    first, second = [row["model_a"] for row in rows], [row["model_b"] for row in rows]
    logs = np.log(evalica.bradley_terry(first, second, won, tolerance=1e-13, limit=100_000).scores)
    return (logs - logs.mean()).to_dict()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_people_compare_vote_edit_and_one_opts_out(server: Server, chromium: Any, tmp_path: Path) -> None:
    with ExitStack() as stack:
        admin = stack.enter_context(person(chromium, server.admin_link, "Ada"))
        links = invite(admin, server, number=2)
        nora = stack.enter_context(person(chromium, links[0], "Nora"))
        otto = stack.enter_context(person(chromium, links[1], "Otto"))

        compare(nora, server, "Nora asks about rivers")
        nora.get_by_role("button", name="Right is better").press("Enter")
        nora.get_by_text("the right answer is better").wait_for()
        assert ALPHA in nora.locator("main").inner_text()
        chosen = nora.locator(".answer-chosen")
        chosen.locator("summary").click()
        chosen.get_by_label("The answer as it should be").fill("Nora's own answer")
        chosen.get_by_role("button", name="Keep the edit").click()
        nora.get_by_text("Your edit is kept.").wait_for()

        for text, button in (("Nora asks about lakes", "Left is better"), ("Nora asks about ponds", "Tie")):
            compare(nora, server, text)
            nora.get_by_role("button", name=button).press("Enter")
            nora.get_by_text("You voted:").wait_for()

        compare(otto, server, "Otto asks about lakes")
        otto.get_by_role("button", name="Tie").click()
        otto.get_by_text("You voted: a tie").wait_for()
        first = otto.locator("article.answer").first
        first.locator("summary").click()
        first.get_by_label("The answer as it should be").fill("Otto's own answer")
        first.get_by_role("button", name="Keep the edit").click()
        otto.get_by_text("Your edit is kept.").wait_for()

        ask(server, make_key(admin, server, purpose="production", name="Shop"), "A customer asks about shoes")
        ask(server, make_key(admin, server, purpose="playground", name="Notebook"), "A researcher asks about ponds")
        server.run("prompts", "import", "api", "--project", str(server.folder))
        server.run("store", "export", "--project", str(server.folder))
        data = server.folder / "data"
        before = "".join(file.read_text() for file in data.glob("*.jsonl"))
        for text in ("Nora asks", "Nora's own", "Otto asks", "Otto's own", "ponds"):
            assert text in before
        assert "shoes" not in before

        # Otto thinks better of it.
        otto.once("dialog", lambda dialog: dialog.accept())
        otto.get_by_role("button", name="Take all of it back").click()
        otto.get_by_text("Erased from the project's records").wait_for()

        admin.goto(f"{server.url}/console/votes")
        with admin.expect_download() as download:
            admin.get_by_role("button", name="Export as a table").click()
        votes_file = tmp_path / "votes.csv"
        download.value.save_as(votes_file)

    votes = votes_of_file(votes_file, Selection(), {})
    assert [vote.outcome for vote in votes.votes] == [0.0, 1.0, 0.5]
    assert "Otto" not in votes_file.read_text()
    scores = bradley_terry(*votes.columns()).scores
    assert {name: score.value for name, score in scores.items()} == pytest.approx(evalicas_scores(votes_file), abs=1e-9)
    after = "".join(file.read_text() for file in [*data.glob("*.jsonl"), server.folder / "labels.jsonl"])
    exported = json.dumps(export(server))
    for text in (after, exported):
        assert "Nora's own" in text
        assert "Otto" not in text
        assert "shoes" not in text
    server.run("prompts", "import", "api", "--project", str(server.folder))
    server.run("store", "export", "--project", str(server.folder))
    again = "".join(file.read_text() for file in data.glob("*.jsonl"))
    assert "Otto" not in again
    assert "Nora asks" in again


def test_stopping_and_going_on_in_a_chat(server: Server, chromium: Any) -> None:
    with server.database.write() as connection:
        token = accounts.invite_to_join(connection, role="labeler", group="training", created_by=None)
    with person(chromium, f"{server.url}/join/{token}", "Pia") as page:
        page.goto(f"{server.url}/playground")
        for box in page.locator("input[name=model]").all():
            box.set_checked(box.get_attribute("value") == "endless")
        page.get_by_label("Your message or text").fill("Never end")
        page.get_by_role("button", name="Send").click()
        page.locator("[data-answer-text]", has_text="word").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("The text ends where you stopped it.").wait_for()
        assert "word" in page.locator("[data-answer-text]").inner_text()
        page.get_by_label("Your message").fill("Go on")
        page.get_by_role("button", name="Send").press("Enter")
        page.locator("li[data-turn]").nth(1).locator("[data-answer-text]", has_text="word").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator("li[data-turn]").nth(1).get_by_text("The text ends where you stopped it.").wait_for()
