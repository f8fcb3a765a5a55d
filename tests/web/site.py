"""An application over a fresh database, and browsers (HTTP clients with cookies) of people with roles."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import argon2
from fastapi.testclient import TestClient

from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.people import accounts, passwords, sessions
from heedful.web.app import create_app
from heedful.web.app_settings import Settings

PASSWORD = "correct horse battery"
REAL_HASHER = passwords.HASHER
# Argon2's work is for attackers; the tests only need its form.
passwords.HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@dataclass(slots=True)
class Site:
    """The application under test."""

    database: Database
    app: Any

    def nobody(self) -> TestClient:
        """A browser in which nobody is logged in."""
        return TestClient(self.app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)

    def person(self, role: str = "labeler", group: str = "training", name: str = "Somebody") -> int:
        """A new person's id; the e-mail address is person<number>@example.org."""
        with self.database.write() as connection:
            number = len(accounts.all_people(connection)) + 1
            return accounts.add_person(
                connection,
                name=name,
                email=f"person{number}@example.org",
                role=role,  # type: ignore[arg-type]
                group=group,  # type: ignore[arg-type]
                password_hash=passwords.hash_password(PASSWORD),
            )

    def browser(self, person_id: int) -> Browser:
        """A browser in which somebody is logged in."""
        with self.database.write() as connection:
            new = sessions.start(connection, person_id)
        client = self.nobody()
        client.cookies.set("heedful_session", new.token)
        with self.database.read() as connection:
            found = sessions.person_of_session(connection, new.token)
        assert found is not None
        return Browser(client=client, csrf=found[1], person_id=person_id)


@dataclass(slots=True)
class Browser:
    """Somebody's browser: sends the CSRF token as the pages do."""

    client: TestClient
    csrf: str
    person_id: int

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        return self.client.post(path, data={"csrf": self.csrf, **(fields or {})})

    def json(self, method: str, path: str, body: Any = None) -> Any:
        return self.client.request(method, path, json=body, headers={"X-CSRF-Token": self.csrf})


def make_site(folder: Path, postgres_url: str | None = None, **settings: Any) -> Site:
    """An application over an empty SQLite file, or over a PostgreSQL database."""
    if postgres_url is None:
        shutil.copy(_empty(), folder / "labels.sqlite")
    database = open_database(postgres_url or folder / "labels.sqlite")
    values: dict[str, Any] = {
        "key": b"k" * 32,
        "public_url": "http://localhost",
        "secure": False,
        "backups": folder / "backups",
    }
    return Site(database=database, app=create_app(database, Settings(**(values | settings))))


@cache
def _empty() -> Path:
    """An empty database, migrated once."""
    file = Path(tempfile.mkdtemp()) / "labels.sqlite"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    open_database(file).close()
    return file


def csrf_of(page: str) -> str:
    """The CSRF token in a page's first form."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found.group(1)
