"""``heedful align``: all stages in order, like make. What is done is not done again; what is missing is said exactly."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from heedful.align import evaluation, pipeline
from heedful.align.evaluation import Contender
from heedful.align.prefixes import candidate_prefixes
from heedful.align.processes import cores, import_ahead, peak_memory
from heedful.align.running import Job, Stage, Stages
from heedful.align.settings import Setting, resolved_preset
from heedful.align.simulated import recorded
from heedful.align.status import in_the_browser
from heedful.errors import ConfigError
from heedful.evaluate.report import write_report
from heedful.evaluate.results import Timings, save_results, save_timings
from heedful.miniature.benchmark_items import benchmarks
from heedful.miniature.invented_world import World
from heedful.miniature.panel import Panel
from heedful.miniature.preparation import WORLD_SEED, miniature_prompts, write_pretraining_text
from heedful.miniature.tasks import few_shot_prefixes
from heedful.model import generator, keep_large_temporaries
from heedful.model.inference import first_device
from heedful.presets import Preset
from heedful.project.data_folder import Records
from heedful.project.files import read_jsonl
from heedful.project.fingerprints import digest_of_files
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.selection import digest_of_demonstrations, digest_of_rankings, training_rankings, without_labels
from heedful.ranks.collectives import all_gather
from heedful.ranks.rank_zero import on_rank_zero
from heedful.ranks.world import across_ranks, world

BENCHMARK_SEED = 21


@across_ranks
def align(project: Project, console: Console) -> Path | None:
    """Run every stage that the data allows; returns the report, or None where people have to label first (it says what).

    Raises UserError for what the user must mend (BusyError where another process is at work in the project), NumericalError,
    StorageError. Interrupted at any point, it continues when called again. Under ``torchrun`` all ranks call it, each with the
    same project; all but rank 0 with a quiet console.
    """
    with alone_in(project.runs) if world().is_rank_zero else nullcontext():
        return _align(project, console)


def _align(project: Project, console: Console) -> Path | None:
    keep_large_temporaries()
    processes = min(project.processes, cores()) if first_device().type == "cpu" and world().size == 1 else 1
    if processes > 1:
        import_ahead()
    stages = Stages(project.runs, console)
    base_model = project.model_folder(project.base_model)
    small_model = None if project.small_model is None else project.model_folder(project.small_model)
    simulated = project.labelers == "simulated"
    data: Stage | None = None
    if simulated:
        data = stages.run("data", {"seed": project.seed}, lambda f: _write_data(project, f))
    records = pipeline.records_of(project)
    reward_start = None if project.reward_start is None else project.model_folder(project.reward_start)
    setting = project_setting(project, base_model, small_model, reward_start, records)
    preset = setting.preset
    _refuse_adapters(preset)
    if not records.demonstrations:
        _missing(
            console,
            "demonstrations",
            f"{len(records.prompts):,} prompts wait for labelers' answers: import some with "
            f"`heedful import FORMAT FILE --project {project.folder}`",
        )
        return None

    inputs = {
        "base": _digest(base_model),
        "data": data.fingerprint if data else digest_of_demonstrations(records),
        "text": _digest(project.pretraining_text) if project.pretraining_text.exists() else None,
    }
    supervised = {key: inputs[key] for key in ("base", "data")}
    sft = stages.run("sft", {**supervised, "config": preset.sft}, lambda f: pipeline.sft(setting, records, f, console))

    starts = {"": base_model} if small_model is None else {"": base_model, "_small": small_model}
    initial_policies = [_initial_policy(setting, records, start, suffix, inputs) for suffix, start in starts.items()]
    initial: list[Stage] = []
    if simulated or not training_rankings(records, "train"):
        collecting = Job(
            name="collect",
            inputs={"sft": sft.fingerprint, "config": preset.collect},
            action=partial(pipeline.collect, setting, records, sft.folder),
        )
        # People who have to rank now should not wait for a policy that is needed later.
        beside = initial_policies if simulated else []
        collect, *initial = stages.run_side_by_side([collecting, *beside], processes=processes)
        records = pipeline.collected(collect.folder, records)
        tasks = project.tasks / "ranking.jsonl"
        ranked = collect.fingerprint
        if not training_rankings(records, "train"):
            _missing(
                console,
                "rankings",
                f"{len(list(read_jsonl(tasks))):,} ranking tasks wait in {tasks}: fill in ranks and labeler of each, then "
                f"`heedful import heedful {tasks} --project {project.folder}`; {in_the_browser(project.folder)}",
            )
            return None
    else:
        ranked = digest_of_rankings(records)

    rewarding = Job(
        name="reward",
        inputs={
            "sft": sft.fingerprint,
            "start": None if reward_start is None else _digest(reward_start),
            "rankings": ranked,
            "config": preset.reward,
        },
        action=partial(pipeline.reward, setting, records, sft.folder),
    )
    # Alone, but in a process that gives its memory back before the policies' processes need theirs.
    [reward] = stages.run_side_by_side([rewarding], processes=processes)
    answering = without_labels(records)
    choosing = [
        Job(
            name="choose_sft",
            inputs={"sft": sft.fingerprint, "reward": reward.fingerprint, "config": preset.evaluate},
            action=partial(pipeline.choose_sft, setting, answering, sft.folder, reward.folder),
        )
    ]
    if setting.prefixes:
        choosing.append(
            Job(
                name="choose_prefix",
                inputs={
                    **supervised,
                    "reward": reward.fingerprint,
                    "config": preset.evaluate,
                    "prefixes": setting.prefixes,
                },
                action=partial(pipeline.choose_prefix, setting, answering, reward.folder),
            )
        )
    choice, *prefixes = stages.run_side_by_side(choosing, processes=processes)
    prefix = prefixes[0] if prefixes else None
    contenders = [Contender("base", base_model)]
    if prefix is not None:
        contenders.append(Contender("prompted_base", base_model, pipeline.chosen_prefix(prefix.folder)))
    contenders.append(Contender("sft", pipeline.chosen_sft(sft.folder, choice.folder)))

    runs = {"sft": sft.folder, "reward": reward.folder}
    initial = initial or stages.run_side_by_side(initial_policies, processes=processes)
    policies = [
        _policy(setting, records, name, suffix, start, reward, inputs)
        for suffix, start in zip(starts, initial, strict=True)
        for name in (("ppo_ptx",) if suffix else ("ppo", "ppo_ptx"))
    ]
    if not project.pretraining_text.exists() and preset.ppo.ptx_coefficient:
        console.print(f"no pretraining text in {project.pretraining_text}: ppo_ptx is left out", highlight=False)
        policies = [job for job in policies if not job.name.startswith("ppo_ptx")]
    for stage in stages.run_side_by_side(policies, processes=processes):
        runs[stage.name] = stage.folder
        contenders.append(Contender(stage.name, stage.folder / "model"))
    if small_model is not None:
        place = next((i for i, c in enumerate(contenders) if c.name == "ppo_ptx_small"), len(contenders))
        contenders.insert(place, Contender("base_small", small_model))

    evaluated = stages.run(
        "evaluate",
        {"models": [s.fingerprint for s in stages.done], "config": preset.evaluate},
        lambda f: evaluation.evaluate(setting, records, contenders, reward.folder, f, console),
    )
    results = evaluation.assemble(
        setting,
        records,
        evaluation=evaluated.folder,
        reward_folder=reward.folder,
        choice=choice.folder,
        prefix=None if prefix is None else prefix.folder,
        runs=runs,
    )
    timings = _timings(stages)
    report = project.folder / "report.html"

    def save() -> None:
        save_results(project.folder / "results.json", results)
        save_timings(project.folder / "timings.json", timings)
        write_report(results, timings, report)

    on_rank_zero(save)
    if setting.labelers is None and "preference" not in results:
        tasks = project.tasks / "evaluation.jsonl"
        _missing(
            console,
            "evaluation by people",
            f"tasks for labelers who ranked nothing for training wait in {tasks}: fill in ranks and labeler, then "
            f"`heedful import heedful {tasks} --project {project.folder}`; {in_the_browser(project.folder)}; "
            "the report goes without win rates until then",
        )
    return report


def project_setting(
    project: Project, base_model: Path, small_model: Path | None, reward_start: Path | None, records: Records
) -> Setting:
    """What the stages need to know about a project. Raises ConfigError for a value in heedful.toml that is not right."""
    preset = resolved_preset(project)
    for engine in (project.engine, preset.ppo.engine):
        generator(engine)  # refused before hours of training where it cannot be had
    world = World(WORLD_SEED) if project.labelers == "simulated" else None
    return Setting(
        project=project,
        preset=preset,
        base_model=base_model,
        small_model=small_model,
        reward_start=reward_start,
        labelers=Panel(world, seed=project.seed) if world else None,
        benchmarks=tuple(benchmarks(world, seed=BENCHMARK_SEED, items=preset.evaluate.benchmark_items)) if world else (),
        prefixes=tuple(few_shot_prefixes(world, seed=project.seed))
        if world
        else candidate_prefixes(records.prompts, list(records.demonstrations.values()), seed=project.seed),
    )


def _initial_policy(setting: Setting, records: Records, start: Path, suffix: str, inputs: Mapping[str, Any]) -> Job:
    name = f"initial_policy{suffix}"
    return Job(
        name=name,
        inputs={**inputs, "base": _digest(start), "config": setting.preset.initial_policy},
        action=partial(pipeline.initial_policy, setting, without_labels(records), start, title=name),
    )


def _policy(
    setting: Setting, records: Records, variant: str, suffix: str, initial: Stage, reward: Stage, inputs: Mapping[str, Any]
) -> Job:
    """PPO, or PPO-ptx, from an initial policy against the one reward model (SPEC 3.5, 3.6)."""
    name = f"{variant}{suffix}"
    config = setting.preset.ppo if variant == "ppo_ptx" else replace(setting.preset.ppo, ptx_coefficient=0.0)
    return Job(
        name=name,
        inputs={
            "initial": initial.fingerprint,
            "reward": reward.fingerprint,
            "config": config,
            "text": inputs["text"] if config.ptx_coefficient else None,
        },
        action=partial(
            pipeline.ppo,
            setting,
            without_labels(records),
            config,
            pipeline.initial_policy_folder(initial.folder),
            reward.folder,
            title=name,
        ),
    )


def _digest(path: Path) -> str:
    return on_rank_zero(lambda: digest_of_files(path))  # a base model is read once, not by every rank


def _refuse_adapters(preset: Preset) -> None:
    """Before hours of training: :func:`heedful.training.sharding.shard` would refuse them only then."""
    adapted = [name for name in ("sft", "initial_policy", "reward", "ppo") if getattr(preset, name).lora_rank]
    if world().size > 1 and adapted:
        raise ConfigError(
            "adapters (LoRA) cannot be trained under torchrun yet",
            expected="lora_rank = 0, or one process",
            got=f"lora_rank > 0 in [{'], ['.join(adapted)}] on {world().size} ranks",
            next_step="set lora_rank = 0, or start without torchrun",
        )


def _missing(console: Console, what: str, detail: str) -> None:
    console.print(f"waiting for {what}:", style="bold yellow", end=" ")
    console.print(detail, markup=False, highlight=False, soft_wrap=True)


def _write_data(project: Project, folder: Path) -> None:
    """The miniature's users write prompts, its labelers demonstrations; and the text that base models are trained on."""
    if not world().is_rank_zero:
        return
    miniature = World(WORLD_SEED)
    write_pretraining_text(project.data / "pretraining", miniature, seed=project.seed)
    prompts, to_demonstrate = miniature_prompts(miniature, seed=project.seed)
    panel = Panel(miniature, seed=project.seed)
    works = map(panel.demonstrate, to_demonstrate)
    with recorded(project, works, run=folder.name, groups=panel.groups, prompts=to_demonstrate) as answers:
        Records.of([*prompts, *answers.demonstrations()]).save(project.data)


def _timings(stages: Stages) -> Timings:
    ranks = f", {world().size} ranks" if world().size > 1 else ""
    return {
        "stages": [{"stage": s.name, "seconds": round(s.seconds, 2)} for s in stages.done],
        "total_seconds": round(sum(s.seconds for s in stages.done), 2),
        "peak_memory_bytes": max(sum(all_gather(peak_memory())), stages.most_memory),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores{ranks}, torch {torch.__version__}",
    }
