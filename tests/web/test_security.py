"""What an attacker would try: through the pages, as a browser would send it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.web.served import served
from tests.web.site import PASSWORD, REAL_HASHER, Site, csrf_of, make_site

from heedful.errors import MissingError, RefusedError
from heedful.labeling.database.tables import event, person, session
from heedful.labeling.people import accounts, passwords, sessions
from heedful.web import routing
from heedful.web.app_settings import secret_key
from heedful.web.security import CONTENT_SECURITY_POLICY, HEADERS, safe_next, sign, signed_value
from heedful.web.shown_text import MARKDOWN_TAGS, markdown


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, max_body_bytes=50_000)
    yield site
    site.database.close()


def log_in(browser: Any, email: str, password: str, target: str = "") -> Any:
    form = {"csrf": csrf_of(browser.get("/login").text), "email": email, "password": password, "next": target}
    return browser.post("/login", data=form)


# ------------------------------------------------------------------------------------------- headers and failures


def test_every_response_has_the_headers(site: Site) -> None:
    browser = site.nobody()
    labeler = site.browser(site.person())
    responses = [
        browser.get("/login"),
        browser.get("/nowhere"),
        browser.get("/api/v1/nowhere"),
        browser.get("/api/v1/me"),
        browser.get("/"),
        browser.get("/health"),
        browser.request("PATCH", "/login"),
        browser.post("/login", content=b"x" * 60_000),
        labeler.post("/account/password", {}),
        labeler.json("PUT", "/api/v1/assignments/1/draft", {"nothing": "right"}),
    ]
    assert [response.status_code for response in responses] == [200, 404, 404, 401, 303, 200, 405, 413, 422, 422]
    for response in responses:
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
        assert response.headers["cache-control"] == "no-store"


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    for word in ("unsafe", "http", "*", "nonce"):
        assert word not in CONTENT_SECURITY_POLICY


def test_a_failure_of_ours_shows_nothing_of_the_inside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = site.browser(site.person())

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(accounts, "password_hash_of", broken)
    monkeypatch.setattr(sessions, "log_out", broken)
    page = labeler.post("/account/password", {"old_password": PASSWORD, "password": PASSWORD})
    problem = labeler.json("DELETE", "/api/v1/session")
    assert (page.status_code, problem.status_code) == (500, 500)
    for response in (page, problem):
        assert "secret inside" not in response.text
        assert "Traceback" not in response.text
        assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert problem.headers["content-type"] == "application/problem+json"


def test_a_body_without_a_length_is_limited_too(site: Site) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b"a=" + b"x" * 10_000 + b"&"

    response = site.nobody().post("/login", content=chunks(), headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 413


def test_files_and_null_characters_are_not_taken(site: Site) -> None:
    browser = site.nobody()
    token = csrf_of(browser.get("/login").text)
    sent = browser.post("/login", data={"csrf": token}, files={"email": ("a.txt", b"x"), "password": ("b.txt", b"x")})
    assert sent.status_code == 415
    assert browser.post("/login", data={"csrf": token, "email": "a\x00@b", "password": "x"}).status_code == 422


@pytest.mark.parametrize("charset", ["punycode", "utf-16", "idna", "rot13", "hex", "zlib_codec", "nothing", "unicode_escape"])
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "application/x-www-form-urlencoded"])
def test_the_sender_names_no_codec(site: Site, charset: str, kind: str) -> None:
    """Decoding this field as Punycode once kept the whole server busy for 76 s."""
    browser = site.nobody()
    field = b"a" * 9_000 + b"-" + b"z" * 9_000
    body = b"email=" + field
    if kind.startswith("multipart"):
        body = b'--b\r\nContent-Disposition: form-data; name="email"\r\n\r\n' + field + b"\r\n--b--\r\n"
    began = time.process_time()
    sent = browser.post("/login", content=body, headers={"content-type": f"{kind}; charset={charset}"})
    assert sent.status_code == 415
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"email=\xff&password=x", 422),
        (b"email=%ff&password=x", 422),
        (b"&".join(b"a=1" for _ in range(3_000)), 422),
        (b"%", 403),
        (b"=&=&;", 403),
        (b"csrf=%00", 422),
        (b"email=" + b"x" * 30_000, 413),
    ],
)
def test_a_malformed_form_is_refused(site: Site, body: bytes, status: int) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}
    assert site.nobody().post("/login", content=body, headers=kind).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/join/%00",
        "/reset/a%00b",
        "/console/prompts/%00",
        "/console/data?text=%00",
        f"/tasks/{2**63}",
        f"/tasks/{2**31}",
        f"/tasks/1?pairs={2**70}",
        f"/questions/{10**12}/seen",
        "/history?before=1e400",
        "/history?before=nan",
        f"/instructions/rank/training?version={2**70}",
        f"/console/questions?show=all&before={2**62}",
        f"/console/data?batch={2**62}",
        "/console/data?behind=nan%20x",
        "/console/data?since=9999-12-31&until=9999-12-31",
        f"/admin/audit?before={2**63}",
        "/admin/audit?before=-1",
        f"/admin/people/{2**63}",
        "/join/\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_malformed_address_is_refused(site: Site, path: str) -> None:
    admin = site.browser(site.person("admin"))
    assert admin.get(path).status_code < 500
    assert admin.post(path, {"number": str(10**12), "batch_id": "9" * 12}).status_code < 500


def test_numbers_of_a_form_fit_into_the_database(site: Site) -> None:
    labeler = site.browser(site.person())
    for number in ("999999999999", "2147483648", "-2147483649", "٣", "1e3", "9" * 400):
        assert labeler.post("/tasks/claim", {"kind": "rank", "batch_id": number}).status_code == 422


def test_one_network_of_ipv6_counts_as_one_visitor() -> None:
    assert routing.network_of("2001:db8:1:2:3::4") == routing.network_of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert routing.network_of("2001:db8:1:3::4") != routing.network_of("2001:db8:1:2::4")
    assert routing.network_of("::ffff:192.0.2.7") == routing.network_of("192.0.2.7") == "192.0.2.7"
    assert routing.network_of("fe80::1%eth0") == "fe80::/64"
    assert routing.network_of("testclient") == "testclient"


GUESSERS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import httpx

url, page, session = sys.argv[1:]
clients = [httpx.Client(base_url=url, timeout=60, verify=False) for _ in range(100)]
tokens = [client.get("/api/v1/session").json()["csrf_token"] for client in clients]

def guess(n):
    form = {"csrf": tokens[n], "email": f"guess{n}@example.org", "password": "wrong password"}
    return clients[n].post("/login", data=form).status_code

with ThreadPoolExecutor(100) as threads:
    guesses = [threads.submit(guess, n) for n in range(100)]
    with httpx.Client(base_url=url, cookies={"heedful_session": session}, timeout=60) as labeler:
        while not all(one.done() for one in guesses):
            assert labeler.get(page).status_code == 200
    print(*(one.result() for one in guesses))
"""
"""A process of a hundred people who guess passwords at once, and of a labeler who looks at a page meanwhile.

Without certificates (``verify``), which each client would read from the disk.
"""


class HeldHasher:
    """The real hasher, which waits until an attempt was refused: a slow client would never fill the queue."""

    def __init__(self) -> None:
        self.refused = threading.Event()

    def verify(self, password_hash: str, password: str) -> bool:
        self.refused.wait(60)
        return REAL_HASHER.verify(password_hash, password)

    def hash(self, password: str) -> str:
        return REAL_HASHER.hash(password)


def test_a_hundred_logins_at_once_delay_no_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hashes as they are: further logins are refused at once, and no page waits for the hashes."""
    hasher = HeldHasher()
    monkeypatch.setattr(passwords, "HASHER", hasher)
    monkeypatch.setattr(sessions, "ADDRESS_ATTEMPTS", 1_000)
    session_token = site.browser(site.person()).client.cookies["heedful_session"]
    seconds: list[float] = []

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message.get("status") in {429, 503}:
                hasher.refused.set()
            await send(message)

        began = time.perf_counter()
        await site.app(scope, receive, sent)
        if scope["path"] == "/history":
            seconds.append(time.perf_counter() - began)

    with served(timed) as url:
        command = [sys.executable, "-c", GUESSERS, url, "/history", session_token]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    statuses = Counter(map(int, done.stdout.split()))
    assert set(statuses) <= {403, 429, 503}
    assert statuses[403] >= 1, "some passwords are looked at"
    assert statuses[429] + statuses[503] >= 1, "and not all of them"
    assert len(seconds) >= 2
    assert max(seconds) < 5


# ------------------------------------------------------------------------------------------- logging in


def test_wrong_password_and_unknown_address_are_not_told_apart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.person()
    disabled = site.person()
    admin = site.person("admin")
    with site.database.write() as connection:
        accounts.disable(connection, disabled, by=admin)
    checked: list[bool] = []

    class Counting:
        def verify(self, *given: Any) -> bool:
            checked.append(True)
            return real.verify(*given)

        def hash(self, password: str) -> str:
            return real.hash(password)

    real = passwords.HASHER
    monkeypatch.setattr(passwords, "HASHER", Counting())
    seen = []
    for email, password in (
        ("person1@example.org", "wrong password"),
        ("nobody@example.org", PASSWORD),
        ("person2@example.org", PASSWORD),
    ):
        checked.clear()
        response = log_in(site.nobody(), email, password)
        text = response.text.replace(email, "").replace(csrf_of(response.text), "")
        seen.append((response.status_code, len(checked), text))
    assert seen[0][:2] == (403, 1)
    assert seen[0] == seen[1] == seen[2]


def test_guessing_is_throttled_for_the_account_whoever_guesses(site: Site) -> None:
    site.person()
    site.person()
    for _ in range(sessions.ACCOUNT_ATTEMPTS):
        assert log_in(site.nobody(), "person1@example.org", "wrong password").status_code == 403
    throttled = log_in(site.nobody(), "person1@example.org", PASSWORD)
    assert throttled.status_code == 429
    assert 0 < int(throttled.headers["retry-after"]) <= sessions.WINDOW_SECONDS
    assert "heedful_session" not in throttled.cookies
    assert log_in(site.nobody(), "person2@example.org", PASSWORD).status_code == 303, "others are not kept out"


def test_guessing_is_throttled_for_the_address_whatever_account(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ADDRESS_ATTEMPTS", 5)
    site.person()
    for number in range(5):
        assert log_in(site.nobody(), f"guess{number}@example.org", "wrong password").status_code == 403
    assert log_in(site.nobody(), "person1@example.org", PASSWORD).status_code == 429


def test_the_throttle_ends_and_a_right_password_forgets_the_wrong_ones(site: Site) -> None:
    site.person()

    def attempt(password: str, now: float) -> bool:
        try:
            sessions.log_in(site.database, email="person1@example.org", password=password, address="here", now=now)
        except RefusedError:
            return False
        return True

    now = time.time()
    for _ in range(sessions.ACCOUNT_ATTEMPTS - 1):
        assert not attempt("wrong password", now)
    assert attempt(PASSWORD, now)
    for _ in range(sessions.ACCOUNT_ATTEMPTS):
        assert not attempt("wrong password", now)
    assert not attempt(PASSWORD, now + sessions.WINDOW_SECONDS - 1)
    assert attempt(PASSWORD, now + sessions.WINDOW_SECONDS + 1)


def test_the_present_password_cannot_be_guessed_either(site: Site) -> None:
    labeler = site.browser(site.person())
    form = {"old_password": "wrong password", "password": "another long one", "password_again": "another long one"}
    statuses = [labeler.post("/account/password", form).status_code for _ in range(sessions.ACCOUNT_ATTEMPTS + 1)]
    assert statuses == [422] * sessions.ACCOUNT_ATTEMPTS + [429]


# ------------------------------------------------------------------------------------------- sessions


def test_a_session_that_somebody_planted_is_never_used(site: Site) -> None:
    site.person()
    mine = site.browser(site.person())
    browser = site.nobody()
    planted = mine.client.cookies["heedful_session"]
    for token in ("planted", planted):
        browser.cookies.clear()
        page = browser.get("/login")
        browser.cookies.set("heedful_session", token)
        page = browser.get("/login") if token == "planted" else page
        done = browser.post("/login", data={"csrf": csrf_of(page.text), "email": "person1@example.org", "password": PASSWORD})
        if token == "planted":
            assert done.status_code == 303
            assert done.cookies["heedful_session"] != token
        else:  # the form belongs to nobody, the cookie to somebody: it does not pass
            assert done.status_code == 403


def test_logging_in_again_ends_the_earlier_session(site: Site) -> None:
    first = site.browser(site.person())
    old = first.client.cookies["heedful_session"]
    new = sessions.log_in(site.database, email="person1@example.org", password=PASSWORD, address="here", earlier_token=old)
    assert new.token != old
    with site.database.read() as connection:
        assert sessions.person_of_session(connection, old) is None
        assert sessions.person_of_session(connection, new.token) is not None


def test_sessions_end_by_themselves_but_not_while_one_works(site: Site) -> None:
    browser = site.browser(site.person())
    token, now = browser.client.cookies["heedful_session"], time.time()
    with site.database.write() as connection:
        assert sessions.person_of_session(connection, token, now + sessions.IDLE_SECONDS - 60) is not None
        assert sessions.person_of_session(connection, token, now + sessions.IDLE_SECONDS + 60) is None
        at = now
        while at < now + sessions.LONGEST_SECONDS - sessions.IDLE_SECONDS:
            at += sessions.IDLE_SECONDS - 60
            assert sessions.person_of_session(connection, token, at) is not None
            sessions.keep_alive(connection, token, now=at)
        assert sessions.person_of_session(connection, token, now + sessions.LONGEST_SECONDS + 60) is None


def test_work_keeps_the_session_and_looking_does_not(site: Site) -> None:
    browser = site.browser(site.person())

    def last_seen() -> float:
        with site.database.read() as connection:
            return connection.execute(select(session.c.last_seen)).scalar_one()

    with site.database.write() as connection:
        connection.execute(session.update().values(last_seen=session.c.last_seen - 2 * sessions.TOUCH_SECONDS))
    before = last_seen()
    browser.get("/account")
    assert last_seen() == before
    browser.json("POST", "/api/v1/claim", {})
    assert last_seen() > before


def test_the_cookie_is_out_of_reach(tmp_path: Path) -> None:
    for secure, name in ((False, "heedful_session"), (True, "__Host-heedful_session")):
        folder = tmp_path / str(secure)
        folder.mkdir()
        site = make_site(folder, secure=secure)
        site.person()
        browser = site.nobody()
        browser.base_url = "https://localhost" if secure else "http://localhost"
        done = log_in(browser, "person1@example.org", PASSWORD)
        cookie = next(value for key, value in done.headers.multi_items() if key == "set-cookie" and value.startswith(name))
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        assert "Path=/" in cookie
        assert "Domain" not in cookie
        assert ("Secure" in cookie) == secure
        assert ("strict-transport-security" in done.headers) == secure
        site.database.close()


def test_a_new_password_logs_out_everywhere_else(site: Site) -> None:
    who = site.person()
    here, there = site.browser(who), site.browser(who)
    done = here.post(
        "/account/password",
        {"old_password": PASSWORD, "password": "another long one", "password_again": "another long one"},
    )
    assert done.status_code == 303
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 303
    assert log_in(site.nobody(), "person1@example.org", PASSWORD).status_code == 403
    assert log_in(site.nobody(), "person1@example.org", "another long one").status_code == 303


def test_disabled_people_are_out_at_once_and_their_links_too(site: Site) -> None:
    admin, who = site.person("admin"), site.person()
    labeler = site.browser(who)
    with site.database.write() as connection:
        token = accounts.reset_password_token(connection, who, by=admin)
    site.browser(admin).post(f"/admin/people/{who}/disable")
    assert labeler.get("/account").status_code == 303
    assert labeler.json("GET", "/api/v1/me").status_code == 401
    assert site.nobody().get(f"/reset/{token}").status_code == 404


def test_a_request_that_another_site_makes_is_refused(site: Site) -> None:
    labeler = site.browser(site.person())
    sent = labeler.client.post("/logout", data={"csrf": labeler.csrf}, headers={"Sec-Fetch-Site": "cross-site"})
    assert sent.status_code == 403
    assert labeler.get("/account").status_code == 200


def test_a_json_body_cannot_come_as_a_form(site: Site) -> None:
    """A page elsewhere can send text/plain without being asked; it cannot send our header."""
    labeler = site.browser(site.person())
    sent = labeler.client.post("/api/v1/claim", content=f'{{"csrf": "{labeler.csrf}"}}', headers={"content-type": "text/plain"})
    assert sent.status_code in (403, 422)


# ------------------------------------------------------------------------------------------- invites


def test_an_invite_works_once_and_not_for_ever(site: Site) -> None:
    now = time.time()
    with site.database.write() as connection:
        token = accounts.invite_to_join(connection, role="labeler", group="training", created_by=None, now=now)
        accounts.link_of(connection, token, now=now + accounts.INVITE_SECONDS - 1)
        with pytest.raises(MissingError):
            accounts.link_of(connection, token, now=now + accounts.INVITE_SECONDS + 1)
        with pytest.raises(MissingError):
            accounts.link_of(connection, token + "x")
    first, second = site.nobody(), site.nobody()
    forms = [
        {"csrf": csrf_of(browser.get(f"/join/{token}").text), "name": "A", "email": f"{n}@example.org", "password": PASSWORD}
        for n, browser in enumerate((first, second))
    ]
    assert first.post(f"/join/{token}", data=forms[0]).status_code == 303
    assert second.post(f"/join/{token}", data=forms[1]).status_code == 404
    with site.database.read() as connection:
        assert [who.email for who in accounts.all_people(connection)] == ["0@example.org"]


def test_a_link_for_a_password_is_no_invite_and_an_invite_no_link_for_a_password(site: Site) -> None:
    who = site.person()
    with site.database.write() as connection:
        reset = accounts.reset_password_token(connection, who, by=None)
        join = accounts.invite_to_join(connection, role="admin", group="training", created_by=None)
        with pytest.raises(MissingError):
            accounts.join(connection, reset, name="A", email="a@example.org", password_hash="x")
        with pytest.raises(MissingError):
            accounts.reset_password(connection, join, "x")
        accounts.reset_password_token(connection, who, by=None)
        with pytest.raises(MissingError):
            accounts.link_of(connection, reset)


@pytest.mark.parametrize("change", ["disabled", "made a labeler", "disabled and enabled again"])
def test_a_link_is_worth_nothing_once_its_maker_is_no_working_admin(site: Site, change: str) -> None:
    maker, other, third = site.person("admin"), site.person("admin"), site.person("admin")
    with site.database.write() as connection:
        invite = accounts.invite_to_join(connection, role="admin", group="training", created_by=maker)
        reset = accounts.reset_password_token(connection, third, by=maker)
        if change.startswith("disabled"):
            accounts.disable(connection, maker, by=other)
        else:
            accounts.change_person(connection, maker, by=other, role="labeler", group="training", daily_limit=None)
        if change.endswith("again"):
            accounts.enable(connection, maker, by=other)
    for link in (f"/join/{invite}", f"/reset/{reset}"):
        assert site.nobody().get(link).status_code == 404
    with site.database.write() as connection:
        with pytest.raises(MissingError):
            accounts.join(connection, invite, name="A", email="a@example.org", password_hash="x")
        with pytest.raises(MissingError):
            accounts.reset_password(connection, reset, "x")


def test_links_of_an_old_database_are_checked_when_they_are_used(site: Site) -> None:
    """Links that were open when their maker was disabled by an earlier version, which did not end them."""
    maker = site.person("admin")
    with site.database.write() as connection:
        token = accounts.invite_to_join(connection, role="admin", group="training", created_by=maker)
        connection.execute(person.update().where(person.c.id == maker).values(disabled=1.0))
        with pytest.raises(MissingError):
            accounts.link_of(connection, token)


def test_a_new_password_ends_the_links_to_set_one(site: Site) -> None:
    admin, who = site.person("admin"), site.person()
    with site.database.write() as connection:
        reset = accounts.reset_password_token(connection, who, by=admin)
    labeler = site.browser(who)
    new = "another long password"
    form = {"old_password": PASSWORD, "password": new, "password_again": new}
    assert labeler.post("/account/password", form).status_code == 303
    assert site.nobody().get(f"/reset/{reset}").status_code == 404


def test_the_database_holds_no_token(site: Site, tmp_path: Path) -> None:
    with site.database.write() as connection:
        token = accounts.invite_to_join(connection, role="labeler", group="training", created_by=None)
    browser = site.browser(site.person())
    site.database.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("labels.sqlite*"))
    assert b"invite" in stored
    for secret in (token, browser.client.cookies["heedful_session"], PASSWORD):
        assert secret.encode() not in stored


def test_there_is_always_an_admin(site: Site) -> None:
    one = site.person("admin")
    admin = site.browser(one)
    form = {"role": "labeler", "group": "training", "daily_limit": ""}
    assert admin.post(f"/admin/people/{one}", form).status_code == 422
    assert admin.post(f"/admin/people/{one}/disable").status_code == 422
    two = site.person("admin")
    assert admin.post(f"/admin/people/{one}", form).status_code == 303
    with site.database.read() as connection:
        assert [accounts.get_person(connection, who).role for who in (one, two)] == ["labeler", "admin"]


def test_what_is_changed_about_people_is_in_the_audit_without_names(site: Site) -> None:
    admin, who = site.browser(site.person("admin")), site.person(name="Lea Secret")
    admin.post(f"/admin/people/{who}", {"role": "researcher", "group": "held_out", "daily_limit": "5"})
    with site.database.read() as connection:
        changed = connection.execute(select(event).where(event.c.action == "change_person")).one()
        events = connection.execute(select(event)).all()
    assert (changed.person_id, changed.subject, changed.subject_id) == (admin.person_id, "person", str(who))
    assert changed.before == {"role": "labeler", "group_name": "training", "daily_limit": None}
    assert changed.after == {"role": "researcher", "group_name": "held_out", "daily_limit": 5}
    assert "Secret" not in str(events)
    assert "example.org" not in str(events)


def test_pseudonyms_can_be_said_and_say_nothing(site: Site) -> None:
    ids = [site.person(name="Lea") for _ in range(5)]
    with site.database.read() as connection:
        names = {accounts.get_person(connection, who).pseudonym for who in ids}
    assert len(names) == 5
    for name in names:
        assert len(name) == 6
        assert all(letter in "bdfgklmnprstvz" for letter in name[::2])
        assert all(letter in "aeiou" for letter in name[1::2])


# ------------------------------------------------------------------------------------------- where one is sent


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "///evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
     "/a\r\nSet-Cookie: x=1", "/\t/evil.example", " //evil.example", "evil.example", "", None, "/" + "a" * 3_000],
)  # fmt: skip
def test_nobody_is_sent_elsewhere_after_logging_in(site: Site, target: str | None) -> None:
    assert safe_next(target) is None
    site.person()
    assert log_in(site.nobody(), "person1@example.org", PASSWORD, target or "").headers["location"] == "/"
    if target is not None and len(target) < 1_000:
        page = site.nobody().get("/login", params={"next": target})
        assert 'name="next" value=""' in page.text


def test_one_is_sent_on_within_the_application() -> None:
    assert safe_next("/tasks/5?draft=1") == "/tasks/5?draft=1"


# ------------------------------------------------------------------------------------------- signed values, the key, Markdown


def test_signed_values_hold_for_their_purpose_only() -> None:
    signed = sign(b"key", "flash", "value")
    assert signed_value(b"key", "flash", signed) == "value"
    for key, purpose, given in (
        (b"other", "flash", signed),
        (b"key", "visitor", signed),
        (b"key", "flash", signed + "x"),
        (b"key", "flash", "value"),
        (b"key", "flash", ""),
        (b"key", "flash", "\ud800.x"),
    ):
        assert signed_value(key, purpose, given) is None


def test_a_message_that_somebody_planted_is_not_shown(site: Site) -> None:
    browser = site.nobody()
    browser.cookies.set("heedful_flash", "0" * 64 + "." + b"Send your password to evil@example.org".hex())
    assert "evil@example.org" not in browser.get("/login").text
    with_message = sign(b"k" * 32, "flash", b"Hello <b>you</b>".hex())
    browser.cookies.set("heedful_flash", with_message)
    page = browser.get("/login")
    assert "Hello &lt;b&gt;you&lt;/b&gt;" in page.text


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "web-key"
    key = secret_key(file)
    assert len(key) == 32
    assert secret_key(file) == key
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["web-key"]
    file.chmod(0o644)
    secret_key(file)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))",
     "![x](https://evil.example/who-reads.png)", "[x](data:text/html;base64,PHNjcmlwdD4=)", '<a href="x" onclick="y">z</a>',
     "<style>*{display:none}</style>", '[x](https://a.example "onmouseover=alert(1)")', "<iframe src=//evil.example>",
     "[x]: javascript:alert(1)\n\n[x]", "<javascript:alert(1)>", "&lt;script&gt;alert(1)&lt;/script&gt;"],
)  # fmt: skip
def test_markdown_is_harmless(text: str) -> None:
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in MARKDOWN_TAGS
            for name, value in attrs:
                assert name in ("href", "title", "rel")
                assert name != "href" or str(value).startswith(("https://", "http://", "mailto:"))

    Tags().feed(str(markdown(text)))


def test_markdown_says_what_it_says() -> None:
    html = str(markdown("# Rank\n\n*Best* first, see [the page](https://example.org).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"))
    assert "<h1>Rank</h1>" in html
    assert "<em>Best</em>" in html
    assert 'rel="noopener noreferrer nofollow"' in html
    assert "<td>1</td>" in html


def test_static_files_are_kept_for_ever_under_their_own_address(site: Site) -> None:
    browser = site.nobody()
    rendering = site.app.state.rendering
    style = browser.get(rendering.static_path("style.css"))
    assert style.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert browser.get("/static/old/style.css").headers["cache-control"] == "no-cache"
    for path in ("/static/x/../app.py", "/static/x/%2e%2e/app.py", "/static/x/nothing.css", "/static/x//etc/passwd"):
        assert browser.get(path).status_code == 404
    assert rendering.static_path("style.css") in browser.get("/login").text


def test_a_visit_needs_somebody_where_one_is_asked_for(site: Site) -> None:
    with pytest.raises(ValueError, match="'who' must be one of"):
        routing.Routes().get("/x", lambda: None, who="everybody")  # type: ignore[arg-type]
