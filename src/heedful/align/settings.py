"""What a project wants: its preset with the values that heedful.toml overrides, and who its labelers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from heedful.errors import ConfigError
from heedful.evaluate.benchmarks import Benchmark
from heedful.evaluate.results import Group
from heedful.labeling.queue.recording import Work
from heedful.presets import Preset, preset
from heedful.project.project import Project, config_from_mapping
from heedful.project.structure import nearest
from heedful.records import Prompt, Response

SECTIONS = ("sft", "initial_policy", "reward", "ppo", "collect", "evaluate")


class Labelers(Protocol):
    """People who rank and rate at once (the miniature's simulated ones; real ones work through tasks on disk)."""

    @property
    def groups(self) -> Mapping[str, Group]: ...

    def assess(self, prompt: Prompt, responses: Sequence[Response], *, group: Group, labelers: int) -> list[Work]: ...


class PrefixFormat(Protocol):
    """How a base model is prompted with examples: what it is given, and what of its continuation is the answer."""

    def __call__(self, prefix: str, prompt_text: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that the stages need to know about a project."""

    project: Project
    preset: Preset
    base_model: Path
    small_model: Path | None
    reward_start: Path | None
    """What the reward model starts from; None is the SFT model."""
    labelers: Labelers | None
    """None where people label: their rankings come as records."""
    benchmarks: tuple[Benchmark, ...]
    prefixes: tuple[str, ...]
    """Candidate few-shot prefixes of the base model (SPEC 3.7)."""

    @property
    def seed(self) -> int:
        return self.project.seed


def resolved_preset(project: Project) -> Preset:
    """The project's preset with the sections of its heedful.toml put over it. Raises ConfigError for unknown tables or keys."""
    try:
        chosen = preset(project.preset, seed=project.seed)
    except ConfigError as error:
        where = f"{project.config_file} [project]"
        raise ConfigError(error.message, expected=error.expected, got=error.got, where=where, next_step="mend preset") from None
    for name in project.settings:
        if name not in SECTIONS:
            close = nearest(name, SECTIONS)
            raise ConfigError(
                f"heedful.toml has an unknown table [{name}]",
                expected="[project] or " + ", ".join(f"[{s}]" for s in SECTIONS),
                got=f"[{name}]",
                where=project.config_file,
                next_step=f"did you mean [{close}]?" if close else "remove it",
            )
    parts: dict[str, Any] = {}
    for name in SECTIONS:
        given = project.settings.get(name, {})
        base = getattr(chosen, name)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{name} is not a table", expected=f"[{name}]", got=repr(given), where=project.config_file)
        values = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        if "engine" in values:
            values["engine"] = project.engine
        parts[name] = config_from_mapping(type(base), {**values, **given}, f"{project.config_file} [{name}]")
    return Preset(**parts)
