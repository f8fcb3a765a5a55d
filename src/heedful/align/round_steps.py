"""Stages that only further rounds have: begin, choose what labelers rank, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from heedful.align.collect import sampled, sft_shares, sft_writers, tasks_of
from heedful.align.held_out_prompts import no_held_out_prompt
from heedful.align.judge import benchmark_scores, evaluation_tasks
from heedful.align.round_benchmarks import interval_of_drop
from heedful.align.rounds import BENCHMARKS_FILE, BEYOND_CHANCE, EXPECTED_FILE, RULE, RULE_FILE
from heedful.align.settings import Given, ask, write_json
from heedful.align.simulated import SimulatedLabelers
from heedful.errors import DataError
from heedful.evaluate.benchmarks.abilities import Benchmark, benchmark_result
from heedful.miniature.expected import judged, mean_preference
from heedful.miniature.preparation import new_prompts
from heedful.model.answering import Answerer, prompts_within, score_responses
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import record_to_json
from heedful.project.ended_rounds import KNOWN_FILE, ended_rounds, known_as_json, known_in
from heedful.project.files import write_jsonl
from heedful.project.selection import prompts_for_policy, prompts_of
from heedful.ranks.world import world
from heedful.records import Prompt, Response, Split
from heedful.statistics import disagreement, paired_difference

SAMPLES = 3
"""Each policy's answers per held-out prompt, if simulated labelers judge them in closed form. People judge one of each."""
CHOICE_FILE = "choice.json"


def begin(given: Given, *, folder: Path, console: Console) -> None:
    """Write down the records that the round begins with, and the rule by which its policy will be accepted or rejected.

    In the miniature, users write new prompts now. In a project they have already arrived.
    """
    setting, number = given.setting, given.stage.round
    before = ended_rounds(setting.project.runs)[number - 2].known
    prompts, demonstrations = dict(given.records.prompts), given.records.demonstrations
    labelers = setting.labelers
    if isinstance(labelers, SimulatedLabelers):
        made = new_prompts(labelers.panel.world, seed=setting.seed, round=number, known=prompts.values())
        prompts |= {prompt.id: prompt for prompt in made}
        if world().is_rank_zero:
            write_jsonl(folder / "prompts.jsonl", map(record_to_json, made))
    known = known_in(given.records)
    arrived = len(prompts.keys() - before.prompts)
    console.print(
        f"since round {number - 1}: {arrived:,} prompts and {len(demonstrations.keys() - before.demonstrations):,} "
        "demonstrations are new",
        highlight=False,
    )
    write_json(folder / KNOWN_FILE, {**known_as_json(known), "prompts": sorted(prompts)})
    rounds = setting.preset.rounds
    public = {"benchmarks": rounds.benchmarks} if rounds.benchmarks else {}
    write_json(folder / RULE_FILE, {name: getattr(rounds, name) for name in RULE} | {BEYOND_CHANCE: True} | public)


def collect_again(given: Given, *, folder: Path, console: Console) -> None:
    """Make ranking tasks for unranked prompts, new ones first, with outputs of the SFT models and the current policy."""
    setting, number = given.setting, given.stage.round
    numbers: Mapping[Split, int] = {"train": given.config.prompts, "valid": given.config.validation_prompts}
    by_disagreement = setting.preset.rounds.choose == "disagreement"
    chosen: list[Prompt] = []
    for split, wanted in numbers.items():
        free = _to_rank(given, split, console)
        if not free and split == "train":
            raise DataError(
                "there is no prompt left to rank",
                expected="a training prompt within [sft] max_prompt_tokens that nobody has ranked yet",
                got="none",
                where=setting.project.data / "prompts.jsonl",
                next_step="import more: `heedful prompts import FORMAT FILE --project PROJECT`",
            )
        chosen += free[: wanted * (setting.preset.rounds.prompts_sampled if by_disagreement and split == "train" else 1)]
    writers = [*sft_writers(given), (str(given.stage.needs["policy"]), given.model_of("policy"))]
    share = setting.preset.rounds.sft_share
    shares = [share * one for one in sft_shares(len(writers) - 1, given.config.other_models_share)] + [1 - share]
    responses = sampled(given, chosen, writers, shares, np.random.default_rng([setting.seed, 5, number]), console)
    if by_disagreement:
        responses = _most_disputed(given, responses, folder, console)
    if not world().is_rank_zero:
        return
    responses = setting.labelers.named(responses, folder.name)
    write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))
    ask(given, list(tasks_of(given, responses)), folder, console)


def _to_rank(given: Given, split: Split, console: Console) -> list[Prompt]:
    """A split's unranked prompts: first those that are new in this round, then the others, in random order."""
    setting, records, number = given.setting, given.records, given.stage.round
    limits = setting.preset.answering("collect")
    tokenizer = load_tokenizer(given.model_of("sft"))
    fitting = prompts_within(tokenizer, prompts_of(records, split), limits.max_prompt_tokens, console, setting.template)
    ranked = {ranking.prompt_id for ranking in records.rankings.values()}
    free, _ = prompts_for_policy(records, fitting)
    free = [prompt for prompt in free if prompt.id not in ranked and setting.labelers.can_judge(prompt)]
    before = ended_rounds(setting.project.runs)[number - 2].known.prompts
    order = np.random.default_rng([setting.seed, 7, number]).permutation(len(free))
    shuffled = [free[i] for i in order]
    new = [prompt for prompt in shuffled if prompt.id not in before]
    old = [prompt for prompt in shuffled if prompt.id in before]
    console.print(f"prompts of the split {split} to rank: {len(new):,} new, {len(old):,} that are older", highlight=False)
    return new + old


def _most_disputed(given: Given, responses: Sequence[Response], folder: Path, console: Console) -> list[Response]:
    """The outputs for the training prompts on which the ensemble disagrees most, and all outputs for validation prompts."""
    scores = [
        _rewards(given, given.run_of(key) / "model", responses, console)
        for key in given.stage.needs
        if key.startswith("member_")
    ]
    of_prompt: dict[str, list[str]] = {}
    for response in responses:
        if given.records.prompts[response.prompt_id].split == "train":
            of_prompt.setdefault(response.prompt_id, []).append(response.id)
    disputed = {name: disagreement([[member[i] for i in ids] for member in scores]) for name, ids in of_prompt.items()}
    ranked = sorted(disputed, key=lambda name: -disputed[name])  # prompts with equal values stay in their random order
    chosen = set(ranked[: given.config.prompts])
    means = {name: float(np.mean([disputed[i] for i in some])) for name, some in (("chosen", chosen), ("all", ranked))}
    console.print(
        f"{len(chosen):,} of {len(ranked):,} prompts are chosen: disagreement {means['chosen']:.4f}, all {means['all']:.4f}",
        highlight=False,
    )
    write_json(folder / CHOICE_FILE, {"chosen": sorted(chosen), "disagreement": disputed, "mean_disagreement": means})
    return [one for one in responses if one.prompt_id in chosen or given.records.prompts[one.prompt_id].split != "train"]


def _rewards(given: Given, folder: Path, responses: Sequence[Response], console: Console) -> dict[str, float]:
    limits = given.setting.preset.answering("collect")
    return score_responses(
        reward_model_for_inference(folder, limits.precision),
        load_tokenizer(folder),
        given.records.prompts,
        responses,
        max_response_tokens=limits.max_response_tokens,
        template=given.setting.template,
        console=console,
    )


def compare(given: Given, *, folder: Path, console: Console) -> None:
    """Let the new and the current policy answer the same held-out prompts, and measure both on the miniature's benchmarks.

    Labelers then compare the answers. For simulated labelers the average preference is computed in closed form.
    """
    setting, labelers = given.setting, given.setting.labelers
    prompts = _held_out(given, console)
    samples = SAMPLES if isinstance(labelers, SimulatedLabelers) else 1
    answers: dict[str, list[Response]] = {}
    scores: dict[str, list[tuple[str, list[float]]]] = {benchmark.name: [] for benchmark in setting.benchmarks}
    for key in ("current", "policy"):
        name = str(given.stage.needs[key])
        model, tokenizer = policy_for_inference(given.model_of(key), setting.preset.answering("evaluate").precision)
        answers[key] = Answerer(
            model, tokenizer, setting.preset.answering("evaluate"), setting.project.engine, setting.template
        ).answer(
            [prompt for prompt in prompts for _ in range(samples)],
            name=name,
            ids=[f"{name}-{prompt.id}-{i}" for prompt in prompts for i in range(samples)],
            temperature=given.config.temperature,
            seed=setting.seed,
            console=console,
        )
        for benchmark, found in zip(setting.benchmarks, benchmark_scores(model, tokenizer, setting.benchmarks), strict=True):
            scores[benchmark.name].append((key, found))
    if not world().is_rank_zero:
        return
    write_json(folder / BENCHMARKS_FILE, [_measured(one, scores[one.name], setting.seed) for one in setting.benchmarks])
    responses = setting.labelers.named([*answers["current"], *answers["policy"]], folder.name)
    write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))
    if isinstance(labelers, SimulatedLabelers):
        write_jsonl(folder / EXPECTED_FILE, _expected(labelers, prompts, answers))
    else:
        ask(given, list(evaluation_tasks(given, folder)), folder, console)


def _measured(benchmark: Benchmark, scores: Sequence[tuple[str, list[float]]], seed: int) -> dict[str, Any]:
    """A benchmark's section of results, and the interval of the new policy's drop below the current one, item by item."""
    of = dict(scores)
    change = paired_difference(of["policy"], of["current"], seed=seed)
    return {**benchmark_result(benchmark, scores, seed=seed), **interval_of_drop(change, 100)}


def _held_out(given: Given, console: Console) -> list[Prompt]:
    """Prompts of held-out owners. Those that arrived in this round come first, because no policy was chosen by them yet."""
    setting, records = given.setting, given.records
    before = ended_rounds(setting.project.runs)[given.stage.round - 2].known.prompts
    tokenizer, limits = load_tokenizer(given.model_of("policy")), setting.preset.answering("evaluate")
    splits: tuple[Split, ...] = ("test", "valid")
    for split in splits:
        judgeable = [prompt for prompt in prompts_of(records, split) if setting.labelers.can_judge(prompt)]
        fitting = prompts_within(tokenizer, judgeable, limits.max_prompt_tokens, console, setting.template)
        if fitting:
            return sorted(fitting, key=lambda prompt: prompt.id in before)[: given.config.prompts]
    raise no_held_out_prompt(given)


def _expected(
    labelers: SimulatedLabelers, prompts: Sequence[Prompt], answers: Mapping[str, Sequence[Response]]
) -> list[dict[str, Any]]:
    """For each prompt, the probability that a held-out simulated labeler prefers the new policy's answer, and that of a tie.

    The first counts a tie as half.
    """
    held_out = labelers.panel.labelers["held_out"]

    def opinions(key: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {prompt.id: [] for prompt in prompts}
        asked = {prompt.id: prompt for prompt in prompts}
        for one in answers[key]:
            opinion = judged(labelers.panel.world, held_out, asked[one.prompt_id], one.text, finished=one.finished)
            found[one.prompt_id].append(opinion)
        return found

    new, old = opinions("policy"), opinions("current")
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        win, tie = mean_preference(held_out, new[prompt.id], old[prompt.id])
        rows.append({"prompt_id": prompt.id, "win": win, "tie": tie})
    return rows
