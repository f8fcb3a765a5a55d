"""Odd but legal rows: each is read as it says, or refused with a reason; no reader ends in a traceback."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import DataError
from heedful.project.data_folder import Records
from heedful.project.files import DEEPEST, Row
from heedful.project.fitting_formats import draft_of, groups_of
from heedful.project.formats import FORMATS
from heedful.project.formats.rows import BadRow, SkippedRow
from heedful.project.importing import import_file

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
REPLIES = [
    {"role": "assistant", "text": "a", "rank": 0, "replies": [], "deleted": False},
    {"role": "assistant", "text": "b", "rank": 1, "synthetic": True, "model_name": "m", "replies": []},
]
ROOT = {
    "message_id": "t",
    "role": "prompter",
    "text": "q",
    "labels": {"spam": {"value": 0.0}},
    "user_id": "u",
    "replies": REPLIES,
}
FLAT = {"message_id": "m", "message_tree_id": "m", "parent_id": None, "role": "prompter", "text": "q", "rank": None}
AXES = {"info": {"article": "x"}, "worker": "w", "summary": {"text": "s", "policy": "p", "axes": {"overall": 6}}}
GOOD: dict[str, list[dict[str, Any]]] = {
    "oasst": [
        {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": ROOT},
        {**FLAT, "labels": {"name": ["spam"], "value": [0.0]}, "deleted": False, "review_result": True},
    ],
    "ultrafeedback": [{"instruction": "q", "completions": [{"model": "a", "response": "a", "overall_score": 9}]}],
    "nectar": [{"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": [{"answer": "a", "model": "a", "rank": 1}]}],
    "helpsteer": [
        {"prompt": "q", "response": "a", "helpfulness": 3},
        {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 2},
    ],
    "shp": [{"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}],
    "pku-saferlhf": [{"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1}],
    "summarize-from-feedback": [
        {"info": {"title": "t", "post": "p"}, "choice": 0, "summaries": [{"text": "a", "policy": "a"}, {"text": "b"}]},
        AXES,
    ],
    "hh-rlhf": [{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}],
    "trl-preference": [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {
            "prompt": [USER],
            "chosen": [ANSWER],
            "rejected": [{**ANSWER, "content": "b"}],
            "system": "s",
            "history": [["x", "y"]],
        },
    ],
    "alpaca": [{"instruction": "q", "input": "i", "output": "a", "chosen": "d", "rejected": "e", "user": "u", "label": True}],
    "tasks": [{"inputs": "q", "targets": "a"}, {"inputs_pretokenized": "q", "targets_pretokenized": "a", "inputs": [1]}],
    "dolly": [{"instruction": "q", "context": "c", "response": "a"}],
    "messages": [{"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}], "user": "m"}],
    "responses": [
        {"prompt": "q", "responses": ["a", "b"], "models": ["x", "y"], "ratings": [7, 2], "labeler": "x"},
        {"prompt": "q", "responses": [{"text": "a", "model": "x", "rank": 1}, {"text": "b", "rank": 2}]},
        {"prompt": "q", "response_1": "a", "response_2": "b", "rank_1": 1, "rank_2": 2},
    ],
    "heedful": [
        {"kind": "prompt", "id": "p", "turns": [{"role": "user", "text": "q"}], "user": "mia", "metadata": {"a": 1}},
        {
            "kind": "rating",
            "prompt_id": "p",
            "response_id": "r",
            "labeler": "l",
            "overall": 6,
            "flags": {"hallucination": False},
        },
        {
            "kind": "ranking",
            "prompt_id": "p",
            "prompt": "q",
            "responses": ["a"],
            "response_ids": ["r"],
            "ranks": [1],
            "labeler": "l",
        },
    ],
}
LABELS = [{"name": [[]], "value": [1]}, {"spam": "x"}, {"spam": {"value": 10**400}}, {"name": ["spam"], "value": 5}]
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "1",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"a": 1},
    ["x"],
    "\0",
    "\ud800",
    *LABELS,
]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*above, key))


def with_other(value: Any, place: tuple[Any, ...], other: object) -> Any:
    if not place:
        return other
    changed = copy.copy(value)
    changed[place[0]] = with_other(value[place[0]], place[1:], other)
    return changed


@pytest.mark.parametrize("format", FORMATS)
def test_every_part_of_a_row_may_be_anything(format: str) -> None:
    for good in GOOD[format]:
        assert draft_of(format, groups_of(format, [Row(1, value=good)])[0], None).records
        for place in places(good):
            for odd in ODD:
                with suppress(BadRow, SkippedRow):
                    for group in groups_of(format, [Row(1, value=with_other(good, place, odd))]):
                        draft_of(format, group, None)


def take(format: str, tmp_path: Path, name: str, content: bytes | str) -> tuple[Any, Records]:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    report = import_file(format, tmp_path / name, tmp_path / "data")
    return report, Records.load(tmp_path / "data")


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
QUESTION = {"instruction": "q", "output": "a"}


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("alpaca", {**QUESTION, "docs": ["The text."]}, "docs"),
        ("alpaca", {**QUESTION, "paragraphs": ["x"]}, "paragraphs"),
        ("alpaca", {**QUESTION, "schema": "x"}, "schema"),
        ("alpaca", {**QUESTION, "image_url": "x.png"}, "image_url"),
        ("alpaca", {**QUESTION, "has_image": True}, "has_image"),
        ("alpaca", {**QUESTION, "target_language": "French"}, "target_language"),
        ("alpaca", {**QUESTION, "label": 0}, "judged bad"),
        ("alpaca", {**QUESTION, "label": "False"}, "judged bad"),
        ("messages", {"messages": [{**USER, "images": ["a.png"]}, ANSWER]}, "'images' of a message"),
        ("messages", {"messages": [USER, {**ANSWER, "weight": 0}]}, "no model should learn"),
        ("messages", {"messages": [USER, {**ANSWER, "train": False}]}, "no model should learn"),
        ("messages", {"messages": [{"role": "user", "content": [{"text": "look", "image_url": "u"}]}, ANSWER]}, "content"),
        ("messages", {"messages": [{**USER, "value": "other"}, ANSWER]}, "both 'content' and 'value'"),
        ("messages", {"messages": [{**USER, "from": "gpt"}, ANSWER]}, "both 'role' and 'from'"),
        ("responses", {"prompt": "q", "responses": [{"message": "x"}, {"text": "b"}]}, "none of the keys text"),
        ("responses", {"prompt": "q", "responses": [{"text": "a", "preferred": True}, {"text": "b"}]}, "preferred"),
        ("responses", {"prompt": "q", "responses": [{"text": "a", "system": "s"}, "b"]}, "system"),
        ("responses", {"prompt": "q", "response_1": "a", "answer_1": "z"}, "answer_1"),
        ("oasst", {**FLAT, "deleted": "False"}, "deleted"),
        ("heedful", {"kind": "demonstration", "prompt_id": "p", "text": " ", "labeler": "l"}, "the answer is empty"),
        ("summarize-from-feedback", {**AXES, "summary": {"text": "s", "axes": {"overall": 6.5}}}, "6.5"),
    ],
)
def test_a_row_that_would_lose_its_meaning_is_refused(tmp_path: Path, format: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as refused:
        take(format, tmp_path, "in.jsonl", json.dumps(row))
    assert str(refused.value.where).endswith("in.jsonl:1")


@pytest.mark.parametrize(
    ("format", "row", "note"),
    [
        ("alpaca", {**QUESTION, "num_turns": 3}, "'num_turns'"),
        ("alpaca", {**QUESTION, "label": "positive"}, "'label'"),
        ("messages", {"messages": [USER, {**ANSWER, "reasoning_content": "hm"}]}, "'reasoning_content' of a message"),
        ("responses", {"prompt": "q", "responses": [{"text": "a", "finish_reason": "length"}, "b"]}, "'finish_reason'"),
    ],
)
def test_other_keys_are_counted(tmp_path: Path, format: str, row: dict[str, Any], note: str) -> None:
    report, _ = take(format, tmp_path, "in.jsonl", json.dumps(row))
    assert report.accepted == 1
    assert [count for name, count in report.notes.items() if f"{note} was not used" in name] == [1]


@pytest.mark.parametrize(
    ("row", "prompt", "responses"),
    [
        (
            {"prompt": "What is 2+2?", "chosen": "What is 2+2? It is 4.", "rejected": "What is 2+2? 5."},
            "What is 2+2?",
            {" It is 4.", " 5."},
        ),
        (
            {
                "prompt": "\n\nHuman: Q?\n\nAssistant:",
                "chosen": "Human: Q?\n\nAssistant: y",
                "rejected": "Human: Q?\n\nAssistant: n",
            },
            "\n\nHuman: Q?\n\nAssistant:",
            {" y", " n"},
        ),
        ({"prompt": "Hello", "chosen": "Hello, you!", "rejected": "Hello there"}, "Hello", {"Hello, you!", "Hello there"}),
    ],
)
def test_texts_that_repeat_the_prompt_are_read_once(
    tmp_path: Path, row: dict[str, Any], prompt: str, responses: set[str]
) -> None:
    report, records = take("trl-preference", tmp_path, "in.jsonl", json.dumps(row))
    assert [p.text for p in records.prompts.values()] == [prompt]
    assert {r.text for r in records.responses.values()} == responses
    assert bool(report.notes) == (prompt != "Hello")


def test_a_key_that_is_twice_in_an_object_is_refused(tmp_path: Path) -> None:
    twice = '{"instruction": "q", "output": "a", "instruction": "r"}'
    report, _ = take("alpaca", tmp_path, "in.jsonl", json.dumps(QUESTION) + "\n" + twice)
    assert report.reasons == ["line 2: not JSON: the key 'instruction' is there twice in one object"]
    with pytest.raises(DataError, match="whole JSON array") as refused:
        take("alpaca", tmp_path, "in.json", f"[{twice}]")
    assert "twice" in str(refused.value.got)


def test_rows_that_are_nested_too_deep_are_refused(tmp_path: Path) -> None:
    def prompt(id: str, levels: int) -> str:
        return json.dumps({"kind": "prompt", "id": id, "text": id, "metadata": {"x": json.loads("[" * levels + "]" * levels)}})

    lines = [prompt("a", DEEPEST - 2), prompt("b", DEEPEST - 1), '{"text": ' + "[" * 90_000 + "]" * 90_000 + "}"]
    report, records = take("heedful", tmp_path, "in.jsonl", "\n".join(lines))
    assert list(records.prompts) == ["a"]
    assert report.reasons == [f"line {line}: lists and objects nested more than {DEEPEST} levels deep" for line in (2, 3)]
    report, _ = take("heedful", tmp_path, "in.json", f"[{lines[0]},\n{lines[1]}]")
    assert report.reasons == [f"line 2: lists and objects nested more than {DEEPEST} levels deep"]


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(json.dumps({**QUESTION, "n": n}) for n in range(999)).encode())
    with pytest.raises(DataError, match="cannot be read"):
        take("alpaca", tmp_path, "in.jsonl.gz", packed[:14] + b"\xff\xff\xff" + packed[17:])


# ---------------------------------------------------------------------------------------------------- tables


def test_cells_may_hold_chat_messages(tmp_path: Path) -> None:
    def cell(text: str) -> str:
        return '"' + json.dumps([{"role": "assistant", "content": text}]).replace('"', '""') + '"'

    _, records = take("trl-preference", tmp_path, "in.csv", f"prompt,chosen,rejected\nq,{cell('a')},{cell('b')}\n")
    assert {r.text for r in records.responses.values()} == {"a", "b"}
    _, records = take("responses", tmp_path, "two.csv", 'prompt,outputs,scores\nr,"[""c"",""d""]","[1,2]"\n')
    assert {r.text for r in records.responses.values()} == {"a", "b", "c", "d"}


@pytest.mark.parametrize("cell", ["[{'role': 'assistant', 'content': 'a'}]", '[{""role"": ""assistant""'])
def test_messages_that_are_no_json_are_refused_and_not_taken_as_text(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match="the column 'chosen' starts like JSON but is not JSON"):
        take("trl-preference", tmp_path, "in.csv", f'prompt,chosen,rejected\nq,"{cell}",b\n')


@pytest.mark.parametrize(
    ("format", "content", "best"),
    [
        ("shp", "history,human_ref_A,human_ref_B,labels\nq,a,b,1\n", "a"),
        ("pku-saferlhf", "prompt,response_0,response_1,better_response_id\nq,a,b,1\n", "b"),
        ("helpsteer", "prompt,response_1,response_2,preference_strength\nq,a,b,-1\n", "a"),
    ],
)
def test_tables_hold_numbers_as_text(tmp_path: Path, format: str, content: str, best: str) -> None:
    _, records = take(format, tmp_path, "in.csv", content)
    (ranking,) = records.rankings.values()
    assert records.responses[ranking.response_ids[ranking.ranks.index(1)]].text == best


def parquet(table: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


def test_parquet_maps_are_objects_and_columns_have_different_names(tmp_path: Path) -> None:
    chat = pa.array([[list(USER.items()), list(ANSWER.items())]], type=pa.list_(pa.map_(pa.string(), pa.string())))
    _, records = take("messages", tmp_path, "in.parquet", parquet(pa.table({"messages": chat})))
    assert [d.text for d in records.demonstrations.values()] == ["a"]
    twice = pa.Table.from_arrays([pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], names=["instruction", "output", "output"])
    with pytest.raises(DataError, match="two columns of one name"):
        take("alpaca", tmp_path, "two.parquet", parquet(twice))


# ---------------------------------------------------------------------------------------------------- message trees


def test_whole_ranks_may_be_written_with_a_point(tmp_path: Path) -> None:
    replies = [{**reply, "rank": float(reply["rank"])} for reply in REPLIES]
    _, records = take("oasst", tmp_path, "in.jsonl", json.dumps({"prompt": {**ROOT, "replies": replies}}))
    (ranking,) = records.rankings.values()
    assert sorted(ranking.ranks) == [1, 2]
    assert all(type(rank) is int for rank in ranking.ranks)


def test_messages_that_reply_to_each_other_are_not_lost(tmp_path: Path) -> None:
    circle = [
        {**FLAT, "message_id": id, "parent_id": parent, "role": role}
        for id, parent, role in (("a", "b", "assistant"), ("b", "a", "prompter"))
    ]
    with pytest.raises(DataError, match="in a circle"):
        take("oasst", tmp_path, "in.jsonl", "\n".join(map(json.dumps, [FLAT, *circle])))


def test_a_row_of_responses_is_no_empty_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a response should be text") as refused:
        take("responses", tmp_path, "in.jsonl", json.dumps({"prompt": "q", "responses": ["a", None], "ranks": [1, None]}))
    assert "heedful" not in str(refused.value.next_step).split(":")[0]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_an_empty_file_holds_no_rows(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        take("auto", tmp_path, name, "")
