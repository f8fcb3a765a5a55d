"""A project's demonstrations and rankings as tokens, for the stages that train on them."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from heedful.align.settings import Given, Setting
from heedful.model.answering import Limits
from heedful.model.encoding import Example, RankedPrompt, encode_demonstrations, encode_rankings
from heedful.project.selection import demonstrations_of, training_rankings
from heedful.records import Split


def encoded_demonstrations(given: Given, tokenizer: Any, console: Console) -> tuple[list[Example], list[Example]]:
    """Demonstrations to train on, and demonstrations to validate on (the first 100 of the former if there are no others)."""
    records, encoding = given.records, encoding_options(given.setting, given.config)
    examples, counts = encode_demonstrations(tokenizer, records.prompts, demonstrations_of(records, "train"), **encoding)
    console.print(f"demonstrations: {counts}", highlight=False)
    held_out = demonstrations_of(records, "valid")
    validation, counts = encode_demonstrations(tokenizer, records.prompts, held_out, may_be_empty=True, **encoding)
    console.print(f"validation demonstrations: {counts}", highlight=False)
    if not validation:
        console.print("the validation loss is measured on training demonstrations", highlight=False)
    return examples, validation or examples[:100]


def encoded_rankings(
    given: Given, limits: Limits, tokenizer: Any, console: Console, *, with_ties: bool
) -> tuple[list[RankedPrompt], list[RankedPrompt]]:
    """Rankings to train on, and rankings to validate on."""
    records = given.records
    found: list[list[RankedPrompt]] = []
    splits: tuple[Split, ...] = ("train", "valid")
    for split in splits:
        ranked, counts = encode_rankings(
            tokenizer,
            records.prompts,
            records.responses,
            training_rankings(records, split),
            with_ties=with_ties,
            may_be_empty=split == "valid",
            **encoding_options(given.setting, limits),
        )
        console.print(f"{'validation ' if split == 'valid' else ''}rankings: {counts}", highlight=False)
        found.append(ranked)
    return found[0], found[1]


def encoding_options(setting: Setting, limits: Limits) -> dict[str, Any]:
    """Options for encoding a project's records: its template, and the longest prompt and response, in tokens."""
    return {
        "template": setting.template,
        "max_prompt_tokens": limits.max_prompt_tokens,
        "max_response_tokens": limits.max_response_tokens,
    }
