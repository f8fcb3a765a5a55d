"""Nine outputs, rated and ordered by keys on a laptop's screen: how many presses, and what one can see meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from tests.e2e.test_task_pages import browser, log_in, pytestmark, site, start, stored  # noqa: F401
from tests.web.site import Site
from tests.web.work import add_tasks

from heedful.conversation import plain_text
from heedful.records import Turn

CHAT = plain_text(
    (
        Turn("system", "You help travellers. Be brief."),
        Turn("user", "Which river runs through Cologne?"),
        Turn("assistant", "The **Rhine**."),
        Turn("user", "And through Vienna? Give me its length, and a table of three more rivers.\n\n    indented = True"),
    )
)
OUTPUTS = tuple(
    f"The **Danube** (answer {n}). It is 2,850 km long: $1$ km is $10^3$ m.\n\n| River | km |\n|---|---|\n| Elbe | 1,094 |\n"
    f"| Oder | 840 |\n\n1. It rises in Germany.\n2. It ends in the Black Sea.\n\n```python\nlength = {n}\n```\n\n"
    + "More. "
    * 60
    * n
    for n in range(1, 10)
)
MOST_PRESSES = 45


@pytest.fixture
def page(browser: Any, site: tuple[Site, str]) -> Any:  # noqa: F811
    world, address = site
    add_tasks(world.database, "rank", num_outputs=9, outputs=OUTPUTS, prompt=CHAT)
    world.person()
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = log_in(context, address)
    start(page, "rank")
    page.wait_for_selector(".board-card")
    yield page
    context.close()


def test_nine_outputs_are_rated_and_ordered_with_few_keys(page: Any, site: tuple[Site, str]) -> None:  # noqa: F811
    presses = 0

    def press(*keys: str) -> None:
        nonlocal presses
        for key in keys:
            page.keyboard.press(key)
            presses += key.count("+") + 1

    for letter, rating in zip("ABCDEFGHI", "741526373", strict=True):
        press(letter.lower(), rating)
    press("o")
    for letter, place in zip("ABFCDEGHI", "112345671", strict=True):
        press(letter.lower(), place)
    assert page.locator("[data-order]").inner_text() == "A = B = I > F > C > D > E > G > H"
    assert "B is above F, but you rated B 4 and F 6" in page.locator("[data-contradiction]").inner_text()
    press("Control+Enter")
    page.wait_for_url("**/")
    answer = stored(site[0]).answer
    assert sorted(len(group) for group in answer["groups"]) == [1, 1, 1, 1, 1, 1, 3]
    assert sorted(one["overall"] for one in answer["ratings"].values()) == [1, 2, 3, 3, 4, 5, 6, 7, 7]
    assert presses <= MOST_PRESSES


def test_all_nine_texts_prompt_and_order_are_in_view(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = {
        name: page.locator(selector).bounding_box()
        for name, selector in {"prompt": ".prompt-body", "order": ".board", "submit": "button.primary[form=task]"}.items()
    }
    boxes |= {letter: page.locator(f"#body-{letter}").bounding_box() for letter in "ABCDEFGHI"}
    for name, box in boxes.items():
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 1366, name
        assert box["y"] >= 0, name
        assert box["y"] + box["height"] <= 768, name
        # At least five lines of each text.
        assert name == "submit" or box["height"] >= 5 * 21, name
    for letter in "ABCDEFGHI":
        page.locator(f"#body-{letter}").evaluate("body => body.scrollTo(0, body.scrollHeight)")
    assert page.evaluate("scrollX") == 0


def test_turns_and_markup_are_shown_and_the_source_is_one_key_away(page: Any) -> None:
    assert page.locator(".turn .speaker").all_inner_texts() == ["System", "User", "Assistant", "User"]
    assert page.locator("#body-A table").is_visible()
    assert page.locator("#body-A math").first.is_visible()
    page.keyboard.press("a")
    page.keyboard.press("s")
    assert page.locator("#body-A table").is_hidden()
    assert "| Elbe | 1,094 |" in page.locator("#body-A").inner_text()


def test_flags_by_keys(page: Any) -> None:
    for key in ("c", "x", "Space", "Escape", "5"):
        page.keyboard.press(key)
    assert page.locator("[data-flag-count=C]").inner_text() == "(1)"
    assert page.locator("input[name='C.overall']:checked").input_value() == "5"
    assert page.locator(".flag-box[open]").count() == 0
