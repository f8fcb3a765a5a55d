"""``heedful up``: the application and the models in one command, and where the application finds its models."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from tests.align.small_project import run
from tests.heedful_up import heedful_up

from heedful.cli.entry import main
from heedful.cli.serve_verbs import _to_compare
from heedful.errors import ConfigError
from heedful.project.project import init_project
from heedful.web.app_settings import model_server_key, model_server_of


def test_a_newcomer_gets_application_and_models(tmp_path: Path) -> None:
    """No project, no miniature: the base models that ship; one signal ends both."""
    with heedful_up(folder=tmp_path, seconds=240) as addresses:
        models = addresses["models"]
        names = [model["id"] for model in httpx.get(f"{models}/models", timeout=60, verify=False).json()["data"]]
        assert names == ["base-small", "base-medium"]
        for name in names:
            body = {"model": name, "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 8, "stream": True}
            answer = httpx.post(f"{models}/chat/completions", json=body, timeout=120)
            assert '"finish_reason":' in answer.text
            assert answer.text.endswith("data: [DONE]\n\n")
        # The application begins to listen right after it has said so.
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport, timeout=60) as http:
            assert http.get(f"{addresses['application']}/health").status_code == 200
    assert (tmp_path / "playground" / "labels.sqlite").is_file()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{models}/models")


def test_a_port_that_cannot_be_had_is_refused_before_the_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for wrong, message in ((port, f"port {port} is in use"), (99_999, "there is no such port")):
            code, said = run("up", "--port", wrong)
            assert (code, message in said, "base-small" in said) == (2, True, False), said


def test_interrupted_while_it_loads_a_server_has_nothing_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("heedful.serve.server.load", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(["up", "--port", "0"])
    assert (stopped.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_where_the_application_finds_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_MODEL_SERVER", raising=False)
    assert model_server_of(tmp_path, None) is None
    monkeypatch.setenv("HEEDFUL_MODEL_SERVER", "http://127.0.0.1:1/v1/")
    assert model_server_of(tmp_path, None) == "http://127.0.0.1:1/v1"
    file = init_project(tmp_path, base_model="x").config_file
    assert model_server_of(tmp_path, None) == "http://127.0.0.1:1/v1"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace('# model_server = "http://127.0.0.1:8001/v1"', 'model_server = "http://127.0.0.1:2/v1"'), "utf-8"
    )
    assert model_server_of(tmp_path, None) == "http://127.0.0.1:2/v1"
    assert model_server_of(tmp_path, "http://127.0.0.1:3/v1") == "http://127.0.0.1:3/v1"
    for wrong in ("127.0.0.1:8001", "ftp://x", "http://", "http://["):
        with pytest.raises(ConfigError, match="not valid"):
            model_server_of(tmp_path, wrong)


def test_the_key_for_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, key in (("", None), (" \n", None), ("a-key\n", "a-key")):
        monkeypatch.setenv("HEEDFUL_MODEL_SERVER_KEY", value)
        assert model_server_key() == key
    for wrong in ("a\nb", "Schlüssel"):
        monkeypatch.setenv("HEEDFUL_MODEL_SERVER_KEY", wrong)
        with pytest.raises(ConfigError, match="cannot be sent") as refused:
            model_server_key()
        assert wrong not in str(refused.value)


def test_a_folder_of_a_model_is_offered_and_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text("{}", "utf-8")
    folder, sources = _to_compare(model)
    assert (folder, [source.name for source in sources]) == (Path("playground"), ["my-model"])
    assert [path.name for path in model.iterdir()] == ["config.json"]
    code, said = run("up", "my-model", "--port", "0")
    assert (code, "heedful init" in said) == (2, False), said
