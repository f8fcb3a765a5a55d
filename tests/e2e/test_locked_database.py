"""A labeler works on while another process holds the write lock of the database file: everything typed is saved at the end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.e2e.conftest import Server
from tests.e2e.test_labeling import invite, person, start
from tests.web.work import add_tasks

TYPED = ("Whales are mammals.", " They breathe air.", " They sing.", " That is all.")


@pytest.fixture(scope="module")
def admin(server: Server, chromium: Any) -> Iterator[Any]:
    """The first admin, joined by the link that the first start printed."""
    with person(chromium, server.admin_link, "Ada") as page:
        yield page


def draft_while_locked(admin: Any, server: Server, chromium: Any, *, name: str, seconds: int) -> None:
    add_tasks(server.database, "demonstrate", prompt="Tell me about whales.")
    with person(chromium, invite(admin, server)[0], name) as page:
        start(page, server, "demonstrate")
        seen = page.evaluate_handle(
            """() => {
              const seen = [];
              const line = document.getElementById("saved");
              new MutationObserver(() => seen.push(line.textContent)).observe(line, { childList: true });
              return seen;
            }"""
        )
        box = page.locator("textarea[name=text]")
        with closing(sqlite3.connect(server.folder / "labels.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for some in TYPED:
                box.press_sequentially(some)
                page.wait_for_timeout(seconds * 1_000 / len(TYPED))
            assert page.locator("#saved").get_attribute("data-state") != "saved"
            pages = page.context.new_page()
            assert pages.goto(f"{server.url}/history").status == 200, "other pages answer meanwhile"
            pages.close()
            other.rollback()
        page.wait_for_function("() => document.getElementById('saved').dataset.state === 'saved'", timeout=90_000)
        assert not [text for text in seen.json_value() if "another tab" in text]
        assert page.locator("#kept").is_hidden()
        page.evaluate("localStorage.clear()")
        page.reload()
        assert box.input_value() == "".join(TYPED)
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("Thank you. Your answer is kept.").wait_for()


def test_a_draft_waits_for_a_short_write(admin: Any, server: Server, chromium: Any) -> None:
    draft_while_locked(admin, server, chromium, name="Olga", seconds=4)


@pytest.mark.long
def test_a_draft_waits_for_a_write_of_forty_seconds(admin: Any, server: Server, chromium: Any) -> None:
    """Longer than the page waits for a reply (15 s) and than the server waits for the lock (30 s)."""
    draft_while_locked(admin, server, chromium, name="Minna", seconds=40)
