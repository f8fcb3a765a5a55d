"""Stages that a project does without: a base model that follows instructions already, nothing to choose, nothing to repeat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_project import (
    SMALL,
    copy_of,
    filled_in,
    read_rows,
    rows,
    run,
    set_config,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

CHAT = "{% for m in messages %}{{ m['content'] }} w63 {% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


def new_project(folder: Path, base: Path, *, demonstrations: bool = True, text: bool = False) -> Path:
    """Files for labelers; nothing trained."""
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    set_config(folder, 'labelers = "people"', 'labelers = "files"')
    prompts, answers = rows()
    given = [*prompts, *(answers if demonstrations else [])]
    code, said = run("import", "heedful", write_rows(folder / "in.jsonl", given), "--project", folder)
    assert code == 0, said
    if text:
        write_pretraining_text(folder)
    return folder


def rank_and_align(folder: Path) -> tuple[str, dict[str, Any]]:
    """Rank what waits, and go on to the report; what align said, and the results."""
    ranked = write_rows(folder / "ranked.jsonl", filled_in(folder / "tasks" / "ranking.jsonl", "bob"))
    assert run("import", "heedful", ranked, "--project", folder)[0] == 0
    code, said = run("align", folder)
    assert code == 0, said
    return said, json.loads((folder / "results.json").read_text())


def stages_of(folder: Path) -> set[str]:
    return {path.name.rpartition("-")[0] for path in (folder / "runs").iterdir() if path.is_dir()}


def inputs_of(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / f"{stage}-1" / "stage.json").read_text())["inputs"]


def weights(folder: Path) -> dict[str, Any]:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model.state_dict()


# ------------------------------------------------------------------------------------------- the base model is the SFT model


@pytest.fixture(scope="module")
def given(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A project that begins at the reward model, without a single demonstration."""
    folder = new_project(tmp_path_factory.mktemp("projects") / "given", base, demonstrations=False)
    set_config(folder, "# skip_sft = false", "skip_sft = true")
    code, said = run("align", folder)
    assert code == 0, said
    assert "waiting for rankings" in said
    assert "sft: left out, the base model is the SFT model (skip_sft in heedful.toml)" in said
    return folder, *rank_and_align(folder)


def test_a_base_model_that_follows_instructions_begins_where_it_is(given: tuple[Path, str, dict[str, Any]], base: Path) -> None:
    folder, said, results = given
    assert stages_of(folder) == {"collect", "reward", "ppo", "evaluate"}
    assert "waiting for demonstrations" not in said
    for stage in ("sft", "choose_sft", "initial_policy"):
        assert f"{stage}: left out, the base model is the SFT model (skip_sft in heedful.toml)" in said
    assert [(m["name"], m["label"]) for m in results["models"]] == [("sft", "SFT (the base model as given)"), ("ppo", "PPO")]
    assert results["left_out"]["sft"] == "the base model is the SFT model (skip_sft in heedful.toml)"
    assert "sft_validation" not in results
    page = (folder / "report.html").read_text()
    assert "leaves out these stages" in page
    assert "skip_sft in heedful.toml" in page


def test_what_is_made_of_the_base_model_knows_it(given: tuple[Path, str, dict[str, Any]], base: Path, tmp_path: Path) -> None:
    folder, _, _ = given
    of_base = inputs_of(folder, "collect")["sft"]
    assert inputs_of(folder, "reward")["sft"] == of_base == inputs_of(folder, "ppo")["initial"]
    copy = copy_of(folder, tmp_path / "copy")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    plain(tiny_gpt2(seed=5, scale=0.15)).save_pretrained(other)
    set_config(copy, str(base), str(other))
    assert run("align", copy)[0] == 0
    assert inputs_of(copy, "reward")["sft"] != of_base  # another base model: its reward model is trained again


def test_outputs_to_rank_are_the_base_models(given: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, _ = given
    assert {row["model"] for row in read_rows(folder / "runs" / "collect-1" / "responses.jsonl")} == {"sft"}


def test_status_says_what_is_left_out(given: tuple[Path, str, dict[str, Any]]) -> None:
    code, said = run("status", given[0])
    assert code == 0
    assert "sft: left out, the base model is the SFT model (skip_sft in heedful.toml)" in said
    assert "ppo_ptx: left out, there is no pretraining text" in said
    assert "next: done" in said or "next: the report is" in said


def test_ppo_can_be_swept_from_the_base_model(given: tuple[Path, str, dict[str, Any]]) -> None:
    code, said = run("sweep", "ppo", "kl_coefficient", "--values", "0.1", "--project", given[0])
    assert (code, "best: kl_coefficient" in said) == (0, True), said


# ------------------------------------------------------------------------------------------- nothing to choose or to repeat


@pytest.fixture(scope="module")
def one_model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, dict[str, Any]]:
    """A project with text whose SFT keeps one model: what align said before and after the rankings, and the results."""
    folder = new_project(tmp_path_factory.mktemp("projects") / "one", base, text=True)
    file = folder / "heedful.toml"
    head, table, rest = file.read_text().rpartition("\n[sft]\n")
    file.write_text(head + table + rest.replace("candidates = 2", "candidates = 1", 1))
    code, said = run("align", folder)
    assert code == 0, said
    return folder, said, *rank_and_align(folder)


def test_one_sft_model_leaves_nothing_to_choose(one_model: tuple[Path, str, str, dict[str, Any]]) -> None:
    folder, _, said, results = one_model
    assert "choose_sft: left out, SFT keeps one model (candidates and epochs in [sft])" in said
    assert "choose_sft" not in stages_of(folder)
    assert [m["name"] for m in results["models"]] == ["base", "prompted_base", "sft", "ppo", "ppo_ptx"]
    assert results["sft_checkpoints"] == []
    assert "No choice was made: SFT keeps one model" in (folder / "report.html").read_text()


def test_validation_losses_begin_before_training(one_model: tuple[Path, str, str, dict[str, Any]]) -> None:
    folder, said, _, results = one_model
    first = read_rows(folder / "runs" / "sft-1" / "metrics.jsonl")[0]
    assert first.keys() == {"step", "epoch", "validation_loss"}
    assert (first["step"], first["epoch"]) == (0, 0)
    assert f"sft: validation loss {first['validation_loss']:.3f} before training, " in said
    assert results["sft_validation"][0]["step"] == 0
    assert results["sft_validation"][0]["loss"] == pytest.approx(first["validation_loss"], rel=1e-5)
    assert len(results["sft_validation"]) == 2  # before, and after the epoch of the model that is kept
    assert "sft" not in results["left_out"]
    assert "nats per token before training" in (folder / "report.html").read_text()
    assert "pretraining_loss" in read_rows(folder / "runs" / "initial_policy-1" / "metrics.jsonl")[0]


def test_without_text_ppo_starts_from_sft_where_it_would_be_repeated(base: Path, tmp_path: Path) -> None:
    folder = new_project(tmp_path / "mine", base)
    assert run("align", folder)[0] == 0
    said, results = rank_and_align(folder)
    assert "initial_policy: left out, without pretraining text it would repeat SFT step for step" in said
    assert "initial_policy" in results["left_out"]
    state = json.loads((folder / "runs" / "sft-1" / "stage.json").read_text())
    assert inputs_of(folder, "ppo")["initial"] == state["fingerprint"]
    # What it does without is exactly what it would have made: other settings for checkpoints train the policy after all.
    set_config(folder, "[initial_policy]\nepochs", "[initial_policy]\nkeep_checkpoints = 3\nepochs")
    code, said = run("align", folder)
    assert code == 0, said
    assert "initial_policy" in stages_of(folder)
    rows_of_sft = json.loads((folder / "runs" / "sft-1" / "candidates.json").read_text())
    chosen = json.loads((folder / "runs" / "initial_policy-1" / "chosen.json").read_text())
    lowest = min(rows_of_sft, key=lambda row: row["validation_loss"])
    assert chosen["epoch"] == lowest["epoch"]
    ours, repeated = (
        weights(folder / "runs" / "sft-1" / lowest["folder"]),
        weights(folder / "runs" / "initial_policy-1" / chosen["folder"]),
    )
    assert all((ours[name] == tensor).all() for name, tensor in repeated.items())
    # A stage that was done once is kept, though it could be left out now: nothing after it is done again.
    set_config(folder, "keep_checkpoints = 3\n", "")
    before = stages_of(folder)
    code, said = run("align", folder)
    assert code == 0, said
    assert stages_of(folder) == before


def test_a_chat_template_needs_no_few_shot_prefix(base: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(base, chat)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(chat)
    folder = new_project(tmp_path / "mine", chat)
    text = (folder / "heedful.toml").read_text()
    if 'template = "chat"' not in text.splitlines():
        set_config(folder, '# template = "plain"', 'template = "chat"')
    code, said = run("align", folder)
    assert code == 0, said
    said, results = rank_and_align(folder)
    assert "choose_prefix: left out, with a chat template the base model needs no few-shot prefix" in said
    assert [m["name"] for m in results["models"]] == ["base", "sft", "ppo"]
    assert len(results["sft_validation"]) == 3  # before, and after each of two epochs


def test_it_stops_after_the_stage_that_the_user_names_and_goes_on_later(tmp_path: Path, base: Path) -> None:
    folder = new_project(tmp_path / "mine", base)
    code, said = run("align", folder, "--until", "sft")
    assert (code, stages_of(folder)) == (0, {"sft"})
    assert "stopped after sft" in said
    assert not (folder / "report.html").exists()
    code, said = run("align", folder)
    assert code == 0
    assert "sft: done before" in said
    assert "collect" in stages_of(folder)


@pytest.mark.parametrize(
    ("until", "expected"),
    [("rewards", "got:      'rewards'"), ("initial_policy", "a stage that is left out: "), ("reward_2", "'reward_2'")],
)
def test_a_stage_that_it_cannot_stop_after(tmp_path: Path, base: Path, until: str, expected: str) -> None:
    folder = new_project(tmp_path / "mine", base)
    code, said = run("align", folder, "--until", until)
    assert (code, "Traceback" in said) == (2, False)
    assert expected in said
    assert "collect, reward" in " ".join(said.split())
    assert not any((folder / "runs").glob("*-*"))
