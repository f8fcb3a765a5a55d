"""OpenAI's own client against the public API: answers as types, errors as its exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.labeling.usage.talk import ALPHA, a_key
from tests.web.fake_models import ANSWERS, FakeModels
from tests.web.served import served
from tests.web.site import Site, make_site

openai = pytest.importorskip("openai", reason="openai (extra dev) is not installed")

ASK: Any = {"model": ALPHA, "messages": [{"role": "user", "content": "Name a river."}]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = make_site(tmp_path_factory.mktemp("site"))
    made.app.state.model_server = FakeModels().in_process()
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    with served(site.app) as address:
        yield f"{address}/v1"


def client(site: Site, address: str, *, key: str | None = None, **more: Any) -> Any:
    if key is None:
        person = site.person()
        with site.database.write() as connection:
            key = a_key(connection, person, **more)[1]
    return openai.OpenAI(base_url=address, api_key=key, max_retries=0, timeout=60)


def test_answers(site: Site, address: str) -> None:
    with client(site, address) as one:
        assert one.chat.completions.create(**ASK).choices[0].message.content == ANSWERS[ALPHA]
        assert one.completions.create(model=ALPHA, prompt="The Rhine").choices[0].text == ANSWERS[ALPHA]
        stream = one.chat.completions.create(**ASK, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWERS[ALPHA]
        counted = list(one.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
        assert counted[-1].usage.completion_tokens == 5
        assert ALPHA in [model.id for model in one.models.list()]


def test_errors_are_the_clients_own(site: Site, address: str) -> None:
    with client(site, address, key="hk-wrong") as one, pytest.raises(openai.AuthenticationError) as caught:
        one.chat.completions.create(**ASK)
    assert caught.value.code == "invalid_api_key"
    with client(site, address, scopes=("models",)) as one, pytest.raises(openai.PermissionDeniedError):
        one.chat.completions.create(**ASK)
    with client(site, address, per_minute=1) as one:
        list(one.chat.completions.create(**ASK, stream=True))
        with pytest.raises(openai.RateLimitError) as limited:
            one.chat.completions.create(**ASK)
    assert int(limited.value.response.headers["retry-after"]) >= 1
    for stream in (False, True):
        with client(site, address) as one, pytest.raises(openai.NotFoundError) as missing:
            one.chat.completions.create(model="refuses", messages=ASK["messages"], stream=stream)
        assert missing.value.code == "model_not_found"
        with client(site, address) as one, pytest.raises(openai.InternalServerError):
            one.chat.completions.create(model="broken", messages=ASK["messages"], stream=stream)
