"""The project's template: read from heedful.toml, and part of what a stage is made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.align.small_project import SMALL, rows, run, write_rows
from tests.model.chat_templates import CHATML, FAMILIES, OWN, tokenizer_of
from tests.tiny import tiny_gpt2, tiny_tokenizer

from heedful.align.before_training import check_before_training
from heedful.align.inputs import fingerprint_inputs
from heedful.align.settings import given_for, setting_of
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.align.train_stages import sft
from heedful.errors import ConfigError, ModelError
from heedful.miniature.invented_world import World
from heedful.miniature.panel import Panel
from heedful.model.loading import load_tokenizer
from heedful.model.saving import save_model
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.project.importing import import_file
from heedful.project.project import Project, init_project


def test_another_template_than_plain_makes_other_stages(tmp_path: Path) -> None:
    """Older versions knew plain only: with it a stage's inputs are what they were, so that finished stages stay done."""
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "base")
    project = init_project(tmp_path / "mine", base_model=str(tmp_path / "base"))
    assert project.template == "plain"
    labelers = SimulatedLabelers(project, Panel(World(3), seed=0))

    def keys(project: Project) -> dict[str, object]:
        setting = setting_of(project, resolved_preset(project), labelers, Records())
        return fingerprint_inputs(given_for(stage("sft"), setting, Records(), {}), Records(), {})

    assert set(keys(project)) == {"base", "data", "config"}
    assert keys(replace(project, template="chat")) == keys(project) | {"template": "chat"}


def test_the_template_is_read_and_checked(tmp_path: Path) -> None:
    project = init_project(tmp_path, base_model="a")
    text = project.config_file.read_text()
    project.config_file.write_text(text.replace('# template = "plain"', 'template = "chat"'))
    assert Project.load(tmp_path).template == "chat"
    project.config_file.write_text(text.replace('# template = "plain"', 'template = "alpaca"'))
    with pytest.raises(ConfigError, match="template"):
        Project.load(tmp_path)


def test_a_template_may_be_a_file_and_its_text_counts(tmp_path: Path) -> None:
    """A stage is made from the text of the file: another text makes other stages, another name does not."""
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "base")
    file = tmp_path / "mine" / "ours.jinja"
    file.parent.mkdir()
    file.write_text(OWN)
    project = init_project(tmp_path / "mine", base_model=str(tmp_path / "base"), template="ours.jinja")
    assert 'template = "ours.jinja"' in project.config_file.read_text()
    assert project.template == OWN
    labelers = SimulatedLabelers(project, Panel(World(3), seed=0))
    setting = setting_of(project, resolved_preset(project), labelers, Records())
    assert setting.template == OWN
    assert fingerprint_inputs(given_for(stage("sft"), setting, Records(), {}), Records(), {})["template"] == OWN


@pytest.mark.parametrize(("text", "problem"), [(None, "cannot be read"), ("Human:", "not a chat template")])
def test_a_file_that_is_no_template_is_refused(text: str | None, problem: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "ours.jinja").write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        init_project(tmp_path, base_model="a", template="ours.jinja")
    assert "ours.jinja" in str(caught.value)
    assert not (tmp_path / "heedful.toml").exists()


def test_init_takes_a_models_own_chat_template_and_shows_an_example(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
    save_model(tiny_gpt2(vocabulary=len(tokenizer)), tokenizer, tmp_path / "chat model")
    code, said = run("init", tmp_path / "mine", "--base-model", tmp_path / "chat model")
    assert code == 0
    assert Project.load(tmp_path / "mine").template == "chat"
    assert "template: chat" in said
    assert "  | <|im_start|>user\n  | Name a river.<|im_end|>\n  | <|im_start|>assistant\n" in said
    assert "'The Rhine.<|im_end|>'" in said
    code, said = run("init", tmp_path / "continued", "--base-model", tmp_path / "chat model", "--template", "plain")
    assert (code, Project.load(tmp_path / "continued").template) == (0, "plain")
    (tmp_path / "ours.jinja").write_text(OWN)
    code, said = run("init", tmp_path / "other", "--base-model", tmp_path / "chat model", "--template", tmp_path / "ours.jinja")
    assert (code, Project.load(tmp_path / "other").template) == (0, OWN)
    assert "  | ### User:\n" in said


def test_init_takes_plain_for_a_model_without_a_template(tmp_path: Path) -> None:
    save_model(tiny_gpt2(), tiny_tokenizer(), tmp_path / "base")
    code, said = run("init", tmp_path / "mine", "--base-model", tmp_path / "base")
    assert (code, Project.load(tmp_path / "mine").template) == (0, "plain")
    assert "template: plain" in said


def test_init_warns_of_a_template_that_cannot_be_used(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
    tokenizer.chat_template = "{% for message in %}"
    tokenizer.save_pretrained(tmp_path / "base")
    tiny_gpt2(vocabulary=len(tokenizer)).save_pretrained(tmp_path / "base")
    code, said = run("init", tmp_path / "mine", "--base-model", tmp_path / "base")
    assert code == 0
    assert "not valid Jinja" in said


def test_align_refuses_a_template_with_which_training_and_answers_would_differ(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
    tokenizer.chat_template = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
    save_model(tiny_gpt2(vocabulary=len(tokenizer)), tokenizer, tmp_path / "base")
    project = init_project(tmp_path / "mine", base_model=str(tmp_path / "base"), template="chat")
    setting = setting_of(project, resolved_preset(project), SimulatedLabelers(project, Panel(World(3), seed=0)), Records())
    with pytest.raises(ConfigError, match="no model can be trained with this chat template"):
        check_before_training(setting, Records())


def test_a_small_model_with_another_chat_template_is_refused(tmp_path: Path) -> None:
    for name, template in (("base", CHATML), ("small", CHATML.replace("\n", " "))):
        tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
        tokenizer.chat_template = template
        save_model(tiny_gpt2(vocabulary=len(tokenizer)), tokenizer, tmp_path / name)
    project = init_project(tmp_path / "mine", base_model=str(tmp_path / "base"), template="chat")
    project = replace(project, small_model=str(tmp_path / "small"))
    setting = setting_of(project, resolved_preset(project), SimulatedLabelers(project, Panel(World(3), seed=0)), Records())
    with pytest.raises(ModelError, match="another chat template than base_model"):
        check_before_training(setting, Records())


@pytest.mark.parametrize("template", ["plain", "chat", "ours.jinja"])
def test_a_trained_model_is_saved_with_the_template_that_it_was_trained_with(template: str, tmp_path: Path) -> None:
    """And without one after plain: the base model's would be a format that this model was not trained in."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    save_model(tiny_gpt2(scale=0.15), tokenizer, tmp_path / "base")
    (tmp_path / "ours.jinja").write_text(ours := "{% for m in messages %}{{ m.content + ' w9 ' }}{{ eos_token }}{% endfor %}")
    made = init_project(tmp_path, base_model=str(tmp_path / "base"), template=template)
    with made.config_file.open("a") as file:
        file.write(SMALL)
    prompts, demonstrations = rows()
    import_file("heedful", write_rows(tmp_path / "rows.jsonl", [*prompts, *demonstrations]), made.data)
    project = Project.load(tmp_path)
    records = Records.load(project.data)
    setting = setting_of(project, resolved_preset(project), SimulatedLabelers(project, Panel(World(3), seed=0)), records)
    sft(given_for(stage("sft"), setting, records, {}), folder=tmp_path / "run", console=Console(quiet=True))
    kept = {"plain": None, "chat": tokenizer.chat_template, "ours.jinja": ours}
    assert load_tokenizer(tmp_path / "run" / "model").chat_template == kept[template]
