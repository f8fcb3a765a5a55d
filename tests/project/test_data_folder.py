"""Records as JSON: today's format, the first one, and the digests that finished stages go by."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from heedful.conversation import Turn, turns_of
from heedful.errors import DataError
from heedful.project.data_folder import Kind, Record, first_format, record_from_json, record_to_json
from heedful.project.fingerprints import digest_of_records
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response

DIALOGUE = "Be brief.\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a hill.\n\nAssistant:"

# Lines as commit 437d29f wrote them, each with the digest that its digest_of_records gave.
FIRST: list[tuple[Kind, dict[str, Any], str]] = [
    (
        "prompt",
        {"id": "p", "text": "Name a river.\n", "source": "imported", "user": "u1", "split": "train"},
        "04155689829b9b94",
    ),
    (
        "prompt",
        {
            "id": "q",
            "text": DIALOGUE,
            "use_case": "chat",
            "source": "customer",
            "split": "valid",
            "metadata": {"n": [1, 2]},
        },
        "57edfc91fad63c7f",
    ),
    ("response", {"id": "a", "prompt_id": "p", "text": "The Rhine.", "model": "human", "finished": True}, "26a81345c336ee96"),
    ("response", {"id": "b", "prompt_id": "q", "text": " Ben Nevis.", "finished": False}, "67c3f4a1beca1b51"),
    (
        "demonstration",
        {"id": "e", "prompt_id": "q", "text": " Skiddaw.", "labeler": "eva", "metadata": {"task": "evaluation"}},
        "7b4b58bc6f5c4456",
    ),
    ("demonstration", {"id": "d", "prompt_id": "q", "text": " Arthur's Seat.", "labeler": "anna"}, "7ded6801237d402b"),
    (
        "ranking",
        {
            "id": "k",
            "prompt_id": "p",
            "response_ids": ["a"],
            "ranks": [1],
            "labeler": "anna",
            "metadata": {"task": "evaluation"},
        },
        "d451766db8b4d51d",
    ),
    (
        "ranking",
        {
            "id": "l",
            "prompt_id": "q",
            "response_ids": ["b"],
            "ranks": [1],
            "labeler": "bea",
            "metadata": {"task": "ranking", "batch": 3},
        },
        "881a36ba559f052e",
    ),
    (
        "rating",
        {
            "id": "g",
            "prompt_id": "p",
            "response_id": "a",
            "labeler": "anna",
            "overall": 7,
            "flags": {"fails_task": False},
            "metadata": {"task": "evaluation"},
        },
        "a62169a81a7e02fb",
    ),
]


@pytest.mark.parametrize(("kind", "row", "digest"), FIRST)
def test_older_records_keep_their_digests(kind: Kind, row: dict[str, Any], digest: str) -> None:
    record = record_from_json(kind, row)
    again = record_from_json(kind, json.loads(json.dumps(record_to_json(record))))
    assert again == record
    assert digest_of_records([record]) == digest_of_records([again]) == digest
    assert first_format(record) == row


def test_older_records_keep_their_digest_together() -> None:
    assert digest_of_records([record_from_json(kind, row) for kind, row, _ in FIRST]) == "1b4ab7efdce175dd"


def test_older_records_say_the_phase_in_their_metadata() -> None:
    phases = {row["id"]: record_from_json(kind, row) for kind, row, _ in FIRST if "metadata" in row and kind != "prompt"}
    assert {id: record.phase for id, record in phases.items()} == {  # type: ignore[union-attr]
        "e": "evaluation",
        "k": "evaluation",
        "l": "training",
        "g": "evaluation",
    }


SAID = Response(id="r", prompt_id="p", text="x")
SHOWN = Demonstration(id="d", prompt_id="p", text="x", labeler="l")
RANKED = Ranking(id="k", prompt_id="p", response_ids=("r",), ranks=(1,), labeler="l")
RATED = Rating(id="g", prompt_id="p", response_id="r", labeler="l", overall=3)


@pytest.mark.parametrize("record", [SAID, SHOWN, RANKED, RATED])
def test_what_is_for_evaluation_has_another_digest_than_what_trains(record: Any) -> None:
    assert digest_of_records([record]) != digest_of_records([replace(record, phase="evaluation")])


def test_turns_that_make_the_same_text_have_digests_of_their_own() -> None:
    turns = (Turn("system", "Be brief."), Turn("user", "Hi"))
    ways: list[Record] = [Prompt(id="p", turns=turns), Prompt(id="p", turns=turns_of("Be brief.\n\nHi\n"))]
    assert ways[0].text == ways[1].text  # type: ignore[union-attr]
    assert digest_of_records(ways[:1]) != digest_of_records(ways[1:])


@pytest.mark.parametrize(
    "turns",
    [
        turns_of("Name a river.\n"),
        turns_of(DIALOGUE),
        (Turn("user", DIALOGUE),),
        (Turn("system", "Be brief."), Turn("user", "Hi")),
        (Turn("user", "    x = 1"), Turn("assistant", "  Go on."), Turn("tool", "12\n"), Turn("user", "Hi")),
    ],
)
def test_turns_are_the_same_after_a_trip_through_json(turns: tuple[Turn, ...]) -> None:
    prompt = Prompt(id="p", turns=turns)
    assert record_from_json("prompt", json.loads(json.dumps(record_to_json(prompt)))) == prompt


def test_a_record_that_names_two_phases_is_refused() -> None:
    row = record_to_json(RANKED) | {"phase": "training", "metadata": {"task": "evaluation"}}
    with pytest.raises(DataError, match="names two phases") as caught:
        record_from_json("ranking", row, where="rankings.jsonl:3")
    assert caught.value.where == "rankings.jsonl:3"
