"""Evaluation: models answer held-out users' prompts, labelers judge them side by side, benchmarks show the alignment tax."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from heedful import __version__
from heedful.align.pipeline import answer_with_prefix, by_prompt, write_json
from heedful.align.settings import Labelers, Setting
from heedful.align.simulated import named_by_content, recorded
from heedful.align.task_files import blinded, write_tasks
from heedful.errors import DataError
from heedful.evaluate.benchmarks import Benchmark, benchmark_result, score_items
from heedful.evaluate.preference import judgements_from_rankings, preference_section, ratings_section
from heedful.evaluate.results import AlignmentTax, Curves, Group, Model, Results, RewardModel, Transcript, as_estimate
from heedful.evaluate.results import Benchmark as BenchmarkResult
from heedful.labeling.queue.recording import Work
from heedful.model import load_tokenizer
from heedful.model.answering import Answerer, prompts_within, score_responses
from heedful.model.encoding import encode_rankings
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.project.data_folder import Records, record_from_json, record_to_json
from heedful.project.files import read_jsonl, write_jsonl
from heedful.project.selection import prompts_of, training_rankings
from heedful.ranks.collectives import gather_in_order
from heedful.ranks.rank_zero import barrier_without_timeout
from heedful.ranks.world import world
from heedful.records import Prompt, Ranking, Rating, Response
from heedful.statistics import (
    calibration,
    group_agreement,
    length_rules,
    reward_accuracy,
    reward_accuracy_by_k,
    reward_agreement,
)
from heedful.training.reward import score_rankings

BASELINE = "sft"
_LABELS = {
    "base": "Base",
    "prompted_base": "Base, prompted",
    "sft": "SFT",
    "ppo": "PPO",
    "ppo_ptx": "PPO-ptx",
    "base_small": "Base",
    "ppo_ptx_small": "PPO-ptx",
}
_DUELS = (
    ("ppo_ptx", "base"),
    ("ppo_ptx", "prompted_base"),
    ("ppo_ptx", "ppo"),
    ("ppo_ptx_small", "base"),
    ("ppo_ptx_small", "base_small"),
)
_NUM_TRANSCRIPTS = 12
# The curves of longer runs are thinned out to this many points at most.
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Contender:
    """A model to evaluate: its folder, and the few-shot prefix in front of each prompt where it has one."""

    name: str
    folder: Path
    prefix: str | None = None


def evaluate(
    setting: Setting, records: Records, contenders: list[Contender], reward_folder: Path, folder: Path, console: Console
) -> None:
    """Sample, score and judge; writes responses.jsonl, rewards.json, models.json, benchmarks.json, and the labelers' records.

    Where people label, their tasks go to ``tasks/evaluation.jsonl`` of the project.
    """
    config, limits = setting.preset.evaluate, setting.preset.sft
    test = prompts_of(records, "test") or prompts_of(records, "valid")
    prompts = prompts_within(load_tokenizer(setting.base_model), test, limits.max_prompt_tokens, console)[: config.prompts]
    if not prompts:
        raise DataError(
            "there is no held-out prompt to evaluate on",
            expected=f"a prompt of the split test or valid, of at most {limits.max_prompt_tokens:,} tokens",
            got=f"{len(test):,} prompts in these splits",
            where=setting.project.data / "prompts.jsonl",
            next_step="import more prompts: a tenth of them goes to valid and a tenth to test",
        )
    reward_model = reward_model_for_inference(reward_folder / "model", limits.precision)
    responses: list[Response] = []
    models: list[Model] = []
    item_scores: dict[str, list[tuple[str, list[float]]]] = {b.name: [] for b in setting.benchmarks}
    for contender in contenders:
        model, tokenizer = policy_for_inference(contender.folder, limits.precision)
        if contender.prefix is None:
            responses += Answerer(model, tokenizer, limits, setting.project.engine).answer(
                prompts,
                name=contender.name,
                ids=[f"{contender.name}-{p.id}" for p in prompts],
                temperature=config.temperature,
                seed=setting.seed,
                console=console,
            )
            for benchmark, scores in zip(setting.benchmarks, _scores(model, tokenizer, setting.benchmarks), strict=True):
                item_scores[benchmark.name].append((contender.name, scores))
        else:
            responses += answer_with_prefix(setting, model, tokenizer, prompts, contender.prefix, contender.name, console)
        size = sum(p.numel() for p in model.parameters())
        models.append({"name": contender.name, "label": _LABELS[contender.name], "size": size_name(size), "parameters": size})
    people = setting.labelers is None
    responses = blinded(responses, folder.name, setting.seed) if people else named_by_content(responses)
    rewards = score_responses(
        reward_model,
        load_tokenizer(reward_folder / "model"),
        records.prompts,
        responses,
        max_response_tokens=limits.max_response_tokens,
    )
    if not world().is_rank_zero:
        return
    write_jsonl(folder / "responses.jsonl", [record_to_json(r) for r in responses])
    write_json(folder / "rewards.json", rewards)
    write_json(folder / "models.json", models)
    sections = [benchmark_result(b, item_scores[b.name], seed=setting.seed) for b in setting.benchmarks]
    write_json(folder / "benchmarks.json", sections)
    if setting.labelers is None:
        write_tasks(setting.project, "evaluation", prompts, responses)
        return
    works = _assessments(setting.labelers, config.labelers_per_prompt, prompts, responses)
    groups = setting.labelers.groups
    with recorded(setting.project, works, run=folder.name, groups=groups, prompts=prompts, responses=responses) as answers:
        write_jsonl(folder / "rankings.jsonl", map(record_to_json, answers.rankings()))
        write_jsonl(folder / "ratings.jsonl", map(record_to_json, answers.ratings()))


def _assessments(labelers: Labelers, number: int, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Iterator[Work]:
    of_prompt = by_prompt(responses)
    groups: tuple[Group, ...] = ("held_out", "training")
    for prompt in prompts:
        for group in groups:
            yield from labelers.assess(prompt, of_prompt[prompt.id], group=group, labelers=number)


def _scores(model: Any, tokenizer: Any, benchmarks: Sequence[Benchmark]) -> list[list[float]]:
    """Each benchmark's item scores; under ``torchrun`` the benchmarks are dealt out to the ranks."""
    here = world()
    own = [(i, score_items(model, tokenizer, benchmarks[i])) for i in range(here.rank, len(benchmarks), here.size)]
    barrier_without_timeout()
    return gather_in_order(own)


def reward_model_section(setting: Setting, records: Records, reward_folder: Path) -> RewardModel | None:
    """RM accuracy on rankings of unseen prompts, beside the labelers' agreement and the length rules."""
    limits = setting.preset.reward
    groups = {} if setting.labelers is None else setting.labelers.groups
    unseen = [r for r in records.rankings.values() if records.prompts[r.prompt_id].split != "train" and len(set(r.ranks)) > 1]
    if not unseen:
        return None
    tokenizer = load_tokenizer(reward_folder / "model")
    model = reward_model_for_inference(reward_folder / "model", limits.precision)
    encoded, _ = encode_rankings(
        tokenizer,
        records.prompts,
        records.responses,
        unseen,
        max_prompt_tokens=limits.max_prompt_tokens,
        max_response_tokens=limits.max_response_tokens,
        phases=("training", "evaluation", "screening"),
    )
    scores: dict[str, float] = {}
    for ranked, rewards in zip(encoded, score_rankings(model, encoded), strict=True):
        scores.update(zip(ranked.response_ids, rewards, strict=True))
    judged = [r for r in unseen if all(i in scores for i in r.response_ids)]
    lengths = {name: len(records.responses[name].text) for name in scores}
    overall = reward_accuracy(judged, scores)
    rules = length_rules(judged, lengths)
    by_group = {g: [r for r in judged if groups.get(r.labeler, "training") == g] for g in ("training", "held_out")}
    agreement = group_agreement([r for r in unseen if r.labeler in groups], groups) if groups else {}
    with_model = {g: reward_agreement(rs, scores) for g, rs in by_group.items() if (g, g) in agreement}
    return {
        "accuracy": overall.value,
        "low": overall.low,
        "high": overall.high,
        "num_comparisons": overall.count,
        "by_group": {g: as_estimate(reward_accuracy(rs, scores)) for g, rs in by_group.items() if rs},
        "agreement": {a: as_estimate(e) for (a, b), e in agreement.items() if a == b and e.count},
        "agreement_with_reward_model": {g: as_estimate(e) for g, e in with_model.items() if e.count},
        "longer_wins": as_estimate(rules.longer),
        "shorter_wins": as_estimate(rules.shorter),
        "by_k": {str(k): as_estimate(e) for k, e in reward_accuracy_by_k(judged, scores).items() if e.count},
        "calibration_error": calibration(judged, scores).expected_calibration_error,
    }


def assemble(
    setting: Setting,
    records: Records,
    *,
    evaluation: Path,
    reward_folder: Path,
    choice: Path,
    prefix: Path | None,
    runs: Mapping[str, Path],
) -> Results:
    """All sections of results.json from what the stages left on disk; nothing in it depends on the clock or the speed."""
    models: list[Model] = _read(evaluation / "models.json")
    names = [m["name"] for m in models]
    responses = {r.id: r for r in _records(evaluation / "responses.jsonl", "response")}
    rewards: dict[str, float] = _read(evaluation / "rewards.json")
    results: Results = {
        "heedful": __version__,
        "seed": setting.seed,
        "labelers": "people" if setting.labelers is None else "simulated",
        "project": setting.project.name,
        "models": models,
        "sft_checkpoints": [
            {"epoch": row["epoch"], "validation_loss": row["validation_loss"], "reward": row["reward"], "chosen": row["chosen"]}
            for row in _read(choice / "choice.json")
        ],
        "curves": _curves(runs),
    }
    rankings = training_rankings(records, "train")
    results["data"] = {
        "prompts": len(records.prompts),
        "demonstrations": len(records.demonstrations),
        "rankings": len(rankings),
        "comparisons": sum(_num_comparisons(r) for r in rankings),
        "episodes": setting.preset.ppo.iterations * setting.preset.ppo.batch_size,
    }
    if section := reward_model_section(setting, records, reward_folder):
        results["reward_model"] = section
    if prefix is not None:
        found = _read(prefix / "prefix.json")
        pairs = zip(found["candidates"], found["scores"], strict=True)
        results["prefix"] = {"candidates": [{"text": t, "score": s} for t, s in pairs], "chosen": found["chosen"]}
    benchmarks: list[BenchmarkResult] = _read(evaluation / "benchmarks.json")
    if benchmarks:
        results["benchmarks"] = benchmarks
        results["alignment_tax"] = [row for b in benchmarks if b["metric"] != "entropy (bits)" and (row := _tax(b)) is not None]
    overall: dict[str, list[int]] = {}
    judged = _labelers_records(setting, evaluation, records, responses)
    if judged is not None:
        judged_rankings, ratings, groups = judged
        pairs = [(n, BASELINE) for n in names if n != BASELINE] + [d for d in _DUELS if d[0] in names and d[1] in names]
        judgements = judgements_from_rankings(judged_rankings, responses, records.prompts, groups, pairs)
        results["preference"] = preference_section(judgements, BASELINE, setting.preset.evaluate.temperature)
        results["ratings"] = ratings_section(ratings, responses, groups)
        for rating in ratings:
            overall.setdefault(rating.response_id, []).append(rating.overall)
    results["transcripts"] = _transcripts(records, responses, rewards, overall, names)
    return results


def size_name(parameters: int) -> str:
    """1454400 -> "1.5M"."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= factor or unit == "k":
            value = parameters / factor
            return f"{value:.2g}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(parameters)


def _labelers_records(
    setting: Setting, evaluation: Path, records: Records, responses: Mapping[str, Response]
) -> tuple[list[Ranking], list[Rating], Mapping[str, Literal["training", "held_out"]]] | None:
    """Judgements of the evaluation's responses: simulated ones beside them, people's among the project's records."""
    if setting.labelers is not None:
        return (
            _records(evaluation / "rankings.jsonl", "ranking"),
            _records(evaluation / "ratings.jsonl", "rating"),
            setting.labelers.groups,
        )
    rankings = [r for r in records.rankings.values() if all(i in responses for i in r.response_ids)]
    ratings = [r for r in records.ratings.values() if r.response_id in responses]
    if not rankings:
        return None
    labelers = {r.labeler for r in rankings} | {r.labeler for r in ratings}
    trained = {r.labeler for r in training_rankings(records, "train")}
    # People who ranked nothing for training are the held-out group, by definition (SPEC 2.4).
    return rankings, ratings, {name: "training" if name in trained else "held_out" for name in labelers}


def _tax(benchmark: BenchmarkResult) -> AlignmentTax | None:
    scores = {row["model"]: row["score"] for row in benchmark["scores"]}
    if not {"base", "sft", "ppo", "ppo_ptx"} <= set(scores):
        return None
    drop, drop_ptx = scores["base"] - scores["ppo"], scores["base"] - scores["ppo_ptx"]
    return {
        "benchmark": benchmark["name"],
        "base": scores["base"],
        "sft": scores["sft"],
        "ppo": scores["ppo"],
        "ppo_ptx": scores["ppo_ptx"],
        "drop_ppo": drop,
        "drop_ppo_ptx": drop_ptx,
        "share_undone": 1 - drop_ptx / drop if drop > 0 else None,
    }


def _curves(runs: Mapping[str, Path]) -> Curves:
    curves: dict[str, Any] = {}
    for name in ("ppo", "ppo_ptx"):
        if name in runs:
            keys = (
                "reward",
                "kl",
                "length",
                "entropy",
                "finished_share",
                "policy_loss",
                "value_loss",
                "explained_variance",
                "clip_fraction",
                "ptx_loss",
            )
            curves[name] = [
                {"iteration": row["step"], **{k: row[k] for k in keys if k in row}} for row in _metrics(runs[name], "reward")
            ]
    if "sft" in runs:
        curves["sft"] = [{"step": row["step"], "loss": row["loss"]} for row in _metrics(runs["sft"], "loss")]
    if "reward" in runs:
        curves["reward"] = [
            {"step": row["step"], "loss": row["loss"], "accuracy": row["accuracy"]} for row in _metrics(runs["reward"], "loss")
        ]
    return curves  # pyright: ignore[reportReturnType]


def _metrics(folder: Path, key: str) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(folder / "metrics.jsonl") if key in row]
    every = -(-len(rows) // _MOST_POINTS)
    return rows[:: max(1, every)]


def _transcripts(
    records: Records,
    responses: Mapping[str, Response],
    rewards: Mapping[str, float],
    overall: Mapping[str, list[int]],
    names: list[str],
) -> list[Transcript]:
    """The first prompts of each use case in turn, with every model's answer: not picked for looking good."""
    by_prompt: dict[str, dict[str, Response]] = {}
    for response in responses.values():
        by_prompt.setdefault(response.prompt_id, {})[str(response.model)] = response
    of_use_case: dict[str, list[Prompt]] = {}
    for prompt_id in by_prompt:
        prompt = records.prompts[prompt_id]
        of_use_case.setdefault(prompt.use_case or "other", []).append(prompt)
    turns = [group[i] for i in range(_NUM_TRANSCRIPTS) for group in of_use_case.values() if i < len(group)]
    return [
        {
            "prompt": prompt.text,
            "use_case": prompt.use_case or "other",
            "responses": [
                {
                    "model": name,
                    "text": by_prompt[prompt.id][name].text,
                    "reward": rewards.get(by_prompt[prompt.id][name].id),
                    "overall": _mean(overall.get(by_prompt[prompt.id][name].id, [])),
                }
                for name in names
                if name in by_prompt[prompt.id]
            ],
        }
        for prompt in turns[:_NUM_TRANSCRIPTS]
    ]


def _num_comparisons(ranking: Ranking) -> int:
    ranks = ranking.ranks
    return sum(ranks[i] != ranks[j] for i in range(len(ranks)) for j in range(i))


def _mean(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _records(path: Path, kind: Any) -> list[Any]:
    return [record_from_json(kind, row, where=f"{path}:{line}") for line, row in read_jsonl(path)]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
