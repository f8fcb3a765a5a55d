"""Logging in and out: sessions on the server, and the limits on guessing passwords."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from heedful.errors import RefusedError, ThrottledError
from heedful.labeling.database import events
from heedful.labeling.database.connection import Database
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import login_failure, person, session
from heedful.labeling.people.accounts import Person, get_person, hashed
from heedful.labeling.people.passwords import is_password

IDLE_SECONDS = 12 * 3_600.0
"""A session ends after this long without a change, such as a saved draft."""
LONGEST_SECONDS = 14 * 86_400.0
"""A session ends after this long in any case."""
TOUCH_SECONDS = 300.0
"""A session is extended at most this often: one write every five minutes, not one per request."""

WINDOW_SECONDS = 900.0
ACCOUNT_ATTEMPTS = 10
"""Wrong passwords allowed for one account in the window."""
ADDRESS_ATTEMPTS = 100
"""Wrong passwords allowed from one network address, which a whole office may share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """What the browser gets: the token for its cookie, shown only now, and its lifetime."""

    token: str
    person: Person
    expires: float


def log_in(
    database: Database,
    *,
    email: str,
    password: str,
    address: str,
    earlier_token: str | None = None,
    now: float | None = None,
) -> NewSession:
    """Check a password and start a session. The browser's earlier session ends: no token from before a login is valid after it.

    The attempt is counted before the password is checked, so that many attempts at once cannot pass the limit together. An
    unknown address, a wrong password and a disabled account get the same answer after the same work.

    Raises ThrottledError, RefusedError.
    """
    now = moment(now)
    email = email.strip().lower()
    keys = _keys(email, address)
    with database.write() as connection:
        _count_attempt(connection, keys, now)
        row = connection.execute(
            select(person.c.id, person.c.password_hash, person.c.disabled).where(person.c.email == email)
        ).one_or_none()
    right = is_password(password, None if row is None else row.password_hash)
    if row is None or not right or row.disabled is not None:
        with database.write() as connection:
            known = None if row is None else row.id
            events.record(
                connection,
                person_id=known,
                action="log_in_failed",
                subject="person",
                subject_id=str(known or "unknown"),
                now=now,
            )
        raise RefusedError(
            "that e-mail address and password do not match",
            next_step="check both; if you forgot the password, ask an admin for a link to set a new one",
        )
    with database.write() as connection:
        connection.execute(login_failure.delete().where(login_failure.c.key == keys[0]))
        latest = select(func.max(login_failure.c.id)).where(login_failure.c.key == keys[1]).scalar_subquery()
        connection.execute(login_failure.delete().where(login_failure.c.id == latest))
        return start(connection, row.id, earlier_token=earlier_token, now=now)


def count_attempt(database: Database, email: str, address: str, *, now: float | None = None) -> None:
    """Count a wrong password that was entered outside the login page. Raises ThrottledError."""
    with database.write() as connection:
        _count_attempt(connection, _keys(email, address), moment(now))


def _keys(email: str, address: str) -> tuple[str, str]:
    return hashed(f"account {email}"), hashed(f"address {address}")


def _count_attempt(connection: Connection, keys: tuple[str, str], now: float) -> None:
    connection.execute(login_failure.delete().where(login_failure.c.at <= now - WINDOW_SECONDS))
    for key, allowed in zip(keys, (ACCOUNT_ATTEMPTS, ADDRESS_ATTEMPTS), strict=True):
        count, first = connection.execute(
            select(func.count(), func.min(login_failure.c.at)).where(login_failure.c.key == key)
        ).one()
        if count >= allowed:
            wait = first + WINDOW_SECONDS - now
            minutes = max(1, round(wait / 60))
            raise ThrottledError(
                "too many attempts to log in",
                wait_seconds=wait,
                next_step=f"wait {minutes} min, then try again; or ask an admin for a link to set a new password",
            )
    connection.execute(login_failure.insert(), [{"key": key, "at": now} for key in keys])


def forget_failures(connection: Connection, email: str) -> None:
    """Forget an account's wrong passwords, after a link has set a new password."""
    connection.execute(login_failure.delete().where(login_failure.c.key == hashed(f"account {email}")))


def start(connection: Connection, person_id: int, *, earlier_token: str | None = None, now: float | None = None) -> NewSession:
    """Start a session for a person whose identity is established; expired sessions are removed. Raises RefusedError."""
    now = moment(now)
    who = get_person(connection, person_id)
    if who.disabled is not None:
        raise RefusedError("this account is disabled", next_step="ask an admin")
    if earlier_token is not None:
        connection.execute(session.delete().where(session.c.token_hash == hashed(earlier_token)))
    connection.execute(session.delete().where(session.c.expires <= now))
    token = secrets.token_urlsafe(32)
    expires = now + IDLE_SECONDS
    connection.execute(
        session.insert().values(
            token_hash=hashed(token),
            person_id=person_id,
            csrf_token=secrets.token_urlsafe(32),
            created=now,
            last_seen=now,
            expires=expires,
        )
    )
    events.record(connection, person_id=person_id, action="log_in", subject="person", subject_id=str(person_id), now=now)
    return NewSession(token=token, person=who, expires=now + LONGEST_SECONDS)


def person_of_session(connection: Connection, token: str, now: float | None = None) -> tuple[Person, str, float] | None:
    """The person, the CSRF token and the time of the last extension; None if the session has ended. Changes nothing."""
    now = moment(now)
    row = connection.execute(select(session).where(session.c.token_hash == hashed(token))).one_or_none()
    if row is None or row.expires <= now:
        return None
    who = get_person(connection, row.person_id)
    return None if who.disabled is not None else (who, row.csrf_token, row.last_seen)


def keep_alive(connection: Connection, token: str, *, now: float | None = None) -> None:
    """Extend a session that is being used."""
    now = moment(now)
    row = connection.execute(select(session.c.created).where(session.c.token_hash == hashed(token))).one_or_none()
    if row is not None:
        values = {"last_seen": now, "expires": min(now + IDLE_SECONDS, row.created + LONGEST_SECONDS)}
        connection.execute(session.update().where(session.c.token_hash == hashed(token)).values(values))


def log_out(connection: Connection, token: str, *, now: float | None = None) -> None:
    """End a session, if it has not ended."""
    found = person_of_session(connection, token, now)
    connection.execute(session.delete().where(session.c.token_hash == hashed(token)))
    if found is not None:
        who = found[0].id
        events.record(connection, person_id=who, action="log_out", subject="person", subject_id=str(who), now=now)
