"""Data from the hub: from a server of ours that speaks as it does, at a commit that is written down, and never unasked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.align.small_project import run
from tests.evaluate.benchmarks.data_sets import toxicity_prompt

from heedful.errors import DataError, MissingError
from heedful.evaluate.benchmarks import hub_data
from heedful.evaluate.benchmarks.hub_data import SOURCES, fetch_missing
from heedful.evaluate.benchmarks.task_table import TASKS, task_named

REPOSITORY = SOURCES["real_toxicity_prompts"].repository
QUIET = Console(quiet=True)


class Hub:
    """Commits with their files, newest last, and what was asked for."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    def commit(self, name: str, **files: bytes) -> str:
        sha = hashlib.sha1(name.encode()).hexdigest()
        self.commits[sha] = {file.replace("__", "."): content for file, content in files.items()}
        return sha


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    own = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            own.asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            api, rest = f"api/datasets/{REPOSITORY}".split("/"), f"datasets/{REPOSITORY}/resolve".split("/")
            if parts[: len(api)] == api:
                sha = parts[-1] if "revision" in parts else list(own.commits)[-1]
                files = [{"rfilename": name} for name in own.commits[sha]]
                self.answer(json.dumps({"id": REPOSITORY, "sha": sha, "siblings": files}).encode(), sha)
            elif parts[: len(rest)] == rest:
                sha, name = parts[len(rest)], "/".join(parts[len(rest) + 1 :])
                self.answer(own.commits[sha][name], sha)
            else:
                self.send_error(404)

        def answer(self, content: bytes, sha: str) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", sha)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield own
    server.shutdown()
    thread.join()
    server.server_close()


def prompts(count: int) -> bytes:
    return "".join(json.dumps(toxicity_prompt(i, count)) + "\n" for i in range(count)).encode()


def fetch(data: Path) -> None:
    fetch_missing([task_named("real_toxicity_prompts")], data, QUIET)


def test_a_file_comes_once_and_its_commit_is_pinned(hub: Hub, tmp_path: Path) -> None:
    first = hub.commit("first", prompts__jsonl=prompts(3), README__md=b"#")
    fetch(tmp_path / "data")
    folder = tmp_path / "data" / "real_toxicity_prompts"
    assert (folder / "prompts.jsonl").read_bytes() == prompts(3)
    record = json.loads((folder / "hub.json").read_text())
    digest = hashlib.sha256(prompts(3)).hexdigest()
    assert record == {"repository": REPOSITORY, "revision": first, "files": {"prompts.jsonl": digest}}
    number = len(hub.asked)
    hub.commit("second", prompts__jsonl=prompts(5))
    fetch(tmp_path / "data")  # the file is there: nobody is asked
    assert len(hub.asked) == number
    (folder / "prompts.jsonl").unlink()
    fetch(tmp_path / "data")
    assert (folder / "prompts.jsonl").read_bytes() == prompts(3)
    fetch(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "real_toxicity_prompts" / "prompts.jsonl").read_bytes() == prompts(5)


def test_a_repository_that_is_not_as_expected(hub: Hub, tmp_path: Path) -> None:
    hub.commit("first", other__jsonl=b"{}")
    with pytest.raises(DataError, match="is not as expected"):
        fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_a_connection_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingError, match="cannot be fetched"):
        fetch(tmp_path / "data")


def test_without_the_package_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_data, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="huggingface_hub"):
        fetch(tmp_path / "data")


def test_nothing_is_fetched_unasked(hub: Hub, tmp_path: Path) -> None:
    hub.commit("first", prompts__jsonl=prompts(3))
    (tmp_path / "data").mkdir()
    arguments = ("evaluate", "benchmarks", tmp_path / "none", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert run(*arguments, "--tasks", "real_toxicity_prompts")[0] == 2
    assert hub.asked == []
    code, said = run(*arguments, "--tasks", "real_toxicity_prompts", "--fetch")
    assert (code, "there is no model here" in said) == (2, True), said
    assert (tmp_path / "data" / "real_toxicity_prompts" / "hub.json").is_file()


def test_every_file_has_a_name_that_its_task_reads() -> None:
    for name, source in SOURCES.items():
        task = task_named(name)
        assert set(source.files) <= {*task.files, *task.train_files}, name
        assert set(source.files) & set(task.files), name
    assert set(SOURCES) <= {task.name for task in TASKS if task.in_paper}
