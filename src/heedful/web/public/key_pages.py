"""A person's own API keys: their usage, what the log keeps, and how to withdraw it."""

from __future__ import annotations

from starlette.responses import Response

from heedful.labeling.usage import api_keys, consent, usage_log
from heedful.web.public.withdrawals import clean_project
from heedful.web.routing import Form, Id, Routes, Visiting

LISTED = 50


def routes(add: Routes) -> None:
    """Keys and their log."""
    add.get("/keys", show_keys, who="user")
    add.get("/keys/{key_id}", show_key, who="user")
    add.post("/keys/{key_id}/revoke", revoke, who="user")
    add.post("/keys/{key_id}/withdraw", withdraw, who="user")
    add.post("/keys/{key_id}/delete-texts", delete_texts, who="user")
    add.post("/keys/{key_id}/requests/{request_id}/withdraw", withdraw_request, who="user")


def show_keys(visit: Visiting) -> Response:
    """One's own keys."""
    with visit.database.read() as connection:
        keys = api_keys.all_keys(connection, person_id=visit.person.id)
        usage = usage_log.usage_by_key(connection)
    address = f"{visit.settings.public_url}/v1"
    return visit.page("keys/keys.html", keys=keys, usage=usage, address=address, may_make=visit.may("admin"))


def show_key(visit: Visiting, key_id: Id, before: str = "") -> Response:
    """One of one's own keys, with the log of its requests."""
    older_than = int(before) if before.isdecimal() and len(before) < 10 else None
    with visit.database.read() as connection:
        key = api_keys.get(connection, key_id, person_id=visit.person.id)
        usage = usage_log.usage_by_key(connection).get(key_id)
        found = usage_log.requests_of(connection, key_id, limit=LISTED + 1, before=older_than)
    return visit.page(
        "keys/key.html",
        key=key,
        usage=usage,
        requests=found[:LISTED],
        older=found[LISTED - 1].id if len(found) > LISTED else None,
        first=older_than is None,
    )


def revoke(visit: Visiting, key_id: Id) -> Response:
    """Make the key stop working."""
    with visit.database.write() as connection:
        api_keys.revoke(connection, key_id, by=visit.person.id, own_only=True)
    return visit.go(f"/keys/{key_id}", flash="The key no longer works.")


def withdraw(visit: Visiting, key_id: Id) -> Response:
    """Opt the key out, with all its requests so far."""
    with visit.database.write() as connection:
        consent.withdraw_key(connection, key_id, visit.person.id)
    return visit.go(f"/keys/{key_id}", flash=clean_project(visit))


def delete_texts(visit: Visiting, key_id: Id) -> Response:
    """Erase the texts of all requests so far and everything made from them. The key stays opted in or out as before."""
    with visit.database.write() as connection:
        number = consent.delete_texts(connection, key_id, visit.person.id)
    cleaned = clean_project(visit)
    return visit.go(f"/keys/{key_id}", flash=f"The texts of {number} requests are deleted. {cleaned}")


def withdraw_request(visit: Visiting, form: Form, key_id: Id, request_id: Id) -> Response:
    """Opt one request out."""
    with visit.database.write() as connection:
        api_keys.get(connection, key_id, person_id=visit.person.id)
        consent.withdraw_request(connection, request_id, visit.person.id)
    return visit.go(f"/keys/{key_id}", flash=clean_project(visit))
