"""The table of benchmarks: what each task asks, its settings, and how answers are scored. A task is data and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from heedful.errors import ConfigError
from heedful.evaluate.benchmarks import data_set_rows as data
from heedful.evaluate.benchmarks import prompt_formats as formats
from heedful.evaluate.benchmarks.benchmark_data import Row

Setting = Literal["zero-shot", "few-shot", "basic", "respectful", "biased", "qa", "instruction", "qa-instruction"]
"""How a task is asked: with or without examples, or with one of the paper's three prompts."""
Kind = Literal["choice", "bias", "sample"]
"""``choice``: the most likely choice per token. ``bias``: entropy over the choices. ``sample``: a sampled response is
scored."""

SHOTS: tuple[Setting, ...] = ("zero-shot", "few-shot")
THREE_PREFIXES: tuple[Setting, ...] = ("basic", "respectful", "biased")
THREE_TRUTHFUL: tuple[Setting, ...] = ("qa", "instruction", "qa-instruction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question for a model: choices whose log-probabilities count, or a prompt that is continued."""

    id: str
    prompt: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    """The text before each choice, and the choice. Empty if a response is sampled after ``prompt``."""
    answer: int | None = None
    """The right choice's place in ``pairs``."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parts of the row that scoring needs: references, the prompt's toxicity, ..."""
    cluster: str = ""
    """The same for all items of a passage or dialogue: intervals are over clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A data set in the paper's format. ``item`` makes an Item from a row and its prompt."""

    name: str
    title: str
    kind: Kind
    metrics: tuple[str, ...]
    """The task's metrics, the paper's first."""
    settings: tuple[Setting, ...]
    files: tuple[str, ...]
    """Possible names, without suffix, of the file with the questions."""
    read: Callable[[Path], list[Row]]
    item: Callable[[Row, str], Item]
    query: Callable[[Row], str] = lambda row: row["text"]
    answer: Callable[[Row], str] = lambda row: ""
    instruction: str = ""
    shots: int = 0
    """Examples in the setting few-shot (SPEC 4.2)."""
    max_tokens: int = 0
    """Longest response. The paper does not say; see docs/public-benchmarks.md."""
    paper_items: int = 0
    """Number of items that the paper used."""
    sampled_items: int | None = None
    """Number of items drawn from a file with more, as in the paper; None uses all."""
    train_files: tuple[str, ...] = ("train",)
    in_paper: bool = True


def _choices(row: Row, prompt: str, choices: Sequence[str]) -> Item:
    return Item(
        id=row["id"], prompt=prompt, pairs=tuple((prompt, f" {choice.strip()}") for choice in choices), answer=row["label"]
    )


def _query_item(row: Row, prompt: str) -> Item:
    return _choices(row, prompt, row["choices"])


def _rte_item(row: Row, prompt: str) -> Item:
    return _choices(row, prompt, ("Yes", "No"))


def _sst_item(row: Row, prompt: str) -> Item:
    return _choices(row, prompt, ("negative", "positive"))


def _winograd_item(row: Row, prompt: str) -> Item:
    pairs = tuple((context.rstrip(), f" {row['continuation'].strip()}") for context in row["contexts"])
    return Item(id=row["id"], pairs=pairs, answer=row["label"])


def _bias_item(row: Row, prompt: str) -> Item:
    before = f"{prompt}\n\n" if prompt else ""
    return Item(id=row["id"], prompt=prompt, pairs=tuple((before, sentence) for sentence in row["sentences"]))


def _sample_item(row: Row, prompt: str, *names: str) -> Item:
    return Item(id=row["id"], prompt=prompt, facts={name: row[name] for name in names}, cluster=str(row.get("passage_id", "")))


_WITH_LABEL = ("val", "dev", "validation")
TASKS: tuple[Task, ...] = (
    Task(
        name="winogender",
        title="Winogender",
        kind="bias",
        metrics=("entropy",),
        settings=THREE_PREFIXES,
        files=("all_sentences",),
        read=data.winogender_rows,
        item=_bias_item,
        query=lambda row: "",
        paper_items=120,
    ),
    Task(
        name="crows_pairs",
        title="CrowS-Pairs",
        kind="bias",
        metrics=("entropy",),
        settings=THREE_PREFIXES,
        files=("crows_pairs_anonymized", "test"),
        read=data.crows_pairs_rows,
        item=_bias_item,
        query=lambda row: "",
        paper_items=1_508,
    ),
    Task(
        name="real_toxicity_prompts",
        title="RealToxicityPrompts",
        kind="sample",
        metrics=("toxicity",),
        settings=THREE_PREFIXES,
        files=("prompts", "train"),
        read=data.toxicity_prompt_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "toxicity"),
        max_tokens=20,
        paper_items=5_000,
        sampled_items=5_000,
    ),
    Task(
        name="truthfulqa",
        title="TruthfulQA",
        kind="sample",
        metrics=("true", "true_informative"),
        settings=THREE_TRUTHFUL,
        files=("TruthfulQA", "validation"),
        read=data.truthfulqa_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "question", "right", "wrong"),
        query=formats.truthfulqa_query,
        max_tokens=50,
        paper_items=817,
    ),
    Task(
        name="drop",
        title="DROP",
        kind="sample",
        metrics=("f1", "exact"),
        settings=SHOTS,
        files=("drop_dataset_dev", *_WITH_LABEL),
        train_files=("drop_dataset_train", "train"),
        read=data.drop_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "answers"),
        query=formats.drop_query,
        answer=formats.drop_answer,
        instruction=formats.DROP,
        shots=4,
        max_tokens=32,
        paper_items=9_536,
    ),
    Task(
        name="quac",
        title="QuAC",
        kind="sample",
        metrics=("f1", "unfiltered_f1", "heq"),
        settings=SHOTS,
        files=("val_v0.2", *_WITH_LABEL),
        train_files=("train_v0.2", "train"),
        read=data.quac_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "answers"),
        query=formats.quac_query,
        answer=formats.quac_answer,
        instruction=formats.QUAC,
        shots=2,
        max_tokens=64,
        paper_items=7_306,
    ),
    Task(
        name="squad_v2",
        title="SQuADv2",
        kind="sample",
        metrics=("f1", "exact"),
        settings=SHOTS,
        files=("dev-v2.0", *_WITH_LABEL),
        train_files=("train-v2.0", "train"),
        read=data.squad_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "answers"),
        query=formats.squad_query,
        answer=formats.squad_answer,
        instruction=formats.SQUAD,
        shots=4,
        max_tokens=32,
        paper_items=11_873,
    ),
    Task(
        name="hellaswag",
        title="HellaSwag",
        kind="choice",
        metrics=("accuracy",),
        settings=SHOTS,
        files=("hellaswag_val", *_WITH_LABEL),
        train_files=("hellaswag_train", "train"),
        read=data.hellaswag_rows,
        item=_query_item,
        query=formats.choice_query,
        answer=formats.choice_answer,
        instruction=formats.HELLASWAG,
        shots=15,
        paper_items=10_042,
    ),
    Task(
        name="rte",
        title="RTE",
        kind="choice",
        metrics=("accuracy",),
        settings=SHOTS,
        files=_WITH_LABEL,
        read=data.rte_rows,
        item=_rte_item,
        query=formats.rte_query,
        answer=lambda row: ("Yes", "No")[row["label"]],
        shots=15,
        paper_items=277,
    ),
    Task(
        name="sst",
        title="SST",
        kind="choice",
        metrics=("accuracy",),
        settings=SHOTS,
        files=_WITH_LABEL,
        read=data.sst_rows,
        item=_sst_item,
        query=formats.sst_query,
        answer=lambda row: ("negative", "positive")[row["label"]],
        instruction=formats.SST,
        shots=15,
        paper_items=872,
    ),
    Task(
        name="wsc",
        title="WSC",
        kind="sample",
        metrics=("accuracy",),
        settings=SHOTS,
        files=_WITH_LABEL,
        read=data.wsc_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "noun", "label"),
        query=formats.wsc_query,
        answer=lambda row: row["noun"],
        instruction=formats.WSC,
        shots=15,
        max_tokens=16,
        paper_items=104,
    ),
    Task(
        name="wmt15_fr_en",
        title="WMT15 Fr→En",
        kind="sample",
        metrics=("bleu",),
        settings=SHOTS,
        files=("source", "test", *_WITH_LABEL),
        train_files=("train-source", "train"),
        read=data.translation_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "english"),
        query=formats.translation_query,
        answer=formats.translation_answer,
        instruction=formats.TRANSLATION,
        shots=15,
        max_tokens=128,
        paper_items=1_500,
    ),
    Task(
        name="cnn_dm",
        title="CNN/DM",
        kind="sample",
        metrics=("rougeL",),
        settings=("zero-shot",),
        files=("test", *_WITH_LABEL),
        read=data.cnn_dm_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "summary"),
        query=formats.summary_query,
        max_tokens=128,
        paper_items=2_354,
        sampled_items=2_354,
    ),
    Task(
        name="tldr",
        title="TL;DR",
        kind="sample",
        metrics=("rougeL",),
        settings=("zero-shot",),
        files=("test", "corpus-webis-tldr-17", *_WITH_LABEL),
        read=data.tldr_rows,
        item=lambda row, prompt: _sample_item(row, prompt, "summary"),
        query=formats.summary_query,
        max_tokens=64,
        paper_items=2_500,
        sampled_items=2_500,
    ),
    *(
        Task(
            name=name,
            title=title,
            kind="choice",
            metrics=("accuracy",),
            settings=("zero-shot",),
            files=(*_WITH_LABEL, "test", name),
            read=data.query_rows,
            item=_query_item,
            query=formats.choice_query,
            in_paper=False,
        )
        for name, title in (("arc_easy", "ARC easy"), ("arc_challenge", "ARC challenge"), ("boolq", "BoolQ"))
    ),
    Task(
        name="winograd",
        title="Winograd, by choice",
        kind="choice",
        metrics=("accuracy",),
        settings=("zero-shot",),
        files=(*_WITH_LABEL, "test", "winograd_wsc"),
        read=data.winograd_rows,
        item=_winograd_item,
        query=lambda row: "",
        in_paper=False,
    ),
)
"""The paper's fourteen data sets in the order of SPEC 4.2, and four small ones that are not the paper's benchmarks."""

TASK_NAMES = tuple(task.name for task in TASKS)


def task_named(name: str) -> Task:
    """Return the task with this name. Raises ConfigError."""
    for task in TASKS:
        if task.name == name:
            return task
    raise ConfigError("there is no such task", expected=f"one of {', '.join(TASK_NAMES)}", got=repr(name))
