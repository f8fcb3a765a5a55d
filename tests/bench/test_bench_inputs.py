"""What the benchmarks are given: people's data for a model of one's own, and other people's servers."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.tiny import END, tiny_llama, tiny_tokenizer

from heedful.model import save_model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))  # where `python bench/sft.py` finds them
real_data: Any = importlib.import_module("_real_data")
servers: Any = importlib.import_module("_servers")
serving: Any = importlib.import_module("serving")
reward: Any = importlib.import_module("reward")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tiny_llama(), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_peoples_files_become_tokens(model: Path, tmp_path: Path) -> None:
    pairs = [
        {"chosen": "\n\nHuman: w1 w2\n\nAssistant: w3", "rejected": "\n\nHuman: w1 w2\n\nAssistant: w4 w5"},
        {"chosen": "\n\nHuman: w6\n\nAssistant: w7 w8", "rejected": "\n\nHuman: w6\n\nAssistant: w9"},
    ]
    write_rows(tmp_path / "data" / "hh" / "pairs.jsonl", pairs)
    write_rows(tmp_path / "data" / "alpaca.jsonl", [{"instruction": "w10 w11", "input": "", "output": "w12"}])
    write_rows(tmp_path / "data" / "other.jsonl", [{"unknown": 1}])
    data = real_data.read(argparse.Namespace(model=model, data=[tmp_path / "data"]))
    assert [row["response"] for row in data.examples] == [[12, END]]
    assert data.examples[0]["prompt"] == [10, 11]
    assert set(data.rankings) == {2}
    by_prompt = {row["prompt"][-1] if len(row["prompt"]) == 1 else tuple(row["prompt"]): row for row in data.rankings[2]}
    found = sorted((row["responses"], row["ranks"]) for row in by_prompt.values())
    assert [sorted(zip(ranks, responses, strict=True)) for responses, ranks in found] == [
        [(1, [3, END]), (2, [4, 5, END])],
        [(1, [7, 8, END]), (2, [9, END])],
    ]
    assert len(data.prompts) == 3
    assert data.size.layers == 2
    assert data.size.vocabulary == 64


def test_too_few_rows_are_repeated_and_none_is_an_error() -> None:
    assert real_data.enough("rows", [1, 2], 5) == [1, 2, 1, 2, 1]
    with pytest.raises(SystemExit, match="expected rankings in the files"):
        real_data.enough("rankings", [], 5)
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        real_data.files_in([Path("nowhere")])


def test_prompts_of_different_k_count_each_comparison_once() -> None:
    rows = [
        {"prompt": [5], "responses": [[6]] * k, "ranks": list(range(1, k + 1))} for k in (4, 9, 4, 4, 5)
    ]  # the last one is not trained on
    size = real_data.size_of(
        {
            "hidden_size": 4,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "intermediate_size": 5,
            "vocab_size": 7,
        }
    )
    case = reward.case("m", "K", size, rows, 2, argparse.Namespace(only_ours=True), {}, lambda _: None)
    assert case.work({}) == 6 + 36 + 6 + 6
    assert case.contenders[0].request == {"do": "reward", "steps": 2, "batch_size": 2}
    assert "loss_after_one_step" not in case.agree  # TRL's first step may have other pairs


PROGRAM = """
import http.server, json, subprocess, sys, time
if sys.argv[2] == "broken":
    sys.exit("no such model")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[3], "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        events = [{"choices": [{"text": "a"}]}] * body["max_tokens"]
        events.append({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
        text = "".join("data: " + json.dumps(event) + "\\n\\n" for event in events) + "data: [DONE]\\n\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(tmp_path: Path, kind: str = "good") -> Any:
    command = [sys.executable, "-c", PROGRAM, "{port}", kind, str(tmp_path / "child")]
    return servers.Server(kind, command, "m", {})


def test_a_server_is_waited_for_and_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with servers.running(server(tmp_path), tmp_path / "log", 60) as url:
        child = int((tmp_path / "child").read_text())
        assert psutil.pid_exists(child)
        assert httpx.post(f"{url}/completions", json={"max_tokens": 1}).status_code == 200
    until = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"{url}/completions", json={"max_tokens": 1})


def test_servers_are_measured_one_by_one_and_one_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "servers", lambda *_: iter([server(tmp_path, "broken"), server(tmp_path)]))
    out = tmp_path / "results" / "rows.json"
    arguments = ["serving.py", "--start", str(tmp_path), "--streams", "1", "3", "--requests", "2", "--tokens", "4"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out)])
    monkeypatch.setattr(serving.signal, "signal", lambda *_: None)
    serving.main()
    broken, *rows = json.loads(out.read_text())
    assert broken["contender"] == "broken"
    assert "no such model" in broken["error"]
    assert [(row["streams"], row["requests"], row["failed"]) for row in rows] == [(1, 4, 0), (3, 6, 0)]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert "broken failed" in capsys.readouterr().out
