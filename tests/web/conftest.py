"""The application over each database that it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import new_postgres_database
from tests.web.site import Site, make_site


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An application over an empty database, on SQLite and on PostgreSQL."""
    url = None
    if request.param == "postgresql":
        url = new_postgres_database(request.getfixturevalue("postgres_server"), template=request.getfixturevalue("migrated"))
    made = make_site(tmp_path, url)
    yield made
    made.database.close()
