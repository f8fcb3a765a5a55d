"""The public API against inputs of every form: no input makes it fail, and the log stays readable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from schemathesis import openapi
from sqlalchemy import func, select
from tests.every_input import send, try_every_operation
from tests.labeling.usage.talk import ALPHA, a_key
from tests.openai_description import description
from tests.web.fake_models import FakeModels
from tests.web.site import Site, make_site

from heedful.labeling.database.usage_tables import api_request


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.app.state.model_server = FakeModels().in_process()
    yield made
    made.database.close()


@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def test_no_input_makes_it_fail(site: Site, examples: int) -> None:
    person = site.person("user")
    with site.database.write() as connection:
        _, secret = a_key(connection, person, per_minute=1_000_000, per_day=None)
    schema = openapi.from_dict(description([ALPHA, "silent", "nothing"], ["/v1/completions", "/v1/chat/completions"]))
    statuses: Counter[int] = Counter()
    client = site.nobody()

    def check(case: Any) -> None:
        answer = send(client, case, "http://localhost", {"Authorization": f"Bearer {secret}"})
        statuses[answer.status_code] += 1
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    try_every_operation(schema, examples, check)
    assert statuses[200] >= 5, statuses
    assert sum(count for status, count in statuses.items() if 400 <= status < 500) >= 5, statuses
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(api_request)).scalar_one() == sum(statuses.values())
    assert site.browser(person).get("/keys/1").status_code == 200
    assert site.browser(person).post("/your-data/download").status_code == 200
