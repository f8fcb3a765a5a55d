"""The project's template: read from heedful.toml, and part of what a stage is made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny import tiny_gpt2, tiny_tokenizer

from heedful.align.inputs import fingerprint_inputs
from heedful.align.settings import given_for, setting_of
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.errors import ConfigError
from heedful.miniature.invented_world import World
from heedful.miniature.panel import Panel
from heedful.model.saving import save_model
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
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
