"""The labeler's pages."""

from __future__ import annotations

from starlette.responses import Response

from heedful.web.routing import Routes, Visiting


def routes(add: Routes) -> None:
    """The labeler's pages and links."""
    add.navigation("Tasks", "/", who="labeler")
    add.get("/", home, who="labeler")


def home(visit: Visiting) -> Response:
    """What waits for this labeler."""
    return visit.page("home.html")
