"""Keeps the tables of the pages equal to the code: ``python docs/_generate.py``; the docs build runs it too.

The text between the lines ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a page is what ``TABLES[NAME]()`` returns, so a
page reads the same in the repository and after the build. ``tests/test_docs_complete.py`` fails if a page is out of date.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful import presets
from heedful.cli.model_verbs import Pretrain
from heedful.planning.rates_by_size import values_by_size
from heedful.project.project import ProjectSection
from heedful.records import USE_CASE_SHARES
from heedful.training.alternatives_config import (
    AlternativesConfig,
    BestOfNConfig,
    DPOConfig,
    ExpertIterationConfig,
    GroupRewardConfig,
)
from heedful.training.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig, StepConfig

DOCS = Path(__file__).parent
PAPER_SECTIONS: Mapping[str, str] = {
    "1.2": "3.2, A, C",
    "1.3": "3.2, A",
    "1.4": "3.2, Table 6",
    "1.5": "Table 1",
    "2.3": "3.4, B",
    "2.4": "3.4",
    "3.1": "C",
    "3.2": "C.1",
    "3.3": "3.5, C.2",
    "3.4": "C.3",
    "3.5": "3.5, C.4",
    "3.6": "3.5, C.4",
    "3.7": "3.5",
    "3.8": "3.1",
    "4": "3.6, 4",
    "4.2": "D",
}
"""SPEC section -> sections of Ouyang et al. 2022 that it restates."""

UNITS: Mapping[str, str] = {
    "seed": "",
    "processes": "processes",
    "precision": "type",
    "adam_beta1": "",
    "adam_beta2": "",
    "max_gradient_norm": "norm",
    "tokens_per_microbatch": "tokens",
    "activation_checkpointing": "yes/no",
    "checkpoint_seconds": "s",
    "keep_checkpoints": "checkpoints",
    "validate_every": "steps",
    "tensorboard": "yes/no",
    "num_tokens": "tokens",
    "batch_tokens": "tokens",
    "context_length": "tokens",
    "shortest_context": "tokens",
    "learning_rate": "per step",
    "initial_learning_rate": "per step",
    "final_learning_rate_share": "share",
    "warmup_share": "share",
    "weight_decay": "",
    "epochs": "passes",
    "batch_size": "examples",
    "residual_dropout": "probability",
    "pretraining_share": "share",
    "pretraining_share_of": "word",
    "candidates": "models",
    "max_prompt_tokens": "tokens",
    "max_response_tokens": "tokens",
    "episodes": "episodes",
    "minibatches": "parts",
    "inner_epochs": "passes",
    "value_learning_rate": "per step",
    "warmup_iterations": "iterations",
    "warmup_start_share": "share",
    "kl_coefficient": "reward per nat",
    "clip_ratio": "ratio",
    "value_clip": "reward",
    "discount": "per token",
    "gae_lambda": "",
    "whiten_over": "word",
    "whiten_rewards": "yes/no",
    "temperature": "",
    "average_decay": "per iteration",
    "ptx_coefficient": "",
    "ptx_examples_per_episode": "sequences",
    "ptx_context_length": "tokens",
    "missing_end_reward": "reward",
    "samples_every": "iterations",
    "num_validation_prompts": "prompts",
    "keep_best": "yes/no",
    "kl_limit": "nats per response",
    "lora_rank": "",
    "fit_head": "yes/no",
    "trained_layers": "layers",
    "engine": "word",
    "template": "word",
    "skip_sft": "yes/no",
    "database": "word",
    "model_server": "word",
    "prompts": "prompts",
    "validation_prompts": "prompts",
    "smallest_k": "outputs",
    "largest_k": "outputs",
    "agreement_labelers": "labelers",
    "other_models_share": "",
    "labelers_per_prompt": "labelers",
    "benchmark_items": "items",
    "choice_prompts": "prompts",
    "choose": "word",
    "prompts_sampled": "times",
    "ensemble": "models",
    "sft_share": "share",
    "policy": "word",
    "confidence": "share",
    "largest_drop": "points",
    "benchmarks": "points",
    "benchmark_data": "folder",
    "name": "text",
    "base_model": "folder",
    "pretraining_text": "folder",
    "pretraining_encoding": "name",
    "small_model": "folder",
    "reward_start": "folder",
    "task_mixture": "file",
    "labelers": "word",
    "preset": "name",
    "run": "words",
    "beta": "reward per nat",
    "tie_threshold": "reward",
    "rounds": "rounds",
    "samples": "answers",
    "members": "names",
    "weights": "",
    "answers": "answers",
    "pull": "per reward²",
}
"""The unit of each configuration field; an empty one is a number without unit. A missing field is an error."""


def field_docs(cls: type) -> dict[str, str]:
    """Map each field of a dataclass (without inherited ones) to the docstring under it, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {name: " ".join(doc.split()) for name, doc in _documented(body.body)}


def _documented(body: Sequence[ast.stmt]) -> Iterable[tuple[str, str]]:
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        else:
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield name, after.value.value


def table(cls: type, columns: Mapping[str, Sequence[Any]]) -> str:
    """Make a row for each own field of a dataclass. ``columns`` maps a heading to the instances whose values it shows.

    Values of several instances are separated by a slash if they differ; without an instance, the default is shown.
    """
    docs = field_docs(cls)
    own = [f.name for f in dataclasses.fields(cls) if f.name in cls.__annotations__]
    rows = [["field", *columns, "unit", "meaning", "SPEC (paper)"]]
    for name in own:
        if name not in docs:
            raise LookupError(f"{cls.__name__}.{name} has no docstring under it")
        meaning, source = _meaning_and_source(docs[name])
        values = [" / ".join(dict.fromkeys(_values(cls, name, instances))) for instances in columns.values()]
        rows.append([f"`{name}`", *values, UNITS[name], meaning, source])
    return _markdown(rows)


def _values(cls: type, name: str, instances: Sequence[Any]) -> list[str]:
    """Return the field's value in each instance, or its default if there are none."""
    return [_value(getattr(instance, name)) for instance in instances] or [_default(cls, name)]


def _default(cls: type, name: str) -> str:
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return "required" if default is dataclasses.MISSING else _value(default)


def _meaning_and_source(doc: str) -> tuple[str, str]:
    """Split ``"Passes (SPEC 3.2: 16)."`` into the meaning and ``"3.2 (C.1)"``."""
    named = re.findall(
        r"SPEC (\d+(?:\.\d+)?(?:, \d+\.\d+(?![\dA-Z]))*)", doc
    )  # "SPEC 3.2, 3.7", but of "SPEC 3.2, 1.3B" the first
    sections = list(dict.fromkeys(section for some in named for section in some.split(", ")))
    source = "; ".join(f"{s} ({PAPER_SECTIONS[s]})" for s in sections)
    meaning = re.sub(r" \(SPEC [\d., ]+\)", "", doc)
    return meaning.replace("|", "\\|"), source or "ours"


def _value(value: Any) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        text = f"{value:g}".replace("e-0", "e-")
        return f"`{text}`" if "e" in text else text
    return f"`{value}`"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell or " " for cell in row) + " |" for row in lines)


def _step() -> str:
    return table(StepConfig, {"paper": [StepConfig()], "miniature": [presets.miniature().ppo]})


def _sft() -> str:
    paper, miniature = presets.paper(), presets.miniature()
    return table(
        SFTConfig,
        {"paper: sft / initial": [paper.sft, paper.initial_policy], "miniature": [miniature.sft, miniature.initial_policy]},
    )


def _stage(cls: type, name: str) -> Callable[[], str]:
    return lambda: table(cls, {"paper": [getattr(presets.paper(), name)], "miniature": [getattr(presets.miniature(), name)]})


def _pretrain() -> str:
    return table(PretrainConfig, {"default": []})


def _pretrain_flags() -> str:
    docs = field_docs(Pretrain)
    rows = [["flag", "default", "meaning"]]
    for f in dataclasses.fields(Pretrain):
        flag = f"`{f.name.upper()}`" if f.name == "text" else f"`--{f.name.replace('_', '-')}`"
        rows.append([flag, _default(Pretrain, f.name), docs[f.name]])
    return _markdown(rows)


def _sizes() -> str:
    """Make the table of constants that differ between the paper's three sizes."""
    sizes = [presets.paper(size) for size in ("1.3B", "6B", "175B")]
    rows = [["field", "paper-1.3B", "paper-6B", "paper-175B"]]
    for part in (f.name for f in dataclasses.fields(presets.Preset)):
        configs = [getattr(size, part) for size in sizes]
        for f in dataclasses.fields(configs[0]):
            values = [_value(getattr(c, f.name)) for c in configs]
            if len(set(values)) > 1:
                rows.append([f"`[{part}] {f.name}`", *values])
    return _markdown(rows)


def _rates_by_size() -> str:
    """Make the table of values by size, for full fine-tuning; "~" marks values that are not the paper's own."""
    sizes = (0.125e9, 0.35e9, 1.3e9, 3e9, 6e9, 13e9, 30e9, 70e9, 175e9)
    columns = [values_by_size(size) for size in sizes]
    rows = [["field", *(presets.sized_name(size) for size in sizes)]]
    for table_name, key in columns[0]:
        found = [column[table_name, key] for column in columns]
        cells = [("" if one.source.startswith("the paper") else "~") + _value(one.value) for one in found]
        rows.append([f"`[{table_name}] {key}`", *cells])
    return _markdown(rows)


def _base_models() -> str:
    base = importlib.import_module("heedful.miniature.base")
    rows = [["size", "layers", "width", "heads", "documents", "tokens trained on", "peak learning rate"]]
    rows += [
        [name, str(s.layers), str(s.width), str(s.heads), f"{s.documents:,}", f"{s.num_tokens:,}", _value(s.learning_rate)]
        for name, s in base.SIZES.items()
    ]
    return _markdown(rows)


def _corpus() -> str:
    corpus = importlib.import_module("heedful.miniature.corpus")
    rows = [["kind", "share", "what it is"]]
    for kind, share in corpus.MIXTURE.items():
        doc = inspect.getdoc(corpus._WRITERS[kind]) or ""
        rows.append([kind.replace("_", " "), f"{100 * share:g}%", " ".join(doc.split())])
    return _markdown(rows)


def _use_cases() -> str:
    rows = [["use case", "share of prompts", "asked for in the miniature"]]
    rows += [[name.replace("_", " "), f"{share:.1%}", _ASKED[name]] for name, share in USE_CASE_SHARES.items()]
    return _markdown(rows)


_ASKED: Mapping[str, str] = {
    "generation": "a story, a letter, a poem or a description, with up to three kinds of constraints",
    "open_qa": "a fact; whether a claim is true; why something is so that is false (a false premise)",
    "brainstorming": "a list of things of a kind: of a given length, numbered, or without some of them",
    "chat": "an answer to what a person says",
    "rewrite": "a text with another person or word, or more politely",
    "summarization": "one sentence for a text",
    "classification": "good or bad, happy or sad, which of three kinds",
    "other": "translation from and into the second language, patterns, counting",
    "closed_qa": "a question about a given text; one in five has no answer in it",
    "extract": "the names, places or things in a text",
}


def _miniature_constants() -> str:
    """Make the table of module constants with the docstrings under them."""
    rows = [["constant", "value", "meaning"]]
    for module, names in _CONSTANTS.items():
        loaded = importlib.import_module(f"heedful.miniature.{module}")
        docs = dict(_documented(ast.parse(inspect.getsource(loaded)).body))
        for name in names:
            value = getattr(loaded, name)
            text = ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, Mapping) else _value(value)
            rows.append([f"`{module}.{name}`", text, " ".join(docs.get(name, _CONSTANT_DOCS.get(name, "")).split())])
    return _markdown(rows)


_CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "preparation": ("WORLD_SEED", "DEMONSTRATED", "UNLABELED", "PRETRAINING_DOCUMENTS"),
    "tasks": ("NUM_USERS", "MAX_PROMPT_WORDS"),
    "instructions": ("MISCONCEPTION_SHARE", "SENSITIVE_SHARE"),
    "asked_pages": ("CARELESS_SHARE", "REPLY_SHARE", "MAX_WORDS"),
    "homework": ("GOOD_SHARE", "CARELESS_SHARE"),
    "corpus": ("BELIEVED_SHARE", "STEREOTYPE_SHARE"),
    "proofreading": ("FAULTLESS_SHARE", "FORGETFUL_SHARE", "STRAY_SHARE", "WRITTEN_SHARE", "MIXTURE"),
    "base": ("VOCABULARY_SIZE", "CONTEXT_LENGTH", "WRITTEN_SLIPS", "REWARD_START_DOCUMENTS", "REWARD_START_TOKENS"),
    "labelers": ("NOISE", "JUST_NOTICEABLE", "SLIP"),
    "panel": ("READING", "FORM", "WRITING"),
    "benchmark_items": ("FEW_SHOT",),
}
_CONSTANT_DOCS = {
    "PRETRAINING_DOCUMENTS": "Documents of pretraining text in a new miniature project, for PPO-ptx and the initial policy.",
    "MAX_PROMPT_WORDS": "A prompt with more words is drawn again.",
    "VOCABULARY_SIZE": "Tokens of the base models' byte-level BPE.",
    "CONTEXT_LENGTH": "Context window of the base models in tokens.",
}


def _benchmarks() -> str:
    benchmarks = importlib.import_module("heedful.miniature.benchmark_items")
    rows = [["benchmark", "kind", "solved examples", "what it asks"]]
    for name, (kind, description, _) in benchmarks._BENCHMARKS.items():
        rows.append([name.replace("_", " "), kind, str(benchmarks.FEW_SHOT.get(name, 0)), description])
    return _markdown(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "ProjectSection": lambda: table(ProjectSection, {"default": []}),
    "StepConfig": _step,
    "SFTConfig": _sft,
    "RewardConfig": _stage(RewardConfig, "reward"),
    "PPOConfig": _stage(PPOConfig, "ppo"),
    "CollectConfig": _stage(presets.CollectConfig, "collect"),
    "EvaluateConfig": _stage(presets.EvaluateConfig, "evaluate"),
    "RoundsConfig": _stage(presets.RoundsConfig, "rounds"),
    "SmallModelConfig": _stage(presets.SmallModelConfig, "small_model"),
    "AlternativesConfig": lambda: table(AlternativesConfig, {"default": []}),
    "DPOConfig": _stage(DPOConfig, "dpo"),
    "ExpertIterationConfig": _stage(ExpertIterationConfig, "expert_iteration"),
    "BestOfNConfig": _stage(BestOfNConfig, "best_of_n"),
    "GroupRewardConfig": lambda: table(GroupRewardConfig, {"default": []}),
    "RefusalsConfig": lambda: table(presets.RefusalsConfig, {"default": []}),
    "Limits": lambda: table(presets.Limits, {"default": []}),
    "rates by size": _rates_by_size,
    "PretrainConfig": _pretrain,
    "pretrain flags": _pretrain_flags,
    "sizes": _sizes,
    "base models": _base_models,
    "corpus": _corpus,
    "use cases": _use_cases,
    "miniature constants": _miniature_constants,
    "benchmarks": _benchmarks,
}

_PART = re.compile(r"<!-- begin (?P<name>[\w ]+) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)


def renewed(page: str) -> str:
    """Return the page with up-to-date tables. Raises KeyError for an unknown table."""
    return _PART.sub(lambda m: f"<!-- begin {m['name']} -->\n{TABLES[m['name']]()}\n<!-- end {m['name']} -->", page)


def renew(folder: Path = DOCS) -> list[str]:
    """Renew all pages; return the names of those that changed."""
    changed: list[str] = []
    for path in sorted(folder.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (new := renewed(page)) != page:
            path.write_text(new, encoding="utf-8")
            changed.append(path.name)
    return changed


if __name__ == "__main__":
    print("renewed: " + (", ".join(renew()) or "nothing: all tables are up to date"))
