"""What several stages do with models: answer prompts, score answers, load on the right device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import DataError
from heedful.model import (
    EngineName,
    Precision,
    Sampling,
    check_tokenizer,
    frozen,
    generator,
    load_causal_model,
    load_scalar_model,
    load_tokenizer,
    request_seeds,
)
from heedful.model.encoding import encode, encode_prompts, encode_response
from heedful.model.readout import score
from heedful.progress import progress_line
from heedful.ranks.collectives import in_order, own_indices, world
from heedful.ranks.rank_zero import meet
from heedful.records import Prompt, Response
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig

GENERATION_BATCH = 1_024


def device() -> torch.device:
    """The first GPU where there is one."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def loading_precision(config: SFTConfig | RewardConfig | PPOConfig) -> Precision:
    """As what a step's models are loaded: fp32 to train all weights, the compute type where the base stays frozen (LoRA)."""
    return config.precision if config.lora_rank else "float32"


def placed_for_training(model: PreTrainedModel, where: torch.device | None = None) -> PreTrainedModel:
    """The model on the device, or ``where``; under ``torchrun`` in main memory: the step moves each rank's shards."""
    return model if world().size > 1 else model.to(where or device())  # pyright: ignore[reportArgumentType]


def policy_for_training(
    folder: str | Path, precision: Precision = "float32", *, where: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model and its tokenizer, checked against each other; on the first GPU unless ``where`` says otherwise."""
    model, tokenizer = _policy(folder, precision)
    return placed_for_training(model, where), tokenizer


def policy_for_inference(folder: str | Path, precision: Precision) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same in the compute type, without gradients."""
    model, tokenizer = _policy(folder, precision)
    return frozen(model.to(device()), precision), tokenizer  # pyright: ignore[reportArgumentType]


def _policy(folder: str | Path, precision: Precision) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(folder)
    model = load_causal_model(folder, precision)
    check_tokenizer(model, tokenizer, folder)
    return model, tokenizer


def reward_model_for_inference(folder: str | Path, precision: Precision) -> PreTrainedModel:
    """A reward model in the compute type, without gradients."""
    return frozen(load_scalar_model(folder, precision).to(device()), precision)  # pyright: ignore[reportArgumentType]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    name: str,
    ids: Sequence[str],
    max_prompt_tokens: int,
    max_response_tokens: int,
    temperature: float,
    seed: int,
    engine: EngineName = "heedful",
    texts: Sequence[str] | None = None,
    console: Console | None = None,
) -> list[Response]:
    """One response to each prompt, in order; ``ids`` become the responses' ids.

    texts: what the model is given where that is not the prompt's own text (a few-shot prefix in front). Each request's random
    numbers depend on the seed and its id only. Under ``torchrun`` each rank answers a part of them, and all get all answers.
    Raises DataError where a prompt is over the limit.
    """
    given = [p.text for p in prompts] if texts is None else list(texts)
    tokens = encode(tokenizer, given, beginning=True)
    window = getattr(model.config, "max_position_embeddings", None)
    limit = max_prompt_tokens if texts is None or window is None else window - max_response_tokens
    for prompt, row in zip(prompts, tokens, strict=True):
        if len(row) > limit:
            raise DataError(
                f"the prompt {prompt.id!r} is over the limit",
                expected=f"at most {limit} tokens",
                got=f"{len(row)} tokens",
                next_step="shorten it, or raise max_prompt_tokens in heedful.toml",
            )
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    sampling = Sampling(max_tokens=max_response_tokens, temperature=temperature, stop_token=end)
    seeds = [request_seeds(seed, stream=f"answer {identifier}", count=1)[0] for identifier in ids]
    mine = own_indices([len(row) for row in tokens])
    unit = "prompts" if world().size == 1 else "prompts of rank 0's part"
    with progress_line(f"{name} answers", len(mine), unit=unit, console=console) as progress:
        own = generator(engine)(
            model,
            [tokens[i] for i in mine],
            sampling,
            [seeds[i] for i in mine],
            batch_size=GENERATION_BATCH,
            advance=progress.advance,
            tokenizer=tokenizer,
        )
    meet()  # one rank's answers may take longer than a collective would wait
    generations = in_order(zip(mine, own, strict=True))
    decoded = tokenizer.batch_decode([g.tokens for g in generations], skip_special_tokens=True)
    return [
        Response(id=identifier, prompt_id=prompt.id, text=str(text), model=name, finished=generation.finished)
        for identifier, prompt, text, generation in zip(ids, prompts, decoded, generations, strict=True)
    ]


def score_responses(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    responses: Sequence[Response],
    *,
    max_response_tokens: int,
    tokens_per_microbatch: int = 16_384,
) -> dict[str, float]:
    """Reward of each response by its id. The text is tokenised anew, as the reward model saw texts in training."""
    prompt_ids = encode(tokenizer, [prompts[r.prompt_id].text for r in responses], beginning=True)
    response_ids = encode(tokenizer, [r.text for r in responses], beginning=False)
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    rows = [
        encode_response(ids, end=end, finished=response.finished, max_tokens=max_response_tokens)[0]
        for ids, response in zip(response_ids, responses, strict=True)
    ]
    rewards = score(reward_model, prompt_ids, rows, tokens_per_microbatch=tokens_per_microbatch)
    return {response.id: float(reward) for response, reward in zip(responses, rewards, strict=True)}


def mean_reward(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    responses: Sequence[Response],
    *,
    max_response_tokens: int,
) -> float:
    """Mean reward of responses: by which checkpoints, few-shot prefixes and sweeps' policies are compared."""
    rewards = score_responses(reward_model, tokenizer, prompts, responses, max_response_tokens=max_response_tokens)
    return float(np.mean(list(rewards.values())))


def prompts_within(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], limit: int, console: Console) -> list[Prompt]:
    """The prompts that fit; longer ones are left out and the number is printed (SPEC 1.2)."""
    kept, _, counts = encode_prompts(tokenizer, prompts, max_tokens=limit)
    if counts.prompt_too_long:
        console.print(f"{counts.prompt_too_long:,} prompts over {limit:,} tokens are left out", highlight=False)
    return kept
