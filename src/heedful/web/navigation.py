"""The navigation of all pages: three sections with their pages; each page's name appears once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECTIONS: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "Work": (
        "user",
        (
            ("Tasks", "/"),
            ("Instructions", "/instructions"),
            ("Your questions", "/questions"),
            ("Your answers", "/history"),
            ("Playground", "/playground"),
            ("Your API keys", "/keys"),
            ("Your data", "/your-data"),
        ),
    ),
    "Research": (
        "researcher",
        (
            ("Overview", "/console"),
            ("Batches", "/batches"),
            ("Labelers", "/console/people"),
            ("Labelers' questions", "/console/questions"),
            ("Agreement", "/console/agreement"),
            ("Quality", "/console/quality"),
            ("Screening", "/console/screening"),
            ("Data", "/console/data"),
            ("Votes", "/console/votes"),
            ("API usage", "/console/usage"),
            ("Edit instructions", "/console/instructions"),
            ("Surveys", "/console/surveys"),
        ),
    ),
    "Administration": (
        "admin",
        (
            ("Accounts", "/admin/people"),
            ("All API keys", "/admin/keys"),
            ("Audit", "/admin/audit"),
            ("Backups", "/admin/backups"),
            ("Rounds", "/admin/rounds"),
        ),
    ),
}
"""By section: who sees it, and its pages (name and path)."""

_FOR_USERS = ("/playground", "/keys", "/your-data")
"""Pages for everyone with an account; the other pages of the first section are for labelers."""

_ELSEWHERE = {"/tasks": "/", "/surveys": "/", "/console/batches": "/console", "/console/prompts": "/console/data"}
"""Addresses that are not in the navigation, and the page under which they belong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link in the header."""

    label: str
    path: str
    current: bool


def links(path: str, may: Mapping[str, bool]) -> tuple[list[Link], list[Link]]:
    """The sections that a visitor may see (none if there is only one), and the pages of the current section."""
    allowed = {
        name: [(label, page) for label, page in pages if may["labeler"] or page in _FOR_USERS]
        for name, (who, pages) in SECTIONS.items()
        if may[who]
    }
    if not allowed:
        return [], []
    here = _page_of(path, [page for pages in allowed.values() for _, page in pages])
    current = next((name for name, pages in allowed.items() if here in dict(pages).values()), next(iter(allowed)))
    sections = [Link(label=name, path=pages[0][1], current=name == current) for name, pages in allowed.items()]
    pages = [Link(label=label, path=page, current=page == here) for label, page in allowed[current]]
    return (sections if len(sections) > 1 else []), pages


def _page_of(path: str, pages: list[str]) -> str | None:
    """The page that an address belongs to: the longest one that it begins with."""
    for beginning, page in _ELSEWHERE.items():
        if path.startswith(beginning + "/"):
            return page
    fitting = [page for page in pages if path == page or (page != "/" and path.startswith(page + "/"))]
    return max(fitting, key=len, default=None)
