"""``heedful sweep``: one training step with several values of one field, as the paper chose its learning rates (SPEC 3.2-3.5).

Each trial is a stage in ``sweeps/<step>-<field>/``: it runs once for the same inputs, continues after a kill, and is kept if
the grid grows. If its loss is no longer a finite number, a trial has *diverged*. That is a result, and the next trial follows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from heedful import __version__
from heedful.align.before_training import check_before_training
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import processes_at_once
from heedful.align.running import FinishedStage, Job, Stages
from heedful.align.settings import Given, given_for, setting_of, write_json
from heedful.align.stages import config_of, stage
from heedful.align.train_stages import initial_policy_of
from heedful.align.trial_stages import earlier_runs, newest_run, train_or_diverge, why_diverged
from heedful.align.trials import Spacing, trial_configs
from heedful.align.who_labels import labelers_of
from heedful.errors import DataError, MissingError
from heedful.evaluate.scan import Scan, Trial, columns, value_text, write_scan
from heedful.model.answering import Answerer, mean_reward, prompts_within
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.presets import records_and_refusals, resolved_preset
from heedful.project.fingerprints import digest_of_records
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.selection import demonstrations_of, prompts_of, training_rankings
from heedful.records import Prompt

Step = Literal["sft", "reward", "ppo", "ppo_ptx"]
"""The stages that have a measure in the table."""


def sweep(
    project: Project, step: Step, field: str, values: Sequence[float], console: Console, *, spacing: Spacing = "geometric"
) -> Path:
    """Run all trials that are not done, then write results.json and report.html beside them; returns the report.

    It does not run earlier stages, but uses what `heedful align` made last. Raises ConfigError (see
    :func:`heedful.align.trials.trial_configs`), MissingError if an earlier stage has not run, DataError without validation
    data, BusyError if another process works in the project, StorageError.
    """
    with alone_in(project.runs):
        return _sweep(project, step, field, values, console, spacing)


def _sweep(project: Project, step: Step, field: str, values: Sequence[float], console: Console, spacing: Spacing) -> Path:
    keep_large_temporaries()
    row, preset = stage(step), resolved_preset(project)
    assert row.measure is not None
    metric, better = row.measure
    configs = trial_configs(config_of(row, preset), step, field, values)
    collected = newest_run(project, "collect")
    labelers = labelers_of(project)
    known = labelers.known(None if collected is None else collected.folder)
    records, refusals = records_and_refusals(project, preset, known)
    earlier = earlier_runs(project, row, preset, labelers, records, refusals)
    runs = {name: finished.folder for name, finished in earlier.items()}
    setting = setting_of(project, preset, labelers, records, refusals)
    for config in configs.values():
        check_before_training(replace(setting, preset=replace(preset, **{str(row.config): config})), records)
    given = given_for(row, setting, records, runs)
    validation = _VALIDATION[metric](given, console)
    fingerprints = {name: finished.fingerprint for name, finished in earlier.items()}
    inputs = fingerprint_inputs(given, records, fingerprints)
    if isinstance(validation, list):
        inputs["prompts"] = digest_of_records(records.prompts.values())

    folder = project.folder / "sweeps" / f"{step}-{field}"
    stages = Stages(folder, console)
    trials: list[Trial] = []
    jobs = [
        Job(name=step, inputs={**inputs, "config": config}, action=partial(train_or_diverge, replace(given, config=config)))
        for config in configs.values()
    ]
    runs_of_trials = stages.run_side_by_side(jobs, processes=processes_at_once(project))
    for number, ((value, config), finished) in enumerate(zip(configs.items(), runs_of_trials, strict=True), start=1):
        console.print(f"trial {number} of {len(configs)}: {field} = {value_text(value)}", highlight=False)
        trial = replace(given, config=config)
        found: Trial = {
            "value": value,
            "folder": finished.folder.relative_to(project.folder).as_posix(),
            "seconds": round(finished.seconds, 2),
            "metrics": {},
        }
        if (reason := why_diverged(finished.folder)) is not None:
            found["diverged"] = reason
        else:
            found["metrics"] = _METRICS[metric](trial, validation, finished, stages)
        trials.append(found)

    sign = 1 if better == "lower" else -1
    measured = [trial for trial in trials if "diverged" not in trial]
    results: Scan = {
        "heedful": __version__,
        "project": project.name,
        "labelers": labelers.marked,
        "step": step,
        "field": field,
        "metric": metric,
        "better": better,
        "spacing": spacing,
        "trials": trials,
        "best": min(measured, key=lambda trial: sign * trial["metrics"][metric], default=None),
    }
    write_json(folder / "results.json", results)
    write_scan(results, folder / "report.html")
    _show(results, console)
    return folder / "report.html"


# ---------------------------------------------------------------------------------------------------- what trials compare


def _demonstrations(given: Given, console: Console) -> None:
    del console
    _needs(demonstrations_of(given.records, "train"), "demonstrations", given.setting.project)
    _needs(demonstrations_of(given.records, "valid"), "validation demonstrations", given.setting.project)


def _rankings(given: Given, console: Console) -> None:
    del console
    _needs(training_rankings(given.records, "train"), "rankings", given.setting.project)
    _needs(training_rankings(given.records, "valid"), "validation rankings", given.setting.project)


def _prompts(given: Given, console: Console) -> list[Prompt]:
    """The validation prompts on which trials of PPO are compared."""
    project, text = given.setting.project, given.setting.project.pretraining_text
    start = initial_policy_of(given)
    held_out = prompts_of(given.records, "valid")
    _needs(held_out, "validation prompts", project)
    limits = given.setting.preset.ppo
    chosen = prompts_within(load_tokenizer(start), held_out, limits.max_prompt_tokens, console, project.template)
    _needs(chosen, "validation prompts within max_prompt_tokens", project)
    if given.stage.needs["text"] is not None and not text.exists():
        raise MissingError(
            "PPO-ptx needs pretraining text",
            expected="a folder of plain text",
            got="nothing",
            where=text,
            next_step="add text there, or sweep ppo",
        )
    return chosen[: given.setting.preset.evaluate.choice_prompts]


_VALIDATION: Mapping[str, Callable[[Given, Console], list[Prompt] | None]] = {
    "validation_loss": _demonstrations,
    "validation_accuracy": _rankings,
    "validation_reward": _prompts,
}
"""Metric -> a check that there is data to train and validate on. It returns prompts if validation needs answers to them."""


def _loss(given: Given, prompts: list[Prompt] | None, trial: FinishedStage, stages: Stages) -> dict[str, float]:
    del given, prompts, stages
    rows = json.loads((trial.folder / "candidates.json").read_text(encoding="utf-8"))
    best = min(rows, key=lambda row: row["validation_loss"])
    return {"validation_loss": best["validation_loss"], "epoch": best["epoch"]}


def _accuracy(given: Given, prompts: list[Prompt] | None, trial: FinishedStage, stages: Stages) -> dict[str, float]:
    del given, prompts, stages
    last = _last_metrics(trial.folder, "validation_accuracy")
    return {name: last[name] for name in ("validation_accuracy", "validation_loss")}


def _reward(given: Given, prompts: list[Prompt] | None, trial: FinishedStage, stages: Stages) -> dict[str, float]:
    assert prompts is not None
    limits = given.setting.preset.ppo
    sampled = [limits.temperature, limits.max_response_tokens, limits.precision, given.setting.seed]
    validated = stages.run(
        "validation",
        {"trial": trial.fingerprint, "prompts": digest_of_records(prompts), "sampled": sampled},
        lambda folder: _validate(given, prompts, trial.folder, folder=folder, console=stages.console),
    )
    last = _last_metrics(trial.folder, "reward")
    found = json.loads((validated.folder / "validation.json").read_text(encoding="utf-8"))
    return {"validation_reward": found["validation_reward"], "training_reward": last["reward"], "kl": last["kl"]}


_METRICS: Mapping[str, Callable[[Given, list[Prompt] | None, FinishedStage, Stages], dict[str, float]]] = {
    "validation_loss": _loss,
    "validation_accuracy": _accuracy,
    "validation_reward": _reward,
}
"""Metric -> the function that measures a finished trial."""


def _validate(given: Given, prompts: list[Prompt], policy_folder: Path, *, folder: Path, console: Console) -> None:
    """Write the mean reward of a trained policy's responses to validation prompts to validation.json.

    Responses are sampled with the project's own settings, not the trial's, to compare all trials under the same conditions.
    """
    setting, limits = given.setting, given.setting.preset.ppo
    model, tokenizer = policy_for_inference(policy_folder / "model", limits.precision)
    responses = Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
        prompts,
        name=policy_folder.name,
        ids=[f"validation-{prompt.id}" for prompt in prompts],
        temperature=limits.temperature,
        seed=setting.seed,
        console=console,
    )
    reward_model = reward_model_for_inference(given.model_of("reward"), limits.precision)
    answered = given.records.prompts
    reward = mean_reward(
        reward_model,
        tokenizer,
        answered,
        responses,
        max_response_tokens=limits.max_response_tokens,
        template=setting.template,
        console=console,
    )
    write_json(folder / "validation.json", {"validation_reward": reward, "prompts": len(prompts)})


def _needs(found: Sequence[object], what: str, project: Project) -> None:
    if not found:
        raise DataError(
            f"there are no {what}",
            expected=f"{what}, because trials are trained on one split and compared on the other",
            got="none",
            where=project.data,
            next_step=f"import some: `heedful import FORMAT FILE --project {project.folder}`",
        )


def _last_metrics(folder: Path, name: str) -> dict[str, float]:
    """The last line of a trial's metrics.jsonl that has this metric."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row for row in map(json.loads, reversed(lines)) if name in row)


def _show(results: Scan, console: Console) -> None:
    """Print the table of all trials, and the best one in a line."""
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
