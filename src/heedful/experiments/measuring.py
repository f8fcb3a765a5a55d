"""Measure a policy in an experiment: its answers to held-out prompts are judged, scored and compared with the initial policy.

Every policy answers the same validation prompts with the same random numbers. Test prompts are reserved for the final
evaluation. Simulated labelers judge in closed form (:mod:`heedful.miniature.expected`). If people label, a *held-out reward
model* judges. It learns from rankings of prompts that the project's reward model never saw and that policies do not answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.align.inputs import fingerprint_inputs
from heedful.align.judge import sft_entrant
from heedful.align.project_text import pretraining_text
from heedful.align.round_benchmarks import identity_of_benchmarks, points_of, public_scores
from heedful.align.running import FinishedStage
from heedful.align.settings import Given, write_json
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.align.train_stages import initial_policy_of, reward
from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks.abilities import METRICS, score_items
from heedful.experiments.workshop import Policy, Workshop
from heedful.miniature.expected import Judged, judged, mean_preference, mean_rating
from heedful.model.answering import Answerer, prompts_within, score_responses
from heedful.model.encoding import Example, encode_response
from heedful.model.end_tokens import response_end
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.layouts import pack
from heedful.model.loading import load_tokenizer
from heedful.model.readout import target_logprobs
from heedful.model.template import prompt_tokens, response_tokens
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.fingerprints import digest_of_records
from heedful.project.runs import records_in
from heedful.project.selection import prompts_of
from heedful.ranks.batch_shares import own_microbatches
from heedful.records import Prompt, Ranking, Response
from heedful.statistics import Estimate, bootstrap_mean
from heedful.training.sft import demonstration_loss

MEASURES_FILE = "measures.json"
_TOKENS_AT_A_TIME = 16_384
_TEXT_SEQUENCES = 128

Measured = dict[str, Estimate]
"""Measure -> estimate, with an interval over prompts (benchmarks: over items)."""
Answers = Mapping[str, Sequence[Response]]
"""Prompt id -> responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What all policies of a project are measured with."""

    prompts: Sequence[Prompt]
    samples: int
    """Answers to each prompt."""
    baseline: FinishedStage
    """The stage with the SFT model's answers."""
    held_out_reward: FinishedStage | None
    """A reward model that learned from other rankings than the project's; None for simulated labelers, who need none."""
    notes: tuple[str, ...]


def yardstick(shop: Workshop, *, num_prompts: int, samples: int) -> Yardstick:
    """Let SFT answer, and train the held-out reward model, unless that is done. Raises DataError without validation prompts."""
    if num_prompts < 1 or samples < 1:
        raise ConfigError("nothing to measure", expected="at least 1 prompt and 1 answer", got=f"{num_prompts} and {samples}")
    limits = shop.preset.answering("evaluate")
    tokenizer = load_tokenizer(shop.setting.base_model)
    held_out = prompts_of(shop.records, "valid")
    fitting = prompts_within(tokenizer, held_out, limits.max_prompt_tokens, shop.console, shop.setting.template)
    if not fitting:
        raise DataError(
            "there is no validation prompt to measure on",
            expected=f"a prompt of the split valid, of at most {limits.max_prompt_tokens:,} tokens",
            got="none",
            where=shop.project.data / "prompts.jsonl",
            next_step="import more prompts: a tenth of their owners goes to the split valid",
        )
    notes: list[str] = []
    simulated = isinstance(shop.setting.labelers, SimulatedLabelers)
    # At most half of the prompts, so that the held-out reward model has rankings of the others.
    most = len(fitting) if simulated else max(1, len(fitting) // 2)
    prompts = fitting[: min(num_prompts, most)]
    if len(prompts) < num_prompts:
        notes.append(f"measured on {len(prompts):,} validation prompts, not {num_prompts:,}: there are no more")
    given = shop.given(stage("evaluate"), shop.preset.evaluate, shop.earlier)
    folder = sft_entrant(given).folder
    inputs = {"model": shop.digest(folder), **_how_sampled(shop, prompts, samples)}

    def answer(run: Path) -> None:
        answer_into(shop, folder, "sft", prompts, samples, run)

    baseline = shop.stages.run("baseline", inputs, answer)
    judge = None if simulated else _held_out_reward(shop, prompts, notes)
    return Yardstick(prompts=prompts, samples=samples, baseline=baseline, held_out_reward=judge, notes=tuple(notes))


def measure(shop: Workshop, policy: Policy, stick: Yardstick) -> tuple[FinishedStage, Measured]:
    """Measure everything about a policy, unless done already; its answers are kept beside the numbers."""
    model, initial = policy.finished.folder / "model", initial_policy_of(policy.given)
    return measure_model(shop, model, initial, stick, {"policy": policy.finished.fingerprint})


def measure_model(
    shop: Workshop, model: Path, initial: Path | None, stick: Yardstick, identity: Mapping[str, Any]
) -> tuple[FinishedStage, Measured]:
    """Like :func:`measure`, for any model; without an initial policy there is no KL."""
    judge = None if stick.held_out_reward is None else stick.held_out_reward.fingerprint
    inputs = {
        **identity,
        "baseline": stick.baseline.fingerprint,
        "reward": shop.earlier["reward"].fingerprint,
        "held_out_reward": judge,
        "benchmark_items": shop.preset.evaluate.benchmark_items if shop.setting.benchmarks else 0,
        **_how_sampled(shop, stick.prompts, stick.samples),
    }
    if public := shop.preset.rounds.benchmarks:
        inputs["public_benchmarks"] = identity_of_benchmarks(shop.setting, public, shop.digest)
    done = shop.stages.run("measure", inputs, partial(_measure_into, shop, model, initial, stick))
    return done, read_measured(done.folder)


def read_measured(folder: Path) -> Measured:
    """What :func:`measure` wrote."""
    rows: dict[str, dict[str, Any]] = json.loads((folder / MEASURES_FILE).read_text(encoding="utf-8"))
    return {name: _estimate(row) for name, row in rows.items()}


def _estimate(row: Mapping[str, Any]) -> Estimate:
    ends = [math.nan if row[name] is None else float(row[name]) for name in ("low", "high", "standard_error")]
    return Estimate(float(row["value"]), ends[0], ends[1], int(row["count"]), ends[2])


def _how_sampled(shop: Workshop, prompts: Sequence[Prompt], samples: int) -> dict[str, Any]:
    limits = shop.preset.answering("evaluate")
    return {
        "prompts": digest_of_records(prompts),
        "samples": samples,
        "sampled": [shop.preset.evaluate.temperature, limits.max_response_tokens, limits.precision, shop.setting.seed],
        "template": shop.setting.template,
    }


# ---------------------------------------------------------------------------------------------------- answers


def answer_into(
    shop: Workshop, model_folder: Path, name: str, prompts: Sequence[Prompt], samples: int, folder: Path
) -> list[Response]:
    """A model's answers, also written to responses.jsonl. All policies use the same random numbers, the SFT model others."""
    limits = shop.preset.answering("evaluate")
    model, tokenizer = policy_for_inference(model_folder, limits.precision)
    responses = _answers(shop, model, tokenizer, name, prompts, samples)
    write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))
    return responses


def _answers(
    shop: Workshop,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    prompts: Sequence[Prompt],
    samples: int,
) -> list[Response]:
    limits, setting = shop.preset.answering("evaluate"), shop.setting
    return Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
        [prompt for prompt in prompts for _ in range(samples)],
        name=name,
        ids=[f"experiment-{name}-{prompt.id}-{i}" for prompt in prompts for i in range(samples)],
        temperature=shop.preset.evaluate.temperature,
        seed=setting.seed,
        console=shop.console,
    )


def by_prompt(responses: Sequence[Response]) -> dict[str, list[Response]]:
    """Responses of each prompt."""
    found: dict[str, list[Response]] = {}
    for response in responses:
        found.setdefault(response.prompt_id, []).append(response)
    return found


# ---------------------------------------------------------------------------------------------------- numbers


def _measure_into(shop: Workshop, model_folder: Path, initial: Path | None, stick: Yardstick, folder: Path) -> None:
    limits, setting = shop.preset.answering("evaluate"), shop.setting
    model, tokenizer = policy_for_inference(model_folder, limits.precision)
    responses = _answers(shop, model, tokenizer, "policy", stick.prompts, stick.samples)
    write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))
    found: dict[str, Estimate] = {"reward": rewards_of(shop, shop.earlier["reward"].folder, responses)}
    if stick.held_out_reward is not None:
        found["held_out_reward"] = rewards_of(shop, stick.held_out_reward.folder, responses)
    found |= lengths_and_kl(shop, model, tokenizer, initial, responses)
    found |= opinions_of(shop, stick, responses)
    found |= _benchmark_scores(shop, model, tokenizer)
    found |= _public_scores(shop, model_folder, folder)
    if (text := pretraining_text(setting, "valid")) is not None:
        sequences = text.sequences(context_length=shop.preset.ppo.ptx_context_length, rng=np.random.default_rng(0))
        examples = [Example(list(s[:1]), list(s[1:])) for _, s in zip(range(_TEXT_SEQUENCES), sequences, strict=False)]
        loss = demonstration_loss(model, examples)
        found["text_loss"] = Estimate(loss, math.nan, math.nan, len(examples), math.nan)
    rows = {
        name: {
            "value": one.value,
            "low": _number(one.low),
            "high": _number(one.high),
            "count": one.count,
            "standard_error": _number(one.standard_error),
        }
        for name, one in found.items()
    }
    write_json(folder / MEASURES_FILE, rows)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def rewards_of(shop: Workshop, reward_folder: Path, responses: Sequence[Response]) -> Estimate:
    """Mean reward over prompts."""
    return _over_prompts(shop, responses, reward_of_each(shop, reward_folder, responses))


def reward_of_each(shop: Workshop, reward_folder: Path, responses: Sequence[Response]) -> dict[str, float]:
    """Reward of each response by its id."""
    limits = shop.preset.answering("evaluate")
    reward_model = reward_model_for_inference(reward_folder / "model", limits.precision)
    return score_responses(
        reward_model,
        load_tokenizer(reward_folder / "model"),
        shop.records.prompts,
        responses,
        max_response_tokens=limits.max_response_tokens,
        template=shop.setting.template,
    )


@torch.no_grad()
def lengths_and_kl(
    shop: Workshop,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    initial: Path | None,
    responses: Sequence[Response],
) -> Measured:
    """Response length in tokens, with the end token, and log(policy / initial policy): its mean is the KL in nats per response.

    The texts are tokenised again, as the reward model reads them.
    """
    limits, template = shop.preset.answering("evaluate"), shop.setting.template
    asked = [shop.records.prompts[response.prompt_id] for response in responses]
    end = response_end(tokenizer, template)
    before = prompt_tokens(tokenizer, asked, template)
    texts = response_tokens(tokenizer, asked, [response.text for response in responses], template)
    after = [
        encode_response(ids, end=end, finished=one.finished, max_tokens=limits.max_response_tokens)[0] or [end]
        for ids, one in zip(texts, responses, strict=True)
    ]
    lengths = {one.id: float(len(row)) for one, row in zip(responses, after, strict=True)}
    found = {"length": _over_prompts(shop, responses, lengths)}
    if initial is not None:
        reference, _ = policy_for_inference(initial, limits.precision)
        kl = np.zeros(len(responses))
        for members, _ in own_microbatches(
            [len(b) + len(a) for b, a in zip(before, after, strict=True)], tokens=_TOKENS_AT_A_TIME
        ):
            batch = pack([before[i] for i in members], [after[i] for i in members]).to(model.device)
            apart = (target_logprobs(model, batch) - target_logprobs(reference, batch)).float()
            sums = torch.zeros(batch.num_sequences, device=apart.device).index_add_(0, batch.row, apart)
            kl[list(members)] = sums.cpu().numpy()
        by_id = {one.id: float(value) for one, value in zip(responses, kl, strict=True)}
        found["kl"] = _over_prompts(shop, responses, by_id)
    return found


def opinions_of(shop: Workshop, stick: Yardstick, responses: Sequence[Response]) -> Measured:
    """What held-out simulated labelers think, in closed form; empty if people label."""
    labelers = shop.setting.labelers
    if not isinstance(labelers, SimulatedLabelers):
        return {}
    held_out = labelers.panel.labelers["held_out"]
    own = judged_answers(shop, by_prompt(responses))
    baseline = judged_answers(shop, by_prompt(list(records_in(stick.baseline.folder, "response"))))
    wins, ratings, faultless = [], [], []
    for prompt in stick.prompts:
        found = own[prompt.id]
        wins.append(mean_preference(held_out, found, baseline[prompt.id])[0])
        ratings.append(sum(mean_rating(held_out, one) for one in found) / len(found))
        faultless.append(sum(one.faultless for one in found) / len(found))
    seed = shop.setting.seed
    return {
        "win_rate": bootstrap_mean(wins, seed=seed),
        "likert": bootstrap_mean(ratings, seed=seed),
        "faultless": bootstrap_mean(faultless, seed=seed),
    }


def judged_answers(shop: Workshop, answers: Answers) -> dict[str, list[Judged]]:
    """What held-out simulated labelers think about each prompt's answers."""
    labelers = shop.setting.labelers
    assert isinstance(labelers, SimulatedLabelers)
    world, held_out = labelers.panel.world, labelers.panel.labelers["held_out"]
    prompts = shop.records.prompts
    return {
        name: [judged(world, held_out, prompts[name], one.text, finished=one.finished) for one in found]
        for name, found in answers.items()
    }


def _benchmark_scores(shop: Workshop, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measured:
    """Each benchmark's mean over items, and the mean over benchmarks except paired bias, which is not an ability."""
    found: Measured = {}
    abilities: list[Estimate] = []
    for benchmark in shop.setting.benchmarks:
        score = bootstrap_mean(score_items(model, tokenizer, benchmark), seed=shop.setting.seed)
        found[benchmark.name] = score
        if METRICS[benchmark.kind] != METRICS["bias"]:
            abilities.append(score)
    return found | _mean_of(abilities)


def _public_scores(shop: Workshop, model_folder: Path, folder: Path) -> Measured:
    """Each public benchmark in ``[rounds]`` by its first metric, and the mean over those whose metric is between 0 and 1.

    In the miniature, the mean of its own benchmarks takes the place of this mean.
    """
    names = shop.preset.rounds.benchmarks
    if not names:
        return {}
    scores = public_scores(shop.setting, {"policy": model_folder}, names, folder / "answers", shop.console)
    found = {name: one.estimate for (_, name), one in scores.items()}
    mean = {} if shop.setting.benchmarks else _mean_of([s.estimate for s in scores.values() if points_of(s.metric) == 100])
    return found | mean


def _mean_of(abilities: Sequence[Estimate]) -> Measured:
    if not abilities:
        return {}
    mean = sum(one.value for one in abilities) / len(abilities)
    error = math.sqrt(sum(one.standard_error**2 for one in abilities)) / len(abilities)
    count = sum(one.count for one in abilities)
    return {"benchmarks": Estimate(mean, mean - 1.96 * error, mean + 1.96 * error, count, error)}


def _over_prompts(shop: Workshop, responses: Sequence[Response], values: Mapping[str, float]) -> Estimate:
    """The mean over responses, with an interval over prompts."""
    clusters = [response.prompt_id for response in responses]
    return bootstrap_mean([values[response.id] for response in responses], clusters, seed=shop.setting.seed)


# ---------------------------------------------------------------------------------------------------- the held-out reward model


def _held_out_reward(shop: Workshop, measured: Sequence[Prompt], notes: list[str]) -> FinishedStage | None:
    """A reward model that learned neither from the project's training prompts nor from the prompts measured here."""
    names = {prompt.id for prompt in measured}
    rankings = [
        ranking
        for ranking in shop.records.rankings.values()
        if shop.records.prompts[ranking.prompt_id].split != "train"
        and ranking.prompt_id not in names
        and ranking.phase != "screening"
        and len(set(ranking.ranks)) > 1
    ]
    if not rankings:
        notes.append(
            "no held-out reward model: there are no rankings of prompts outside the split train, besides the prompts that are "
            "measured"
        )
        return None
    records = trained_on(shop.records, rankings)
    row = stage("reward")
    given = replace(shop.given(row, shop.preset.reward, shop.earlier), records=records)
    inputs = fingerprint_inputs(
        given, records, {"sft": shop.earlier["sft"].fingerprint} if "sft" in shop.earlier else {}, shop.digest
    )
    notes.append(f"the held-out reward model learned from {len(rankings):,} rankings of {_num_prompts(rankings):,} prompts")
    return shop.stages.run("held_out_reward", inputs, partial(_train_reward, given, shop.console))


def trained_on(records: Records, rankings: Sequence[Ranking]) -> Records:
    """The records with only these rankings; their prompts move to the split train, so that a reward model learns from them."""
    prompts = dict(records.prompts)
    for ranking in rankings:
        prompts[ranking.prompt_id] = replace(prompts[ranking.prompt_id], split="train")
    may_train = {one.id: replace(one, phase="training", metadata=_without_group(one)) for one in rankings}
    return Records(prompts=prompts, demonstrations=records.demonstrations, responses=records.responses, rankings=may_train)


def _without_group(ranking: Ranking) -> dict[str, Any]:
    return {name: value for name, value in ranking.metadata.items() if name != "group"}


def _num_prompts(rankings: Sequence[Ranking]) -> int:
    return len({ranking.prompt_id for ranking in rankings})


def _train_reward(given: Given, console: Console, folder: Path) -> None:
    reward(given, folder=folder, console=console)
