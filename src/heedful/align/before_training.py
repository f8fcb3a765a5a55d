"""Check models, lengths, text and splits before any training, and refuse what is certain to fail later.

It takes seconds, plus the time to read all pretraining text once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.align.limits import check_lengths
from heedful.align.project_text import check_text
from heedful.align.settings import Setting
from heedful.errors import DataError, ModelError
from heedful.model.chat_template import jinja_of
from heedful.model.doctor_template import refuse_wrong_template
from heedful.model.encoding import encode_prompts
from heedful.model.loading import check_architecture, check_vocabulary, load_configuration, load_tokenizer
from heedful.model.weight_files import check_weight_files
from heedful.project.data_folder import Records
from heedful.project.selection import demonstrations_of, prompts_of
from heedful.records import Prompt


def check_before_training(setting: Setting, records: Records) -> None:
    """Raise ModelError, DataError, ConfigError or MissingError for what would stop a later stage."""
    folders = {"base_model": setting.base_model, "small_model": setting.small_model, "reward_start": setting.reward_start}
    given = {name: folder for name, folder in folders.items() if folder is not None}
    configurations = {name: load_configuration(folder) for name, folder in given.items()}
    tokenizer = load_tokenizer(setting.base_model)
    judge = "base_model" if setting.reward_start is None else "reward_start"
    described: dict[Path, PreTrainedModel] = {}
    for name, folder in given.items():
        described[folder] = check_architecture(configurations[name], folder, scalar=name == judge)
        check_vocabulary(configurations[name].get_text_config().vocab_size, tokenizer, folder)
        _check_own_tokenizer(name, folder, tokenizer)
    _check_template(setting, tokenizer)
    check_lengths(setting, records, configurations, tokenizer)
    for folder, model in described.items():
        if folder.is_dir():  # else a GGUF file
            check_weight_files(folder, model)
    if not setting.labelers.invents_data:
        check_text(setting)
    if records.prompts and not setting.labelers.invents_data:
        _check_splits(setting, records, tokenizer)


def _check_own_tokenizer(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError if a model has another tokenizer than the base model."""
    has_tokenizer = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    if name == "reward_start" and not has_tokenizer:  # it will use the SFT model's
        return
    own = load_tokenizer(folder)
    if own.get_vocab() != tokenizer.get_vocab() or own.eos_token_id != tokenizer.eos_token_id:
        raise ModelError(
            f"{name} has another tokenizer than base_model",
            expected=f"base_model's {len(tokenizer):,} tokens and end-of-text token: one reward model reads all responses",
            got=f"{len(own):,} tokens, end-of-text {own.eos_token!r}",
            where=folder,
            next_step=f"set {name} to a model of the same family, or leave it out",
        )


def _check_template(setting: Setting, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error if the chat template gives training other text than generation, or if the models' templates differ."""
    if setting.template == "plain":
        return
    refuse_wrong_template(tokenizer, setting.template, setting.project.config_file)
    if setting.small_model is not None and setting.template == "chat":
        small = load_tokenizer(setting.small_model)
        if jinja_of(small, "chat") != jinja_of(tokenizer, "chat"):
            raise ModelError(
                "small_model has another chat template than base_model",
                expected="the same template: one reward model reads all responses",
                got="two templates",
                where=setting.small_model,
                next_step="write one of them to a file and set template = FILE in heedful.toml",
            )


def _check_splits(setting: Setting, records: Records, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise DataError without prompts to train or evaluate on, or if there are demonstrations but none to train on."""
    preset, where = setting.preset, setting.project.data / "prompts.jsonl"
    train, valid, test = (prompts_of(records, split) for split in ("train", "valid", "test"))

    def some_fit(prompts: Sequence[Prompt], limit: int) -> bool:
        parts = (prompts[i : i + 100] for i in range(0, len(prompts), 100))
        return any(encode_prompts(tokenizer, part, max_tokens=limit, template=setting.template)[0] for part in parts)

    split = "import prompts of several users, or split them by prompt: `heedful import ... --split-by prompt`"
    for table in ("sft", "ppo"):
        limit = getattr(preset, table).max_prompt_tokens
        if not some_fit(train, limit):
            raise DataError(
                "there is no prompt to train on",
                expected=f"a prompt of the split train, of at most {limit:,} tokens ([{table}] max_prompt_tokens)",
                got=f"{len(train):,} prompts in this split",
                where=where,
                next_step=split if not train else f"raise [{table}] max_prompt_tokens, or import shorter prompts",
            )
    limit = preset.sft.max_prompt_tokens
    if not some_fit(test, limit) and not some_fit(valid, limit):
        raise DataError(
            "there is no held-out prompt to evaluate on",
            expected=f"a prompt of the split test or valid, of at most {limit:,} tokens ([sft] max_prompt_tokens)",
            got=f"{len(test) + len(valid):,} prompts in these splits",
            where=where,
            next_step=split,
        )
    if preset.ppo.validate_every and not some_fit(valid, preset.ppo.max_prompt_tokens):
        raise DataError(
            "there is no prompt to validate PPO on",
            expected="prompts of the split valid for [ppo] validate_every > 0",
            got=f"{len(valid):,} prompts in this split, none within max_prompt_tokens",
            where=where,
            next_step="add prompts of the split valid, or set [ppo] validate_every = 0",
        )
    if records.demonstrations and not demonstrations_of(records, "train"):
        raise DataError(
            "there is no demonstration to train on",
            expected="a demonstration of a prompt of the split train, for training and not by a held-out labeler",
            got=f"{len(records.demonstrations):,} demonstrations, none of which may be trained on",
            where=setting.project.data / "demonstrations.jsonl",
            next_step=split,
        )
