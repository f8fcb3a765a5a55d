"""What only a browser shows of the task pages: drafts that outlive their page, the order by keys, mouse and finger.

Chromium is the system's own, driven by playwright; skipped where either is not there.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import select
from tests.web.site import PASSWORD, Site, make_site
from tests.web.work import add_tasks

from heedful.labeling.database.tables import assignment

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright (extra dev) is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.slow,
]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SAVED = "#saved[data-state=saved]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Site, str]]:
    made = make_site(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(made.app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield made, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()


def log_in(context: Any, address: str, home: str = "/") -> Any:
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(f"{address}/login")
    page.fill("[name=email]", "person1@example.org")
    page.fill("[name=password]", PASSWORD)
    page.click("main button.primary")
    page.wait_for_url(f"{address}{home}")
    return page


def start(page: Any, kind: str) -> None:
    page.click(f"form[action='/tasks/claim']:has(input[value={kind}]) button")
    page.wait_for_url("**/tasks/*")


def stored(site: Site) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(assignment)).one()


def let_it_save(page: Any) -> None:
    """A page saves two seconds after a change: let them be over for its clock."""
    page.clock.fast_forward(2_000)


def wait_until(page: Any, condition: Any, what: str) -> None:
    end = time.monotonic() + 20
    let_it_save(page)
    while not condition():
        assert time.monotonic() < end, what
        page.wait_for_timeout(50)  # lets the driver do its part too


def test_what_is_filled_in_is_missing_no_longer(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    add_tasks(world.database, "rank")
    world.person()
    context = browser.new_context()
    page = log_in(context, address)
    start(page, "rank")
    page.click("text=Submit, then stop")
    problem = page.locator("#problem")
    assert "6 things are missing." in problem.inner_text()
    page.locator("input[name='A.overall'][value='3']").check(force=True)
    assert "5 things are missing." in problem.inner_text()
    assert problem.get_by_text("Output A has no overall rating yet.").count() == page.locator("[id='e-A.overall']").count() == 0
    assert page.locator("[id='e-B.overall']").is_visible()
    # By keys on the board: the lists are filled in by the script.
    page.locator(".board-card").first.focus()
    for key in ("a", "1", "b", "2", "c", "2"):
        page.keyboard.press(key)
    assert "2 things are missing." in problem.inner_text()
    page.locator("input[name='B.overall'][value='3']").check(force=True)
    assert "One thing is missing." in problem.inner_text()
    page.locator("input[name='C.overall'][value='3']").check(force=True)
    assert problem.is_hidden()
    assert page.locator(".problem").count() == 0
    page.click("text=Submit, then stop")
    page.wait_for_url(f"{address}/")
    context.close()


def test_what_is_typed_outlives_the_network_the_tab_and_the_session(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    add_tasks(world.database, "demonstrate")
    world.person()
    context = browser.new_context()
    context.clock.install()
    page = log_in(context, address)
    start(page, "demonstrate")
    task = page.url

    def draft() -> str:
        kept = stored(world).draft
        return "" if kept is None else kept["fields"].get("text", "")

    page.fill("#f-text", "with the network")
    wait_until(page, lambda: draft() == "with the network", "saved by itself")

    # No network; the submit button says so and goes nowhere; then the tab is closed.
    context.set_offline(True)
    page.fill("#f-text", "without the network")
    let_it_save(page)
    page.wait_for_selector("#saved[data-state=waiting]")
    page.click("text=Submit, then stop")
    page.wait_for_selector("#kept:has-text('does not answer')")
    assert page.url == task
    page.close()
    assert draft() == "with the network"
    context.set_offline(False)
    page = context.new_page()
    page.goto(task)
    assert page.input_value("#f-text") == "without the network"
    wait_until(page, lambda: draft() == "without the network", "the server has it once it can be reached")

    # The server got it, and the word of that was lost: no conflict with oneself.
    page.route("**/draft", lambda route: (route.fetch(), route.abort()))
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/draft")):  # only then is the route done
        page.fill("#f-text", "arrived")
        wait_until(page, lambda: draft() == "arrived", "it arrived")
    page.unroute("**/draft")
    page.fill("#f-text", "arrived, and more")
    wait_until(page, lambda: draft() == "arrived, and more", "saved on")
    page.wait_for_selector(SAVED)
    assert page.is_hidden("#kept")

    # Two tabs: the second to save is told, and has both.
    other = context.new_page()
    other.goto(task)
    other.fill("#f-text", "the other tab")
    wait_until(page, lambda: draft() == "the other tab", "saved from the other tab")
    page.fill("#f-text", "this tab")
    let_it_save(page)
    page.wait_for_selector("#saved[data-state=lost]")
    page.reload()
    assert page.input_value("#f-text") == "the other tab"
    page.click("text=Show the one from this browser")
    wait_until(page, lambda: draft() == "this tab", "what was chosen is saved")

    # Logged out elsewhere.
    context.clear_cookies()
    page.fill("#f-text", "after the session")
    let_it_save(page)
    page.wait_for_selector("#kept:has-text('logged out')")
    log_in(context, address)
    page.reload()
    assert page.input_value("#f-text") == "after the session"
    page.wait_for_selector(SAVED)

    page.click("text=Submit, then stop")
    page.wait_for_url(f"{address}/")
    assert stored(world).answer == {"text": "after the session"}
    assert page.evaluate("localStorage.length") == 0
    context.close()


def test_a_kept_draft_may_have_more_examples_than_the_page(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    add_tasks(world.database, "write_prompt", payload={"style": "few_shot"})
    world.person()
    context = browser.new_context()
    context.clock.install()
    page = log_in(context, address)
    start(page, "write_prompt")
    task = page.url
    context.set_offline(True)
    for _ in range(3):
        page.click("text=One more example")
    page.fill("[name='pair.6.query']", "Chad")
    let_it_save(page)
    page.wait_for_selector("#saved[data-state=waiting]")
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(task)
    assert page.input_value("[name='pair.6.query']") == "Chad"
    wait_until(page, lambda: stored(world).draft is not None, "saved")
    assert stored(world).draft["fields"]["pair.6.query"] == "Chad"
    context.close()


def test_the_order_by_keys_mouse_finger_and_lists(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    add_tasks(world.database, "rank", num_outputs=5)
    world.person()
    context = browser.new_context(viewport={"width": 1366, "height": 768}, has_touch=True)
    page = log_in(context, address)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    start(page, "rank")

    def order() -> str:
        return page.text_content("[data-order]")

    page.focus("#card-A")
    for key, expected in (
        ("ArrowUp", "A; no place yet: B, C, D, E"),
        ("b", "A; no place yet: B, C, D, E"),
        ("t", "A = B; no place yet: C, D, E"),
        ("c", "A = B; no place yet: C, D, E"),
        ("Home", "C > A = B; no place yet: D, E"),
        ("d", "C > A = B; no place yet: D, E"),
        ("2", "C > A = B = D; no place yet: E"),
        ("ArrowDown", "C > A = B > D; no place yet: E"),
        ("Delete", "C > A = B; no place yet: D, E"),
        ("u", "C > A = B > D; no place yet: E"),
        ("e", "C > A = B > D; no place yet: E"),
        ("End", "C > A = B > D > E"),
    ):
        page.keyboard.press(key)
        assert order() == expected, key
    assert page.evaluate("document.activeElement.id") == "card-E"
    page.wait_for_function("() => document.getElementById('live').textContent === 'E: group 4 of 4, worst.'")

    def middle(selector: str) -> tuple[float, float]:
        box = page.locator(selector).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    page.mouse.move(*middle("#card-E"))
    page.mouse.down()
    page.mouse.move(*middle(".board-group >> nth=0"), steps=5)
    page.mouse.up()
    assert order() == "C = E > A = B > D"

    touch = context.new_cdp_session(page)
    (x, y), (_, target) = middle("#card-D"), middle(".board-group >> nth=1")
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for part in range(1, 6):
        point = {"x": x, "y": y + (target - y) * part / 5}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert order() == "C = E > A = B = D"

    page.select_option("select[name='B.group']", "5")
    assert order() == "C = E > A = D > B"
    for letter in "ABCDE":
        page.check(f"input[name='{letter}.overall'][value='4']", force=True)
    assert page.text_content("[data-steps-count]") == "5 of 5 rated, 5 placed"
    page.click("text=Submit, then stop")
    page.wait_for_url(f"{address}/")
    row = stored(world)
    a, b, c, d, e = row.shown_order
    assert row.answer["groups"] == [[c, e], [a, d], [b]]
    assert row.seconds_spent > 0
    assert errors == []
    context.close()


def test_a_formula_is_drawn(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    long = " + ".join(f"a_{{{number}}}" for number in range(80))
    aligned = r"\begin{aligned} x &= 1 \\ xyz &= 2 \end{aligned}"
    text = f"Solve \\(\\frac{{a+b}}{{c}} = 2\\).\n\n$$\n{long}\n$$\n\n$${aligned}$$\n\nIt costs $5 and $6."
    add_tasks(world.database, "demonstrate", prompt=text)
    world.person()
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    page = log_in(context, address)
    start(page, "demonstrate")

    def box(selector: str) -> Any:
        found = page.locator(f".rendered {selector}").first.bounding_box()
        assert found is not None, selector
        return found

    numerator, denominator = box("mfrac > :first-child"), box("mfrac > :last-child")
    assert denominator["y"] >= numerator["y"] + 0.8 * numerator["height"]
    assert box("mfrac")["height"] > 1.8 * denominator["height"]
    index, base = box("msub > mn"), box("msub > mi")
    assert index["y"] + index["height"] > base["y"] + base["height"]
    # A long formula scrolls by itself; the page does not become wider.
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth + 200)(document.querySelector('.rendered .formula'))")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # Columns are aligned by classes: pages allow no styles in attributes.
    rows = page.locator(".rendered mtr")
    edges = [rows.nth(row).locator("mtd").first.bounding_box() for row in range(2)]
    ends = [rows.nth(row).locator("mtd").first.locator("mi").last.bounding_box() for row in range(2)]
    assert all(edge["x"] + edge["width"] - end["x"] - end["width"] < 2 for edge, end in zip(edges, ends, strict=True))
    assert "It costs $5 and $6." in page.locator(".rendered").first.inner_text()
    page.locator("[data-show-source]").first.check(force=True)
    assert "\\frac{a+b}{c}" in page.locator(".source").first.inner_text()
    assert not page.locator(".rendered mfrac").first.is_visible()
    context.close()


def test_the_header_begins_where_a_wide_page_begins(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    world.person("researcher")
    context = browser.new_context()
    page = log_in(context, address, home="/console")
    for path in ("/console", "/playground"):
        page.goto(f"{address}{path}")
        for width in (1366, 1920, 2400):
            page.set_viewport_size({"width": width, "height": 700})
            name, title = page.locator(".site-name").bounding_box(), page.locator("main h1").first.bounding_box()
            assert abs(name["x"] - title["x"]) < 1, (path, width)
            box = page.locator(".pages-of-section, .site-header > div").last.bounding_box()
            assert abs(box["x"] - page.locator("main").bounding_box()["x"]) < 1, (path, width)
    context.close()


def test_only_labelers_are_asked_for_a_group(browser: Any, site: tuple[Site, str]) -> None:
    world, address = site
    world.person("admin")
    other = world.person("user")
    context = browser.new_context()
    page = log_in(context, address, home="/console")
    page.goto(f"{address}/admin/people")
    group = page.get_by_label("Group", exact=True)
    for role, asked in (("labeler", True), ("user", False), ("researcher", False), ("labeler", True)):
        page.get_by_label("Role", exact=True).select_option(role)
        assert group.is_visible() == asked, role
    page.goto(f"{address}/admin/people/{other}")
    assert not group.is_visible()
    page.get_by_label("Role", exact=True).select_option("labeler")
    assert group.is_visible()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved: Somebody.").wait_for()
    context.close()
