"""What would fail after hours is refused, or works, before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.align.small_project import (
    SMALL,
    rows,
    run,
    set_config,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from tests.tiny import plain, tiny_llama, tiny_tokenizer

from heedful.align.before_training import check_before_training
from heedful.align.inputs import fingerprint_inputs
from heedful.align.limits import check_lengths
from heedful.align.settings import Setting, given_for, setting_of
from heedful.align.stages import STAGES, stage
from heedful.align.who_labels import labelers_of
from heedful.errors import ConfigError, DataError
from heedful.model.loading import load_tokenizer
from heedful.model.template import prompt_tokens
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.records import Ranking, Response


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def project(base: Path, tmp_path: Path) -> Path:
    """Prompts and demonstrations, nothing trained."""
    return project_with(tmp_path / "mine", base, *rows())


def project_with(folder: Path, base: Path, prompts: list, demonstrations: list) -> Path:
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    set_config(folder, 'labelers = "people"', 'labelers = "files"')
    code, said = run("import", "heedful", write_rows(folder / "in.jsonl", [*prompts, *demonstrations]), "--project", folder)
    assert code == 0, said
    return folder


def test_validation_demonstrations_that_are_all_too_long_do_not_stop_the_training(base: Path, tmp_path: Path) -> None:
    prompts, demonstrations = rows()
    for prompt in prompts:
        if prompt["split"] == "valid" and int(prompt["id"].removeprefix("valid")) % 2:
            prompt["text"] = "w9 " * 13
    folder = project_with(tmp_path / "mine", base, prompts, demonstrations)
    code, said = run("align", folder)
    assert code == 0, said
    assert "demonstrations: 12 used" in said
    assert "validation demonstrations: 0 used; 3 left out: prompt over the limit" in said
    assert "the validation loss is measured on training demonstrations" in said


def test_code_in_a_model_folder_is_never_run(project: Path, base: Path, tmp_path: Path) -> None:
    folder = write_base_model(tmp_path / "own-code")
    ran = tmp_path / "ran"
    for name in ("configuration_mine.py", "modeling_mine.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    set_config(project, str(base), str(folder))
    code, said = run("align", project)
    assert (code, said.count("needs Python code from its own folder, which Heedful does not run")) == (2, 1), said
    assert "[y/N]" not in said
    assert str(folder) in said
    assert not ran.exists()
    # A folder may bring code for a family that transformers has itself: then the code is not needed.
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    code, said = run("align", project)
    assert code == 0, said
    assert not ran.exists()


def test_damaged_outputs_of_a_finished_stage_are_named(project: Path) -> None:
    assert run("align", project)[0] == 0
    folder = project / "runs" / "sft-1"
    weights = folder / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"oops")
    for command in (["align", project], ["sweep", "reward", "learning_rate", "--values", "1e-3", "--project", project]):
        code, said = run(*command)
        said = "".join(said.split())
        assert (code, "anoutputofthefinishedstagesftisdamaged" in said, str(weights) in said) == (2, True, True), said
    weights.write_bytes(whole)
    code, said = run("align", project)
    assert (code, "sft: done before" in said) == (0, True), said
    shutil.rmtree(folder)
    code, said = run("align", project)
    assert (code, "sft: done before" in said) == (0, False), said
    assert weights.read_bytes() == whole
    state = json.loads((folder / "stage.json").read_text())
    del state["outputs"]  # as an older version wrote it
    (folder / "stage.json").write_text(json.dumps(state))
    weights.write_bytes(whole[:-4] + b"oops")
    assert "sft: done before" in run("align", project)[1]


def nothing_is_trained(project: Path) -> bool:
    return not list((project / "runs").glob("*/"))


@pytest.mark.parametrize(
    ("table", "old", "new", "said"),
    [
        ("sft", "max_response_tokens = 8", "max_response_tokens = 1024", "[collect] max_response_tokens = 84"),
        ("sft", "max_response_tokens = 8", "max_response_tokens = 1024", "[evaluate] max_response_tokens = 84"),
        ("ppo", "max_response_tokens = 8", "max_response_tokens = 1024", "[ppo] max_response_tokens = 84"),
        ("ppo", "ptx_context_length = 24", "ptx_context_length = 97", "[ppo] ptx_context_length = 96"),
        ("evaluate", "prompts = 6", "prompts = 6\nmax_response_tokens = 90", "[evaluate] max_response_tokens = 84"),
        ("collect", "smallest_k = 3", "smallest_k = 3\nmax_response_tokens = 90", "[collect] max_response_tokens = 84"),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_passes_the_context_window_is_refused_first(
    base: Path, rotary: Path, tmp_path: Path, family: str, table: str, old: str, new: str, said: str
) -> None:
    model = {"gpt2": base, "llama": rotary}[family]
    prompts, demonstrations = rows()
    prompts[0]["text"] = "w9 " * 11 + "w9"
    project = project_with(tmp_path / "mine", model, prompts, demonstrations)
    write_pretraining_text(project)
    set_in(project, table, old, new)
    code, output = run("align", project)
    output = " ".join(output.split())
    assert code == 2, output
    assert "some sequences do not fit a model's context window" in output
    assert "at most 96 tokens for base_model" in output
    assert said in output
    assert nothing_is_trained(project)


def set_in(project: Path, table: str, old: str, new: str) -> None:
    file = project / "heedful.toml"
    before, _, after = file.read_text().rpartition(f"\n[{table}]\n")
    assert old in after
    file.write_text(f"{before}\n[{table}]\n{after.replace(old, new, 1)}")


@pytest.fixture(scope="module")
def rotary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "rotary"
    plain(tiny_llama(scale=0.15)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def setting_and_records(project: Path) -> tuple[Setting, Records]:
    loaded = Project.load(project)
    labelers = labelers_of(loaded)
    records = labelers.known()
    return setting_of(loaded, resolved_preset(loaded), labelers, records), records


def test_limits_above_the_window_do_no_harm_to_short_texts(project: Path) -> None:
    text = (project / "heedful.toml").read_text()
    (project / "heedful.toml").write_text(text.replace("max_prompt_tokens = 12", "max_prompt_tokens = 1000"))
    check_before_training(*setting_and_records(project))


def test_a_prompt_as_long_as_the_limit_fills_the_window_exactly(base: Path, tmp_path: Path) -> None:
    prompts, demonstrations = rows()
    prompts[0]["text"] = "w9 " * 11 + "w9"
    project = project_with(tmp_path / "mine", base, prompts, demonstrations)
    set_in(project, "sft", "max_response_tokens = 8", "max_response_tokens = 84")
    check_before_training(*setting_and_records(project))
    set_in(project, "sft", "max_response_tokens = 84", "max_response_tokens = 85")
    with pytest.raises(ConfigError, match="1 too many for base_model"):
        check_before_training(*setting_and_records(project))


def test_texts_are_measured_as_far_as_they_are_used(base: Path, tmp_path: Path) -> None:
    prompts, demonstrations = rows()
    demonstrations[0]["text"] = "w9 " * 200
    setting, records = setting_and_records(project_with(tmp_path / "mine", base, prompts, demonstrations))
    check_before_training(setting, records)  # cut at max_response_tokens
    for table in ("sft", "initial_policy", "reward"):
        preset = setting.preset
        if table == "sft":  # the limit for demonstrations alone
            preset = replace(
                preset,
                collect=replace(preset.collect, max_response_tokens=8),
                evaluate=replace(preset.evaluate, max_response_tokens=8),
            )
        longer = replace(getattr(preset, table), max_response_tokens=150)
        with pytest.raises(ConfigError, match=rf"\[{table}\]: 15\d tokens .*for base_model") as caught:
            check_before_training(replace(setting, preset=replace(preset, **{table: longer})), records)
        assert f"[{table}] max_response_tokens = 9" in str(caught.value)


def test_the_smaller_window_of_the_small_model_counts(project: Path, tmp_path: Path) -> None:
    small = write_base_model(tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"n_positions": 12}))
    set_config(project, "[project]", f'[project]\nsmall_model = "{small}"')
    code, said = run("align", project)
    assert (code, "too many for small_model" in " ".join(said.split())) == (2, True), said
    assert nothing_is_trained(project)


def test_answers_may_be_shorter_without_training_again(project: Path) -> None:
    setting, records = setting_and_records(project)
    preset = setting.preset
    shorter = replace(setting, preset=replace(preset, evaluate=replace(preset.evaluate, max_response_tokens=4)))
    assert shorter.preset.answering("evaluate").max_response_tokens == 4
    assert shorter.preset.answering("collect") == preset.sft
    earlier = {row.name: f"of {row.name}" for row in STAGES}
    without_files = {"data", "task_mixture"}

    def inputs(setting: Setting, name: str) -> dict[str, object]:
        return fingerprint_inputs(given_for(stage(name), setting, records, {}), records, earlier)

    changed = [name for name in earlier if name not in without_files and inputs(setting, name) != inputs(shorter, name)]
    assert changed == ["choose_sft", "choose_prefix", "choose_task_mixture", "best_of_n", "evaluate"]


def test_a_model_that_could_not_be_used_later_is_refused_first(project: Path, tmp_path: Path) -> None:
    def refused(name: str, folder: Path) -> str:
        text = (project / "heedful.toml").read_text()
        set_config(project, "[project]", f'[project]\n{name} = "{folder}"')
        code, said = run("align", project)
        (project / "heedful.toml").write_text(text)
        assert (code, nothing_is_trained(project)) == (2, True), said
        return " ".join(said.split())

    cut = write_base_model(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "the model's weights cannot be read" in refused("small_model", cut)
    weights.unlink()
    assert "no file of weights" in refused("reward_start", cut)

    other = write_base_model(tmp_path / "other")
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["w9"], words["w10"] = words["w10"], words["w9"]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    for name in ("small_model", "reward_start"):
        assert f"{name} has another tokenizer than base_model" in refused(name, other)

    endless = write_base_model(tmp_path / "endless")
    tokens = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in tokens.items() if k != "eos_token"}))
    assert "the tokenizer has no end-of-text token" in refused("small_model", endless)

    few = write_base_model(tmp_path / "few")
    config = json.loads((few / "config.json").read_text())
    (few / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    assert "at most 20 tokens (rows of the model's embedding)" in refused("small_model", few)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["train"], "there is no held-out prompt to evaluate on"),
        (["valid", "test"], "there is no prompt to train on"),
    ],
)
def test_empty_splits_are_refused_first(base: Path, tmp_path: Path, splits: list[str], said: str) -> None:
    prompts, _ = rows()
    kept = [prompt for prompt in prompts if prompt["split"] in splits]
    project = project_with(tmp_path / "mine", base, kept, [])
    code, output = run("align", project)
    assert (code, said in output) == (2, True), output
    assert nothing_is_trained(project)


def test_demonstrations_of_held_out_prompts_alone_are_refused_first(base: Path, tmp_path: Path) -> None:
    prompts, demonstrations = rows()
    kept = [row for row in demonstrations if row["prompt_id"].startswith("valid")]
    code, output = run("align", project_with(tmp_path / "mine", base, prompts, kept))
    assert (code, "there is no demonstration to train on" in output) == (2, True), output


def test_one_output_alone_cannot_be_ranked(project: Path) -> None:
    set_config(project, "smallest_k = 3", "smallest_k = 1")
    code, said = run("align", project)
    assert (code, "2 <= smallest_k <= largest_k" in said) == (2, True), said


@pytest.mark.parametrize(
    ("files", "encoding", "said"),
    [
        ({"a.txt": "w1 caf\u00e9".encode("cp1252")}, None, "is not UTF-8"),
        ({"a.txt": b"w1\nw2 \x81"}, "windows-1252", "not in the encoding windows-1252"),
        ({"train.jsonl": b'{"text": "w1"}\n', "valid.jsonl": b'{"text": "w1"\n'}, None, "cannot be read"),
        ({"train.txt": b"w1", "valid.txt": b" \n"}, None, "there is no pretraining text to validate on"),
        ({"train.txt": b"w1", "valid.txt": b"w2", "more.txt": b"w3"}, None, "besides train and valid"),
        ({"a.txt": b" \n<|endoftext|>\n"}, None, "there is no pretraining text to train on"),
        ({"a.txt": b"w1", "notes.md": b"x"}, None, "holds files that are not read"),
        ({}, None, "there is no pretraining text"),
    ],
)
def test_text_that_a_later_stage_could_not_read_is_refused_first(
    project: Path, files: dict[str, bytes], encoding: str | None, said: str
) -> None:
    folder = project / "data" / "pretraining"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if encoding is not None:
        set_config(project, "[project]", f'[project]\npretraining_encoding = "{encoding}"')
    code, output = run("align", project)
    assert (code, said in " ".join(output.split())) == (2, True), output
    assert nothing_is_trained(project)


def test_text_that_no_stage_reads_is_not_checked(project: Path) -> None:
    write_pretraining_text(project)
    setting, records = setting_and_records(project)
    (project / "data" / "pretraining" / "train.jsonl").write_text("broken")
    with pytest.raises(DataError):
        check_before_training(setting, records)
    preset = setting.preset
    without = replace(
        preset,
        ppo=replace(preset.ppo, ptx_coefficient=0.0),
        initial_policy=replace(preset.initial_policy, pretraining_share=0.0),
    )
    check_before_training(replace(setting, preset=without), records)
    (project / "runs" / "initial_policy-1").mkdir(parents=True)
    (project / "runs" / "initial_policy-1" / "stage.json").write_text('{"done": true}')
    check_before_training(setting, records)  # it has been read


def test_quantised_weights_are_refused_first(project: Path, tmp_path: Path) -> None:
    folder = write_base_model(tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | quantised))
    set_config(project, "[project]", f'[project]\nsmall_model = "{folder}"')
    code, said = run("align", project)
    assert (code, "the model's weights are quantised" in said) == (2, True), said
    assert nothing_is_trained(project)


@pytest.mark.parametrize(
    ("name", "tables"), [("base_model", ["sft", "initial_policy", "reward"]), ("small_model", ["initial_policy"])]
)
def test_a_text_that_is_read_fills_the_window_with_its_end_token(
    base: Path, tmp_path: Path, name: str, tables: list[str]
) -> None:
    """Sixty tokens and the end, behind the prompt: more than any answer that is generated."""
    prompts, demonstrations = rows()
    demonstrations[0]["text"] = "w9 " * 60
    prompt = next(row for row in prompts if row["id"] == demonstrations[0]["prompt_id"])
    setting, records = setting_and_records(project_with(tmp_path / "mine", base, prompts, demonstrations))
    preset = setting.preset
    longer = {table: replace(getattr(preset, table), max_response_tokens=100) for table in ("sft", "initial_policy", "reward")}
    short = {table: replace(getattr(preset, table), max_response_tokens=8) for table in ("collect", "evaluate")}
    setting = replace(setting, preset=replace(preset, **longer, **short))
    tokens = prompt_tokens(load_tokenizer(base), [records.prompts[prompt["id"]]], "plain")[0]
    exact = len(tokens) + 61
    check_window(setting, records, name, exact)
    with pytest.raises(ConfigError) as caught:
        check_window(setting, records, name, exact - 1)
    problems = str(caught.value.got).split("\n")
    assert [problem.strip().partition("]")[0].removeprefix("[") for problem in problems] == tables
    assert all(f"1 too many for {name}" in problem for problem in problems)


def check_window(setting: Setting, records: Records, name: str, window: int) -> None:
    """Check the lengths against one model's window."""
    config: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=window))
    check_lengths(setting, records, {name: config}, load_tokenizer(setting.base_model))


def test_responses_that_were_ranked_are_read_by_the_reward_model(project: Path) -> None:
    setting, records = setting_and_records(project)
    preset = replace(setting.preset, reward=replace(setting.preset.reward, max_response_tokens=100))
    setting = replace(setting, preset=preset)
    prompt = records.prompts["train0"]
    responses = {id: Response(id=id, prompt_id="train0", text=text) for id, text in (("a", "w9 " * 60), ("b", "w9"))}
    ranking = Ranking(id="k", prompt_id="train0", response_ids=("a", "b"), ranks=(1, 2), labeler="ann")
    exact = len(prompt_tokens(load_tokenizer(setting.base_model), [prompt], "plain")[0]) + 61
    ranked = replace(records, responses=responses, rankings={"k": ranking})
    check_window(setting, ranked, "base_model", exact)
    with pytest.raises(ConfigError, match=r"\[reward\].*1 too many for base_model"):
        check_window(setting, ranked, "base_model", exact - 1)
    check_window(setting, records, "base_model", exact - 1)  # without the ranking


def test_prompts_that_are_left_out_need_no_room(base: Path, tmp_path: Path) -> None:
    """Prompts of at most 6 tokens are answered with at most 8; the one of 50 is over max_prompt_tokens = 12."""
    prompts, demonstrations = rows()
    prompts.append({"kind": "prompt", "id": "long", "text": "w9 " * 50, "split": "train"})
    setting, records = setting_and_records(project_with(tmp_path / "mine", base, prompts, demonstrations))
    check_window(setting, records, "base_model", 14)
    with pytest.raises(ConfigError, match="1 too many for base_model"):
        check_window(setting, records, "base_model", 13)
