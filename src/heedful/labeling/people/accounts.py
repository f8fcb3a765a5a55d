"""People: invites, accounts, sessions, roles and groups (SPEC 2.1, 2.4). Every change is an event in the same transaction.

Links and session cookies hold random tokens; the database holds only their SHA-256, so a backup is not enough to log in.
A pseudonym is drawn at random and says nothing about the person; exports and researchers see only the pseudonym.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select
from sqlalchemy.exc import IntegrityError

from heedful.errors import ConflictError, DataError, MissingError, RefusedError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import invite, person, session

Role = Literal["user", "labeler", "researcher", "admin"]
"""A user is an outsider who talks to models and has API keys, and sees nothing of the labeling."""
RESEARCH_ROLES: tuple[Role, ...] = ("researcher", "admin")
"""The roles whose answers to screening tasks are the standard for others."""
Group = Literal["training", "held_out", "candidate"]
ShownGroup = Literal["training", "held_out", "candidate", "user"]
"""A person's group in records, tables and the API: users from outside are a group of their own."""

INVITE_SECONDS = 7 * 86_400.0
RESET_SECONDS = 86_400.0

LONGEST_NAME = 200
LONGEST_EMAIL = 320
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Someone with an account, or a simulated labeler, who has no e-mail address and cannot log in."""

    id: int
    pseudonym: str
    name: str
    email: str | None
    role: Role
    group: Group
    simulated: bool
    daily_limit: int | None
    created: float
    disabled: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """A one-time link: to join, or to set a new password."""

    id: int
    purpose: Literal["join", "reset_password"]
    role: Role
    group: Group
    person_id: int | None
    created_by: int | None
    created: float
    expires: float
    used: float | None


# ---------------------------------------------------------------------------------------------------- one-time links


def invite_to_join(
    connection: Connection,
    *,
    role: Role,
    group: Group,
    created_by: int | None,
    seconds: float = INVITE_SECONDS,
    now: float | None = None,
) -> str:
    """Make a one-time token to join with; only its hash is kept. Raises DataError for an unknown role or group."""
    _one_of(role, Role, "role")
    _one_of(group, Group, "group")
    return _add_link(connection, "join", role, group, None, created_by, seconds, now)


def first_admin_token(connection: Connection, *, now: float | None = None) -> str | None:
    """A token for the first admin to join with; None once there is an admin. Earlier printed tokens stop working."""
    now = moment(now)
    if _working_admins(connection):
        return None
    earlier = (invite.c.created_by.is_(None), invite.c.purpose == "join", invite.c.used.is_(None), invite.c.expires > now)
    connection.execute(invite.update().where(*earlier).values(expires=now))
    return invite_to_join(connection, role="admin", group="training", created_by=None, now=now)


def reset_password_token(connection: Connection, person_id: int, *, by: int | None, now: float | None = None) -> str:
    """Make a one-time token for setting a person's password; earlier ones stop working. Raises MissingError, RefusedError."""
    now = moment(now)
    who = get_person(connection, person_id)
    if who.email is None:
        raise RefusedError("a simulated labeler has no password")
    _end_links(connection, invite.c.person_id == person_id, now)
    return _add_link(connection, "reset_password", who.role, who.group, person_id, by, RESET_SECONDS, now)


def link_of(connection: Connection, token: str, *, now: float | None = None) -> Invite:
    """The unused link with this token, if the admin who made it is still active or it was made on the command line.

    Raises the same MissingError for a link that never existed, was used, has expired, or was made by a former admin.
    """
    now = moment(now)
    row = connection.execute(select(invite).where(invite.c.token_hash == hashed(token))).one_or_none()
    if row is None or row.used is not None or row.expires <= now or not _made_by_working_admin(connection, row.created_by):
        raise MissingError(
            "this link does not work",
            expected="a link that has not been used and has not expired",
            next_step="ask the person who sent it for a new one; if you have joined already, log in",
        )
    return _invite(row)


def open_invites(connection: Connection, *, now: float | None = None) -> list[Invite]:
    """Links that still work, newest first."""
    now = moment(now)
    found = select(invite).where(invite.c.used.is_(None), invite.c.expires > now).order_by(invite.c.id.desc())
    return [_invite(row) for row in connection.execute(found)]


def withdraw_invite(connection: Connection, invite_id: int, *, by: int, now: float | None = None) -> None:
    """Make a link stop working. Raises MissingError if no such link works."""
    now = moment(now)
    unused = (invite.c.id == invite_id, invite.c.used.is_(None), invite.c.expires > now)
    if connection.execute(invite.update().where(*unused).values(expires=now)).rowcount == 0:
        raise MissingError("there is no such open invite", next_step="it was used, withdrawn, or has expired")
    events.record(connection, person_id=by, action="withdraw_invite", subject="invite", subject_id=invite_id, now=now)


def _add_link(
    connection: Connection,
    purpose: str,
    role: str,
    group: str,
    person_id: int | None,
    created_by: int | None,
    seconds: float,
    now: float | None,
) -> str:
    now = moment(now)
    token = secrets.token_urlsafe(32)
    values = {
        "purpose": purpose,
        "role": role,
        "group_name": group,
        "person_id": person_id,
        "created_by": created_by,
        "created": now,
        "expires": now + seconds,
    }
    key = connection.execute(invite.insert().values(token_hash=hashed(token), **values)).inserted_primary_key
    assert key is not None
    action = "invite" if purpose == "join" else "make_reset_link"
    events.record(
        connection, person_id=created_by, action=action, subject="invite", subject_id=str(key[0]), after=values, now=now
    )
    return token


def _made_by_working_admin(connection: Connection, created_by: int | None) -> bool:
    if created_by is None:
        return True
    working = select(person.c.id).where(person.c.id == created_by, person.c.role == "admin", person.c.disabled.is_(None))
    return connection.execute(working).one_or_none() is not None


def _end_links(connection: Connection, links: ColumnElement[bool], now: float) -> None:
    connection.execute(invite.update().where(links, invite.c.used.is_(None), invite.c.expires > now).values(expires=now))


def _use_link(connection: Connection, link: Invite, by: int, now: float) -> None:
    """Mark a link as used. If two people try at once, the second gets a ConflictError."""
    unused = (invite.c.id == link.id, invite.c.used.is_(None))
    if connection.execute(invite.update().where(*unused).values(used=now, used_by=by)).rowcount != 1:
        raise ConflictError("this link has just been used", next_step="log in, or ask for a new link")


# ---------------------------------------------------------------------------------------------------- accounts


def join(connection: Connection, token: str, *, name: str, email: str, password_hash: str, now: float | None = None) -> Person:
    """Make an account with an invite. Raises MissingError (the link), DataError (the form), ConflictError (the address)."""
    now = moment(now)
    link = link_of(connection, token, now=now)
    if link.purpose != "join":
        raise MissingError("this link does not work", next_step="ask for an invite")
    name, email = checked_name(name), checked_email(email)
    taken = ConflictError("this e-mail address has an account already", next_step="log in with it")
    if connection.execute(select(person.c.id).where(person.c.email == email)).one_or_none() is not None:
        raise taken
    try:
        person_id = add_person(
            connection, name=name, email=email, role=link.role, group=link.group, password_hash=password_hash, now=now
        )
    except IntegrityError:  # someone joined with the address at the same moment
        raise taken from None
    _use_link(connection, link, person_id, now)
    return get_person(connection, person_id)


def add_person(
    connection: Connection,
    *,
    name: str,
    email: str | None,
    role: Role,
    group: Group,
    password_hash: str | None = None,
    simulated: bool = False,
    pseudonym: str | None = None,
    now: float | None = None,
) -> int:
    """Add a person; return the id. Without a pseudonym, draws one at random. Raises DataError for an unknown role or group."""
    now = moment(now)
    values = {
        "pseudonym": pseudonym or _new_pseudonym(connection),
        "role": _one_of(role, Role, "role"),
        "group_name": _one_of(group, Group, "group"),
        "simulated": simulated,
        "created": now,
    }
    private = {"name": name, "email": email, "password_hash": password_hash}
    key = connection.execute(person.insert().values(**values, **private)).inserted_primary_key
    assert key is not None
    # Events can never be removed, so they hold no name or address.
    events.record(connection, person_id=key[0], action="join", subject="person", subject_id=str(key[0]), after=values, now=now)
    return int(key[0])


def get_person(connection: Connection, person_id: int) -> Person:
    """One person. Raises MissingError."""
    row = connection.execute(select(person).where(person.c.id == person_id)).one_or_none()
    if row is None:
        raise MissingError("there is no such person", got=f"number {person_id}")
    return _person(row)


def all_people(connection: Connection) -> list[Person]:
    """Everyone, in the order in which they joined."""
    return [_person(row) for row in connection.execute(select(person).order_by(person.c.id))]


def change_person(
    connection: Connection,
    person_id: int,
    *,
    by: int,
    role: Role,
    group: Group,
    daily_limit: int | None,
    now: float | None = None,
) -> Person:
    """Set role, group and daily limit. Raises MissingError, DataError; RefusedError if no admin would be left."""
    before = get_person(connection, person_id)
    _one_of(role, Role, "role")
    _one_of(group, Group, "group")
    if daily_limit is not None and not 0 <= daily_limit <= 100_000:
        raise DataError("the daily limit is not valid", expected="0 to 100000, or nothing", got=str(daily_limit))
    if role != "admin":
        _keep_an_admin(connection, before)
    values = {"role": role, "group_name": group, "daily_limit": daily_limit}
    old = {"role": before.role, "group_name": before.group, "daily_limit": before.daily_limit}
    changed = [key for key in values if values[key] != old[key]]
    if changed:
        connection.execute(person.update().where(person.c.id == person_id).values(values))
        if role != "admin":
            _end_links(connection, invite.c.created_by == person_id, moment(now))
        _changed(connection, by, "change_person", person_id, {k: old[k] for k in changed}, {k: values[k] for k in changed}, now)
    return get_person(connection, person_id)


def disable(connection: Connection, person_id: int, *, by: int, now: float | None = None) -> None:
    """Log a person out everywhere, end the links they made, and refuse their logins; their work stays.

    Raises MissingError, RefusedError.
    """
    now = moment(now)
    who = get_person(connection, person_id)
    if who.id == by:
        raise RefusedError("you cannot disable yourself", next_step="ask another admin")
    _keep_an_admin(connection, who)
    if who.disabled is None:
        connection.execute(person.update().where(person.c.id == person_id).values(disabled=now))
        connection.execute(session.delete().where(session.c.person_id == person_id))
        _end_links(connection, or_(invite.c.person_id == person_id, invite.c.created_by == person_id), now)
        _changed(connection, by, "disable", person_id, {"disabled": None}, {"disabled": now}, now)


def enable(connection: Connection, person_id: int, *, by: int, now: float | None = None) -> None:
    """Enable a disabled account. Raises MissingError."""
    who = get_person(connection, person_id)
    if who.disabled is not None:
        connection.execute(person.update().where(person.c.id == person_id).values(disabled=None))
        _changed(connection, by, "enable", person_id, {"disabled": who.disabled}, {"disabled": None}, now)


def set_password(connection: Connection, person_id: int, password_hash: str, *, by: int, now: float | None = None) -> None:
    """Store a new password, log the person out everywhere, and end the open links to set one."""
    now = moment(now)
    connection.execute(person.update().where(person.c.id == person_id).values(password_hash=password_hash))
    connection.execute(session.delete().where(session.c.person_id == person_id))
    _end_links(connection, invite.c.person_id == person_id, now)
    _changed(connection, by, "set_password", person_id, None, None, now)


def reset_password(connection: Connection, token: str, password_hash: str, *, now: float | None = None) -> Person:
    """Set a password with a one-time link. Raises MissingError."""
    now = moment(now)
    link = link_of(connection, token, now=now)
    if link.purpose != "reset_password" or link.person_id is None:
        raise MissingError("this link does not work", next_step="ask for a link to set a new password")
    _use_link(connection, link, link.person_id, now)
    set_password(connection, link.person_id, password_hash, by=link.person_id, now=now)
    return get_person(connection, link.person_id)


def password_hash_of(connection: Connection, person_id: int) -> str | None:
    """The stored hash."""
    return connection.execute(select(person.c.password_hash).where(person.c.id == person_id)).scalar_one_or_none()


def checked_name(name: str) -> str:
    """The name without outer spaces. Raises DataError."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= LONGEST_NAME or "\x00" in name:
        raise DataError("the name is not valid", expected=f"1 to {LONGEST_NAME} characters", got=f"{len(name)}")
    return name


def checked_email(email: str) -> str:
    """The address in lower case. Raises DataError. People log in with it; nothing is ever sent to it."""
    email = email.strip().lower()
    if len(email) > LONGEST_EMAIL or not _EMAIL.fullmatch(email):
        raise DataError("the e-mail address is not valid", expected="an address such as name@example.org")
    return email


def _working_admins(connection: Connection) -> list[int]:
    working = and_(person.c.role == "admin", person.c.disabled.is_(None), person.c.password_hash.is_not(None))
    return list(connection.execute(select(person.c.id).where(working).with_for_update()).scalars())


def _keep_an_admin(connection: Connection, who: Person) -> None:
    if _working_admins(connection) == [who.id]:
        raise RefusedError("this is the last admin", next_step="make someone else an admin first")


def _changed(
    connection: Connection,
    by: int,
    action: str,
    person_id: int,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    now: float | None,
) -> None:
    events.record(
        connection,
        person_id=by,
        action=action,
        subject="person",
        subject_id=str(person_id),
        before=before,
        after=after,
        now=now,
    )


def _new_pseudonym(connection: Connection) -> str:
    """Six letters that can be said aloud, such as bizoka or lemuta; there are 343,000."""
    while True:
        name = "".join(secrets.choice(_CONSONANTS) + secrets.choice(_VOWELS) for _ in range(3))
        if not connection.execute(select(func.count()).where(person.c.pseudonym == name)).scalar_one():
            return name


def shown_group(role: str, group: str) -> ShownGroup:
    """The group shown with a person's votes and feedback. A user's group in the database has no meaning."""
    return "user" if role == "user" else cast("ShownGroup", group)


def _one_of(value: str, options: object, what: str) -> str:
    if value not in get_args(options):
        raise DataError(f"the {what} is not valid", expected=f"one of {', '.join(get_args(options))}", got=repr(value))
    return value


def _person(row: Row) -> Person:
    return Person(
        id=row.id,
        pseudonym=row.pseudonym,
        name=row.name,
        email=row.email,
        role=cast("Role", row.role),
        group=cast("Group", row.group_name),
        simulated=row.simulated,
        daily_limit=row.daily_limit,
        created=row.created,
        disabled=row.disabled,
    )


def _invite(row: Row) -> Invite:
    return Invite(
        id=row.id,
        purpose=row.purpose,
        role=row.role,
        group=row.group_name,
        person_id=row.person_id,
        created_by=row.created_by,
        created=row.created,
        expires=row.expires,
        used=row.used,
    )


def hashed(secret: str) -> str:
    """SHA-256 in hex: enough for a random token, which cannot be guessed."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
