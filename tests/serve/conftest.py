"""One server for all tests that only ask it something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("openai", reason="openai (extra dev) is not installed")
from openai import OpenAI
from tests.serve.small_models import served


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with served() as (url, _):
        yield url


@pytest.fixture(scope="session")
def client(server_url: str) -> OpenAI:
    return OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120)
