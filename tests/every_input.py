"""schemathesis: requests from a server's description and against it, for every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

_EVERY_CHECK = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]


def try_every_operation(schema: Any, examples: int, check: Callable[[Any], None]) -> None:
    """Call ``check`` with this many cases of each operation of the description."""
    for operation in schema.get_all_operations():
        found = cast("Any", operation).ok()
        strategy = found.as_strategy(generation_mode=GenerationMode.POSITIVE) | found.as_strategy(
            generation_mode=GenerationMode.NEGATIVE
        )

        @settings(
            max_examples=examples, phases=[Phase.generate], deadline=None, derandomize=True, suppress_health_check=_EVERY_CHECK
        )
        @given(case=strategy)
        def one(case: Any) -> None:
            check(case)

        one()


def send(client: Any, case: Any, base_url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Send a case, without the cookies that it makes up; the server's answer, which must not be its own failure."""
    sent = case.as_transport_kwargs(base_url=base_url, headers=headers)
    answer = client.request(**{key: value for key, value in sent.items() if key != "cookies"})
    assert answer.status_code < 500, f"{sent} {answer.text}"
    return answer
