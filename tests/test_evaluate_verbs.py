"""``heedful evaluate score | votes | power``: from files to numbers, without torch; mistakes exit with 2 and one message."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from sqlalchemy import update
from tests.align.small_project import run
from tests.labeling.labeling import add_person, add_ranking_tasks, rank_answer
from tests.quick import takes_less_than
from tests.test_cli import light

from heedful.cli.evaluate_verbs import EvaluateScore
from heedful.evaluate.scoring import METRICS
from heedful.evaluate.votes import Vote, votes_from_table
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import response
from heedful.labeling.exchange.labels import exported_records
from heedful.labeling.queue import leases
from heedful.project.files import write_jsonl
from heedful.project.importing import import_file
from heedful.project.project import init_project
from heedful.statistics import (
    VarianceShares,
    bradley_terry,
    prompts_needed,
    relative_difference,
    study_power,
    style_difference,
    two_way_win_rate,
)

PUBLISHED = """\
,model_type,prompt_type,context,ref_text,sample
0,gpt,zeroshot,Q: which?,It's oil|the oil,The Oil.
1,gpt,fewshot,Q: which?,It's oil|the oil,big oil
2,gpt,zeroshot,Q: when?,Not in background.,Not in background.
3,gpt,fewshot,Q: when?,Not in background.,background
4,sft,zeroshot,Q: which?,It's oil|the oil,coal
"""
"""The columns of samples that a laboratory published, with texts of our own."""


def file(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def numbers(folder: Path, *arguments: object) -> Any:
    code, said = run("evaluate", *arguments, "--json", folder / "numbers.json")
    assert code == 0, said
    return json.loads((folder / "numbers.json").read_text())


# ------------------------------------------------------------------------------------------- score


def test_published_samples_need_no_column_map(tmp_path: Path) -> None:
    """By hand: "big oil" shares one of its two words with "oil": F1 = 2 * 1/2 * 1 / (3/2). "background" is no "no answer"."""
    path = file(tmp_path, "samples.csv", PUBLISHED)
    found = numbers(tmp_path, "score", "squad_v2", path)
    assert found["references"] == "max over alternatives"
    assert found["means"] == {}
    assert [(g["model_type"], g["prompt_type"], g["scored"]) for g in found["groups"]] == [
        ("gpt", "zeroshot", 2),
        ("gpt", "fewshot", 2),
        ("sft", "zeroshot", 1),
    ]
    assert [g["means"]["exact"]["value"] for g in found["groups"]] == [1, 0, 0]
    assert [g["means"]["f1"]["value"] for g in found["groups"]] == pytest.approx([1, 1 / 3, 0], abs=1e-6)
    _, said = run("evaluate", "score", "squad_v2", path)
    assert "columns: response = sample; references = ref_text (split at '|'); groups = model_type, prompt_type" in said
    assert "no answer: 'Not in background.'" in said


def test_a_reference_that_says_no_answer_is_none(tmp_path: Path) -> None:
    """Without --no-answer it is a text like others, and "background" has F1 = 2 * 1 * 1/3 / (4/3) with it."""
    path = file(tmp_path, "samples.csv", "response,references\nbackground,Not in background.\n")
    assert numbers(tmp_path, "score", "squad_v2", path)["means"]["f1"]["value"] == 0
    text = numbers(tmp_path, "score", "squad_v2", path, "--no-answer", "nothing")
    assert text["means"]["f1"]["value"] == 0.5
    quac = file(tmp_path, "quac.csv", "response,references\nI don't know.,I don't know.\nI don't know.,Rome\n")
    assert numbers(tmp_path, "score", "quac", quac, "--no-answer", "I don't know.")["means"]["f1"]["value"] == 0.5


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"said": "b", "gold one": "a", "gold two": "b", "passage": str(i // 2)} for i in range(4)]
    path = file(tmp_path, "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    named = ("--column", "response=said", "--column", "references=gold one", "--column", "references=gold two")
    found = numbers(tmp_path, "score", "accuracy", path, *named, "--column", "cluster=passage")
    assert found["columns"]["references"] == ["gold one", "gold two"]
    assert found["columns"]["cluster"] == "passage"
    assert found["means"]["accuracy"]["value"] == 1


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [("any", "max over alternatives", 1), ("all", "all parts required", 0), ("first", "first", 0)],
)
def test_the_rule_for_references_is_in_the_output(tmp_path: Path, rule: str, name: str, value: int) -> None:
    path = file(tmp_path, "samples.jsonl", '{"response": "b", "references": ["a", "b"]}\n')
    found = numbers(tmp_path, "score", "accuracy", path, "--references", rule)
    assert (found["references"], found["means"]["accuracy"]["value"]) == (name, value)
    assert f"references: {name}" in run("evaluate", "score", "accuracy", path, "--references", rule)[1]


def test_rows_without_a_score_are_counted_and_named(tmp_path: Path) -> None:
    path = file(tmp_path, "samples.csv", PUBLISHED + "5,sft,zeroshot\n6,sft,zeroshot,Q: who?,,Ann\n")
    found = numbers(tmp_path, "score", "accuracy", path)
    assert (found["rows"], found["scored"]) == (7, 5)
    assert found["not_scored"] == [
        {"line": 7, "reason": "3 cells where the header has 6"},
        {"line": 8, "reason": "no reference"},
    ]
    assert [(g["scored"], g["not_scored"]) for g in found["groups"]] == [(2, 0), (2, 0), (1, 1)]
    _, said = run("evaluate", "score", "accuracy", path)
    assert "rows: 7, scored 5, not scored 2" in said
    assert "1 x no reference (line 8)" in said


def test_squad_answers_as_the_hub_has_them(tmp_path: Path) -> None:
    rows = [
        {"prediction": "Rome", "answers": {"text": ["Paris", "Rome"], "answer_start": [1, 2]}},
        {"prediction": "", "answers": {"text": [], "answer_start": []}},
    ]
    path = file(tmp_path, "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert numbers(tmp_path, "score", "squad_v2", path)["means"]["exact"]["value"] == 1


def test_bleu_is_of_each_groups_corpus(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    text = "the cat sat on the mat today"
    rows = [f"x,{text},{text}", f"y,no word of these is right,{text}", "y,,"]
    found = numbers(tmp_path, "score", "bleu", file(tmp_path, "s.csv", "model,sample,ref_text\n" + "\n".join(rows) + "\n"))
    assert [round(g["means"]["bleu"]["value"]) for g in found["groups"]] == [100, 0]
    assert [g["not_scored"] for g in found["groups"]] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["squad_v2", "none.csv"], ["there is no file none.csv"]),
        (["choice", "samples.csv"], ["no column that is known to hold the logprobs", "--column logprobs=NAME"]),
        (["drop", "samples.csv", "--column", "respnse=sample"], ["this names no column", "respnse=sample"]),
        (["drop", "samples.csv", "--column", "response=smaple"], ["has no column 'smaple'", "'sample'"]),
        (["drop", "samples.csv", "--column", "response=sample", "--column", "response=context"], ["named twice"]),
        (["entropy", "samples.csv", "--column", "logprobs=sample"], ["no row could be scored", "samples.csv:2"]),
        (["quac", "samples.csv", "--references", "all"], ["quac cannot join references in this way"]),
        (["squad", "samples.csv"], ["invalid choice"]),
    ],
)
def test_a_mistake_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], words: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    file(tmp_path, "samples.csv", PUBLISHED)
    code, said = run("evaluate", "score", *arguments)
    assert code == 2
    assert "Traceback" not in said
    for word in words:
        assert word in said


def test_a_hundred_thousand_rows_in_seconds(tmp_path: Path) -> None:
    rows = "".join(f"{i % 9},the {i % 97} red houses,red houses|{i % 89} houses\n" for i in range(100_000))
    path = file(tmp_path, "samples.csv", "model,sample,ref_text\n" + rows)
    assert takes_less_than(40, lambda: numbers(tmp_path, "score", "squad_v2", path))["scored"] == 100_000


def test_the_help_names_every_task() -> None:
    choices = get_args(get_type_hints(EvaluateScore)["task"])
    assert choices == METRICS


# ------------------------------------------------------------------------------------------- votes


LABELERS = ("ann", "bob", "eve", "joe", "kim")


def votes_table(folder: Path) -> Path:
    """x beats y in 7 of 10 votes with one tie more, y beats z in 6 of 10; the longer response wins every other vote."""
    rows = ["model_a,model_b,winner,labeler,prompt,length_a,length_b"]
    for number in range(50):
        winner = "tie" if number % 10 == 9 else "a" if number % 10 < 7 else "b"
        longer = "90,30" if (winner == "a") == (number % 4 != 0) else "30,90"
        rows.append(f"x,y,{winner},{LABELERS[number % 5]},{number // 5},{longer}")
        rows.append(f"y,z,{'a' if number % 10 < 6 else 'b'},{LABELERS[number % 5]},{number // 5},{longer}")
    return file(folder, "votes.csv", "\n".join(rows) + "\n")


def test_votes_of_a_table(tmp_path: Path) -> None:
    """Win rates by hand: (35 + 5 / 2) / 50 and 30 / 50. Intervals and scores are those of the functions."""
    path = votes_table(tmp_path)
    found = numbers(tmp_path, "votes", path)
    assert found["models"] == ["x", "y", "z"]
    assert [(p["model"], p["other"], p["votes"], p["ties"]) for p in found["pairs"]] == [("x", "y", 50, 5), ("y", "z", 50, 0)]
    rates = [p["win_rate"] for p in found["pairs"]]
    assert [rate["two_way"]["value"] for rate in rates] == [0.75, 0.6]
    votes = votes_from_table(path)
    expected = two_way_win_rate(*votes.against("x", "y"))
    for name in ("two_way", "by_prompt", "by_labeler", "naive"):
        assert rates[0][name]["low"] == pytest.approx(getattr(expected, name).low, rel=1e-5)
        assert rates[0][name]["high"] == pytest.approx(getattr(expected, name).high, rel=1e-5)
    scores = bradley_terry(*votes.columns()).scores
    for model in "xyz":
        assert found["scores"]["scores"][model]["value"] == pytest.approx(scores[model].value, rel=1e-5)
        assert found["scores"]["scores"][model]["high"] == pytest.approx(scores[model].high, rel=1e-5)
    _, said = run("evaluate", "votes", path)
    assert "100 votes (5 ties) on 3 models, 10 prompts, by 5 labelers" in said
    assert "75.0 %" in said
    assert "some pairs have only 5 labelers or 10 prompts" in said


def test_votes_against_a_baseline(tmp_path: Path) -> None:
    """z against y is y against z turned round, and x minus z is 0.75 - 0.4 where both were judged."""
    found = numbers(tmp_path, "votes", votes_table(tmp_path), "--baseline", "y")
    rates = [(p["model"], p["other"], p["win_rate"]["naive"]["value"]) for p in found["pairs"]]
    assert rates == [("x", "y", 0.75), ("z", "y", 0.4)]
    (difference,) = found["differences"]
    assert (difference["model"], difference["other"]) == ("x", "z")
    assert difference["two_way"]["value"] == pytest.approx(0.35, abs=1e-6)


def test_votes_at_equal_length(tmp_path: Path) -> None:
    path = votes_table(tmp_path)
    found = numbers(tmp_path, "votes", path, "--length-control")["at_equal_length"]
    votes = votes_from_table(path)
    lengths = [vote.lengths or (0, 0) for vote in votes.votes]
    length = relative_difference([a for a, _ in lengths], [b for _, b in lengths])
    expected = bradley_terry(*votes.columns(), covariates={"length": length})
    assert found["scores"]["x"]["value"] == pytest.approx(expected.scores["x"].value, rel=1e-5)
    assert found["effects"]["length"]["value"] == pytest.approx(expected.effects["length"].value, rel=1e-5)
    twice = expected.effects["length"].value * float(relative_difference([2], [1])[0])
    assert f"twice as long as the other: {twice:+.3f} log-odds" in run("evaluate", "votes", path, "--length-control")[1]


def test_votes_at_equal_style(tmp_path: Path) -> None:
    """x writes lists and y does not, in most rows; the effect of each feature is in the output, and z's score is as it was."""
    rows: list[dict[str, Any]] = []
    for number in range(60):
        text = "- one\n- two" if number % 3 else "plain words, and more of them"
        said = {"winner": "b" if number % 4 == 0 else "a", "labeler": LABELERS[number % 5], "prompt": number // 5}
        rows.append({"model_a": "x", "model_b": "y", "response_a": text, "response_b": "plain" * (1 + number % 7)} | said)
    path = file(tmp_path, "votes.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = numbers(tmp_path, "votes", path, "--style-control")
    votes = votes_from_table(path)
    covariates = {
        "length": style_difference([a for a, _ in map(lengths_of, votes.votes)], [b for _, b in map(lengths_of, votes.votes)]),
        "lists": style_difference([0 if n % 3 == 0 else 2 for n in range(60)], [0] * 60),
    }
    expected = bradley_terry(*votes.columns(), covariates=covariates)
    assert found["at_equal_length"] is None
    assert found["at_equal_style"]["scores"]["x"]["value"] == pytest.approx(expected.scores["x"].value, rel=1e-5)
    for name in ("length", "lists"):
        effect = found["at_equal_style"]["effects"][name]
        assert effect["value"] == pytest.approx(expected.effects[name].value, rel=1e-5)
        assert effect["low"] < effect["value"] < effect["high"]
    said = run("evaluate", "votes", path, "--style-control")[1]
    assert "the same at equal length and style of the responses:" in said
    assert re.search(r"uncontrolled\n", said)
    effect = re.escape(f"{expected.effects['lists'].value:+.3f}")
    assert re.search(rf"lists +{effect} ", said)


def lengths_of(vote: Vote) -> tuple[float, float]:
    assert vote.lengths is not None
    return vote.lengths


def test_scores_that_would_be_infinite_leave_the_win_rates(tmp_path: Path) -> None:
    path = file(tmp_path, "votes.csv", "winner,loser\nx,y\nx,y\ny,z\nz,y\n")
    found = numbers(tmp_path, "votes", path)
    assert found["scores"] is None
    assert any("some scores would be infinite" in note for note in found["notes"])
    assert [p["win_rate"]["two_way"]["value"] for p in found["pairs"]] == [1, 0.5]
    assert found["pairs"][0]["win_rate"]["two_way"]["low"] is None
    assert "n/a" in run("evaluate", "votes", path)[1]


RECORDS: list[dict[str, Any]] = [
    {"kind": "prompt", "id": "p", "text": "Why?"},
    *({"kind": "response", "id": f"r{model}", "prompt_id": "p", "text": model, "model": model} for model in "xyz"),
    *(
        {"kind": "ranking", "id": f"k-{who}", "prompt_id": "p", "response_ids": ["rx", "ry", "rz"], "ranks": ranks}
        | {"labeler": who, "phase": phase, "metadata": {"group": group, "batch": "one"}}
        for who, ranks, phase, group in (
            ("ann", [1, 2, 2], "evaluation", "held_out"),
            ("bob", [2, 1, 3], "evaluation", "training"),
            ("eve", [3, 2, 1], "training", "training"),
        )
    ),
    *(
        {"kind": "rating", "id": f"q-{id}", "prompt_id": "p", "response_id": id, "labeler": "ann", "overall": overall}
        | {"phase": "evaluation"}
        for id, overall in (("rx", 2), ("ry", 6))
    ),
]


def records_file(folder: Path) -> Path:
    return file(folder, "labels.jsonl", "".join(json.dumps(row) + "\n" for row in RECORDS))


def outcomes(found: Any) -> dict[tuple[str, str], float]:
    return {(p["model"], p["other"]): p["win_rate"]["naive"]["value"] for p in found["pairs"]}


def test_votes_of_exported_records(tmp_path: Path) -> None:
    """Ann: x before y and z, which are tied. Bob: y, x, z. Eve's ranking is for training."""
    path = records_file(tmp_path)
    found = numbers(tmp_path, "votes", path)
    assert outcomes(found) == {("x", "y"): 0.5, ("x", "z"): 1, ("y", "z"): 0.75}
    assert outcomes(numbers(tmp_path, "votes", path, "--phase", "training")) == {("z", "y"): 1, ("z", "x"): 1, ("y", "x"): 1}
    assert outcomes(numbers(tmp_path, "votes", path, "--group", "held_out"))["x", "y"] == 1
    assert outcomes(numbers(tmp_path, "votes", path, "--answers", "ratings")) == {("y", "x"): 1}
    assert any("rows of other kinds were not used: 1 prompt" in note for note in found["notes"])
    code, said = run("evaluate", "votes", path, "--batch", "two")
    assert (code, "2 of phase evaluation, group held_out" in said or "1 of phase evaluation, group held_out" in said) == (
        2,
        True,
    )


def test_votes_of_a_projects_own_file_find_the_responses_beside_it(tmp_path: Path) -> None:
    for kind in ("response", "ranking"):
        rows = [{key: value for key, value in row.items() if key != "kind"} for row in RECORDS if row["kind"] == kind]
        file(tmp_path, f"{kind}s.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "rankings.jsonl").open("a") as rankings:
        rankings.write('{"id": "broken", "response_ids": [], "ranks": []}\n')
    found = numbers(tmp_path, "votes", tmp_path / "rankings.jsonl")
    assert outcomes(found)["x", "y"] == 0.5
    assert [bad["where"] for bad in found["bad"]] == ["line 4"]


def test_votes_of_a_project_count_an_answer_once(tmp_path: Path) -> None:
    """The answers are in the labeling database, and imported into the records too."""
    folder = tmp_path / "mine"
    project = init_project(folder, base_model="x")
    database = open_database(folder / "labels.sqlite")
    with database.write() as connection:
        who = add_person(connection, "labeler-1", group="held_out")
        ids = add_ranking_tasks(connection, 1, phase="evaluation", outputs=3)
        for letter, model in zip("abc", "xyz", strict=True):
            connection.execute(update(response).where(response.c.id == f"first-0-{letter}").values(model=model))
        view = leases.claim(connection, who, now=0.0)
        assert view is not None
        answer = rank_answer([output.id for output in view.outputs])  # a best, then b and c tied
        leases.submit(connection, view.id, who, token=view.token, answer=answer, seconds_spent=1.0, now=0.0)
    expected = {("x", "y"): 1, ("x", "z"): 1, ("y", "z"): 0.5}
    assert len(ids) == 1
    assert outcomes(numbers(tmp_path, "votes", "--project", folder)) == expected
    with database.read() as connection:
        write_jsonl(tmp_path / "labels.jsonl", exported_records(connection))
    database.close()
    import_file("heedful", tmp_path / "labels.jsonl", project.data)
    found = numbers(tmp_path, "votes", "--project", folder)
    assert (outcomes(found), found["votes"]) == (expected, 3)
    (folder / "labels.sqlite").unlink()
    assert outcomes(numbers(tmp_path, "votes", "--project", folder)) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "votes come from one place"),
        (["votes.csv", "--project", "."], "votes come from one place"),
        (["none.csv"], "there is no file none.csv"),
        (["votes.csv", "--baseline", "w"], "the baseline has no votes"),
        (["votes.csv", "--confidence", "95"], "no such confidence"),
        (["votes.csv", "--column", "winner"], "this names no column"),
        (["votes.csv", "--phase", "training"], "is a table of votes"),
        (["labels.jsonl", "--column", "winner=labeler"], "holds records"),
        (["plain.csv", "--length-control"], "no vote has the lengths"),
        (["plain.csv", "--style-control"], "no vote has the markup"),
        (["votes.csv", "--style-control"], "no vote has the markup"),
        (["empty.csv"], "there are no votes"),
        (["--project", "nowhere"], "there is no labeling database"),
    ],
)
def test_votes_that_are_none_exit_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    votes_table(tmp_path)
    records_file(tmp_path)
    file(tmp_path, "plain.csv", "winner,loser\nx,y\ny,x\n")
    file(tmp_path, "empty.csv", "winner,loser\n")
    code, said = run("evaluate", "votes", *arguments)
    assert (code, words in said) == (2, True), said


# ------------------------------------------------------------------------------------------- power


def test_power_gives_the_fewest_prompts(tmp_path: Path) -> None:
    """The same as the function, whose power is measured in tests/statistics/test_power.py; and one prompt less is too few."""
    found = numbers(tmp_path, "power", "--difference", 0.1, "--labelers", 12, "--labelers-per-prompt", 2, "--tie-rate", 0.2)
    shares = VarianceShares(prompt=0.2, labeler=0.03)
    study = prompts_needed(0.6, shares, num_labelers=12, labelers_per_prompt=2, tie_rate=0.2)
    (answer,) = found["studies"]
    assert (answer["prompts"], answer["comparisons"]) == (study.num_prompts, 2 * study.num_prompts)
    fewer = study_power(0.6, shares, num_prompts=study.num_prompts - 1, num_labelers=12, labelers_per_prompt=2, tie_rate=0.2)
    assert fewer < 0.8 <= answer["power"]


def test_power_says_how_many_labelers_are_missing(tmp_path: Path) -> None:
    """With k labelers who differ, prompts without end leave the labelers' share / k of the variance."""
    (answer,) = numbers(tmp_path, "power", "--difference", 0.05, "--labelers", 5)["studies"]
    assert answer["prompts"] is None
    fewest = answer["fewest_labelers"]
    code, said = run("evaluate", "power", "--difference", 0.05, "--labelers", 5)
    assert (code, f"55 % needs at least {fewest} labelers" in said) == (0, True)
    for labelers, enough in ((fewest - 1, False), (fewest, True)):
        (again,) = numbers(tmp_path, "power", "--difference", 0.05, "--labelers", labelers)["studies"]
        assert (again["prompts"] is not None) == enough


def test_power_from_an_earlier_study(tmp_path: Path) -> None:
    """All of the variance is the labelers': each always says the same. A tie on one prompt of four."""
    verdict = {"ann": "model_a", "bob": "model_b", "eve": "model_a", "joe": "model_b"}
    rows = [f"x,y,{'tie' if p == 0 else v},{who},{p}" for p in range(4) for who, v in verdict.items()]
    path = file(tmp_path, "votes.csv", "model_a,model_b,winner,judge,prompt\nx,z,tie,ann,9\n" + "\n".join(rows) + "\n")
    found = numbers(tmp_path, "power", "--from", path, "--difference", 0.3)
    assert found["tie_rate"] == 0.25
    assert found["labeler_share"] > 0.5 > found["prompt_share"]
    assert numbers(tmp_path, "power", "--from", path, "--difference", 0.3, "--labeler-share", 0.01)["labeler_share"] == 0.01
    assert "from 16 votes on x against y in votes.csv" in run("evaluate", "power", "--from", path)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--difference", "0.6"], "not a difference from 50 %"),
        (["--power", "80"], "no such power"),
        (["--labelers", "1"], "no such study"),
        (["--prompt-share", "0.9", "--labeler-share", "0.2"], "not shares of a variance"),
        (["--from", "none.csv"], "there is no file none.csv"),
    ],
)
def test_a_study_that_is_none_exits_with_2(arguments: Sequence[str], words: str) -> None:
    code, said = run("evaluate", "power", *arguments)
    assert (code, words in said) == (2, True), said


# ------------------------------------------------------------------------------------------- without the extras


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = file(tmp_path, "samples.csv", PUBLISHED)
    for arguments in (("score", "squad_v2", path), ("votes", records_file(tmp_path)), ("power", "--difference", 0.1)):
        done = light("evaluate", *arguments)
        assert done.returncode == 0, done.stderr
