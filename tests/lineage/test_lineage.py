"""Lineage both ways, and forgetting an owner, in a small project that was aligned with people."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.small_project import read_rows, run
from tests.lineage.whole_project import HELD_OUT, OWNER, build, copied, flow_further, holding

from heedful.lineage.run_graph import runs_of
from heedful.lineage.tracing import model_lineage, use_of
from heedful.project.data_folder import Records
from heedful.project.outputs import check_outputs
from heedful.project.project import Project
from heedful.project.runs import stage_state


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return copied(finished, tmp_path)


def lineage(project: Path, name: str, *more: str) -> dict[str, Any]:
    code, said = run("lineage", name, "--project", project, "--json", *more)
    assert code == 0, said
    return json.loads(said)


def test_from_a_model_to_all_that_it_was_made_from(project: Path) -> None:
    found = lineage(project, "ppo_ptx")
    rows = {row["run"]: row for row in found["runs"]}
    assert list(rows)[-1] == "ppo_ptx-1"
    assert set(rows) == {"sft-1", "collect-1", "reward-1", "initial_policy-1", "ppo_ptx-1"}
    assert rows["reward-1"]["parents"] == ["sft-1", "collect-1"]
    assert rows["sft-1"]["inputs"]["base_model"]["path"].endswith("/base")
    assert rows["ppo_ptx-1"]["config"]["episodes"] == 32
    records = Records.load(project / "data")
    rankings = read_rows(project / "runs" / "collect-1" / "rankings.jsonl")
    demonstrations = list(records.demonstrations.values())
    assert found["data"]["demonstrations"]["count"] == len(demonstrations)
    assert found["data"]["rankings"]["count"] == len(rankings)
    assert found["data"]["rankings"]["by_source"] == {"labeling database": len(rankings)}
    by_labeler = {name: sum(row["labeler"] == name for row in rankings) for name in ("ada", "ben")}
    assert found["labelers"] == {
        "ann": {"demonstrations": len(demonstrations)},
        **{name: {"rankings": count, "group": "training"} for name, count in by_labeler.items()},
    }
    assert found["instructions"]["demonstrate"] == {"unknown": len(demonstrations)}
    assert sum(found["instructions"]["rank"].values()) == len(rankings)
    (code,) = found["code"]
    assert (len(code["sources"]), found["unknown"]) == (16, [])


def test_the_tree_names_every_run_and_labeler(project: Path) -> None:
    code, said = run("lineage", project / "runs" / "ppo_ptx-1" / "model", "--project", project)
    assert code == 0
    for words in ("sft-1: ended", "was given", "base model: /", "ada: ", "training group", "heedful 0.", "rankings ("):
        assert words in said


def test_a_folder_of_the_project_needs_no_option(project: Path) -> None:
    """The project's own folder stands for its current policy, as in `heedful release PROJECT`."""
    for folder, made in (
        (project, "ppo_ptx-1"),
        (project / "runs" / "reward-1", "reward-1"),
        (project / "runs" / "sft-1" / "model", "sft-1"),
    ):
        code, said = run("lineage", folder, "--json")
        assert code == 0, said
        assert json.loads(said)["model"] == made


def test_a_project_without_a_policy_says_so(project: Path) -> None:
    for run_folder in (project / "runs").glob("ppo*"):
        shutil.rmtree(run_folder)
    for ended in (project / "runs").glob("round-*.json"):
        ended.unlink()
    code, said = run("lineage", project)
    assert code == 2
    assert "this project has no policy yet" in said


def test_a_copy_keeps_the_time_at_which_a_run_ended(project: Path) -> None:
    ended = {row["run"]: row["ended"] for row in lineage(project, "ppo_ptx")["runs"]}
    for name in ended:
        os.utime(project / "runs" / name / "stage.json", (0, 0))
    assert {row["run"]: row["ended"] for row in lineage(project, "ppo_ptx")["runs"]} == ended
    state = stage_state(project / "runs" / "sft-1")
    del state["ended"]  # as an older version left it
    (project / "runs" / "sft-1" / "stage.json").write_text(json.dumps(state))
    os.utime(project / "runs" / "sft-1" / "stage.json", (0, 0))
    assert lineage(project, "sft")["runs"][0]["ended"] == "1970-01-01T00:00:00+00:00"


def test_from_a_record_an_owner_and_a_ranking_to_the_models(project: Path) -> None:
    untrained = lineage(project, f"{HELD_OUT}-0")
    assert (untrained["given_to"], untrained["models"]) == (["evaluate-1"], [])
    demonstrated = lineage(project, f"{OWNER}-1")
    assert {"sft-1", "initial_policy-1"} <= set(demonstrated["given_to"])
    assert "ppo-1" not in demonstrated["given_to"]  # the policy answers prompts without a demonstration
    assert {"ppo-1", "reward-1", "evaluate-1"} <= set(demonstrated["built_on"])
    ranking = read_rows(project / "runs" / "collect-1" / "rankings.jsonl")[0]
    ranked = lineage(project, ranking["id"])
    assert set(ranked["given_to"]) == {"collect-1", "reward-1"}
    assert set(ranked["models"]) == {"reward-1", "ppo-1", "ppo_ptx-1"}
    shown = lineage(project, ranking["response_ids"][0])
    assert set(shown["given_to"]) == {"collect-1", "reward-1"}
    owner = lineage(project, OWNER)
    assert (owner["kind"], "8 prompts in the project's files" in owner["notes"]) == ("owner", True)
    assert set(owner["models"]) == {"sft-1", "initial_policy-1", "reward-1", "ppo-1", "ppo_ptx-1"}


def test_a_vote_and_a_record_that_no_run_was_given(project: Path) -> None:
    view = flow_further(project)
    vote = lineage(project, f"vote-{view.turns[0].key}")
    assert (vote["kind"], vote["given_to"], vote["notes"][0]) == ("vote", [], "the vote says: answer")
    code, said = run("lineage", view.turns[0].key, "--project", project)
    assert (code, "no run was given it" in said) == (0, True)
    owner = lineage(project, OWNER, "--kind", "owner")
    assert "1 turns of the playground in the labeling database" in owner["notes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ppo_ptx-l",), "did you mean 'ppo_ptx-1'?"),
        (("ppo_ptx", "--kind", "owner"), "expected: an owner"),
        (("ppo_ptx", "--project", "/nowhere"), "no heedful.toml"),
    ],
)
def test_mistakes(project: Path, arguments: tuple[str, ...], message: str) -> None:
    code, said = run("lineage", *(("--project", project) if "--project" not in arguments else ()), *arguments)
    assert (code, "Traceback" in said) == (2, False)
    assert message in " ".join(said.split())


def test_runs_of_an_older_version_say_what_their_fingerprints_tell(project: Path) -> None:
    new = lineage(project, "ppo_ptx")
    for path in project.glob("runs/*/used.json"):
        path.unlink()
    found = model_lineage(Project.load(project), "ppo_ptx-1")
    rows = {row["run"]: row for row in found["runs"]}
    assert set(rows) == {"sft-1", "reward-1", "initial_policy-1", "ppo_ptx-1"}
    assert found["data"]["demonstrations"] == new["data"]["demonstrations"]
    assert found["data"]["rankings"] == new["data"]["rankings"]
    assert (found["labelers"], found["code"]) == (new["labelers"], [])
    assert found["unknown"] == ["ppo_ptx-1: which records it was given (a run of an older version)"]
    use = use_of(Project.load(project), {f"{OWNER}-0"})
    assert set(use.doubtful) >= {"ppo-1", "ppo_ptx-1"}
    # A label came since: the digests fit no longer, and nothing is made up.
    with (project / "data" / "demonstrations.jsonl").open("a") as file:
        file.write(json.dumps({"id": "late", "prompt_id": "train0", "text": "w1", "labeler": "ann"}) + "\n")
    assert len(model_lineage(Project.load(project), "ppo_ptx-1")["unknown"]) == 3


def test_a_damaged_record_of_use_is_an_error(project: Path) -> None:
    (project / "runs" / "sft-1" / "used.json").write_text("{")
    code, said = run("lineage", "ppo_ptx", "--project", project)
    assert (code, "used.json" in said, "Traceback" in said) == (2, True, False)


def test_a_page_and_a_card_of_the_same_project(project: Path) -> None:
    code, said = run("evaluate", "page", project)
    assert code == 0, said
    page = (project / "comparison.html").read_text()
    assert page.count('<details class="transcript">') == 6
    assert "Win rates against sft" in page
    code, said = run("evaluate", "page", project, "--judged", "people-7")
    assert (code, "there is no evaluation to compare models by" in said) == (2, True)
    code, said = run("card", project, "--output", project / "card.md")
    assert code == 0, said
    assert "win rate against sft" in (project / "card.md").read_text()


# Whether report.html holds them depends on the few-shot prefix that the reward model chose.
EVERYWHERE = {
    "data/prompts.jsonl",
    "data/demonstrations.jsonl",
    "labels.sqlite",
    "backups/monday.sqlite",
    "labels.jsonl",
    "sft.jsonl",
    "messages.jsonl.gz",
    "all.jsonl",
    "notes.csv",
    "results.json",
    "runs/benchmarks-1/items/squad.jsonl",
    "runs/choose_prefix-1/prefix.json",
    "runs/ppo-1/.samples.jsonl.0a1b.tmp",
    "runs/ppo-1/samples.jsonl",
    "runs/ppo_ptx-1/samples.jsonl",
}


def test_nothing_of_a_forgotten_owner_is_left_in_any_byte(project: Path) -> None:
    flow_further(project)
    before = holding(project)
    assert before >= EVERYWHERE, EVERYWHERE - before
    others = Records.load(project / "data")
    code, said = run("prompts", "forget", OWNER, "--project", project)
    assert code == 0, said
    assert holding(project) == set()
    # What cannot be erased is named, and what it would take.
    for name in ("sft-1", "initial_policy-1", "reward-1", "ppo-1", "ppo_ptx-1"):
        assert str(project / "runs" / name / "model") in said
    assert "--retrain lets the next `heedful align` train them again" in said
    # Others' records are whole, and finished stages are not taken for damaged ones.
    records = Records.load(project / "data")
    assert set(records.prompts) == {id for id, prompt in others.prompts.items() if prompt.user != OWNER}
    for run_ in runs_of(project / "runs").values():
        check_outputs(run_.stage, run_.folder, stage_state(run_.folder))
    assert "w3" in (project / "runs" / "benchmarks-1" / "items" / "squad.jsonl").read_text()
    assert "w3,2" in (project / "notes.csv").read_text()
    assert lineage(project, "ppo_ptx")["data"]["prompts"]["count"] < len(others.prompts)


def test_nothing_of_an_owner_whose_prompts_were_evaluated_on_is_left(project: Path) -> None:
    before = holding(project, HELD_OUT)
    assert before >= {"data/prompts.jsonl", "labels.sqlite", "results.json", "report.html"}
    rewards = json.loads((project / "runs" / "evaluate-1" / "rewards.json").read_text())
    number = len(json.loads((project / "results.json").read_text())["transcripts"])
    code, said = run("prompts", "forget", HELD_OUT, "--project", project)
    assert code == 0, said
    assert holding(project, HELD_OUT) == set()
    assert "evaluate-1" in said
    assert str(project / "runs" / "sft-1" / "model") not in said  # it never saw them
    left = {row["id"] for row in read_rows(project / "runs" / "evaluate-1" / "responses.jsonl")}
    assert set(json.loads((project / "runs" / "evaluate-1" / "rewards.json").read_text())) == left < set(rewards)
    transcripts = json.loads((project / "results.json").read_text())["transcripts"]
    assert 0 < len(transcripts) < number
    assert "[erased]" not in (project / "report.html").read_text()
    assert run("align", project)[0] == 0


def test_the_next_align_trains_again_what_was_marked(project: Path) -> None:
    stages = {path.parent.name for path in project.glob("runs/*/stage.json")}
    code, said = run("prompts", "forget", OWNER, "--project", project, "--retrain")
    assert code == 0, said
    assert "the next `heedful align` trains them again" in said
    assert "to be retrained" in run("lineage", "train1", "--project", project)[1]
    code, said = run("align", project)
    assert code == 0, said
    new = {path.parent.name for path in project.glob("runs/*/stage.json")} - stages
    assert {"sft-2", "initial_policy-2", "reward-2", "ppo-2", "ppo_ptx-2", "evaluate-2"} <= new
    assert "collect-2" not in new  # what people said of others' prompts stays
    assert holding(project) == set()
    found = lineage(project, "ppo_ptx")
    # The outputs that people ranked were the old model's: that stays true.
    assert [row["run"] for row in found["runs"] if row.get("to_retrain")] == ["sft-1"]
    assert {"sft-2", "reward-2", "ppo_ptx-2"} <= {row["run"] for row in found["runs"]}
    assert OWNER not in json.dumps(found)
