"""The admin's pages: people, batches of tasks, backups, the audit log."""

from __future__ import annotations

from heedful.web.routing import Routes


def routes(add: Routes) -> None:
    """The admin's pages and links."""
