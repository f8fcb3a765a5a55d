"""Assemble results.json from what the stages left on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heedful import __version__
from heedful.align import alternatives, refusal_stages
from heedful.align.judge import EXPECTED_FILE
from heedful.align.settings import Setting
from heedful.evaluate import lineup
from heedful.evaluate.preference import (
    closed_domain_section,
    judgements_from_rankings,
    preference_section,
    ratings_section,
)
from heedful.evaluate.results import (
    AlignmentTax,
    Curves,
    Group,
    LossPoint,
    Model,
    Results,
    RewardModel,
    SftCheckpoint,
    Transcript,
    as_estimate,
)
from heedful.evaluate.results import Benchmark as BenchmarkResult
from heedful.model.encoding import encode_rankings
from heedful.model.inference import reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import Records
from heedful.project.files import read_jsonl
from heedful.project.runs import records_in
from heedful.project.selection import training_rankings
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
from heedful.training.sft import loss_before_training

_NUM_TRANSCRIPTS = 12
_MOST_POINTS = 400
"""Curves of longer runs are thinned out to at most this many points."""


def reward_model_section(setting: Setting, records: Records, reward_folder: Path) -> RewardModel | None:
    """RM accuracy on rankings of unseen prompts, compared with the labelers' agreement and with the length rules."""
    limits = setting.preset.reward
    groups = setting.labelers.groups
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
        template=setting.template,
        phases=("training", "evaluation", "screening"),
        may_be_empty=True,
    )
    if not encoded:
        return None
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


def assemble(setting: Setting, records: Records, runs: Mapping[str, Path], left_out: Mapping[str, str]) -> Results:
    """All sections of results.json, from what the stages left on disk. Nothing in it depends on time or speed.

    runs: folders of the finished stages, by name. left_out: name of a stage -> why the project does without it.
    """
    evaluation, prefix = runs["evaluate"], runs.get("choose_prefix")
    models: list[Model] = _read(evaluation / "models.json")
    names = [m["name"] for m in models]
    responses = {r.id: r for r in records_in(evaluation, "response")}
    rewards: dict[str, float] = _read(evaluation / "rewards.json")
    results: Results = {
        "heedful": __version__,
        "seed": setting.seed,
        "labelers": setting.labelers.marked,
        "project": setting.project.name,
        "models": models,
        "sft_checkpoints": _sft_checkpoints(runs),
        "curves": _curves(runs),
    }
    if left_out:
        results["left_out"] = dict(left_out)
    if not setting.labelers.invents_data and (validation := _sft_validation(runs)):  # the miniature's do not change
        results["sft_validation"] = validation
    rankings = training_rankings(records, "train")
    results["data"] = {
        "prompts": len(records.prompts),
        "demonstrations": len(records.demonstrations),
        "rankings": len(rankings),
        "comparisons": sum(r.num_comparisons for r in rankings),
        "episodes": setting.preset.ppo.iterations * setting.preset.ppo.batch_size,
    }
    if section := reward_model_section(setting, records, runs["reward"]):
        results["reward_model"] = section
    if prefix is not None:
        found = _read(prefix / "prefix.json")
        pairs = zip(found["candidates"], found["scores"], strict=True)
        results["prefix"] = {"candidates": [{"text": t, "score": s} for t, s in pairs], "chosen": found["chosen"]}
    if (evaluation / EXPECTED_FILE).is_file():  # evaluations of earlier versions have none
        results["expected_preference"] = _read(evaluation / EXPECTED_FILE)
    benchmarks: list[BenchmarkResult] = _read(evaluation / "benchmarks.json")
    if benchmarks:
        results["benchmarks"] = benchmarks
        results["alignment_tax"] = [row for b in benchmarks if b["metric"] != "entropy (bits)" and (row := _tax(b)) is not None]
    if section := alternatives.section(runs, responses, rewards):
        results["alternatives"] = section
    if declined := refusal_stages.section(setting, records.prompts, runs, responses.values()):
        results["refusals"] = declined
    overall: dict[str, list[int]] = {}
    judged = _labelers_records(setting, evaluation, records, responses)
    if judged is not None:
        judged_rankings, ratings, groups = judged
        baseline, duels = lineup.BASELINE.name, [(one.name, other.name) for one, other in lineup.DUELS]
        pairs = [(n, baseline) for n in names if n != baseline] + [d for d in duels if d[0] in names and d[1] in names]
        judgements = judgements_from_rankings(judged_rankings, responses, records.prompts, groups, pairs)
        results["preference"] = preference_section(judgements, baseline, setting.preset.evaluate.temperature)
        results["ratings"] = ratings_section(ratings, responses, groups)
        if closed := closed_domain_section(ratings, responses, records.prompts, groups):
            results["closed_domain_hallucination"] = closed
        for rating in ratings:
            overall.setdefault(rating.response_id, []).append(rating.overall)
    results["transcripts"] = _transcripts(records, responses, rewards, overall, names)
    return results


def _sft_checkpoints(runs: Mapping[str, Path]) -> list[SftCheckpoint]:
    """The candidates that were compared; empty if there was no choice."""
    if "choose_sft" not in runs:
        return []
    rows = _read(runs["choose_sft"] / "choice.json")
    return [
        {"epoch": row["epoch"], "validation_loss": row["validation_loss"], "reward": row["reward"], "chosen": row["chosen"]}
        for row in rows
    ]


def _sft_validation(runs: Mapping[str, Path]) -> list[LossPoint]:
    """SFT's validation losses; the first was measured before training. Empty if an older version trained the model."""
    rows = [row for _, row in read_jsonl(runs["sft"] / "metrics.jsonl")] if "sft" in runs else []
    if loss_before_training(rows) is None:
        return []
    return [{"step": row["step"], "loss": row["validation_loss"]} for row in rows if "validation_loss" in row]


def _labelers_records(
    setting: Setting, evaluation: Path, records: Records, responses: Mapping[str, Response]
) -> tuple[list[Ranking], list[Rating], Mapping[str, Group]] | None:
    """Judgements of the evaluation's responses, and the group of each labeler."""
    # Labelers' answers are in the evaluation's folder. People's may also have been imported into the data.
    rankings = {r.id: r for r in records.rankings.values() if all(i in responses for i in r.response_ids)}
    rankings |= {r.id: r for r in records_in(evaluation, "ranking") if all(i in responses for i in r.response_ids)}
    ratings = {r.id: r for r in records.ratings.values() if r.response_id in responses}
    ratings |= {r.id: r for r in records_in(evaluation, "rating") if r.response_id in responses}
    if not rankings:
        return None
    labelers = {r.labeler for r in rankings.values()} | {r.labeler for r in ratings.values()}
    trained = {r.labeler for r in training_rankings(records, "train")}
    # By definition, people who ranked nothing for training are the held-out group (SPEC 2.4).
    by_work: dict[str, Group] = {name: "training" if name in trained else "held_out" for name in labelers}
    return list(rankings.values()), list(ratings.values()), setting.labelers.groups or by_work


def _tax(benchmark: BenchmarkResult) -> AlignmentTax | None:
    scores = {row["model"]: row["score"] for row in benchmark["scores"]}
    if not {lineup.BASE.name, lineup.SFT.name, lineup.PPO.name, lineup.PPO_PTX.name} <= set(scores):
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
    """The first prompts of each use case in turn, with every model's answer. None is picked by hand."""
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


def _mean(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
