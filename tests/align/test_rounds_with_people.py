"""A second round with people: prompts, edits and votes of the playground, rankings in the database, a decision with reasons."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest
from tests.align.small_project import (
    SMALL,
    read_rows,
    rows,
    run,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from tests.align.test_people import database_in, ids_in, label
from tests.evaluate.benchmarks.data_sets import write_data_sets
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import answer_all, begin, compare

from heedful.labeling.usage import blind_votes, consent, feedback
from heedful.project.data_folder import Records
from heedful.project.ended_rounds import current_policy, ended_rounds
from heedful.project.owners import owner_key

ROUNDS = """
[rounds]
prompts = 4
validation_prompts = 1
benchmarks = { rte = 100.0, "drop.few-shot" = 100 }
"""
TRAINERS = {"ada": "training", "ben": "training"}
"""They rank for training; held-out labelers judge the policies."""


def say(project: Path, what: str) -> None:
    """A user of the playground votes, edits, says no to training, and takes back."""
    with database_in(project) as database, database.write() as connection:
        me = add_person(connection, "user-of-the-playground", role="researcher")
        voted = compare(connection, me, "w7 w7", "w9", text="w10 w11 w12")
        blind_votes.vote(connection, voted.turns[0].id, me, choice="answer", position=1)
        edited = answer_all(connection, begin(connection, me, "w13 w14"), "w8")
        feedback.keep(connection, edited.turns[0].answers[0].id, me, kind="edit", text="w13 w7")
        answer_all(connection, begin(connection, me, "w50 w51 w52 w53", training=False), "w1")
        back = answer_all(connection, begin(connection, me, "w54 w55 w56"), "w2")
        consent.withdraw_turn(connection, back.turns[0].id, me)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project through two rounds, and what each command said."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    prompts, demonstrations = rows()
    said: dict[str, str] = {}

    def step(name: str, *arguments: object) -> None:
        code, said[name] = run(*arguments)
        assert code == 0, said[name]

    run("init", folder, "--base-model", write_base_model(tmp_path_factory.mktemp("models") / "base"))
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL.replace("prompts = 6\n", "prompts = 6\nlabelers_per_prompt = 1\n") + ROUNDS)
    write_pretraining_text(folder)
    owner_key(folder / "data")  # written once; with these shares every new owner's prompts train
    owners = json.loads((folder / "data" / "owners.json").read_text())
    (folder / "data" / "owners.json").write_text(json.dumps({**owners, "shares": [1.0, 0.0, 0.0]}))
    run("import", "heedful", write_rows(folder / "in.jsonl", [*prompts, *demonstrations]), "--project", folder)
    step("first ask", "align", folder)
    label(folder, TRAINERS)
    step("first", "align", folder)
    shutil.copytree(folder, folder.with_name("after round 1"))
    new = [{**row, "id": f"late-{row['id']}", "text": f"w9 {row['text']}"} for row in prompts if row["id"].endswith("1")]
    run("import", "heedful", write_rows(folder / "late.jsonl", new), "--project", folder)
    say(folder, "everything")
    code, said["no data"] = run("align", folder, "--round", 2)
    assert code == 2
    write_data_sets(folder / "data" / "benchmarks", rows=4)
    step("ask", "align", folder, "--round", 2)
    step("status while labelers rank", "status", folder)
    assert label(folder, {"cem": "training", "dan": "training"}) == 5
    step("train", "align", folder)
    late = [{**new[0], "id": "too late", "text": "w20 w21 w22"}]
    run("import", "heedful", write_rows(folder / "too-late.jsonl", late), "--project", folder)
    step("status while labelers judge", "status", folder)
    config = (folder / "heedful.toml").read_text()  # after the round has begun, its rule is not what heedful.toml says now
    (folder / "heedful.toml").write_text(config.replace('benchmarks = { rte = 100.0, "drop.few-shot" = 100 }', ""))
    label(folder, {"eva": "held_out", "fay": "held_out"}, count=12)
    step("decide", "align", folder)
    step("status", "status", folder)
    return folder, said


def records_at(project: Path) -> Records:
    return Records.load(project / "data")


def test_the_first_round_keeps_its_runs_and_results(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    before = folder.with_name("after round 1")
    first, second = (json.loads((one / "results.json").read_text()) for one in (before, folder))
    assert {key: value for key, value in second.items() if key != "rounds"} == first
    names = {path.name for path in (before / "runs").iterdir() if path.is_dir()}
    for name in names:
        assert (folder / "runs" / name / "stage.json").read_bytes() == (before / "runs" / name / "stage.json").read_bytes()
    assert {path.name for path in (folder / "runs").iterdir() if path.is_dir()} - names == {
        f"{name}_2-1"
        for name in ("prompts", "collect", "initial_policy", "reward", "policy", "benchmarks", "compare", "decide")
    }
    assert "round 1" not in said["first"]


def test_public_benchmarks_are_in_the_decision_the_status_and_the_report(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    assert "there are no data for" in said["no data"]
    assert str(folder / "data" / "benchmarks") in said["no data"]
    assert json.loads((folder / "runs" / "prompts_2-1" / "rule.json").read_text())["benchmarks"] == {
        "rte": 100.0,
        "drop.few-shot": 100.0,
    }
    (decided,) = json.loads((folder / "results.json").read_text())["rounds"]
    for model in ("current", "policy"):
        answers = folder / "runs" / "benchmarks_2-1" / "answers" / model / "rte.zero-shot.jsonl"
        assert len(answers.read_text().splitlines()) == 4
    assert [(row["name"], row["metric"], row["allowed"]) for row in decided["benchmarks"]] == [
        ("drop.few-shot", "f1", 100.0),
        ("rte", "accuracy", 100.0),
    ]
    for row in decided["benchmarks"]:
        assert row["drop"] == pytest.approx(100 * (row["against"] - row["policy"]))
        assert row["drop_low"] - 1e-9 <= row["drop"] <= row["drop_high"] + 1e-9
        (reason,) = [reason for reason in decided["reasons"] if reason.startswith(f"{row['name']}:")]
        assert reason in html.unescape((folder / "report.html").read_text())
    assert f"benchmarks, in points: drop.few-shot {-decided['benchmarks'][0]['drop']:+.1f}, rte" in said["status"]
    assert "benchmarks_2" in said["status"]


def test_what_was_said_in_the_playground_trains_and_what_was_refused_does_not(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    records = records_at(folder)
    texts = {prompt.text.strip(): prompt for prompt in records.prompts.values()}
    assert {"w10 w11 w12", "w13 w14"} <= texts.keys()
    assert not {"w50 w51 w52 w53", "w54 w55 w56"} & texts.keys()
    assert texts["w10 w11 w12"].split == "train"
    (voted,) = [one for one in records.rankings.values() if one.prompt_id == texts["w10 w11 w12"].id]
    assert [records.responses[i].text for i in voted.response_ids] == ["w7 w7", "w9"]
    assert (voted.ranks, voted.metadata["source"], voted.phase) == ((2, 1), "playground", "training")
    (edit,) = [one for one in records.demonstrations.values() if one.prompt_id == texts["w13 w14"].id]
    assert edit.text == "w13 w7"
    assert "prompts of the playground and the API: 2 new" in said["ask"]
    assert "since round 1:" in said["ask"]
    # The vote and the edit's ranking train the reward model besides the rankings of both rounds.
    asked = len(ids_in(folder, "collect-1/rankings.jsonl")), len(ids_in(folder, "collect_2-1/rankings.jsonl"))
    assert asked == (13, 5)
    assert "rankings: 16 used" in said["train"]  # 10 + 4 of training prompts, and 2 of the playground


def test_new_prompts_are_ranked_first_and_by_nobody_who_ranked_them_before(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    assert "waiting for rankings: 5 ranking tasks wait" in said["ask"]
    assert "next: 5 ranking tasks wait" in said["status while labelers rank"]
    assert "round 2: begun" in said["status while labelers rank"]
    responses = read_rows(folder / "runs" / "collect_2-1" / "responses.jsonl")
    prompts = {row["prompt_id"] for row in responses}
    before = {row["prompt_id"] for row in read_rows(folder / "runs" / "collect-1" / "responses.jsonl")}
    assert len(prompts) == 5
    assert not prompts & before
    known = json.loads((folder / "runs" / "prompts_2-1" / "known.json").read_text())
    assert prompts <= set(known["prompts"])
    assert {str(row["model"]) for row in responses} >= {"sft", "ppo_ptx"}
    assert not [row["id"] for row in responses if "sft" in row["id"] or "ppo" in row["id"]]


def test_what_arrives_while_a_round_is_done_waits_for_the_next(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    assert "too late" in records_at(folder).prompts
    known = json.loads((folder / "runs" / "prompts_2-1" / "known.json").read_text())
    assert "too late" not in known["prompts"]
    assert f"1 prompts have arrived since: `heedful align {folder} --round 3`" in said["status"]


def test_held_out_labelers_decide_and_the_reasons_are_written_down(journey: tuple[Path, dict[str, str]]) -> None:
    folder, said = journey
    assert "waiting for evaluation by people: 6 evaluation tasks wait" in said["train"]
    (decided,) = json.loads((folder / "results.json").read_text())["rounds"]
    assert (decided["policy"], decided["against"]) == ("policy_2", "ppo_ptx")
    assert (decided["num_prompts"], decided["num_judgements"]) == (6, 6)
    judged = read_rows(folder / "runs" / "compare_2-1" / "rankings.jsonl")
    responses = {row["id"]: row for row in read_rows(folder / "runs" / "compare_2-1" / "responses.jsonl")}
    outcomes: list[float] = []
    for row in judged:
        rank = {responses[i]["model"]: rank for i, rank in zip(row["response_ids"], row["ranks"], strict=True)}
        outcomes.append(0.5 + 0.5 * (rank["policy_2"] < rank["ppo_ptx"]) - 0.5 * (rank["policy_2"] > rank["ppo_ptx"]))
    assert decided["win_rate"] == pytest.approx(sum(outcomes) / 6)
    assert decided["accepted"] == (decided["low"] > 0.5)
    assert any("the rule asks for an interval above 50 %" in reason for reason in decided["reasons"])
    assert decided["reasons"][-1].startswith("rte: accuracy ")
    result = "accepted" if decided["accepted"] else "rejected"
    assert f"round 2: policy_2 {result}" in said["status"]
    assert decided["reasons"][0] in (folder / "report.html").read_text().replace("&#39;", "'")
    policy = current_policy(folder / "runs")
    assert policy is not None
    assert policy[0] == decided["current"] == ("policy_2" if decided["accepted"] else "ppo_ptx")
    assert (policy[1] / "config.json").is_file()
    assert len(ended_rounds(folder / "runs")) == 2


def test_the_rule_is_that_of_the_rounds_beginning(journey: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(journey[0], tmp_path / "mine"))
    config = folder / "heedful.toml"
    config.write_text(config.read_text() + "largest_drop = 50.0\nconfidence = 0.5\n")
    code, said = run("align", folder)
    assert code == 0, said
    (decided,) = json.loads((folder / "results.json").read_text())["rounds"]
    assert (decided["confidence"], decided["largest_drop"]) == (0.95, 2.0)
    assert json.loads((folder / "runs" / "prompts_2-1" / "rule.json").read_text())["beyond_chance"] is True
    assert (folder / "results.json").read_bytes() == (journey[0] / "results.json").read_bytes()
    assert said.count("done before") == 8
