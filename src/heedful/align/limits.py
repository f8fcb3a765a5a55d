"""Check before training that all sequences fit the models' context windows.

A model with learned positions fails past its window. A model with rotary positions does not fail, but is trained on positions
that it never saw. Every stage that reads or writes sequences has a row in :func:`_uses`. Texts are tokenised only if the limits
in heedful.toml allow more than a window; then the longest text decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from heedful.align.settings import Setting
from heedful.align.task_mixture import mixture_of
from heedful.errors import ConfigError
from heedful.model.template import prompt_tokens, response_tokens
from heedful.project.data_folder import Records
from heedful.project.selection import may_train
from heedful.records import Prompt


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest prompt, and the longest sequence of prompt and response, in tokens."""

    prompt: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """One row: the limits under which a stage's models read or write sequences."""

    table: str
    """The table of heedful.toml whose max_response_tokens applies."""
    prompt_table: str
    """The table whose max_prompt_tokens applies."""
    limits: Any
    """The configuration with both limits."""
    models: Sequence[str]
    """Names of the models that read or write the sequences."""
    longest: Callable[[], Longest]


class _Lengths:
    """Lengths of the project's texts in tokens, counted on demand."""

    def __init__(self, setting: Setting, records: Records, tokenizer: PreTrainedTokenizerBase) -> None:
        self.setting, self.records, self.tokenizer = setting, records, tokenizer

    @cached_property
    def of_prompts(self) -> dict[str, int]:
        prompts = list(self.records.prompts.values())
        rows = prompt_tokens(self.tokenizer, prompts, self.setting.template)
        return {prompt.id: len(row) for prompt, row in zip(prompts, rows, strict=True)}

    def longest_answered(self, limits: Any) -> Longest:
        """The longest of the prompts that a model answers, with room for a whole response."""
        fitting = [length for length in self.of_prompts.values() if length <= limits.max_prompt_tokens]
        # Prompts that do not exist yet may be as long as the limit. Without any prompt no stage can fail.
        unknown = limits.max_prompt_tokens if self.setting.labelers.invents_data else 1
        prompt = max(fitting, default=unknown)
        return Longest(prompt, prompt + limits.max_response_tokens)

    def longest_read(self, limits: Any, texts: Iterable[tuple[str, str]]) -> Longest:
        """The longest of the texts (prompt id, response) that a model reads. Long responses are cut, long prompts left out."""
        pairs = [(i, text) for i, text in texts if self.of_prompts[i] <= limits.max_prompt_tokens]
        prompts: list[Prompt] = [self.records.prompts[i] for i, _ in pairs]
        rows = response_tokens(self.tokenizer, prompts, [text for _, text in pairs], self.setting.template)
        cut = [min(len(row) + 1, limits.max_response_tokens) for row in rows]
        found = [Longest(self.of_prompts[i], self.of_prompts[i] + n) for (i, _), n in zip(pairs, cut, strict=True)]
        return max(found, key=lambda longest: longest.sequence, default=Longest(0, 0))


def check_lengths(
    setting: Setting, records: Records, configurations: Mapping[str, PretrainedConfig], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError if a sequence is too long for the context window of a model that reads or writes it.

    configurations: of ``base_model``, ``small_model`` and ``reward_start``, by name, as far as the project has them.
    """
    windows = {name: window for name, config in configurations.items() if (window := context_window(config)) is not None}
    problems: list[str] = []
    settings: dict[str, int] = {}
    for use in _uses(setting, _Lengths(setting, records, tokenizer)):
        for name in use.models:
            if name in windows and (problem := _problem(use, name, windows[name], settings)):
                problems.append(problem)
    length = setting.preset.ppo.ptx_context_length
    for table, name in _text_uses(setting):
        if name in windows and length > windows[name]:
            over = f"{length - windows[name]:,} too many for {name}"
            problems.append(f"[{table}]: pretraining text in sequences of {length:,} tokens, {over}")
            settings["[ppo] ptx_context_length"] = min(settings.get("[ppo] ptx_context_length", length), windows[name])
    if problems:
        raise ConfigError(
            "some sequences do not fit a model's context window",
            expected="; ".join(f"at most {window:,} tokens for {name}" for name, window in windows.items()),
            got="\n            ".join(problems),
            where=setting.project.config_file,
            next_step="set " + ", ".join(f"{key} = {value}" for key, value in settings.items()) + " or lower",
        )


def context_window(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model can read, in tokens; None if there is no limit. A sliding window is not a limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _uses(setting: Setting, lengths: _Lengths) -> Iterator[_Use]:
    preset, records = setting.preset, lengths.records
    demonstrated = [(d.prompt_id, d.text) for d in records.demonstrations.values() if may_train(d)]
    # All rankings, because the reward model also scores those that labelers made for the evaluation.
    ranked = [(r.prompt_id, r.text) for r in (records.responses[i] for k in records.rankings.values() for i in k.response_ids)]
    judge = "base_model" if setting.reward_start is None else "reward_start"
    everyone = ("base_model", "small_model", "reward_start")

    def read(table: str, limits: Any, models: Sequence[str], texts: list[tuple[str, str]]) -> _Use:
        return _Use(
            table=table,
            prompt_table=table,
            limits=limits,
            models=models,
            longest=lambda: lengths.longest_read(limits, texts),
        )

    def answered(table: str, prompt_table: str, limits: Any, models: Sequence[str]) -> _Use:
        return _Use(
            table=table,
            prompt_table=prompt_table,
            limits=limits,
            models=models,
            longest=lambda: lengths.longest_answered(limits),
        )

    trained = not setting.project.skip_sft
    if trained:
        yield read("sft", preset.sft, ["base_model"], demonstrated)
    if setting.project.task_mixture is not None:
        mixture = mixture_of(setting)
        own = _Lengths(setting, mixture, lengths.tokenizer)
        solved = [(d.prompt_id, d.text) for d in mixture.demonstrations.values()]
        limits = preset.task_mixture
        yield _Use(
            table="task_mixture",
            prompt_table="task_mixture",
            limits=limits,
            models=["base_model"],
            longest=lambda: own.longest_read(limits, solved),
        )
    yield answered("collect", "sft", preset.answering("collect"), ["base_model"])
    if trained:
        yield read("initial_policy", preset.initial_policy, ["base_model", "small_model"], demonstrated)
    yield read("reward", preset.reward, [judge], [*demonstrated, *ranked])
    yield answered("evaluate", "sft", preset.answering("evaluate"), everyone)
    yield answered("ppo", "ppo", preset.ppo, everyone)


def _text_uses(setting: Setting) -> Iterator[tuple[str, str]]:
    """(table, model) for each stage that learns from pretraining text."""
    if not (setting.labelers.invents_data or setting.project.pretraining_text.exists()):
        return
    preset = setting.preset
    mixed_in = 0.0 if setting.project.skip_sft else preset.initial_policy.pretraining_share
    shares = {"ppo": preset.ppo.ptx_coefficient, "initial_policy": mixed_in}
    for table in (table for table, share in shares.items() if share):
        yield from ((table, name) for name in ("base_model", "small_model"))


def _problem(use: _Use, name: str, window: int, settings: dict[str, int]) -> str | None:
    """What is too long for a model, in words, or None. Adds to ``settings`` what to set instead."""
    limits = use.limits
    if limits.max_prompt_tokens + limits.max_response_tokens <= window:
        return None
    longest = use.longest()
    if longest.sequence <= window:
        return None
    # The response limit is reduced first, down to half of the window.
    response = min(limits.max_response_tokens, max(window - longest.prompt, window // 2))
    wanted = {f"[{use.table}] max_response_tokens": response, f"[{use.prompt_table}] max_prompt_tokens": window - response}
    if response == limits.max_response_tokens:
        del wanted[f"[{use.table}] max_response_tokens"]
    if window - response >= longest.prompt:
        del wanted[f"[{use.prompt_table}] max_prompt_tokens"]
    for key, value in wanted.items():
        settings[key] = min(settings.get(key, value), value)
    return (
        f"[{use.table}]: {longest.sequence:,} tokens (a prompt of {longest.prompt:,}, "
        f"max_response_tokens = {limits.max_response_tokens:,}), {longest.sequence - window:,} too many for {name}"
    )
