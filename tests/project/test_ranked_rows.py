"""Several responses in one row, and public data sets as they are distributed (rows after their cards, shortened)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import DataError
from heedful.project.data_folder import Records
from heedful.project.files import write_jsonl
from heedful.project.importing import ImportReport, import_file


def take(format: str, tmp_path: Path, rows: list[Any]) -> tuple[ImportReport, Records]:
    write_jsonl(tmp_path / "in.jsonl", rows)
    return read(format, tmp_path, "in.jsonl")


def read(format: str, tmp_path: Path, name: str) -> tuple[ImportReport, Records]:
    report = import_file(format, tmp_path / name, tmp_path / "data")
    assert report.read == report.accepted + report.merged + report.rejected + sum(report.skipped.values())
    return report, Records.load(tmp_path / "data")


def rankings(records: Records) -> list[tuple[str, dict[str, int], str]]:
    """Each ranking: the prompt's text, the rank of each response's text, the labeler."""
    return [
        (
            records.prompts[k.prompt_id].text,
            dict(sorted((records.responses[r].text, rank) for r, rank in zip(k.response_ids, k.ranks, strict=True))),
            k.labeler,
        )
        for k in records.rankings.values()
    ]


def models(records: Records) -> dict[str, str | None]:
    return {r.text: r.model for r in records.responses.values()}


# ---------------------------------------------------------------------------------------------------- our own form

THREE = {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "responses": ["a", "b ", "c"], "models": ["m1", "m2", "m3"], "ratings": [7, 3, 3]},
        {"prompt": "Q\n", "responses": ["a", "b", "c"], "models": ["m1", "m2", "m3"], "ranks": [0, 4, 4], "scores": [1, 2, 3]},
        {
            "question": "Q",
            "completions": [
                {"text": "a", "model": "m1", "score": 0.5},
                {"content": "b", "model": "m2", "score": -1},
                {"response": "c", "model": "m3", "rating": -1},
            ],
        },
        {
            "prompt": [{"role": "user", "content": "Q"}],
            "response_1": "a",
            "response_2": "b",
            "response_3": "c",
            "model_1": "m1",
            "model_2": "m2",
            "model_3": "m3",
            "rating_1": "7",
            "rating_2": "3.0",
            "rating_3": "3",
        },
    ],
)
def test_ranks_or_ratings_of_several_responses_become_a_ranking(tmp_path: Path, row: dict[str, Any]) -> None:
    report, records = take("responses", tmp_path, [row])
    assert rankings(records) == [("Q\n", THREE, "responses")]
    assert models(records) == {"a": "m1", "b": "m2", "c": "m3"}
    assert not report.notes


@pytest.mark.parametrize(("separator", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv"), ("\t", "a.csv")])
def test_a_table_with_a_column_for_each_response(tmp_path: Path, separator: str, name: str) -> None:
    lines = [
        ["prompt", "response_1", "response_2", "rank_1", "rank_2", "annotator"],
        ['"Q,;\tand\nmore"', "a", "b", "2", "1", "ann"],
    ]
    (tmp_path / name).write_text("\ufeff" + "\n".join(map(separator.join, lines)), encoding="utf-8")
    _, records = read("responses", tmp_path, name)
    assert rankings(records) == [("Q,;\tand\nmore\n", {"a": 2, "b": 1}, "ann")]


def test_a_table_with_lists_in_its_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,responses,ratings\nQ,"[""a"", ""b""]","[1, 5]"\n')
    _, records = read("responses", tmp_path, "a.csv")
    assert [ranks for _, ranks, _ in rankings(records)] == [{"a": 2, "b": 1}]


@pytest.mark.parametrize("format", ["responses", "alpaca"])
def test_parquet_is_read_for_every_format(tmp_path: Path, format: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra prompts")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra prompts")
    row = {"responses": ["a", "b"], "ranks": [1, 2]} if format == "responses" else {"response": "a"}
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "Q", **row}]), tmp_path / "a.parquet")
    report, _ = read(format, tmp_path, "a.parquet")
    assert report.accepted == 1


def test_responses_without_ranks_wait_for_labelers(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "responses": ["a", "b", "a"]},
        {"prompt": "R", "responses": ["a", "b", "c"], "ratings": [None, 1, 2]},
    ]
    report, records = take("responses", tmp_path, rows)
    assert len(records.responses) == 5
    assert [ranks for _, ranks, _ in rankings(records)] == [{"b": 2, "c": 1}]
    assert report.notes == {
        "responses with the same text as a better or equal one of the row, left out": 1,
        "prompts with fewer than two ranked or rated responses: no ranking": 1,
        "responses without a rank or rating beside others, kept outside the ranking": 1,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ratings": [1]}, "'ratings' is not a list of as many"),
        ({"ratings": [1, "good"]}, "a rating should be a number"),
        ({"ranks": [1, 10**400]}, "a rank should be a number"),
        ({"ranks": [True, 2]}, "a rank should be a number"),
        ({"responses": ["a", 3]}, "a response should be text"),
        ({"responses": "a"}, "should be a list"),
        ({"responses": []}, "no key 'responses'"),
        ({"winner": "a"}, "'winner' may say which response is better"),
        ({"prompt": ""}, "no key 'prompt'"),
        ({"passage": "x"}, "'passage' may change"),
    ],
)
def test_rows_of_responses_that_cannot_be_read(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good = {"prompt": "Q", "responses": ["a", "b"]}
    report, _ = take("responses", tmp_path, [good, {**good, **change}])
    assert reason in report.reasons[0]


# ---------------------------------------------------------------------------------------------------- public sets


def completion(text: str, score: float, model: str) -> dict[str, Any]:
    aspects = {"helpfulness": {"Rating": "4", "Rationale": "..."}}
    more = {"annotations": aspects, "custom_system_prompt": "Be honest.", "principle": "honesty", "critique": "fine"}
    return {**more, "model": model, "response": text, "overall_score": score, "fine-grained_score": 4.0}


def oasst_message(id: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    known = {"lang": "en", "review_count": 3, "review_result": True, "deleted": False, "synthetic": False, "model_name": None}
    labels = {"name": ["spam", "quality"], "value": [0.0, 0.9], "count": [3, 3]}
    more = {"labels": labels, "emojis": {"name": ["+1"], "count": [1]}, "tree_state": "ready_for_export", **more}
    return {"message_id": id, "parent_id": parent, "role": role, "text": text, **known, "message_tree_id": "t", **more}


HELPSTEER = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}
TURNS = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nQ"
DIALOGUE = "Human: Hi\n\nAssistant: Hello\n\nHuman: Q\n\nAssistant:"
PKU = {"prompt_source": "x", "response_0_source": "Alpaca-7B", "response_1_source": "Alpaca-7B", "is_response_0_safe": True}
SHP = {"post_id": "p", "domain": "askphysics_train", "upvote_ratio": 0.9, "c_root_id_A": "x", "c_root_id_B": "y", "score_A": 4}

SETS: list[tuple[str, list[dict[str, Any]], list[tuple[str, dict[str, int], str]]]] = [
    (
        "ultrafeedback",
        [
            {
                "source": "sharegpt",
                "instruction": "Q",
                "models": ["m", "n", "o"],
                "completions": [completion("a", 7.5, "m"), completion("b", 8, "n"), completion("c", 7.5, "o")],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
        [("Q\n", {"a": 2, "b": 1, "c": 2}, "gpt-4")],
    ),
    (
        "nectar",
        [
            {
                "prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Q\n\nAssistant: ",
                "answers": [{"answer": "a", "model": "m", "rank": 2.0}, {"answer": "b", "model": "n", "rank": 1.0}],
                "turns": 2,
                "num_responses": 2,
                "source": ["x"],
                "good_natured": True,
            }
        ],
        [(DIALOGUE, {"a": 2, "b": 1}, "gpt-4")],
    ),
    (
        "helpsteer",
        [
            {"prompt": "Q", "response": "a", "helpfulness": 3, **HELPSTEER},
            {"prompt": TURNS, "response": "x", "helpfulness": 1, **HELPSTEER},
            {"prompt": TURNS, "response": "y", "helpfulness": 1, **HELPSTEER},
            {"prompt": "Q", "response": "b", "helpfulness": 4, **HELPSTEER},
        ],
        [("Q\n", {"a": 2, "b": 1}, "helpsteer"), (DIALOGUE, {"x": 1, "y": 1}, "helpsteer")],
    ),
    (
        "helpsteer",
        [
            {
                "split": "train",
                "prompt": "Q",
                "response_1": "a",
                "response_2": "b",
                "preference_strength": -2,
                "preference_statement": "a is better",
                "preference_elaboration": "because",
                "three_most_similar_preferences": [],
                "all_preferences_unprocessed": [],
            }
        ],
        [("Q\n", {"a": 1, "b": 2}, "helpsteer")],
    ),
    (
        "helpsteer",
        [
            {
                "domain": "general",
                "language": "english",
                "context": [{"role": "user", "content": "Q"}],
                "response1": "a",
                "response2": "b",
                "overall_preference": strength,
                "individual_preference": [{"score": 1, "reasoning": "r", "feedback1": "f", "feedback2": "g"}],
            }
            for strength in (3, 0)
        ],
        [("Q\n", {"a": 2, "b": 1}, "helpsteer"), ("Q\n", {"a": 1, "b": 1}, "helpsteer")],
    ),
    (
        "shp",
        [{**SHP, "history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": label} for label in (1, 0)],
        [("Q\n", {"a": 1, "b": 2}, "shp"), ("Q\n", {"a": 2, "b": 1}, "shp")],
    ),
    (
        "pku-saferlhf",
        [{**PKU, "prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}],
        [("Q\n", {"a": 2, "b": 1}, "pku-saferlhf")],
    ),
    (
        "summarize-from-feedback",
        [
            {
                "info": {"id": "t3", "post": "I fell.", "title": "Help", "subreddit": "advice", "site": None, "article": None},
                "summaries": [{"text": " a", "policy": "sup1", "note": "n"}, {"text": " b", "policy": "ref", "note": "n"}],
                "choice": 1,
                "worker": "w1",
                "batch": "b",
                "extra": {"confidence": 2},
            }
        ],
        [("SUBREDDIT: r/advice\n\nTITLE: Help\n\nPOST: I fell.\n\nTL;DR:", {" a": 2, " b": 1}, "w1")],
    ),
    (
        "oasst",
        [
            oasst_message("b", "t", "assistant", "b", rank=0, user_id="u2"),
            oasst_message("t", None, "prompter", "Q", rank=None, user_id="u1", labels=None),
            oasst_message("a", "t", "assistant", "a", rank=1),
            oasst_message("s", "t", "assistant", "spam", rank=2, labels={"name": ["spam"], "value": [1.0], "count": [3]}),
        ],
        [("Q\n", {"a": 2, "b": 1}, "oasst")],
    ),
]


@pytest.mark.parametrize(("format", "rows", "expected"), SETS)
def test_public_sets_as_they_are_distributed(tmp_path: Path, format: str, rows: Any, expected: Any) -> None:
    report, records = take(format, tmp_path, rows)
    assert sorted(rankings(records), key=str) == sorted(expected, key=str)
    assert (report.accepted, report.rejected) == (len(rows), 0)
    assert not [note for note in report.notes if "not used" in note and "'split'" not in note]
    assert read("auto", tmp_path, "in.jsonl")[0].format == format


def test_a_rated_summary_is_a_rating(tmp_path: Path) -> None:
    row = {
        "info": {"id": "x", "post": None, "title": "T", "article": "News.", "site": "cnn"},
        "summary": {"text": " Short.", "policy": "sup1", "note": "", "axes": {"overall": 5, "accuracy": 7}},
        "worker": "w1",
        "batch": "b",
    }
    report, records = take("summarize-from-feedback", tmp_path, [row])
    assert [(r.overall, r.labeler) for r in records.ratings.values()] == [(5, "w1")]
    assert [p.text for p in records.prompts.values()] == ["News.\n\nTL;DR:"]
    assert report.accepted == 1


def test_a_group_of_which_one_row_is_bad_is_refused_as_a_whole(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "response": "a", "helpfulness": 3},
        {"prompt": "Q", "response": "b", "helpfulness": "high"},
        {"prompt": "R", "response": "a", "helpfulness": 3},
    ]
    report, _ = take("helpsteer", tmp_path, rows)
    assert [reason.split(":")[0] for reason in report.reasons] == ["line 1", "line 2"]


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "b"}, "trl-preference"),
        ({"instruction": "Q", "output": "a"}, "alpaca"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "messages"),
        ({"prompt": "Q", "responses": ["a", "b"], "ratings": [1, 2]}, "responses"),
        ({"kind": "prompt", "id": "p", "text": "Q"}, "heedful"),
        ({"chosen": "Human: Q\n\nAssistant: A", "rejected": "Human: Q\n\nAssistant: B"}, "hh-rlhf"),
    ],
)
def test_auto_finds_the_format(tmp_path: Path, row: dict[str, Any], format: str) -> None:
    report, _ = take("auto", tmp_path, [row])
    assert report.format == format


def test_auto_says_which_forms_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        take("auto", tmp_path, [{"foo": 1, "bar": 2}])
    assert "the keys foo, bar" in str(caught.value)
    assert all(name in str(caught.value.expected) for name in ("alpaca", "responses", "nectar"))
    assert json.loads(json.dumps(caught.value.got))


@pytest.mark.parametrize(
    "names",
    [
        ["response 1", "response 2", "rank 1", "rank 2"],
        ["Response 1", "Response 2", "Rank 1", "Rank 2"],
        ["response", "response_2", "rank_1", "rank_2"],
        ["Answer-1", "answer_2", "rank1", "RANK_2"],
        ["output_1", "completion_2", "rank_1", "rank 2"],
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_numbered_columns_as_people_write_them(tmp_path: Path, names: list[str], delimiter: str) -> None:
    (tmp_path / "rows.csv").write_text(
        delimiter.join(["prompt", *names]) + "\n" + delimiter.join(["P", "worse", "better", "2", "1"])
    )
    report = import_file("responses", tmp_path / "rows.csv", tmp_path / "data")
    assert (report.accepted, report.notes) == (1, {})
    records = Records.load(tmp_path / "data")
    (ranking,) = records.rankings.values()
    texts = {records.responses[id].text: rank for id, rank in zip(ranking.response_ids, ranking.ranks, strict=True)}
    assert texts == {"better": 1, "worse": 2}


def test_numbered_columns_that_mean_the_same_are_refused(tmp_path: Path) -> None:
    for names in (["response", "response_1"], ["response 1", "Response_1"], ["response_1", "rank_2"]):
        (tmp_path / "rows.csv").write_text(",".join(["prompt", *names]) + "\nP,a,1\n")
        with pytest.raises(DataError, match=r"which one is meant|no key 'response_2'"):
            import_file("responses", tmp_path / "rows.csv", tmp_path / "data")
