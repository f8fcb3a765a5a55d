"""The stages that train or sample alternatives to PPO on the same data (SPEC 7), and what the evaluation measures about them.

All start from the SFT model, like the reward model; the same model wrote most of the ranked outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align.encoded_records import encoded_rankings, encoded_refusal_prompts
from heedful.align.held_out_prompts import evaluation_prompts
from heedful.align.models import loading_precision, policy_for_training
from heedful.align.settings import Given, write_json
from heedful.align.train_stages import trained_before
from heedful.evaluate import lineup
from heedful.evaluate.results import AlternativeRow, Alternatives, BestOfPoint
from heedful.model.answering import Answerer, logprobs_of_responses, score_responses
from heedful.model.chat_template import keep_template
from heedful.model.encoding import encode_prompts
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import record_to_json
from heedful.project.files import read_jsonl, write_jsonl
from heedful.project.runs import records_in
from heedful.project.selection import prompts_for_policy, prompts_of
from heedful.ranks.rank_zero import on_rank_zero
from heedful.records import Prompt, Response
from heedful.statistics import best_of_n as expected_best
from heedful.statistics import best_of_n_kl, bootstrap_mean
from heedful.training.cloning import preferred_examples
from heedful.training.dpo import train_dpo
from heedful.training.expert_iteration import train_expert_iteration
from heedful.training.sft import SFTData, train_sft

DRIFT_FILE = "drift.json"
CURVE_FILE = "best_of_n.json"


def dpo(given: Given, *, folder: Path, console: Console) -> None:
    """Train the SFT model directly on the reward model's rankings."""
    if trained_before(folder, given.stage.name, console):
        return
    config = given.config
    policy, tokenizer = policy_for_training(given.model_of("sft"), loading_precision(config))
    keep_template(tokenizer, given.setting.template)
    rankings, validation = encoded_rankings(given, config, tokenizer, console, with_ties=config.tie_threshold > 0)
    train_dpo(policy, tokenizer, rankings, config, folder, validation=validation, console=console)


def cloning(given: Given, *, folder: Path, console: Console) -> None:
    """Train the SFT model on the response that labelers preferred for each training prompt with ranked responses."""
    if trained_before(folder, given.stage.name, console):
        return
    config = given.config
    policy, tokenizer = policy_for_training(given.model_of("sft"), loading_precision(config))
    keep_template(tokenizer, given.setting.template)
    rankings, held_out = encoded_rankings(given, config, tokenizer, console, with_ties=False)
    examples, validation = preferred_examples(rankings), preferred_examples(held_out)
    train_sft(
        policy,
        tokenizer,
        SFTData(examples, validation or examples[:100]),
        config,
        folder,
        console=console,
        title=given.stage.name,
    )


def expert_iteration(given: Given, *, folder: Path, console: Console) -> None:
    """Train the SFT model on its own answers to PPO's prompts that have the highest rewards."""
    if trained_before(folder, given.stage.name, console):
        return
    config, records, start = given.config, given.records, given.model_of("sft")
    tokenizer = load_tokenizer(start)
    keep_template(tokenizer, given.setting.template)
    fitting, tokens, counts = encode_prompts(
        tokenizer, prompts_of(records, "train"), max_tokens=config.max_prompt_tokens, template=given.setting.template
    )
    chosen, words = prompts_for_policy(records, fitting)
    tokens_of = {prompt.id: row for prompt, row in zip(fitting, tokens, strict=True)}
    console.print(f"training prompts: {words}{counts.left_out}", highlight=False)
    reward_model = reward_model_for_inference(given.model_of("reward"), config.precision)
    marked = encoded_refusal_prompts(given, config, tokenizer, console)
    prompts = [*(tokens_of[prompt.id] for prompt in chosen), *marked]
    train_expert_iteration(start, reward_model, tokenizer, prompts, config, folder, console=console, title=given.stage.name)


def best_of_n(given: Given, *, folder: Path, console: Console) -> None:
    """For each prompt of the evaluation, sample n answers of the SFT model and keep the one with the highest reward.

    Writes samples-1.jsonl to samples-n.jsonl (all answers with their rewards; a kill loses at most one of these files),
    responses.jsonl (the chosen ones), and best_of_n.json: for sizes up to n the expected reward of the best, with its KL.
    """
    setting, number = given.setting, given.config.samples
    limits = setting.preset.answering("evaluate")
    prompts = evaluation_prompts(given, console)
    paths = [folder / f"samples-{i + 1}.jsonl" for i in range(number)]
    missing = [i for i, path in enumerate(paths) if not on_rank_zero(path.is_file)]
    if missing:
        model, tokenizer = policy_for_inference(given.model_of("sft"), limits.precision)
        reward_model = reward_model_for_inference(given.model_of("reward"), limits.precision)
        scoring = load_tokenizer(given.model_of("reward"))
    for i in missing:
        name = f"{given.stage.name}, answer {i + 1} of {number},"
        responses = Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
            prompts,
            name=name,
            ids=[f"best-of-n-{i + 1}-{prompt.id}" for prompt in prompts],
            temperature=given.config.temperature,
            seed=setting.seed,
            console=console,
        )
        rewards = score_responses(
            reward_model,
            scoring,
            given.records.prompts,
            responses,
            max_response_tokens=limits.max_response_tokens,
            template=setting.template,
        )
        tokens = [len(row) for row in tokenizer([r.text for r in responses], add_special_tokens=False)["input_ids"]]
        rows = [
            {"prompt_id": r.prompt_id, "text": r.text, "finished": r.finished, "reward": rewards[r.id], "tokens": count}
            for r, count in zip(responses, tokens, strict=True)
        ]
        on_rank_zero(lambda path=paths[i], rows=rows: write_jsonl(path, rows))
    on_rank_zero(lambda: _choose(given, prompts, paths, folder))


def best_of_n_answers(given: Given) -> list[Response]:
    """The answers that the stage best_of_n chose."""
    return list(records_in(given.runs["best_of_n"], "response"))


def sft_folder(given: Given) -> Path:
    """The folder of the SFT model that the alternatives start from; the base model's if that is the SFT model."""
    run = given.runs.get("sft")
    return given.setting.base_model if run is None else run / "model"


def drift(given: Given, folders: Mapping[str, Path], responses: Sequence[Response], console: Console) -> list[dict[str, Any]]:
    """How far each policy is from the SFT model: log(policy / SFT) of its own answers to the evaluation's prompts, in nats.

    If the answers were sampled at temperature 1, the mean is an unbiased estimate of the KL. For best of n the KL is not
    estimated: it is log n - (n - 1) / n, an upper bound if rewards can be equal.
    """
    setting, limits = given.setting, given.setting.preset.answering("evaluate")
    compared = [c.name for c in (lineup.SFT, lineup.PPO, lineup.PPO_PTX, *lineup.ALTERNATIVES)]
    options: dict[str, Any] = {"max_response_tokens": limits.max_response_tokens, "template": setting.template}
    reference, tokenizer = policy_for_inference(sft_folder(given), limits.precision)
    rows: list[dict[str, Any]] = []
    for name in (name for name in compared if name in folders):
        console.print(f"KL of {name} from the SFT model", highlight=False)
        own = [response for response in responses if response.model == name]
        policy = policy_for_inference(folders[name], limits.precision)[0]
        ours, theirs = (
            logprobs_of_responses(model, tokenizer, given.records.prompts, own, **options) for model in (policy, reference)
        )
        estimate = bootstrap_mean([a - b for a, b in zip(ours, theirs, strict=True)], seed=setting.seed)
        rows.append({"model": name, "kl": estimate.value, "low": estimate.low, "high": estimate.high})
    if "best_of_n" in given.runs:
        kl = best_of_n_kl(setting.preset.best_of_n.samples)
        rows.append({"model": lineup.BEST_OF_N.name, "kl": kl, "low": kl, "high": kl})
    return rows


def section(runs: Mapping[str, Path], responses: Mapping[str, Response], rewards: Mapping[str, float]) -> Alternatives | None:
    """The alternatives compared with PPO: KL, reward and number of sampled tokens; None if the evaluation had none."""
    if not (runs["evaluate"] / DRIFT_FILE).is_file():
        return None
    curve: list[BestOfPoint] = _read(runs["best_of_n"] / CURVE_FILE)["curve"] if "best_of_n" in runs else []
    rows: list[AlternativeRow] = []
    for row in _read(runs["evaluate"] / DRIFT_FILE):
        name: str = row["model"]
        own = [rewards[response.id] for response in responses.values() if response.model == name]
        rows.append(
            {
                "model": name,
                "kl": row["kl"],
                "low": row["low"],
                "high": row["high"],
                "reward": sum(own) / len(own),
                "generated_tokens": _generated_tokens(runs.get(name)),
                "answers_per_prompt": curve[-1]["n"] if name == lineup.BEST_OF_N.name else 1,
            }
        )
    return {"rows": rows, "best_of_n": curve}


def _generated_tokens(run: Path | None) -> int:
    """How many tokens a policy sampled during training: PPO's episodes, or expert iteration's answers."""
    if run is None or not (run / "metrics.jsonl").is_file():
        return 0
    rows = [row for _, row in read_jsonl(run / "metrics.jsonl")]
    episodes = _read(run / "config.json").get("batch_size", 0)
    return round(sum(row.get("generated_tokens", episodes * row["length"] if "kl" in row else 0) for row in rows))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _choose(given: Given, prompts: Sequence[Prompt], paths: Sequence[Path], folder: Path) -> None:
    """Write the chosen answers, and the expected reward of the best for each size up to n."""
    samples: dict[str, list[dict[str, Any]]] = {prompt.id: [] for prompt in prompts}
    for path in paths:
        for _, row in read_jsonl(path):
            samples[row["prompt_id"]].append(row)
    name = lineup.BEST_OF_N.name
    chosen: list[Response] = []
    for prompt in prompts:
        best = max(samples[prompt.id], key=lambda row: row["reward"])
        chosen.append(
            Response(id=f"{name}-{prompt.id}", prompt_id=prompt.id, text=best["text"], model=name, finished=best["finished"])
        )
    write_jsonl(folder / "responses.jsonl", [record_to_json(response) for response in chosen])
    sizes = sorted({2**i for i in range(len(paths).bit_length()) if 2**i <= len(paths)} | {len(paths)})
    scores = {prompt_id: [row["reward"] for row in rows] for prompt_id, rows in samples.items()}
    found = expected_best(scores, sizes, seed=given.setting.seed)
    curve = [{"n": n, "reward": e.value, "low": e.low, "high": e.high, "kl": best_of_n_kl(n)} for n, e in found.items()]
    generated = sum(row["tokens"] for rows in samples.values() for row in rows)
    write_json(folder / CURVE_FILE, {"curve": curve, "generated_tokens": generated})
