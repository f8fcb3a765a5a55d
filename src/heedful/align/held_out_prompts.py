"""The held-out prompts on which models are compared."""

from __future__ import annotations

from rich.console import Console

from heedful.align.settings import Given
from heedful.errors import DataError
from heedful.model.answering import prompts_within
from heedful.model.loading import load_tokenizer
from heedful.project.selection import prompts_of
from heedful.records import Prompt, Split


def evaluation_prompts(given: Given, console: Console) -> list[Prompt]:
    """The held-out prompts that all models answer: of the split test, or of valid if test has none. Raises DataError."""
    setting, limits = given.setting, given.setting.preset.answering("evaluate")
    tokenizer = load_tokenizer(setting.base_model)
    splits: tuple[Split, ...] = ("test", "valid")
    for split in splits:
        held_out = prompts_of(given.records, split)
        fitting = prompts_within(tokenizer, held_out, limits.max_prompt_tokens, console, setting.template)
        if prompts := fitting[: setting.preset.evaluate.prompts]:
            return prompts
    raise no_held_out_prompt(given)


def no_held_out_prompt(given: Given) -> DataError:
    """The error to raise if there is no held-out prompt that fits."""
    limit = given.setting.preset.answering("evaluate").max_prompt_tokens
    return DataError(
        "there is no held-out prompt to evaluate on",
        expected=f"a prompt of the split test or valid, of at most {limit:,} tokens",
        got="none",
        where=given.setting.project.data / "prompts.jsonl",
        next_step="import more prompts: a tenth of them goes to valid and a tenth to test",
    )
