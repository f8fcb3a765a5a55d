"""The stages that ask for labels to train on: demonstrations, and rankings of sampled responses.

Each stage chooses what to ask and writes it to its folder. Whenever progress is checked, :func:`demonstration_tasks` and
:func:`ranking_tasks` make tasks from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from heedful.align.settings import Given, ask
from heedful.align.written_answers import Writing, written
from heedful.evaluate.results import Group
from heedful.labeling.exchange.asking import Task
from heedful.miniature.invented_world import World
from heedful.miniature.preparation import WORLD_SEED, miniature_prompts, write_pretraining_text
from heedful.model.answering import prompts_within
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.runs import records_in
from heedful.project.selection import prompts_for_policy, prompts_of
from heedful.ranks.world import world
from heedful.records import Phase, Prompt, Response, Split

DEMONSTRATIONS: Mapping[Split, int] = {"train": 12_725, "valid": 1_653}
"""The most prompts for which people are asked for demonstrations (SPEC 1.4, Table 6)."""


def data(given: Given, *, folder: Path, console: Console) -> None:
    """Make the miniature's data: its users' prompts, its labelers' demonstrations, and its pretraining text."""
    if not world().is_rank_zero:
        return
    project, miniature = given.setting.project, World(WORLD_SEED)
    write_pretraining_text(project.data / "pretraining", miniature, seed=project.seed)
    prompts, to_demonstrate = miniature_prompts(miniature, seed=project.seed)
    ask(given, [_demonstration(prompt) for prompt in to_demonstrate], folder, console)
    Records.of([*prompts, *records_in(folder, "demonstration")]).save(project.data)


def demonstrate(given: Given, *, folder: Path, console: Console) -> None:
    """Ask people for demonstrations, if a project has none yet (SPEC 1.4)."""
    setting = given.setting
    tokenizer, limit = load_tokenizer(setting.base_model), setting.preset.sft.max_prompt_tokens
    chosen: list[Prompt] = []
    for split, number in DEMONSTRATIONS.items():
        chosen += prompts_within(tokenizer, prompts_of(given.records, split), limit, console, given.setting.template)[:number]
    if world().is_rank_zero:
        write_jsonl(folder / "prompts.jsonl", map(record_to_json, chosen))
        ask(given, list(demonstration_tasks(given, folder)), folder, console)


def demonstration_tasks(given: Given, folder: Path) -> Iterator[Task]:
    """One demonstration task for each prompt in the folder."""
    return map(_demonstration, records_in(folder, "prompt"))


def _demonstration(prompt: Prompt) -> Task:
    return Task(kind="demonstrate", phase="training", prompt=prompt, labelers={"training": 1})


def collect(given: Given, *, folder: Path, console: Console) -> None:
    """Make ranking tasks: K outputs for each prompt, most of them by the SFT model, to rank side by side (SPEC 2.3, 3.8)."""
    setting, config, limits = given.setting, given.config, given.setting.preset.answering("collect")
    tokenizer = load_tokenizer(given.model_of("sft"))
    chosen: list[Prompt] = []
    numbers: Mapping[Split, int] = {"train": config.prompts, "valid": config.validation_prompts}
    for split, number in numbers.items():
        fitting = prompts_within(
            tokenizer, prompts_of(given.records, split), limits.max_prompt_tokens, console, setting.template
        )
        free, words = prompts_for_policy(given.records, fitting)
        console.print(f"prompts of the split {split}: {words}", highlight=False)
        chosen += free[:number]
    writers = sft_writers(given)
    shares = sft_shares(len(writers), config.other_models_share)
    responses = sampled(given, chosen, writers, shares, np.random.default_rng([setting.seed, 5]), console)
    if not world().is_rank_zero:
        return
    responses = setting.labelers.named(responses, folder.name)
    write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))
    ask(given, list(tasks_of(given, responses)), folder, console)


def sampled(
    given: Given,
    prompts: Sequence[Prompt],
    writers: Sequence[tuple[str, Path]],
    shares: Sequence[float],
    rng: np.random.Generator,
    console: Console,
) -> list[Response]:
    """K outputs for each prompt, prompt by prompt. ``shares``: each writer's (name, folder) share of the outputs."""
    setting, config, limits = given.setting, given.config, given.setting.preset.answering("collect")
    ks = rng.integers(config.smallest_k, config.largest_k + 1, size=len(prompts))
    wanted = [(prompt, i) for prompt, k in zip(prompts, ks, strict=True) for i in range(k)]
    drawn = rng.choice(len(writers), size=len(wanted), p=np.array(shares) / sum(shares))
    writings: list[Writing] = []
    for number, (name, model_folder) in enumerate(writers):
        mine = [want for want, writer in zip(wanted, drawn, strict=True) if writer == number]
        ids = [_output_id(prompt, i) for prompt, i in mine]
        writings.append(Writing(name=name, folder=model_folder, prompts=[prompt for prompt, _ in mine], ids=ids))
    found = {response.id: response for response in written(setting, writings, limits, config.temperature, console)}
    return [found[_output_id(prompt, i)] for prompt, i in wanted]


def _output_id(prompt: Prompt, number: int) -> str:
    return f"output-{prompt.id}-{number}"


def ranking_tasks(given: Given, folder: Path) -> Iterator[Task]:
    """One task for each prompt that has sampled responses in the folder."""
    return tasks_of(given, records_in(folder, "response"))


def tasks_of(given: Given, responses: Iterable[Response]) -> Iterator[Task]:
    """One ranking task for each prompt that has responses."""
    config = given.setting.preset.collect
    # To measure agreement, several labelers of both groups rank the outputs of a validation prompt.
    several = config.agreement_labelers
    both: Mapping[Group, int] = {"training": several, "held_out": several}
    one: Mapping[Group, int] = {"training": config.labelers_per_prompt}
    people = config.labelers_per_prompt
    return tasks_by_prompt(
        given.records, responses, "training", people, lambda prompt: one if prompt.split == "train" else both
    )


def tasks_by_prompt(
    records: Records,
    responses: Iterable[Response],
    phase: Phase,
    people: int,
    labelers: Callable[[Prompt], Mapping[Group, int]],
) -> Iterator[Task]:
    """A ranking task for each prompt, sorted by split, then in the order of the data, whatever the order of the responses."""
    of_prompt: dict[str, list[Response]] = {}
    for response in responses:
        of_prompt.setdefault(response.prompt_id, []).append(response)
    asked = [prompt for prompt in records.prompts.values() if prompt.id in of_prompt]
    for prompt in sorted(asked, key=lambda prompt: get_args(Split).index(prompt.split)):
        shown = of_prompt[prompt.id]
        yield Task(
            kind="rank",
            phase=phase,
            prompt=prompt,
            responses=tuple(shown),
            labelers=labelers(prompt),
            people=people,
        )


def sft_shares(count: int, others_share: float) -> list[float]:
    """The writers' shares of the outputs. The last SFT model comes first; the others share ``others_share`` equally."""
    return [1 - others_share] + [others_share / max(1, count - 1)] * (count - 1)


def sft_writers(given: Given) -> list[tuple[str, Path]]:
    """SFT models that write outputs to rank, as (name, folder): the last model, then its earlier candidates."""
    sft_folder = given.made("sft")
    if sft_folder is None:  # the base model is the SFT model
        return [("sft", given.model_of("sft"))]
    rows: list[dict[str, Any]] = json.loads((sft_folder / "candidates.json").read_text(encoding="utf-8"))
    writers = [("sft", sft_folder / "model")]
    writers += [(f"sft epoch {row['epoch']}", sft_folder / row["folder"]) for row in rows[:-1]]
    return writers
