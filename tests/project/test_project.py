from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from heedful.errors import ConfigError, MissingError
from heedful.project.project import CONFIG_FILE, Project, init_project, load_toml


def test_init_makes_a_project_that_loads(tmp_path: Path) -> None:
    made = init_project(tmp_path / "mine", base_model="models/gpt2")
    assert made == Project.load(tmp_path / "mine")
    assert (made.name, made.base_model) == ("mine", "models/gpt2")
    assert made.pretraining_text == tmp_path / "mine" / "data" / "pretraining"
    assert made.settings == {}
    for folder in (made.data, made.runs, made.tasks):
        assert folder.is_dir()
    assert made.config_file.read_text().count("#") >= 3  # commented for people


@pytest.mark.parametrize("name", ['a "quoted" \\ model', "Größe", "x\ny\x7f"])
def test_any_model_name_is_written_as_toml(tmp_path: Path, name: str) -> None:
    assert init_project(tmp_path, base_model=name).base_model == name


def test_init_refuses_a_folder_that_holds_a_project_and_leaves_it(tmp_path: Path) -> None:
    init_project(tmp_path, base_model="a")
    with pytest.raises(ConfigError, match="holds a project already"):
        init_project(tmp_path, base_model="b")
    assert Project.load(tmp_path).base_model == "a"


def test_init_in_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").write_text("x")
    init_project(tmp_path, base_model="a")
    assert (tmp_path / "data" / "prompts.jsonl").read_text() == "x"


def test_init_without_a_base_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no base model"):
        init_project(tmp_path / "p", base_model=" ")
    assert not (tmp_path / "p").exists()


def test_a_folder_without_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no heedful.toml here") as caught:
        Project.load(tmp_path)
    assert caught.value.next_step == f"run `heedful init {tmp_path} --base-model MODEL`"


def test_other_tables_are_kept_for_who_reads_them(tmp_path: Path) -> None:
    init_project(tmp_path, base_model="a")
    with (tmp_path / CONFIG_FILE).open("a") as file:
        file.write("\n[ppo]\nkl_coefficient = 0.02\n")
    assert Project.load(tmp_path).settings == {"ppo": {"kl_coefficient": 0.02}}


def test_an_unknown_key_in_the_project_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('[project]\nname = "x"\nbase_modle = "y"\n')
    with pytest.raises(ConfigError, match="did you mean 'base_model'") as caught:
        Project.load(tmp_path)
    assert CONFIG_FILE in str(caught.value.where)


def test_a_toml_error_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("a = 1\nb = \nc = 3\n")
    with pytest.raises(ConfigError) as caught:
        load_toml(file)
    assert caught.value.where == f"{file}:2"
    file.write_text('a = 1\nb = "never closed')
    with pytest.raises(ConfigError) as caught:
        load_toml(file)
    assert caught.value.where == f"{file}:2"


def test_toml_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_toml(tmp_path / "f.toml")
    with pytest.raises(MissingError):
        load_toml(tmp_path / "none.toml")


def test_load_toml_reads_toml(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("[a]\nb = [1, 2]\n")
    assert load_toml(tmp_path / "f.toml") == tomllib.loads("[a]\nb = [1, 2]\n")
