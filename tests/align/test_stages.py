"""The table of stages: whole, in an order that can be done, and with the fingerprints of earlier versions."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from heedful import __version__
from heedful.align.inputs import fingerprint_inputs
from heedful.align.settings import given_for, setting_of
from heedful.align.stages import (
    INPUT_MODELS,
    STAGES,
    Input,
    Situation,
    config_of,
    due,
    left_out,
    makers,
    met_by,
    next_group,
    stage,
)
from heedful.align.steps import STEPS, TASKS
from heedful.align.sweep import _METRICS, _VALIDATION, Step
from heedful.align.who_labels import labelers_of
from heedful.errors import ConfigError
from heedful.evaluate import lineup
from heedful.miniature import preparation
from heedful.miniature.preparation import miniature_project
from heedful.presets import SECTIONS, miniature, resolved_preset
from heedful.project.data_folder import Records
from heedful.project.fingerprints import as_json, digest_of_files, fingerprint_of
from heedful.training.alternatives_config import Alternative

NAMES = [row.name for row in STAGES]
OLD: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("old_stages.json").read_text())
"""What the miniature's stage.json files said before there was a table, with seed 0."""
NEWER = ("task_mixture", "skip_sft", "one_candidate", "asked_by_template", "policy_repeats_sft")
"""What a project may do without."""
OTHERS = ("alternatives", "groups", "refusals", "refusal_check")
SWITCHES = [field.name for field in fields(Situation) if field.name not in OTHERS]
ALTERNATIVES: tuple[Alternative, ...] = get_args(Alternative)
SITUATIONS = [
    Situation(
        **dict(zip(SWITCHES, values, strict=True)),
        alternatives=ALTERNATIVES if sum(values) % 2 else (),
        groups=("a",) if sum(values) % 3 else (),
        refusals=sum(values) % 4 == 1,
        refusal_check=sum(values) % 4 in (1, 2),
    )
    for values in itertools.product((False, True), repeat=len(SWITCHES))
]


def with_all_but_newer() -> Situation:
    switches: dict[str, Any] = {name: name not in NEWER for name in SWITCHES}
    return Situation(**switches)


def test_every_stage_has_a_step_and_every_name_is_of_the_table() -> None:
    assert list(STEPS) == NAMES == list(dict.fromkeys(NAMES))
    assert set(TASKS) == {row.name for row in STAGES if row.asks}
    assert {row.config for row in STAGES} - {None} == {*SECTIONS} - {"rounds", "alternatives", "refusals", "small_model"}
    for row in STAGES:
        assert set(row.needs.values()) <= {None, *NAMES[: NAMES.index(row.name)], *get_args(Input)}, row.name
        assert row.beside is None or row.beside in NAMES[: NAMES.index(row.name)]
        assert pickle.loads(pickle.dumps(row)) == row  # a stage may run in a process of its own
    assert {row.name for row in STAGES if row.measure} == set(get_args(Step))
    assert {row.measure[0] for row in STAGES if row.measure} == set(_METRICS) == set(_VALIDATION)


def test_every_model_of_the_evaluation_is_made_once_or_given() -> None:
    made = [row.makes for row in STAGES if row.makes is not None]
    assert sorted(m.name for m in [*made, *INPUT_MODELS.values()]) == sorted(m.name for m in lineup.CONTENDERS)
    assert makers()["prompted_base"] == stage("choose_prefix")
    assert lineup.FAMILIES == ("base", "prompted_base", "task_mixture", "sft", "ppo", "ppo_ptx")
    for model in lineup.CONTENDERS:
        assert lineup.family(model.name) == model.name.removesuffix("_small")


def test_in_every_situation_what_a_stage_needs_is_done_before() -> None:
    """Or what stands for it: an earlier stage that was done, or a model that was given."""
    for situation in SITUATIONS:
        # What people are asked for is there before align goes on.
        answered = replace(situation, demonstrations=True, rankings=True)
        done: list[str] = []
        while group := next_group(answered, done):
            for row in group:
                met = {met_by(need, [row.name for row in due(answered)]) for need in row.needs.values() if need in NAMES}
                assert met <= {*done, "base_model", "small_model"}, (row.name, situation)
            done += [row.name for row in group]
        assert done[-1] == "evaluate"
        assert sorted(done) == sorted(row.name for row in due(answered))


def test_each_reason_for_doing_without_a_stage() -> None:
    plain = with_all_but_newer()
    people = replace(plain, data_is_invented=False, answers_at_once=False)
    assert left_out(people) == {}
    assert left_out(replace(people, small_model=False)) == {}  # it goes without saying
    given = left_out(replace(people, skip_sft=True))
    assert set(given) == {"sft", "choose_sft", "initial_policy", "initial_policy_small"}
    assert all("skip_sft in heedful.toml" in reason for reason in given.values())
    for change, stages, words in (
        ({"one_candidate": True}, {"choose_sft"}, "SFT keeps one model"),
        ({"asked_by_template": True}, {"choose_prefix"}, "with a chat template"),
        ({"prefixes": False}, {"choose_prefix"}, "needs three short demonstrations"),
        ({"policy_repeats_sft": True}, {"initial_policy"}, "would repeat SFT step for step"),
        ({"text": False}, {"ppo_ptx", "ppo_ptx_small"}, "there is no pretraining text"),
    ):
        found = left_out(replace(people, **change))
        assert set(found) == stages
        assert all(words in reason for reason in found.values())
    assert next_group(replace(people, skip_sft=True, demonstrations=False), [])[0].name == "reward"
    assert next_group(replace(people, demonstrations=False), [])[0].name == "demonstrate"


def test_what_stands_for_a_stage() -> None:
    assert met_by("sft", ["sft"]) == "sft"
    assert met_by("sft", []) == "base_model"
    assert met_by("initial_policy", ["sft"]) == "sft"
    assert met_by("initial_policy", []) == "base_model"
    assert met_by("initial_policy_small", ["sft"]) == "small_model"
    assert met_by("reward", []) == "reward"  # nothing does
    assert met_by("reward_by_group", ["reward"]) == "reward"
    assert met_by("reward_by_group", ["reward", "reward_by_group"]) == "reward_by_group"
    assert met_by("base_model", []) == "base_model"


def test_groups_of_simulated_labelers_and_of_people() -> None:
    whole = with_all_but_newer()

    def groups(situation: Situation) -> list[list[str]]:
        done: list[str] = []
        found: list[list[str]] = []
        while group := next_group(situation, done):
            found.append([row.name for row in group])
            done += found[-1]
        return found

    choosing, policies = ["choose_sft", "choose_prefix"], ["ppo", "ppo_ptx", "ppo_ptx_small"]
    initial = ["initial_policy", "initial_policy_small"]
    assert groups(whole) == [["data"], ["sft"], ["collect", *initial], ["reward"], choosing, policies, ["evaluate"]]
    people = replace(whole, data_is_invented=False, answers_at_once=False)
    assert groups(people) == [["sft"], ["reward"], choosing, initial, policies, ["evaluate"]]
    # People who have to rank do not wait for initial policies.
    assert groups(replace(people, rankings=False))[1] == ["collect"]
    assert groups(replace(people, demonstrations=False))[0] == ["demonstrate"]
    assert groups(replace(people, text=False, small_model=False))[-2:] == [["ppo"], ["evaluate"]]
    assert groups(replace(people, groups=("a", "b")))[1:3] == [["reward"], ["reward_by_group"]]
    # Alternatives run beside PPO, and only those that heedful.toml names.
    assert groups(replace(people, alternatives=("best_of_n", "dpo")))[-2] == [*policies, "dpo", "best_of_n"]
    assert groups(replace(people, alternatives=ALTERNATIVES))[-2] == [*policies, *ALTERNATIVES]


@pytest.mark.skipif(
    not (preparation.WEIGHTS / "medium" / "config.json").is_file(), reason="the miniature's weights are not made"
)
def test_an_old_project_has_the_same_fingerprints(tmp_path: Path) -> None:
    project = miniature_project(tmp_path / "miniature", seed=0)
    project.pretraining_text.mkdir(parents=True)
    setting = setting_of(project, resolved_preset(project), labelers_of(project), Records())
    text = OLD["initial_policy"]["inputs"]["text"]
    order = [row["fingerprint"] for row in OLD.values()]
    earlier: dict[str, str] = {}
    for name in [*[row.name for row in STAGES if row.name in OLD]]:
        given = given_for(stage(name), setting, Records(), {})
        if name == "evaluate":
            listed = OLD["evaluate"]["inputs"]["models"]
            assert set(listed) == set(order) - {OLD["evaluate"]["fingerprint"]}
            earlier = {str(i): fingerprint for i, fingerprint in enumerate(listed)}
        inputs = fingerprint_inputs(
            given, Records(), earlier, lambda path: text if path == project.pretraining_text else digest_of_files(path)
        )
        assert json.loads(json.dumps(inputs, default=as_json)) == OLD[name]["inputs"], name
        assert fingerprint_of({"heedful": __version__, "stage": name, **inputs}) == OLD[name]["fingerprint"], name
        earlier[name] = OLD[name]["fingerprint"]
    assert miniature(0).collect.prompts == OLD["collect"]["inputs"]["config"]["prompts"]


def test_a_setting_that_older_versions_did_not_have_counts_once_it_is_set(tmp_path: Path) -> None:
    project = miniature_project(tmp_path / "miniature", seed=0)
    project.pretraining_text.mkdir(parents=True)
    project = replace(
        project,
        settings={
            "initial_policy": {"pretraining_share_of": "examples"},
            "ppo": {"whiten_over": "minibatch"},
            "reward": {"fit_head": True},
        },
    )
    setting = setting_of(project, resolved_preset(project), labelers_of(project), Records())
    earlier = {name: old["fingerprint"] for name, old in OLD.items()}
    changed: list[str] = []
    for row in (stage("sft"), stage("initial_policy"), stage("reward"), stage("ppo")):
        given = given_for(row, setting, Records(), {})
        inputs = fingerprint_inputs(given, Records(), earlier, lambda _: "files")
        if set(inputs["config"]) != set(OLD[row.name]["inputs"]["config"]):
            changed.append(row.name)
    assert changed == ["initial_policy", "reward", "ppo"]


def test_an_initial_policy_of_before_the_paper_presets_named_a_unit_stays_done(tmp_path: Path) -> None:
    project = replace(miniature_project(tmp_path / "miniature", seed=0), preset="paper-1.3B")
    project.pretraining_text.mkdir(parents=True)
    setting = setting_of(project, resolved_preset(project), labelers_of(project), Records())
    given = given_for(stage("initial_policy"), setting, Records(), {})
    assert given.config.pretraining_share_of == "loss"
    inputs = fingerprint_inputs(given, Records(), {}, lambda _: "files")
    assert set(inputs["config"]) == set(OLD["initial_policy"]["inputs"]["config"])


def test_the_small_model_is_trained_by_its_own_table(tmp_path: Path) -> None:
    project = miniature_project(tmp_path / "miniature", seed=0)
    own = {"episodes": 512, "learning_rate": 1e-4, "initial_learning_rate": 2e-3}
    shipped = resolved_preset(project)
    preset = resolved_preset(replace(project, settings={"small_model": own}))

    changed = [row for row in STAGES if config_of(row, preset) != config_of(row, shipped)]
    assert [row.name for row in changed] == ["initial_policy_small", "ppo_ptx_small"]
    initial, policy = (config_of(row, preset) for row in changed)
    assert initial == replace(preset.initial_policy, learning_rate=2e-3)
    assert policy == replace(preset.ppo, learning_rate=1e-4, episodes=512)

    # Without the table, another model is trained as the base model is.
    other = replace(project, preset="paper-1.3B")
    assert config_of(stage("ppo_ptx_small"), resolved_preset(other)) == resolved_preset(other).ppo


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"episodes": -1}, "SmallModelConfig: episodes is out of range"),
        ({"learning_rate": 0.0}, "SmallModelConfig: learning_rate is out of range"),
        ({"batch_size": 8}, "'batch_size' is not a key"),
    ],
)
def test_settings_of_the_small_model_that_cannot_be(tmp_path: Path, own: dict[str, Any], words: str) -> None:
    project = replace(miniature_project(tmp_path / "miniature", seed=0), settings={"small_model": own})
    with pytest.raises(ConfigError, match=words):
        resolved_preset(project)
