"""What lies where a model should be: its parameters counted from headers, and what to do if it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.align.small_project import run
from tests.tiny import plain, tiny_gpt2, tiny_llama, tiny_tokenizer

from heedful.errors import MissingError
from heedful.model.loading import load_causal_model
from heedful.model_files import count_parameters, how_to_get, is_gguf, what_is_there
from heedful.project.project import Project, init_project


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("shard", ["1GB", "30kB"])
def test_parameters_are_counted_as_torch_counts_them(make, shard: str, tmp_path: Path) -> None:
    model = make()
    plain(model).save_pretrained(tmp_path, max_shard_size=shard)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shard == "30kB")
    assert count_parameters(tmp_path) == sum(p.numel() for p in model.parameters())


def test_what_cannot_be_counted_is_none(tmp_path: Path) -> None:
    assert count_parameters(tmp_path) is None
    assert count_parameters(tmp_path / "none") is None
    file = tmp_path / "model.safetensors"
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0" + b'{"a": {}}', b"\x02\0\0\0\0\0\0\0{"):
        file.write_bytes(content)
        assert count_parameters(tmp_path) is None


def test_a_hub_name_is_told_how_to_download(tmp_path: Path) -> None:
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    said = how_to_get(name, tmp_path / name)
    assert said.endswith(f"hf download {name} --local-dir {tmp_path / name}")
    assert "hf download" not in how_to_get("models/my/base", tmp_path / "models")
    assert "hf download" not in how_to_get("../base", tmp_path / "base")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "hf download" not in how_to_get("a/b", tmp_path / "a" / "b")


def test_a_hub_name_in_the_settings_is_one_line(tmp_path: Path) -> None:
    project = init_project(tmp_path, base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(MissingError) as caught:
        Project.load(tmp_path).model_folder(project.base_model)
    folder = tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
    assert f"hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir {folder}" in str(caught.value)
    code, said = run("align", tmp_path)
    assert (code, "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in said, "Traceback" in said) == (2, True, False)


def test_init_with_a_hub_name_says_how_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("init", "mine", "--base-model", "gpt2-team/gpt2")
    assert code == 0
    assert f"hf download gpt2-team/gpt2 --local-dir {tmp_path / 'gpt2-team' / 'gpt2'}" in said


def test_other_things_than_models_have_a_name(tmp_path: Path) -> None:
    assert what_is_there(tmp_path / "x") == "nothing"
    assert what_is_there(tmp_path) == "no config.json in it"
    (tmp_path / "x").write_text("")
    assert what_is_there(tmp_path / "x") == "a file"
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert is_gguf(tmp_path / "m.gguf")
    assert not is_gguf(tmp_path)
    assert str(tmp_path / "m.gguf") in how_to_get("folder", tmp_path)
    with pytest.raises(MissingError, match="give the GGUF file itself"):
        load_causal_model(tmp_path)


def test_init_chooses_the_preset_of_the_models_size(tmp_path: Path) -> None:
    plain(tiny_gpt2()).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    code, said = run("init", tmp_path / "mine", "--base-model", tmp_path / "base")
    assert code == 0
    number = sum(p.numel() for p in tiny_gpt2().parameters())
    assert f'preset = "0.001B": {number:,} parameters' in said
    text = (tmp_path / "mine" / "heedful.toml").read_text()
    assert 'preset = "0.001B"' in text
    assert "#   ours: the paper's at 1.3B times GPT-3's ratio of pretraining rates" in text
    run("init", tmp_path / "adapters", "--base-model", tmp_path / "base", "--lora")
    text = (tmp_path / "adapters" / "heedful.toml").read_text()
    assert 'preset = "0.001B-lora"' in text
    assert "# lora_rank = 16" in text
    code, said = run("init", tmp_path / "none", "--base-model", tmp_path / "nothing")
    assert "the size of the model is not known" in said
    assert Project.load(tmp_path / "none").preset == "paper-1.3B"
