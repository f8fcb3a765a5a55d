"""Refusals that data configure: what is declined, what it changes, and what it leaves as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.align.small_project import read_rows, run, set_config, write_base_model, write_rows
from tests.align.test_alternatives import SMALL_ALTERNATIVES
from tests.align.test_left_out import new_project, rank_and_align

from heedful.align.refusal_stages import compared
from heedful.project.data_folder import Records
from heedful.project.refusals import POLICY, apart, refusals_in
from heedful.records import Response

POLICY_FILE = """
[medical]
covers = "Prompts that begin with w1"
answer = "w2 w3"

[legal]
covers = "Prompts that begin with w4"
answer = "w6 w6"
"""
ON = """
[refusals]
policy = "refusals.toml"
weights = { medical = 2.0, legal = 0 }

[alternatives]
run = ["dpo", "cloning", "expert_iteration"]
"""


def marked_rows() -> list[dict[str, Any]]:
    """Prompts that begin with w1 (medical) or w4 (legal) are declined; those that begin with w5 are near misses."""
    rng = np.random.default_rng(3)
    made: list[dict[str, Any]] = []
    for split, number in (("train", 16), ("valid", 4), ("test", 6)):
        for i in range(number):
            for first, mark in (
                ("w1", {"decline": "medical"}),
                ("w4", {"decline": "legal"}),
                ("w5", {"do_not_decline": "medical"}),
            ):
                words = " ".join([first, *(f"w{n}" for n in rng.integers(8, 60, 1 + i % 3))])
                name = f"{first}-{split}{i}"
                prompt = {"kind": "prompt", "id": name, "text": words, "split": split, "user": f"r-{split}-{i % 3}"}
                made.append({**prompt, "metadata": mark})
                if first == "w5" and i % 2:
                    made.append({"kind": "demonstration", "prompt_id": name, "text": "w5 w7", "labeler": "ann"})
    return made


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was aligned before anyone thought of refusals; it trains long enough to learn its few answers."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    base = write_base_model(tmp_path_factory.mktemp("models") / "base")
    new_project(folder, base)
    for table in ("[sft]", "[initial_policy]"):
        set_config(folder, f"{table}\nepochs = 2", f"{table}\nepochs = 16")
    set_config(folder, "[reward]\nbatch_size", "[reward]\nepochs = 4\nbatch_size")
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL_ALTERNATIVES)
    code, said = run("align", folder)
    assert code == 0, said
    rank_and_align(folder)
    return folder


@pytest.fixture(scope="module")
def marked(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with marked prompts and a policy that nothing names yet."""
    folder = copied(before, tmp_path_factory.mktemp("marked"))
    code, said = run("import", "heedful", write_rows(folder / "marked.jsonl", marked_rows()), "--project", folder)
    assert code == 0, said
    (folder / "refusals.toml").write_text(POLICY_FILE)
    return folder


@pytest.fixture(scope="module")
def finished(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = copied(marked, tmp_path_factory.mktemp("on"), ON)
    code, said = run("align", folder)
    assert code == 0, said
    return folder, results_of(folder), said


def copied(project: Path, where: Path, more: str = "") -> Path:
    folder = where / "mine"
    shutil.copytree(project, folder)
    with (folder / "heedful.toml").open("a") as file:
        file.write(more)
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def runs_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "runs").iterdir() if path.is_dir()}


def rates(results: dict[str, Any], model: str) -> dict[tuple[str, str], float]:
    rows = [row for row in results["refusals"]["rates"] if row["model"] == model]
    return {(row["category"], row["should"]): row["declined"]["value"] for row in rows}


# -------------------------------------------------------------------------------------------------------- what is learned


def test_a_model_declines_its_category_and_nothing_else(finished: tuple[Path, dict[str, Any], str]) -> None:
    _, results, _ = finished
    for model in ("sft", "ppo"):
        found = rates(results, model)
        assert found["medical", "decline"] >= 0.8, (model, found)
        assert found["medical", "answer"] <= 0.2, (model, found)
        assert found["legal", "decline"] <= 0.2, (model, found)  # off
        assert found["all other prompts", "answer"] <= 0.5, (model, found)  # of six prompts, of which no mark speaks
    assert rates(results, "base")["medical", "decline"] <= 0.1
    (share,) = [row["declined"] for row in results["refusals"]["rates"] if (row["model"], row["category"]) == ("sft", "legal")]
    assert share["count"] == 10  # of valid and test
    assert share["low"] <= share["value"] < share["high"]


def test_the_reward_model_prefers_refusals_where_they_are_due(finished: tuple[Path, dict[str, Any], str]) -> None:
    from heedful.model.inference import reward_model_for_inference
    from heedful.model.loading import load_tokenizer
    from heedful.model.readout import score

    made = finished[0] / "runs" / "reward-2" / "model"
    model, tokenizer = reward_model_for_inference(made, "float32"), load_tokenizer(made)

    def difference(first: str) -> float:
        """Reward of the refusal minus that of an answer, over the held-out prompts that begin with a word."""
        prompts = [row["text"] for row in marked_rows() if row["kind"] == "prompt" and row["id"].startswith(f"{first}-test")]
        rewards = [
            score(
                model,
                [tokenizer(prompt + "\n").input_ids for prompt in prompts],
                [[*tokenizer(text).input_ids, tokenizer.eos_token_id]] * len(prompts),
            ).mean()
            for text in ("w2 w3", f"{first} w7")
        ]
        return float(rewards[0] - rewards[1])

    assert difference("w1") > 0 > difference("w5")


# ------------------------------------------------------------------------------------------------------------ off is off


def test_marked_prompts_change_nothing_until_a_policy_is_named(before: Path, marked: Path, tmp_path: Path) -> None:
    folder = copied(marked, tmp_path)
    code, said = run("align", folder)
    assert code == 0, said
    assert runs_of(folder) == runs_of(before)
    assert (folder / "results.json").read_bytes() == (before / "results.json").read_bytes()
    code, said = run("status", folder)
    assert "78 prompts are marked for refusals and not used: [refusals] in heedful.toml names no policy" in said


def test_with_weight_0_everything_is_measured_and_nothing_trained(before: Path, marked: Path, tmp_path: Path) -> None:
    off = '[refusals]\npolicy = "refusals.toml"\nweights = { medical = 0, legal = 0 }\n'
    folder = copied(marked, tmp_path, off)
    code, said = run("align", folder)
    assert code == 0, said
    assert runs_of(folder) == runs_of(before) | {"refusal_check-1"}
    results = results_of(folder)
    assert rates(results, "sft")["medical", "decline"] <= 0.1
    assert [category["weight"] for category in results.pop("refusals")["categories"]] == [0, 0]
    assert results == results_of(before)
    code, said = run("status", folder)
    assert "refusals of medical: off; marked decline: 16 to train on, 10 held out; marked do_not_decline: 16 to" in said, said


def test_a_new_run_without_the_category_makes_the_same_bytes(before: Path, marked: Path, tmp_path: Path) -> None:
    folder = copied(marked, tmp_path, '[refusals]\npolicy = "refusals.toml"\nweights = { medical = 0, legal = 0 }\n')
    shutil.rmtree(folder / "runs" / "sft-1")
    code, said = run("align", folder)
    assert code == 0, said
    weights = "runs/sft-1/model/model.safetensors"
    assert (folder / weights).read_bytes() == (before / weights).read_bytes()


# ----------------------------------------------------------------------------------------------------------- what it does


def test_what_learns_refusals_is_done_again_and_nothing_else(finished: tuple[Path, dict[str, Any], str], before: Path) -> None:
    folder, _, said = finished
    new = runs_of(folder) - runs_of(before)
    again = {"sft-2", "reward-2", "choose_sft-2", "choose_prefix-2", "ppo-2", "evaluate-2"}
    first = {"refusal_comparisons-1", "refusal_check-1", "dpo-1", "cloning-1", "expert_iteration-1"}
    assert new == again | first
    assert "refusals of medical, weight 2: 24 used" in said
    assert said.count("comparisons with refusals:") == 3  # reward, dpo, cloning
    assert said.count("prompts marked for refusals: 32 used") == 2  # ppo, expert iteration


def test_another_phrase_measures_anew_and_trains_nothing(finished: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder = copied(finished[0], tmp_path)
    was = runs_of(folder)
    (folder / "refusals.toml").write_text(POLICY_FILE.replace('answer = "w6 w6"', 'answer = "w6 w6"\nphrases = ["w6", "w7"]'))
    (folder / "data" / "demonstrations.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in read_rows(folder / "data" / "demonstrations.jsonl")
            if not row["prompt_id"].startswith("w5-test")
        )
    )
    code, said = run("align", folder)
    assert (code, "declines, but its prompt must be answered" in said) == (2, True), said  # w5 w7
    (folder / "refusals.toml").write_text(POLICY_FILE.replace('answer = "w6 w6"', 'answer = "w6 w6"\nphrases = ["w6", "w2"]'))
    code, said = run("align", folder)
    assert code == 0, said
    assert runs_of(folder) == was


def test_comparisons_are_of_marked_training_prompts_alone(finished: tuple[Path, dict[str, Any], str]) -> None:
    runs = finished[0] / "runs"
    texts = {row["id"]: row["text"] for row in read_rows(runs / "refusal_comparisons-1" / "responses.jsonl")}
    rankings = read_rows(runs / "refusal_comparisons-1" / "rankings.jsonl")
    asked = {row["prompt_id"] for row in read_rows(runs / "refusal_check-1" / "responses.jsonl")}
    evaluated = {row["prompt_id"] for row in read_rows(runs / "evaluate-2" / "responses.jsonl")}
    compared_prompts = {row["prompt_id"] for row in rankings}
    assert compared_prompts <= {f"{first}-train{i}" for first in ("w1", "w5") for i in range(16)}
    assert asked == {
        f"{first}-{split}{i}" for first in ("w1", "w4", "w5") for split, n in (("valid", 4), ("test", 6)) for i in range(n)
    }
    assert not evaluated & (asked | compared_prompts)
    assert {row["labeler"] for row in rankings} == {POLICY}
    for row in rankings:
        best = texts[row["response_ids"][row["ranks"].index(1)]]
        assert (best == "w2 w3") == row["prompt_id"].startswith("w1")
    ranked = read_rows(finished[0] / "tasks" / "ranking.jsonl")
    assert not {row["prompt_id"] for row in ranked} & {row["id"] for row in marked_rows() if "id" in row}


def test_lineage_knows_which_marked_prompts_a_stage_was_given(finished: tuple[Path, dict[str, Any], str]) -> None:
    runs = finished[0] / "runs"

    def given(name: str) -> set[str]:
        used = json.loads((runs / name / "used.json").read_text())["records"]["prompts"]
        return {prompt.rstrip("0123456789") for prompt in used if prompt.startswith("w")}

    assert given("sft-2") == given("ppo-2") == given("reward-2") == given("dpo-1") == {"w1-train", "w5-train"}
    assert given("refusal_check-1") == {f"{first}-{split}" for first in ("w1", "w4", "w5") for split in ("valid", "test")}
    assert given("evaluate-2") == set()
    parents = json.loads((runs / "reward-2" / "used.json").read_text())["parents"]
    assert parents["compared"] == "refusal_comparisons-1"


def test_the_report_shows_what_each_model_declines(finished: tuple[Path, dict[str, Any], str], before: Path) -> None:
    page = (finished[0] / "report.html").read_text()
    assert 'id="refusals"' in page
    assert "legal: Prompts that begin with w4 (off: no model learned it)" in page
    assert 'id="refusals"' not in (before / "report.html").read_text()


def test_refusals_of_simulated_labelers_are_refused(marked: Path, tmp_path: Path) -> None:
    folder = copied(marked, tmp_path, '[refusals]\npolicy = "refusals.toml"\n')
    set_config(folder, 'labelers = "files"', 'labelers = "simulated"')
    code, said = run("align", folder)
    assert (code, "simulated labelers have no refusals" in said) == (2, True), said


# ---------------------------------------------------------------------------------------------------------- comparisons


def test_a_refusal_wins_where_it_is_due_and_loses_where_it_is_not(marked: Path) -> None:
    records = apart(Records.load(marked / "data"))[1]
    refusals = refusals_in(marked / "refusals.toml", {}, records, data=marked / "data", config=marked)

    def answers(prompt_id: str, *texts: str) -> list[Response]:
        return [Response(id=f"a{i}", prompt_id=prompt_id, text=text, model="sft") for i, text in enumerate(texts)]

    prompt = records.prompts["w1-train0"]
    ((responses, rankings),) = compared(refusals, [(prompt, answers(prompt.id, "w9", "w2 w3", "w6 w6", "w2 w3 w9"))])
    assert [one.text for one in responses] == ["w2 w3", "w9", "w2 w3 w9"]  # w6 w6 is the other category's refusal
    assert [(one.response_ids[1], one.ranks) for one in rankings] == [("a0", (1, 2)), ("a3", (1, 2))]
    prompt = records.prompts["w5-train1"]
    ((responses, rankings),) = compared(refusals, [(prompt, answers(prompt.id, "w2 w3"))])
    assert [one.text for one in responses] == ["w2 w3", "w5 w7"]
    assert [one.ranks for one in rankings] == [(2, 1)]
    assert compared(refusals, [(records.prompts["w5-train0"], answers("w5-train0", "w2 w3"))]) == [([], [])]
