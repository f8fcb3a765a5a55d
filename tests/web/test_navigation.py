"""One navigation on all pages: each page is in it once, and the current one is marked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.web.site import Site

from heedful.web.navigation import SECTIONS, links

EVERYTHING = {"user": True, "labeler": True, "researcher": True, "admin": True}


def test_no_name_and_no_address_is_there_twice() -> None:
    pages = [page for _, pages in SECTIONS.values() for page in pages]
    assert max(Counter(label for label, _ in pages).values()) == 1
    assert max(Counter(path for _, path in pages).values()) == 1


@pytest.mark.parametrize("path", [path for _, pages in SECTIONS.values() for _, path in pages])
def test_every_page_is_there_for_those_who_may_see_it(site: Site, path: str) -> None:
    admin: Any = site.browser(site.person("admin"))
    page = admin.get(path)
    assert page.status_code == 200
    assert page.text.count(f'<a href="{path}" aria-current="page">') == 1
    assert page.text.count('aria-current="true"') == 1


@pytest.mark.parametrize(
    ("path", "section", "page"),
    [
        ("/tasks/3", "Work", "Tasks"),
        ("/console/batches/3", "Research", "Overview"),
        ("/batches/new/rank", "Research", "Batches"),
        ("/console/prompts/a/b", "Research", "Data"),
        ("/admin/people/3", "Administration", "Accounts"),
        ("/playground/3", "Work", "Playground"),
        ("/keys/3", "Work", "Your API keys"),
        ("/account", "Work", None),
    ],
)
def test_where_a_page_belongs(path: str, section: str, page: str | None) -> None:
    sections, pages = links(path, EVERYTHING)
    assert [one.label for one in sections if one.current] == [section]
    assert next((one.label for one in pages if one.current), None) == page


def test_a_labeler_sees_the_pages_alone() -> None:
    sections, pages = links("/", {"user": True, "labeler": True, "researcher": False, "admin": False})
    assert sections == []
    assert [one.label for one in pages] == [
        "Tasks",
        "Instructions",
        "Your questions",
        "Your answers",
        "Playground",
        "Your API keys",
        "Your data",
    ]
    assert links("/login", dict.fromkeys(EVERYTHING, False)) == ([], [])


def test_a_user_from_outside_sees_three_pages() -> None:
    sections, pages = links("/your-data", {"user": True, "labeler": False, "researcher": False, "admin": False})
    assert sections == []
    assert [(one.label, one.current) for one in pages] == [("Playground", False), ("Your API keys", False), ("Your data", True)]
