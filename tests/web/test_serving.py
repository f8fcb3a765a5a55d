"""``heedful web`` as people start it: what it says, what it refuses, and that it needs the light installation only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tests.ports import free_port
from tests.test_layers import HEAVY

from heedful.errors import HeedfulError
from heedful.labeling.people.instruction_versions import FIRST_KINDS
from heedful.listening import is_loopback
from heedful.web import serving
from heedful.web.serving import Listening, serve

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_EXTRAS = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
from heedful.cli import main
main(sys.argv[1:])
"""


@contextmanager
def running(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command, without any extra, and what it said until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_EXTRAS, "web", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
            if "Ctrl-C" in line:
                break
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def refusal(folder: Path, **how: object) -> str:
    with pytest.raises(HeedfulError) as raised:
        serve(folder, Listening(**how), database_url=None, say=print)  # type: ignore[arg-type]
    assert raised.value.exit_code in (1, 2)
    return str(raised.value)


def test_first_start_answers_stops_and_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "--port", "0") as (process, said):
        assert process.poll() is None, said
        address = said[0].rpartition(" ")[2]
        link = said[1].rpartition(" ")[2]
        assert said[1].startswith("join as its first admin, once, within a week: ")
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        page = httpx.get(link)
        assert (page.status_code, "invited as" in page.text) == (200, True)
        port = int(address.rpartition(":")[2])
        assert f"--port {port + 1}" in refusal(tmp_path, port=port), "a port in use names another one"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read().split() == ["stopped"]
    assert {path.name for path in tmp_path.iterdir()} == {"labels.sqlite", "web-key"}
    with running(tmp_path, "--port", "0") as (_, said):
        again = said[1].rpartition(" ")[2]
        assert httpx.get(again).status_code == 200
        earlier = f"{again.rpartition('/join/')[0]}/join/{link.rpartition('/')[2]}"
        assert httpx.get(earlier).status_code == 404, "the link that was printed before does not work any more"
    with closing(sqlite3.connect(tmp_path / "labels.sqlite")) as connection:
        versions = connection.execute("SELECT count(*), max(version) FROM instruction").fetchone()
    assert versions == (sum(map(len, FIRST_KINDS.values())), 1), "the instructions that ship are published, once"


def test_sigterm_closes_the_database(tmp_path: Path) -> None:
    """SQLite's log is in the file then, and only the owner can read it."""
    with running(tmp_path, "--port", "0") as (process, said):
        assert process.poll() is None, said
        assert (tmp_path / "labels.sqlite-wal").stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"labels.sqlite", "web-key"}
    assert (tmp_path / "labels.sqlite").stat().st_mode & 0o777 == 0o600


def test_no_folder(tmp_path: Path) -> None:
    said = refusal(tmp_path / "nowhere")
    assert "there is no such folder" in said
    assert "mkdir" in said


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_text("These are no labels but a text that somebody put here.\n" * 100)
    assert "this is not a database" in refusal(tmp_path, port=free_port())


def test_no_such_address(tmp_path: Path) -> None:
    assert "cannot be listened on" in refusal(tmp_path, host="192.0.2.1", unencrypted=True, port=0)
    assert "0 to 65535" in refusal(tmp_path, port=70_000)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "labels.example.org"])
def test_beyond_this_machine_only_with_tls(tmp_path: Path, host: str) -> None:
    said = refusal(tmp_path, host=host)
    assert "--tls-proxy" in said
    assert "--send-passwords-unencrypted" in said
    assert list(tmp_path.iterdir()) == []
    assert not Listening(host=host, unencrypted=True).secure
    assert Listening(host=host, tls_proxy="10.0.0.1", url="https://labels.example.org/").secure


def test_what_links_begin_with() -> None:
    assert Listening().public_url == "http://127.0.0.1:8000"
    assert Listening(host="::1", port=9000).public_url == "http://[::1]:9000"
    behind = Listening(tls_proxy="127.0.0.1", url="https://labels.example.org/")
    assert behind.public_url == "https://labels.example.org"
    for wrong in (
        {"tls_proxy": "127.0.0.1"},
        {"tls_proxy": "127.0.0.1", "url": "http://a.example"},
        {"url": "labels.example.org"},
    ):
        with pytest.raises(HeedfulError):
            Listening(**wrong)  # type: ignore[arg-type]


def test_certificates_come_with_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "certificate.pem"
    file.write_text("no certificate")
    assert "both --certificate and --certificate-key" in refusal(tmp_path, certificate=file)
    assert "no such certificate" in refusal(tmp_path, certificate=file, certificate_key=tmp_path / "key.pem")
    assert "certificate cannot be used" in refusal(tmp_path, certificate=file, certificate_key=file, port=0)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.5.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "")))


def test_the_wheel_holds_all_that_the_application_reads(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    for folder, pattern in (("web/templates", "*.html"), ("web/static", "*"), ("labeling/database/migrations", "*.py")):
        files = [path for path in (ROOT / "src" / "heedful" / folder).rglob(pattern) if path.is_file()]
        assert files
        for file in files:
            if "__pycache__" not in file.parts:
                assert file.relative_to(ROOT / "src").as_posix() in held


def test_a_connection_that_sends_no_whole_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await asyncio.sleep(0.5)  # longer than the wait for a request
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http=serving.PromptProtocol, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection(listener.getsockname(), timeout=5) as connection:
                connection.sendall(begun)
                assert connection.recv(100) == b""
        with socket.create_connection(listener.getsockname(), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1_000).endswith(b"\r\n\r\n")
            assert connection.recv(10) == b"ok"
            connection.sendall(b"GET / HTTP/1.1\r\n")  # the next one is begun only
            assert connection.recv(100) == b""
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listener.close()
