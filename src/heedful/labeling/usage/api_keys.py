"""Keys of the public API: made by admins, shown once, stored as hashes, revoked at once."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, RowMapping, insert, select, update

from heedful.errors import DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import person
from heedful.labeling.database.usage_tables import api_key, api_request
from heedful.labeling.people.accounts import get_person, hashed
from heedful.labeling.queue.kinds import refuse_unstorable
from heedful.project.storable import LARGEST_WHOLE

Scope = Literal["chat", "completions", "models"]
Purpose = Literal["playground", "production"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

PREFIX = "hk-"
_BEGINNING = 8
TAG = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""A tag of allowed use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The permissions and limits of a key."""

    person_id: int
    name: str
    purpose: Purpose = "playground"
    scopes: Sequence[Scope] = SCOPES
    uses: Sequence[str] = ()
    """Tags of allowed use; empty: any use."""
    training: bool = True
    """Whether its requests may be used for training; those of a production key never are."""
    per_minute: int = 60
    per_day: int | None = None
    tokens_per_month: int | None = None
    keep_days: int | None = None
    """Days after which texts are erased; None: only when the owner asks."""

    def __post_init__(self) -> None:
        _require(1 <= len(self.name.strip()) <= 100, "a name of 1 to 100 characters", repr(self.name[:40]))
        _require(self.purpose in PURPOSES, f"one of {', '.join(PURPOSES)}", repr(self.purpose))
        scopes = set(self.scopes)
        _require(bool(scopes) and scopes <= set(SCOPES), f"scopes among {', '.join(SCOPES)}", ", ".join(self.scopes) or "none")
        unfit = [tag for tag in self.uses if not TAG.fullmatch(tag)]
        _require(not unfit, "tags of small letters, digits, - and _", ", ".join(unfit))
        _require(len(self.uses) <= 20, "at most 20 tags", str(len(self.uses)))
        limits = (("requests a minute", self.per_minute), ("requests a day", self.per_day))
        limits = (*limits, ("tokens in 30 days", self.tokens_per_month), ("days that texts are kept", self.keep_days))
        for what, limit in limits:
            _require(limit is None or 1 <= limit <= LARGEST_WHOLE, f"{what}: 1 to {LARGEST_WHOLE}, or no limit", str(limit))
        refuse_unstorable(self.name, "the key's name")


def _require(condition: bool, expected: str, got: str) -> None:
    if not condition:
        raise DataError("this key cannot be made", expected=expected, got=got)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key, without its secret."""

    id: int
    person_id: int
    owner: str
    """The owner's pseudonym."""
    owner_name: str
    name: str
    beginning: str
    purpose: Purpose
    scopes: tuple[Scope, ...]
    uses: tuple[str, ...]
    training: bool
    per_minute: int
    per_day: int | None
    tokens_per_month: int | None
    keep_days: int | None
    created: float
    revoked: float | None
    owner_disabled: bool
    makes_training_data: bool
    """Whether its owner's group may produce training data at all."""

    @property
    def may_train(self) -> bool:
        """Whether a request made now may be used for training."""
        return self.training and self.purpose == "playground" and self.makes_training_data

    @property
    def keeps_text(self) -> bool:
        """Whether requests are logged with their texts. A production key's never are (SPEC 1.1)."""
        return self.purpose == "playground"


def make(connection: Connection, new: NewKey, *, by: int | None, now: float | None = None) -> tuple[int, str]:
    """Make a key; return its id and the key itself, which is not stored or shown again. Raises MissingError, DataError."""
    at = moment(now)
    get_person(connection, new.person_id)
    secret = PREFIX + secrets.token_urlsafe(32)
    limits: dict[str, Any] = {
        "per_minute": new.per_minute,
        "per_day": new.per_day,
        "tokens_per_month": new.tokens_per_month,
        "keep_days": new.keep_days,
    }
    values = {
        "person_id": new.person_id,
        "name": new.name.strip(),
        "purpose": new.purpose,
        "scopes": [scope for scope in SCOPES if scope in new.scopes],
        "uses": list(dict.fromkeys(new.uses)),
        "training": new.training and new.purpose == "playground",
        **limits,
    }
    hidden = {"beginning": secret[:_BEGINNING], "key_hash": hashed(secret), "created_by": by, "created": at}
    key_id = connection.execute(insert(api_key).values(**values, **hidden).returning(api_key.c.id)).scalar_one()
    events.record(connection, person_id=by, action="make_key", subject="api_key", subject_id=key_id, after=values, now=at)
    return key_id, secret


def revoke(connection: Connection, key_id: int, *, by: int, own_only: bool, now: float | None = None) -> None:
    """Revoke a key from the next request on. Raises MissingError for no such key, or another person's if ``own_only``."""
    at = moment(now)
    found = get(connection, key_id, person_id=by if own_only else None)
    if found.revoked is None:
        connection.execute(update(api_key).where(api_key.c.id == key_id).values(revoked=at))
        events.record(connection, person_id=by, action="revoke_key", subject="api_key", subject_id=key_id, now=at)


def with_secret(connection: Connection, secret: str, *, lock: bool = False) -> ApiKey | None:
    """The key that a request carries, revoked or not; None if there is no such key."""
    if not secret.startswith(PREFIX) or len(secret) > 200:
        return None
    query = _SELECT.where(api_key.c.key_hash == hashed(secret))
    row = connection.execute(query.with_for_update(of=api_key) if lock else query).mappings().one_or_none()
    return None if row is None else _key(row)


def get(connection: Connection, key_id: int, *, person_id: int | None = None) -> ApiKey:
    """A key; ``person_id``: only if it is this person's. Raises MissingError."""
    query = _SELECT.where(api_key.c.id == key_id)
    if person_id is not None:
        query = query.where(api_key.c.person_id == person_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise MissingError("there is no such key")
    return _key(row)


def all_keys(connection: Connection, *, person_id: int | None = None) -> list[ApiKey]:
    """Every key, or one person's, newest first."""
    query = _SELECT if person_id is None else _SELECT.where(api_key.c.person_id == person_id)
    return [_key(row) for row in connection.execute(query.order_by(api_key.c.id.desc())).mappings()]


def delete_texts(connection: Connection, key_id: int, *, by: int, now: float | None = None) -> int:
    """Erase the texts of a key's requests; return how many had some. Withdraw what was derived from them first."""
    held = (api_request.c.api_key_id == key_id) & (api_request.c.request.is_not(None) | api_request.c.response.is_not(None))
    number = connection.execute(update(api_request).where(held).values(request=None, response=None)).rowcount
    events.record(
        connection, person_id=by, action="delete_texts", subject="api_key", subject_id=key_id, after={"number": number}, now=now
    )
    return number


def erase_expired(connection: Connection, *, now: float | None = None) -> int:
    """Erase texts that are older than their key's ``keep_days``; return how many requests had some."""
    at = moment(now)
    number = 0
    for row in connection.execute(select(api_key.c.id, api_key.c.keep_days).where(api_key.c.keep_days.is_not(None))).all():
        old = (
            (api_request.c.api_key_id == row.id)
            & (api_request.c.at < at - row.keep_days * 86_400.0)
            & (api_request.c.request.is_not(None) | api_request.c.response.is_not(None))
        )
        number += connection.execute(update(api_request).where(old).values(request=None, response=None)).rowcount
    return number


_SELECT = select(
    api_key, person.c.pseudonym, person.c.name.label("owner_name"), person.c.disabled, person.c.role, person.c.group_name
).join(person, api_key.c.person_id == person.c.id)


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        person_id=row["person_id"],
        owner=row["pseudonym"],
        owner_name=row["owner_name"],
        name=row["name"],
        beginning=row["beginning"],
        purpose=row["purpose"],
        scopes=tuple(row["scopes"]),
        uses=tuple(row["uses"]),
        training=row["training"],
        per_minute=row["per_minute"],
        per_day=row["per_day"],
        tokens_per_month=row["tokens_per_month"],
        keep_days=row["keep_days"],
        created=row["created"],
        revoked=row["revoked"],
        owner_disabled=row["disabled"] is not None,
        makes_training_data=row["role"] != "labeler" or row["group_name"] == "training",
    )
