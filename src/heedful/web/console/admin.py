"""The admin's pages: people and invites, the audit log, backups. Batches of tasks are in ``batch_pages.py``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from starlette.responses import FileResponse, Response

from heedful.errors import ConfigError, DataError, HeedfulError, MissingError, RefusedError, StorageError
from heedful.labeling.console import audit
from heedful.labeling.database import events, maintenance
from heedful.labeling.people import accounts
from heedful.labeling.people.accounts import Group, Role
from heedful.web.console import audit_words
from heedful.web.console.data_pages import start_of
from heedful.web.routing import Form, Id, Routes, Visit, Visiting

MOST_INVITES = 100
AUDIT_LINES = 50


def routes(add: Routes) -> None:
    """The admin's pages and links."""
    add.get("/admin/people", show_people, who="admin")
    add.post("/admin/invites", invite, who="admin")
    add.post("/admin/invites/{invite_id}/withdraw", withdraw, who="admin")
    add.get("/admin/people/{person_id}", show_person, who="admin")
    add.post("/admin/people/{person_id}", change_person, who="admin")
    add.post("/admin/people/{person_id}/disable", disable, who="admin")
    add.post("/admin/people/{person_id}/enable", enable, who="admin")
    add.post("/admin/people/{person_id}/reset-link", reset_link, who="admin")
    add.get("/admin/audit", show_audit, who="admin")
    add.get("/admin/backups", show_backups, who="admin")
    add.post("/admin/backups", back_up, who="admin")
    add.post("/admin/backups/{file}/download", download, who="admin")


# ---------------------------------------------------------------------------------------------------- people


def show_people(visit: Visiting) -> Response:
    """Everyone with an account, the invites that still work, and the form for new ones."""
    return _people_page(visit)


def invite(visit: Visiting, form: Form) -> Response:
    """Make one-time links; they are shown only now, because only their hashes are kept."""
    number = form.whole("number", 1) or 0
    role, group = cast("Role", form.text("role")), cast("Group", form.text("group", "training"))
    try:
        if not 1 <= number <= MOST_INVITES:
            raise DataError("too many invitations at once", expected=f"1 to {MOST_INVITES}", got=str(number))
        with visit.database.write() as connection:
            tokens = [
                accounts.invite_to_join(connection, role=role, group=group, created_by=visit.person.id) for _ in range(number)
            ]
    except DataError as error:
        return _people_page(visit, status=422, problem=error)
    return visit.page(
        "console/admin/links.html",
        heading="Invitation" if number == 1 else f"{number} invitations",
        links=[f"{visit.settings.public_url}/join/{token}" for token in tokens],
        explanation=f"Each link lets one person join as {role.replace('_', ' ')}, once, within a week.",
        back="/admin/people",
    )


def withdraw(visit: Visiting, invite_id: Id) -> Response:
    """Make a link stop working."""
    with visit.database.write() as connection:
        accounts.withdraw_invite(connection, invite_id, by=visit.person.id)
    return visit.go("/admin/people", flash="The link no longer works.")


def _people_page(visit: Visit, *, status: int = 200, problem: HeedfulError | None = None) -> Response:
    with visit.database.read() as connection:
        everybody, invites = accounts.all_people(connection), accounts.open_invites(connection)
    return visit.page(
        "console/admin/people.html",
        status=status,
        people=everybody,
        by_id={who.id: who for who in everybody},
        invites=invites,
        roles=get_args(Role),
        groups=get_args(Group),
        problem=problem,
        most=MOST_INVITES,
    )


def show_person(visit: Visiting, person_id: Id) -> Response:
    """One person's account: role, group, limit, password, access."""
    return _person_page(visit, person_id)


def change_person(visit: Visiting, form: Form, person_id: Id) -> Response:
    """Set role, group and daily limit."""
    try:
        with visit.database.write() as connection:
            who = accounts.change_person(
                connection,
                person_id,
                by=visit.person.id,
                role=cast("Role", form.text("role")),
                group=cast("Group", form.text("group")),
                daily_limit=form.whole("daily_limit"),
            )
    except (DataError, RefusedError) as error:
        return _person_page(visit, person_id, problem=error)
    return visit.go(f"/admin/people/{person_id}", flash=f"Saved: {who.name}.")


def disable(visit: Visiting, person_id: Id) -> Response:
    """Disable an account and end its sessions."""
    try:
        with visit.database.write() as connection:
            accounts.disable(connection, person_id, by=visit.person.id)
    except RefusedError as error:
        return _person_page(visit, person_id, problem=error)
    return visit.go(f"/admin/people/{person_id}", flash="The account is disabled.")


def enable(visit: Visiting, person_id: Id) -> Response:
    """Enable a disabled account again."""
    with visit.database.write() as connection:
        accounts.enable(connection, person_id, by=visit.person.id)
    return visit.go(f"/admin/people/{person_id}", flash="The account is enabled.")


def reset_link(visit: Visiting, person_id: Id) -> Response:
    """A one-time link to set a new password, shown once."""
    with visit.database.write() as connection:
        who = accounts.get_person(connection, person_id)
        token = accounts.reset_password_token(connection, person_id, by=visit.person.id)
    return visit.page(
        "console/admin/links.html",
        heading=f"A new password for {who.name}",
        links=[f"{visit.settings.public_url}/reset/{token}"],
        explanation="The link sets a new password. It works once, for a day. The current password works until then.",
        back=f"/admin/people/{person_id}",
    )


def _person_page(visit: Visit, person_id: int, *, problem: HeedfulError | None = None) -> Response:
    with visit.database.read() as connection:
        who = accounts.get_person(connection, person_id)
    return visit.page(
        "console/admin/person.html",
        status=200 if problem is None else 422,
        who=who,
        roles=get_args(Role),
        groups=get_args(Group),
        problem=problem,
    )


# ---------------------------------------------------------------------------------------------------- audit


def show_audit(
    visit: Visiting,
    person: str = "",
    action: str = "",
    subject: str = "",
    subject_id: str = "",
    since: str = "",
    until: str = "",
    older: str = "",
) -> Response:
    """Who did what, newest first."""
    older_than = int(older) if older.isdecimal() and len(older) < 10 else None
    with visit.database.read() as connection:
        found = audit.find(
            connection,
            pseudonym=person.strip() or None,
            action=action.strip() or None,
            subject=subject.strip() or None,
            subject_id=subject_id.strip() or None,
            since=start_of(since),
            until=start_of(until, days=1),
            older_than=older_than,
            limit=AUDIT_LINES,
        )
    given = {"person": person, "action": action, "subject": subject, "subject_id": subject_id, "since": since, "until": until}
    return visit.page("console/admin/audit.html", found=found, filters=given, words_of=audit_words, older=older_than)


# ---------------------------------------------------------------------------------------------------- backups


def show_backups(visit: Visiting) -> Response:
    """The existing backups, and the button for a new one."""
    return _backups_page(visit)


def back_up(visit: Visiting) -> Response:
    """Copy the database while it is in use."""
    folder = visit.settings.backups
    if folder is None:
        raise MissingError("this application makes no backups")
    name = datetime.now(UTC).strftime("labels-%Y%m%d-%H%M%S.sqlite")
    try:
        file = maintenance.backup(visit.database, folder / name)
    except (ConfigError, StorageError) as error:
        return _backups_page(visit, problem=error)
    file.chmod(0o600)
    with visit.database.write() as connection:
        events.record(connection, person_id=visit.person.id, action="backup", subject="backup", subject_id=name)
    return visit.go("/admin/backups", flash=f"Made {name}, and checked it.")


def download(visit: Visiting, file: str) -> Response:
    """A backup's file. The audit log records who downloaded it, so this is not a GET."""
    there = {path.name: path for path in _backups(visit)}
    if file not in there:
        raise MissingError("there is no such backup")
    with visit.database.write() as connection:
        events.record(connection, person_id=visit.person.id, action="download_backup", subject="backup", subject_id=file)
    return FileResponse(there[file], media_type="application/vnd.sqlite3", filename=file)


def _backups(visit: Visit) -> list[Path]:
    folder = visit.settings.backups
    return [] if folder is None else sorted(folder.glob("labels-*.sqlite"), reverse=True)


def _backups_page(visit: Visit, *, problem: HeedfulError | None = None) -> Response:
    found = [(path.name, path.stat().st_size, path.stat().st_mtime) for path in _backups(visit)]
    return visit.page(
        "console/admin/backups.html",
        status=200 if problem is None else 422,
        backups=found,
        sqlite=visit.database.is_sqlite,
        problem=problem,
    )
