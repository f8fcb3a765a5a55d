"""The wheel, built and installed aside; ``heedful web`` from it as a process of its own; Chromium to look at it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.ports import free_port

from heedful.labeling.database.connection import Database, open_database

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


@dataclass
class Server:
    """``heedful web`` of the installed wheel, and its database as the test may look at it."""

    installed: Path
    folder: Path
    database_url: str | None = None
    model_server: str | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    said: str = ""
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        self.database = open_database(self.database_url or self.folder / "labels.sqlite")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_link(self) -> str:
        """What it printed at its first start, once."""
        return next(word for word in self.said.split() if "/join/" in word)

    def start(self) -> None:
        """Start it, and wait until it answers; the port stays what it was."""
        self.port = self.port or free_port()
        log = self.folder / "web.log"
        command = [str(self.installed / "bin" / "heedful"), "web", str(self.folder), "--port", str(self.port)]
        if self.database_url is not None:
            command += ["--database", self.database_url]
        if self.model_server is not None:
            command += ["--model-server", self.model_server]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment(self.installed), cwd=self.folder
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{self.url}/health", timeout=5, verify=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise AssertionError(f"heedful web did not answer within {START_SECONDS:.0f} s: {log.read_text()}")
        # Long lines are wrapped for reading; a link is one word all the same.
        self.said = log.read_text()

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End it as Ctrl-C would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def run(self, *arguments: str) -> str:
        """What another verb of the installed wheel prints."""
        done = subprocess.run(
            [str(self.installed / "bin" / "heedful"), *arguments],
            capture_output=True,
            text=True,
            env=environment(self.installed),
            cwd=self.folder,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def environment(installed: Path) -> dict[str, str]:
    """The installed wheel before anything else, and nothing of the working tree (nor of whatever PYTHONPATH says here)."""
    return os.environ | {"PYTHONPATH": str(installed), "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    # The builder from this environment where it is there: no network needed then.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    _do([sys.executable, *PIP, "wheel", "--no-deps", *isolation, "--wheel-dir", str(folder), str(ROOT)])
    (file,) = folder.glob("heedful-*.whl")
    return file


@pytest.fixture(scope="session")
def installed(wheel: Path) -> Path:
    """A folder into which the wheel was installed: what a user gets, not what lies in src; the rest is this environment's."""
    folder = wheel.parent
    target = folder / "installed"
    _do([sys.executable, *PIP, "install", "--no-deps", "--target", str(target), str(wheel)])
    where = subprocess.run(
        [sys.executable, "-c", "import heedful; print(heedful.__file__)"],
        env=environment(target),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(target)), f"not the installed wheel: {where.stdout}"
    return target


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The application over a fresh SQLite file, first started: its admin link is not used yet."""
    one = Server(installed, tmp_path_factory.mktemp("project"))
    try:
        one.start()
        yield one
    finally:
        one.stop()
        one.database.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without any page."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright (extra dev) is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian, Ubuntu: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


def _do(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
