"""Alternatives to PPO in a project: switched on in heedful.toml, trained on the same data, compared in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.align.small_project import COMMON, read_rows, run, set_config
from tests.align.test_left_out import new_project, rank_and_align, stages_of, weights, write_base_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from heedful.statistics import best_of_n
from heedful.training.alternatives_config import Alternative

ON = """
[alternatives]
run = ["dpo", "expert_iteration", "cloning", "best_of_n"]
"""
SMALL_ALTERNATIVES = f"""
[dpo]
batch_size = 4
learning_rate = 1e-3
{COMMON}
[expert_iteration]
rounds = 2
prompts = 8
samples = 6
batch_size = 4
learning_rate = 1e-2
{COMMON.replace("response_tokens = 8", "response_tokens = 24")}
[cloning]
batch_size = 4
learning_rate = 1e-2
{COMMON}
[best_of_n]
samples = 4
"""
NAMES: tuple[Alternative, ...] = ("dpo", "expert_iteration", "cloning", "best_of_n")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was aligned before anyone thought of alternatives."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    base = write_base_model(tmp_path_factory.mktemp("models") / "base")
    new_project(folder, base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL_ALTERNATIVES)
    run("align", folder)
    rank_and_align(folder)
    return folder


@pytest.fixture(scope="module")
def finished(before: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("with") / "mine"
    shutil.copytree(before, folder)
    with (folder / "heedful.toml").open("a") as file:
        file.write(ON)
    code, said = run("align", folder)
    assert code == 0, said
    return folder, json.loads((folder / "results.json").read_text()), said


def test_nothing_of_it_is_done_unless_it_is_asked_for(before: Path) -> None:
    assert not stages_of(before) & set(NAMES)
    results = json.loads((before / "results.json").read_text())
    assert "alternatives" not in results
    assert not set(results.get("left_out", {})) & set(NAMES)
    assert 'id="alternatives"' not in (before / "report.html").read_text()


def test_switching_them_on_trains_them_and_nothing_again_but_the_evaluation(
    finished: tuple[Path, dict[str, Any], str], before: Path
) -> None:
    folder, results, said = finished
    assert stages_of(folder) == stages_of(before) | set(NAMES)
    numbers = {path.name for path in (folder / "runs").iterdir() if path.is_dir()}
    assert {name for name in numbers if not name.endswith("-1")} == {"evaluate-2"}
    assert [row["model"] for row in results["alternatives"]["rows"]] == ["sft", "ppo", *NAMES]
    assert [model["label"] for model in results["models"]][-1] == "SFT, best of 4"
    for name in NAMES[:3]:
        assert f"KL of {name} from the SFT model" in said
        made = folder / "runs" / f"{name}-1" / "model"
        ours, sft = weights(made), weights(folder / "runs" / "sft-1" / "model")
        assert any(not np.array_equal(ours[key], sft[key]) for key in sft)
        AutoTokenizer.from_pretrained(made)


def test_lineage_knows_what_each_was_given(finished: tuple[Path, dict[str, Any], str]) -> None:
    runs = finished[0] / "runs"
    used = {name: json.loads((runs / f"{name}-1" / "used.json").read_text())["records"] for name in NAMES}
    splits = {name: {prompt.rstrip("0123456789") for prompt in used[name].get("prompts", [])} for name in NAMES}
    assert splits["best_of_n"] == {"test", "valid"}
    assert splits["expert_iteration"] == {"train", "valid"}
    assert set(used["dpo"]["rankings"]) == set(used["cloning"]["rankings"]) != set()


def test_best_of_n_is_the_estimate_from_its_stored_scores(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, results, _ = finished
    stage = folder / "runs" / "best_of_n-1"
    samples: dict[str, list[Any]] = {}
    for i in range(4):
        for row in read_rows(stage / f"samples-{i + 1}.jsonl"):
            samples.setdefault(row["prompt_id"], []).append(row)
    assert {len(rows) for rows in samples.values()} == {4}
    scores = {name: [row["reward"] for row in rows] for name, rows in samples.items()}
    chosen = {row["prompt_id"]: row["text"] for row in read_rows(stage / "responses.jsonl")}
    for name, rows in samples.items():
        best = max(rows, key=lambda row: row["reward"])
        assert chosen[name] == best["text"]
    points = results["alternatives"]["best_of_n"]
    assert [point["n"] for point in points] == [1, 2, 4]
    for point in points:
        estimate = best_of_n(scores, [point["n"]])[point["n"]]
        assert point["reward"] == pytest.approx(estimate.value, rel=1e-5)
        assert point["kl"] == pytest.approx(np.log(point["n"]) - (point["n"] - 1) / point["n"], abs=1e-5)
    mean = np.mean([np.mean(own) for own in scores.values()])
    largest = np.mean([max(own) for own in scores.values()])
    assert points[0]["reward"] == pytest.approx(mean, rel=1e-5)
    assert points[-1]["reward"] == pytest.approx(largest, rel=1e-5)
    (row,) = [row for row in results["alternatives"]["rows"] if row["model"] == "best_of_n"]
    assert row["answers_per_prompt"] == 4
    # The evaluation scores the same texts again.
    assert row["reward"] == pytest.approx(largest, abs=1e-3)


def test_the_kl_is_log_policy_over_sft_of_the_answers(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, results, _ = finished
    answers = [row for row in read_rows(folder / "runs" / "evaluate-2" / "responses.jsonl") if row["model"] == "dpo"]
    prompts = {row["id"]: row["text"] for row in read_rows(folder / "data" / "prompts.jsonl")}
    tokenizer = AutoTokenizer.from_pretrained(folder / "runs" / "dpo-1" / "model")
    found = []
    for name in ("dpo-1", "sft-1"):
        model = AutoModelForCausalLM.from_pretrained(folder / "runs" / name / "model")
        found.append([logprob(model, tokenizer, prompts[row["prompt_id"]], row) for row in answers])
    expected = np.mean(np.array(found[0]) - np.array(found[1]))
    (row,) = [row for row in results["alternatives"]["rows"] if row["model"] == "dpo"]
    assert row["kl"] == pytest.approx(expected, abs=1e-4)
    assert row["low"] <= row["kl"] <= row["high"]
    (sft,) = [row for row in results["alternatives"]["rows"] if row["model"] == "sft"]
    assert sft["generated_tokens"] == 0


def logprob(model: Any, tokenizer: Any, prompt: str, answer: dict[str, Any]) -> float:
    before = tokenizer(prompt + "\n").input_ids
    after = tokenizer(answer["text"]).input_ids + ([tokenizer.eos_token_id] if answer.get("finished", True) else [])
    import torch

    logits = model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return float(sum(logits[len(before) - 1 + i, token] for i, token in enumerate(after)))


def test_the_report_compares_them(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, results, _ = finished
    page = (folder / "report.html").read_text()
    assert "Alternatives on the same data" in page
    assert "SFT, best of 4" in page
    timings = {row["stage"]: row for row in json.loads((folder / "timings.json").read_text())["stages"]}
    assert all(timings[name]["processor_seconds"] > 0 for name in NAMES)
    generated = {row["model"]: row["generated_tokens"] for row in results["alternatives"]["rows"]}
    rounds = read_rows(folder / "runs" / "expert_iteration-1" / "metrics.jsonl")
    assert generated["expert_iteration"] == sum(row["generated_tokens"] for row in rounds) > 0
    ppo = read_rows(folder / "runs" / "ppo-1" / "metrics.jsonl")
    assert generated["ppo"] == round(sum(8 * row["length"] for row in ppo)) > 0
    assert generated["dpo"] == generated["cloning"] == 0


def test_policies_learn_from_the_weighted_reward_of_groups(before: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(before, folder)
    with (folder / "heedful.toml").open("a") as file:
        file.write('[reward_by_group]\nmembers = { one = ["zoe"] }\nweights = { one = 2.0 }\n')
    code, said = run("align", folder)
    assert (code, "the group 'one' of [reward_by_group] has no ranking" in said) == (2, True), said
    set_config(folder, '"zoe"', '"bob"')
    code, said = run("align", folder)
    assert code == 0, said
    again = {path.name for path in (folder / "runs").iterdir() if path.is_dir() and not path.name.endswith("-1")}
    assert again == {"reward_by_group-2", "ppo-2", "evaluate-2"}
    made = folder / "runs" / "reward_by_group-2"
    (group,) = json.loads((made / "groups.json").read_text())
    assert (group["group"], group["weight"]) == ("one", 2.0)
    assert group["own"] == group["combined"]  # one group is all there is
    assert group["comparisons"] > 0
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(made / "model")
    assert theirs.config.num_labels == 1
    fingerprint = json.loads((made / "stage.json").read_text())["fingerprint"]
    assert json.loads((folder / "runs" / "ppo-2" / "stage.json").read_text())["inputs"]["reward"] == fingerprint


def test_a_second_call_does_nothing_again_and_an_unknown_name_is_refused(
    finished: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(finished[0], folder)
    was = (folder / "results.json").read_bytes()
    code, said = run("align", folder)
    assert code == 0, said
    assert all(f"{name}: done before" in said for name in NAMES)
    assert (folder / "results.json").read_bytes() == was
    set_config(folder, 'run = ["dpo"', 'run = ["dppo"')
    code, said = run("align", folder)
    assert code == 2
    assert "dppo" in said
