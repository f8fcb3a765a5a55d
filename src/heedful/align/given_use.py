"""Record in each stage's folder what it was given, for `heedful lineage`. This changes neither fingerprints nor results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from heedful.align.settings import Given, needs_of
from heedful.align.stages import Input, met_by
from heedful.lineage.use_record import UseRecord, code_version, ids_given, labels_given, write_use
from heedful.project.data_folder import Records
from heedful.project.runs import records_in
from heedful.project.selection import demonstrations_of, prompts_for_policy, prompts_of, training_rankings
from heedful.ranks.world import world
from heedful.records import Demonstration, Prompt, Ranking, Split

_FILES: tuple[Input, ...] = ("base_model", "small_model", "reward_start", "pretraining_text")


def with_use_record(
    step: Callable[..., None], given: Given, inputs: Mapping[str, Any], *, folder: Path, console: Console
) -> None:
    """Write what a stage is given into its folder, then do its step. ``inputs``: the inputs of its fingerprint."""
    if world().is_rank_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_use(folder, use_record(given, inputs))
    step(given, folder=folder, console=console)


def use_record(given: Given, inputs: Mapping[str, Any]) -> UseRecord:
    """The record of what a stage is given. ``inputs``: the inputs of its fingerprint."""
    stage, template = given.stage, given.setting.template
    version, sources, commit = code_version()
    labels = _labels(given)
    return UseRecord(
        heedful=version,
        sources=sources,
        commit=commit,
        parents=_parents(given, labels),
        inputs=_files(given, inputs),
        template=template if template in ("plain", "chat") else hashlib.sha256(template.encode()).hexdigest()[:16],
        asks=stage.asks,
        makes=None if stage.makes is None else stage.makes.name,
        records=ids_given(_prompts(given), labels),
        **labels_given(labels),
    )


def _parents(given: Given, labels: Iterable[Demonstration | Ranking]) -> dict[str, str]:
    """The earlier runs that a stage needs, and those whose folders hold its labels."""
    needs, runs = needs_of(given), given.runs
    if "models" in needs.values():
        return {name: folder.name for name, folder in runs.items()}
    found = {key: met_by(need, runs) for key, need in needs.items() if need is not None}
    parents = {key: runs[name].name for key, name in found.items() if name in runs}
    wanted = {label.id for label in labels}
    for folder in sorted(given.setting.project.runs.glob("*-*")) if wanted else ():
        for kind in ("demonstration", "ranking"):
            if folder.name not in parents.values() and any(one.id in wanted for one in records_in(folder, kind)):
                parents[f"{kind}s of {folder.name}"] = folder.name
    return parents


def _files(given: Given, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The project's models and text that a stage needs, except where an earlier run replaces them."""
    setting = given.setting
    found: dict[str, dict[str, Any]] = {}
    for key, need in needs_of(given).items():
        name = None if need is None else met_by(need, given.runs)
        if name in _FILES and name in get_args(Input) and inputs.get(key) is not None:
            path = setting.project.pretraining_text if name == "pretraining_text" else getattr(setting, name)
            found[name] = {"path": str(path), "digest": str(inputs[key])}
    return found


def _labels(given: Given) -> list[Demonstration | Ranking]:
    needs, records = needs_of(given).values(), given.records
    ranked = "rankings" in needs or given.stage.reads_rankings
    splits: tuple[Split, ...] = ("train", "valid")
    found: list[Demonstration | Ranking] = []
    for split in splits:
        found += demonstrations_of(records, split) if "demonstrations" in needs else []
        found += training_rankings(records, split) if ranked else []
    refusals = given.setting.refusals
    if refusals is not None and ("refusals" in needs or "refusal_prompts" in needs):
        found += [one for one in refusals.demonstrations() if one.id in refusals.records.demonstrations]
    if "refusal_comparisons" in needs and (run := given.runs.get("refusal_comparisons")) is not None:
        found += records_in(run, "ranking")
    return found


def _prompts(given: Given) -> list[Prompt]:
    """The prompts that a stage chooses from, including those that are too long."""
    return [*_marked_prompts(given), *_ordinary_prompts(given)]


def _marked_prompts(given: Given) -> list[Prompt]:
    refusals, needs = given.setting.refusals, needs_of(given).values()
    if refusals is None:
        return []
    if "held_out_refusals" in needs:
        return refusals.held_out_prompts()
    return refusals.training_prompts() if "refusals" in needs or "refusal_prompts" in needs else []


def _ordinary_prompts(given: Given) -> list[Prompt]:
    records = given.records
    if given.stage.name in ("refusal_comparisons", "refusal_check"):
        return []
    match given.stage.config:
        case "sft" | "initial_policy" | "reward" | "reward_by_group" | "dpo" | "cloning" | "task_mixture":
            return []
        case "collect" | "ppo" | "expert_iteration":
            return [*prompts_for_policy(records, prompts_of(records, "train"))[0], *prompts_of(records, "valid")]
        case "best_of_n":
            return [*prompts_of(records, "test"), *prompts_of(records, "valid")]
        case "evaluate":
            held_out = prompts_of(records, "valid")
            return held_out if "models" not in given.stage.needs.values() else [*prompts_of(records, "test"), *held_out]
        case _:
            return _all(records)


def _all(records: Records) -> list[Prompt]:
    return list(records.prompts.values())
