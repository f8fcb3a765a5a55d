"""Many requests at once: each gets what it gets alone; clients that are gone free their slots; slow readers hold up nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from tests.serve.small_models import HTTP, served

from heedful.serve.engine_thread import EngineThread, Job
from heedful.serve.server import DrainingServer
from heedful.serve.serving_state import Limits

PROMPTS = ("The cat sat", "Name three rivers.", "猫坐在", "🙂", "Grüße", "a")


def request_of(rng: random.Random) -> dict[str, Any]:
    return {
        "model": rng.choice(["plain", "chat"]),
        "prompt": rng.choice(PROMPTS) * rng.randrange(1, 5),
        "max_tokens": rng.randrange(1, 40),
        "temperature": rng.choice([0, 0.7, 1, 1, 1.4]),
        "top_p": rng.choice([1, 1, 0.8]),
        "seed": rng.randrange(100),
        "n": rng.choice([1, 1, 2]),
        "logprobs": rng.choice([None, None, 3]),
        "stop": rng.choice([None, None, ["e", "ab"]]),
        "frequency_penalty": rng.choice([0, 0, 1.0]),
        "logit_bias": rng.choice([{}, {"40": 3}]),
    }


def choices_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"], answer.json()["usage"]


def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_sixty_four_requests_at_once_get_what_each_gets_alone(server_url: str) -> None:
    rng = random.Random(1)
    bodies = [request_of(rng) for _ in range(64)]
    with httpx.Client(timeout=120) as http:
        alone = [choices_of(http.post(f"{server_url}/v1/completions", json=body)) for body in bodies]

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=240, limits=httpx.Limits(max_connections=64)) as http:
            return await asyncio.gather(*(http.post(f"{server_url}/v1/completions", json=body) for body in bodies))

    assert [choices_of(answer) for answer in asyncio.run(all_at_once())] == alone


def test_a_prompt_in_a_batch_is_answered_as_alone(server_url: str) -> None:
    body: dict[str, Any] = {"model": "plain", "max_tokens": 15, "seed": 9}
    with httpx.Client(timeout=120) as http:
        together = http.post(f"{server_url}/v1/completions", json={**body, "prompt": list(PROMPTS)}).json()["choices"]
        for prompt, choice in zip(PROMPTS, together, strict=True):
            alone = http.post(f"{server_url}/v1/completions", json={**body, "prompt": prompt}).json()["choices"][0]
            assert alone["text"] == choice["text"]


# ---------------------------------------------------------------------------------------------------- clients that leave


def post(content: bytes) -> bytes:
    """A completion request as it is sent."""
    lines = (
        "POST /v1/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + content


def begun(url: str, body: dict[str, Any]) -> socket.socket:
    """A request that was sent, and whose answer nobody has read."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(post(content))
    return connection


LONG: dict[str, Any] = {"model": "plain", "prompt": "The cat", "max_tokens": 240, "logit_bias": {"0": -100}}


def unfinished(server: DrainingServer) -> int:
    return server._state.thread.num_unfinished("plain")


class Stepping:
    """The engine makes a step only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = threading.Semaphore(0)
        self.waits = threading.Event()
        self.free = False
        step = EngineThread._step

        def counted(thread: EngineThread, name: str) -> None:
            while not self.free:
                self.waits.set()
                if self.allowed.acquire(timeout=0.05):
                    break
                if not thread._commands.empty():
                    return  # what was asked meanwhile comes before the next step
            step(thread, name)

        monkeypatch.setattr(EngineThread, "_step", counted)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [0, 5])
def test_a_client_that_leaves_frees_its_slots_within_two_steps(
    monkeypatch: pytest.MonkeyPatch, stream: bool, steps: int
) -> None:
    """Before the first token and in the middle; while it is served and while it waits for a slot."""
    stepping = Stepping(monkeypatch)
    with served(Limits(slots=2), names=["plain"]) as (url, server):
        connections = [begun(url, {**LONG, "stream": stream, "n": 2}) for _ in range(3)]
        eventually(lambda: unfinished(server) == 6)
        for _ in range(steps):
            stepping.allowed.release()
        eventually(lambda: server._state.thread.num_steps == steps)
        connections[2].close()  # it waits: the first one has both slots
        eventually(lambda: unfinished(server) == 4)
        connections[0].close()
        eventually(lambda: unfinished(server) == 2)
        assert server._state.thread.num_steps <= steps + 2
        stepping.free = True
        if stream:
            answer = b""
            while b"[DONE]" not in answer:
                answer += connections[1].recv(65_536) or pytest.fail("the stream ended early")
        else:
            assert connections[1].recv(65_536).startswith(b"HTTP/1.1 200")
        connections[1].close()
        eventually(lambda: server._state.num_requests == 0)


def num_jobs() -> int:
    """Jobs that are still in memory."""
    gc.collect()
    return sum(type(one) is Job for one in gc.get_objects())


def resident() -> float:
    """MB of this process that are in memory."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


MOST_GROWTH = 15.0
"""MB over 300 clients that leave; a body, a job or a slot kept of each would be more."""


def leave(url: str, server: DrainingServer, rng: random.Random, count: int) -> None:
    """Clients that leave, before the first token or in the middle; then nobody is there any more."""
    state = server._state
    for _ in range(count):
        connection = begun(url, {**LONG, "stream": rng.random() < 0.7, "n": rng.randrange(1, 4)})
        if rng.random() < 0.5:
            eventually(lambda: unfinished(server) > 0 or state.num_requests == 0)
            time.sleep(rng.random() * 0.02)
        connection.close()
    eventually(lambda: state.num_requests == 0 and unfinished(server) == 0 and state.thread.num_jobs == 0)


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.long)])
def test_clients_that_leave_leave_nothing_behind(count: int) -> None:
    rng = random.Random(2)
    with served(Limits(slots=8, waiting=10_000), names=["plain"]) as (url, server):
        state, before = server._state, num_jobs()
        leave(url, server, rng, count)
        warm = resident()
        if count == 300:
            leave(url, server, rng, count)
            assert resident() < warm + MOST_GROWTH
        eventually(lambda: state.num_requests == 0 and unfinished(server) == 0 and state.thread.num_jobs == 0)
        assert state.thread.num_waiting == 0
        running = state.thread._running["plain"]
        assert running.engine.num_unfinished == 0
        assert num_jobs() <= before + 2
        assert HTTP.post(f"{url}/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200


def test_a_reader_that_does_not_read_holds_up_nobody() -> None:
    with served(Limits(slots=4), names=["plain"]) as (url, server):
        lazy = begun(url, {**LONG, "stream": True, "n": 3, "logprobs": 20})
        eventually(lambda: server._state.num_requests == 1)
        answer = HTTP.post(f"{url}/v1/completions", json={**LONG, "max_tokens": 30})
        assert answer.status_code == 200
        eventually(lambda: unfinished(server) == 0)
        received = b""
        while b"[DONE]" not in received:
            received += lazy.recv(1_000_000) or pytest.fail("the stream ended early")
        lazy.close()
        assert received.count(b'"finish_reason":"length"') == 3
