"""Make the policies of experiments: from the project's finished stages, and variants of them in ``experiments/runs/``.

Every variant is an ordinary stage. A variant with the project's own settings is found in the project's ``runs/``; one that
another experiment trained is found in ``experiments/runs/``. A killed variant continues from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align.before_training import check_before_training
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import processes_at_once
from heedful.align.round_benchmarks import check_rule_benchmarks
from heedful.align.running import FinishedStage, Job, Stages, done_before, stage_fingerprint
from heedful.align.settings import Given, Setting, given_for, setting_of
from heedful.align.stages import Stage, config_of, stage
from heedful.align.trial_stages import earlier_runs, newest_run, stages_of, train_or_diverge
from heedful.align.who_labels import labelers_of
from heedful.errors import ConfigError, MissingError
from heedful.experiments.catalogue import Variant
from heedful.presets import Preset, records_and_refusals, resolved_preset
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_files
from heedful.project.project import Project

FOLDER = "experiments"


@dataclass(frozen=True, slots=True)
class Workshop:
    """A project whose reward model and initial policy are done."""

    project: Project
    setting: Setting
    records: Records
    earlier: Mapping[str, FinishedStage]
    """The newest runs of the project's stages."""
    stages: Stages
    """The stages that experiments run."""
    digests: dict[Path, str] = field(default_factory=dict[Path, str])

    @property
    def preset(self) -> Preset:
        """The project's settings."""
        return self.setting.preset

    @property
    def console(self) -> Console:
        """Where progress is shown."""
        return self.stages.console

    def given(self, row: Stage, config: Any, earlier: Mapping[str, FinishedStage]) -> Given:
        """The inputs of a stage with these settings, after these stages."""
        folders = {name: finished.folder for name, finished in earlier.items()}
        return replace(given_for(row, self.setting, self.records, folders), config=config)

    def inputs(self, given: Given, earlier: Mapping[str, FinishedStage]) -> dict[str, Any]:
        """The inputs of the stage's fingerprint."""
        found = {name: finished.fingerprint for name, finished in earlier.items()}
        return fingerprint_inputs(given, self.records, found, self.digest)

    def digest(self, path: Path) -> str:
        """The digest of a model or text, read once."""
        if path not in self.digests:
            self.digests[path] = digest_of_files(path)
        return self.digests[path]

    def done(self, name: str, inputs: Mapping[str, Any]) -> FinishedStage | None:
        """The finished stage with these inputs, from the project or an experiment."""
        fingerprint = stage_fingerprint(name, inputs)
        for runs in (self.project.runs, self.stages.runs):
            if (found := done_before(runs, name, fingerprint)) is not None:
                return found
        return None


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a variant: what it is given, and what identifies it."""

    given: Given
    inputs: Mapping[str, Any]
    done: FinishedStage | None
    """The finished stage; None if it must be trained."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.given.stage.name

    @property
    def fingerprint(self) -> str:
        """Its fingerprint, known before the stage is done."""
        return stage_fingerprint(self.name, self.inputs)


@dataclass(frozen=True, slots=True)
class Policy:
    """A trained policy; its run may have diverged."""

    finished: FinishedStage
    given: Given
    """What its stage was given, including the initial policy."""


def open_workshop(project: Project, console: Console) -> Workshop:
    """Open the project's finished stages. Raises MissingError if its reward model or initial policy is not done."""
    preset, labelers = resolved_preset(project), labelers_of(project)
    collected = newest_run(project, "collect")
    known = labelers.known(None if collected is None else collected.folder)
    records, refusals = records_and_refusals(project, preset, known)
    if not records.prompts:
        raise MissingError(
            "the project has no prompts",
            expected="a project whose stages are done",
            got="no records",
            where=project.data,
            next_step=f"run `heedful align {project.folder}` first",
        )
    earlier = earlier_runs(project, stage("ppo"), preset, labelers, records, refusals)
    names = sorted(stages_of(project, preset, labelers, records, refusals) - {"ppo", "ppo_ptx", "ppo_ptx_small", "evaluate"})
    earlier |= {name: found for name in names if (found := newest_run(project, name)) is not None}
    setting = setting_of(project, preset, labelers, records, refusals)
    return Workshop(project, setting, records, earlier, Stages(project.folder / FOLDER / "runs", console))


def steps_of(shop: Workshop, variant: Variant, preset: Preset) -> list[Step]:
    """The stages of a variant in order: its own initial policy, if it has one, and the policy.

    preset: what counts as the project's own settings. Raises ConfigError if the project cannot have the variant.
    """
    steps: list[Step] = []
    earlier = dict(shop.earlier)
    seeded = {"seed": preset.ppo.seed + variant.seed} if variant.seed else {}
    if variant.initial_policy:
        if "initial_policy" not in shop.earlier:
            raise ConfigError(
                "the project has no initial policy of its own",
                expected="pretraining text, and SFT that is not skipped",
                got="a project whose PPO starts from the SFT model",
                where=shop.project.config_file,
                next_step="add pretraining text, or choose another experiment",
            )
        row = stage("initial_policy")
        config = replace(config_of(row, preset), **{**variant.initial_policy, **seeded})
        step = _step(shop, row, config, earlier)
        steps.append(step)
        earlier["initial_policy"] = step.done or FinishedStage(step.name, Path(), step.fingerprint, 0.0)
    row = stage(variant.stage)
    if variant.stage == "ppo_ptx" and not shop.setting.labelers.invents_data and not shop.project.pretraining_text.exists():
        raise MissingError(
            "PPO-ptx needs pretraining text",
            expected="a folder of plain text",
            got="nothing",
            where=shop.project.pretraining_text,
            next_step="add text there, or choose an experiment without PPO-ptx: kl, over-optimisation, labeler-groups",
        )
    steps.append(_step(shop, row, replace(config_of(row, preset), **{**variant.ppo, **seeded}), earlier))
    return steps


def _step(shop: Workshop, row: Stage, config: Any, earlier: Mapping[str, FinishedStage]) -> Step:
    given = shop.given(row, config, earlier)
    inputs = shop.inputs(given, earlier)
    return Step(given, inputs, shop.done(row.name, inputs))


def check_workshop(shop: Workshop, preset: Preset) -> None:
    """Refuse, before any training, what would stop a stage after hours, also missing benchmark data of ``[rounds]``."""
    check_before_training(replace(shop.setting, preset=preset), shop.records)
    check_rule_benchmarks(shop.project, preset, with_data=True)


def check_variants(shop: Workshop, preset: Preset, variants: list[Variant]) -> None:
    """Run :func:`check_workshop`, and refuse variants that the project cannot have."""
    check_workshop(shop, preset)
    for variant in variants:
        steps_of(shop, variant, preset)


def make_policies(shop: Workshop, preset: Preset, variants: Sequence[Variant]) -> list[Policy]:
    """Train the stages of variants that are not done, as many at a time as the project says."""
    # First the initial policies that variants start from, then the policies.
    while jobs := _next_jobs(shop, preset, variants):
        shop.stages.run_side_by_side(jobs, processes=processes_at_once(shop.project))
    last = [steps_of(shop, variant, preset)[-1] for variant in variants]
    return [Policy(step.done, step.given) for step in last if step.done is not None]


def _next_jobs(shop: Workshop, preset: Preset, variants: Sequence[Variant]) -> list[Job]:
    """The first stage of each variant that is not done; variants may share one."""
    found: dict[str, Job] = {}
    for variant in variants:
        step = next((one for one in steps_of(shop, variant, preset) if one.done is None), None)
        if step is not None:
            found[step.fingerprint] = Job(name=step.name, inputs=step.inputs, action=partial(train_or_diverge, step.given))
    return list(found.values())
