"""An opt-out in the application: the records at once, everything else from a thread, and true words on the page."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.labeling.usage.talk import compare
from tests.prompts.test_every_byte import holding
from tests.web.site import Site, make_site

from heedful.align.round_intake import take_in
from heedful.labeling.database import maintenance
from heedful.labeling.usage import consent, feedback
from heedful.project.files import locked
from heedful.project.lock import alone_in
from heedful.project.project import Project, init_project
from heedful.prompts import intake
from heedful.web.public import withdrawals


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")
    monkeypatch.setattr(withdrawals, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(withdrawals, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(withdrawals, "LONGEST_WAIT", 0.05)
    return init_project(tmp_path / "mine", base_model="none")


@pytest.fixture
def site(project: Project) -> Iterator[Site]:
    made = make_site(project.folder, project=project.folder)
    yield made
    made.database.close()


def spoken(site: Site, project: Project) -> tuple[int, int, int]:
    """Somebody with a turn that a run has used: the ids of person, conversation and turn."""
    me = site.person("user")
    with site.database.write() as connection:
        view = compare(connection, me, text="Where do quokkas sleep by day, and where by night?")
        feedback.keep(connection, view.turns[0].answers[0].id, me, kind="edit", text="A quokka sleeps in the shade.")
    take_in(project, Console(quiet=True))
    run = project.runs / "sft-1"
    run.mkdir(parents=True)
    (run / "stage.json").write_text('{"stage": "sft", "done": true}')
    row = {"prompt": "Where do quokkas sleep by day, and where by night?\n", "response": "?"}
    (run / "samples.jsonl").write_text(json.dumps(row) + "\n")
    maintenance.backup(site.database, project.folder / "backups" / "monday.sqlite")
    return me, view.id, view.turns[0].id


def wait_until_done(site: Site) -> None:
    for _ in range(600):
        with site.database.read() as connection:
            if not consent.pending(connection):
                return
        time.sleep(0.05)
    pytest.fail("nothing was erased within 30 seconds")


def test_the_page_says_what_is_done_and_what_comes(site: Site, project: Project) -> None:
    me, _, turn = spoken(site, project)
    browser = site.browser(me)
    to = browser.post(f"/playground/turns/{turn}/withdraw").headers["location"]
    page = browser.get(to).text
    assert "Erased from the project&#39;s records: 1 prompts, 3 responses, 1 demonstrations, 1 rankings." in page
    assert "Your data says when that is done" in page
    assert {name for name in holding(project.folder, "quokka") if "sqlite" not in name} == {"runs/sft-1/samples.jsonl"}
    assert "earlier runs, reports and backups are being cleaned" in browser.get("/your-data").text
    with site.app.state.eraser.running():
        wait_until_done(site)
    assert {name for name in holding(project.folder, "quokka") if "sqlite" not in name} == set()
    page = browser.get("/your-data").text
    assert '<span class="badge good">erased</span> 1 prompts' in page
    assert "<code>runs/sft-1</code>" in page
    assert "being cleaned" not in page


def test_what_a_killed_application_left_is_done_at_its_next_start(site: Site, project: Project) -> None:
    me, conversation, _ = spoken(site, project)
    site.browser(me).post(f"/playground/{conversation}/delete")
    assert "backups/monday.sqlite" in holding(project.folder, "quokka")
    again = make_again(site, project)
    with again.app.state.eraser.running():
        wait_until_done(again)
    assert holding(project.folder, "quokka") == set()
    again.database.close()


def make_again(site: Site, project: Project) -> Site:
    from heedful.labeling.database.connection import open_database
    from heedful.web.app import create_app

    site.database.close()
    database = open_database(project.folder / "labels.sqlite")
    return Site(database=database, app=create_app(database, site.app.state.settings))


def test_it_waits_for_a_training_and_for_a_reader(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.labeling.database.connection.REWRITE_SECONDS", 0.1)
    me, conversation, _ = spoken(site, project)
    tried = threading.Semaphore(0)
    erase = withdrawals.Eraser.erase

    def counted(eraser: withdrawals.Eraser) -> bool:
        waits = erase(eraser)
        tried.release()
        return waits

    monkeypatch.setattr(withdrawals.Eraser, "erase", counted)
    browser = site.browser(me)
    with site.app.state.eraser.running():
        with alone_in(project.runs):
            browser.post(f"/playground/{conversation}/delete")
            for _ in range(3):
                assert tried.acquire(timeout=30)
            assert "runs/sft-1/samples.jsonl" in holding(project.folder, "quokka")
            assert "data/prompts.jsonl" not in holding(project.folder, "quokka")
        with site.database.read() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM person").all()
            while tried.acquire(blocking=False):
                pass
            for _ in range(2):
                assert tried.acquire(timeout=30)
            assert consent.pending(connection)
        wait_until_done(site)
    assert holding(project.folder, "quokka") == set()


def test_without_a_project_the_backups_are_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "GATHER_SECONDS", 0.0)
    site = make_site(tmp_path)
    me = site.person("user")
    with site.database.write() as connection:
        view = compare(connection, me, text="Where do quokkas sleep by day, and where by night?")
    maintenance.backup(site.database, tmp_path / "backups" / "monday.sqlite")
    with site.app.state.eraser.running():
        page = site.browser(me).post(f"/playground/{view.id}/delete")
        assert page.status_code == 303
        wait_until_done(site)
    site.database.close()
    assert holding(tmp_path, "quokka") == set()


def test_a_broken_project_leaves_it_for_later(site: Site, project: Project) -> None:
    me, _, turn = spoken(site, project)
    with (project.data / "rankings.jsonl").open("a") as file:
        file.write("{half\n")
    browser = site.browser(me)
    to = browser.post(f"/playground/turns/{turn}/withdraw").headers["location"]
    assert "could not be cleaned yet" in browser.get(to).text
    assert site.app.state.eraser.erase()
    with site.database.read() as connection:
        assert consent.pending(connection)


def test_an_unexpected_error_is_no_end(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    me, conversation, _ = spoken(site, project)
    apply, failed = withdrawals.apply_withdrawals, list[str]()

    def fails_once(*arguments: Any) -> Any:
        if not failed:
            failed.append("a file that is gone")
            raise FileNotFoundError(failed[0])
        return apply(*arguments)

    monkeypatch.setattr(withdrawals, "apply_withdrawals", fails_once)
    site.browser(me).post(f"/playground/{conversation}/delete")
    with site.app.state.eraser.running():
        wait_until_done(site)
    assert failed
    assert holding(project.folder, "quokka") == set()


def test_no_page_waits_for_an_import(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "PAGE_SECONDS", 0.1)
    me, _, turn = spoken(site, project)
    browser = site.browser(me)
    with locked(project.data):
        to = browser.post(f"/playground/turns/{turn}/withdraw").headers["location"]
    assert "could not be cleaned yet" in browser.get(to).text
    assert "data/prompts.jsonl" in holding(project.folder, "quokka")
    assert not site.app.state.eraser.erase()
    assert {name for name in holding(project.folder, "quokka") if "sqlite" not in name} == set()
