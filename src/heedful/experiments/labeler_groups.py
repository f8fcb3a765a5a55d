"""Does a reward model generalize to labelers it never saw? Cross-validation over groups of labelers (SPEC 4.6, E.2).

Training labelers are dealt into five groups. For each group, reward models with several seeds learn from the rankings of the
other four. They are measured on prompts that no reward model learned from: on rankings by the labelers who taught them
(within), and by the group that was left out (across).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

from rich.console import Console

from heedful import __version__
from heedful.align.inputs import fingerprint_inputs
from heedful.align.processes import processes_at_once
from heedful.align.running import FinishedStage, Job
from heedful.align.settings import Given, write_json
from heedful.align.stages import stage
from heedful.align.train_stages import reward
from heedful.align.trial_stages import newest_run
from heedful.errors import ConfigError, DataError
from heedful.evaluate import paper
from heedful.evaluate.reward_rankings import RankedRecords
from heedful.evaluate.reward_scoring import score_ranked
from heedful.experiments.catalogue import LABELER_GROUPS
from heedful.experiments.workshop import FOLDER, Workshop, check_workshop, open_workshop
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import Records
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.selection import training_rankings
from heedful.records import Ranking
from heedful.statistics import pair_accuracy, ranked_pairs

NUM_GROUPS = 5
STAGE = "labeler_group_reward"


class Fold(TypedDict):
    """One reward model: the group that was left out, and how often the model is right."""

    left_out: int
    labelers: list[str]
    """The labelers of the group that was left out."""
    seed: int
    training_rankings: int
    within: float
    """Share of pairs that it orders as the labelers who taught it do."""
    within_pairs: int
    across: float
    """The same for the group that was left out."""
    across_pairs: int


class MeanAccuracy(TypedDict):
    """Mean over groups, after averaging the seeds of a group. The standard error is that of the groups' means."""

    mean: float
    standard_error: float | None


class LabelerGroups(TypedDict):
    """``results.json`` of this experiment."""

    heedful: str
    project: str
    labelers: str
    seeds: int
    folds: list[Fold]
    within: MeanAccuracy
    across: MeanAccuracy
    paper: dict[str, MeanAccuracy]
    notes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rankings:
    """Rankings of training labelers: of prompts to learn from, and of prompts to measure on."""

    train: Sequence[Ranking]
    measured: Sequence[Ranking]
    groups: Mapping[str, int]
    """The group of each labeler."""


def labeler_groups(project: Project, seeds: int, console: Console) -> Path:
    """Train and measure what is left to do; return the page's path.

    Raises DataError if the project has too few labelers or no rankings to measure on, ConfigError for no seeds, MissingError if
    the project's reward model is not done, BusyError, StorageError.
    """
    from heedful.experiments.labeler_groups_page import write_labeler_groups_page

    with alone_in(project.runs):
        keep_large_temporaries()
        shop = open_workshop(project, console)
        check_workshop(shop, shop.preset)
        rankings = _rankings(shop)
        planned = _reward_models(shop, rankings, seeds)
        trained = _trained(shop, planned)
        folds: list[Fold] = []
        for (left_out, seed, given, _), run in zip(planned, trained, strict=True):
            console.print(
                f"reward model {len(folds) + 1} of {NUM_GROUPS * seeds}: without group {left_out + 1}, seed {seed}",
                highlight=False,
            )
            folds.append(_fold(shop, rankings, left_out, seed, given, run))
        found = summary(shop.project.name, shop.setting.labelers.marked, seeds, folds)
        folder = project.folder / FOLDER / LABELER_GROUPS
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", found)
        write_labeler_groups_page(found, folder / "report.html")
        console.print(in_words(found), highlight=False, markup=False, soft_wrap=True)
        return folder / "report.html"


def show_labeler_cost(project: Project, seeds: int, console: Console) -> None:
    """Print what is still to train, with times from the project's own reward model; train nothing."""
    shop = open_workshop(project, console)
    rankings = _rankings(shop)
    own = newest_run(project, "reward")
    models = list(_reward_models(shop, rankings, seeds))
    left = [given for _, _, given, inputs in models if shop.done(STAGE, inputs) is None]
    share = fmean([len(training_rankings(given.records, "train")) for _, _, given, _ in models]) / len(rankings.train)
    about = "unknown" if own is None else f"about {own.seconds * share * len(left) / 60:.0f} min"
    console.print(
        f"{len(left)} of {len(models)} reward models to train: {about}, by the project's own reward model.",
        highlight=False,
        soft_wrap=True,
    )


def dealt(labelers: Sequence[str], *, seed: int, groups: int = NUM_GROUPS) -> dict[str, int]:
    """Labelers dealt into groups of equal size (give or take one); the result depends only on the seed and the names."""
    ordered = sorted(set(labelers), key=lambda name: hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest())
    return {name: place % groups for place, name in enumerate(ordered)}


def _rankings(shop: Workshop) -> _Rankings:
    records = shop.records
    train = [one for one in training_rankings(records, "train") if len(set(one.ranks)) > 1]
    teachers = sorted({one.labeler for one in train})
    if len(teachers) < NUM_GROUPS:
        raise DataError(
            "there are too few labelers for five groups",
            expected=f"rankings of training prompts by at least {NUM_GROUPS} labelers",
            got=f"{len(teachers)}: {', '.join(teachers)}",
            where=shop.project.folder,
            next_step="let more labelers rank",
        )
    groups = dealt(teachers, seed=shop.setting.seed)
    measured = [
        one
        for one in records.rankings.values()
        if records.prompts[one.prompt_id].split != "train"
        and one.labeler in groups
        and one.phase != "screening"
        and len(set(one.ranks)) > 1
    ]
    missing = sorted(set(groups.values()) - {groups[one.labeler] for one in measured})
    if missing:
        raise DataError(
            "a group of labelers ranked nothing to measure on",
            expected="rankings by every group, of prompts outside the split train",
            got=f"none by {', '.join(name for name, group in groups.items() if group in missing)}",
            where=shop.project.folder,
            next_step="let these labelers rank prompts of the split valid",
        )
    return _Rankings(train=train, measured=measured, groups=groups)


def _reward_models(shop: Workshop, rankings: _Rankings, seeds: int) -> list[tuple[int, int, Given, dict[str, Any]]]:
    """For each reward model: group left out, seed, what the stage is given, the inputs of its fingerprint."""
    if seeds < 1:
        raise ConfigError("an experiment needs a seed", expected="at least 1", got=str(seeds))
    row = stage("reward")
    sft = {"sft": shop.earlier["sft"].fingerprint} if "sft" in shop.earlier else {}
    found: list[tuple[int, int, Given, dict[str, Any]]] = []
    for left_out in range(NUM_GROUPS):
        records = _taught_by(shop.records, rankings, left_out)
        for seed in range(seeds):
            config = replace(shop.preset.reward, seed=shop.preset.reward.seed + seed)
            given = replace(shop.given(row, config, shop.earlier), records=records)
            found.append((left_out, config.seed, given, fingerprint_inputs(given, records, sft, shop.digest)))
    return found


def _taught_by(records: Records, rankings: _Rankings, left_out: int) -> Records:
    """The records with the training rankings of all groups but one, and without validation rankings."""
    own = {one.id: one for one in rankings.train if rankings.groups[one.labeler] != left_out}
    return Records(prompts=records.prompts, demonstrations=records.demonstrations, responses=records.responses, rankings=own)


def _trained(shop: Workshop, planned: Sequence[tuple[int, int, Given, dict[str, Any]]]) -> list[FinishedStage]:
    """Train the reward models that are not done, as many at a time as the project says."""
    jobs = [Job(name=STAGE, inputs=inputs, action=partial(reward, given)) for _, _, given, inputs in planned]
    return shop.stages.run_side_by_side(jobs, processes=processes_at_once(shop.project))


def _fold(shop: Workshop, rankings: _Rankings, left_out: int, seed: int, given: Given, run: FinishedStage) -> Fold:
    measured = shop.stages.run(
        "labeler_group_scores",
        {"reward": run.fingerprint, "rankings": [one.id for one in rankings.measured]},
        partial(_score_into, shop, rankings, run.folder / "model"),
    )
    scores = json.loads((measured.folder / "scores.json").read_text(encoding="utf-8"))
    usable = [one for one in rankings.measured if all(name in scores for name in one.response_ids)]
    across = ranked_pairs([one for one in usable if rankings.groups[one.labeler] == left_out])
    within = ranked_pairs([one for one in usable if rankings.groups[one.labeler] != left_out])
    return {
        "left_out": left_out,
        "labelers": sorted(name for name, group in rankings.groups.items() if group == left_out),
        "seed": seed,
        "training_rankings": len(given.records.rankings),
        "within": pair_accuracy(within, scores).value,
        "within_pairs": len(within),
        "across": pair_accuracy(across, scores).value,
        "across_pairs": len(across),
    }


def _score_into(shop: Workshop, rankings: _Rankings, model: Path, folder: Path) -> None:
    limits, records = shop.preset.reward, shop.records
    ranked = RankedRecords(
        prompts=records.prompts, responses=records.responses, rankings=rankings.measured, source=shop.project.name
    )
    scores = score_ranked(
        reward_model_for_inference(model, limits.precision),
        load_tokenizer(model),
        ranked,
        template=shop.setting.template,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_response_tokens=limits.max_response_tokens,
        console=shop.console,
    )
    write_json(folder / "scores.json", scores.by_response)


# ---------------------------------------------------------------------------------------------------- in words


def summary(project: str, labelers: str, seeds: int, folds: Sequence[Fold]) -> LabelerGroups:
    """Means over the groups, beside those of the paper."""
    published = {
        name: MeanAccuracy(mean=value.value, standard_error=value.plus_minus)
        for name, value in (
            ("within", paper.REWARD_MODEL_ACCURACY["training"]),
            ("across", paper.REWARD_MODEL_ACCURACY["held_out"]),
        )
    }
    return {
        "heedful": __version__,
        "project": project,
        "labelers": labelers,
        "seeds": seeds,
        "folds": list(folds),
        "within": _mean(folds, "within"),
        "across": _mean(folds, "across"),
        "paper": published,
        "notes": [
            "the paper does not say what its ± is; here it is the standard error of the groups' means, with the seeds of a "
            "group averaged first",
            "measured on prompts that no reward model learned from",
        ],
    }


def _mean(folds: Sequence[Fold], which: str) -> MeanAccuracy:
    of_group: dict[int, list[float]] = {}
    for fold in folds:
        of_group.setdefault(fold["left_out"], []).append(float(fold[which]))
    means = [fmean(own) for own in of_group.values()]
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    return {"mean": fmean(means), "standard_error": error}


def in_words(found: LabelerGroups) -> str:
    """Three lines."""
    lines = [f"reward models cross-validated over {NUM_GROUPS} groups of labelers, {found['seeds']} seeds each:"]
    words = {"within": "labelers who taught it", "across": "the group left out"}
    for name, who in words.items():
        ours, theirs = found[name], found["paper"][name]
        lines.append(f"  {who}: {percent_of(ours)} (the paper: {percent_of(theirs)})")
    return "\n".join(lines)


def percent_of(accuracy: MeanAccuracy) -> str:
    """72.4 ± 0.4 %."""
    error = accuracy["standard_error"]
    spread = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * accuracy['mean']:.1f}{spread} %"
