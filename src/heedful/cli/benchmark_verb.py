"""``heedful evaluate benchmarks``: models on public benchmarks, in the paper's formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, optional, say
from heedful.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from heedful.evaluate.benchmarks.benchmark_evaluation import Judging

SettingName = Literal["zero-shot", "few-shot", "basic", "respectful", "biased", "qa", "instruction", "qa-instruction"]


@dataclass(frozen=True, kw_only=True)
class EvaluateBenchmarks:
    """Measure models on public benchmarks, in the paper's formats.

    - Winogender, CrowS-Pairs, RealToxicityPrompts, TruthfulQA, DROP, QuAC,
      SQuADv2, HellaSwag, RTE, SST, WSC, WMT15 Fr-En, CNN/DM, TL;DR.
    - DATA holds a folder for each task; docs/public-benchmarks.md says which
      files and where they come from. Nothing is downloaded without --fetch.
    - OUT keeps every answer. An interrupted run continues from there, and no
      item is asked twice.
    - All other models are compared with the first.
    - For example: heedful evaluate benchmarks base=models/base sft=models/sft \\
        --data benchmarks --out results --tasks rte sst --limit 100
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]MODEL ...")]
    """Folders of causal language models in Hugging Face format."""
    data: Annotated[Path, tyro.conf.arg(metavar="DATA")]
    """The folder with the data sets."""
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """The folder for answers and results."""
    tasks: Annotated[tuple[str, ...], optional("TASK [TASK ...]")] = ()
    """Which benchmarks (else all that DATA has)."""
    settings: Annotated[tuple[SettingName, ...], optional("SETTING [SETTING ...]")] = ()
    """Which prompt settings (else all): zero-shot, few-shot; basic, respectful, biased; qa, instruction, qa-instruction."""
    fetch: Flag = False
    """Fetch what DATA lacks from the Hugging Face hub (needs huggingface_hub), and note the commit in hub.json."""
    limit: Annotated[int | None, optional("N")] = None
    """At most N items of each benchmark, drawn at random with the seed (else as many as in the paper)."""
    template: Annotated[str, tyro.conf.arg(metavar="plain|chat|FILE")] = "plain"
    """plain: the model continues the prompt, as in the paper. chat: it answers in its tokenizer's chat template.
    FILE: it answers in the chat template in this file (Jinja)."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type to compute in."""
    batch_items: int = 64
    """How many items to answer and save at a time."""
    seed: int = 0
    """Seed that draws the items and the few-shot examples."""
    truth_judge: Annotated[Path | None, optional("MODEL")] = None
    """Judge of truth for TruthfulQA: a model folder. After "Q: ... A: ... True:", the model says yes or no."""
    info_judge: Annotated[Path | None, optional("MODEL")] = None
    """Judge of informativeness: a model folder. After "Q: ... A: ... Helpful:", the model says yes or no."""
    judge_url: Annotated[str | None, optional("URL")] = None
    """Instead of judge folders: the address of an OpenAI-compatible server; its key is in $HEEDFUL_JUDGE_KEY."""
    judge_model: Annotated[str | None, optional("NAME")] = None
    """The model at --judge-url that judges."""
    verdicts: Annotated[Path | None, optional("FILE")] = None
    """Instead of a judging model: truthfulqa-to-judge.csv of an earlier run, with yes or no filled in by people in its last
    columns."""

    def run(self, console: Console) -> None:
        """Ask, score, compare, and print the tables. Raises ConfigError, MissingError, ModelError, DataError, StorageError."""
        from heedful.evaluate.benchmarks.benchmark_evaluation import (
            RESULTS,
            chosen_series,
            evaluate_benchmarks,
        )
        from heedful.evaluate.benchmarks.benchmark_run import HowAsked, contestants
        from heedful.evaluate.benchmarks.benchmark_tables import in_words
        from heedful.project.project import template_text

        self._check()
        models = contestants(self.models)
        if self.fetch:
            self._fetch(console)
        series = chosen_series(self.data, self.tasks, self.settings, seed=self.seed, limit=self.limit, console=console)
        how = HowAsked(
            template=template_text(self.template), precision=self.precision, seed=self.seed, batch_items=self.batch_items
        )
        results = evaluate_benchmarks(models, series, self.out, how, self._judging(), console)
        say(Console(), in_words(results))
        say(console, f"numbers: {self.out / RESULTS}")

    def _check(self) -> None:
        for name, value in (("--limit", self.limit), ("--batch-items", self.batch_items)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is too small", expected="at least 1", got=str(value))
        if not self.models:
            raise ConfigError("no model is named", expected="the folder of at least one model", got="none")
        if not self.data.is_dir() and not (self.fetch and not self.data.exists()):
            raise MissingError(
                "there is no such folder of data",
                expected="a folder with a folder for each task",
                got="a file" if self.data.exists() else "nothing",
                where=self.data,
                next_step="docs/public-benchmarks.md names the source and the files of each data set",
            )
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(
                "results cannot be written into a file",
                expected="a folder, or a name that is free",
                got="a file",
                where=self.out,
                next_step="give another --out",
            )
        given = [self.truth_judge or self.info_judge, self.judge_url, self.verdicts]
        if sum(one is not None for one in given) > 1:
            raise ConfigError(
                "TruthfulQA is judged in one way",
                expected="--truth-judge and --info-judge, or --judge-url, or --verdicts",
                got="several of them",
            )

    def _fetch(self, console: Console) -> None:
        from heedful.evaluate.benchmarks.hub_data import fetch_missing
        from heedful.evaluate.benchmarks.task_table import TASKS, task_named

        named = [task_named(name) for name in self.tasks]
        fetch_missing(named or [task for task in TASKS if task.in_paper], self.data, console)

    def _judging(self) -> Judging:
        from heedful.evaluate.benchmarks.benchmark_evaluation import Judging
        from heedful.evaluate.benchmarks.truth_judges import endpoint_judge, model_judge

        if self.judge_url is not None:
            return Judging(
                judge=endpoint_judge(self.judge_url, self.judge_model), name=f"{self.judge_model} at {self.judge_url}"
            )
        if self.truth_judge is not None or self.info_judge is not None:
            folders = [str(folder) for folder in (self.truth_judge, self.info_judge) if folder is not None]
            return Judging(judge=model_judge(self.truth_judge, self.info_judge, self.precision), name=" and ".join(folders))
        return Judging(by_people=self.verdicts)
