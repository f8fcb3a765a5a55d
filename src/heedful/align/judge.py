"""The evaluation stage: models answer held-out users' prompts, labelers compare them, benchmarks show the alignment tax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align import alternatives, controls
from heedful.align.choose import answer_with_prefix, chosen_prefix, chosen_sft
from heedful.align.collect import tasks_by_prompt
from heedful.align.held_out_prompts import evaluation_prompts
from heedful.align.settings import Given, ask, write_json
from heedful.align.stages import INPUT_MODELS, makers
from heedful.evaluate import lineup
from heedful.evaluate.benchmarks.abilities import Benchmark, benchmark_result, score_items
from heedful.evaluate.results import Group, Model
from heedful.labeling.exchange.asking import Task
from heedful.model.answering import Answerer, score_responses
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import record_to_json
from heedful.project.files import write_jsonl
from heedful.project.runs import records_in
from heedful.ranks.collectives import gather_in_order
from heedful.ranks.rank_zero import barrier_without_timeout
from heedful.ranks.world import world
from heedful.records import Response

EXPECTED_FILE = "expected.json"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model in this evaluation: its folder, and its few-shot prefix if it has one."""

    model: lineup.Contender
    folder: Path
    prefix: str | None = None


def entrants(given: Given) -> Iterator[Entrant]:
    """The project's models, in the order of :data:`heedful.evaluate.lineup.CONTENDERS`."""
    base_model, small_model = given.setting.base_model, given.setting.small_model
    inputs = {INPUT_MODELS["base_model"]: base_model, INPUT_MODELS["small_model"]: small_model}
    if "sft" not in given.runs:  # the base model takes part as the SFT model
        inputs[INPUT_MODELS["base_model"]] = None
    made_by = makers()
    for model in lineup.CONTENDERS:
        if model in inputs:
            if (folder := inputs[model]) is not None:
                yield Entrant(model, folder)
            continue
        if model == lineup.SFT:
            yield sft_entrant(given)
            continue
        run = given.runs.get(made_by[model.name].name)
        if run is None:
            continue
        if model == lineup.BEST_OF_N:
            number = given.setting.preset.best_of_n.samples
            yield Entrant(replace(model, label=f"SFT, best of {number}"), alternatives.sft_folder(given))
        elif model == lineup.PROMPTED_BASE:
            yield Entrant(model, base_model, chosen_prefix(run))
        elif model == lineup.TASK_MIXTURE:
            yield Entrant(model, chosen_sft(given.runs["task_mixture"], run))
        else:
            yield Entrant(model, run / "model")


def sft_entrant(given: Given) -> Entrant:
    """The SFT model: the chosen checkpoint, the only one, or the base model if the project skips SFT."""
    if "sft" not in given.runs:
        return Entrant(replace(lineup.SFT, label=f"{lineup.SFT.label} (the base model as given)"), given.setting.base_model)
    if "choose_sft" not in given.runs:
        return Entrant(lineup.SFT, given.runs["sft"] / "model")
    return Entrant(lineup.SFT, chosen_sft(given.runs["sft"], given.runs["choose_sft"]))


def evaluate(given: Given, *, folder: Path, console: Console) -> None:
    """Sample and score responses, measure benchmarks, and ask labelers to judge.

    Writes responses.jsonl, rewards.json, models.json and benchmarks.json. With simulated labelers also expected.json: their
    average preferences, with controls.
    """
    setting, records, limits = given.setting, given.records, given.setting.preset.answering("evaluate")
    config = given.config
    prompts = evaluation_prompts(given, console)
    reward_model = reward_model_for_inference(given.runs["reward"] / "model", limits.precision)
    responses: list[Response] = []
    models: list[Model] = []
    folders: dict[str, Path] = {}
    item_scores: dict[str, list[tuple[str, list[float]]]] = {b.name: [] for b in setting.benchmarks}
    for entrant in entrants(given):
        model, tokenizer = policy_for_inference(entrant.folder, limits.precision)
        if entrant.model.name == lineup.BEST_OF_N.name:
            responses += alternatives.best_of_n_answers(given)
        elif entrant.prefix is None:
            folders[entrant.model.name] = entrant.folder
            responses += Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
                prompts,
                name=entrant.model.name,
                ids=[f"{entrant.model.name}-{p.id}" for p in prompts],
                temperature=config.temperature,
                seed=setting.seed,
                console=console,
            )
            for benchmark, scores in zip(
                setting.benchmarks, benchmark_scores(model, tokenizer, setting.benchmarks), strict=True
            ):
                item_scores[benchmark.name].append((entrant.model.name, scores))
        else:
            responses += answer_with_prefix(setting, model, tokenizer, prompts, entrant.prefix, entrant.model.name, console)
        size = sum(p.numel() for p in model.parameters())
        models.append({"name": entrant.model.name, "label": entrant.model.label, "size": size_name(size), "parameters": size})
    simulated = setting.labelers.marked == "simulated"
    sampled = controls.sample(given, prompts, responses, folders, reward_model, console) if simulated else None
    responses = setting.labelers.named(responses, folder.name)
    rewards = score_responses(
        reward_model,
        load_tokenizer(given.runs["reward"] / "model"),
        records.prompts,
        responses,
        max_response_tokens=limits.max_response_tokens,
        template=setting.template,
        console=console,
    )
    drift = alternatives.drift(given, folders, responses, console) if setting.preset.alternatives.run else None
    if not world().is_rank_zero:
        return
    write_jsonl(folder / "responses.jsonl", [record_to_json(r) for r in responses])
    write_json(folder / "rewards.json", rewards)
    write_json(folder / "models.json", models)
    if drift is not None:
        write_json(folder / alternatives.DRIFT_FILE, drift)
    sections = [benchmark_result(b, item_scores[b.name], seed=setting.seed) for b in setting.benchmarks]
    write_json(folder / "benchmarks.json", sections)
    if sampled is not None:
        write_json(folder / EXPECTED_FILE, controls.expected_preference(given, sampled))
    ask(given, list(_tasks(given, responses)), folder, console)


def evaluation_tasks(given: Given, folder: Path) -> Iterator[Task]:
    """One ranking task for each prompt, with the responses of all models."""
    return _tasks(given, records_in(folder, "response"))


def _tasks(given: Given, responses: Iterable[Response]) -> Iterator[Task]:
    number = given.setting.preset.evaluate.labelers_per_prompt
    labelers: Mapping[Group, int] = {"held_out": number, "training": number}
    return tasks_by_prompt(given.records, responses, "evaluation", number, lambda _: labelers)


def benchmark_scores(model: Any, tokenizer: Any, benchmarks: Sequence[Benchmark]) -> list[list[float]]:
    """Each benchmark's item scores. Under ``torchrun`` the benchmarks are distributed over the ranks."""
    here = world()
    own = [(i, score_items(model, tokenizer, benchmarks[i])) for i in range(here.rank, len(benchmarks), here.size)]
    barrier_without_timeout()
    return gather_in_order(own)


def size_name(parameters: int) -> str:
    """A number of parameters in short: 1454400 -> "1.5M"."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= factor or unit == "k":
            value = parameters / factor
            return f"{value:.2g}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(parameters)
