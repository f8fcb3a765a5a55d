"""The stages that choose by mean reward on validation prompts: the SFT checkpoint, and the base model's few-shot prefix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from heedful.align.prefixes import cut_answer, with_prefix
from heedful.align.settings import Given, Setting, write_json
from heedful.errors import DataError
from heedful.model.answering import Answerer, mean_reward, prompts_within
from heedful.model.context_window import context_window
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.model.template import encode
from heedful.project.selection import prompts_of
from heedful.records import Prompt, Response, Split


def choose_sft(given: Given, *, folder: Path, console: Console) -> None:
    """Choose the SFT checkpoint with the highest mean RM score on validation prompts (SPEC 3.2)."""
    setting, records, sft_folder = given.setting, given.records, given.run_of("sft")
    limits = setting.preset.answering("evaluate")
    reward_model = reward_model_for_inference(given.run_of("reward") / "model", limits.precision)
    rows: list[dict[str, Any]] = json.loads((sft_folder / "candidates.json").read_text(encoding="utf-8"))
    prompts = _choice_prompts(given, sft_folder / "model", console)
    for row in rows:
        model, tokenizer = policy_for_inference(sft_folder / row["folder"], limits.precision)
        responses = Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
            prompts,
            name=f"epoch {row['epoch']}",
            ids=[f"choice-{p.id}" for p in prompts],
            temperature=1.0,
            seed=setting.seed,
            console=console,
        )
        row["reward"] = mean_reward(
            reward_model,
            tokenizer,
            records.prompts,
            responses,
            max_response_tokens=limits.max_response_tokens,
            template=setting.template,
            console=console,
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


def choose_prefix(given: Given, *, folder: Path, console: Console) -> None:
    """Choose the few-shot prefix whose answers have the highest mean RM score on validation prompts (SPEC 3.7)."""
    setting, records = given.setting, given.records
    limits = setting.preset.answering("evaluate")
    reward_model = reward_model_for_inference(given.run_of("reward") / "model", limits.precision)
    model, tokenizer = policy_for_inference(setting.base_model, limits.precision)
    prompts = _choice_prompts(given, setting.base_model, console)
    scores: list[float] = []
    for number, prefix in enumerate(setting.prefixes):
        responses = answer_with_prefix(setting, model, tokenizer, prompts, prefix, f"prefix {number + 1}", console)
        scores.append(
            mean_reward(
                reward_model,
                tokenizer,
                records.prompts,
                responses,
                max_response_tokens=limits.max_response_tokens,
                template=setting.template,
                console=console,
            )
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
    """The base model's answers to prompts after a few-shot prefix, each cut where the answer ends (SPEC 3.7).

    A prompt that does not fit the context window together with the prefix is given without the examples, in the same format.
    If even the format leaves no room for a response, the bare prompt is given.
    """
    limits, evaluate = setting.preset.answering("evaluate"), setting.preset.evaluate
    given = texts_within_window(
        model, tokenizer, [p.text for p in prompts], prefix, max_response_tokens=limits.max_response_tokens, console=console
    )
    responses = Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
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
    """Each prompt in the longest form that leaves room for a response: after the prefix, in its format, or as it is."""
    window = context_window(model)
    with_examples, bare = [with_prefix(prefix, text) for text in texts], [with_prefix("", text) for text in texts]
    if window is None:
        return with_examples

    def fit(given: Sequence[str]) -> list[bool]:
        return [len(row) <= window - max_response_tokens for row in encode(tokenizer, given)]

    room_for_examples = fit(with_examples)
    if left_out := room_for_examples.count(False):
        console.print(f"{left_out:,} prompts leave no room for the few-shot examples", highlight=False)
    # A prompt as long as max_prompt_tokens may leave no room for the words around it either.
    as_it_is = [not b and t for b, t in zip(fit(bare), fit(texts), strict=True)]
    forms = zip(with_examples, bare, texts, room_for_examples, as_it_is, strict=True)
    return [full if room else text if alone else short for full, short, text, room, alone in forms]


def _choice_prompts(given: Given, model: Path, console: Console) -> list[Prompt]:
    tokenizer, limit = load_tokenizer(model), given.setting.preset.sft.max_prompt_tokens
    splits: tuple[Split, ...] = ("valid", "train")
    fitting: list[Prompt] = []
    for split in splits:
        if not fitting:
            fitting = prompts_within(tokenizer, prompts_of(given.records, split), limit, console, given.setting.template)
    if not fitting:
        raise DataError("no validation prompt is within the limit", expected="at least one", got="none")
    return fitting[: given.config.choice_prompts]
