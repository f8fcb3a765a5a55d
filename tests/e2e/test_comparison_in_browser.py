"""The page that compares models, in a browser without network: its search, and what axe says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_axe import violations
from tests.evaluate.comparison import page as comparison

from heedful.evaluate.comparison_page import write_comparison_page


@pytest.fixture
def opened(tmp_path: Path, chromium: Any) -> Any:
    write_comparison_page(comparison(), tmp_path / "comparison.html")
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"the page ran what a text says: {dialog.message}"))
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto((tmp_path / "comparison.html").as_uri())
    yield page
    context.close()
    assert not [text for text in messages if "Content Security Policy" in text]


def test_the_search_finds_prompts_and_answers(opened: Any) -> None:
    visible = opened.locator("details.transcript:visible")
    assert visible.count() == 4
    opened.get_by_label("Search in prompts").fill("ANSWER ppo 3")
    assert visible.count() == 1
    assert opened.get_by_role("status").inner_text() == "1 of 4 prompts"
    opened.get_by_label("Search in prompts").fill("nowhere")
    assert (visible.count(), opened.get_by_role("status").inner_text()) == (0, "0 of 4 prompts")
    opened.get_by_label("Search in prompts").fill("")
    assert (visible.count(), opened.get_by_role("status").inner_text()) == (4, "4 prompts")


def test_axe_finds_nothing_on_the_comparison(tmp_path: Path, chromium: Any) -> None:
    write_comparison_page(comparison(), tmp_path / "comparison.html")
    context = chromium.new_context(bypass_csp=True)  # axe is a script that the page's policy refuses
    page = context.new_page()
    page.goto((tmp_path / "comparison.html").as_uri())
    assert violations(page) == []
    context.close()
