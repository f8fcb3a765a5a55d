"""What a plan takes from a project: its settings, its base model's configuration and its texts' lengths, but no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from heedful.model.loading import load_tokenizer
from heedful.planning.compute import Lengths
from heedful.planning.plan import DEMONSTRATIONS, SizedSetting
from heedful.planning.shapes import Shape
from heedful.planning.text_lengths import LimitAdvice, TextLengths, limit_advice, mean, text_lengths
from heedful.presets import LIMITED, Preset, records_and_refusals, sources
from heedful.project.data_folder import Records
from heedful.project.project import Project
from heedful.project.selection import demonstrations_of, training_rankings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFacts:
    """What a plan takes from a project's data."""

    lengths: TextLengths
    limits: LimitAdvice
    demonstrations: int
    rankings: int
    responses: float
    """Mean number of responses in a ranking."""


def project_facts(project: Project, preset: Preset, shape: Shape) -> ProjectFacts:
    """Counts and lengths of the project's records, with what it learns to decline.

    Where there are none yet, counts are what labelers will be asked for.
    """
    known = Records.load(project.data) if project.data.is_dir() else Records()
    records, refusals = records_and_refusals(project, preset, known)
    declined = [] if refusals is None else refusals.demonstrations()
    compared = [] if refusals is None else refusals.training_prompts()
    tokenizer = load_tokenizer(project.model_folder(project.base_model))
    lengths = text_lengths(tokenizer, records, project.template)
    prompts = sum(prompt.split == "train" for prompt in records.prompts.values())
    rankings = training_rankings(records, "train")
    demonstrated = len(demonstrations_of(records, "train")) or min(DEMONSTRATIONS, prompts) or DEMONSTRATIONS
    ranked = len({r.prompt_id for r in rankings}) or min(preset.collect.prompts, prompts) or preset.collect.prompts
    limits = preset.sft
    return ProjectFacts(
        lengths=lengths,
        limits=limit_advice(
            lengths,
            max_prompt_tokens=limits.max_prompt_tokens,
            max_response_tokens=limits.max_response_tokens,
            window=shape.context,
        ),
        demonstrations=demonstrated + len(declined),
        rankings=ranked + len(compared),
        responses=sum(len(r.ranks) for r in rankings) / len(rankings) if rankings else mean_k(preset),
    )


def mean_k(preset: Preset) -> float:
    """The mean number of outputs per prompt, from the settings."""
    return (preset.collect.smallest_k + preset.collect.largest_k) / 2


def mean_lengths(preset: Preset, found: TextLengths | None) -> Lengths:
    """Mean lengths of the texts after cutting them at the limits; a quarter of the limits if there are no texts."""
    limits = preset.sft
    prompt = mean(found.prompts, limits.max_prompt_tokens) if found is not None else None
    response = mean(found.responses, limits.max_response_tokens) if found is not None else None
    return Lengths(
        prompt=limits.max_prompt_tokens / 4 if prompt is None else prompt,
        response=limits.max_response_tokens / 4 if response is None else response,
    )


def within_window(preset: Preset, window: int) -> Preset:
    """The preset with limits that fit the context window, in tokens. Responses are cut first, down to half the window."""
    parts: dict[str, Any] = {}
    for name in LIMITED:
        config = getattr(preset, name)
        if config.max_prompt_tokens + config.max_response_tokens > window:
            response = min(config.max_response_tokens, max(window - config.max_prompt_tokens, window // 2))
            prompt = min(config.max_prompt_tokens, window - response)
            parts[name] = replace(config, max_prompt_tokens=prompt, max_response_tokens=response)
    return replace(preset, **parts)


def settings_by_size(preset: Preset, name: str, given: Mapping[str, Any]) -> tuple[SizedSetting, ...]:
    """The settings that a preset chooses by model size, with their sources. ``given``: the tables of heedful.toml."""
    rows: list[SizedSetting] = []
    for (table, key), found in sources(name).items():
        own = key in given.get(table, {})
        value = getattr(getattr(preset, table), key)
        rows.append(SizedSetting(name=f"[{table}] {key}", value=value, source="heedful.toml" if own else found.source))
    return tuple(rows)
