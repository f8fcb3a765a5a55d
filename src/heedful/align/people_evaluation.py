"""``heedful evaluate people``: models answer held-out owners' prompts, and labelers of both groups judge the answers.

A run is a stage in ``runs/people-<n>/``. A call with the same models, prompts and settings continues it; any other call begins
another run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from heedful.align.collect import tasks_by_prompt
from heedful.align.labeling_database import PEOPLE_STAGE
from heedful.align.running import Stages
from heedful.align.who_labels import Labelers, labelers_of
from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks.benchmark_run import Contestant
from heedful.evaluate.model_comparison import Control
from heedful.evaluate.people_comparison import Judged, PeopleComparison, compare_by_people, people_numbers
from heedful.evaluate.people_page import write_people_page
from heedful.evaluate.results import Group
from heedful.evaluate.results_file import save_numbers
from heedful.labeling.exchange.asking import Task
from heedful.model.answering import Answerer, prompts_within
from heedful.model.inference import policy_for_inference
from heedful.model.loading import load_tokenizer
from heedful.presets import Preset, resolved_preset
from heedful.progress import progress_line
from heedful.project.data_folder import Records, record_from_json, record_to_json
from heedful.project.files import read_jsonl, write_jsonl
from heedful.project.fingerprints import digest_of_files, digest_of_records
from heedful.project.lock import alone_in
from heedful.project.project import Project
from heedful.project.refusals import ordinary
from heedful.project.runs import records_in
from heedful.project.selection import prompts_of, training_rankings
from heedful.records import Prompt, Response
from heedful.statistics import check_confidence

PROMPTS_AT_ONCE = 64
"""Number of prompts that a model answers between two writes to disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Who judges, and how many answers."""

    groups: tuple[Group, ...] = ("held_out", "training")
    labelers_per_prompt: int
    """Number of labelers of each group who judge each prompt's answers."""
    num_prompts: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that determine a report, besides the answers."""

    baseline: str
    confidence: float
    controls: Collection[Control]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleEvaluation:
    """The progress of a run."""

    folder: Path
    waiting: str | None
    """In words, what labelers still have to do; None if nothing."""
    comparison: PeopleComparison | None
    """None while there are not enough judgements to compare."""


def evaluate_people(
    project: Project,
    models: Sequence[Contestant],
    panels: Panels,
    console: Console,
    *,
    baseline: str,
    confidence: float = 0.95,
    partly: bool = False,
    controls: Collection[Control] = (),
) -> PeopleEvaluation:
    """Sample, let labelers judge, and compare. If it is interrupted or waits for labelers, it continues when called again.

    partly: report the judgements so far. controls: also compute scores at equal length or style. Raises ConfigError for models
    or settings that cannot be compared, DataError without a held-out prompt, MissingError or ModelError for a model, BusyError
    if another process works in the project.
    """
    _check(models, panels, baseline, confidence)
    models = sorted(models, key=lambda model: model.name)  # so that their order does not matter
    preset, labelers = resolved_preset(project), labelers_of(project)
    with alone_in(project.runs):
        records = ordinary(Records.load(project.data))
        prompts = _prompts(project, preset, models, panels.num_prompts, records, console)
        inputs = _inputs(project, preset, models, panels, prompts)

        def sample_and_ask(folder: Path) -> None:
            responses = _sampled(project, preset, models, prompts, folder, console)
            write_jsonl(folder / "responses.jsonl", map(record_to_json, labelers.named(responses, folder.name)))
            if labelers.answers_at_once:  # people's answers come later, and are not outputs of the stage
                labelers.judge(_tasks(records, folder, panels), folder)

        folder = Stages(project.runs, console).run(PEOPLE_STAGE, inputs, sample_and_ask).folder
        waiting = labelers.judge(_tasks(records, folder, panels), folder, partly=partly)
        if waiting is not None:
            return PeopleEvaluation(folder=folder, waiting=waiting, comparison=None)
        return _reported(project, labelers, records, folder, panels, _Asked(baseline, confidence, controls))


def _check(models: Sequence[Contestant], panels: Panels, baseline: str, confidence: float) -> None:
    names = [model.name for model in models]
    if len(models) < 2:
        raise ConfigError("labelers compare models", expected="at least two models", got=str(len(models)))
    if baseline not in names:
        raise ConfigError(
            "the baseline is not a model of this evaluation", expected=f"one of {', '.join(names)}", got=repr(baseline)
        )
    check_confidence(confidence)
    for what, number in (("labelers for each prompt", panels.labelers_per_prompt), ("prompts", panels.num_prompts)):
        if number < 1:
            raise ConfigError(f"there are no {what}", expected="at least 1", got=str(number))


def _prompts(
    project: Project, preset: Preset, models: Sequence[Contestant], number: int, records: Records, console: Console
) -> list[Prompt]:
    """The first prompts of the test split that fit every model."""
    limits = preset.answering("evaluate")
    fitting = prompts_of(records, "test")
    for model in models:
        tokenizer = load_tokenizer(model.folder)
        fitting = prompts_within(tokenizer, fitting, limits.max_prompt_tokens, console, project.template)
    if not fitting:
        raise DataError(
            "there is no held-out prompt to evaluate on",
            expected=f"a prompt of the split test, of at most {limits.max_prompt_tokens:,} tokens",
            got="none",
            where=project.data / "prompts.jsonl",
            next_step="import more prompts: a tenth of their owners goes to the split test",
        )
    if len(fitting) < number:
        console.print(f"the split test has {len(fitting):,} prompts that fit, not {number:,}: all are used", highlight=False)
    return fitting[:number]


def _inputs(
    project: Project, preset: Preset, models: Sequence[Contestant], panels: Panels, prompts: Sequence[Prompt]
) -> dict[str, object]:
    """The inputs that identify a run."""
    limits = preset.answering("evaluate")
    return {
        "models": {model.name: digest_of_files(model.folder) for model in models},
        "prompts": digest_of_records(prompts),
        "panels": asdict(panels),
        "labelers": project.labelers,
        "seed": project.seed,
        "template": project.template,
        "engine": project.engine,
        "temperature": preset.evaluate.temperature,
        "limits": [limits.max_prompt_tokens, limits.max_response_tokens, limits.precision],
    }


def _sampled(
    project: Project, preset: Preset, models: Sequence[Contestant], prompts: Sequence[Prompt], folder: Path, console: Console
) -> list[Response]:
    """All models' answers. Complete files that an interrupted call has written are read, not sampled again."""
    parts = [prompts[start : start + PROMPTS_AT_ONCE] for start in range(0, len(prompts), PROMPTS_AT_ONCE)]
    responses: list[Response] = []
    for model in models:
        files = [folder / "answers" / model.name / f"{number:05}.jsonl" for number in range(len(parts))]
        left = [(part, file) for part, file in zip(parts, files, strict=True) if not file.is_file()]
        if left:
            done, total = len(prompts) - sum(len(part) for part, _ in left), len(prompts)
            answer = _answering(project, preset, model)
            with progress_line(f"{model.name} answers", total, done=done, unit="prompts", console=console) as progress:
                for part, file in left:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_jsonl(file, map(record_to_json, answer(part)))
                    progress.advance(len(part))
        for file in files:
            responses += [_response(row, f"{file}:{line}") for line, row in read_jsonl(file)]
    return responses


def _response(row: object, where: str) -> Response:
    record = record_from_json("response", row, where=where)
    assert isinstance(record, Response)
    return record


def _answering(project: Project, preset: Preset, model: Contestant) -> Callable[[Sequence[Prompt]], list[Response]]:
    """A function that answers prompts with one model. Random numbers depend only on the seed, the model and the prompt."""
    limits = preset.answering("evaluate")
    policy, tokenizer = policy_for_inference(model.folder, limits.precision)
    answerer = Answerer(policy, tokenizer, limits, project.engine, project.template)

    def answer(prompts: Sequence[Prompt]) -> list[Response]:
        return answerer.answer(
            prompts,
            name=model.name,
            ids=[f"{model.name}-{prompt.id}" for prompt in prompts],
            temperature=preset.evaluate.temperature,
            seed=project.seed,
            console=Console(quiet=True),
        )

    return answer


def _tasks(records: Records, folder: Path, panels: Panels) -> list[Task]:
    """One ranking task for each prompt, with all models' answers."""
    wanted: Mapping[Group, int] = dict.fromkeys(panels.groups, panels.labelers_per_prompt)
    responses = records_in(folder, "response")
    return list(tasks_by_prompt(records, responses, "evaluation", panels.labelers_per_prompt, lambda _: wanted))


def _reported(
    project: Project,
    labelers: Labelers,
    records: Records,
    folder: Path,
    panels: Panels,
    asked: _Asked,
) -> PeopleEvaluation:
    """Write results.json and report.html into the run's folder."""
    judged = judged_records(labelers, records, folder)
    comparison = compare_by_people(judged, baseline=asked.baseline, confidence=asked.confidence, controls=asked.controls)
    tasks, each = len({one.prompt_id for one in judged.responses.values()}), panels.labelers_per_prompt
    wanted = tasks * each * len(panels.groups)
    unfinished = None
    if len(judged.rankings) < wanted and not labelers.answers_at_once:
        unfinished = f"{len(judged.rankings):,} of {wanted:,} judgements were there when this was written."
    numbers = {
        "project": project.name,
        "labelers": labelers.marked,
        "prompts": tasks,
        "judgements": len(judged.rankings),
        "judgements_wanted": wanted,
        **people_numbers(comparison),
    }
    save_numbers(folder / "results.json", numbers)
    write_people_page(
        comparison,
        judged,
        folder / "report.html",
        project=project.name,
        simulated=labelers.marked == "simulated",
        unfinished=unfinished,
    )
    return PeopleEvaluation(folder=folder, waiting=unfinished, comparison=comparison)


def judged_records(labelers: Labelers, records: Records, folder: Path) -> Judged:
    """A run's records and each labeler's group, from the account, the simulated panel or the labeler's work (SPEC 2.4)."""
    rankings, ratings = list(records_in(folder, "ranking")), list(records_in(folder, "rating"))
    trained = {ranking.labeler for ranking in training_rankings(records, "train")}
    groups: dict[str, Group] = {}
    for answer in (*rankings, *ratings):
        by_work: Group = "training" if answer.labeler in trained else "held_out"
        groups[answer.labeler] = answer.metadata.get("group") or labelers.groups.get(answer.labeler) or by_work
    responses: Iterable[Response] = records_in(folder, "response")
    return Judged(
        prompts=records.prompts,
        responses={response.id: response for response in responses},
        rankings=rankings,
        ratings=ratings,
        groups=groups,
    )
