"""Joining, logging in, passwords: through the pages."""

from __future__ import annotations

from tests.web.site import PASSWORD, Site, csrf_of

from heedful.labeling.people import accounts


def test_the_first_admin_joins_by_the_printed_link_once(site: Site) -> None:
    with site.database.write() as connection:
        token = accounts.first_admin_token(connection)
    assert token is not None
    browser = site.nobody()
    page = browser.get(f"/join/{token}")
    assert page.status_code == 200
    form = {
        "csrf": csrf_of(page.text),
        "name": "Ada",
        "email": "Ada@Example.org",
        "password": PASSWORD,
        "password_again": PASSWORD,
    }
    done = browser.post(f"/join/{token}", data=form)
    assert (done.status_code, done.headers["location"]) == (303, "/console")
    assert browser.get("/console").status_code == 200
    with site.database.write() as connection:
        assert accounts.first_admin_token(connection) is None
    again = site.nobody().get(f"/join/{token}")
    assert again.status_code == 404
    assert "does not work" in again.text


def test_log_in_and_out(site: Site) -> None:
    site.person("labeler")
    browser = site.nobody()
    away = browser.get("/account")
    assert away.headers["location"] == "/login?next=/account"
    page = browser.get(away.headers["location"])
    form = {"csrf": csrf_of(page.text), "email": " PERSON1@example.org", "password": PASSWORD, "next": "/account"}
    done = browser.post("/login", data=form)
    assert (done.status_code, done.headers["location"]) == (303, "/account")
    page = browser.get("/account")
    assert "person1@example.org" in page.text
    browser.post("/logout", data={"csrf": csrf_of(page.text)})
    assert browser.get("/account").status_code == 303
