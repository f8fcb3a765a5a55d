from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.labeling.usage.talk import a_key
from tests.web.fake_models import ANSWERS, FakeModels
from tests.web.site import Site, make_site

from heedful.labeling.database.usage_tables import api_request
from heedful.labeling.usage import usage_log


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.app.state.model_server = FakeModels().in_process()
    yield made
    made.database.close()


FIELDS = {"name": "Tests", "scope": ["chat", "models"], "purpose": "playground", "training": "yes", "per_minute": "7"}


def made(site: Site, admin: Any, person: int, **fields: Any) -> str:
    page = admin.post("/admin/keys", FIELDS | {"person_id": str(person)} | fields)
    assert page.status_code == 200, page.text
    found = re.search(r'value="(hk-[^"]+)"', page.text)
    assert found
    return found[1]


def ask(site: Site, secret: str, text: str = "Name a river.") -> Any:
    body = {"model": "acme/alpha-7b", "messages": [{"role": "user", "content": text}]}
    return site.nobody().post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"})


def test_a_key_is_shown_once_and_works(site: Site) -> None:
    admin, person = site.browser(site.person("admin")), site.person()
    secret = made(site, admin, person, uses="research, drafting", keep_days="30")
    assert ask(site, secret).status_code == 200
    owner = site.browser(person)
    for browser, path in ((admin, "/admin/keys"), (owner, "/keys"), (owner, "/keys/1"), (admin, "/console/usage")):
        page = browser.get(path).text
        assert secret not in page
        assert "Tests" in page
    assert ANSWERS["acme/alpha-7b"] in owner.get("/keys/1").text
    assert ANSWERS["acme/alpha-7b"] not in admin.get("/console/usage").text, "only the owner reads the texts"
    assert site.browser(site.person("admin")).get("/keys/1").status_code == 404


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"scope": []}, {"per_minute": "0"}, {"per_day": "-1"}, {"person_id": "99"}, {"uses": "A B!"}]
)
def test_a_wrong_form_comes_back_filled_in(site: Site, wrong: dict[str, Any]) -> None:
    admin, person = site.browser(site.person("admin")), site.person()
    page = admin.post("/admin/keys", FIELDS | {"person_id": str(person), "name": "My <b>key"} | wrong)
    assert page.status_code == 422
    assert 'role="alert"' in page.text
    assert "hk-" not in page.text
    if "name" not in wrong:
        assert "My &lt;b&gt;key" in page.text


def test_revoked_by_its_owner_and_by_an_admin(site: Site) -> None:
    admin, person = site.browser(site.person("admin")), site.person()
    first, second = made(site, admin, person), made(site, admin, person)
    assert site.browser(person).post("/keys/1/revoke").status_code == 303
    assert admin.post("/admin/keys/2/revoke").status_code == 303
    assert [ask(site, secret).status_code for secret in (first, second)] == [401, 401]


def test_taking_back_and_deleting(site: Site) -> None:
    person = site.person()
    with site.database.write() as connection:
        key_id, secret = a_key(connection, person)
    owner = site.browser(person)
    for number in range(3):
        assert ask(site, secret, f"Number {number}").status_code == 200
    assert "may be used to train" in owner.get(f"/keys/{key_id}").text
    assert owner.post(f"/keys/{key_id}/requests/2/withdraw").status_code == 303
    with site.database.read() as connection:
        texts = [row["messages"][0]["content"] for _, row in usage_log.prompt_rows(connection)]
    assert texts == ["Number 0", "Number 2"]
    assert owner.post(f"/keys/{key_id}/delete-texts").status_code == 303
    with site.database.read() as connection:
        assert list(usage_log.prompt_rows(connection)) == []
        assert connection.execute(select(api_request.c.request)).scalars().all() == [None] * 3
    assert ask(site, secret).headers["x-heedful-training"] == "may-be-used"
    assert owner.post(f"/keys/{key_id}/withdraw").status_code == 303
    assert ask(site, secret).headers["x-heedful-training"] == "never"


def test_a_production_keys_page_says_that_nothing_is_kept(site: Site) -> None:
    person = site.person()
    with site.database.write() as connection:
        key_id, secret = a_key(connection, person, purpose="production")
    ask(site, secret, "PLATYPUS")
    page = site.browser(person).get(f"/keys/{key_id}").text
    assert "kept nowhere" in page
    assert "PLATYPUS" not in page
