"""What rows say: prompts, chats, the API's log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from heedful.project.formats.rows import BadRow
from heedful.prompts.reading import INTAKES, LeftOut, owner_of, read_submission

REQUEST = {
    "time": "2026-03-01T09:30:00Z",
    "owner": "org-7",
    "model": "small-1",
    "consent": True,
    "prompt": "List three rivers.",
}


def test_owner_is_the_organisation_or_else_the_user() -> None:
    assert read_submission("prompts", {"text": "x", "user": "u", "organization": "o"}).owner == "o"
    assert read_submission("prompts", {"text": "x", "user": "u"}).owner == "u"
    assert read_submission("prompts", {"text": "x", "owner": 17}).owner == "17"
    assert read_submission("prompts", {"text": "x", "owner": " "}).owner is None
    assert owner_of({"owner": "u", "text": 7}) == "u"
    assert owner_of("no object") is None


def test_a_chat_is_asked_last() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Po."},
        {"role": "user", "content": "Another."},
        {"role": "assistant", "content": "The Don."},
    ]
    text = read_submission("chat", {"messages": messages, "user": "u"}).text
    assert text == "Be brief.\n\nHuman: Name a river.\n\nAssistant: The Po.\n\nHuman: Another.\n\nAssistant:"
    assert read_submission("chat", {"conversations": [{"from": "human", "value": "Hi there"}]}).text == "Hi there\n"
    for wrong in ({}, {"messages": []}, {"messages": [{"role": "assistant", "content": "x"}]}, {"messages": "x"}):
        with pytest.raises(BadRow):
            read_submission("chat", wrong)


def test_a_request_of_the_api() -> None:
    submission = read_submission("api", REQUEST)
    assert (submission.text, submission.owner, submission.source) == ("List three rivers.\n", "org-7", "customer")
    assert submission.metadata == {"time": "2026-03-01T09:30:00Z", "model": "small-1"}
    chat = {**REQUEST, "messages": [{"role": "user", "content": "Hi there"}]}
    del chat["prompt"]
    assert read_submission("api", chat).text == "Hi there\n"
    assert read_submission("api", {**REQUEST, "response": "ignored", "user": "u"}).owner == "org-7"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-03-01T09:30:00"}, "time zone"),
        ({"time": None}, "time"),
        ({"owner": " "}, "owner"),
        ({"consent": "true"}, "consent"),
        ({"model": 3}, "model"),
        ({"messages": [{"role": "user", "content": "x"}]}, "or both"),
        ({"prompt": "\n"}, "empty"),
        ({"prompt": "half \ud800 a pair"}, "surrogate"),
        ({"use_case": "poetry"}, "use_case"),
    ],
)
def test_a_request_that_is_none(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_submission("api", {**REQUEST, **change})


@pytest.mark.parametrize("key", ["time", "owner", "model", "consent", "prompt"])
def test_a_request_lacks_nothing(key: str) -> None:
    with pytest.raises(BadRow, match=key):
        read_submission("api", {name: value for name, value in REQUEST.items() if name != key})


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("api", {**REQUEST, "consent": False}),
        ("prompts", {"text": "x", "consent": "False"}),
        ("prompts", {"text": "x", "consent": 0}),
    ],
)
def test_no_consent(format: str, row: dict[str, Any]) -> None:
    with pytest.raises(LeftOut, match="consent"):
        read_submission(format, row)


def test_samples_are_readable() -> None:
    for name, intake in INTAKES.items():
        assert read_submission(name, json.loads(intake.sample)).owner


def test_keys_that_change_the_meaning_are_turns_or_refused() -> None:
    row = {"system": "Be brief.", "history": [["Hi", "Hello"]], "prompt": "6 x 7?", "owner": "ada"}
    turns = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "6 x 7?"))
    assert read_submission("prompts", row).turns == turns
    assert read_submission("prompts", {"text": "Which?", "context": "a b"}).turns == (("user", "Which?\n\na b\n"),)
    assert read_submission("api", {**REQUEST, **row}).turns == turns
    chat = {"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}
    assert read_submission("chat", chat).turns == (("system", "Be brief."), ("user", "Hi"))
    for format, good in (("prompts", row), ("chat", chat), ("api", REQUEST)):
        with pytest.raises(BadRow, match="'tools' may change"):
            read_submission(format, {**good, "tools": "calculator"})
        assert read_submission(format, {**good, "mood": "good", "request_id": 3}).notes == ["times the key 'mood' was not used"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"owner": "o" * 201}, "owner has 201"), ({"language": "x" * 21}, "language has"), ({"prompt": "a\0"}, "a NUL character")],
)
def test_what_no_database_takes_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_submission("prompts", {"prompt": "x", **change})


@pytest.mark.parametrize("consent", ["nope", "n", 2, [], "unknown"])
def test_consent_that_is_neither_yes_nor_no_is_refused(consent: object) -> None:
    with pytest.raises(BadRow, match="'consent' should be true or false"):
        read_submission("prompts", {"prompt": "Name a river.", "consent": consent})
