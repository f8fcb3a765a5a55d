"""Every route of the application, called by everybody: who may, may; who may not, cannot, and nothing has changed then.

Generated from the application's own list of routes: a new route is tested as soon as it is there, and one that does not say who
may call it, or for which nobody wrote an example (route_examples.py), fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.web.route_examples import EXAMPLES, Example
from tests.web.site import Browser, csrf_of
from tests.web.world import World, dump, keep, make_world, restore

from heedful.labeling.database.connection import Database
from heedful.web.app import create_app
from heedful.web.app_settings import Settings
from heedful.web.routing import KEY_HOLDERS, RANKS
from heedful.web.security import CONTENT_SECURITY_POLICY

PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")


def _routes() -> list[tuple[str, Any]]:
    app = create_app(cast("Database", None), Settings(key=b"", public_url="", secure=False))
    # Routes of the public API have keys instead of people: tests/web/public/test_proxy.py calls them all.
    return [
        (f"{method} {route.path}", route)
        for route in cast("list[Any]", app.routes)
        if getattr(route, "heedful_who", None) != KEY_HOLDERS
        for method in sorted(getattr(route, "methods", None) or {"?"})
    ]


ROUTES = _routes()
NAMES = [name for name, _ in ROUTES]
PAGES = [name for name in NAMES if name.startswith("GET ")]


@dataclass(frozen=True, slots=True)
class Scene:
    """The world, somebody of each role, and others who own nothing of it."""

    world: World
    people: dict[str, Browser]
    strangers: dict[str, Browser]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, Path]]:
    """Made once: each test gets the same people in the same database."""
    folder = tmp_path_factory.mktemp("world")
    world = make_world(folder)
    site, client = world.site, world.site.nobody()
    people = {
        "public": Browser(client=client, csrf=csrf_of(client.get("/login").text), person_id=0),
        "user": site.browser(world.user),
        "labeler": site.browser(world.owner),
        "researcher": site.browser(world.researcher),
        "admin": site.browser(world.admin),
    }
    strangers = {
        "another labeler": site.browser(world.stranger),
        "a held-out labeler": site.browser(world.held_out),
        "a user": site.browser(world.user),
    }
    keep(world, folder / "kept.sqlite")
    yield Scene(world, people, strangers), folder / "kept.sqlite"
    site.database.close()


@pytest.fixture
def scene(kept: tuple[Scene, Path]) -> Iterator[Scene]:
    scene, file = kept
    cookies = {role: dict(browser.client.cookies) for role, browser in scene.people.items()}
    yield scene
    restore(scene.world, file)
    for role, browser in scene.people.items():
        browser.client.cookies.clear()
        browser.client.cookies.update(cookies[role])


def test_there_are_routes() -> None:
    assert len(ROUTES) > 20
    assert len(set(NAMES)) == len(NAMES), "two routes have the same method and path"


@pytest.mark.parametrize(("name", "route"), ROUTES, ids=NAMES)
def test_the_route_says_who_may_call_it(name: str, route: Any) -> None:
    assert getattr(route, "heedful_who", None) in RANKS, "add routes by heedful.web.routing.Routes"
    assert name.startswith(("GET ", "POST ", "PUT ", "DELETE "))
    if PARAMETER.search(route.path) or not name.startswith("GET "):
        assert name in EXAMPLES, f'add "{name}" to tests/web/route_examples.py'


def test_every_example_has_its_route() -> None:
    assert sorted(set(EXAMPLES) - set(NAMES)) == []


def call(world: World, name: str, browser: Browser, *, csrf: str | None = None) -> Any:
    method, _, template = name.partition(" ")
    example = EXAMPLES.get(name, Example())
    values = world.parameters | dict(example.path(world))
    path = PARAMETER.sub(lambda found: str(values[found.group(1)]), template)
    token = browser.csrf if csrf is None else csrf
    if method == "GET":
        return browser.client.get(path)
    if example.json is not None:
        return browser.client.request(method, path, json=example.json(world), headers={"X-CSRF-Token": token})
    assert example.fields is not None, "an example of a change needs fields or json"
    return browser.client.request(method, path, data={"csrf": token, **example.fields(world)})


def is_refusal(name: str, response: Any, *, logged_in: bool) -> bool:
    if logged_in:
        return response.status_code == 403
    if name.startswith("GET ") and not name.startswith("GET /api/"):
        return response.status_code == 303 and response.headers["location"].startswith("/login")
    return response.status_code == 401


def acting(who: str) -> str:
    """Who calls a route in the examples: what users may have belongs to the labeler there."""
    return "labeler" if who == "user" else who


USERS_ROUTES = """
GET /account, POST /account/password, DELETE /api/v1/session, GET /api/v1/me, GET /
GET /playground, POST /playground, GET /playground/{conversation_id}, POST /playground/{conversation_id}/turns
POST /playground/{conversation_id}/share, POST /playground/{conversation_id}/withdraw, POST /playground/{conversation_id}/delete
POST /playground/turns/{turn_id}/withdraw, POST /playground/turns/{turn_id}/vote
POST /playground/answers/{answer_id}/feedback, POST /playground/answers/{answer_id}/stream
GET /keys, GET /keys/{key_id}, POST /keys/{key_id}/revoke, POST /keys/{key_id}/withdraw, POST /keys/{key_id}/delete-texts
POST /keys/{key_id}/requests/{request_id}/withdraw
GET /api/v1/models, GET /api/v1/conversations, POST /api/v1/conversations, GET /api/v1/conversations/{conversation_id}
DELETE /api/v1/conversations/{conversation_id}, POST /api/v1/conversations/{conversation_id}/turns
POST /api/v1/conversations/{conversation_id}/share, POST /api/v1/conversations/{conversation_id}/withdraw
POST /api/v1/turns/{turn_id}/withdraw, POST /api/v1/turns/{turn_id}/vote
POST /api/v1/answers/{answer_id}/write, PUT /api/v1/answers/{answer_id}/feedback
GET /your-data, POST /your-data/download, POST /your-data/delete
"""


def test_what_users_from_outside_may_call_is_listed() -> None:
    listed = {name.strip() for name in USERS_ROUTES.replace("\n", ",").split(",") if name.strip()}
    assert {name for name, route in ROUTES if route.heedful_who == "user"} == listed


@pytest.mark.parametrize(("name", "route"), ROUTES, ids=NAMES)
def test_who_may_may_and_who_may_not_cannot(name: str, route: Any, scene: Scene) -> None:
    example, who, world = EXAMPLES.get(name, Example()), route.heedful_who, scene.world
    if example.prepare is not None:
        example.prepare(world)
    before = dump(world)

    for role, browser in scene.people.items():
        if RANKS[role] < RANKS[who]:
            refused = call(world, name, browser)
            assert is_refusal(name, refused, logged_in=role != "public"), f"{role}: {refused.status_code}"
            assert refused.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert dump(world) == before, "a refused call changed something"

    if example.owned:
        others = scene.strangers | {role: scene.people[role] for role in ("researcher", "admin")}
        for someone, browser in others.items():
            response = call(world, name, browser)
            expected = 403 if someone == "a user" and who != "user" else 404
            assert response.status_code == expected, f"{someone} can see or do what is the owner's: {response.status_code}"
        assert dump(world) == before, "a call about what is somebody else's changed something"

    allowed = scene.people[acting(who)]
    if not name.startswith("GET "):
        somebody_elses = scene.people["researcher" if who == "admin" else "admin"].csrf
        for token in ("", "wrong", somebody_elses):
            forged = call(world, name, allowed, csrf=token)
            assert forged.status_code == 403, f"without the right CSRF token: {forged.status_code}"
        assert dump(world) == before, "a forged call changed something"

    response = call(world, name, allowed)
    assert response.status_code < 400, f"{who}: {response.status_code} {response.text[:2000]}"
    assert who == "public" or not response.headers.get("location", "").startswith("/login?")
    assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    if name.startswith("GET "):
        for browser in (*scene.people.values(), *scene.strangers.values()):
            assert call(world, name, browser).status_code < 500
        assert dump(world) == before, "a GET changed something"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_people_wrote_is_taken_for_html(name: str, scene: Scene) -> None:
    who = dict(ROUTES)[name].heedful_who
    example = EXAMPLES.get(name, Example())
    if example.prepare is not None:
        example.prepare(scene.world)
    response = call(scene.world, name, scene.people["labeler" if who == "public" else acting(who)])
    if response.headers.get("content-type", "").startswith("text/html"):
        for raw in ("<script>alert", "<img src=x", "<b>bold", "> 49 $"):
            assert raw not in response.text
    else:
        assert response.headers["x-content-type-options"] == "nosniff"
    if who in ("user", "labeler"):
        assert "secret-model" not in response.text, "which model wrote an output is never shown to labelers"
