"""What users get wrong and what disks do: each ends in one clear message and the right exit code, never in a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.small_project import SMALL, rows, run, set_config, write_base_model, write_rows
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def project(base: Path, tmp_path: Path) -> Path:
    """A project with prompts and demonstrations: align gets as far as SFT."""
    folder = tmp_path / "mine"
    assert run("init", folder, "--base-model", base)[0] == 0
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    prompts, demonstrations = rows()
    given = write_rows(tmp_path / "given.jsonl", prompts + demonstrations)
    assert run("import", "heedful", given, "--project", folder)[0] == 0
    return folder


def fails(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail with this code and one message; returns the message."""
    got, said = run(*arguments)
    assert got == code, said
    assert "Traceback" not in said
    assert said.count("error:") == 1, said
    message = said[said.index("error:") :]
    assert "expected:" in message
    assert "got:" in message
    return message


# ------------------------------------------------------------------------------------------- files and rows


def test_a_file_that_is_not_there(project: Path) -> None:
    message = fails("import", "alpaca", project / "none.json", "--project", project)
    assert "there is no file none.json" in message
    assert f"where:    {project / 'none.json'}" in message


def test_a_file_of_another_format(project: Path, tmp_path: Path) -> None:
    pairs = write_rows(
        tmp_path / "pairs.jsonl", [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}]
    )
    message = fails("import", "alpaca", pairs, "--project", project)
    assert f"where:    {pairs}:1" in message
    assert "it looks like the format hh-rlhf: import it as that" in message
    picture = tmp_path / "picture.json"
    picture.write_bytes(bytes(range(256)) * 4)
    assert str(picture) in fails("import", "messages", picture, "--project", project)


def test_a_ranking_of_a_response_that_is_not_there(project: Path, tmp_path: Path) -> None:
    ranking = {"kind": "ranking", "prompt_id": "train0", "response_ids": ["nobody", "wrote"], "ranks": [1, 2], "labeler": "bob"}
    file = write_rows(tmp_path / "rankings.jsonl", [ranking])
    message = fails("import", "heedful", file, "--project", project)
    assert "the ranking names the response 'nobody', which is not there" in message
    assert f"where:    {file}:1" in message
    # Among good rows it is counted and kept aside.
    write_rows(file, [{"kind": "prompt", "text": "w1"}, ranking])
    code, said = run("import", "heedful", file, "--project", project)
    assert code == 0
    assert "line 2: the ranking names the response 'nobody', which is not there" in said
    kept = json.loads((project / "data" / "rejected.jsonl").read_text())
    assert (kept["line"], kept["row"]) == (2, ranking)
    # Written into the project by hand, it is found there too.
    write_rows(project / "data" / "rankings.jsonl", [{**ranking, "id": "r1"}])
    for verb in ("align", "status"):
        message = fails(verb, project)
        assert "the ranking 'r1' has a broken reference" in message
        assert f"where:    {project / 'data' / 'rankings.jsonl'}:1" in message
        assert "next:" in message


def test_no_project(tmp_path: Path) -> None:
    for verb in ("align", "status"):
        message = fails(verb, tmp_path)
        assert "no heedful.toml here" in message
        assert "heedful init" in message


# ------------------------------------------------------------------------------------------- heedful.toml


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kl_coefficient = 0.02", "kl_coeficient = 0.02", "did you mean 'kl_coefficient'?"),
        ("[reward]\nbatch", "[rewards]\nbatch", "did you mean [reward]?"),
        ("seed = 0", "sede = 0", "did you mean 'seed'?"),
        ("kl_coefficient = 0.02", 'kl_coefficient = "low"', "'kl_coefficient' of the configuration has the wrong type"),
        ("smallest_k = 3", "smallest_k = 5", "smallest_k and largest_k are out of range"),
        ('preset = "0.001B"', 'preset = "paper-13B"', "there is no such preset"),
        ('preset = "0.001B"', 'preset = "13GB"', "or a number of parameters such as 0.5B, 7B or 7B-lora"),
        ("[project]", "[project", "is not TOML"),
    ],
)
def test_a_mistake_in_the_settings(project: Path, old: str, new: str, expected: str) -> None:
    set_config(project, "[ppo]\nepisodes", "[ppo]\nkl_coefficient = 0.02\nepisodes")
    set_config(project, old, new)
    message = fails("align", project)
    assert expected in message
    assert str(project / "heedful.toml") in message


# ------------------------------------------------------------------------------------------- models


def set_base(project: Path, base: Path, folder: Path) -> None:
    set_config(project, str(base), str(folder))


def test_a_base_model_that_is_not_there(project: Path, base: Path, tmp_path: Path) -> None:
    set_base(project, base, tmp_path / "none")
    message = fails("align", project)
    assert "the base model is not there" in message
    assert f"{tmp_path / 'none'}: nothing" in message
    assert str(project / "heedful.toml") in message


def test_a_base_model_folder_that_holds_something_else(project: Path, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    set_base(project, base, other)
    assert "no config.json in it" in fails("align", project)
    shutil.copytree(base, other, dirs_exist_ok=True)
    (other / "config.json").write_text('{"hello": 1}')
    assert str(other) in fails("align", project)
    shutil.copy(base / "config.json", other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])  # a download that was cut
    message = fails("align", project)
    assert "the model's weights cannot be read" in message
    assert str(other) in message


def test_a_tokenizer_that_does_not_match_the_model(project: Path, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    tiny_tokenizer(80).save_pretrained(other)
    set_base(project, base, other)
    message = fails("align", project)
    assert "the tokenizer does not match the model" in message
    assert "at most 64 tokens" in message
    assert "80 tokens" in message
    assert str(other) in message


def test_prompts_over_the_limit(project: Path) -> None:
    """Some are left out and counted (SPEC 1.2); where none is left, that is an error."""
    set_config(project, "max_prompt_tokens = 12", "max_prompt_tokens = 4")
    code, said = run("align", project)
    assert code == 0, said
    assert "demonstrations: 7 used; 5 left out: prompt over the limit" in said
    assert "prompts over 4 tokens are left out" in said
    set_config(project, "max_prompt_tokens = 4", "max_prompt_tokens = 1")
    message = fails("align", project)
    assert "there is no prompt to train on" in message
    assert "of at most 1 tokens ([sft] max_prompt_tokens)" in message
    assert "24 prompts in this split" in message


def test_a_tokenizer_file_that_is_missing(project: Path, base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other, ignore=shutil.ignore_patterns("tokenizer*"))
    set_base(project, base, other)
    message = fails("align", project)
    assert "the tokenizer cannot be loaded" in message
    assert "tokenizer.save_pretrained(FOLDER)" in message


def test_a_small_model_that_is_damaged_stops_nothing_halfway(project: Path, base: Path, tmp_path: Path) -> None:
    """It is needed after hours of training, and looked at before."""
    other = tmp_path / "small"
    shutil.copytree(base, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    set_config(project, "[project]", f'[project]\nsmall_model = "{other}"')
    message = fails("align", project)
    assert "the model's weights cannot be read" in message
    assert f"where:    {other}" in message
    assert not list((project / "runs").glob("*-*"))


# ------------------------------------------------------------------------------------------- numbers and disks


def test_a_base_model_of_numbers_that_are_none(project: Path, base: Path, tmp_path: Path) -> None:
    model = plain(tiny_gpt2())
    with torch.no_grad():
        model.get_parameter("transformer.h.1.mlp.c_fc.weight")[0, 0] = float("nan")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    model.save_pretrained(other)
    set_base(project, base, other)
    message = fails("align", project)
    assert "the model's weights are not all finite numbers" in message
    assert "NaN or infinity in transformer.h.1.mlp.c_fc.weight" in message
    assert str(other) in message
    assert not (project / "runs" / "sft-1" / "model").exists()


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_a_checkpoint_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = torch.save, []

    def full_the_third_time(state: Any, file: Any) -> None:
        save(state, file)
        saved.append(state["step"])
        if len(saved) == 3:
            full()

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full_the_third_time)
        message = fails("align", project, code=1)
    assert "the disk refused to write" in message
    assert "No space left on device" in message
    assert f"where:    {project / 'runs' / 'sft-1' / 'checkpoints' / 'step-3'}" in message
    assert "the last checkpoint is untouched" in message
    assert not [path for path in project.rglob(".*") if path.name != ".lock"], "something half-written was left"
    code, said = run("align", project)
    assert code == 0, said
    assert "sft: continuing at step 2" in said
    assert "waiting for rankings" in said


def test_a_disk_that_is_full_when_a_model_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("heedful.model.saving._fsync", lambda path: full() if "epoch-1" in str(path) else None)
        message = fails("align", project, code=1)
    assert "the disk refused to write" in message
    assert str(project / "runs" / "sft-1" / "candidates" / "epoch-1") in message
    assert not [*project.rglob("model"), *project.rglob("epoch-*")]
    assert not [path for path in project.rglob(".*") if path.name != ".lock"], "something half-written was left"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(project: Path, small_disk: Path) -> None:
    shutil.copytree(project, small_disk / "mine")
    message = fails("align", small_disk / "mine", code=1)
    assert "No space left on device" in message
    assert "next:" in message
    for model in small_disk.rglob("model.safetensors"):
        assert (model.parent / "config.json").is_file()
        assert not any(part.startswith(".") for part in model.relative_to(small_disk).parts)
