"""Who may make requests, and how many: counted in the database, in the transaction that admits the request.

A request counts from the moment it is admitted, whatever happens next: an unreadable body, an error of the model server, a
client that leaves. So the limits hold exactly for simultaneous requests, for several processes and after a restart. A refused
request is not counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from heedful.labeling.database.connection import Database
from heedful.labeling.database.moments import moment
from heedful.labeling.database.usage_tables import api_request
from heedful.labeling.usage.api_keys import TAG, ApiKey, Scope, with_secret

MINUTE, DAY, MONTH = 60.0, 86_400.0, 30 * 86_400.0


class KeyRefusedError(Exception):
    """The request is refused; ``str()`` says why. ``status`` is the HTTP status, ``code`` a word for programs."""

    def __init__(self, status: int, code: str, message: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.wait_seconds = status, code, wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An admitted request."""

    request_id: int
    key: ApiKey
    at: float


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The outcome of a request, as the log keeps it."""

    status: int
    model: str | None = None
    streamed: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    flags: Sequence[str] = ()
    request: Any = None
    """Messages or prompt; kept only for keys that keep texts."""
    response: list[str] = field(default_factory=list[str])


def admit(database: Database, secret: str, scope: Scope, *, used_for: str | None = None, now: float | None = None) -> Admitted:
    """Admit a request with this key and count it. Raises KeyRefusedError (400, 401, 403, 429)."""
    with database.read() as connection:  # refuses most bad requests without waiting for a turn to write
        key = _working(with_secret(connection, secret), scope, used_for)
        _within_limits(connection, key, moment(now))
    with database.write() as connection:
        key = _working(with_secret(connection, secret, lock=True), scope, used_for)
        at = moment(now)  # after the wait for the turn
        _within_limits(connection, key, at)
        values = {
            "key": secrets.token_hex(12),
            "api_key_id": key.id,
            "at": at,
            "endpoint": scope,
            "used_for": used_for or (key.uses[0] if len(key.uses) == 1 else None),
            "flags": [],
            "training": key.may_train,
        }
        request_id = connection.execute(insert(api_request).values(values).returning(api_request.c.id)).scalar_one()
    return Admitted(request_id=request_id, key=key, at=at)


def finish(database: Database, admitted: Admitted, outcome: Outcome, *, now: float | None = None) -> None:
    """Log the outcome of a request. A production key's texts are dropped here and kept nowhere."""
    keeps = admitted.key.keeps_text and outcome.status == 200
    values = {
        "status": outcome.status,
        "model": None if outcome.model is None else outcome.model[:200],
        "streamed": outcome.streamed,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "seconds": max(0.0, moment(now) - admitted.at),
        "flags": list(outcome.flags),
        "request": outcome.request if keeps else None,
        "response": outcome.response if keeps else None,
    }
    with database.write() as connection:
        connection.execute(update(api_request).where(api_request.c.id == admitted.request_id).values(values))


def _working(key: ApiKey | None, scope: Scope, used_for: str | None) -> ApiKey:
    if key is None or key.revoked is not None or key.owner_disabled:
        raise KeyRefusedError(401, "invalid_api_key", "this API key does not exist, or was revoked")
    if scope not in key.scopes:
        raise KeyRefusedError(403, "scope", f"this API key may not be used for {scope}, only for {', '.join(key.scopes)}")
    if used_for is not None and not TAG.fullmatch(used_for):
        raise KeyRefusedError(400, "use", "a use is named by a tag of at most 40 small letters, digits, - and _")
    if used_for is not None and key.uses and used_for not in key.uses:
        raise KeyRefusedError(403, "use", f"this API key is not for that use, only for {', '.join(key.uses)}")
    return key


def _within_limits(connection: Connection, key: ApiKey, at: float) -> None:
    of_key = api_request.c.api_key_id == key.id
    for limit, seconds, words in ((key.per_minute, MINUTE, "a minute"), (key.per_day, DAY, "a day")):
        if limit is None:
            continue
        recent = select(api_request.c.at).where(of_key, api_request.c.at > at - seconds).order_by(api_request.c.at.desc())
        # The request that must leave the window before the next one fits.
        oldest = connection.execute(recent.offset(limit - 1).limit(1)).scalar_one_or_none()
        if oldest is not None:
            message = f"this API key is limited to {limit} requests {words}"
            raise KeyRefusedError(429, "rate_limit_exceeded", message, wait_seconds=oldest + seconds - at)
    if key.tokens_per_month is not None:
        tokens = func.coalesce(api_request.c.prompt_tokens, 0) + func.coalesce(api_request.c.completion_tokens, 0)
        spent = select(func.coalesce(func.sum(tokens), 0), func.min(api_request.c.at)).where(
            of_key, api_request.c.at > at - MONTH
        )
        used, first = connection.execute(spent).one()
        if used >= key.tokens_per_month:
            message = f"this API key is limited to {key.tokens_per_month} tokens in 30 days"
            raise KeyRefusedError(429, "insufficient_quota", message, wait_seconds=first + MONTH - at)
