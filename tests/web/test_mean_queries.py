"""Addresses and headers that nobody's browser sends: a page or a refusal, never a failure of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote

import pytest
from tests.web.site import Browser
from tests.web.world import World, make_world

from heedful.web.app import create_app
from heedful.web.app_settings import Settings

NAMES = (
    *(
        "before",
        "older",
        "behind",
        "version",
        "next",
        "use_case",
        "batch",
        "phase",
        "labelers",
        "kind",
        "text",
        "split",
        "source",
    ),
    *("labeler", "since", "until", "person", "action", "subject", "subject_id", "limit", "after", "page", "person_id", "model"),
)
"""Names of parameters of all pages: each page gets all of them."""
NUMBERS = ("before", "older", "batch", "version", "limit", "subject_id")
VALUES = {
    "nothing": "",
    "not a number": "nan",
    "infinity": "1e999",
    "negative": "-1",
    "too large": "9" * 30,
    "thousands of digits": "9" * 5_000,
    "other digits": "٣٣",
    "a quote": "' OR 1=1 --\"",
    "a date that is none": "2026-02-31",
    "a date before all": "0001-01-01",
    "a date after all": "9999-12-31",
    "control characters": "\x01\x1b[31m\u202e",
    "long": "x" * 9_000,
    "a pattern": "%_\\%[a-",
    "braces": "{{ 7 * 7 }}${7*7}",
    "a number and text": "1 x",
}
RAW = {"no UTF-8": "%ff%fe", "half a character": "%ed%a0%80", "NUL": "a%00b", "no percent": "%", "bare": "\\"}


def _pages() -> list[str]:
    app = create_app(cast("Any", None), Settings(key=b"", public_url="", secure=False))
    routes = [route for route in cast("list[Any]", app.routes) if "GET" in (route.methods or ())]
    return sorted(route.path for route in routes if "{" not in route.path and not route.path.startswith("/v1/"))


PAGES = _pages()


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    world: World = make_world(tmp_path_factory.mktemp("world"))
    yield world.site.browser(world.admin)
    world.site.database.close()


@pytest.mark.parametrize("path", PAGES)
def test_mean_values_in_an_address(path: str, admin: Browser) -> None:
    sent = {name: quote(value) for name, value in VALUES.items()} | RAW
    for what, value in sent.items():
        names = NAMES if len(value) < 1_000 else NUMBERS
        query = "&".join(f"{name}={value}" for name in names)
        got = admin.client.get(f"{path}?{query}")
        assert got.status_code < 500, (what, got.text[:2_000])
        assert "<script>alert" not in got.text or got.headers["content-type"] == "application/json"


@pytest.mark.long
@pytest.mark.parametrize("path", PAGES)
def test_parameters_one_by_one(path: str, admin: Browser) -> None:
    """A wrong value of one may hide what another does."""
    for name in NAMES:
        for value in ("nan", "-1", "9" * 30, "٣", "x y"):
            got = admin.client.get(path, params={name: value})
            assert got.status_code < 500, (name, value, got.text[:2_000])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "9" * 5_000}, 413),
        ({"Content-Length": "-1"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded; charset=" + "x" * 5_000}, 415),
        ({"Content-Type": "\x7f/;;=="}, 403),
        ({"Cookie": "heedful_session=" + "x" * 5_000}, 403),
        ({"Cookie": "heedful_visitor=;=;\x7f; heedful_flash=zz.zz"}, 403),
        ({"Sec-Fetch-Site": "x"}, 403),
        ({"Accept": "\x7f"}, 403),
        ({"X-CSRF-Token": "é".encode("latin-1").decode("latin-1")}, 403),
    ],
)
def test_mean_headers(headers: dict[str, str], status: int, admin: Browser) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    got = admin.client.post("/login", content=b"email=a&password=b", headers=cast("Any", encoded))
    assert got.status_code < 500, got.text
    assert got.status_code in (status, 401, 403, 413, 415, 422)


def test_the_pages_are_there() -> None:
    assert len(PAGES) > 30
    assert not [path for path in PAGES if re.search(r"[{}]", path)]
