"""Every page of the application, with real data in it, is looked at by axe: WCAG 2.2 AA, light and dark.

Generated from the application's own list of routes: a new page is looked at as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Server
from tests.e2e.world import cookie, examples, fill, routes
from tests.web.fake_models import FakeModels
from tests.web.served import served

from heedful.web.routing import KEY_HOLDERS

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ROUTES = routes()
RUN = """async (options) => {
  const found = await axe.run(document, options);
  return found.violations.map((one) => ({
    rule: one.id,
    help: one.help,
    nodes: one.nodes.slice(0, 4).map((node) => `${node.html.slice(0, 200)} — ${node.failureSummary}`),
  }));
}"""


class Looking:
    """A browser for each role, and where each route's pages are."""

    def __init__(self, server: Server, chromium: Any) -> None:
        self._server, self._chromium, self._pages = server, chromium, {}
        self._who = fill(str(server.folder / "labels.sqlite"), server.database, num_prompts=600, num_tasks=600)
        self.examples = examples(server.database, self._who)
        server.start()

    def page(self, who: str) -> Any:
        if who not in self._pages:
            context = self._chromium.new_context(viewport={"width": 1366, "height": 768}, base_url=self._server.url)
            if who != "public":
                token = cookie(self._server.database, self._who[who])
                context.add_cookies([{"name": "heedful_session", "value": token, "url": self._server.url}])
            self._pages[who] = context.new_page()
        return self._pages[who]


@pytest.fixture(scope="module")
def looking(installed: Path, tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Looking]:
    with served(FakeModels().app) as address:
        server = Server(installed, tmp_path_factory.mktemp("project"), model_server=address)
        try:
            yield Looking(server, chromium)
        finally:
            server.stop()
            server.database.close()


def violations(page: Any) -> list[str]:
    """What axe finds, everything folded open: all rules in light, what depends on colours in dark too."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate(AXE)
    found: list[str] = []
    for scheme, only in (("light", {"type": "tag", "values": TAGS}), ("dark", {"type": "rule", "values": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        for one in page.evaluate(RUN, {"runOnly": only}):
            found.append("\n    ".join([f"{scheme}: {one['rule']}: {one['help']}", *one["nodes"]]))
    return found


@pytest.mark.parametrize("path", list(ROUTES))
def test_axe_finds_nothing(path: str, looking: Looking) -> None:
    if "{" in path:
        assert path in looking.examples, "say in tests/e2e/world.py where an example of this page is"
    who = ROUTES[path].heedful_who
    problems: list[str] = []
    if who == KEY_HOLDERS:
        pytest.skip("not a page")
    for somebody, example in looking.examples.get(path, [(who, path)]):
        page = looking.page(somebody)
        answer = page.request.get(example)
        assert answer.status in (200, 404), f"{example}: {answer.status}"
        if not answer.headers.get("content-type", "").startswith("text/html"):
            pytest.skip("not a page")
        page.goto(example)
        problems += [f"{somebody} {example}: {one}" for one in violations(page)]
    assert not problems, "\n".join(problems)


def test_axe_finds_nothing_in_a_form_with_errors(looking: Looking) -> None:
    problems: list[str] = []
    for somebody, example in looking.examples["/tasks/{assignment_id}"]:
        page = looking.page(somebody)
        page.goto(example)
        if page.get_by_role("button", name="Submit, then stop").count():
            page.get_by_role("button", name="Submit, then stop").click()
            page.locator("#problem, .notice.good").first.wait_for()  # topics: none is an answer too
            problems += [f"{somebody} {example} with errors: {one}" for one in violations(page)]
    assert not problems, "\n".join(problems)
