"""The admin starts the next round of feedback in the browser, sees how far it is, and what it decided."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.web.site import Browser, Site, make_site

from heedful.project.ended_rounds import EndedRound, Known, Run, save_round
from heedful.project.project import init_project
from heedful.web.console.round_process import RoundProcess

STANDS_IN = """#!/bin/sh
echo "$@"
[ -e "{folder}/fail" ] && exit 2
while [ ! -e "{folder}/go on" ]; do sleep 0.05; done
"""
"""What Python is called for: it says with which arguments, and waits until it may end."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    script = tmp_path / "python"
    script.write_text(STANDS_IN.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    site = make_site(tmp_path, project=init_project(tmp_path / "mine", base_model="none").folder)
    yield site
    process_of(site).stop()


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.person("admin"))


def process_of(site: Site) -> RoundProcess:
    found = site.app.state.round_process
    assert isinstance(found, RoundProcess)
    return found


def ends(site: Site) -> None:
    process = process_of(site)._process
    assert process is not None
    process.wait(timeout=120)


def events_of(admin: Browser) -> str:
    """The list of the page Audit, without the filter above it."""
    return admin.get("/admin/audit").text.partition("</form>")[2].rpartition('aria-label="Events"')[2]


def after_round_1(project: Path) -> None:
    made = {"ppo_ptx": Run(folder=project / "runs" / "ppo_ptx-1", fingerprint="a")}
    known = Known(prompts=frozenset(), demonstrations=frozenset())
    save_round(project / "runs", EndedRound(number=1, runs=made, policy="ppo_ptx", known=known, began_with=None))


def test_the_button_starts_the_next_round_once(site: Site, admin: Browser, tmp_path: Path) -> None:
    assert "Start round 1" in admin.get("/admin/rounds").text
    after_round_1(tmp_path / "mine")
    assert "Start round 2" in admin.get("/admin/rounds").text
    assert "started a round" not in events_of(admin)
    assert admin.post("/admin/rounds").status_code == 303
    page = admin.get("/admin/rounds").text
    assert "Round 2 is running" in page
    assert 'hx-trigger="every 2s"' in page
    assert "Start round" not in page
    again = admin.post("/admin/rounds")
    assert (again.status_code, "is already running" in again.text.lower()) == (409, True)
    audit = events_of(admin)
    assert audit.count("started a round") == 1, "the refused one leaves no event"
    assert '<a href="/admin/rounds">round 2</a>' in audit
    (tmp_path / "go on").touch()
    ends(site)
    page = admin.get("/admin/rounds").text
    assert f"-m heedful.cli align {tmp_path / 'mine'} --round 2" in page
    assert "hx-trigger" not in page
    assert "ended with an error" not in page


def test_a_round_that_fails_says_so_and_can_be_started_again(site: Site, admin: Browser, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    admin.post("/admin/rounds")
    ends(site)
    page = admin.get("/admin/rounds").text
    assert "ended with an error; it continues when you start it again" in page
    assert "Start round 1" in page


def test_a_process_ends_with_the_application(site: Site, admin: Browser) -> None:
    admin.post("/admin/rounds")
    assert process_of(site).is_running
    process_of(site).stop()
    assert not process_of(site).is_running


def test_what_was_decided_is_shown_escaped(admin: Browser, tmp_path: Path) -> None:
    row = {"number": 2, "policy": "policy_2", "accepted": False, "reasons": ["it is <b>worse</b>"], "current": "ppo_ptx"}
    (tmp_path / "mine" / "results.json").write_text(json.dumps({"rounds": [row]}))
    page = admin.get("/admin/rounds").text
    assert "rejected" in page
    assert "it is &lt;b&gt;worse&lt;/b&gt;" in page


def test_without_a_project_there_is_no_button(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    page = site.browser(site.person("admin")).get("/admin/rounds").text
    assert "There is no project here" in page
    assert "Start round" not in page
