"""``heedful serve`` as people start it: what it says and refuses, how it ends; keys; names of models."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.align.small_project import run
from tests.serve.small_models import HTTP, chat_tokenizer, models, served, small_gpt2, tokenizer
from tests.serve.test_crowd import eventually, post

from heedful.cli.serve_verbs import _to_compare
from heedful.errors import ConfigError, MissingError
from heedful.model.saving import save_model
from heedful.project.project import init_project
from heedful.serve.access_keys import digest_of, read_keys
from heedful.serve.served_models import load, sources_of
from heedful.serve.serving_state import Limits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models ``plain``, ``chat`` and ``reward``."""
    folder = tmp_path_factory.mktemp("served")
    save_model(small_gpt2(tokenizer(), 1), tokenizer(), folder / "plain")
    save_model(small_gpt2(chat_tokenizer(), 2), chat_tokenizer(), folder / "chat")
    save_model(models()["reward"].model, tokenizer(), folder / "reward")
    return folder


@contextmanager
def serving(*arguments: object, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command in a process of its own: its address, and itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "heedful.cli", "serve", *map(str, arguments), "--port", "0", "--precision", "float32"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | variables,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(240, process.kill)
    guard.start()
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if found := re.search(r"the server is at (\S+)/v1", line):
                yield found[1], process
                break
        else:
            raise AssertionError(said)
    finally:
        guard.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()


def test_sigterm_finishes_what_runs_and_refuses_what_comes(folders: Path) -> None:
    # More than the sockets hold: the server cannot be done before we read.
    body: dict[str, Any] = {"model": "plain", "prompt": "a", "max_tokens": 250, "n": 32, "logprobs": 20}
    body |= {"logit_bias": {"0": -100}, "stream": True}
    key = "a-key-from-the-environment"
    with (
        serving(f"plain={folders / 'plain'}", folders / "reward", HEEDFUL_API_KEY=key) as (url, process),
        httpx.Client(timeout=120, headers={"Authorization": f"Bearer {key}"}) as http,
    ):
        assert HTTP.get(f"{url}/v1/models").status_code == 401
        assert [model["id"] for model in http.get(f"{url}/v1/models").json()["data"]] == ["plain", "reward"]
        metrics = http.get(f"{url}/metrics").text
        assert 'heedful_requests_total{route="/v1/models",status="200"} 1.0' in metrics
        assert 'heedful_requests_total{route="refused",status="401"} 1.0' in metrics
        with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            received = [next(lines)]
            process.send_signal(signal.SIGTERM)
            refused = http.get(f"{url}/v1/models")
            while refused.status_code == 200:  # the signal has not arrived yet
                refused = http.get(f"{url}/v1/models")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert http.get(f"{url}/health").status_code == 503
            received += list(lines)
        assert "data: [DONE]" in received
        assert sum('"finish_reason":"length"' in line for line in received) == 32
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        assert process.wait(timeout=60) == 0
        assert not any(child.is_running() for child in children)


def test_requests_that_run_too_long_after_sigterm_are_ended() -> None:
    body = {"model": "plain", "prompt": "a", "max_tokens": 250, "logit_bias": {"0": -100}, "n": 128}
    with served(Limits(drain_seconds=0, slots=1), names=["plain"]) as (url, server):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(post(json.dumps(body).encode()))
            eventually(lambda: server._state.thread.num_unfinished("plain") > 100)
            server.stop()
            eventually(lambda: server._state.num_requests == 0)
        eventually(lambda: not server._state.thread._thread.is_alive())


# ---------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_served_is_refused_at_once(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_API_KEY", raising=False)
    for arguments, message in (
        ([tmp_path / "nothing"], "there is no model here"),
        ([tmp_path], "there is no model here"),
        ([folders / "plain", folders / "plain"], "two models have the same name"),
        ([folders / "plain", "--host", "0.0.0.0"], "without an API key"),
        ([folders / "plain", "--port", 99_999], "there is no such port"),
        ([folders / "plain", "--port", -1], "there is no such port"),
        ([folders / "plain", "--slots", 0], "slots is out of range"),
        ([folders / "plain", "--template", "chat", "--port", 0], 'the template "chat" needs a tokenizer'),
        ([folders / "plain", "--api-keys", tmp_path / "keys"], "the file of API keys cannot be read"),
    ):
        code, said = run("serve", *arguments)
        assert (code, message in said) == (2, True), said


def test_a_port_that_is_taken_is_named(folders: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = run("serve", folders / "plain", "--port", taken.getsockname()[1])
    assert (code, "is in use" in said) == (2, True)


# ---------------------------------------------------------------------------------------------------- names, keys


def test_names_of_models(folders: Path, tmp_path: Path) -> None:
    sources = sources_of([str(folders / "plain"), f"other={folders / 'chat'}"])
    assert [source.name for source in sources] == ["plain", "other"]
    run_folder = tmp_path / "sft-3" / "model"
    run_folder.mkdir(parents=True)
    assert sources_of([str(run_folder)])[0].name == "sft-3"
    with pytest.raises(ConfigError, match="same name"):
        sources_of([f"a={folders / 'plain'}", f"a={folders / 'chat'}"])
    with pytest.raises(MissingError):
        sources_of([str(folders / "nowhere")])


def test_a_project_stands_for_its_finished_models(folders: Path, tmp_path: Path) -> None:
    project = init_project(tmp_path, base_model=str(folders / "plain"))
    assert [source.name for source in sources_of([str(tmp_path)])] == ["base"]
    for stage, model in (("sft-1", "plain"), ("sft-2", "plain"), ("reward-1", "reward"), ("ppo_ptx-1", "plain")):
        folder = project.runs / stage
        (folder / "model").parent.mkdir(parents=True)
        (folder / "model").symlink_to(folders / model)
        (folder / "stage.json").write_text('{"done": true}' if stage != "sft-2" else "{}", encoding="utf-8")
    sources = sources_of([str(tmp_path)])
    assert [source.name for source in sources] == ["base", "sft", "ppo_ptx", "reward"]
    assert sources[1].folder == project.runs / "sft-1" / "model"
    assert {source.template for source in sources} == {"plain"}
    folder, compared = _to_compare(tmp_path)
    assert (folder, [source.name for source in compared]) == (tmp_path, ["base", "sft", "ppo_ptx"])
    chosen = project.runs / "choose_sft-1"
    chosen.mkdir()
    (chosen / "stage.json").write_text('{"done": true}', encoding="utf-8")
    (chosen / "choice.json").write_text('[{"folder": "epoch-1"}, {"folder": "epoch-2", "chosen": true}]', encoding="utf-8")
    (project.runs / "sft-1" / "epoch-2").symlink_to(folders / "plain")
    assert sources_of([str(tmp_path)])[1].folder == project.runs / "sft-1" / "epoch-2"


def test_the_folder_decides_what_a_model_is(folders: Path) -> None:
    plain, chat, reward = (load(sources_of([str(folders / name)])[0], "float32") for name in ("plain", "chat", "reward"))
    assert (plain.scores, chat.scores, reward.scores) == (False, False, True)
    assert (plain.template, chat.template) == ("plain", "chat")


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-of-a-person  # Ann\n\nsecond-key-of-a-person plain chat\n", encoding="utf-8")
    first, second = read_keys(file, None, ["plain", "chat", "reward"])
    assert first.digest == digest_of("first-key-of-a-person")
    assert first.opens("reward")
    assert (second.opens("plain"), second.opens("reward")) == (True, False)
    assert len(read_keys(file, "a-key-of-the-environment", ["plain", "chat"])) == 3
    assert read_keys(None, "a-key-of-the-environment\n", [])[0].digest == digest_of("a-key-of-the-environment")
    file.write_text("\ufeffa-key-with-#-in-the-middle # Ann\n", encoding="utf-8")
    assert read_keys(file, None, [])[0].digest == digest_of("a-key-with-#-in-the-middle")
    for text, message in (
        ("short\n", "too short"),
        ("first-key-of-a-person plain\nfirst-key-of-a-person\n", "given twice"),
        ("first-key-of-a-person other\n", "not served"),
        ("# nothing\n", "holds no API key"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_keys(file, None, ["plain"])


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"waiting": 0}, {"seconds": -1.0}, {"drain_seconds": float("inf")}])
def test_limits_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Limits(**wrong)


# ---------------------------------------------------------------------------------------------------- the benchmark


def test_the_benchmark_measures_a_server(server_url: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    options = ("--streams", "1", "4", "--requests", "1", "--tokens", "5", "--words", "4")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "serving.py"), f"ours={server_url}/v1,plain", *options, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["streams"], row["requests"], row["failed"]) for row in rows] == [(1, 4, 0), (4, 4, 0)]
    assert all(row["tokens_per_second"] > 0 and row["first_token_p50_ms"] > 0 for row in rows)
    assert "| 4 | ours |" in done.stdout
