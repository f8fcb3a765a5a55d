"""Labelers who all work at once, against the real server: no error, nobody's task twice, no acknowledged answer lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from tests.e2e.conftest import Server, environment
from tests.e2e.world import cookie
from tests.web.work import add_tasks

from heedful.labeling.database.tables import assignment, task
from heedful.labeling.people import accounts
from heedful.records import RATING_FLAGS
from heedful.web.api.opaque_ids import opaque_id
from heedful.web.serving import KEY_FILE

K = 7
CLAIM_P99_SECONDS = 0.25
"""On SQLite, with forty labelers."""


@dataclass
class Load:
    """What the labelers did, as they know it."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ("claim", "draft", "submit")})
    acknowledged: dict[int, tuple[int, Any]] = field(default_factory=dict)
    """Assignment to (task, answer) of every submit that the server said yes to."""
    errors: list[str] = field(default_factory=list)

    def report(self) -> str:
        lines = [f"{len(self.acknowledged)} answers, load average {os.getloadavg()[0]:.1f}"]
        for name, seconds in self.seconds.items():
            at = {share: f"{1000 * percentile(seconds, share):.0f} ms" for share in (0.5, 0.95, 0.99, 1.0)}
            lines.append(f"{name:>7}: {len(seconds)} times, median {at[0.5]}, p95 {at[0.95]}, p99 {at[0.99]}, most {at[1.0]}")
        return "\n".join(lines)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; infinite where there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("inf")


def an_answer(draw: random.Random, response_ids: list[str]) -> dict[str, Any]:
    """A whole ranking with ties."""
    groups: dict[int, list[str]] = {}
    for id in response_ids:
        groups.setdefault(draw.randrange(5), []).append(id)
    flags = dict.fromkeys(RATING_FLAGS, False)
    return {
        "ratings": {
            id: {"overall": draw.randint(1, 7), "flags": flags | {"fails_task": draw.random() < 0.2}} for id in response_ids
        },
        "groups": [groups[place] for place in sorted(groups)],
    }


@dataclass
class Labeler:
    """One labeler's browser, as a thread: claims, saves two drafts, submits, with time to think between."""

    client: httpx.Client
    seed: int
    load: Load
    until: float
    think: float
    stop: threading.Event
    forgiving: bool = False
    """The server is going to be killed: not being answered is no error, being told something wrong is."""

    def work(self) -> None:
        draw = random.Random(self.seed)
        try:
            session = self._ask("GET", "/api/v1/session")
            self.client.headers["X-CSRF-Token"] = session["csrf_token"]
            self.pause(draw.random())  # they do not all come in the same moment
            while time.monotonic() < self.until and not self.stop.is_set():
                self.one_task(draw)
        except httpx.TransportError as error:
            if not self.forgiving:
                self.load.errors.append(repr(error))
        except Exception as error:
            self.load.errors.append(repr(error))

    def one_task(self, draw: random.Random) -> None:
        view = self._ask("POST", "/api/v1/claim", {"kind": "rank"}, name="claim")["assignment"]
        if view is None:
            raise AssertionError("no task was left: make more")
        answer = an_answer(draw, [output["id"] for output in view["outputs"]])
        version = view["draft_version"]
        for share in (K // 2, K):
            self.pause(draw.uniform(0.5, 1.5))
            draft = {"ratings": dict(list(answer["ratings"].items())[:share]), "groups": answer["groups"]}
            sent = {"token": view["token"], "version": version, "draft": draft}
            version = self._ask("PUT", f"/api/v1/assignments/{view['id']}/draft", sent, name="draft")["version"]
        self.pause(draw.uniform(0.5, 1.5))
        sent = {"token": view["token"], "answer": answer, "seconds_spent": 3.0}
        done = self._ask("POST", f"/api/v1/assignments/{view['id']}/submit", sent, name="submit")
        if done["late"] or done["surplus"]:
            self.load.errors.append(f"{view['id']}: late or surplus: {done}")
        self.load.acknowledged[view["id"]] = view["task_id"], answer

    def pause(self, times: float) -> None:
        self.stop.wait(self.think * times)

    def _ask(self, method: str, path: str, body: Any = None, name: str | None = None) -> Any:
        started = time.perf_counter()
        response = self.client.request(method, path, json=body)
        if name is not None:
            self.load.seconds[name].append(time.perf_counter() - started)
        if response.status_code != 200:
            raise AssertionError(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response.json()


def run_load(
    server: Server,
    *,
    labelers: int,
    seconds: float,
    think: float = 1.0,
    tasks: int,
    meanwhile: Callable[[Load], None] | None = None,
) -> Load:
    """Let them work. Overlap is two: double assignment could happen in two ways."""
    add_tasks(server.database, "rank", count=tasks, num_outputs=K, overlap=2, outputs=("A short output.", "Another one. " * 30))
    tokens: list[str] = []
    for number in range(labelers):
        with server.database.write() as connection:
            id = accounts.add_person(
                connection, name=f"Labeler {number}", email=f"{uuid.uuid4().hex}@example.org", role="labeler", group="training",
                password_hash="none",
            )  # fmt: skip
        tokens.append(cookie(server.database, id))
    load, stop = Load(), threading.Event()
    until = time.monotonic() + seconds
    threads: list[threading.Thread] = []
    clients = [
        httpx.Client(base_url=server.url, cookies={"heedful_session": token}, timeout=30, verify=False) for token in tokens
    ]
    for number, client in enumerate(clients):
        one = Labeler(client, number, load, until, think, stop, forgiving=meanwhile is not None)
        threads.append(threading.Thread(target=one.work))
    for thread in threads:
        thread.start()
    if meanwhile is not None:
        meanwhile(load)
        stop.set()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return load


def in_opaque_ids(answer: Any, key: bytes) -> Any:
    """An answer as its labeler sent it."""
    return {
        "ratings": {opaque_id(id, key): rating for id, rating in answer["ratings"].items()},
        "groups": [[opaque_id(id, key) for id in group] for group in answer["groups"]],
    }


def check(server: Server, load: Load) -> None:
    """What the database holds is what the labelers were told."""
    key = bytes.fromhex((server.folder / KEY_FILE).read_text().strip())
    with server.database.read() as connection:
        rows = connection.execute(select(assignment)).all()
        stored = {row.id: row for row in rows}
        for id, (task_id, answer) in load.acknowledged.items():
            row = stored.get(id)
            assert row is not None, f"assignment {id} was acknowledged and is gone"
            assert row.state == "answered"
            assert row.task_id == task_id
            assert in_opaque_ids(row.answer, key) == answer
        pairs = Counter((row.task_id, row.person_id) for row in rows)
        assert max(pairs.values()) == 1, "somebody has the same task twice"
        held = Counter(row.task_id for row in rows if row.state in ("leased", "answered"))
        assert max(held.values()) <= 2, "more people have a task than are wanted"
        for row in connection.execute(select(task)):
            assert row.held == held.get(row.id, 0), f"task {row.id}: held"
        total = connection.execute(select(func.sum(task.c.answered))).scalar_one()
        assert total == sum(row.state == "answered" for row in rows)
    where = ["--database", server.database_url] if server.database_url else ["--project", str(server.folder)]
    server.run("store", "check", *where)


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, installed: Path, tmp_path: Path) -> Any:
    """A started server, on SQLite and on PostgreSQL."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    server = Server(installed, tmp_path, database_url=url)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        server.database.close()


def test_five_labelers_at_once(served: Server) -> None:
    load = run_load(served, labelers=5, seconds=5, think=0.2, tasks=120)
    print(load.report())
    assert load.errors == []
    assert len(load.acknowledged) >= 10
    check(served, load)


@pytest.mark.long
def test_forty_labelers_for_a_minute(served: Server, capsys: pytest.CaptureFixture[str]) -> None:
    busy = os.getloadavg()[0]
    load = run_load(served, labelers=40, seconds=60, tasks=1000)
    with capsys.disabled():
        print(f"\n{'PostgreSQL' if served.database_url else 'SQLite'}: {load.report()}")
    assert load.errors == []
    assert len(load.acknowledged) > 300
    check(served, load)
    if served.database_url is None:
        if busy > 0.75 * (os.cpu_count() or 1) and percentile(load.seconds["claim"], 0.99) >= CLAIM_P99_SECONDS:
            pytest.skip(f"the machine was busy with other work (load average {busy:.1f}): latency not judged. {load.report()}")
        assert percentile(load.seconds["claim"], 0.99) < CLAIM_P99_SECONDS, load.report()


ASKING = """
import sys, time
from heedful.conversation import Turn
from heedful.labeling.database.connection import open_database
from heedful.labeling.exchange import asking
from heedful.records import Prompt, Response

number, outputs, turn = map(int, sys.argv[2:])
database = open_database(sys.argv[1])

def tasks():
    for n in range(number):
        prompt = Prompt(id=f"asked-{turn}-{n}", turns=(Turn("user", f"Question {n}? " * 20),))
        responses = tuple(
            Response(id=f"asked-{turn}-{n}-{i}", prompt_id=prompt.id, text=f"Answer {i}. " * 40) for i in range(outputs)
        )
        yield asking.Task(kind="rank", phase="training", prompt=prompt, responses=responses, labelers={})

started = time.monotonic()
added = asking.add_tasks(database, tasks(), name="asked")
wrote = time.monotonic() - started
with database.read() as connection:
    rankings, ratings = (sum(1 for _ in of(connection, "training")) for of in (asking.rankings, asking.ratings))
print(f"{added} tasks of {outputs} outputs in {wrote:.1f} s; {rankings} rankings and {ratings} ratings read in "
      f"{time.monotonic() - started - wrote:.1f} s")
"""
"""What ``heedful align`` does in the labeling database, in a process of its own: it adds its tasks and reads all answers."""


@pytest.mark.long
def test_forty_labelers_while_align_asks(served: Server, capsys: pytest.CaptureFixture[str]) -> None:
    if served.database_url is not None:
        pytest.skip("SQLite has one writer at a time; PostgreSQL's rows are locked one by one")
    busy = os.getloadavg()[0]
    said: list[str] = []

    def ask(load: Load) -> None:
        time.sleep(5)
        for turn in range(3):
            done = subprocess.run(
                [sys.executable, "-c", ASKING, str(served.folder / "labels.sqlite"), "1500", str(K), str(turn)],
                env=environment(served.installed), capture_output=True, text=True, timeout=200, check=True,
            )  # fmt: skip
            said.append(done.stdout.strip())

    load = run_load(served, labelers=40, seconds=300, tasks=2000, meanwhile=ask)
    with capsys.disabled():
        print(f"\n{load.report()}\n" + "\n".join(said))
    assert load.errors == []
    check(served, load)
    slowest = max(percentile(seconds, 0.99) for seconds in load.seconds.values())
    if busy > 0.75 * (os.cpu_count() or 1) and slowest >= CLAIM_P99_SECONDS:
        pytest.skip(f"the machine was busy with other work (load average {busy:.1f}): latency not judged. {load.report()}")
    assert slowest < CLAIM_P99_SECONDS, load.report()


@pytest.mark.parametrize(
    ("labelers", "seconds", "think"),
    [pytest.param(6, 2.5, 0.05, id="small"), pytest.param(40, 15, 1.0, id="forty", marks=pytest.mark.long)],
)
def test_killed_in_mid_load(served: Server, labelers: int, seconds: float, think: float) -> None:
    def kill(load: Load) -> None:
        time.sleep(seconds)
        served.kill()

    load = run_load(served, labelers=labelers, seconds=600, think=think, tasks=1000, meanwhile=kill)
    assert load.errors == []
    assert len(load.acknowledged) >= labelers // 2
    served.start()
    check(served, load)
    # It goes on: the labelers' running tasks come back to them, and others work.
    again = run_load(served, labelers=3, seconds=2, think=0.1, tasks=50)
    assert again.errors == []
    assert again.acknowledged
    check(served, again)
    check(served, load)
