"""``heedful sweep``: one training step with several values of one field, as the paper chose its learning rates (SPEC 3.2-3.5).

Each trial is a stage in ``sweeps/<step>-<field>/``: done once for the same inputs, continued after a kill, and kept when the
grid grows. A trial whose loss is no longer a finite number has *diverged*: that is a result, and the next one follows.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from heedful import __version__
from heedful.align import pipeline
from heedful.align.loop import project_setting
from heedful.align.running import Stage, Stages
from heedful.align.settings import Setting
from heedful.errors import ConfigError, DataError, MissingError, NumericalError
from heedful.evaluate.scan import Scan, Trial, columns, value_text, write_scan
from heedful.model import keep_large_temporaries, load_tokenizer
from heedful.model.answering import Answerer, mean_reward, prompts_within
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_files, digest_of_records
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.runs import stage_folders, stage_state
from heedful.project.selection import (
    demonstrations_of,
    digest_of_demonstrations,
    digest_of_rankings,
    prompts_of,
    training_rankings,
)
from heedful.project.structure import nearest
from heedful.training.checkpoint import CHECKPOINTS, remove_checkpoints
from heedful.training.config import StepConfig

Step = Literal["sft", "reward", "ppo", "ppo_ptx"]
Spacing = Literal["geometric", "linear"]

_MEASURES: Mapping[str, tuple[str, str]] = {
    "sft": ("validation_loss", "lower"),
    "reward": ("validation_accuracy", "higher"),
    "ppo": ("validation_reward", "higher"),
    "ppo_ptx": ("validation_reward", "higher"),
}
"""Step -> what decides which trial is best."""
_DIVERGED = "diverged.json"


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What every trial of a sweep has in common: the inputs of its fingerprint, and how to train and measure one."""

    fingerprints: Mapping[str, Any]
    train: Callable[[Any, Path], None]
    measure: Callable[[Any, Stage, Stages], dict[str, float]]


def grid(low: float, high: float, number: int, spacing: Spacing) -> list[float]:
    """``number`` values from low to high, both among them: equal ratios ("log-linear" in the paper) or equal distances.

    Raises ConfigError for an empty grid, or bounds that it cannot have.
    """
    if number < 1 or low > high or (number == 1 and low != high):
        raise ConfigError(
            "the grid is empty",
            expected="low up to high, and at least 2 trials (1 where low is high)",
            got=f"low {low:g}, high {high:g}, {number} trials",
            next_step="give --low, --high and --trials, or the --values themselves",
        )
    if spacing == "geometric" and low <= 0:
        raise ConfigError(
            "a geometric grid needs bounds above 0",
            expected="low above 0",
            got=f"{low:g}",
            next_step="use --spacing linear, or give the --values themselves",
        )
    values = np.geomspace(low, high, number) if spacing == "geometric" else np.linspace(low, high, number)
    # Eight digits: what is shown, kept and compared is the same number.
    return [float(f"{value:.8g}") for value in values]


def trial_configs(config: StepConfig, step: str, field: str, values: Sequence[float]) -> dict[float, StepConfig]:
    """Value -> the step's configuration with that value, in order, each once; for a field of whole numbers they are rounded.

    Raises ConfigError: an unknown field, one that is no number, no values, a value out of the field's range.
    """
    types_of = typing.get_type_hints(type(config))
    if field not in types_of:
        close = nearest(field, types_of)
        raise ConfigError(
            f"{step} has no field {field!r}",
            expected=", ".join(name for name in types_of if _number_type(types_of[name])),
            got=field,
            next_step=f"did you mean {close}?" if close else "choose one of these",
        )
    number_type = _number_type(types_of[field])
    if number_type is None:
        raise ConfigError(
            f"{field} is not a number",
            expected=", ".join(name for name in types_of if _number_type(types_of[name])),
            got=f"a field with values like {getattr(config, field)!r}",
            next_step="sweep a field that is a number",
        )
    if not values:
        raise ConfigError(
            "the grid is empty",
            expected="at least one value",
            got="none",
            next_step="give --low, --high and --trials, or the --values themselves",
        )
    if not np.isfinite(list(values)).all():
        raise ConfigError(f"a value of {field} is not a finite number", expected="finite numbers", got=str(list(values)))
    rounded = [number_type(round(value)) if number_type is int else float(value) for value in values]
    return {value: replace(config, **{field: value}) for value in sorted(set(rounded))}


def _number_type(hint: Any) -> type[int] | type[float] | None:
    """int or float where a field holds such a number (or None), else None."""
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    kinds.discard(type(None))
    return int if kinds == {int} else float if kinds in ({float}, {int, float}) else None


def sweep(
    project: Project, step: Step, field: str, values: Sequence[float], console: Console, *, spacing: Spacing = "geometric"
) -> Path:
    """Do all trials that are not done, then write results.json and report.html beside them; returns the report.

    Earlier stages are not done here: what `heedful align` made last is used. Raises ConfigError (see :func:`trial_configs`),
    MissingError where an earlier stage was not done, DataError without validation data, BusyError where another process is
    at work in the project, StorageError.
    """
    with alone_in(project.runs):
        return _sweep(project, step, field, values, console, spacing)


def _sweep(project: Project, step: Step, field: str, values: Sequence[float], console: Console, spacing: Spacing) -> Path:
    keep_large_temporaries()
    base_model = project.model_folder(project.base_model)
    reward_start = None if project.reward_start is None else project.model_folder(project.reward_start)
    records = pipeline.records_of(project)
    if project.labelers == "simulated" and step == "reward":
        records = pipeline.collected(_done(project, "collect", step).folder, records)
    setting = project_setting(project, base_model, None, reward_start, records)
    preset = setting.preset
    config: StepConfig = {
        "sft": preset.sft,
        "reward": preset.reward,
        "ppo": replace(preset.ppo, ptx_coefficient=0.0),
        "ppo_ptx": preset.ppo,
    }[step]
    configs = trial_configs(config, step, field, values)
    inputs = {"sft": _sft, "reward": _reward, "ppo": _ppo, "ppo_ptx": _ppo}[step](setting, records, step, console)

    folder = project.folder / "sweeps" / f"{step}-{field}"
    stages = Stages(folder, console)
    metric, better = _MEASURES[step]
    trials: list[Trial] = []
    for number, (value, one) in enumerate(configs.items(), start=1):
        console.print(f"trial {number} of {len(configs)}: {field} = {value_text(value)}", highlight=False)
        stage = stages.run(
            step, {**inputs.fingerprints, "config": one}, lambda f, one=one: _train_or_diverge(inputs.train, one, f, console)
        )
        trial: Trial = {
            "value": value,
            "folder": stage.folder.relative_to(project.folder).as_posix(),
            "seconds": round(stage.seconds, 2),
            "metrics": {},
        }
        if (stage.folder / _DIVERGED).is_file():
            trial["diverged"] = json.loads((stage.folder / _DIVERGED).read_text(encoding="utf-8"))["reason"]
        else:
            trial["metrics"] = inputs.measure(one, stage, stages)
        trials.append(trial)

    sign = 1 if better == "lower" else -1
    measured = [trial for trial in trials if "diverged" not in trial]
    results: Scan = {
        "heedful": __version__,
        "project": project.name,
        "labelers": project.labelers,
        "step": step,
        "field": field,
        "metric": metric,
        "better": better,
        "spacing": spacing,
        "trials": trials,
        "best": min(measured, key=lambda trial: sign * trial["metrics"][metric], default=None),
    }
    pipeline.write_json(folder / "results.json", results)
    write_scan(results, folder / "report.html")
    _show(results, console)
    return folder / "report.html"


def _train_or_diverge(train: Callable[[Any, Path], None], config: Any, folder: Path, console: Console) -> None:
    """Train; a loss or gradient that is no finite number is kept as the trial's outcome."""
    try:
        train(config, folder)
    except NumericalError as error:
        pipeline.write_json(folder / _DIVERGED, {"reason": error.message})
        remove_checkpoints(folder / CHECKPOINTS)
        console.print(f"diverged: {error.message}", style="yellow", markup=False, highlight=False)


def _sft(setting: Setting, records: Records, step: str, console: Console) -> _Inputs:
    _needs(demonstrations_of(records, "train"), "demonstrations", setting.project)
    _needs(demonstrations_of(records, "valid"), "validation demonstrations", setting.project)

    def train(config: Any, folder: Path) -> None:
        pipeline.sft(_with(setting, sft=config), records, folder, console)

    def measure(config: Any, stage: Stage, stages: Stages) -> dict[str, float]:
        del config, stages
        rows = json.loads((stage.folder / "candidates.json").read_text(encoding="utf-8"))
        best = min(rows, key=lambda row: row["validation_loss"])
        return {"validation_loss": best["validation_loss"], "epoch": best["epoch"]}

    fingerprints = {"base": digest_of_files(setting.base_model), "data": digest_of_demonstrations(records)}
    return _Inputs(fingerprints, train, measure)


def _reward(setting: Setting, records: Records, step: str, console: Console) -> _Inputs:
    sft = _done(setting.project, "sft", step)
    _needs(training_rankings(records, "train"), "rankings", setting.project)
    _needs(training_rankings(records, "valid"), "validation rankings", setting.project)

    def train(config: Any, folder: Path) -> None:
        pipeline.reward(_with(setting, reward=config), records, sft.folder, folder, console)

    def measure(config: Any, stage: Stage, stages: Stages) -> dict[str, float]:
        del config, stages
        last = _last_metrics(stage.folder, "validation_accuracy")
        return {name: last[name] for name in ("validation_accuracy", "validation_loss")}

    fingerprints = {
        "sft": sft.fingerprint,
        "start": None if setting.reward_start is None else digest_of_files(setting.reward_start),
        "rankings": digest_of_rankings(records),
    }
    return _Inputs(fingerprints, train, measure)


def _ppo(setting: Setting, records: Records, step: str, console: Console) -> _Inputs:
    initial, reward = _done(setting.project, "initial_policy", step), _done(setting.project, "reward", step)
    start, text = pipeline.initial_policy_folder(initial.folder), setting.project.pretraining_text
    held_out = prompts_of(records, "valid")
    _needs(held_out, "validation prompts", setting.project)
    limits = setting.preset.ppo
    chosen = prompts_within(load_tokenizer(start), held_out, limits.max_prompt_tokens, console)
    _needs(chosen, "validation prompts within max_prompt_tokens", setting.project)
    chosen = chosen[: setting.preset.evaluate.choice_prompts]
    if step == "ppo_ptx" and not text.exists():
        raise MissingError(
            "PPO-ptx needs pretraining text",
            expected="a folder of plain text",
            got="nothing",
            where=text,
            next_step="add text there, or sweep ppo",
        )

    def train(config: Any, folder: Path) -> None:
        pipeline.ppo(setting, records, config, start, reward.folder, folder=folder, console=console, title=step)

    def measure(config: Any, stage: Stage, stages: Stages) -> dict[str, float]:
        del config
        sampled = [limits.temperature, limits.max_response_tokens, limits.precision, setting.seed]
        validated = stages.run(
            "validation",
            {"trial": stage.fingerprint, "prompts": digest_of_records(chosen), "sampled": sampled},
            lambda folder: _validate(setting, records, chosen, stage.folder, reward.folder, folder, console),
        )
        last = _last_metrics(stage.folder, "reward")
        found = json.loads((validated.folder / "validation.json").read_text(encoding="utf-8"))
        return {"validation_reward": found["validation_reward"], "training_reward": last["reward"], "kl": last["kl"]}

    fingerprints = {
        "initial": initial.fingerprint,
        "reward": reward.fingerprint,
        "text": digest_of_files(text) if step == "ppo_ptx" else None,
        "prompts": digest_of_records(records.prompts.values()),
    }
    return _Inputs(fingerprints, train, measure)


def _validate(
    setting: Setting,
    records: Records,
    prompts: list[Any],
    policy_folder: Path,
    reward_folder: Path,
    folder: Path,
    console: Console,
) -> None:
    """Mean reward of a trained policy's responses to validation prompts, into validation.json.

    Sampled as the project's own settings say, whatever the trial's are: trials are compared under the same conditions.
    """
    limits = setting.preset.ppo
    model, tokenizer = policy_for_inference(policy_folder / "model", limits.precision)
    responses = Answerer(model, tokenizer, limits, setting.project.engine).answer(
        prompts,
        name=policy_folder.name,
        ids=[f"validation-{prompt.id}" for prompt in prompts],
        temperature=limits.temperature,
        seed=setting.seed,
        console=console,
    )
    reward_model = reward_model_for_inference(reward_folder / "model", limits.precision)
    reward = mean_reward(reward_model, tokenizer, records.prompts, responses, max_response_tokens=limits.max_response_tokens)
    pipeline.write_json(folder / "validation.json", {"validation_reward": reward, "prompts": len(prompts)})


def _with(setting: Setting, **configs: Any) -> Setting:
    """The setting with a trial's configuration of one step."""
    return replace(setting, preset=replace(setting.preset, **configs))


def _done(project: Project, name: str, step: str) -> Stage:
    """The newest run of an earlier stage that is done. Raises MissingError where there is none."""
    folders = stage_folders(project.runs, name)
    for number in sorted(folders, reverse=True):
        state = stage_state(folders[number])
        if state.get("done"):
            return Stage(name, folders[number], state["fingerprint"], float(state["seconds"]))
    raise MissingError(
        f"the stage {name} was not done yet: {step} starts from it",
        expected=f"a finished run in {project.runs / name}-1",
        got="none",
        where=project.folder,
        next_step=f"run `heedful align {project.folder}` first",
    )


def _needs(found: Sequence[object], what: str, project: Project) -> None:
    if not found:
        raise DataError(
            f"there are no {what}",
            expected=f"{what}: trials are trained on one split and compared on the other",
            got="none",
            where=project.data,
            next_step=f"import some: `heedful import FORMAT FILE --project {project.folder}`",
        )


def _last_metrics(folder: Path, name: str) -> dict[str, float]:
    """The last line of a trial's metrics.jsonl that has this one."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row for row in map(json.loads, reversed(lines)) if name in row)


def _show(results: Scan, console: Console) -> None:
    """The table of all trials, and the best in one line."""
    names = columns(results["trials"], results["metric"])
    table = Table(title=f"{results['step']}: {results['metric']} ({results['better']} is better)", title_justify="left")
    for heading in (results["field"], *names, "seconds", "folder"):
        table.add_column(heading.replace("_", " "), justify="left" if heading == "folder" else "right")
    for trial in results["trials"]:
        cells = [f"{trial['metrics'][name]:.4g}" if name in trial["metrics"] else "" for name in names]
        if "diverged" in trial:
            cells[0] = "diverged"
        row = [value_text(trial["value"]), *cells, f"{trial['seconds']:.0f}", Path(trial["folder"]).name]
        table.add_row(*row, style="bold" if trial is results["best"] else None)
    console.print(table)
    best = results["best"]
    console.print(
        f"best: {results['field']} = {value_text(best['value'])}, {results['metric'].replace('_', ' ')} "
        f"{best['metrics'][results['metric']]:.4g}"
        if best is not None
        else "every trial diverged: sweep smaller values",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
