"""A labeler's story in a real browser, against the installed wheel: invited, offline in mid-form; by keys, mouse, lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tests.e2e.conftest import Server
from tests.web.work import add_tasks

PASSWORD = "correct horse battery"
OUTPUTS = (
    "Whales breathe air: they are mammals.\n\nThat is all.",
    "Whales are fish.",
    "Whales sing </textarea><script>document.title = 'broken'</script> & {{ 7 * 7 }}",
    "الحيتان ثدييات بحرية",
    "A very long answer. " * 120,
    "No.",
    "Whales 🐋 are large;\n\tsome are not.",
)
K = len(OUTPUTS)
TIMEOUT = 45_000
"""Milliseconds until a page that does not do what is waited for is given up: a busy machine is no failure."""


@contextmanager
def person(chromium: Any, link: str, name: str, **options: Any) -> Iterator[Any]:
    """A page in a browser of their own, in which somebody has joined by a link."""
    context = chromium.new_context(viewport={"width": 1366, "height": 768}, **options)
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    # What a page's own policy blocks, and what its scripts throw, is a bug even where nobody sees it.
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(link)
    page.get_by_label("Your name").fill(name)
    page.get_by_label("E-mail address").fill(f"{name.lower().replace(' ', '.')}@example.org")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Repeat the password").fill(PASSWORD)
    page.get_by_role("button", name="Join").click()
    page.get_by_role("button", name="Log out").wait_for()
    yield page
    assert errors == []
    context.close()


def invite(page: Any, server: Server, *, role: str = "labeler", group: str = "training", number: int = 1) -> list[str]:
    """Links that an admin makes."""
    page.goto(f"{server.url}/admin/people")
    page.get_by_label("Role", exact=True).first.select_option(role)
    if role == "labeler":
        page.get_by_label("Group", exact=True).first.select_option(group)
    page.get_by_label("How many").fill(str(number))
    page.get_by_role("button", name="Make an invitation link").click()
    page.locator("input[readonly]").first.wait_for()
    return [box.input_value() for box in page.locator("input[readonly]").all()]


def start(page: Any, server: Server, kind: str) -> str:
    """Begin a task of a kind from the home page; the task's address."""
    page.goto(f"{server.url}/")
    page.locator("li.card", has=page.locator(f"input[name=kind][value={kind}]")).get_by_role("button").click()
    page.wait_for_url(re.compile(r"/tasks/\d+"))
    return page.url.partition("?")[0]


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the focus is there, as somebody without a mouse does."""
    for _ in range(400):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reaches {selector}")


def text_of(page: Any) -> dict[str, str]:
    """Letter to the output's text, as the page shows it."""
    return {box.get_attribute("data-output"): box.text_content() for box in page.locator("[data-output]").all()}


def rate_by_mouse(page: Any, ratings: dict[str, int]) -> None:
    for letter, overall in ratings.items():
        page.locator(f"input[name='{letter}.overall'][value='{overall}']").check(force=True)


def export(server: Server) -> list[dict[str, Any]]:
    """What ``heedful store export`` writes."""
    file = server.folder / "labels.jsonl"
    file.unlink(missing_ok=True)
    server.run("store", "export", "--project", str(server.folder), "--file", str(file))
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def exported_orders(server: Server) -> list[list[set[str]]]:
    """Every exported ranking as groups of the outputs' texts, best first; the oldest first."""
    rows = export(server)
    text = {row["id"]: row["text"] for row in rows if row["kind"] == "response"}
    orders: list[list[set[str]]] = []
    for row in rows:
        if row["kind"] == "ranking":
            ranked = dict(zip(row["response_ids"], row["ranks"], strict=True))
            orders.append([{text[id] for id in ranked if ranked[id] == rank} for rank in sorted(set(ranked.values()))])
    return orders


@pytest.fixture(scope="module")
def admin(server: Server, chromium: Any) -> Iterator[Any]:
    """The first admin, joined by the link that the first start printed; and work for labelers."""
    add_tasks(server.database, "demonstrate", count=3, prompt="Tell me about whales.")
    add_tasks(server.database, "rank", count=8, num_outputs=K, outputs=OUTPUTS, prompt="Tell me about whales.")
    with person(chromium, server.admin_link, "Ada") as page:
        yield page


def saved(page: Any) -> None:
    page.wait_for_function("() => document.getElementById('saved').dataset.state === 'saved'")


def waiting(page: Any) -> str:
    page.wait_for_function("() => document.getElementById('saved').dataset.state === 'waiting'")
    return page.locator("#saved").inner_text()


def the_story(admin: Any, server: Server, chromium: Any, *, name: str, offline_seconds: float) -> None:
    one, two = invite(admin, server, number=2)
    (researcher,) = invite(admin, server, role="researcher")
    with (
        person(chromium, one, f"{name} one") as page,
        person(chromium, two, f"{name} two") as other,
        person(chromium, researcher, f"{name} researcher") as rex,
    ):
        # A demonstration.
        address = start(page, server, "demonstrate")
        page.get_by_label("Your demonstration").fill(f"Whales are mammals, says {name}.\n\n- They sing.")
        saved(page)
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("Thank you. Your answer is kept.").wait_for()

        # Seven outputs, by keys alone.
        address = start(page, server, "rank")
        texts = text_of(page)
        assert sorted(texts) == list("ABCDEFG")
        assert sorted(texts.values()) == sorted(OUTPUTS)
        assert "broken" not in page.title()
        ratings = dict(zip("ABCDEFG", (5, 3, 7, 2, 5, 2, 1), strict=True))
        for letter in "ABCD":
            tab_to(page, f"input[name='{letter}.overall']")
            page.keyboard.press("Space")
            for _ in range(ratings[letter] - 1):
                page.keyboard.press("ArrowRight")
        tab_to(page, ".board-card")
        for key in ("c", "1", "a", "2", "e", "2", "b", "3"):
            page.keyboard.press(key)
        saved(page)
        assert page.locator("[data-order]").inner_text().startswith("C > A = E > B")

        # The network goes; the work goes on.
        page.context.set_offline(True)
        assert "Not connected" in waiting(page)
        for key in ("d", "End", "f", "End", "t", "g", "9"):
            page.keyboard.press(key)
        assert page.locator("[data-order]").inner_text() == "C > A = E > B > D = F > G"
        for letter in "EF":
            rate_by_mouse(page, {letter: ratings[letter]})
        page.wait_for_timeout(offline_seconds * 1000)
        assert "Not connected" in page.locator("#saved").inner_text()
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("The server does not answer, so nothing was sent.").wait_for()
        assert page.url.startswith(address), "submitting without a network left the page"
        # Pages come back before drafts can be sent (not by route(): a page's last words, fetch with keepalive, pass it by).
        cut = "window.fetch = () => Promise.reject(new TypeError())"
        page.evaluate(f"() => {{ sessionStorage.setItem('cut', 'yes'); {cut}; }}")
        # The browser's own error page has no storage.
        page.context.add_init_script(f"try {{ if (sessionStorage.getItem('cut')) {cut}; }} catch {{}}")
        with suppress(Exception):  # the browser's own error page
            page.reload(timeout=5_000)
        page.context.set_offline(False)

        # What was done is in this browser and nowhere else: it is shown again.
        page.goto(address)
        assert page.locator("#saved").get_attribute("data-state") == "waiting"
        assert page.locator("[data-order]").inner_text() == "C > A = E > B > D = F > G"
        assert page.locator("input[name='F.overall']:checked").input_value() == "2"
        page.reload()
        assert page.locator("[data-order]").inner_text() == "C > A = E > B > D = F > G"

        # Now wholly: the server gets it by itself, and shows it in a browser that keeps nothing.
        page.evaluate("sessionStorage.clear()")
        page.reload()
        saved(page)
        page.evaluate("localStorage.clear()")
        page.reload()
        assert page.locator("[data-order]").inner_text() == "C > A = E > B > D = F > G"
        assert page.locator("input[name='E.overall']:checked").input_value() == "5"

        # One rating is missing: nothing is lost by pressing the button too early.
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("One thing is missing.").wait_for()
        assert page.locator("[data-order]").inner_text() == "C > A = E > B > D = F > G"
        rate_by_mouse(page, {"G": ratings["G"]})

        # Somebody else sees nothing of it, and can do nothing to it.
        number, token = address.rsplit("/", 1)[1], page.locator("input[name=_token]").get_attribute("value")
        csrf = other.locator("meta[name=csrf-token]").get_attribute("content")
        form = {"csrf": csrf, "_token": token, "_version": "99", "_then": "stop"}
        form |= {f"{letter}.overall": "1" for letter in "ABCDEFG"} | {f"{letter}.group": "1" for letter in "ABCDEFG"}
        assert other.goto(address).status == 404
        for action in ("submit", "draft", "skip", "release", "ask"):
            answer = other.context.request.post(f"{address}/{action}", form=form, max_redirects=0)
            assert answer.status == 404, f"{action}: {answer.status}"
        api = {"token": token, "answer": {}, "seconds_spent": 1}
        answer = other.context.request.post(
            f"{server.url}/api/v1/assignments/{number}/submit", data=api, headers={"X-CSRF-Token": csrf}
        )
        assert answer.status == 404
        assert rex.goto(address).status == 404, "a researcher opened a labeler's page"

        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("Thank you. Your answer is kept.").wait_for()
        assert other.goto(address).status == 404

        # What is exported is what was clicked.
        clicked = [{texts[letter] for letter in group} for group in ("C", "AE", "B", "DF", "G")]
        assert exported_orders(server)[-1] == clicked
        rows = export(server)
        who = next(row["labeler"] for row in rows[::-1] if row["kind"] == "ranking")
        text = {row["id"]: row["text"] for row in rows if row["kind"] == "response"}
        given = {text[r["response_id"]]: r["overall"] for r in rows if r["kind"] == "rating" and r["labeler"] == who}
        assert given == {texts[letter]: overall for letter, overall in ratings.items()}
        written = [row for row in rows if row["kind"] == "demonstration" and row["labeler"] == who]
        # Records join a prompt and its answer by a space (heedful.conversation).
        assert [row["text"] for row in written] == [f" Whales are mammals, says {name}.\n\n- They sing."]
        assert name not in json.dumps(who), "the export names a person"


def test_a_labeler_loses_the_network_and_nothing_else(admin: Any, server: Server, chromium: Any) -> None:
    the_story(admin, server, chromium, name="Olga", offline_seconds=3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_labeler_loses_the_network_for_a_minute(admin: Any, server: Server, chromium: Any) -> None:
    the_story(admin, server, chromium, name="Minna", offline_seconds=60)


def drag(page: Any, letter: str, to: Any) -> None:
    """With the mouse: press, move in steps, let go. ``to``: (x, y) from the board as it is then."""
    page.locator(f"#card-{letter}").scroll_into_view_if_needed()
    box = page.locator(f"#card-{letter} .letter").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    x, y = to()
    page.mouse.move(x + 5, y + 5, steps=6)
    x, y = to()  # the page may have scrolled meanwhile
    page.mouse.move(x, y, steps=2)
    page.mouse.up()


def test_ranking_by_drag(admin: Any, server: Server, chromium: Any) -> None:
    with person(chromium, invite(admin, server)[0], "Dora") as page:
        start(page, server, "rank")
        texts = text_of(page)
        page.locator("#order").scroll_into_view_if_needed()

        def group(number: int, share: float) -> Any:
            def where() -> tuple[float, float]:
                box = page.locator(".board-group").nth(number).bounding_box()
                return box["x"] + box["width"] / 2, box["y"] + share * box["height"]

            return where

        drag(page, "D", group(0, 0.5))  # the first: group 1
        drag(page, "B", group(0, 0.02))  # above it
        drag(page, "G", group(1, 0.5))  # onto D: tied
        drag(page, "A", group(1, 0.98))  # below them
        for letter in "CEF":
            drag(page, letter, group(2, 0.5))  # onto A
        assert page.locator("[data-order]").inner_text() == "B > D = G > A = C = E = F"
        drag(page, "F", group(0, 0.02))
        assert page.locator("[data-order]").inner_text() == "F > B > D = G > A = C = E"
        # Let go outside of the board, and Escape in mid-drag: nothing moves.
        drag(page, "F", lambda: (5, 5))
        assert page.locator("[data-order]").inner_text() == "F > B > D = G > A = C = E"
        rate_by_mouse(page, dict.fromkeys("ABCDEFG", 4))
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("Thank you. Your answer is kept.").wait_for()
        assert exported_orders(server)[-1] == [{texts[letter] for letter in group} for group in ("F", "B", "DG", "ACE")]


def test_ranking_by_select_boxes_without_javascript(admin: Any, server: Server, chromium: Any) -> None:
    with person(chromium, invite(admin, server)[0], "Nora", java_script_enabled=False) as page:
        address = start(page, server, "rank")
        texts = text_of(page)
        for letter, place in zip("ABCDEFG", (2, 7, 2, 1, 4, 4, 7), strict=True):
            page.locator(f"select[name='{letter}.group']").select_option(str(place))
        rate_by_mouse(page, dict.fromkeys("ABCDEF", 6))
        page.get_by_role("button", name="Save now").click()
        page.get_by_text("Your draft is saved.").wait_for()
        page.goto(address)
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("One thing is missing.").wait_for()
        rate_by_mouse(page, {"G": 1})
        page.get_by_role("button", name="Submit, then stop").click()
        page.get_by_text("Thank you. Your answer is kept.").wait_for()
        assert exported_orders(server)[-1] == [{texts[letter] for letter in group} for group in ("D", "AC", "EF", "BG")]
