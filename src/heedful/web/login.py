"""Joining by invitation, logging in and out, passwords."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from heedful.errors import ConflictError, DataError, HeedfulError, RefusedError, ThrottledError
from heedful.labeling.people import accounts, sessions
from heedful.labeling.people.passwords import SHORTEST, hash_password, is_password
from heedful.labeling.queue import task_making
from heedful.web.routing import Form, Routes, Visit, Visiting
from heedful.web.security import safe_next
from heedful.web.sent_forms import FormValues


def routes(add: Routes) -> None:
    """Add the pages of accounts."""
    add.get("/login", show_login, who="public")
    add.post("/login", log_in, who="public")
    add.post("/logout", log_out, who="public")
    add.get("/join/{token}", show_join, who="public")
    add.post("/join/{token}", join, who="public")
    add.get("/reset/{token}", show_reset, who="public")
    add.post("/reset/{token}", reset, who="public")
    add.get("/account", show_account, who="user")
    add.post("/account/password", change_password, who="user")


def login_path(path: str, query: str = "") -> str:
    """The address of the login page, which then leads back to the requested page."""
    target = f"{path}?{query}" if query else path
    return "/login" if target == "/" else f"/login?next={quote(target, safe='/')}"


def home_of(visit: Visit, who: accounts.Person) -> str:
    """The page where a person's work starts. Without a project and without a batch, that is the playground."""
    if who.role in ("user", "labeler"):
        return "/playground" if who.role == "user" else "/"
    if visit.settings.project is None and visit.settings.model_server is not None:
        with visit.database.read() as connection:
            if not task_making.all_batches(connection):
                return "/playground"
    return "/console"


# ---------------------------------------------------------------------------------------------------- log in and out


def show_login(visit: Visiting, next: str = "") -> Response:
    """The login form; a visitor who is already logged in is sent on."""
    if visit.somebody is not None:
        return visit.go(safe_next(next) or home_of(visit, visit.somebody))
    return visit.page("login.html", next=safe_next(next) or "", email="", problem=None)


def log_in(visit: Visiting, form: Form) -> Response:
    """Start a session, or show the form again with the problem."""
    email, target = form.text("email"), safe_next(form.text("next", ""))
    try:
        new = sessions.log_in(
            visit.database,
            email=email,
            password=form.text("password"),
            address=visit.address,
            earlier_token=visit.session_token,
        )
    except RefusedError as error:
        status = 429 if isinstance(error, ThrottledError) else 403
        response = visit.page("login.html", status=status, next=target or "", email=email, problem=error)
        if isinstance(error, ThrottledError):
            response.headers["Retry-After"] = str(max(1, round(error.wait_seconds)))
        return response
    return visit.with_session(new, visit.go(target or home_of(visit, new.person)))


def log_out(visit: Visiting) -> Response:
    """End this browser's session."""
    if visit.session_token is not None:
        with visit.database.write() as connection:
            sessions.log_out(connection, visit.session_token)
    return visit.without_session(visit.go("/login", flash="You are logged out."))


# ---------------------------------------------------------------------------------------------------- join, reset


def show_join(visit: Visiting, token: str) -> Response:
    """The form for a new account."""
    with visit.database.read() as connection:
        link = accounts.link_of(connection, token)
    if link.purpose != "join":
        return visit.go(f"/reset/{quote(token, safe='')}")
    return _join_page(visit, link)


def join(visit: Visiting, form: Form, token: str) -> Response:
    """Make the account and log in."""
    with visit.database.read() as connection:  # check the link before the expensive hashing
        link = accounts.link_of(connection, token)
    try:
        password_hash = _new_password(form)
        with visit.database.write() as connection:
            who = accounts.join(
                connection, token, name=form.text("name"), email=form.text("email"), password_hash=password_hash
            )
            new = sessions.start(connection, who.id, earlier_token=visit.session_token)
    except (DataError, ConflictError) as error:
        return _join_page(visit, link, status=422, name=form.text("name", ""), email=form.text("email", ""), problem=error)
    return visit.with_session(new, visit.go(home_of(visit, new.person)))


def _join_page(
    visit: Visit,
    link: accounts.Invite,
    *,
    status: int = 200,
    name: str = "",
    email: str = "",
    problem: HeedfulError | None = None,
) -> Response:
    values = {"name": name, "email": email, "problem": problem, "shortest": SHORTEST}
    return visit.page("join.html", status=status, link=link, **values)


def show_reset(visit: Visiting, token: str) -> Response:
    """The form for a new password."""
    with visit.database.read() as connection:
        accounts.link_of(connection, token)
    return visit.page("reset.html", problem=None, shortest=SHORTEST)


def reset(visit: Visiting, form: Form, token: str) -> Response:
    """Set the password and log in."""
    with visit.database.read() as connection:
        accounts.link_of(connection, token)
    try:
        password_hash = _new_password(form)
    except DataError as error:
        return visit.page("reset.html", status=422, problem=error, shortest=SHORTEST)
    with visit.database.write() as connection:
        who = accounts.reset_password(connection, token, password_hash)
        if who.email is not None:
            sessions.forget_failures(connection, who.email)
        new = sessions.start(connection, who.id, earlier_token=visit.session_token)
    return visit.with_session(new, visit.go(home_of(visit, new.person)))


# ---------------------------------------------------------------------------------------------------- one's own account


def show_account(visit: Visiting) -> Response:
    """One's own account, and the form to change the password."""
    return visit.page("account.html", problem=None, shortest=SHORTEST)


def change_password(visit: Visiting, form: Form) -> Response:
    """Set a new password: other browsers are logged out, this one gets a new session."""
    with visit.database.read() as connection:
        stored = accounts.password_hash_of(connection, visit.person.id)
    try:
        sessions.count_attempt(visit.database, visit.person.email or "", visit.address)
        if not is_password(form.text("old_password"), stored):
            raise DataError("the current password is wrong", next_step="check it, then try again")
        password_hash = _new_password(form)
    except DataError as error:
        return visit.page("account.html", status=422, problem=error, shortest=SHORTEST)
    with visit.database.write() as connection:
        accounts.set_password(connection, visit.person.id, password_hash, by=visit.person.id)
        sessions.forget_failures(connection, visit.person.email or "")
        new = sessions.start(connection, visit.person.id)
    return visit.with_session(new, visit.go("/account", flash="The new password is set."))


def _new_password(form: FormValues) -> str:
    password = form.text("password")
    if password != form.text("password_again", password):
        raise DataError("the two passwords differ", next_step="type the same one twice")
    return hash_password(password)
