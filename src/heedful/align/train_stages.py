"""The stages that train: SFT, reward model, initial policy, PPO. Each reads what earlier stages left and writes to its folder.

Under ``torchrun`` all ranks run a stage together, and rank 0 writes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from heedful.align.encoded_records import (
    encoded_demonstrations,
    encoded_rankings,
    encoded_refusal_prompts,
    encoding_options,
)
from heedful.align.models import loading_precision, placed_for_training, policy_for_training
from heedful.align.project_text import pretraining_text
from heedful.align.settings import Given, write_json
from heedful.model.chat_template import keep_template
from heedful.model.encoding import Example, encode_demonstrations, encode_prompts
from heedful.model.loading import check_tokenizer, load_causal_model, load_scalar_model, load_tokenizer
from heedful.model.saving import remove_leftovers
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.project.selection import demonstrations_of, prompts_for_policy, prompts_of
from heedful.ranks.world import world
from heedful.training.checkpoint import CHECKPOINTS, remove_checkpoints
from heedful.training.ppo import PPOData, train_ppo
from heedful.training.reward import train_reward
from heedful.training.sft import CANDIDATES_FILE, SFTData, candidates_in, lowest_losses, train_sft

_CHOSEN = "chosen.json"


def sft(given: Given, *, folder: Path, console: Console) -> None:
    """Step 1: train the base model on demonstrations, and keep candidates for the choice by RM score (SPEC 3.2)."""
    if trained_before(folder, given.stage.name, console):
        return
    config = given.config
    model, tokenizer = policy_for_training(given.setting.base_model, loading_precision(config))
    keep_template(tokenizer, given.setting.template)
    examples, validation = encoded_demonstrations(given, tokenizer, console)
    train_sft(model, tokenizer, SFTData(examples, validation), config, folder, console=console)


def initial_policy(given: Given, *, folder: Path, console: Console) -> None:
    """Train the model that PPO starts from, on demonstrations and pretraining text, and choose by both losses (SPEC 3.4)."""
    if not trained_before(folder, given.stage.name, console):
        _train_initial_policy(given, folder, console)
    best = lowest_losses(candidates_in(folder))
    console.print(f"initial policy: epoch {best.epoch}, demonstration loss {best.validation_loss:.3f}", highlight=False)
    write_json(folder / _CHOSEN, {"folder": str(best.folder.relative_to(folder)), "epoch": best.epoch})


def initial_policy_of(given: Given) -> Path:
    """The folder of the model that PPO starts from.

    It is the one that :func:`initial_policy` chose, or what replaces it: the SFT candidate with the lowest loss (the choice
    that :func:`initial_policy` would make), the policy of an earlier round, or a given model.
    """
    folder = given.made("initial")
    if folder is None:
        return given.model_of("initial")
    if (folder / _CHOSEN).is_file():
        return folder / json.loads((folder / _CHOSEN).read_text(encoding="utf-8"))["folder"]
    if not (folder / CANDIDATES_FILE).is_file():  # the policy of an earlier round
        return folder / "model"
    return lowest_losses(candidates_in(folder)).folder


def reward(given: Given, *, folder: Path, console: Console) -> None:
    """Step 2: train the reward model from the SFT model, on all comparisons of each prompt (SPEC 3.3)."""
    if trained_before(folder, given.stage.name, console):
        return
    config, records, sft_model = given.config, given.records, given.model_of("sft")
    tokenizer = load_tokenizer(sft_model)
    keep_template(tokenizer, given.setting.template)
    start = given.setting.reward_start or sft_model
    causal = load_causal_model(start, loading_precision(config))
    check_tokenizer(causal, tokenizer, start)
    torch.manual_seed(config.seed)
    assert isinstance(tokenizer.eos_token_id, int)
    padding = tokenizer.pad_token_id
    assert padding is None or isinstance(padding, int)
    model = scalar_model_from_causal(causal, pad_token_id=padding, eos_token_id=tokenizer.eos_token_id)
    del causal  # otherwise its memory would be held while the reward model trains
    rankings, validation = encoded_rankings(given, config, tokenizer, console, with_ties=False)
    encoding = encoding_options(given.setting, config)
    demonstrations: list[Example] = []
    for split in ("valid", "train"):
        demonstrated = demonstrations_of(records, split)
        if not demonstrations:
            demonstrations = encode_demonstrations(tokenizer, records.prompts, demonstrated, may_be_empty=True, **encoding)[0]
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


def ppo(given: Given, *, folder: Path, console: Console) -> None:
    """Step 3: PPO against the reward model, with pretraining gradients unless the coefficient is 0 (SPEC 3.5, 3.6)."""
    if trained_before(folder, given.stage.name, console):
        return
    config, records = given.config, given.records
    # If both bases are equal, the GPU should hold only one. So load them into main memory, where they are compared.
    where = torch.device("cpu") if config.lora_rank else None
    policy, tokenizer = policy_for_training(initial_policy_of(given), loading_precision(config), where=where)
    keep_template(tokenizer, given.setting.template)
    reward_folder = given.model_of("reward")
    reward_model = placed_for_training(load_scalar_model(reward_folder, loading_precision(config)), where)
    limit = {"max_tokens": config.max_prompt_tokens, "template": given.setting.template}
    fitting, tokens, counts = encode_prompts(tokenizer, prompts_of(records, "train"), **limit)
    chosen, words = prompts_for_policy(records, fitting)
    tokens_of = {prompt.id: row for prompt, row in zip(fitting, tokens, strict=True)}
    console.print(f"training prompts: {words}{counts.left_out}", highlight=False)
    marked = encoded_refusal_prompts(given, config, tokenizer, console)
    console.print(f"{config.iterations:,} iterations of {config.batch_size:,} episodes", highlight=False)
    text = pretraining_text(given.setting, "train") if config.ptx_coefficient else None
    held_out = prompts_of(records, "valid") if config.validate_every else []
    _, validation, _ = encode_prompts(tokenizer, held_out, **limit)
    train_ppo(
        policy,
        reward_model,
        tokenizer,
        PPOData([*(tokens_of[prompt.id] for prompt in chosen), *marked], text, validation),
        config,
        folder,
        console=console,
        title=given.stage.name,
    )


def trained_before(folder: Path, title: str, console: Console) -> bool:
    """Whether an unfinished stage already has its model, because it was killed after training; then nothing is left to train.

    A run writes its model last, completely or not at all, and the folder's fingerprint says for which inputs.
    """
    if not (folder / "model").is_dir():
        return False
    if world().is_rank_zero:
        remove_leftovers(folder)
        remove_checkpoints(folder / CHECKPOINTS)
    console.print(f"{title}: its model is already there, nothing to train", highlight=False)
    return True


def _train_initial_policy(given: Given, folder: Path, console: Console) -> None:
    config, setting = given.config, given.setting
    start = {"base_model": setting.base_model, "small_model": setting.small_model}[str(given.stage.needs["base"])]
    assert start is not None
    model, tokenizer = policy_for_training(start, loading_precision(config))
    keep_template(tokenizer, setting.template)
    examples, validation = encoded_demonstrations(given, tokenizer, console)
    text = pretraining_text(setting, "train") if config.pretraining_share else None
    text_validation = pretraining_text(setting, "valid") if text is not None else None
    if text is None and config.pretraining_share:
        console.print("no pretraining text: the initial policy is trained on demonstrations alone", highlight=False)
        config = replace(config, pretraining_share=0.0)
    data = SFTData(examples, validation, text, text_validation, context_length=setting.preset.ppo.ptx_context_length)
    train_sft(model, tokenizer, data, config, folder, console=console, title=given.stage.name)
