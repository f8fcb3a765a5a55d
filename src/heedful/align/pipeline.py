"""The stages in a row, as the paper's figure 2 has them: demonstrations, rankings, reward model, PPO, evaluation.

Each function here is one stage: it reads what earlier stages left on disk and writes to the folder that it is given. Under
``torchrun`` all ranks are in it: they train and answer together, and rank 0 writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from heedful.align.models import (
    loading_precision,
    placed_for_training,
    policy_for_training,
)
from heedful.align.prefixes import cut_answer, with_prefix
from heedful.align.pretraining import VALIDATION_EVERY
from heedful.align.settings import Labelers, Setting
from heedful.align.simulated import named_by_content, recorded
from heedful.align.task_files import blinded, write_tasks
from heedful.errors import DataError
from heedful.evaluate.results import Group
from heedful.labeling.queue.recording import Work
from heedful.model import (
    check_tokenizer,
    load_causal_model,
    load_scalar_model,
    load_tokenizer,
    remove_leftovers,
    scalar_model_from_causal,
)
from heedful.model.answering import Answerer, mean_reward, prompts_within
from heedful.model.encoding import encode_demonstrations, encode_prompts, encode_rankings
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.template import encode
from heedful.presets import CollectConfig
from heedful.project.data_folder import Records, record_from_json, record_to_json
from heedful.project.files import read_jsonl, write_atomically, write_jsonl
from heedful.project.project import Project
from heedful.project.selection import demonstrations_of, prompts_of, training_rankings, without_labels
from heedful.ranks.world import world
from heedful.records import Prompt, Response
from heedful.training.checkpoint import CHECKPOINTS, remove_checkpoints
from heedful.training.config import PPOConfig, SFTConfig
from heedful.training.ppo import PPOData, train_ppo
from heedful.training.pretraining_text import PretrainingText, encode_documents, read_documents
from heedful.training.reward import train_reward
from heedful.training.sft import candidates_in, lowest_losses, train_sft


def pretraining_text(setting: Setting, part: str) -> PretrainingText | None:
    """The project's plain text: ``train.*`` and ``valid.*`` where it has both, else every 50th document is for validation."""
    folder = setting.project.pretraining_text
    if not folder.exists():
        return None
    tokenizer = load_tokenizer(setting.base_model)
    named = [folder / f"{name}.{ending}" for ending in ("txt", "jsonl") for name in ("train", "valid")]
    files = {file.stem: file for file in named if file.is_file()}
    if len(files) == 2:
        return encode_documents(tokenizer, read_documents(files[part]))
    documents = list(read_documents(folder))
    kept_out = range(VALIDATION_EVERY - 1, len(documents), VALIDATION_EVERY)
    chosen = [d for i, d in enumerate(documents) if (i in kept_out) == (part == "valid")]
    return encode_documents(tokenizer, chosen or documents)


def sft(setting: Setting, records: Records, folder: Path, console: Console) -> None:
    """Step 1: the base model on demonstrations; candidates for the choice by RM score (SPEC 3.2)."""
    if trained_before(folder, "sft", console):
        return
    config = setting.preset.sft
    model, tokenizer = policy_for_training(setting.base_model, loading_precision(config))
    limits: dict[str, Any] = {"max_prompt_tokens": config.max_prompt_tokens, "max_response_tokens": config.max_response_tokens}
    examples, counts = encode_demonstrations(tokenizer, records.prompts, demonstrations_of(records, "train"), **limits)
    console.print(f"demonstrations: {counts}", highlight=False)
    held_out = demonstrations_of(records, "valid")
    validation = encode_demonstrations(tokenizer, records.prompts, held_out, **limits)[0] if held_out else examples[:100]
    train_sft(model, tokenizer, examples, config, folder, validation=validation, console=console)


def trained_before(folder: Path, title: str, console: Console) -> bool:
    """Whether a stage that is not marked as done has its model: a kill came in between, and there is nothing to train.

    The model is the last that a run writes, and is there whole or not at all; the folder's fingerprint says of which inputs.
    """
    if not (folder / "model").is_dir():
        return False
    if world().is_rank_zero:
        remove_leftovers(folder)
        remove_checkpoints(folder / CHECKPOINTS)
    console.print(f"{title}: its model is there already, nothing to train", highlight=False)
    return True


def collect(setting: Setting, records: Records, sft_folder: Path, folder: Path, console: Console) -> None:
    """Ranking tasks: K outputs for each prompt, most by the SFT model, to be ranked side by side (SPEC 2.3, 3.8).

    Writes responses.jsonl, and rankings.jsonl and ratings.jsonl where the labelers are simulated; else tasks/ranking.jsonl for
    people.
    """
    config, limits = setting.preset.collect, setting.preset.sft
    tokenizer = load_tokenizer(sft_folder / "model")
    chosen: list[Prompt] = []
    for split, number in (("train", config.prompts), ("valid", config.validation_prompts)):
        free = prompts_of(records, split, demonstrated=False) or prompts_of(records, split)  # pyright: ignore[reportArgumentType]
        chosen += prompts_within(tokenizer, free, limits.max_prompt_tokens, console)[:number]
    rng = np.random.default_rng([setting.seed, 5])
    ks = rng.integers(config.smallest_k, config.largest_k + 1, size=len(chosen))
    wanted = [(prompt, i) for prompt, k in zip(chosen, ks, strict=True) for i in range(k)]
    writers = _writers(sft_folder)
    # The last SFT model writes most outputs; the others share the rest.
    shares = [1 - config.other_models_share] + [config.other_models_share / max(1, len(writers) - 1)] * (len(writers) - 1)
    drawn = rng.choice(len(writers), size=len(wanted), p=np.array(shares) / sum(shares))
    written: dict[tuple[str, int], Response] = {}
    for number, (name, model_folder) in enumerate(writers):
        mine = [want for want, writer in zip(wanted, drawn, strict=True) if writer == number]
        if not mine:
            continue
        model, tokenizer = policy_for_inference(model_folder, limits.precision)
        answers = Answerer(model, tokenizer, limits, setting.project.engine).answer(
            [prompt for prompt, _ in mine],
            name=name,
            ids=[f"output-{prompt.id}-{i}" for prompt, i in mine],
            temperature=config.temperature,
            seed=setting.seed,
            console=console,
        )
        for (prompt, i), response in zip(mine, answers, strict=True):
            written[prompt.id, i] = response
    responses = [written[prompt.id, i] for prompt, i in wanted]
    if not world().is_rank_zero:
        return
    if setting.labelers is None:
        responses = blinded(responses, folder.name, setting.seed)
        write_jsonl(folder / "responses.jsonl", [record_to_json(r) for r in responses])
        write_tasks(setting.project, "ranking", chosen, responses)
        return
    responses = named_by_content(responses)
    write_jsonl(folder / "responses.jsonl", [record_to_json(r) for r in responses])
    works = _assessments(setting.labelers, config, chosen, responses)
    groups = setting.labelers.groups
    with recorded(setting.project, works, run=folder.name, groups=groups, prompts=chosen, responses=responses) as answers:
        # One after the other onto the disk: all ratings at once would be most of this stage's memory.
        write_jsonl(folder / "ratings.jsonl", map(record_to_json, answers.ratings()))
        rankings = [record_to_json(ranking) for ranking in answers.rankings()]
        write_jsonl(folder / "rankings.jsonl", rankings)
    console.print(f"{len(rankings):,} rankings by simulated labelers of {len(responses):,} outputs", highlight=False)


def _assessments(
    labelers: Labelers, config: CollectConfig, prompts: Sequence[Prompt], responses: Sequence[Response]
) -> Iterator[Work]:
    of_prompt = by_prompt(responses)
    # Validation prompts are ranked by several labelers of both groups, to measure agreement.
    several = config.agreement_labelers
    for prompt in prompts:
        groups: dict[Group, int] = (
            {"training": config.labelers_per_prompt} if prompt.split == "train" else {"training": several, "held_out": several}
        )
        for group, number in groups.items():
            yield from labelers.assess(prompt, of_prompt[prompt.id], group=group, labelers=number)


def by_prompt(responses: Iterable[Response]) -> dict[str, list[Response]]:
    """Each prompt's responses by its id, in order."""
    found: dict[str, list[Response]] = {}
    for response in responses:
        found.setdefault(response.prompt_id, []).append(response)
    return found


def _writers(sft_folder: Path) -> list[tuple[str, Path]]:
    """Who writes outputs to rank: (name, folder); the last SFT model first, then its earlier candidates."""
    rows: list[dict[str, Any]] = json.loads((sft_folder / "candidates.json").read_text(encoding="utf-8"))
    writers = [("sft", sft_folder / "model")]
    writers += [(f"sft epoch {row['epoch']}", sft_folder / row["folder"]) for row in rows[:-1]]
    return writers


def collected(folder: Path, records: Records) -> Records:
    """The project's records with the outputs and rankings of a ranking stage added.

    Its ratings stay on the disk: nothing is trained from them, and they are the most of what labelers answer.
    """
    merged = replace(records, responses=dict(records.responses), rankings=dict(records.rankings))
    for kind in ("response", "ranking"):
        path = folder / f"{kind}s.jsonl"
        for line, row in read_jsonl(path) if path.is_file() else ():
            record = record_from_json(kind, row, where=f"{path}:{line}")
            merged.by_kind(kind)[record.id] = record
    merged.check()
    return merged


def records_of(project: Project) -> Records:
    """What a project's stages begin with.

    If labelers are simulated, their rankings come from the stage that collects them. What was exported into the data is the
    same rankings again, those of earlier runs, and the evaluation's.
    """
    records = Records.load(project.data)
    return without_labels(records) if project.labelers == "simulated" else records


def reward(setting: Setting, records: Records, sft_folder: Path, folder: Path, console: Console) -> None:
    """Step 2: the reward model, from the SFT model, on all comparisons of each prompt (SPEC 3.3)."""
    if trained_before(folder, "reward", console):
        return
    config = setting.preset.reward
    tokenizer = load_tokenizer(sft_folder / "model")
    causal = load_causal_model(setting.reward_start or sft_folder / "model", loading_precision(config))
    check_tokenizer(causal, tokenizer, setting.reward_start or sft_folder)
    torch.manual_seed(config.seed)
    assert isinstance(tokenizer.eos_token_id, int)
    padding = tokenizer.pad_token_id
    assert padding is None or isinstance(padding, int)
    model = scalar_model_from_causal(causal, pad_token_id=padding, eos_token_id=tokenizer.eos_token_id)
    del causal  # else it would be held as long as the reward model is trained
    limits: dict[str, Any] = {"max_prompt_tokens": config.max_prompt_tokens, "max_response_tokens": config.max_response_tokens}
    rankings, counts = encode_rankings(
        tokenizer, records.prompts, records.responses, training_rankings(records, "train"), **limits
    )
    console.print(f"rankings: {counts}", highlight=False)
    held_out = training_rankings(records, "valid")
    validation = encode_rankings(tokenizer, records.prompts, records.responses, held_out, **limits)[0] if held_out else []
    demonstrated = demonstrations_of(records, "valid") or demonstrations_of(records, "train")
    demonstrations = encode_demonstrations(tokenizer, records.prompts, demonstrated, **limits)[0] if demonstrated else []
    train_reward(
        placed_for_training(model),
        tokenizer,
        rankings,
        config,
        folder,
        validation=validation,
        demonstrations=demonstrations,
        console=console,
    )


def choose_sft(
    setting: Setting, records: Records, sft_folder: Path, reward_folder: Path, folder: Path, console: Console
) -> None:
    """The SFT checkpoint with the best mean RM score on validation prompts (SPEC 3.2)."""
    limits = setting.preset.sft
    reward_model = reward_model_for_inference(reward_folder / "model", limits.precision)
    rows: list[dict[str, Any]] = json.loads((sft_folder / "candidates.json").read_text(encoding="utf-8"))
    prompts = _choice_prompts(setting, records, sft_folder / "model", console)
    for row in rows:
        model, tokenizer = policy_for_inference(sft_folder / row["folder"], limits.precision)
        responses = Answerer(model, tokenizer, limits, setting.project.engine).answer(
            prompts,
            name=f"epoch {row['epoch']}",
            ids=[f"choice-{p.id}" for p in prompts],
            temperature=1.0,
            seed=setting.seed,
            console=console,
        )
        row["reward"] = mean_reward(
            reward_model, tokenizer, records.prompts, responses, max_response_tokens=limits.max_response_tokens
        )
    best = max(range(len(rows)), key=lambda i: rows[i]["reward"])
    for i, row in enumerate(rows):
        row["chosen"] = i == best
        mark = "chosen" if i == best else ""
        console.print(
            f"epoch {row['epoch']}: validation loss {row['validation_loss']:.3f}, mean reward {row['reward']:+.3f} {mark}",
            highlight=False,
        )
    write_json(folder / "choice.json", rows)


def chosen_sft(sft_folder: Path, choice_folder: Path) -> Path:
    """The folder of the SFT model that :func:`choose_sft` chose."""
    rows = json.loads((choice_folder / "choice.json").read_text(encoding="utf-8"))
    return sft_folder / next(row["folder"] for row in rows if row["chosen"])


def initial_policy(setting: Setting, records: Records, base_model: Path, *, folder: Path, console: Console, title: str) -> None:
    """Where PPO starts: the base model on demonstrations with pretraining text mixed in, chosen by both losses (SPEC 3.4)."""
    if not trained_before(folder, title, console):
        _train_initial_policy(setting, records, base_model, folder, console, title)
    best = lowest_losses(candidates_in(folder))
    console.print(f"initial policy: epoch {best.epoch}, demonstration loss {best.validation_loss:.3f}", highlight=False)
    write_json(folder / "chosen.json", {"folder": str(best.folder.relative_to(folder)), "epoch": best.epoch})


def _train_initial_policy(
    setting: Setting, records: Records, base_model: Path, folder: Path, console: Console, title: str
) -> None:
    config: SFTConfig = setting.preset.initial_policy
    model, tokenizer = policy_for_training(base_model, loading_precision(config))
    limits: dict[str, Any] = {"max_prompt_tokens": config.max_prompt_tokens, "max_response_tokens": config.max_response_tokens}
    examples, _ = encode_demonstrations(tokenizer, records.prompts, demonstrations_of(records, "train"), **limits)
    held_out = demonstrations_of(records, "valid")
    validation = encode_demonstrations(tokenizer, records.prompts, held_out, **limits)[0] if held_out else examples[:100]
    text = pretraining_text(setting, "train") if config.pretraining_share else None
    text_validation = pretraining_text(setting, "valid") if text is not None else None
    if text is None and config.pretraining_share:
        console.print("no pretraining text: the initial policy is trained on demonstrations alone", highlight=False)
        config = replace(config, pretraining_share=0.0)
    train_sft(
        model,
        tokenizer,
        examples,
        config,
        folder,
        validation=validation,
        pretraining=text,
        pretraining_validation=text_validation,
        context_length=setting.preset.ppo.ptx_context_length,
        console=console,
        title=title,
    )


def initial_policy_folder(folder: Path) -> Path:
    """The folder of the model that :func:`initial_policy` chose."""
    return folder / json.loads((folder / "chosen.json").read_text(encoding="utf-8"))["folder"]


def ppo(
    setting: Setting,
    records: Records,
    config: PPOConfig,
    policy_folder: Path,
    reward_folder: Path,
    *,
    folder: Path,
    console: Console,
    title: str,
) -> None:
    """Step 3: PPO against the reward model, with pretraining gradients unless the coefficient is 0 (SPEC 3.5, 3.6)."""
    if trained_before(folder, title, console):
        return
    # Two bases that are one are found to be so in main memory: the GPU has to hold one only.
    where = torch.device("cpu") if config.lora_rank else None
    policy, tokenizer = policy_for_training(policy_folder, loading_precision(config), where=where)
    reward_model = placed_for_training(load_scalar_model(reward_folder / "model", loading_precision(config)), where)
    prompts = prompts_of(records, "train", demonstrated=False) or prompts_of(records, "train")
    _, tokens, counts = encode_prompts(tokenizer, prompts, max_tokens=config.max_prompt_tokens)
    console.print(f"prompts: {counts}; {config.iterations:,} iterations of {config.batch_size:,} episodes", highlight=False)
    text = pretraining_text(setting, "train") if config.ptx_coefficient else None
    held_out = prompts_of(records, "valid") if config.validate_every else []
    _, validation, _ = encode_prompts(tokenizer, held_out, max_tokens=config.max_prompt_tokens)
    train_ppo(
        policy,
        reward_model,
        tokenizer,
        PPOData(tokens, text, validation),
        config,
        folder,
        console=console,
        title=title,
    )


def choose_prefix(setting: Setting, records: Records, reward_folder: Path, folder: Path, console: Console) -> None:
    """The few-shot prefix whose answers have the best mean RM score on validation prompts (SPEC 3.7)."""
    limits = setting.preset.sft
    reward_model = reward_model_for_inference(reward_folder / "model", limits.precision)
    model, tokenizer = policy_for_inference(setting.base_model, limits.precision)
    prompts = _choice_prompts(setting, records, setting.base_model, console)
    scores: list[float] = []
    for number, prefix in enumerate(setting.prefixes):
        responses = answer_with_prefix(setting, model, tokenizer, prompts, prefix, f"prefix {number + 1}", console)
        scores.append(
            mean_reward(reward_model, tokenizer, records.prompts, responses, max_response_tokens=limits.max_response_tokens)
        )
        console.print(f"prefix {number + 1}: mean reward {scores[-1]:+.3f}", highlight=False)
    write_json(
        folder / "prefix.json", {"candidates": list(setting.prefixes), "scores": scores, "chosen": int(np.argmax(scores))}
    )


def chosen_prefix(folder: Path) -> str:
    """The few-shot prefix that :func:`choose_prefix` chose."""
    found = json.loads((folder / "prefix.json").read_text(encoding="utf-8"))
    return found["candidates"][found["chosen"]]


def answer_with_prefix(
    setting: Setting, model: Any, tokenizer: Any, prompts: list[Prompt], prefix: str, name: str, console: Console
) -> list[Response]:
    """The base model's answers to prompts behind a few-shot prefix, each cut where the answer ends (SPEC 3.7).

    A prompt that does not fit the context window together with the prefix is given without the examples, in the same format.
    """
    limits, evaluate = setting.preset.sft, setting.preset.evaluate
    given = texts_within_window(
        model, tokenizer, [p.text for p in prompts], prefix, max_response_tokens=limits.max_response_tokens, console=console
    )
    responses = Answerer(model, tokenizer, limits, setting.project.engine).answer(
        prompts,
        name=name,
        ids=[f"{name}-{p.id}" for p in prompts],
        texts=given,
        temperature=evaluate.temperature,
        seed=setting.seed,
        console=console,
    )
    return [cut_answer(response) for response in responses]


def texts_within_window(
    model: Any, tokenizer: Any, texts: Sequence[str], prefix: str, *, max_response_tokens: int, console: Console
) -> list[str]:
    """Prompts behind the prefix, or in its format without examples where that would not leave room for a response."""
    given = [with_prefix(prefix, text) for text in texts]
    window = getattr(model.config, "max_position_embeddings", None)
    if window is None:
        return given
    too_long = [len(row) > window - max_response_tokens for row in encode(tokenizer, given, beginning=True)]
    if any(too_long):
        console.print(f"{sum(too_long):,} prompts leave no room for the few-shot examples", highlight=False)
    return [with_prefix("", text) if long else full for text, full, long in zip(texts, given, too_long, strict=True)]


def _choice_prompts(setting: Setting, records: Records, model: Path, console: Console) -> list[Prompt]:
    prompts = prompts_of(records, "valid") or prompts_of(records, "train")
    fitting = prompts_within(load_tokenizer(model), prompts, setting.preset.sft.max_prompt_tokens, console)
    if not fitting:
        raise DataError("no validation prompt is within the limit", expected="at least one", got="none")
    return fitting[: setting.preset.evaluate.choice_prompts]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented; under ``torchrun`` rank 0 does. Raises StorageError."""
    if world().is_rank_zero:
        write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
