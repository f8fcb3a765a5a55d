"""Two people who join at the same moment."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.errors import ConflictError
from heedful.labeling.database.connection import Database
from heedful.labeling.people import accounts


def test_the_second_of_two_with_one_address_is_told_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first commits after the second has looked whether the address is free."""
    with database.write() as connection:
        token = accounts.invite_to_join(connection, role="labeler", group="training", created_by=None)
    add_person = accounts.add_person

    def too_late(connection: Any, **values: Any) -> int:
        add_person(connection, name="First", email=values["email"], role="labeler", group="training")
        return add_person(connection, **values)

    monkeypatch.setattr(accounts, "add_person", too_late)
    with pytest.raises(ConflictError, match="has an account already"), database.write() as connection:
        accounts.join(connection, token, name="Second", email="kim@example.org", password_hash="x")
    with database.read() as connection:
        assert accounts.all_people(connection) == []
        assert accounts.link_of(connection, token).purpose == "join"
