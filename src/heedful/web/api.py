"""The JSON API under /api/v1, beside the pages."""

from __future__ import annotations

from heedful.web.routing import Routes


def routes(add: Routes) -> None:
    """The API's routes."""
