from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.labeling.labeling import add_person, number_of
from tests.labeling.usage.talk import a_key

from heedful.errors import DataError, MissingError
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import person
from heedful.labeling.database.usage_tables import api_key, api_request
from heedful.labeling.usage import admission, api_keys
from heedful.labeling.usage.admission import KeyRefusedError, Outcome
from heedful.labeling.usage.api_keys import NewKey


def key_of(database: Database, **more: Any) -> tuple[int, str]:
    with database.write() as connection:
        return a_key(connection, add_person(connection, "p-1"), **more)


def refusal(database: Database, secret: str, scope: Any = "chat", **more: Any) -> KeyRefusedError:
    with pytest.raises(KeyRefusedError) as caught:
        admission.admit(database, secret, scope, **more)
    return caught.value


def passed(database: Database, secret: str, number: int) -> int:
    """How many of so many requests at once are admitted."""

    def one(_: int) -> int:
        try:
            admission.admit(database, secret, "chat", now=1000.0)  # a slow machine is no later minute
        except KeyRefusedError as error:
            return error.status != 429 and 1000  # anything else shows in the sum
        return 1

    with ThreadPoolExecutor(16) as threads:
        return sum(threads.map(one, range(number)))


MANY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from heedful.labeling.database.connection import open_database
from heedful.labeling.usage import admission
database = open_database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
def one(_):
    try:
        admission.admit(database, sys.argv[2], "chat", now=1000.0)
    except admission.KeyRefusedError as error:
        return error.status != 429 and 1000
    return 1
with ThreadPoolExecutor(16) as threads:
    print(sum(threads.map(one, range(100))))
"""


def test_two_hundred_at_once_from_two_processes_and_after_a_restart(database: Database) -> None:
    _, secret = key_of(database, per_minute=5)
    url = database.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY, url, secret], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:  # both start before either is waited for
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(int(process.communicate(timeout=120)[0]))
    assert sum(outputs) == 5
    again = open_database(url)
    try:
        assert passed(again, secret, 200) == 0
    finally:
        again.close()


def test_two_hundred_at_once(database: Database) -> None:
    _, secret = key_of(database, per_minute=5)
    assert passed(database, secret, 200) == 5


def test_a_minute_later_as_many_pass_again(database: Database) -> None:
    _, secret = key_of(database, per_minute=2)
    admission.admit(database, secret, "chat", now=1000.0)
    admission.admit(database, secret, "chat", now=1030.0)
    refused = refusal(database, secret, now=1050.0)
    assert (refused.status, refused.code, refused.wait_seconds) == (429, "rate_limit_exceeded", 10.0)
    admission.admit(database, secret, "chat", now=1060.5)
    assert refusal(database, secret, now=1089.0).wait_seconds == pytest.approx(1.0)


def test_a_request_counts_whatever_comes_of_it(database: Database) -> None:
    _, secret = key_of(database, per_minute=2)
    for status in (400, 499):
        admitted = admission.admit(database, secret, "chat")
        admission.finish(database, admitted, Outcome(status=status))
    assert refusal(database, secret).status == 429


def test_the_day_and_the_tokens_have_limits(database: Database) -> None:
    _, secret = key_of(database, per_minute=100, per_day=3, tokens_per_month=50)
    admitted = admission.admit(database, secret, "chat", now=1000.0)
    admission.finish(database, admitted, Outcome(status=200, prompt_tokens=20, completion_tokens=29))
    admission.admit(database, secret, "chat", now=2000.0)
    admitted = admission.admit(database, secret, "chat", now=3000.0)
    refused = refusal(database, secret, now=4000.0)
    assert (refused.code, refused.wait_seconds) == ("rate_limit_exceeded", 1000.0 + 86_400 - 4000)
    admission.finish(database, admitted, Outcome(status=200, completion_tokens=1))
    assert refusal(database, secret, now=90_000.0).code == "insufficient_quota"
    admission.admit(database, secret, "chat", now=1001.0 + admission.MONTH)


def test_revoked_keys_and_disabled_owners(database: Database) -> None:
    key_id, secret = key_of(database)
    admission.admit(database, secret, "chat")
    with database.write() as connection:
        connection.execute(update(person).values(disabled=1.0))
    assert refusal(database, secret).status == 401
    with database.write() as connection:
        connection.execute(update(person).values(disabled=None))
        api_keys.revoke(connection, key_id, by=1, own_only=True)
    assert refusal(database, secret).status == 401


@pytest.mark.parametrize("secret", ["", "hk-", "hk-wrong", "sk-x", "hk-" + "x" * 300])
def test_keys_that_do_not_exist(database: Database, secret: str) -> None:
    key_of(database)
    assert refusal(database, secret).code == "invalid_api_key"
    with database.read() as connection:
        assert number_of(connection, api_request) == 0


def test_scopes_and_uses(database: Database) -> None:
    _, secret = key_of(database, scopes=("chat",), uses=("research",))
    assert refusal(database, secret, "models").status == 403
    assert refusal(database, secret, used_for="adverts").status == 403
    admission.admit(database, secret, "chat")
    with database.read() as connection:
        assert connection.execute(select(api_request.c.used_for)).scalar_one() == "research"


def test_the_key_is_nowhere(database: Database) -> None:
    key_id, secret = key_of(database)
    with database.read() as connection:
        row = connection.execute(select(api_key)).mappings().one()
        assert secret not in str(dict(row))
        assert row["beginning"] == secret[:8]
        assert api_keys.get(connection, key_id).beginning == secret[:8]


def test_a_production_key_keeps_no_text(database: Database) -> None:
    _, secret = key_of(database, purpose="production", training=True)
    admitted = admission.admit(database, secret, "chat")
    outcome = Outcome(status=200, prompt_tokens=7, request=[{"role": "user", "content": "a secret"}], response=["hidden"])
    admission.finish(database, admitted, outcome)
    with database.read() as connection:
        row = connection.execute(select(api_request)).mappings().one()
    assert (row["request"], row["response"], row["training"], row["prompt_tokens"]) == (None, None, False, 7)


def test_texts_expire(database: Database) -> None:
    _, secret = key_of(database, keep_days=2)
    for at in (1000.0, 2 * 86_400.0):
        admitted = admission.admit(database, secret, "chat", now=at)
        admission.finish(database, admitted, Outcome(status=200, request="hello", response=["hi"]), now=at)
    with database.write() as connection:
        assert api_keys.erase_expired(connection, now=2 * 86_400.0 + 1001.0) == 1
        assert api_keys.erase_expired(connection, now=2 * 86_400.0 + 1001.0) == 0
        texts = connection.execute(select(api_request.c.request).order_by(api_request.c.at)).scalars().all()
    assert texts == [None, "hello"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"scopes": ()},
        {"scopes": ("chat", "admin")},
        {"purpose": "fun"},
        {"per_minute": 0},
        {"keep_days": 0},
        {"per_day": 2**31},
        {"uses": ("Not A Tag",)},
        {"name": "a\x00"},
    ],
)
def test_keys_that_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        NewKey(**({"person_id": 1, "name": "test"} | wrong))


def test_others_cannot_revoke(database: Database) -> None:
    key_id, secret = key_of(database)
    with database.write() as connection:
        other = add_person(connection, "p-2")
        with pytest.raises(MissingError):
            api_keys.revoke(connection, key_id, by=other, own_only=True)
    admission.admit(database, secret, "chat")
