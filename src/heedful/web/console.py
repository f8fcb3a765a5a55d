"""The researcher's console."""

from __future__ import annotations

from starlette.responses import Response

from heedful.web.routing import Routes, Visiting


def routes(add: Routes) -> None:
    """The console's pages and links."""
    add.navigation("Console", "/console", who="researcher")
    add.get("/console", console, who="researcher")


def console(visit: Visiting) -> Response:
    """Where the work stands."""
    return visit.page("console.html")
