"""The JSON API: what it gives, and that no input makes it fail."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from schemathesis import openapi
from sqlalchemy import select
from tests.every_input import send, try_every_operation
from tests.labeling.usage.talk import compare
from tests.web.route_examples import a_ranking
from tests.web.site import PASSWORD, Browser
from tests.web.world import World, make_world

from heedful.labeling.database.tables import assignment


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path)
    yield world
    world.site.database.close()


def test_a_program_logs_in_works_and_logs_out(world: World) -> None:
    client = world.site.nobody()
    token = client.get("/api/v1/session").json()["csrf_token"]
    body = {"email": "person3@example.org", "password": PASSWORD}
    assert client.post("/api/v1/session", json=body).status_code == 403, "without the token"
    session = client.post("/api/v1/session", json=body, headers={"X-CSRF-Token": token}).json()
    assert session["person"]["role"] == "labeler"
    me = Browser(client=client, csrf=session["csrf_token"], person_id=world.owner)
    waiting = {line["kind"]: line["count"] for line in me.get("/api/v1/waiting").json()}
    assert waiting == {"rank": 5, "demonstrate": 6, "write_prompt": 6}
    task = me.json("POST", "/api/v1/claim", {"kind": "rank"}).json()["assignment"]
    path = f"/api/v1/assignments/{task['id']}"
    draft = {"groups": [[world.response_ids[0]]]}
    saved = me.json("PUT", f"{path}/draft", {"token": task["token"], "version": 0, "draft": draft}).json()
    assert (saved["version"], saved["expires"] > saved["saved"]) == (1, True)
    assert me.get(path).json()["draft"] == draft
    older = me.json("PUT", f"{path}/draft", {"token": task["token"], "version": 0, "draft": {"groups": []}})
    assert (older.status_code, older.headers["content-type"]) == (409, "application/problem+json")
    half = a_ranking(world) | {"groups": [[world.response_ids[0]]]}
    refused = me.json("POST", f"{path}/submit", {"token": task["token"], "answer": half})
    assert (refused.status_code, refused.json()["where"]) == (422, "groups")
    answer = {"token": task["token"], "answer": a_ranking(world), "seconds_spent": 12.5}
    assert me.json("POST", f"{path}/submit", answer).json() == {"late": False, "surplus": False}
    assert me.json("POST", f"{path}/submit", answer).status_code == 200, "the same again is fine"
    assert [line["state"] for line in me.get("/api/v1/history").json()] == ["answered"]
    assert me.json("DELETE", "/api/v1/session").json() == {"done": True}
    assert me.get("/api/v1/me").status_code == 401


def test_nothing_unknown_or_converted_is_taken(world: World) -> None:
    labeler = world.site.browser(world.owner)
    path = f"/api/v1/assignments/{world.parameters['assignment_id']}/draft"
    deep: Any = {}
    for _ in range(50):
        deep = {"deeper": deep}
    for body in (
        {"token": world.token, "version": "1", "draft": {}},
        {"token": world.token, "version": 1, "draft": {}, "more": 1},
        {"token": world.token, "version": 1, "draft": deep},
        {"token": world.token, "version": 1, "draft": {"text": "\x00"}},
        {"token": world.token, "version": 1},
        [],
        None,
    ):
        assert labeler.json("PUT", path, body).status_code == 422
    for raw in (b"{", b"[" * 100_000, b'{"version": NaN}', b"\xff", b'{"version": 1' + b"0" * 5_000 + b"}"):
        sent = labeler.client.put(path, content=raw, headers={"X-CSRF-Token": labeler.csrf, "content-type": "application/json"})
        assert 400 <= sent.status_code < 500, raw[:20]


def test_labelers_never_see_models_or_gold(world: World) -> None:
    labeler = world.site.browser(world.owner)
    for path in ("/api/v1/assignments", f"/api/v1/assignments/{world.parameters['assignment_id']}"):
        text = labeler.get(path).text
        assert "Output 1" in text
        assert "secret-model" not in text
        assert "gold" not in text


def test_output_ids_tell_nothing_and_are_understood(world: World) -> None:
    """Not in what is shown, not in complaints; the stored answer has the responses' own ids."""
    labeler = world.site.browser(world.owner)
    path = f"/api/v1/assignments/{world.parameters['assignment_id']}"
    shown = [output["id"] for output in labeler.get(path).json()["outputs"]]
    own = a_ranking(world)
    assert len(shown) == len(own["ratings"])
    answer = {"groups": [shown], "ratings": {id: next(iter(own["ratings"].values())) for id in shown}}
    broken = answer | {"groups": [shown[1:]]}
    complaint = labeler.json("POST", f"{path}/submit", {"token": world.token, "answer": broken})
    done = labeler.json("POST", f"{path}/submit", {"token": world.token, "answer": answer})
    assert (complaint.status_code, done.status_code) == (422, 200)
    again = labeler.get(path)
    assert again.json()["answer"] == answer
    for text in (complaint.text, again.text):
        assert not [id for id in world.response_ids if f'"{id}"' in text or f"{id}," in text]
    with world.site.database.read() as connection:
        stored = connection.execute(select(assignment.c.answer).where(assignment.c.answer.is_not(None))).scalars().all()
    assert sorted(stored[-1]["ratings"]) == sorted(own["ratings"])


def test_a_researcher_makes_and_closes_a_batch(world: World) -> None:
    researcher = world.site.browser(world.researcher)
    new = {"name": "Final", "kind": "rank", "phase": "evaluation", "tasks": 4, "smallest_k": 3, "largest_k": 3, "overlap": 2}
    made = researcher.json("POST", "/api/v1/batches", new).json()
    assert made["tasks"] == 4
    batch = researcher.get(f"/api/v1/batches/{made['batch_id']}").json()
    assert (batch["tasks"], batch["overlap"], batch["closed"]) == ({"open": 4}, 2, None)
    held_out = world.site.browser(world.held_out)
    claimed = held_out.json("POST", "/api/v1/claim", {"batch_id": made["batch_id"]}).json()["assignment"]
    assert len(claimed["outputs"]) == 3
    rest = researcher.json("POST", "/api/v1/batches", new | {"tasks": 100}).json()
    assert rest["tasks"] == 2, "six prompts, four of them in such a task already"
    assert researcher.json("POST", "/api/v1/batches", new).status_code == 422, "none is left"
    assert researcher.json("POST", f"/api/v1/batches/{made['batch_id']}/close").status_code == 200
    assert researcher.get(f"/api/v1/batches/{made['batch_id']}").json()["closed"] is not None
    assert world.site.browser(world.stranger).json("POST", "/api/v1/batches", new).status_code == 403


def test_an_admin_backs_up_and_takes_it_away(world: World) -> None:
    admin = world.site.browser(world.admin)
    assert admin.post("/admin/backups").status_code == 303
    [file] = world.site.app.state.settings.backups.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.name in admin.get("/admin/backups").text
    taken = admin.post(f"/admin/backups/{file.name}/download")
    assert taken.content == file.read_bytes()
    assert taken.content.startswith(b"SQLite format 3\x00")
    for other in ("labels.sqlite", "..%2Flabels.sqlite", "labels-none.sqlite"):
        assert admin.post(f"/admin/backups/{other}/download").status_code == 404
    assert world.site.browser(world.researcher).post(f"/admin/backups/{file.name}/download").status_code == 403


def test_the_export_is_what_was_answered(world: World) -> None:
    labeler, researcher = world.site.browser(world.owner), world.site.browser(world.researcher)
    path = f"/api/v1/assignments/{world.parameters['assignment_id']}/submit"
    answer = a_ranking(world)
    assert labeler.json("POST", path, {"token": world.token, "answer": answer}).status_code == 200
    exported = researcher.json("POST", "/api/v1/export")
    rankings = [row for row in map(json.loads, exported.text.splitlines()) if "ranks" in row]
    assert len(rankings) == 1
    ranks = dict(zip(rankings[0]["response_ids"], rankings[0]["ranks"], strict=True))
    assert ranks == {id: number for number, group in enumerate(answer["groups"], start=1) for id in group}


def test_an_admin_invites(world: World) -> None:
    admin = world.site.browser(world.admin)
    link = admin.json("POST", "/api/v1/invites", {"role": "researcher"}).json()["link"]
    assert world.site.nobody().get(link).status_code == 200
    newest = admin.get("/api/v1/invites").json()[0]
    assert newest["role"] == "researcher"
    assert admin.json("DELETE", f"/api/v1/invites/{newest['id']}").status_code == 200
    assert world.site.nobody().get(link).status_code == 404


def test_the_description_names_every_route_and_its_page_loads_nothing_from_elsewhere(world: World) -> None:
    client = world.site.nobody()
    described = client.get("/api/openapi.json").json()
    there = {route.path for route in world.site.app.routes if route.path.startswith("/api/v1/")}
    assert set(described["paths"]) == there
    page = client.get("/api/docs").text
    for path in there:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
@pytest.mark.parametrize("role", ["nobody", pytest.param("user", marks=pytest.mark.long), "owner", "researcher", "admin"])
def test_no_input_makes_it_fail(role: str, examples: int, world: World) -> None:
    """schemathesis: inputs from the description and against it, as each role; nothing is answered with 5xx."""
    if role == "nobody":
        headers: dict[str, str] = {}
    else:
        browser = world.site.browser(getattr(world, role))
        headers = {"X-CSRF-Token": browser.csrf, "Cookie": f"heedful_session={browser.client.cookies['heedful_session']}"}
    client = world.site.nobody()
    with world.site.database.write() as connection:
        view = compare(connection, world.owner)
    turn = view.turns[0]
    there = world.parameters | {"conversation_id": view.id, "turn_id": turn.id, "answer_id": turn.answers[0].id}
    schema = openapi.from_dict(client.get("/api/openapi.json").json()).exclude(path="/api/v1/session", method="DELETE")
    statuses: Counter[int] = Counter()

    def check(case: Any) -> None:
        # What is there, not only random numbers: most of what can go wrong is behind the first check.
        case.path_parameters |= {
            name: there[name] for name, value in case.path_parameters.items() if isinstance(value, int) and value % 3
        }
        if isinstance(case.body, dict) and isinstance(case.body.get("token"), str):
            case.body["token"] = world.token
        statuses[send(client, case, "http://localhost", headers).status_code] += 1

    try_every_operation(schema, examples, check)
    assert statuses[401] > 50 if role == "nobody" else min(statuses[200], statuses[422]) > 3, statuses
