"""``pip install heedful`` and nothing else: the labeling application works where no torch is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import PIP, ROOT, Server, environment
from tests.test_layers import HEAVY
from tests.web.site import PASSWORD, csrf_of

FOUND = "import importlib.util; print([name for name in {names!r} if importlib.util.find_spec(name)])"


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of its own with the wheel and the core dependencies, which pip finds by itself."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    constraint = ["--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [str(folder / "bin" / "python"), *PIP, "install", "--no-compile", "--retries", "1", *constraint, str(wheel)],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if done.returncode and "connection broken by" in done.stderr:
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def server(light: Path, tmp_path: Path) -> Iterator[Server]:
    one = Server(light, tmp_path)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        one.database.close()


def python(light: Path, code: str) -> str:
    command = [str(light / "bin" / "python"), "-c", code]
    done = subprocess.run(command, env=environment(light), cwd=light, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def post(browser: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Send a form of a page that is shown, as the button does."""
    answer = browser.post(action, data={"csrf": csrf_of(browser.get(page).text), **fields})
    assert answer.status_code == 200, answer.text
    return answer


@contextmanager
def person(server: Server, link: str, name: str) -> Iterator[httpx.Client]:
    """A browser in which somebody joined by a link."""
    fields = {"name": name, "email": f"{name.lower()}@example.org", "password": PASSWORD, "password_again": PASSWORD}
    with httpx.Client(base_url=server.url, follow_redirects=True, timeout=30) as browser:
        assert "Log out" in post(browser, link, link, **fields).text
        yield browser


@pytest.mark.long
def test_a_labeler_is_invited_and_works_without_torch(light: Path, server: Server) -> None:
    assert python(light, FOUND.format(names=HEAVY)) == "[]", "the core dependencies bring what only the extras may bring"
    assert python(light, "import heedful; print(heedful.__file__)").startswith(str(light))

    with person(server, server.admin_link, "Ada") as admin:
        batch = {"name": "Prompts", "phase": "training", "tasks": "1", "overlap": "1", "style": "plain", "use_case": ""}
        assert "Made 1 task." in post(admin, "/batches/new/write_prompt", "/batches/new/write_prompt", **batch).text
        links = post(admin, "/admin/people", "/admin/invites", role="labeler", group="training", number="1").text
        (link,) = re.findall(r'value="(http[^"]+/join/[^"]+)"', links)
    with person(server, link, "Lena") as labeler:
        task = post(labeler, "/", "/tasks/claim", kind="write_prompt")
        assert re.fullmatch(r"/tasks/\d+", task.url.path), "no task"
        hidden = dict(re.findall(r'<input type="hidden" name="(_\w+)" value="([^"]*)">', task.text))
        answer = {"text": "Name three rivers.", "use_case": "open_qa", "_then": "stop"}
        done = post(labeler, task.url.path, f"{task.url.path}/submit", **hidden, **answer)
        assert "Thank you. Your answer is kept." in done.text
    # The link was for one person, once.
    assert httpx.get(server.admin_link).status_code == 404
    server.run("store", "export", "--project", str(server.folder), "--file", "labels.jsonl")
    assert "Name three rivers." in (server.folder / "labels.jsonl").read_text()
