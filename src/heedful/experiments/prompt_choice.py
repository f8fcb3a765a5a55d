"""Which prompts are worth labelers' time: those on which reward models disagree most, or random ones?

Both ways get the same number of new prompts and of labelers. Reward models are trained, with several seeds, on round 1's
rankings plus either set, and on round 1's rankings alone. All are measured on rankings of validation prompts, which none of
them has seen. Simulated labelers answer; their answers stay in the experiment's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Literal, TypedDict, get_args

import numpy as np
from rich.console import Console

from heedful import __version__
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import processes_at_once
from heedful.align.round_records import records_of_round
from heedful.align.rounds import Opened, rows_of_round
from heedful.align.running import FinishedStage, Job, Stages
from heedful.align.settings import given_for, setting_of
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import Stage
from heedful.align.steps import step_of
from heedful.align.who_labels import labelers_of
from heedful.errors import ConfigError, MissingError
from heedful.evaluate.results import Estimate, as_estimate
from heedful.evaluate.results_file import save_numbers
from heedful.evaluate.reward_rankings import RankedRecords
from heedful.evaluate.reward_scoring import score_ranked
from heedful.experiments.catalogue import PROMPT_CHOICE
from heedful.experiments.workshop import FOLDER
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.presets import Preset, resolved_preset
from heedful.project.data_folder import Records
from heedful.project.ended_rounds import ended_rounds
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.selection import training_rankings
from heedful.records import Ranking
from heedful.statistics import bootstrap_ratio

Arm = Literal["round 1 alone", "random", "disagreement"]
ARMS: tuple[Arm, ...] = get_args(Arm)
_DIFFERENCES: tuple[tuple[Arm, Arm], ...] = (("disagreement", "random"), ("random", "round 1 alone"))


class Compared(TypedDict):
    """Two ways compared: the difference of their accuracies, paired by prompt."""

    way: str
    against: str
    difference: Estimate


class ArmResult(TypedDict):
    """Reward models on one set of rankings. ``accuracy`` is the mean over seeds; its interval is over prompts."""

    way: str
    rankings: int
    """How many rankings they learned from."""
    accuracy: Estimate
    by_seed: list[float]


class PromptChoice(TypedDict):
    """``results.json`` of this experiment."""

    heedful: str
    project: str
    labelers: str
    seeds: int
    measured_prompts: int
    arms: list[ArmResult]
    compared: list[Compared]
    notes: list[str]


@dataclass(slots=True)
class _Bench:
    """Round 2, tried in two ways, and what its stages need."""

    project: Project
    preset: Preset
    labelers: SimulatedLabelers
    opened: Opened
    stages: Stages
    answers: SimulatedLabelers
    """The same labelers with the experiment's own labeling database."""

    def rows(self, choose: Literal["random", "disagreement"]) -> tuple[Preset, dict[str, Stage]]:
        preset = replace(self.preset, rounds=replace(self.preset.rounds, choose=choose))
        rows = rows_of_round(self.opened, preset.rounds, with_text=True, new_demonstrations=False)
        return preset, {row.name: row for row in rows}

    def run(self, row: Stage, preset: Preset, done: Mapping[str, FinishedStage]) -> FinishedStage:
        """Run a stage of the round in the experiment's folder."""
        return self.stages.run_side_by_side([self.job(row, preset, done)], processes=1)[0]

    def job(self, row: Stage, preset: Preset, done: Mapping[str, FinishedStage], *, seed: int = 0) -> Job:
        """A stage of the round, not run yet."""
        records = self.records(done)
        setting = replace(setting_of(self.project, preset, self.labelers, records), labelers=self.answers)
        given = given_for(row, setting, records, {name: finished.folder for name, finished in done.items()})
        if seed:
            given = replace(given, config=replace(given.config, seed=given.config.seed + seed))
        inputs = fingerprint_inputs(given, records, {name: finished.fingerprint for name, finished in done.items()})
        return Job(name=row.name, inputs=inputs, action=partial(step_of(row), given))

    def records(self, done: Mapping[str, FinishedStage]) -> Records:
        folders = {name: finished.folder for name, finished in done.items()}
        return records_of_round(self.project, self.labelers, self.opened, folders, self.labelers.known(folders.get("collect")))


def prompt_choice(project: Project, seeds: int, console: Console) -> Path:
    """Label, train and measure what is left to do; print the comparison; return the path of results.json.

    Raises ConfigError if labelers are not simulated or there are no seeds, MissingError if round 1 is not over, BusyError.
    """
    with alone_in(project.runs):
        keep_large_temporaries()
        bench, done = _opened(project, seeds, console)
        measured, rights = _measured(bench, done, seeds)
        found = summary(project.name, seeds, rights, measured)
        path = project.folder / FOLDER / PROMPT_CHOICE / "results.json"
        save_numbers(path, found)
        console.print(in_words(found), highlight=False, markup=False, soft_wrap=True)
        return path


def _opened(project: Project, seeds: int, console: Console) -> tuple[_Bench, dict[str, FinishedStage]]:
    labelers, ended = labelers_of(project), ended_rounds(project.runs)
    if not isinstance(labelers, SimulatedLabelers):
        raise ConfigError(
            "this experiment asks for the same rankings twice, in two ways",
            expected="simulated labelers",
            got=f"labelers = {project.labelers!r}",
            where=project.config_file,
            next_step="run it on the miniature: `heedful experiment prompt-choice`",
        )
    if seeds < 1:
        raise ConfigError("an experiment needs a seed", expected="at least 1", got=str(seeds))
    if not ended:
        raise MissingError(
            "round 1 is not over",
            expected="a project that `heedful align` has aligned",
            got="no file round-1.json",
            where=project.runs,
            next_step=f"run `heedful align {project.folder}` first",
        )
    folder = project.folder / FOLDER / PROMPT_CHOICE
    folder.mkdir(parents=True, exist_ok=True)
    opened = Opened(number=2, earlier=(ended[0],))
    answers = replace(labelers, project=replace(project, folder=folder))
    bench = _Bench(project, resolved_preset(project), labelers, opened, Stages(folder / "runs", console), answers)
    return bench, {name: FinishedStage(name, run.folder, run.fingerprint, 0.0) for name, run in opened.runs.items()}


def _measured(
    bench: _Bench, done: dict[str, FinishedStage], seeds: int
) -> tuple[list[Ranking], dict[Arm, tuple[int, list[dict[str, tuple[float, int]]]]]]:
    """The rankings to measure on; and for each way, how many rankings it learned from and its right comparisons by seed."""
    first, ways = dict(done), {}
    for choose in ("random", "disagreement"):
        preset, rows = bench.rows(choose)
        done = dict(first)
        for name, row in rows.items():
            if name.partition("_2")[0] in ("prompts", "member", "collect"):
                done[name] = bench.run(row, preset, done)
        ways[choose] = preset, rows["reward_2"], done
    preset, row, done = ways["random"]
    ways["round 1 alone"] = preset, row, {name: one for name, one in done.items() if name != "collect_2"}
    records = bench.records(done)
    measured = [
        one for one in records.rankings.values() if records.prompts[one.prompt_id].split == "valid" and len(set(one.ranks)) > 1
    ]
    jobs = [bench.job(row, preset, own, seed=seed) for preset, row, own in map(ways.__getitem__, ARMS) for seed in range(seeds)]
    models = bench.stages.run_side_by_side(jobs, processes=processes_at_once(bench.project))
    found: dict[Arm, tuple[int, list[dict[str, tuple[float, int]]]]] = {}
    for place, arm in enumerate(ARMS):
        own_models = models[place * seeds : (place + 1) * seeds]
        scores = [_scores(bench, records, measured, one.folder / "model") for one in own_models]
        learned = len(training_rankings(bench.records(ways[arm][2]), "train"))
        found[arm] = learned, [right_by_prompt(measured, one) for one in scores]
    return measured, found


def _scores(bench: _Bench, records: Records, measured: Sequence[Ranking], model: Path) -> dict[str, float]:
    limits = bench.preset.reward
    ranked = RankedRecords(prompts=records.prompts, responses=records.responses, rankings=measured, source=bench.project.name)
    return score_ranked(
        reward_model_for_inference(model, limits.precision),
        load_tokenizer(model),
        ranked,
        template=bench.project.template,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_response_tokens=limits.max_response_tokens,
    ).by_response


def right_by_prompt(rankings: Sequence[Ranking], scores: Mapping[str, float]) -> dict[str, tuple[float, int]]:
    """By prompt: how many comparisons the scores order as the labelers did (equal scores count half), and of how many."""
    found: dict[str, tuple[float, int]] = {}
    for ranking in rankings:
        right, count = found.get(ranking.prompt_id, (0.0, 0))
        for (one, rank), (other, other_rank) in combinations(zip(ranking.response_ids, ranking.ranks, strict=True), 2):
            if rank != other_rank and one in scores and other in scores:
                agreement = (scores[one] - scores[other]) * (other_rank - rank)
                right, count = right + (1.0 if agreement > 0 else 0.5 if agreement == 0 else 0.0), count + 1
        found[ranking.prompt_id] = right, count
    return found


def summary(
    project: str,
    seeds: int,
    rights: Mapping[Arm, tuple[int, Sequence[Mapping[str, tuple[float, int]]]]],
    measured: Sequence[Ranking],
) -> PromptChoice:
    """Accuracies and their differences, with intervals over prompts."""
    prompts = list(dict.fromkeys(one.prompt_id for one in measured))
    counts = np.array([rights[ARMS[0]][1][0][name][1] for name in prompts])
    means = {
        arm: np.array([fmean(seed[name][0] for seed in of_seed) for name in prompts]) for arm, (_, of_seed) in rights.items()
    }
    return {
        "heedful": __version__,
        "project": project,
        "labelers": "simulated",
        "seeds": seeds,
        "measured_prompts": len(prompts),
        "arms": [
            {
                "way": arm,
                "rankings": rights[arm][0],
                "accuracy": as_estimate(bootstrap_ratio(means[arm], counts)),
                "by_seed": [sum(seed[name][0] for name in prompts) / int(counts.sum()) for seed in rights[arm][1]],
            }
            for arm in ARMS
        ],
        "compared": [
            {"way": way, "against": against, "difference": as_estimate(bootstrap_ratio(means[way] - means[against], counts))}
            for way, against in _DIFFERENCES
        ],
        "notes": [
            "intervals are over validation prompts; by_seed shows how much reward models with other seeds differ",
            "both ways get the same number of prompts and of labelers",
        ],
    }


def in_words(found: PromptChoice) -> str:
    """The comparison in words."""
    lines = [f"accuracy on the rankings of {found['measured_prompts']:,} unseen prompts, {found['seeds']} reward models each:"]
    for arm in found["arms"]:
        one = arm["accuracy"]
        seeds = ", ".join(f"{100 * value:.1f}" for value in arm["by_seed"])
        lines.append(
            f"  {arm['way']:<14} {100 * one['value']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f}), "
            f"{arm['rankings']:,} rankings; by seed {seeds}"
        )
    for pair in found["compared"]:
        one = pair["difference"]
        verdict = "more" if one["low"] > 0 else "fewer" if one["high"] < 0 else "neither clearly more nor clearly fewer"
        lines.append(
            f"  {pair['way']} against {pair['against']}: {100 * one['value']:+.1f} points "
            f"({100 * one['low']:+.1f} to {100 * one['high']:+.1f}): it orders {verdict} comparisons as labelers do"
        )
    return "\n".join(lines)
