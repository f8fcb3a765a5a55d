"""The inputs of a stage's fingerprint, as the table of stages names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heedful.align.round_benchmarks import identity_of_benchmarks, rule_of
from heedful.align.settings import Given, needs_of
from heedful.align.stages import met_by
from heedful.align.task_mixture import identity_of
from heedful.presets import CollectConfig, EvaluateConfig, Preset, RoundsConfig, preset
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_files, digest_of_records
from heedful.project.runs import records_in
from heedful.project.selection import digest_of_demonstrations, digest_of_rankings
from heedful.project.text_encoding import is_utf8
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig


def fingerprint_inputs(
    given: Given, records: Records, earlier: Mapping[str, str], digest: Callable[[Path], str] = digest_of_files
) -> dict[str, Any]:
    """The inputs of a stage's fingerprint, as the table names them.

    earlier: name -> fingerprint of the finished stages. Demonstrations and rankings that such a stage made are identified by
    its fingerprint, others by their content. digest: computes a digest of files.
    """
    setting, stage = given.setting, given.stage

    def value(need: str | None) -> Any:
        if need is not None:
            need = met_by(need, earlier)
            if need in earlier:
                return earlier[need]
        match need:
            case None:
                return None
            case "seed":
                return setting.seed
            case "base_model" | "small_model" | "reward_start":
                folder = getattr(setting, need)
                return None if folder is None else digest(folder)
            case "pretraining_text":
                project, unused = setting.project, getattr(given.config, "ptx_coefficient", None) == 0
                if unused or not project.pretraining_text.exists():
                    return None
                read = digest(project.pretraining_text)
                # Older versions read only UTF-8. Without the encoding, stages that they did stay done.
                return read if is_utf8(project.pretraining_encoding) else [read, project.pretraining_encoding]
            case "prompts":
                return digest_of_records(records.prompts.values())
            case "demonstrations":
                return earlier.get("data") or digest_of_demonstrations(records)
            case "rankings":
                if stage.round > 1:
                    asked = [print for name, print in earlier.items() if name.partition("_")[0] == "collect"]
                    return asked if setting.labelers.invents_data else digest_of_rankings(records)
                return earlier.get("collect") or digest_of_rankings(records)
            case "prefixes":
                return setting.prefixes
            case "solved_tasks":
                return identity_of(setting, digest)
            case "evaluation_prompts":
                held_out = [p for p in records.prompts.values() if p.split != "train"]
                limits = setting.preset.answering("evaluate")
                number = setting.preset.evaluate.prompts
                return [digest_of_records(held_out), number, limits.max_prompt_tokens, limits.max_response_tokens]
            case "rule_benchmarks":
                return identity_of_benchmarks(setting, rule_of(given), digest)
            case "models":
                return [print for name, print in earlier.items() if name != "refusal_check"]
            case "refusals" | "refusal_prompts":
                if setting.refusals is None:
                    return None
                identity = setting.refusals.identity(weighted=need == "refusals")
                return identity if need == "refusals" else [identity, *how_compared(setting.preset)]
            case "held_out_refusals":
                if setting.refusals is None:
                    return None
                limits, evaluate = setting.preset.answering("evaluate"), setting.preset.evaluate
                held_out = digest_of_records(setting.refusals.held_out_prompts())
                return [held_out, evaluate.temperature, limits.max_prompt_tokens, limits.max_response_tokens]
            case "choosing":
                return how_chosen(setting.preset.rounds)
            case "answers":
                return (
                    None
                    if setting.labelers.answers_at_once
                    else digest_of_records(records_in(given.run_of("compare"), "ranking"))
                )
            case _:
                raise AssertionError(f"the stage {stage.name} needs {need}, which was not done")

    inputs = {key: value(need) for key, need in needs_of(given).items()}
    if given.config is None:
        return inputs
    # Settings that older versions did not have are left out if they equal the preset, so stages of older versions stay done.
    template, config = setting.template, given.config
    if newer := _NEWER.get(type(config)):
        own = getattr(preset(setting.project.preset), str(stage.config))
        config = {name: value for name, value in asdict(config).items() if name not in newer or value != getattr(own, name)}
    return {**inputs, "config": config} | ({} if template == "plain" else {"template": template})


def how_compared(preset: Preset) -> list[object]:
    """The settings that decide what refusals are compared with."""
    limits = preset.answering("collect")
    answers, temperature = preset.refusals.answers, preset.collect.temperature
    return [answers, temperature, limits.max_prompt_tokens, limits.max_response_tokens]


def how_chosen(rounds: RoundsConfig) -> dict[str, object]:
    """The settings of ``[rounds]`` that decide what labelers rank."""
    asked: dict[str, object] = {"choose": rounds.choose, "sft_share": rounds.sft_share}
    return asked if rounds.choose == "random" else {**asked, "prompts_sampled": rounds.prompts_sampled}


_NEWER: Mapping[type, tuple[str, ...]] = {
    CollectConfig: ("max_response_tokens",),
    EvaluateConfig: ("max_response_tokens",),
    SFTConfig: ("pretraining_share_of",),
    RewardConfig: ("fit_head", "trained_layers"),
    PPOConfig: ("whiten_over", "whiten_rewards"),
}
"""Settings that older versions did not have."""
