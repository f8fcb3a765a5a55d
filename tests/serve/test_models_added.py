"""A model that is finished while the server runs is offered too, and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer

from heedful.errors import ConfigError
from heedful.serve import server
from heedful.serve.served_models import ModelSource
from heedful.serve.serving_state import Limits


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("first", "policy_2")]
    for seed, folder in enumerate(found):
        plain(tiny_gpt2(seed)).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return found


def eventually(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2_400):
        if holds():
            return
        pause.wait(0.05)
    raise AssertionError("it did not come to hold")


def test_a_problem_that_passes_does_not_end_the_search_for_new_models(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """heedful.toml cannot be read while somebody is saving it."""
    monkeypatch.setattr(server, "SECONDS_BETWEEN_LOOKS", 0.01)
    sources = [ModelSource(name=folder.name, folder=folder, template="plain") for folder in folders]
    said: list[str] = []
    looks: list[int] = []

    def later() -> list[ModelSource]:
        looks.append(len(looks))
        if len(looks) < 4:
            raise ConfigError("heedful.toml is broken")
        return sources

    with server.serving(sources[:1], Limits(), precision="float32", say=said.append, later=later) as address:
        eventually(lambda: len(httpx.get(f"{address}/models", timeout=60, verify=False).json()["data"]) == 2)
    assert sum("heedful.toml is broken" in line for line in said) == 1


def test_a_new_model_is_offered_and_one_that_is_broken_is_named(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SECONDS_BETWEEN_LOOKS", 0.01)
    sources = [ModelSource(name="first", folder=folders[0], template="plain")]
    said: list[str] = []
    with server.serving(sources, Limits(), precision="float32", say=said.append, later=lambda: list(sources)) as address:

        def names() -> list[str]:
            return [model["id"] for model in httpx.get(f"{address}/models", timeout=60, verify=False).json()["data"]]

        eventually(lambda: names() == ["first"])
        (tmp_path / "broken").mkdir()
        sources.append(ModelSource(name="broken", folder=tmp_path / "broken", template="plain"))
        sources.append(ModelSource(name="policy_2", folder=folders[1], template="plain"))
        eventually(lambda: "policy_2" in names())
        assert names() == ["first", "policy_2"]
        for name in names():
            body = {"model": name, "prompt": "w1 w2", "max_tokens": 4, "temperature": 0}
            answer = httpx.post(f"{address}/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
        assert any(line.startswith("new: policy_2:") for line in said)
        assert sum("broken" in line for line in said) == 1
