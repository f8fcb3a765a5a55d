"""The audit as people read it: sentences, filters, days."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.web.site import Site

from heedful.labeling.queue import items
from heedful.labeling.queue.changes import set_priority
from heedful.web.console.audit_words import ACTIONS, GROUPS, changes


def test_events_are_sentences_and_can_be_filtered(site: Site) -> None:
    admin = site.browser(site.person("admin"))
    with site.database.write() as connection:
        batch_id = items.make_batch(connection, name="First <b>", kind="demonstrate", phase="training")
        set_priority(connection, batch_id, 7, person_id=admin.person_id)
    page = admin.get("/admin/audit").text
    assert "changed a batch&#39;s priority" in page or "changed a batch's priority" in page
    assert f'<a href="/batches/{batch_id}">batch {batch_id}</a>' in page
    assert "<bdi>0</bdi> → <bdi>7</bdi>" in page
    assert "First &lt;b&gt;" in page
    only = admin.get("/admin/audit?action=make_batch").text
    assert only.count('<li class="card">') == 1
    assert 'value="make_batch" selected' in only
    assert admin.get("/admin/audit?since=2001-01-01&until=2001-01-02").text.count('<li class="card">') == 0
    assert admin.get("/admin/audit?since=2001-01-01").text.count('<li class="card">') == page.count('<li class="card">')


def test_every_action_in_the_list_has_words() -> None:
    listed = [action for actions in GROUPS.values() for action in actions]
    assert sorted(listed) == sorted(ACTIONS)


@pytest.mark.parametrize("action", ["correct", "send_back", "edit_batch", "set_aside_task", "withdraw_task", "log_in_failed"])
def test_the_actions_are_those_of_the_code(action: str) -> None:
    source = Path(__file__).parents[3] / "src" / "heedful" / "labeling"
    assert any(f'"{action}"' in file.read_text(encoding="utf-8") for file in source.rglob("*.py"))
    assert action in ACTIONS


def test_what_changed() -> None:
    assert changes({"a_b": 1, "c": None}, {"a_b": 2, "d": 3}) == [("a b", 1, 2), ("d", None, 3)]
    assert changes(None, {"lease_seconds": 60}) == [("seconds to finish one", None, 60)]
    assert changes(None, None) == []
