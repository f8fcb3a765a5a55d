"""Texts that cannot fit are refused at once, and nobody waits for other people's long texts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from tests.serve.small_models import CONTEXT, HTTP, models, tokenizer

from heedful.model import template
from heedful.serve import completions, endless_texts
from heedful.serve.api_errors import ApiError
from heedful.serve.endless_texts import refuse_endless, refuse_huge, refuse_many_messages
from heedful.serve.serving_state import Limits, ServingState

LONG = ("a" * 3_000_000, " " * 3_000_000, "the cat " * 400_000, "\N{GRINNING FACE}" * 700_000, "1234567890" * 300_000)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters were tokenized at a time."""
    seen: list[int] = []
    ids = template._ids

    def counted(tokens: Any, texts: Any, **more: Any) -> list[list[int]]:
        seen.append(sum(map(len, texts)))
        return ids(tokens, texts, **more)

    monkeypatch.setattr(template, "_ids", counted)
    return seen


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:8])
@pytest.mark.parametrize("kind", ["completion", "chat", "two messages", "score", "response"])
def test_a_text_of_megabytes_is_refused_by_its_beginning(server_url: str, lengths: list[int], kind: str, text: str) -> None:
    half = {"role": "user", "content": f"b{text[: len(text) // 2]}b"}
    path, body, param = {
        "completion": ("/v1/completions", {"model": "plain", "prompt": ["a", text]}, "prompt"),
        "chat": ("/v1/chat/completions", {"model": "chat", "messages": [half | {"content": f"b{text}b"}]}, "messages"),
        "two messages": ("/v1/chat/completions", {"model": "chat", "messages": [half, half]}, "messages"),
        "score": ("/v1/score", {"model": "reward", "prompt": text, "response": "a"}, "prompt"),
        "response": ("/v1/score", {"model": "reward", "prompt": "a", "response": ["a", text]}, "response"),
    }[kind]
    answer = HTTP.post(f"{server_url}{path}", json=body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("context_length_exceeded", param)
    assert "maximum context length" in answer.json()["error"]["message"]
    assert sum(lengths) < 300 * CONTEXT, "more was tokenized than is needed to see that it is too long"


def test_long_tokens_are_no_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is never refused, however many characters its tokens have."""
    asked: list[int] = []

    def encode(_: Any, texts: list[str]) -> list[list[int]]:
        asked.append(len(texts[0]))
        return [[0] * (len(texts[0]) // 100)]

    monkeypatch.setattr(endless_texts, "encode", encode)
    refuse_endless(models()["plain"], ["x" * 100 * CONTEXT], "prompt")
    assert asked == [16 * CONTEXT, 32 * CONTEXT, 64 * CONTEXT]
    with pytest.raises(ApiError, match="maximum context length"):
        refuse_endless(models()["plain"], ["x" * 1_000 * CONTEXT], "prompt")


def test_messages_without_end(server_url: str) -> None:
    many = [{"role": "user", "content": "a"}] * 100_000
    for path, model in (("/v1/chat/completions", "chat"), ("/tokenize", "chat"), ("/v1/score", "reward")):
        body = {"model": model, "messages": many} | ({"response": "a"} if model == "reward" else {})
        error = HTTP.post(f"{server_url}{path}", json=body).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    refuse_many_messages(models()["chat"], many[:CONTEXT])


def test_what_only_counts_tokens_has_a_limit(server_url: str) -> None:
    for body in ({"prompt": "a" * 2_000_001}, {"messages": [{"role": "user", "content": "ab" * 600_000}] * 2}):
        error = HTTP.post(f"{server_url}/tokenize", json={"model": "plain", **body}).json()["error"]
        assert (error["code"], error["param"]) == ("string_too_long", next(iter(body)))
    refuse_huge(["a" * 2_000_000], "prompt")


def test_many_texts_let_others_in_between(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["The cat sat. " * 20] * 800  # 208,000 characters, each text within the window
    rows = HTTP.post(f"{server_url}/v1/completions", json={"model": "plain", "prompt": texts, "max_tokens": 0}).json()
    assert rows["usage"]["prompt_tokens"] == 800 * len(template.encode(tokenizer(), texts[:1])[0])
    groups: list[int] = []
    encode = completions.encode

    def counted(tokens: Any, some: list[str]) -> list[list[int]]:
        groups.append(len(some))
        return encode(tokens, some)

    monkeypatch.setattr(completions, "encode", counted)
    HTTP.post(f"{server_url}/v1/completions", json={"model": "plain", "prompt": texts, "max_tokens": 0})
    assert sum(groups) == 800
    assert max(groups) * len(texts[0]) <= 100_000


def test_texts_keep_their_order_and_their_thread() -> None:
    state = ServingState({}, Limits())
    names: list[str] = []

    def firsts(some: Sequence[str]) -> list[str]:
        names.append(threading.current_thread().name)
        return [text[0] for text in some]

    texts = ["a" * 60_000, "b", "c" * 60_000, "d" * 200_000, "e"]
    assert asyncio.run(state.tokenize_each(texts, firsts)) == ["a", "b", "c", "d", "e"]
    assert len(names) == 4
    assert {name.rpartition("_")[0] for name in names} == {"heedful-tokenizer"}
    state.close()
