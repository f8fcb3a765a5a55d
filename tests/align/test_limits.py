"""What would fail after hours is refused, or works, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.align.small_project import (
    SMALL,
    rows,
    run,
    set_config,
    write_base_model,
    write_rows,
)


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
